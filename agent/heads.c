/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heads.c - a packet's record and headers, from wherever the XDP program has put them to where
 * the stack looks for them: the end of the header page of its first buffer.
 *
 *   HEADERS_METADATA   AF_XDP has copied them there
 *   HEADERS_SLOT       16 bytes there name a slot of an array that the program writes, and we read
 *   HEADERS_CHUNK      the packet is in buffer i, and what is wanted in slot first_head + i
 *
 *     heads   | ... | seq | info | head |     | ... |      seq is the packet's number: program and
 *                            |      '------.           packet must agree on it, before and after
 *     header page     | ... | info |  | head |
 *                                             ^ end
 *
 * What is in the array is not believed: slots are used again whether we have been there or not.
 * Bytes are copied first and judged by their copy, by the stack, which trusts no record anyway.
 *
 * HEADERS_CHUNK needs no number: a slot is written only while the driver has its buffer, and from
 * the RX ring until we fill it in again that is ours.
 */
#include <stdatomic.h>
#include <string.h>

#include "loop.h"
#include "mosaic.h"
#include "steer.h"

bool heads_ok(const struct loop_config *config)
{
	const uint32_t nr = config->nr_heads;

	switch (config->header_path) {
	case HEADERS_METADATA:
		return true;
	case HEADERS_SLOT:
		return config->heads && nr && !(nr & (nr - 1));
	case HEADERS_CHUNK:
		return config->heads && nr;
	default:
		return false;
	}
}

bool heads_cover(const struct loop *l, const struct loop_queue *queue, uint32_t nr_niovs)
{
	return l->header_path != HEADERS_CHUNK ||
	       (nr_niovs <= l->nr_heads && queue->first_head <= l->nr_heads - nr_niovs);
}

static uint8_t *header_end(const struct queue_pair *qp, uint32_t niov)
{
	return qp->header_base + (niov + 1ul) * MOSAIC_PAGE;
}

static const struct rx_slot *chunk_slot(const struct loop *l, const struct queue_pair *qp,
					uint32_t niov)
{
	return &l->heads[qp->rings.first_head + niov];
}

/* The last 160 bytes of a header page: record first, headers last. `niov` is what a descriptor
 * says, not yet checked: to prefetch what is not there does nothing. */
void heads_prefetch(const struct loop *l, const struct queue_pair *qp, uint32_t niov)
{
	const uint8_t *end = header_end(qp, niov);

	if (l->header_path == HEADERS_CHUNK) {
		__builtin_prefetch(chunk_slot(l, qp, niov));
		__builtin_prefetch(chunk_slot(l, qp, niov)->head + 64);
	}
	__builtin_prefetch(end - RX_META_LEN);
	__builtin_prefetch(end - 128);
	__builtin_prefetch(end - 64);
}

static void copy_head(const struct rx_slot *slot, uint8_t *end)
{
	struct rx_info info;
	uint32_t len;

	memcpy(&info, &slot->info, sizeof(info));
	atomic_signal_fence(memory_order_acq_rel); /* it is not read again */
	len = info.hdr_len + info.linear;
	if (len > RX_HDR_MAX)
		len = RX_HDR_MAX; /* the stack refuses such a record */
	memcpy(end - RX_META_LEN, &info, sizeof(info));
	memcpy(end - len, slot->head, len);
}

/* A sequence lock's reader, without the retry: another number stays another. */
static bool take_slot(const struct rx_slot *slot, uint64_t seq, uint8_t *end)
{
	const _Atomic uint64_t *now = (const _Atomic uint64_t *)&slot->seq;

	if (atomic_load_explicit(now, memory_order_acquire) != seq)
		return false;
	copy_head(slot, end);
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(now, memory_order_relaxed) == seq;
}

static bool take_named_slot(const struct loop *l, uint8_t *end)
{
	const uint32_t mask = l->nr_heads - 1;
	struct rx_slot_ref ref;

	memcpy(&ref, end - sizeof(ref), sizeof(ref));
	if (ref.magic != RX_INFO_MAGIC)
		return false;
	/* Of the packet that comes next, as a rule. */
	__builtin_prefetch(&l->heads[(ref.seq + 1) & mask]);
	__builtin_prefetch(l->heads[(ref.seq + 1) & mask].head + 64);
	return take_slot(&l->heads[ref.seq & mask], ref.seq, end);
}

bool heads_take(const struct loop *l, const struct queue_pair *qp)
{
	const uint32_t niov = qp->packet.chunk[0].niov;

	switch (l->header_path) {
	case HEADERS_SLOT:
		return take_named_slot(l, header_end(qp, niov));
	case HEADERS_CHUNK:
		copy_head(chunk_slot(l, qp, niov), header_end(qp, niov));
		return true;
	default:
		return true;
	}
}
