/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * devmemtcp.bpf.c - what a devmem NIC does in hardware: flow steering, checksum
 * validation and header split, in front of an AF_XDP socket.
 *
 * parse the destination -> find its listener -> find the queue's socket ->
 * check lengths and checksums -> split -> redirect. The first stage to object
 * ends it, with a reason that is both counter and verdict (steer.h). A frame is
 * changed only after the last check, so that every XDP_PASS is the frame as it
 * came.
 *
 * Two entry points with the same logic: steer_frags where the driver hands out
 * multi-buffer packets, steer_linear where driver or kernel cannot.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "steer.h"
#include "maps.h"
#include "parse.h"
#include "csum.h"
#include "split.h"

static __always_inline bool is_closed(__be16 port)
{
	__u32 word = port / 64;
	const __u64 *bits = bpf_map_lookup_elem(&closed_ports, &word);

	return bits && *bits >> port % 64 & 1;
}

/*
 * The exact address first, then the unspecified address of its family, if the packet is for
 * us and not one that we only happen to see.
 */
static __always_inline struct steer_value *find_listener(const struct steer_key *dst)
{
	struct steer_key any = {.port = dst->port, .family = dst->family};
	struct steer_key address = *dst;
	struct steer_value *listener = bpf_map_lookup_elem(&listeners, dst);

	if (listener)
		return listener;
	if (any.family == 4)
		any.addr[10] = any.addr[11] = 0xff;
	listener = bpf_map_lookup_elem(&listeners, &any);
	address.port = 0;
	return listener && bpf_map_lookup_elem(&addresses, &address) ? listener : NULL;
}

static __always_inline enum steer_counter check_segment(struct xdp_md *ctx, struct segment *seg,
							__u32 flags, enum rx_csum *csum)
{
	enum steer_counter reason;

	reason = parse_lengths(ctx, seg);
	if (reason)
		return reason;
	reason = check_ip_csum(ctx, seg);
	if (reason)
		return reason;
	return check_tcp_csum(ctx, seg, flags, csum);
}

static __always_inline enum steer_counter take(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index;
	enum rx_csum csum = RX_CSUM_NONE;
	struct steer_value *listener;
	enum steer_counter reason;
	struct segment seg = {};

	reason = parse_destination(ctx, &seg);
	if (reason)
		return reason;
	listener = is_closed(seg.dst.port) ? NULL : find_listener(&seg.dst);
	if (!listener)
		return STEER_pass_no_listener;
	if (!bpf_map_lookup_elem(&xsks, &queue))
		return STEER_pass_no_socket;
	reason = check_segment(ctx, &seg, listener->flags, &csum);
	if (reason)
		return reason;
	reason = split_headers(ctx, &seg, csum, listener->linear);
	if (reason)
		return reason;
	/* The socket may have gone since it was looked up. */
	if (bpf_redirect_map(&xsks, queue, XDP_DROP) != XDP_REDIRECT)
		return STEER_drop_redirect_failed;
	count(STEER_csum_verified + csum - RX_CSUM_VERIFIED);
	count_n(STEER_redirect_bytes, seg.payload_len);
	if (seg.linear)
		count_n(STEER_linear_bytes, seg.linear);
	return STEER_redirect;
}

static __always_inline int steer(struct xdp_md *ctx)
{
	enum steer_counter reason = take(ctx);

	count(reason);
	if (reason == STEER_redirect)
		return XDP_REDIRECT;
	return reason < STEER_DROP_FIRST ? XDP_PASS : XDP_DROP;
}

SEC("xdp.frags")
int steer_frags(struct xdp_md *ctx)
{
	return steer(ctx);
}

SEC("xdp")
int steer_linear(struct xdp_md *ctx)
{
	return steer(ctx);
}

/* Never attached: does this kernel take as much metadata as the split needs? Until Linux 6.8
 * it took 32 bytes. */
SEC("xdp")
int probe_metadata(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_meta(ctx, -RX_META_LEN) ? XDP_ABORTED : XDP_PASS;
}

/* For the kernel sockets that hold our ports, so that nothing gets into them. As a program, not as
 * a classic filter: attaching one of those to a TCP socket takes CAP_NET_ADMIN, since stable
 * kernels of 2026, and what is loaded already can be attached without. */
SEC("socket")
int deaf(struct __sk_buff *skb)
{
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
