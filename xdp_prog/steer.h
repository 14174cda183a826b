/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * steer.h - what the XDP program and userspace agree on: the record in front of
 * the split-off headers, the ways they take, the flow keys, and the reasons behind
 * each verdict.
 *
 * A received packet, seen from userspace (D is the start of a device page), where
 * the kernel takes as much metadata:
 *
 *      D - 160               D - linear - hdr_len   D - linear   D
 *   ...| rx_info |  unused   | Ethernet, IP, TCP    | payload    | payload ...
 *      '---------------- XDP metadata: 160 bytes ----------------'
 *        host page                                                 device page
 *
 * linear is 0 but for listeners that ask for it: the split of a NIC that cuts at a
 * fixed length and so leaves the first payload bytes in the head.
 *
 * Included by the BPF program and by the C core; holds no policy.
 */
#ifndef DEVMEMTCP_STEER_H
#define DEVMEMTCP_STEER_H

#include <linux/types.h>

#define RX_META_LEN 160 /* multiple of 4, at most 252: what bpf_xdp_adjust_meta() takes */
#define RX_INFO_LEN 16
#define RX_HDR_MAX (RX_META_LEN - RX_INFO_LEN) /* 144 >= 14 + 4 + 60 + 60 */
#define RX_INFO_MAGIC 0xd3e7
#define RX_LINEAR_MAX (RX_HDR_MAX - 54) /* beside the shortest headers, 14 + 20 + 20 */
#define RX_MIN_LINEAR 14 /* bpf_xdp_adjust_head() leaves at least ETH_HLEN bytes */

enum rx_csum {
	RX_CSUM_NONE, /* never seen by userspace: such packets are dropped */
	RX_CSUM_VERIFIED, /* the full one's complement sum was right */
	RX_CSUM_PARTIAL, /* a local sender's unfinished sum (CHECKSUM_PARTIAL) */
	RX_CSUM_TRUSTED, /* not summed: the listener asked for it */
};

struct rx_info {
	__u16 magic;
	__u8 hdr_len; /* bytes of headers; with linear at most RX_HDR_MAX */
	__u8 l3_off; /* from the start of the headers */
	__u8 l4_off;
	__u8 family; /* 4 or 6 */
	__u8 csum; /* enum rx_csum */
	__u8 grown; /* bytes of zeros appended so that RX_MIN_LINEAR remain behind D */
	__u32 payload_len; /* TCP payload, all chunks and linear together, no padding */
	__u16 queue; /* rx_queue_index */
	__u8 linear; /* bytes of the payload that lie in front of D, behind the headers */
	__u8 zero;
};

/* How record and head get to userspace: a constant of the loaded program. */
enum header_path {
	HEADERS_METADATA, /* in front of the payload, as drawn above: Linux 6.8 */
	HEADERS_SLOT, /* in a slot of the map `heads`, which less metadata names */
	HEADERS_CHUNK, /* in that slot of `heads` whose number is the payload's chunk's: zero-copy */
};

struct header_config {
	__u32 path; /* enum header_path */
	__u32 slot_mask; /* HEADERS_SLOT: slots - 1, which are a power of two */
};

/*
 * Record and head of one packet, in an array that userspace has mapped. HEADERS_SLOT: packets
 * are numbered, and take the slot of their number modulo the slots, from whoever had it:
 *
 *   program    seq = RX_SLOT_WRITING   info, head   seq = number
 *   userspace       seq == number?   info, head   seq == number?
 *
 * Only hdr_len + linear bytes of the head are this packet's. What is behind them an earlier one
 * has left.
 */
struct rx_slot {
	__u64 seq; /* 0: never written */
	struct rx_info info;
	__u8 head[RX_HDR_MAX]; /* headers, and `linear` bytes of payload */
} __attribute__((aligned(64))); /* whole cache lines: no two packets share one */

#define RX_SLOT_WRITING (~0ULL) /* no packet's number */

/* HEADERS_CHUNK: the slots of a queue's UMEM, by chunk. Their seq is not used. */
struct head_range {
	__u32 first;
	__u32 nr;
};

/* HEADERS_SLOT: the metadata, just before D. Linux takes 32 bytes of it since 5.10 (and before). */
struct rx_slot_ref {
	__u32 magic; /* RX_INFO_MAGIC */
	__u32 zero;
	__u64 seq;
};

/* A listening address. IPv4 as ::ffff:a.b.c.d; the unspecified address stands for all of ours. */
struct steer_key {
	__u8 addr[16];
	__be16 port;
	__u16 family; /* 4 or 6 */
};

/* Ours on the link. */
struct steer_mac {
	__be16 addr[3];
	__u16 unused;
};

#define STEER_CSUM_TRUST 0x1 /* skip the payload sum */

struct steer_value {
	__u32 flags;
	__u32 linear; /* payload bytes to leave with the headers, if so many are there and fit */
};

/*
 * Why a packet took the way it took. Order is ABI between program and userspace,
 * and the verdict follows from it: redirect, then the reasons for XDP_PASS, then
 * those for XDP_DROP. Each packet counts once among these; what follows them
 * tells more about the redirected ones.
 */
#define STEER_COUNTERS(X)                                                                            \
	X(redirect) /* to the XSK of its queue */                                                    \
	X(pass_not_unicast) /* a group address, Ethernet's or IP's */                                \
	X(pass_other_host) /* to another's Ethernet address */                                       \
	X(pass_not_ip)                                                                               \
	X(pass_vlan) /* tagged, VID 0 too: the kernel knows whose it is */                           \
	X(pass_not_tcp)                                                                              \
	X(pass_malformed) /* so much so that no destination port can be told */                      \
	X(pass_no_listener)                                                                          \
	X(pass_ip_fragment)                                                                          \
	X(pass_ipv6_routing) /* segments left: we are not the last destination */                    \
	X(pass_no_socket) /* no XSK on this queue */                                                 \
	X(pass_headers_too_long) /* more than RX_HDR_MAX, or too many IPv6 extensions */             \
	X(drop_ip_malformed) /* IP length beyond the frame */                                        \
	X(drop_ip_csum)                                                                              \
	X(drop_tcp_malformed) /* TCP header cut short, or its length impossible */                   \
	X(drop_tcp_csum)                                                                             \
	X(drop_adjust_failed) /* no room for the metadata, or a kernel that allows less */           \
	X(drop_slot_busy) /* an earlier packet is still being written to its slot, by another CPU */ \
	X(drop_no_chunk) /* zero-copy, and not in the UMEM of the queue's socket */                  \
	X(drop_redirect_failed)                                                                      \
	X(csum_verified) /* the redirected ones by enum rx_csum, in its order */                     \
	X(csum_partial)                                                                              \
	X(csum_trusted)                                                                              \
	X(redirect_bytes) /* payload bytes redirected */                                             \
	X(linear_bytes) /* those of them that were left with the headers */

enum steer_counter {
#define STEER_ENUM(name) STEER_##name,
	STEER_COUNTERS(STEER_ENUM)
#undef STEER_ENUM
		STEER_COUNTER_MAX,
	STEER_DROP_FIRST = STEER_drop_ip_malformed,
};

#endif
