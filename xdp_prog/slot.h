/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * slot.h - record and head of a packet in an array that userspace has mapped, for want of
 * room in the metadata.
 *
 *   slot_claim() -> slot_fill() -> slot_publish(), or slot_abandon()
 *
 * Packets of all queues and CPUs are numbered by one counter, and a packet's slot is its
 * number modulo the slots. So whoever is about to write to a slot may find
 *
 * - a packet that userspace has not looked at yet. It is lost: userspace sees another number
 *   there. There are more slots than buffers, so that many packets must have been lost before
 *   (slots of those that do not get into an RX ring are used up as well);
 * - another CPU at work on it, which has been away for as long as all the others took to fill
 *   every other slot: a virtual machine's, for instance. Its packet is complete or lost, but
 *   never mixed with ours: of two that exchange the number for RX_SLOT_WRITING only one gets
 *   the number, and the other drops its packet.
 *
 * The order of the stores to a slot need not be seen by userspace, but that of the first: what
 * the packet says of its slot is found in a ring, whose producer orders all that came before it.
 */
#ifndef DEVMEMTCP_SLOT_H
#define DEVMEMTCP_SLOT_H

#include "parse.h"

__u64 packets; /* numbered so far */

static __always_inline struct rx_slot *slot_claim(__u64 *seq)
{
	__u64 number = __sync_fetch_and_add(&packets, 1) + 1;
	__u32 index = number & headers.slot_mask;
	struct rx_slot *slot = bpf_map_lookup_elem(&heads, &index);

	if (!slot || __sync_lock_test_and_set(&slot->seq, RX_SLOT_WRITING) == RX_SLOT_WRITING)
		return NULL;
	*seq = number;
	return slot;
}

/* The packet begins with its head, all of it in whichever fragments. */
static __always_inline int slot_fill(struct xdp_md *ctx, struct rx_slot *slot,
				     const struct rx_info *info)
{
	__u32 len = info->hdr_len + info->linear;

	slot->info = *info;
	if (!is_within(&len, ETH_HLEN, RX_HDR_MAX))
		return -1;
	return bpf_xdp_load_bytes(ctx, 0, slot->head, len);
}

static __always_inline void slot_publish(struct rx_slot *slot, __u64 seq)
{
	barrier();
	*(volatile __u64 *)&slot->seq = seq;
}

static __always_inline void slot_abandon(struct rx_slot *slot)
{
	slot_publish(slot, 0);
}

#endif
