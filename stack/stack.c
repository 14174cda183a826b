/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stack.c - the stack as its caller sees it: memory in, frames in, frames out.
 *
 *   stack_rx() -> wire_parse() -> flow_find() -> tcp_input() or tcp_listen_input()
 *
 * Who owns a net_iov: the pool, until stack_refill() gives it to the NIC; the packet,
 * from stack_rx() on; the frags cut from it; the tokens that frags turn into. When the
 * last of those is gone, stack_put_niov() gives it back to the pool.
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

/* A small ring: one thread returns all buffers, and what the cache does not take is better
 * off in the provider's stack, which is LIFO too and so hands out what is warm. */
#define POOL_RING 64

static struct page_pool_params rx_pool_params(struct stack *s)
{
	return (struct page_pool_params){
		.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV | PP_FLAG_ALLOW_UNREADABLE_NETMEM,
		.pool_size = POOL_RING,
		.nid = NUMA_NO_NODE,
		.dma_dir = DMA_FROM_DEVICE,
		.max_len = STACK_CHUNK_DATA,
		.mp = s ? &s->device->mp : NULL,
	};
}

static struct page_pool_params tx_pool_params(struct stack *s)
{
	return (struct page_pool_params){
		.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV,
		.pool_size = POOL_RING,
		.nid = NUMA_NO_NODE,
		.dma_dir = DMA_BIDIRECTIONAL,
		.max_len = NETMEM_PAGE_SIZE,
		.mp = s ? &s->host->mp : NULL,
	};
}

static bool config_ok(const struct stack_config *c)
{
	return c->nr_niovs >= 16 && c->nr_niovs <= TOKEN_SLOTS_MAX / 2 && c->nr_pages >= 16 &&
	       c->nr_pages <= 1u << 20 && c->nr_queues && c->nr_queues <= STACK_MAX_QUEUES &&
	       c->max_flows && c->max_flows < 1u << CHANNEL_FLOW_SLOT_BITS && c->max_listeners &&
	       c->max_listeners <= UINT16_MAX && c->fill_max && c->fill_min <= c->fill_max &&
	       c->mtu >= 576 && c->mtu <= 65535 && c->rcv_wnd_max && c->rcv_wnd_max <= 1u << 30 &&
	       c->delack_ns && c->delack_ns < 500 * NS_PER_MS && c->pressure <= PRESSURE_DROP;
}

static bool channel_geometry(const struct stack_config *c, struct channel_layout *l)
{
	/* Tokens outstanding, plus what a connection says besides fragments. */
	const uint32_t nr = power_of_two(2ull * c->nr_niovs + 8ull * c->max_flows);

	return channel_lay_out(l, nr, nr, c->max_flows + 1);
}

size_t stack_channel_size(const struct stack_config *config)
{
	struct channel_layout l;

	return config_ok(config) && channel_geometry(config, &l) ? l.size : 0;
}

/* Where everything lies behind struct stack; run once to measure and once for real. */
static void lay_out(struct stack *s, const struct stack_config *c, struct arena *a)
{
	const struct page_pool_params rx = rx_pool_params(NULL), tx = tx_pool_params(NULL);
	const uint32_t nr_frags = 2 * c->nr_niovs, nr_islands = c->nr_niovs;
	const uint32_t slots = c->max_flows + 1, buckets = power_of_two(slots);
	const uint32_t tx_ring = power_of_two(c->nr_pages);
	struct stack at;

	at.device = arena_take(a, device_provider_size(c->nr_niovs));
	at.host = arena_take(a, host_provider_size(c->nr_pages));
	at.rx_pool = arena_take(a, page_pool_size(&rx));
	at.tx_pool = arena_take(a, page_pool_size(&tx));
	at.tracker = arena_take(a, frag_tracker_size(c->nr_niovs, c->nr_pages));
	struct rx_frag *frags = arena_take(a, nr_frags * sizeof(*frags));
	struct island *islands = arena_take(a, nr_islands * sizeof(*islands));

	at.tokens.entry = arena_take(a, (2ul * c->nr_niovs + 1) * sizeof(struct token_entry));
	at.page_sent = arena_take(a, c->nr_pages);
	at.flows.flows = arena_take(a, slots * sizeof(struct flow));
	at.flows.buckets = arena_take(a, buckets * sizeof(uint32_t));
	at.timers.slot = arena_take(a, (slots + 1) * sizeof(uint32_t));
	at.listeners = arena_take(a, c->max_listeners * sizeof(struct listener));
	for (uint32_t q = 0; q < c->nr_queues; q++)
		at.tx[q].ring = arena_take(a, tx_ring * sizeof(struct tx_frame));
	if (!s)
		return;

	s->device = at.device;
	s->host = at.host;
	s->rx_pool = at.rx_pool;
	s->tx_pool = at.tx_pool;
	s->tracker = at.tracker;
	frag_pool_init(&s->frag_pool, frags, nr_frags, islands, nr_islands);
	s->tokens.entry = at.tokens.entry;
	s->tokens.nr = 2 * c->nr_niovs + 1;
	s->page_sent = at.page_sent;
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

static int init_memory(struct stack *s)
{
	const struct stack_config *c = &s->cfg;
	struct page_pool_params params;
	int rc;

	rc = device_provider_init(s->device, c->nr_niovs, 0, STACK_CHUNK, 2 * STACK_CHUNK);
	if (rc)
		return rc;
	rc = host_provider_init(s->host, c->nr_pages, c->page_base, c->page_umem_base, 0);
	if (rc)
		return rc;
	params = rx_pool_params(s);
	rc = page_pool_init(s->rx_pool, &params);
	if (rc)
		return rc;
	params = tx_pool_params(s);
	rc = page_pool_init(s->tx_pool, &params);
	if (rc)
		return rc;
	frag_tracker_init(s->tracker, s->device, s->host);
	token_table_init(&s->tokens);
	/* A batch of segments that carry nothing must find buffers even when every window
	 * is used to the last byte. */
	s->reserve = c->nr_niovs / 8 < 128 ? c->nr_niovs / 8 : 128;
	return 0;
}

static int init_channel(struct stack *s)
{
	struct channel_end *c = &s->channel;

	if (!channel_geometry(&s->cfg, &c->layout) || !s->cfg.channel ||
	    s->cfg.channel_size < c->layout.size)
		return -EINVAL;
	c->header = (struct channel_header *)s->cfg.channel;
	c->events = (struct channel_event *)(s->cfg.channel + c->layout.events);
	c->requests = (struct channel_request *)(s->cfg.channel + c->layout.requests);
	c->conns = (struct channel_conn *)(s->cfg.channel + c->layout.conns);
	c->replies = s->cfg.channel + c->layout.replies;
	channel_format(s);
	return 0;
}

int stack_init(struct stack *mem, const struct stack_config *config)
{
	struct stack *s = mem;
	struct arena a = {.base = (uint8_t *)mem, .used = sizeof(struct stack)};
	int rc;

	if (!config_ok(config) || !config->header_base || !config->page_base)
		return -EINVAL;
	s->cfg = *config;
	lay_out(s, config, &a);
	rc = init_memory(s);
	if (rc)
		return rc;
	rc = init_channel(s);
	if (rc)
		return rc;
	s->flows.key = s->cfg.isn_key;
	flow_table_init(&s->flows);
	timer_heap_init(&s->timers);
	list_init(&s->ack_list);
	list_init(&s->starved);
	list_init(&s->deliver_list);
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

/* ---- net_iovs ---- */

void stack_drop_frags(struct stack *s, struct frag_list *list, enum frag_state from)
{
	struct rx_frag *f;

	while ((f = frag_list_pop(list))) {
		frag_move(s->tracker, f->frag.netmem, from, FRAG_FREE);
		page_pool_put_netmem(s->rx_pool, f->frag.netmem, true);
		frag_free(&s->frag_pool, f);
	}
}

void stack_settle_payload(struct stack *s, struct flow *f, struct payload *p, enum frag_state state)
{
	for (uint32_t i = 0; i < p->nr; i++) {
		const netmem_ref netmem = p->chunk[i];

		if (!p->uses[i]) {
			frag_track(s->tracker, netmem, FRAG_FREE, 0);
			page_pool_put_netmem(s->rx_pool, netmem, true);
			continue;
		}
		frag_track(s->tracker, netmem, state, f->id);
		while (--p->uses[i]) {
			page_pool_ref_netmem(netmem);
			frag_split(s->tracker, netmem, state);
		}
	}
	p->settled = true;
}

uint32_t stack_refill(struct stack *s, uint32_t queue, uint32_t *niovs, uint32_t max)
{
	struct rx_queue *q = &s->rx[queue];
	const uint32_t target = window_fill_target(s, queue);
	uint32_t nr = 0;

	while (nr < max && q->fill < target) {
		const netmem_ref netmem = page_pool_alloc_netmem(s->rx_pool);
		const struct net_iov *niov;

		if (netmem_is_none(netmem)) {
			s->stats.pool_empty++;
			break;
		}
		niov = netmem_to_net_iov(netmem);
		if (!niov) { /* only net_iovs may be filled: the payload must not be readable */
			page_pool_put_netmem(s->rx_pool, netmem, true);
			break;
		}
		frag_track(s->tracker, netmem, FRAG_FILL, 0);
		niovs[nr++] = net_iov_index(niov);
		q->fill++;
	}
	return nr;
}

/* ---- frames in ---- */

static bool has_chunk(const struct payload *p, netmem_ref netmem)
{
	for (uint32_t i = 0; i < p->nr; i++)
		if (netmem_equal(p->chunk[i], netmem))
			return true;
	return false;
}

/* The packet's chunks, out of the fill ring and into our hands. Descriptors are checked
 * against what was really given to the NIC: one that was not is nobody's. */
static void claim_chunks(struct stack *s, const struct rx_packet *packet, struct payload *p)
{
	p->nr = 0;
	p->settled = false;
	for (uint32_t i = 0; i < packet->nr_chunks && i < STACK_MAX_CHUNKS; i++) {
		const struct rx_chunk *chunk = &packet->chunk[i];
		netmem_ref netmem;

		if (chunk->niov >= s->cfg.nr_niovs)
			continue;
		netmem = net_iov_to_netmem(device_provider_niov(s->device, chunk->niov));
		if (frag_state_of(s->tracker, netmem) != FRAG_FILL || has_chunk(p, netmem))
			continue;
		s->rx[packet->queue].fill--;
		p->chunk[p->nr] = netmem;
		p->len[p->nr] = chunk->len;
		p->uses[p->nr++] = 0;
	}
}

static enum drop rx_segment(struct stack *s, const struct rx_packet *packet, struct payload *p,
			    uint64_t now)
{
	const uint8_t *end = s->cfg.header_base + (packet->chunk[0].niov + 1ul) * STACK_CHUNK;
	struct seg seg;
	struct flow *f;
	enum drop drop;

	if (p->nr != packet->nr_chunks || !p->nr)
		return DROP_RECORD;
	drop = wire_parse(end, packet, &seg);
	if (drop)
		return drop;
	s->stats.rx_csum_partial += seg.csum_partial;
	f = flow_find(&s->flows, &seg.tuple);
	return f ? tcp_input(s, f, &seg, p, now) : tcp_listen_input(s, &seg, now);
}

void stack_rx(struct stack *s, const struct rx_packet *packet, uint64_t now)
{
	struct payload p;
	enum drop drop;

	if (packet->queue >= s->cfg.nr_queues)
		return;
	s->now = now;
	claim_chunks(s, packet, &p);
	s->stats.rx_segments++;
	drop = rx_segment(s, packet, &p, now);
	if (drop)
		s->stats.drops[drop]++;
	if (!p.settled)
		stack_settle_payload(s, NULL, &p, FRAG_FREE);
}

void stack_rx_discard(struct stack *s, const struct rx_packet *packet)
{
	struct payload p;

	if (packet->queue >= s->cfg.nr_queues)
		return;
	claim_chunks(s, packet, &p);
	s->stats.drops[DROP_TRUNCATED]++;
	stack_settle_payload(s, NULL, &p, FRAG_FREE);
}

void stack_rx_end(struct stack *s, uint64_t now)
{
	struct list_node *n, *next;

	for (n = s->ack_list.next; n != &s->ack_list; n = next) {
		next = n->next;
		tcp_ack_decide(s, container_of(n, struct flow, ack_node), now);
	}
}

/* ---- frames out ---- */

uint32_t stack_tx(struct stack *s, uint32_t queue, struct tx_frame *frames, uint32_t max)
{
	struct tx_queue *q = &s->tx[queue];
	uint32_t nr = 0;

	while (nr < max && q->tail != q->head) {
		frames[nr] = q->ring[q->tail++ & q->mask];
		s->page_sent[frames[nr++].page] = 1;
	}
	return nr;
}

void stack_tx_done(struct stack *s, uint32_t page)
{
	netmem_ref netmem;

	if (page >= s->cfg.nr_pages || !s->page_sent[page]) {
		s->stats.tx_done_rejected++;
		return;
	}
	s->page_sent[page] = 0;
	netmem = page_to_netmem(host_provider_page(s->host, page));
	frag_track(s->tracker, netmem, FRAG_FREE, 0);
	page_pool_put_netmem(s->tx_pool, netmem, true);
}

/* ---- time ---- */

#define RETRY_NS (2 * NS_PER_MS) /* for a host page, or for room in the events ring */

void stack_timers(struct stack *s, uint64_t now)
{
	s->now = now;
	timers_expire(s, now);
	stack_rx_end(s, now);
	deliver_pending(s);
}

uint64_t stack_next_deadline(const struct stack *s)
{
	uint64_t when = STACK_NO_DEADLINE;

	if (s->timers.nr)
		when = s->flows.flows[s->timers.slot[1]].heap_when;
	if ((!list_empty(&s->ack_list) || !list_empty(&s->deliver_list)) &&
	    s->now + RETRY_NS < when)
		when = s->now + RETRY_NS;
	return when;
}

/* ---- looking inside ---- */

void stack_stats(const struct stack *s, struct stack_stats *out)
{
	*out = s->stats;
	out->flows_now = s->flows.live;
	out->tokens_outstanding = s->tokens.live;
	out->niovs_free = frag_count(s->tracker, FRAG_NET_IOV, FRAG_FREE);
	out->niovs_fill = frag_count(s->tracker, FRAG_NET_IOV, FRAG_FILL);
	out->niovs_queued = frag_count(s->tracker, FRAG_NET_IOV, FRAG_RECEIVED);
	out->niovs_ooo = frag_count(s->tracker, FRAG_NET_IOV, FRAG_OOO);
	out->niovs_lent = frag_count(s->tracker, FRAG_NET_IOV, FRAG_LENT);
	out->pages_free = frag_count(s->tracker, FRAG_HOST_PAGE, FRAG_FREE);
	out->rcv_wnd_promised = s->promised;
}

int stack_flow(const struct stack *s, uint32_t from, struct flow_info *out)
{
	for (uint32_t slot = from ? from : 1; slot < s->flows.nr; slot++) {
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

int stack_frag(const struct stack *s, uint32_t n, struct frag_record *out)
{
	return frag_tracker_record(s->tracker, n, out);
}

int stack_check(const struct stack *s)
{
	return frag_tracker_check(s->tracker);
}
