/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * tally.bpf.c - how many frames leave an interface (tc, clsact): those of a socket with the
 * mark, and all others; of these also how many they are when the interface has them cut to size, which
 * comes after.
 */
#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define TALLY_MARK 0x5708

enum tally {
	MARKED,
	OTHERS,
	OTHERS_CUT,
	LOOPED,
	NR_TALLIES,
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NR_TALLIES);
	__type(key, __u32);
	__type(value, __u64);
} tally SEC(".maps");

static __always_inline void add(__u32 which, __u64 n)
{
	__u64 *value = bpf_map_lookup_elem(&tally, &which);

	if (value)
		__sync_fetch_and_add(value, n);
}

SEC("tc")
int count(struct __sk_buff *skb)
{
	if (skb->mark == TALLY_MARK) {
		add(MARKED, 1);
		return TC_ACT_OK;
	}
	add(OTHERS, 1);
	add(OTHERS_CUT, skb->gso_segs ? skb->gso_segs : 1);
	return TC_ACT_OK;
}

/* Ingress: what this host has sent to a group, and gets back itself (dev_loopback_xmit()). */
SEC("tc")
int looped(struct __sk_buff *skb)
{
	if (skb->pkt_type == PACKET_LOOPBACK)
		add(LOOPED, 1);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
