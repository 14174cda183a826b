/* SPDX-License-Identifier: Apache-2.0 */
/*
 * heads.c - a packet's record and headers, from wherever the XDP program has put them to where
 * the stack looks for them: the end of the header page of its first buffer.
 *
 *   HEADERS_METADATA   AF_XDP has copied them there
 *   HEADERS_SLOT       16 bytes there name a slot of an array that the program writes, and we read
 *
 *     heads   | ... | seq | info | head |     | ... |      seq is the packet's number: program and
 *                            |      '------.           packet must agree on it, before and after
 *     header page     | ... | info |  | head |
 *                                             ^ end
 *
 * What is in the array is not believed: slots are used again whether we have been there or not.
 * Bytes are copied first and judged by their copy, by the stack, which trusts no record anyway.
 */
#include <stdatomic.h>
#include <string.h>

#include "loop.h"
#include "mosaic.h"
#include "steer.h"

bool heads_ok(const struct loop_config *config)
{
	const uint32_t nr = config->nr_heads;

	if (config->header_path == HEADERS_METADATA)
		return true;
	return config->header_path == HEADERS_SLOT && config->heads && nr && !(nr & (nr - 1));
}

/* A sequence lock's reader, without the retry: another number stays another. */
static bool take_slot(const struct rx_slot *slot, uint64_t seq, uint8_t *end)
{
	const _Atomic uint64_t *now = (const _Atomic uint64_t *)&slot->seq;
	struct rx_info info;
	uint32_t len;

	if (atomic_load_explicit(now, memory_order_acquire) != seq)
		return false;
	memcpy(&info, &slot->info, sizeof(info));
	atomic_signal_fence(memory_order_acq_rel); /* it is not read again */
	len = info.hdr_len + info.linear;
	if (len > RX_HDR_MAX)
		len = RX_HDR_MAX; /* the stack refuses such a record */
	memcpy(end - RX_META_LEN, &info, sizeof(info));
	memcpy(end - len, slot->head, len);
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
	uint8_t *end = qp->header_base + (qp->packet.chunk[0].niov + 1ul) * MOSAIC_PAGE;

	if (l->header_path == HEADERS_METADATA)
		return true;
	return take_named_slot(l, end);
}
