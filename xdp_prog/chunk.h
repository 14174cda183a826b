/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * chunk.h - the slot of a packet that the NIC has written to the UMEM itself.
 *
 * There is no metadata in zero-copy mode that reaches userspace in a page of its own: the headers
 * would end up in device memory. So they are copied to an array, and a packet's place there is its
 * chunk's place in the UMEM:
 *
 *   UMEM    pool->addrs ->| chunk 0 | chunk 1 | ... | chunk i       | ...
 *                                                     ^ xdp->data
 *   heads   | ... |  first + 0 | first + 1 | ... | first + i | ...      of the packet's queue
 *
 * That holds in whatever order packets come, and whatever becomes of those in between. It takes
 * two pointers that a program is not given: ctx is the driver's struct xdp_buff, which for a packet
 * in a chunk is the beginning of a struct xdp_buff_xsk. Both are read as any kernel memory is, at
 * offsets that libbpf takes from the running kernel's BTF. No address leaves the program.
 */
#ifndef DEVMEMTCP_CHUNK_H
#define DEVMEMTCP_CHUNK_H

#include <linux/bpf.h> /* whose types libbpf 1.5 wants to know before */
#include <bpf/bpf_core_read.h>
#include "slot.h"

#define CHUNK_SHIFT 12 /* chunks of 4096 bytes, aligned */

/* Of these kernel types, what is read. */
enum xdp_mem_type {
	MEM_TYPE_XSK_BUFF_POOL = 3,
};

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct xdp_mem_info {
	__u32 type;
};

struct xdp_rxq_info {
	struct xdp_mem_info mem;
};

struct xdp_buff {
	void *data;
	struct xdp_rxq_info *rxq;
};

struct xsk_buff_pool {
	void *addrs;
};

struct xdp_buff_xsk {
	struct xsk_buff_pool *pool;
};

#pragma clang attribute pop

/*
 * rx_queue_index -> the slots of the UMEM whose chunks the queue has. Userspace enters them
 * before the queue's socket, and changes them only while it has none.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32);
	__type(value, struct head_range);
} head_ranges SEC(".maps");

static __always_inline bool is_in_chunk(const struct xdp_buff *xdp)
{
	return BPF_CORE_READ(xdp, rxq, mem.type) ==
	       bpf_core_enum_value(enum xdp_mem_type, MEM_TYPE_XSK_BUFF_POOL);
}

static __always_inline struct rx_slot *chunk_slot(struct xdp_md *ctx)
{
	const struct xdp_buff *xdp = (const void *)ctx;
	__u32 queue = ctx->rx_queue_index;
	struct head_range *range = bpf_map_lookup_elem(&head_ranges, &queue);
	const struct xdp_buff_xsk *xskb = (const void *)ctx;
	__u64 chunk;
	__u32 index;

	if (!range || !is_in_chunk(xdp))
		return NULL;
	chunk = ((__u64)BPF_CORE_READ(xdp, data) - (__u64)BPF_CORE_READ(xskb, pool, addrs)) >>
		CHUNK_SHIFT;
	if (chunk >= range->nr)
		return NULL;
	index = range->first + chunk;
	return bpf_map_lookup_elem(&heads, &index);
}

#endif
