/* SPDX-License-Identifier: Apache-2.0 */
/*
 * inspect.c - what can be seen of a stack from outside: counters and levels, areas, queues,
 * flows, buffers. Nothing here changes anything.
 */
#include <errno.h>
#include <string.h>

#include "core.h"

static void add_area(struct stack_stats *out, const struct area *a)
{
	if (!area_is_device(a)) {
		out->host_free += area_count(a, FRAG_FREE);
		out->host_fill += area_count(a, FRAG_FILL);
		out->host_queued += area_count(a, FRAG_RECEIVED);
		out->host_ooo += area_count(a, FRAG_OOO);
		return;
	}
	out->niovs_free += area_count(a, FRAG_FREE);
	out->niovs_fill += area_count(a, FRAG_FILL);
	out->niovs_queued += area_count(a, FRAG_RECEIVED);
	out->niovs_ooo += area_count(a, FRAG_OOO);
	out->niovs_lent += area_count(a, FRAG_LENT);
}

void stack_stats(const struct stack *s, struct stack_stats *out)
{
	*out = s->stats;
	out->flows_now = s->flows.live;
	out->tokens_outstanding = s->tokens.live;
	out->pages_free = area_count(s->tx_area, FRAG_FREE);
	for (uint32_t i = 0; i < s->cfg.max_areas; i++)
		if (s->areas[i])
			add_area(out, s->areas[i]);
	for (uint32_t q = 0; q < s->cfg.nr_queues; q++)
		out->rcv_wnd_promised += s->rx[q].promised;
}

static uint32_t promised(const struct stack *s, const struct area *a)
{
	uint32_t bufs = 0;

	for (uint32_t q = 0; q < s->cfg.nr_queues; q++)
		if (s->rx[q].area == a)
			bufs += s->rx[q].promised;
	return bufs;
}

int stack_area_info(const struct stack *s, int area, struct area_info *out)
{
	const struct page_pool_recycle_stats *recycle;
	const struct page_pool_alloc_stats *alloc;
	const struct area *a;

	if (area < 0 || (uint32_t)area >= s->cfg.max_areas || !s->areas[area])
		return -ENOENT;
	a = s->areas[area];
	alloc = &a->pool->alloc_stats;
	recycle = &a->pool->recycle_stats;
	*out = (struct area_info){
		.area = a->number,
		.dmabuf_id = a->dmabuf_id,
		.nr_niovs = a->nr,
		.queues = a->queues,
		.free = area_count(a, FRAG_FREE),
		.fill = area_count(a, FRAG_FILL),
		.queued = area_count(a, FRAG_RECEIVED),
		.ooo = area_count(a, FRAG_OOO),
		.lent = area_count(a, FRAG_LENT),
		.promised = promised(s, a),
		.alloc_fast = alloc->fast,
		.alloc_slow = alloc->slow,
		.alloc_empty = alloc->empty,
		.alloc_refill = alloc->refill,
		.alloc_waive = alloc->waive,
		.recycle_cached = recycle->cached,
		.recycle_cache_full = recycle->cache_full,
		.recycle_ring = recycle->ring,
		.recycle_ring_full = recycle->ring_full,
		.recycle_released_refcnt = recycle->released_refcnt,
	};
	return 0;
}

int stack_queue_info(const struct stack *s, uint32_t queue, struct queue_info *out)
{
	const struct rx_queue *rx;
	const struct tx_queue *tx;

	if (queue >= s->cfg.nr_queues)
		return -ENOENT;
	rx = &s->rx[queue];
	tx = &s->tx[queue];
	*out = (struct queue_info){
		.area = rx->area ? rx->area->number : STACK_NONE,
		.fill = rx->fill,
		.rx_packets = rx->packets,
		.rx_bytes = rx->bytes,
		.rx_alloc_fail = rx->alloc_fail,
		.rx_csum_verified = rx->csum[RX_CSUM_VERIFIED],
		.rx_csum_partial = rx->csum[RX_CSUM_PARTIAL],
		.rx_csum_trusted = rx->csum[RX_CSUM_TRUSTED],
		.tx_packets = tx->packets,
		.tx_bytes = tx->bytes,
	};
	return 0;
}

int stack_flow(const struct stack *s, uint32_t from, struct flow_info *out)
{
	for (uint32_t slot = from ? from : 1; slot < s->flows.used; slot++) {
		const struct flow *f = &s->flows.flows[slot];

		if (!f->id)
			continue;
		*out = (struct flow_info){
			.id = f->id,
			.state = f->state,
			.rcv_nxt = f->rcv_nxt.n,
			.rcv_wnd = (uint32_t)seq_sub(f->rcv_adv, f->rcv_nxt),
			.snd_una = f->snd_una.n,
			.snd_nxt = f->snd_nxt.n,
			.ooo_frags = 0,
			.tokens = f->tokens,
			.rx_bytes = f->rx_bytes,
			.rx_bytes_device = f->rx_kind[RX_DEVICE],
			.rx_bytes_linear = f->rx_kind[RX_LINEAR],
			.rx_bytes_data = f->rx_kind[RX_DATA],
			.app = f->app ? f->app->number : STACK_NONE,
			.queue = f->queue,
			.blocks = f->blocks,
			.pressure = f->pressure,
		};
		for (const struct island *i = f->ooo.first; i; i = i->next)
			out->ooo_frags += i->frags.nr;
		out->local.family = out->peer.family = f->tuple.family;
		out->local.port = f->tuple.local_port;
		out->peer.port = f->tuple.peer_port;
		memcpy(out->local.ip, f->tuple.local_ip, 16);
		memcpy(out->peer.ip, f->tuple.peer_ip, 16);
		return (int)slot;
	}
	return -ENOENT;
}

/* The area that buffer n, counted through all of them, lies in; its number there is left in n. */
static const struct area *nth_area(const struct stack *s, uint32_t *n)
{
	for (uint32_t i = 0; i < s->cfg.max_areas; i++) {
		const struct area *a = s->areas[i];

		if (a && *n < a->nr)
			return a;
		*n -= a ? a->nr : 0;
	}
	return *n < s->tx_area->nr ? s->tx_area : NULL;
}

int stack_frag(const struct stack *s, uint32_t n, struct frag_record *out)
{
	const struct area *a = nth_area(s, &n);
	int rc = a ? frag_tracker_record(a->tracker, n, out) : -ENOENT;

	if (!rc)
		out->area = a->number;
	return rc;
}

int stack_check(const struct stack *s)
{
	uint32_t before = 0;
	int rc;

	for (uint32_t i = 0; i < s->cfg.max_areas; i++) {
		if (!s->areas[i])
			continue;
		rc = frag_tracker_check(s->areas[i]->tracker);
		if (rc)
			return rc - (int)before;
		before += s->areas[i]->nr;
	}
	rc = frag_tracker_check(s->tx_area->tracker);
	return rc ? rc - (int)before : 0;
}
