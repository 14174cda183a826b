/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stack_walk.h - a whole stack and all that is around it: a NIC with three queues, areas that
 * come and go, three applications, peers whose segments nearly fit. Nothing in here decides
 * anything: each choice is asked of walk_draw(), which a test serves from a generator and a
 * fuzzer from its input.
 *
 *   walk_start() -> receive(), consume(), ask(), turn(), restart_queue() ... in any order
 *                -> wind_down() -> walk_end()
 *
 * Areas and applications that are closed are freed at once, so that nothing may remember them.
 */
#ifndef DEVMEMTCP_STACK_WALK_H
#define DEVMEMTCP_STACK_WALK_H

#include <errno.h>
#include "check.h"
#include "core.h"
#include "stack_fixture.h"
#include "steer.h"

#ifdef __has_feature
#if __has_feature(memory_sanitizer)
#include <sanitizer/msan_interface.h>
#define WALK_UNDER_MSAN
#endif
#endif

#define AREAS 6
#define AREA_NIOVS 64
#define PAGES 24
#define QUEUES 3
#define FLOWS 12
#define APPS 3
#define BLOCKS 8
#define FILL 32
#define PAGE 4096u
#define MS 1000000ull

struct walk_area {
	struct stack_area_config cfg;
	void *mem;
	bool open;
};

struct walk_app {
	struct stack_app_config cfg;
	struct channel_layout layout;
	void *mem;
	bool open;
};

static struct walk {
	struct stack *stack;
	struct stack_config cfg;
	uint32_t pressure;
	uint64_t now;
	struct walk_area areas[AREAS]; /* by number */
	int area[QUEUES]; /* or -1 */
	struct walk_app apps[APPS]; /* by number */
	uint32_t fill[QUEUES][AREA_NIOVS];
	uint32_t nr_fill[QUEUES];
	struct {
		uint32_t page, queue;
	} sent[PAGES]; /* with the NIC */
	uint32_t nr_sent;
	uint32_t next_dmabuf;
	uint32_t closed_late, copied;
	struct channel_event seen; /* the last event with a token or an id worth abusing */
} w;

/* A number below `below`, which is not 0: the includer's. */
static uint32_t walk_draw(uint32_t below);

static inline uint32_t chance(uint32_t below)
{
	return walk_draw(below);
}

static inline bool one_in(uint32_t n)
{
	return !chance(n);
}

/* Pages that are somebody else's to fill: whatever lies in them has been written. */
static inline void *allocate_pages(size_t size)
{
	void *p;

	if (posix_memalign(&p, PAGE, size))
		abort();
#ifdef WALK_UNDER_MSAN
	__msan_unpoison(p, size);
#endif
	return p;
}

/* What the stack has to fill in itself: MSan knows that nobody has yet, others see garbage. */
static inline void *allocate(size_t size)
{
	void *p;

	if (posix_memalign(&p, 64, size))
		abort();
#ifndef WALK_UNDER_MSAN
	memset(p, 0xa5, size);
#endif
	return p;
}

/* ---- areas ---- */

/* Indices that run free wrap after 2^32: let it be soon. */
#define SOON (0u - 1000)

/* Each piece of memory is its own allocation, so that a step outside is seen. */
static inline int open_area(bool device)
{
	struct walk_area a = {.cfg = {.nr_niovs = 16 + chance(AREA_NIOVS - 15)}, .open = true};
	struct page_pool *pool;
	int number;

	if (device)
		a.cfg.dmabuf_id = ++w.next_dmabuf;
	else
		a.cfg.data_base = allocate_pages(a.cfg.nr_niovs * PAGE);
	a.cfg.header_base = allocate_pages(a.cfg.nr_niovs * PAGE);
	a.mem = allocate(stack_area_size(&a.cfg));
	number = stack_area_open(w.stack, a.mem, &a.cfg);
	if (number < 0) {
		CHECK_EQ(number, -ENOSPC);
		free(a.mem);
		free(a.cfg.header_base);
		free(a.cfg.data_base);
		return number;
	}
	CHECK(!w.areas[number].open);
	w.areas[number] = a;
	pool = w.stack->areas[number]->pool;
	pool->ring_head = pool->ring_tail = SOON;
	pool->pages_state_hold_cnt = pool->pages_state_release_cnt = SOON;
	return number;
}

/* At 0 its memory is ours again, and gone. */
static inline void try_close_area(int number)
{
	struct walk_area *a = &w.areas[number];
	int left;

	if (!a->open)
		return;
	for (uint32_t q = 0; q < QUEUES; q++) {
		if (w.area[q] == number) {
			CHECK_EQ(stack_area_close(w.stack, number), -EBUSY);
			return;
		}
	}
	left = stack_area_close(w.stack, number);
	CHECK(left >= 0);
	if (left) {
		w.closed_late++;
		CHECK_EQ(stack_queue_attach(w.stack, 0, number), -EBUSY);
		return;
	}
	for (int i = 0; i < APPS; i++)
		CHECK(!w.apps[i].open || !w.stack->apps[i]->held[number]);
	free(a->mem);
	free(a->cfg.header_base);
	free(a->cfg.data_base);
	*a = (struct walk_area){0};
}

/* The kernel's end of the queue is closed: nobody writes to what was in its rings any more. */
static inline void detach(uint32_t q)
{
	uint32_t kept = 0;

	stack_queue_detach(w.stack, q);
	w.area[q] = -1;
	w.nr_fill[q] = 0;
	for (uint32_t i = 0; i < w.nr_sent; i++)
		if (w.sent[i].queue != q)
			w.sent[kept++] = w.sent[i];
	w.nr_sent = kept;
}

/* To a new area, or one that another queue has; sometimes to none for a while. */
static inline void restart_queue(uint32_t q)
{
	const uint32_t other = chance(QUEUES);
	int number;

	if (w.area[q] >= 0)
		detach(q);
	if (one_in(4))
		return;
	number = one_in(3) && w.area[other] >= 0 ? w.area[other] : open_area(!one_in(3));
	if (number < 0 || stack_queue_attach(w.stack, q, number))
		return;
	w.area[q] = number;
	CHECK_EQ(stack_queue_attach(w.stack, q, number), -EBUSY);
}

/* ---- applications ---- */

static inline void listen_on(int app, uint16_t port, uint16_t family, uint32_t flags)
{
	struct stack_addr addr = {.port = port, .family = family};
	const uint32_t pressure = one_in(4) ? PRESSURE_DROP : w.pressure;

	if (family == 4)
		addr.ip[10] = addr.ip[11] = 0xff;
	stack_listen(w.stack, app, &addr, flags, 6, pressure);
}

static inline void open_app(void)
{
	struct walk_app a = {
		.cfg = {.nr_events = one_in(3) ? 8 : 512,
			.nr_requests = one_in(3) ? 4 : 512,
			.nr_blocks = 1 + chance(BLOCKS)},
		.open = true,
	};
	struct application *app;
	int number;

	CHECK(channel_lay_out(&a.layout, a.cfg.nr_events, a.cfg.nr_requests, FLOWS + 1,
			      a.cfg.nr_blocks));
	a.cfg.channel_size = stack_channel_size(&w.cfg, &a.cfg);
	CHECK_EQ(a.cfg.channel_size, a.layout.size);
	a.cfg.channel = allocate_pages(a.cfg.channel_size);
	a.mem = allocate(stack_app_size(&a.cfg));
	number = stack_app_open(w.stack, a.mem, &a.cfg);
	CHECK(number >= 0 && number < APPS && !w.apps[number].open);
	w.apps[number] = a;
	app = w.stack->apps[number];
	app->event_head = app->request_tail = SOON;
	app->header->event_head = app->header->event_tail = SOON;
	app->header->request_head = app->header->request_tail = SOON;
	listen_on(number, (uint16_t)(80 + number), 4, one_in(2) ? LISTEN_CLOSE_FIRST : 0);
	if (one_in(2))
		listen_on(number, (uint16_t)(80 + number), 6, 0);
}

/* What is counted for an application is what its flows have. */
static inline void check_app(int number)
{
	const struct application *app = w.stack->apps[number];
	uint32_t tokens = 0, conns = 0, blocks = 0, promised[QUEUES] = {0}, held = 0;

	for (uint32_t slot = 1; slot <= FLOWS; slot++) {
		const struct flow *f = &w.stack->flows.flows[slot];

		if (!f->id || f->app != app)
			continue;
		conns += f->app_open;
		blocks += f->blocks;
		tokens += f->tokens + f->rcvq.nr + f->ooo.frags;
		if (f->pressure == PRESSURE_WINDOW)
			promised[f->queue] += f->promised;
	}
	for (uint32_t i = 0; i < AREAS; i++)
		held += app->held[i];
	CHECK_EQ(held, tokens);
	CHECK_EQ(app->nr_conns, conns);
	CHECK_EQ(app->blocks.nr - app->blocks.nr_free, blocks);
	for (uint32_t q = 0; q < QUEUES; q++)
		CHECK_EQ(app->promised[q], promised[q]);
}

static inline void close_app(int number)
{
	struct walk_app *a = &w.apps[number];

	CHECK_EQ(stack_app_close(w.stack, number), 0);
	CHECK_EQ(stack_app_close(w.stack, number), -ENOENT);
	free(a->mem);
	free(a->cfg.channel);
	*a = (struct walk_app){0};
}

/* ---- set-up ---- */

static inline void walk_start(uint32_t pressure)
{
	memset(&w, 0, sizeof(w));
	w.pressure = pressure;
	w.now = 1000 * MS;
	w.cfg = stack_config_of_tests();
	w.cfg.max_niovs = 4 * AREA_NIOVS;
	w.cfg.max_areas = AREAS;
	w.cfg.max_apps = APPS;
	w.cfg.nr_pages = PAGES;
	w.cfg.page_base = allocate_pages(PAGES * PAGE);
	w.cfg.nr_queues = QUEUES;
	w.cfg.max_flows = FLOWS;
	w.cfg.max_listeners = 8;
	w.cfg.fill_max = FILL;
	w.cfg.time_wait_ms = 300;
	w.stack = allocate(stack_size(&w.cfg));
	memset(w.stack, 0, stack_size(&w.cfg));
	CHECK_EQ(stack_init(w.stack, &w.cfg), 0);
	for (uint32_t q = 0; q < QUEUES; q++) {
		w.stack->tx[q].head = w.stack->tx[q].tail = SOON;
		w.area[q] = open_area(q < QUEUES - 1);
		CHECK_EQ(stack_queue_attach(w.stack, q, w.area[q]), 0);
	}
	for (uint32_t i = 0; i < APPS; i++)
		open_app();
}

static inline void walk_end(void)
{
	free(w.cfg.page_base);
	free(w.stack);
}

/* ---- the NIC ---- */

static inline void refill(void)
{
	for (uint32_t q = 0; q < QUEUES; q++)
		w.nr_fill[q] += stack_refill(w.stack, q, w.fill[q] + w.nr_fill[q],
					     FILL > w.nr_fill[q] ? FILL - w.nr_fill[q] : 0);
}

static inline void complete(uint32_t leave)
{
	while (w.nr_sent > leave)
		stack_tx_done(w.stack, w.sent[--w.nr_sent].page);
}

static inline void transmit(void)
{
	struct tx_frame frames[8];
	uint32_t nr;

	for (uint32_t q = 0; q < QUEUES; q++) {
		while ((nr = stack_tx(w.stack, q, frames, 8))) {
			CHECK(w.area[q] >= 0);
			for (uint32_t i = 0; i < nr; i++) {
				CHECK(frames[i].len <= w.cfg.mtu + 14);
				w.sent[w.nr_sent].page = frames[i].page;
				w.sent[w.nr_sent++].queue = q;
			}
		}
	}
	complete(one_in(4) ? chance(PAGES) : 0);
}

/* ---- segments ---- */

/* Mostly where the connection stands, sometimes around it, seldom anywhere. */
static inline uint32_t near(uint32_t where, uint32_t spread)
{
	switch (chance(8)) {
	case 0:
		return where + chance(spread);
	case 1:
		return where - chance(spread);
	case 2:
		return one_in(8) ? chance(UINT32_MAX) : where + chance(4) - 2;
	default:
		return where;
	}
}

static inline uint8_t some_flags(bool known)
{
	static const uint8_t usual[] = {0x10, 0x10, 0x18, 0x10, 0x11, 0x10, 0x18, 0x14};

	if (!known)
		return one_in(4) ? (uint8_t)chance(256) : 0x02;
	if (one_in(40))
		return (uint8_t)chance(256);
	return usual[one_in(8) ? chance(8) : chance(4)];
}

static inline uint32_t put_options(uint8_t *p, bool syn)
{
	uint32_t len = 0;

	if (syn && one_in(2)) {
		memcpy(p, "\x02\x04\x05\xb4\x01\x03\x03\x07\x04\x02\x01\x01", 12);
		len = 12;
	}
	if (one_in(2)) {
		memcpy(p + len, "\x01\x01\x08\x0a", 4);
		put32(p + len + 4, (uint32_t)(w.now / MS) + (one_in(9) ? chance(99) : 0));
		put32(p + len + 8, chance(UINT32_MAX));
		len += 12;
	}
	if (one_in(6)) {
		for (uint32_t i = 0; i < 12; i++)
			p[len + i] = (uint8_t)(one_in(2) ? chance(10) : chance(256));
		len += 12;
	}
	return len;
}

struct headers {
	uint8_t bytes[RX_HDR_MAX];
	struct rx_info info;
};

static inline void build(struct headers *h, uint32_t payload, uint32_t linear)
{
	struct flow_info f = {0};
	const bool known = !one_in(6) && stack_flow(w.stack, chance(FLOWS), &f) > 0;
	const bool six = known ? f.local.family == 6 : one_in(4);
	uint8_t *ip = h->bytes + 14, *tcp = ip + (six ? 40 : 20);
	const uint8_t flags = some_flags(known);
	uint32_t options;

	memset(h, 0, sizeof(*h));
	if (six) {
		memset(ip + 8, 0x20, 32);
		ip[23] = known ? f.peer.ip[15] : 2;
	} else {
		memcpy(ip + 12, "\xc0\x00\x02\x02\xc0\x00\x02\x01", 8);
	}
	put16(tcp, known ? f.peer.port : 1024 + chance(20));
	put16(tcp + 2, known ? f.local.port : 80 + chance(4));
	put32(tcp + 4, near(f.rcv_nxt, one_in(4) ? 100000 : 3000));
	put32(tcp + 8, near(f.snd_nxt, 2000));
	options = put_options(tcp + 20, flags & 0x02);
	tcp[12] = (uint8_t)((20 + options) / 4 << 4);
	tcp[13] = flags;
	put16(tcp + 14, one_in(4) ? chance(3) : chance(65536));

	h->info = (struct rx_info){
		.magic = RX_INFO_MAGIC,
		.hdr_len = (uint8_t)(tcp + 20 + options - h->bytes),
		.l3_off = 14,
		.l4_off = (uint8_t)(tcp - h->bytes),
		.family = six ? 6 : 4,
		.csum = RX_CSUM_VERIFIED,
		.payload_len = payload,
		.linear = (uint8_t)linear,
	};
}

static inline void mutate(uint8_t *bytes, uint32_t len)
{
	for (uint32_t n = 1 + chance(3); n; n--)
		bytes[chance(len)] = (uint8_t)chance(256);
}

static inline uint32_t some_length(void)
{
	switch (chance(8)) {
	case 0:
		return chance(20);
	case 1:
		return chance(20000);
	case 2:
	case 3:
		return 0;
	default:
		return chance(1460);
	}
}

/* What the split leaves in the head of a packet: nothing, some, all of a short one. */
static inline uint32_t some_linear(uint32_t payload)
{
	const uint32_t most = payload < 40 ? payload : 40;

	return one_in(2) ? 0 : one_in(2) ? most : chance(most + 1);
}

static inline bool take_chunks(struct rx_packet *packet, uint32_t left)
{
	const uint32_t q = packet->queue;

	if (w.area[q] < 0 || w.nr_fill[q] * STACK_CHUNK_DATA < left)
		return false;
	while (left) {
		struct rx_chunk *chunk = &packet->chunk[packet->nr_chunks++];

		chunk->niov = w.fill[q][--w.nr_fill[q]];
		chunk->len = left < STACK_CHUNK_DATA ? left : STACK_CHUNK_DATA;
		left -= chunk->len;
	}
	return true;
}

/* Record and headers, the first payload bytes behind them, as the XDP program leaves them. */
static inline void place(uint8_t *d, struct headers *h)
{
	const uint32_t front = h->info.hdr_len + h->info.linear;

	if (front <= RX_HDR_MAX)
		memcpy(d - front, h->bytes, h->info.hdr_len);
	if (one_in(20))
		mutate((uint8_t *)&h->info, sizeof(h->info));
	memcpy(d - RX_META_LEN, &h->info, sizeof(h->info));
}

static inline void receive(void)
{
	const uint32_t payload = some_length(), linear = some_linear(payload);
	const uint32_t rest = payload - linear;
	struct rx_packet packet = {.queue = chance(QUEUES)};
	const struct walk_area *a;
	struct headers h;

	if (!take_chunks(&packet, rest < RX_MIN_LINEAR ? RX_MIN_LINEAR : rest))
		return;
	if (one_in(50)) {
		stack_rx_discard(w.stack, &packet, DROP_TRUNCATED);
		return;
	}
	build(&h, payload, linear);
	if (one_in(12))
		mutate(h.bytes, h.info.hdr_len);
	a = &w.areas[w.area[packet.queue]];
	place(a->cfg.header_base + (packet.chunk[0].niov + 1ul) * PAGE, &h);
	if (one_in(100)) /* as a packet of another queue, whose buffers these may not be */
		packet.queue = chance(QUEUES);
	stack_rx(w.stack, &packet, w.now);
}

/* ---- the applications ---- */

static inline struct channel_header *channel(const struct walk_app *a)
{
	return (struct channel_header *)a->cfg.channel;
}

static inline void request(const struct walk_app *a, uint32_t kind, uint32_t flow, uint32_t x,
			   uint32_t y)
{
	struct channel_request *ring =
		(struct channel_request *)(a->cfg.channel + a->layout.requests);
	const uint32_t head = atomic_load(&channel(a)->request_head);

	if (head - atomic_load(&channel(a)->request_tail) >= a->layout.nr_requests)
		return;
	ring[head & (a->layout.nr_requests - 1)] =
		(struct channel_request){.kind = kind, .flow = flow, .a = x, .b = y};
	atomic_store(&channel(a)->request_head, head + 1);
}

/* What the stack says is always true. */
static inline void check_event(const struct walk_app *a, const struct channel_event *e)
{
	if (e->kind == EVENT_DATA) {
		CHECK(e->token >= 1 && e->token <= a->layout.nr_blocks);
		CHECK_EQ(e->offset, (e->token - 1ull) * CHANNEL_BLOCK);
		CHECK(e->len >= 1 && e->len <= CHANNEL_BLOCK);
		CHECK(CHANNEL_DATA_KIND(e->arg) == RX_LINEAR ||
		      CHANNEL_DATA_KIND(e->arg) == RX_DATA);
		w.copied++;
	} else if (e->kind == EVENT_FRAG) {
		CHECK(e->token >= 1 && e->arg >= 1 && e->arg <= w.next_dmabuf);
		CHECK(e->offset + e->len <= AREA_NIOVS * PAGE);
	} else {
		CHECK(e->kind >= EVENT_ACCEPT && e->kind <= EVENT_CLOSED);
	}
}

/* Return some tokens and blocks, lose others; let go of connections that ended. */
static inline void consume(const struct walk_app *a)
{
	const struct channel_event *ring =
		(const struct channel_event *)(a->cfg.channel + a->layout.events);
	uint32_t tail = atomic_load(&channel(a)->event_tail);

	for (; tail != atomic_load(&channel(a)->event_head); tail++) {
		const struct channel_event *e = &ring[tail & (a->layout.nr_events - 1)];

		check_event(a, e);
		if (e->kind == EVENT_FRAG && !one_in(16))
			request(a, REQUEST_DONTNEED, e->flow, e->token, 1);
		else if (e->kind == EVENT_DATA && !one_in(16))
			request(a, REQUEST_BLOCK, e->flow, e->token, 1);
		else if (e->kind == EVENT_EOF || e->kind == EVENT_RESET)
			request(a, REQUEST_CLOSE, e->flow, 0, 0);
		if (e->kind != EVENT_CLOSED && one_in(3))
			w.seen = *e;
	}
	atomic_store(&channel(a)->event_tail, tail);
}

static inline void turn(void)
{
	stack_rx_end(w.stack, w.now);
	stack_requests(w.stack, w.now);
	stack_timers(w.stack, w.now);
	refill();
	transmit();
	for (int i = 0; i < APPS; i++)
		stack_events_pushed(w.stack, i);
}

/* Indices that cannot be, for a turn; then it is honest again, and has missed some events. */
static inline void lie(const struct walk_app *a)
{
	if (one_in(2))
		atomic_store(&channel(a)->request_head, chance(UINT32_MAX));
	else
		atomic_store(&channel(a)->event_tail, chance(UINT32_MAX));
	turn();
	atomic_store(&channel(a)->request_head, atomic_load(&channel(a)->request_tail));
	atomic_store(&channel(a)->event_tail, atomic_load(&channel(a)->event_head));
}

/* Of what it has, or of what another has. */
static inline void ask(const struct walk_app *a)
{
	const uint32_t flow = one_in(10) ? chance(UINT32_MAX) : w.seen.flow;

	switch (chance(12)) {
	case 0:
		request(a, REQUEST_SHUTDOWN + chance(3), flow, 0, 0);
		break;
	case 1:
		request(a, chance(9), flow, chance(UINT32_MAX), chance(UINT32_MAX));
		break;
	case 2:
		request(a, REQUEST_DONTNEED, flow, w.seen.token - chance(3), chance(40));
		break;
	case 3:
		request(a, REQUEST_BLOCK, flow, chance(BLOCKS + 2), chance(BLOCKS));
		break;
	case 4:
		lie(a);
		break;
	default:
		request(a, REQUEST_SEND, flow, chance(CHANNEL_REPLY_BYTES), chance(6000));
	}
}

/* ---- the end ---- */

/* Nobody is left: time alone must bring everything home. */
static inline void wind_down(void)
{
	struct stack_stats stats;

	for (int i = 0; i < APPS; i++)
		if (w.apps[i].open)
			close_app(i);
	for (uint32_t i = 0; i < 10000; i++) {
		const uint64_t deadline = stack_next_deadline(w.stack);

		turn();
		complete(0);
		if (deadline == STACK_NO_DEADLINE)
			break;
		w.now = deadline > w.now ? deadline : w.now;
	}
	stack_stats(w.stack, &stats);
	CHECK_EQ(stats.flows_now, 0);
	CHECK_EQ(stats.tokens_outstanding, 0);
	CHECK_EQ(stats.rcv_wnd_promised, 0);
	for (uint32_t q = 0; q < QUEUES; q++) {
		CHECK_EQ(w.stack->rx[q].promised + w.stack->rx[q].promised_embryos, 0);
		CHECK_EQ(w.stack->rx[q].unbacked, 0);
		if (w.area[q] >= 0)
			detach(q);
	}
	CHECK_EQ(stack_check(w.stack), 0);
	for (int i = 0; i < AREAS; i++) {
		try_close_area(i);
		CHECK(!w.areas[i].open);
	}
	stack_stats(w.stack, &stats);
	CHECK_EQ(stats.niovs_free + stats.niovs_fill + stats.host_free + stats.host_fill, 0);
	CHECK_EQ(w.stack->niovs_open, 0);
	CHECK_EQ(w.stack->frag_pool.nr_free_frags, 3 * w.cfg.max_niovs);
	CHECK_EQ(stats.pages_free + w.stack->tx[0].head - w.stack->tx[0].tail +
			 w.stack->tx[1].head - w.stack->tx[1].tail + w.stack->tx[2].head -
			 w.stack->tx[2].tail,
		 PAGES);
}

#endif
