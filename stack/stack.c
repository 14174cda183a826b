/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stack.c - the stack as its caller sees it: memory in, frames in, frames out.
 *
 *   stack_rx() -> wire_parse() -> flow_find() -> tcp_input() or tcp_listen_input()
 *
 * Who owns a buffer: its area's pool, until stack_refill() gives it to the NIC; the packet,
 * from stack_rx() on; the frags cut from it; the tokens that frags turn into, if they are not
 * copied. When the last of those is gone, area_put() gives it back to the pool.
 */
#include <errno.h>
#include <string.h>

#include "core.h"

_Static_assert(DROP_REASONS <= sizeof(((struct stack_stats *)0)->drops) / sizeof(uint64_t),
	       "a counter for each reason");

/* ---- memory ---- */

/* Hands out pieces of one block; with base NULL it only measures. */
struct arena {
	uint8_t *base;
	size_t used;
};

static void *arena_take(struct arena *a, size_t size)
{
	void *p = a->base ? a->base + a->used : NULL;

	a->used += (size + 63) & ~(size_t)63;
	return p;
}

static uint32_t power_of_two(uint64_t at_least)
{
	uint32_t n = 1;

	while (n < at_least)
		n *= 2;
	return n;
}

_Static_assert(STACK_MAX_NIOVS <= TOKEN_SLOTS_MAX / 2, "two tokens for each buffer");

static bool config_ok(const struct stack_config *c)
{
	return c->max_niovs >= 16 && c->max_niovs <= STACK_MAX_NIOVS && c->max_areas &&
	       c->max_areas <= STACK_MAX_AREAS && c->max_apps && c->max_apps <= STACK_MAX_APPS &&
	       c->nr_pages >= 16 && c->nr_pages <= 1u << 20 && c->nr_queues &&
	       c->nr_queues <= STACK_MAX_QUEUES && c->max_flows &&
	       c->max_flows < 1u << CHANNEL_FLOW_SLOT_BITS && c->max_listeners &&
	       c->max_listeners < 1u << CHANNEL_LISTENER_SLOT_BITS && c->fill_max &&
	       c->fill_min <= c->fill_max && c->mtu >= 576 && c->mtu <= 65535 && c->rcv_wnd_max &&
	       c->rcv_wnd_max <= 1u << 30 && c->delack_ns && c->delack_ns < 500 * NS_PER_MS &&
	       c->ack_segments && c->ack_segments <= 255;
}

/* Where everything lies behind struct stack; run once to measure and once for real. */
static void lay_out(struct stack *s, const struct stack_config *c, struct arena *a)
{
	/* One frag a buffer, one more of its head, and what overlaps split. */
	const uint32_t nr_frags = 3 * c->max_niovs, nr_islands = c->max_niovs;
	const uint32_t slots = c->max_flows + 1, buckets = power_of_two(slots);
	const uint32_t tx_ring = power_of_two(c->nr_pages);
	struct stack at;

	at.areas = arena_take(a, c->max_areas * sizeof(*at.areas));
	at.apps = arena_take(a, c->max_apps * sizeof(*at.apps));
	at.tx_area = arena_take(a, area_size(c->nr_pages, false));
	struct rx_frag *frags = arena_take(a, nr_frags * sizeof(*frags));
	struct island *islands = arena_take(a, nr_islands * sizeof(*islands));

	at.tokens.entry = arena_take(a, (2ul * c->max_niovs + 1) * sizeof(struct token_entry));
	at.page_sent = arena_take(a, c->nr_pages);
	at.reply_pages = arena_take(a, c->nr_pages * sizeof(struct reply_page));
	at.flows.flows = arena_take(a, slots * sizeof(struct flow));
	at.flows.buckets = arena_take(a, buckets * sizeof(uint32_t));
	at.timers.slot = arena_take(a, (slots + 1) * sizeof(uint32_t));
	at.listeners = arena_take(a, c->max_listeners * sizeof(struct listener));
	for (uint32_t q = 0; q < c->nr_queues; q++)
		at.tx[q].ring = arena_take(a, tx_ring * sizeof(struct tx_frame));
	if (!s)
		return;

	s->areas = at.areas;
	s->apps = at.apps;
	s->tx_area = at.tx_area;
	frag_pool_init(&s->frag_pool, frags, nr_frags, islands, nr_islands);
	s->tokens.entry = at.tokens.entry;
	s->tokens.nr = 2 * c->max_niovs + 1;
	s->page_sent = at.page_sent;
	s->reply_pages = at.reply_pages;
	s->flows.flows = at.flows.flows;
	s->flows.nr = slots;
	s->flows.buckets = at.flows.buckets;
	s->flows.mask = buckets - 1;
	s->timers.slot = at.timers.slot;
	s->listeners = at.listeners;
	for (uint32_t q = 0; q < c->nr_queues; q++) {
		s->tx[q].ring = at.tx[q].ring;
		s->tx[q].mask = tx_ring - 1;
	}
}

size_t stack_size(const struct stack_config *config)
{
	struct arena a = {.used = sizeof(struct stack)};

	if (!config_ok(config))
		return 0;
	lay_out(NULL, config, &a);
	return a.used;
}

int stack_init(struct stack *mem, const struct stack_config *config)
{
	struct stack *s = mem;
	struct arena a = {.base = (uint8_t *)mem, .used = sizeof(struct stack)};
	int rc;

	if (!config_ok(config) || !config->page_base)
		return -EINVAL;
	s->cfg = *config;
	lay_out(s, config, &a);
	rc = area_init_tx(s->tx_area, config->nr_pages, config->page_base);
	if (rc)
		return rc;
	token_table_init(&s->tokens);
	s->flows.key = s->cfg.flow_key;
	flow_table_init(&s->flows);
	timer_heap_init(&s->timers);
	list_init(&s->ack_list);
	list_init(&s->starved);
	list_init(&s->time_wait);
	return 0;
}

int stack_set_mtu(struct stack *s, uint32_t mtu)
{
	struct stack_config cfg = s->cfg;

	cfg.mtu = mtu;
	if (!config_ok(&cfg))
		return -EINVAL;
	s->cfg.mtu = mtu;
	return 0;
}

/* ---- buffers ---- */

void stack_drop_frags(struct stack *s, const struct flow *f, struct frag_list *list,
		      enum frag_state from)
{
	struct rx_frag *frag;

	while ((frag = frag_list_pop(list))) {
		area_drop_part(s, f, frag->frag.netmem, from);
		frag_free(&s->frag_pool, frag);
	}
}

void stack_settle_payload(struct stack *s, struct flow *f, struct payload *p, enum frag_state state)
{
	for (uint32_t i = 0; i < p->nr; i++) {
		const netmem_ref netmem = p->chunk[i];

		if (!p->uses[i]) {
			area_free(s, p->area, netmem);
			continue;
		}
		flow_holds(f, p->area, p->uses[i]);
		frag_track(p->area->tracker, netmem, state, f->id);
		while (--p->uses[i]) {
			page_pool_ref_netmem(netmem);
			frag_split(p->area->tracker, netmem, state);
		}
	}
	p->settled = true;
}

uint32_t stack_refill(struct stack *s, uint32_t queue, uint32_t *niovs, uint32_t max)
{
	struct rx_queue *q = &s->rx[queue];
	struct area *a = q->area;
	const uint32_t target = a ? window_fill_target(s, queue) : 0;
	uint32_t nr = 0;

	while (nr < max && q->fill < target) {
		const netmem_ref netmem = page_pool_alloc_netmem(a->pool);

		if (netmem_is_none(netmem)) {
			s->stats.pool_empty++;
			q->alloc_fail++;
			break;
		}
		frag_track(a->tracker, netmem, FRAG_FILL, 0);
		niovs[nr] = area_index(netmem);
		a->fill_queue[niovs[nr++]] = (uint8_t)queue;
		q->fill++;
	}
	return nr;
}

/* ---- time ---- */

/* Timers, timestamps and ages are differences of two times, and unsigned. A clock that goes back
 * must neither make one of them huge nor have the timers wait until it is where it was. */
uint64_t stack_clock(struct stack *s, uint64_t now)
{
	now += s->now_ahead;
	if (now < s->now) {
		s->now_ahead += s->now - now;
		now = s->now;
	}
	return s->now = now;
}

/* ---- frames in ---- */

/* The packet's chunks, out of the fill ring and into our hands. Descriptors are checked
 * against what was really given to this queue: one that was not is nobody's. */
static void claim_chunks(struct stack *s, const struct rx_packet *packet, struct payload *p)
{
	struct area *a = s->rx[packet->queue].area;

	p->area = a;
	p->nr = 0;
	p->head = 0;
	p->settled = false;
	for (uint32_t i = 0; a && i < packet->nr_chunks; i++)
		if (packet->chunk[i].niov < a->nr) /* a sender beside us has emptied the cache */
			area_prefetch(a, packet->chunk[i].niov);
	for (uint32_t i = 0; a && i < packet->nr_chunks && i < STACK_MAX_CHUNKS; i++) {
		const struct rx_chunk *chunk = &packet->chunk[i];
		netmem_ref netmem;

		if (chunk->niov >= a->nr)
			continue;
		netmem = area_buffer(a, chunk->niov);
		if (frag_state_of(a->tracker, netmem) != FRAG_FILL ||
		    a->fill_queue[chunk->niov] != packet->queue)
			continue;
		a->fill_queue[chunk->niov] = STACK_NO_QUEUE; /* it has come: once */
		s->rx[packet->queue].fill--;
		p->chunk[p->nr] = netmem;
		p->off[p->nr] = chunk->off;
		p->len[p->nr] = chunk->len;
		p->uses[p->nr++] = 0;
	}
}

/* Which bytes the application will get under tokens, and which it will get copied. A packet
 * that leaves nothing in device memory is an ordinary one, wherever its buffer is. */
static void sort_bytes(const struct area *a, const struct seg *seg, struct payload *p)
{
	const bool readable = !area_is_device(a) || seg->head == seg->len;

	p->head = seg->head;
	if (area_is_device(a)) {
		p->source = (struct rx_source){.kind = RX_DEVICE, .reason = REASON_DEVICE};
		p->head_source.reason = REASON_HEAD;
	} else {
		p->source = (struct rx_source){.kind = RX_DATA, .reason = REASON_UNBOUND};
		p->head_source.reason = REASON_UNBOUND;
	}
	p->head_source.kind = readable ? RX_DATA : RX_LINEAR;
	p->head_source.in_head = true;
}

static void count_packet(struct rx_queue *q, const struct seg *seg)
{
	q->packets++;
	q->bytes += seg->hdr_len + seg->len;
	q->csum[seg->csum]++;
}

static enum drop rx_segment(struct stack *s, const struct rx_packet *packet, struct payload *p,
			    uint64_t now)
{
	struct seg seg;
	struct flow *f;
	enum drop drop;

	if (p->nr != packet->nr_chunks || !p->nr)
		return DROP_RECORD;
	/* The record and headers end where the header page of the first chunk does. */
	drop = wire_parse(area_header(p->area, packet->chunk[0].niov + 1), packet, &seg);
	if (drop)
		return drop;
	count_packet(&s->rx[packet->queue], &seg);
	sort_bytes(p->area, &seg, p);
	s->stats.rx_csum_partial += seg.csum == RX_CSUM_PARTIAL;
	f = flow_find(&s->flows, &seg.tuple);
	return f ? tcp_input(s, f, &seg, p, now) : tcp_listen_input(s, &seg, p, now);
}

void stack_rx(struct stack *s, const struct rx_packet *packet, uint64_t now)
{
	struct payload p;
	enum drop drop;

	if (packet->queue >= s->cfg.nr_queues)
		return;
	claim_chunks(s, packet, &p);
	s->stats.rx_segments++;
	drop = rx_segment(s, packet, &p, stack_clock(s, now));
	if (drop)
		s->stats.drops[drop]++;
	else
		s->stats.rx_accepted++;
	if (!p.settled)
		stack_settle_payload(s, NULL, &p, FRAG_FREE);
}

void stack_rx_discard(struct stack *s, const struct rx_packet *packet, uint32_t reason)
{
	struct payload p;

	if (packet->queue >= s->cfg.nr_queues)
		return;
	claim_chunks(s, packet, &p);
	s->stats.drops[reason < DROP_REASONS ? reason : DROP_TRUNCATED]++;
	stack_settle_payload(s, NULL, &p, FRAG_FREE);
}

void stack_rx_end(struct stack *s, uint64_t now)
{
	struct list_node *n, *next;

	now = stack_clock(s, now);
	for (n = s->ack_list.next; n != &s->ack_list; n = next) {
		next = n->next;
		tcp_ack_decide(s, container_of(n, struct flow, ack_node), now);
	}
}

/* ---- frames out ---- */

static void move_frames(struct tx_queue *from, struct tx_queue *to)
{
	while (from->tail != from->head)
		to->ring[to->head++ & to->mask] = from->ring[from->tail++ & from->mask];
}

struct tx_queue *tx_queue_for(struct stack *s, uint32_t queue)
{
	if (s->rx[queue].area)
		return &s->tx[queue];
	for (uint32_t q = 0; q < s->cfg.nr_queues; q++)
		if (s->rx[q].area)
			return &s->tx[q];
	return NULL;
}

void tx_queue_gone(struct stack *s, uint32_t queue)
{
	struct tx_queue *other = tx_queue_for(s, queue);

	for (uint32_t page = 0; page < s->cfg.nr_pages; page++)
		if (s->page_sent[page] == queue + 1)
			stack_tx_done(s, page);
	if (other) /* each ring has a place for every page */
		move_frames(&s->tx[queue], other);
}

uint32_t stack_tx(struct stack *s, uint32_t queue, struct tx_frame *frames, uint32_t max)
{
	struct tx_queue *q = &s->tx[queue];
	uint32_t nr = 0;

	while (s->rx[queue].area && nr < max && q->tail != q->head) {
		const struct tx_frame frame = q->ring[q->tail++ & q->mask];

		s->page_sent[frame.page] = (uint8_t)(queue + 1);
		q->packets++;
		q->bytes += frame.len;
		frames[nr++] = frame;
	}
	return nr;
}

void stack_tx_done(struct stack *s, uint32_t page)
{
	if (page >= s->cfg.nr_pages || !s->page_sent[page]) {
		s->stats.tx_done_rejected++;
		return;
	}
	s->page_sent[page] = 0;
	area_free(s, s->tx_area, area_buffer(s->tx_area, page));
}

/* ---- deadlines ---- */

#define RETRY_NS (2 * NS_PER_MS) /* for a host page, or for room in an events ring */

void stack_timers(struct stack *s, uint64_t now)
{
	timers_expire(s, stack_clock(s, now));
	window_reclaim(s, s->now);
	stack_rx_end(s, now);
	for (uint32_t i = 0; i < s->apps_end; i++)
		if (s->apps[i])
			deliver_pending(s, s->apps[i]);
}

static bool retry_is_due(const struct stack *s)
{
	if (!list_empty(&s->ack_list))
		return true;
	for (uint32_t i = 0; i < s->apps_end; i++)
		if (s->apps[i] && !list_empty(&s->apps[i]->deliver_list))
			return true;
	return false;
}

uint64_t stack_next_deadline(const struct stack *s)
{
	uint64_t when = STACK_NO_DEADLINE;

	if (s->timers.nr)
		when = s->flows.flows[s->timers.slot[1]].heap_when;
	if (s->now + RETRY_NS < when && retry_is_due(s))
		when = s->now + RETRY_NS;
	if (s->requests_left)
		when = s->now;
	if (when == STACK_NO_DEADLINE)
		return when;
	return when > s->now_ahead ? when - s->now_ahead : 0; /* by the caller's clock */
}
