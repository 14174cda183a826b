/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * impair.bpf.c - a bad road for TCP segments, at a sender's interface (tc, clsact).
 *
 * worsen       egress: each segment is lost, sent twice, damaged, delayed, or taken
 *              out of line, by independent chances; all but the lost ones leave by
 *              other interfaces, for somebody to put them back, later or damaged
 *              (tests/faults/road.py). What is put back carries a mark and passes.
 * lose_acks    ingress: lost only.
 *
 * A copy is not redirected to where it was going: generic XDP at the other end
 * does not look at packets that were redirected (skb_is_redirected() in
 * netif_receive_generic_xdp()), so the receiver's kernel would answer it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IMPAIR_MARK 0x1a9a
#define IPV4_PROTOCOL 9 /* offset in struct iphdr */
#define IPV6_NEXTHDR 6 /* offset in struct ipv6hdr */

struct config {
	__u32 loss; /* chances, in 1/2^32 */
	__u32 duplication;
	__u32 corruption;
	__u32 delay;
	__u32 reordering;
	__u32 ack_loss;
	__u32 late; /* ifindex: for second copies, and what is to come out of line */
	__u32 slow; /* what is delayed */
	__u32 torn; /* what is damaged */
};

enum counter {
	SEEN,
	LOST,
	DUPLICATED,
	CORRUPTED,
	DELAYED,
	REORDERED,
	ACKS_SEEN,
	ACKS_LOST,
	NR_COUNTERS,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct config);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NR_COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

static __always_inline void count(__u32 which)
{
	__u64 *value = bpf_map_lookup_elem(&counters, &which);

	if (value)
		__sync_fetch_and_add(value, 1);
}

static __always_inline int is_tcp(struct __sk_buff *skb)
{
	__u32 offset = ETH_HLEN;
	__u8 protocol = 0;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		offset += IPV4_PROTOCOL;
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		offset += IPV6_NEXTHDR;
	else
		return 0;
	return !bpf_skb_load_bytes(skb, offset, &protocol, 1) && protocol == IPPROTO_TCP;
}

static __always_inline int happens(__u32 chance)
{
	return bpf_get_prandom_u32() < chance;
}

SEC("tc")
int worsen(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config *c = bpf_map_lookup_elem(&config, &zero);

	if (!c || skb->mark == IMPAIR_MARK || !is_tcp(skb))
		return TC_ACT_OK;
	count(SEEN);
	if (happens(c->loss)) {
		count(LOST);
		return TC_ACT_SHOT;
	}
	if (happens(c->duplication) && !bpf_clone_redirect(skb, c->late, 0))
		count(DUPLICATED);
	if (happens(c->corruption)) {
		count(CORRUPTED);
		return bpf_redirect(c->torn, 0);
	}
	if (happens(c->delay)) {
		count(DELAYED);
		return bpf_redirect(c->slow, 0);
	}
	if (happens(c->reordering)) {
		count(REORDERED);
		return bpf_redirect(c->late, 0);
	}
	return TC_ACT_OK;
}

SEC("tc")
int lose_acks(struct __sk_buff *skb)
{
	__u32 zero = 0;
	struct config *c = bpf_map_lookup_elem(&config, &zero);

	if (!c || !is_tcp(skb))
		return TC_ACT_OK;
	count(ACKS_SEEN);
	if (!happens(c->ack_loss))
		return TC_ACT_OK;
	count(ACKS_LOST);
	return TC_ACT_SHOT;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
