/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * parse.h - from a frame to a TCP segment's offsets, or to the reason why it is
 * not for us.
 *
 * Two calls, in this order:
 *   parse_destination()  as far as address and port. Every failure is a pass_*
 *                        reason: what cannot be shown to be ours is the kernel's.
 *   parse_lengths()      only once a listener was found. The frame is ours now,
 *                        so what is wrong with it from here on is a drop_* reason.
 *
 * STEER_redirect (0) means: no objection. Nothing here changes the packet.
 *
 * Offsets are from the start of the frame. Names of the places in a frame:
 *
 *   0          l3_off     l4_off      hdr_len          l3_end     frame_len
 *   | Ethernet | IP       | TCP       | payload        | padding  |
 */
#ifndef DEVMEMTCP_PARSE_H
#define DEVMEMTCP_PARSE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <stdbool.h>
#include "maps.h"

#define IP_MF 0x2000 /* <net/ip.h> is not for BPF programs */
#define IP_OFFSET 0x1fff
#define HDR_OFF_MAX 0x3fff /* no header starts beyond; keeps pointers in the verifier's reach */
#define IPV6_EXT_MAX 6 /* extension headers looked through; RFC 8200 4.1 lists as many */

struct segment {
	struct steer_key dst;
	__u64 addr_sum; /* one's complement sum of both addresses, not folded */
	__u64 ip_sum; /* of the IPv4 header without options, not folded */
	__u32 l3_off;
	__u32 l4_off;
	__u32 l3_end; /* as the IP header claims: trust it after parse_lengths() only */
	__u32 hdr_len;
	__u32 payload_len;
	__u32 frame_len;
	__u32 linear; /* first bytes of the payload that stay with the headers: split_headers() */
};

struct hdr_cursor {
	void *data;
	void *data_end; /* of the linear part: headers are not looked for in fragments */
	__u32 off;
};

static __always_inline struct hdr_cursor hdr_cursor_at(struct xdp_md *ctx, __u32 off)
{
	return (struct hdr_cursor){
		.data = (void *)(long)ctx->data,
		.data_end = (void *)(long)ctx->data_end,
		.off = off,
	};
}

/* The len bytes at the cursor, which moves past them; NULL if they are not all there. */
static __always_inline void *hdr_pull(struct hdr_cursor *cur, __u32 len)
{
	void *hdr = cur->data + cur->off;

	if (cur->off > HDR_OFF_MAX || hdr + len > cur->data_end)
		return NULL;
	cur->off += len;
	return hdr;
}

/*
 * What is known anyway, so that the verifier knows it too. By two comparisons of the number
 * itself: it learns nothing from what the compiler would make of them (one comparison of a
 * difference, or of what the number is the sum of), and before Linux 6.8 nothing about a number
 * that is compared with anything but a constant.
 */
static __always_inline bool is_within(__u32 *number, __u32 least, __u32 most)
{
	barrier_var(*number);
	if (*number < least)
		return false;
	barrier_var(*number);
	return *number <= most;
}

static __always_inline __u64 sum_words(const __be32 *words, int n)
{
	__u64 sum = 0;

#pragma clang loop unroll(full)
	for (int i = 0; i < n; i++)
		sum += words[i];
	return sum;
}

static __always_inline bool is_our_mac(const struct ethhdr *eth)
{
	const __be16 *dest = (const __be16 *)eth->h_dest;
	__u32 key = 0;
	const struct steer_mac *ours = bpf_map_lookup_elem(&mac, &key);

	return ours &&
	       !((dest[0] ^ ours->addr[0]) | (dest[1] ^ ours->addr[1]) | (dest[2] ^ ours->addr[2]));
}

/*
 * A frame to a group address is not ours: TCP is between two hosts (RFC 9293
 * MUST-57). Nor is one to another host, which a veth delivers all the same, and a
 * NIC in promiscuous mode. Nor is a tagged one, priority tags (VID 0) included: the kernel
 * knows which of its interfaces a tag belongs to, and we do not. A tag that was
 * taken out of the frame before us cannot be seen: rxvlan offload must be off
 * (on a veth, the peer's txvlan).
 */
static __always_inline enum steer_counter parse_ethernet(struct hdr_cursor *cur, __be16 *proto)
{
	struct ethhdr *eth = hdr_pull(cur, sizeof(*eth));

	if (!eth)
		return STEER_pass_malformed;
	if (eth->h_dest[0] & 1)
		return STEER_pass_not_unicast;
	if (!is_our_mac(eth))
		return STEER_pass_other_host;
	*proto = eth->h_proto;
	if (*proto == bpf_htons(ETH_P_8021Q) || *proto == bpf_htons(ETH_P_8021AD))
		return STEER_pass_vlan;
	return STEER_redirect;
}

static __always_inline enum steer_counter parse_ipv4(struct hdr_cursor *cur, struct segment *seg)
{
	struct iphdr *ip = hdr_pull(cur, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl < 5)
		return STEER_pass_malformed;
	if (ip->protocol != IPPROTO_TCP)
		return STEER_pass_not_tcp;
	if (ip->frag_off & bpf_htons(IP_MF | IP_OFFSET))
		return STEER_pass_ip_fragment;
	if ((ip->daddr & bpf_htonl(0xe0000000)) == bpf_htonl(0xe0000000)) /* 224/4 and 240/4 */
		return STEER_pass_not_unicast;

	seg->l3_end = seg->l3_off + bpf_ntohs(ip->tot_len);
	seg->ip_sum = sum_words((__be32 *)ip, sizeof(*ip) / 4);
	seg->addr_sum = (__u64)ip->saddr + ip->daddr;
	seg->dst.family = 4;
	seg->dst.addr[10] = seg->dst.addr[11] = 0xff;
	__builtin_memcpy(&seg->dst.addr[12], &ip->daddr, sizeof(ip->daddr));
	if (!hdr_pull(cur, (ip->ihl - 5) * 4))
		return STEER_pass_malformed;
	return STEER_redirect;
}

/* Steps over one IPv6 extension header; *next is its type before, its successor's after. */
static __always_inline enum steer_counter skip_ipv6_extension(struct hdr_cursor *cur, __u8 *next)
{
	struct ipv6_rt_hdr *ext; /* its first two bytes are common to all extension headers */

	switch (*next) {
	case IPPROTO_HOPOPTS:
	case IPPROTO_ROUTING:
	case IPPROTO_DSTOPTS:
		break;
	case IPPROTO_FRAGMENT:
		return STEER_pass_ip_fragment;
	default:
		return STEER_pass_not_tcp;
	}
	ext = hdr_pull(cur, 8);
	if (!ext)
		return STEER_pass_malformed;
	if (*next == IPPROTO_ROUTING && ext->segments_left)
		return STEER_pass_ipv6_routing;
	*next = ext->nexthdr;
	if (!hdr_pull(cur, ext->hdrlen * 8))
		return STEER_pass_malformed;
	return STEER_redirect;
}

static __always_inline enum steer_counter parse_ipv6(struct hdr_cursor *cur, struct segment *seg)
{
	struct ipv6hdr *ip = hdr_pull(cur, sizeof(*ip));
	enum steer_counter reason;
	__u8 next;

	if (!ip || ip->version != 6)
		return STEER_pass_malformed;
	if (ip->daddr.s6_addr[0] == 0xff)
		return STEER_pass_not_unicast;

	seg->l3_end = seg->l3_off + sizeof(*ip) + bpf_ntohs(ip->payload_len);
	seg->addr_sum = sum_words(ip->saddr.s6_addr32, 4) + sum_words(ip->daddr.s6_addr32, 4);
	seg->dst.family = 6;
	__builtin_memcpy(seg->dst.addr, &ip->daddr, sizeof(seg->dst.addr));

	next = ip->nexthdr;
	for (int i = 0; i < IPV6_EXT_MAX && next != IPPROTO_TCP; i++) {
		reason = skip_ipv6_extension(cur, &next);
		if (reason)
			return reason;
	}
	return next == IPPROTO_TCP ? STEER_redirect : STEER_pass_headers_too_long;
}

/* Fills in dst, addr_sum, l3_off, l4_off, l3_end, frame_len. */
static __always_inline enum steer_counter parse_destination(struct xdp_md *ctx, struct segment *seg)
{
	struct hdr_cursor cur = hdr_cursor_at(ctx, 0);
	enum steer_counter reason;
	struct tcphdr *tcp;
	__be16 proto;

	reason = parse_ethernet(&cur, &proto);
	if (reason)
		return reason;
	seg->l3_off = cur.off;
	seg->frame_len = bpf_xdp_get_buff_len(ctx);

	if (proto == bpf_htons(ETH_P_IP))
		reason = parse_ipv4(&cur, seg);
	else if (proto == bpf_htons(ETH_P_IPV6))
		reason = parse_ipv6(&cur, seg);
	else
		reason = STEER_pass_not_ip;
	if (reason)
		return reason;

	/* Both port numbers must lie within the frame and within the IP packet. */
	seg->l4_off = cur.off;
	tcp = hdr_pull(&cur, 2 * sizeof(__be16));
	if (!tcp || cur.off > seg->l3_end)
		return STEER_pass_malformed;
	seg->dst.port = tcp->dest;
	return STEER_redirect;
}

/* Fills in hdr_len and payload_len. */
static __always_inline enum steer_counter parse_lengths(struct xdp_md *ctx, struct segment *seg)
{
	struct hdr_cursor cur = hdr_cursor_at(ctx, seg->l4_off);
	struct tcphdr *tcp;

	if (seg->l3_end > seg->frame_len)
		return STEER_drop_ip_malformed;
	tcp = hdr_pull(&cur, sizeof(*tcp));
	if (!tcp || tcp->doff < 5)
		return STEER_drop_tcp_malformed;
	seg->hdr_len = seg->l4_off + tcp->doff * 4;
	if (seg->hdr_len > seg->l3_end)
		return STEER_drop_tcp_malformed;
	if (seg->hdr_len > RX_HDR_MAX)
		return STEER_pass_headers_too_long;
	seg->payload_len = seg->l3_end - seg->hdr_len;
	return STEER_redirect;
}

#endif
