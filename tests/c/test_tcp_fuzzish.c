/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A long random walk through the whole stack: segments that nearly fit, segments that
 * do not, mutated headers and records, an application that asks for anything, a NIC that
 * is slow, a clock that jumps. What it looks for is what the sanitizers see, plus
 * stack_check() all the way and every buffer home at the end.
 */
#include "check.h"
#include "core.h"
#include "steer.h"

#define NIOVS 96
#define PAGES 24
#define QUEUES 2
#define FLOWS 12
#define FILL 32
#define STEPS 200000
#define PAGE 4096u
#define MS 1000000ull

static struct walk {
	struct stack *stack;
	struct stack_config cfg;
	struct channel_layout layout;
	uint64_t random;
	uint64_t now;
	uint32_t fill[QUEUES][NIOVS];
	uint32_t nr_fill[QUEUES];
	uint32_t sent[PAGES]; /* with the NIC */
	uint32_t nr_sent;
	struct channel_event seen; /* the last event with a token or an id worth abusing */
} w;

static uint32_t chance(uint32_t below)
{
	return check_random(&w.random, below);
}

static bool one_in(uint32_t n)
{
	return !chance(n);
}

/* ---- set-up ---- */

static void listen_on(uint16_t port, uint16_t family, uint32_t flags)
{
	struct stack_addr addr = {.port = port, .family = family};

	if (family == 4)
		addr.ip[10] = addr.ip[11] = 0xff;
	stack_listen(w.stack, &addr, flags, 6);
}

static void *allocate(size_t alignment, size_t size)
{
	void *p;

	if (posix_memalign(&p, alignment, size))
		abort();
	return memset(p, 0, size);
}

/* Indices that run free wrap after 2^32: let it be soon. */
static void wind_forward(void)
{
	const uint32_t start = 0u - 1000;
	struct stack *s = w.stack;

	s->channel.event_head = s->channel.request_tail = start;
	s->channel.header->event_head = s->channel.header->event_tail = start;
	s->channel.header->request_head = s->channel.header->request_tail = start;
	for (uint32_t q = 0; q < QUEUES; q++)
		s->tx[q].head = s->tx[q].tail = start;
	s->rx_pool->ring_head = s->rx_pool->ring_tail = start;
	s->tx_pool->ring_head = s->tx_pool->ring_tail = start;
	s->rx_pool->pages_state_hold_cnt = s->rx_pool->pages_state_release_cnt = start;
	s->tx_pool->pages_state_hold_cnt = s->tx_pool->pages_state_release_cnt = start;
}

/* Each piece of memory is its own allocation, so that a step outside is seen. */
static void start(uint64_t seed, uint32_t pressure)
{
	memset(&w, 0, sizeof(w));
	w.random = seed;
	w.now = 1000 * MS;
	w.cfg = (struct stack_config){
		.nr_niovs = NIOVS,
		.nr_pages = PAGES,
		.header_base = allocate(PAGE, NIOVS * PAGE),
		.page_base = allocate(PAGE, PAGES * PAGE),
		.nr_queues = QUEUES,
		.max_flows = FLOWS,
		.max_listeners = 4,
		.fill_min = 8,
		.fill_max = FILL,
		.mtu = 1500,
		.rcv_wnd_max = 1 << 18,
		.delack_ns = 40 * MS,
		.time_wait_ms = 300,
		.pressure = pressure,
		.isn_key = "a secret of ours",
	};
	w.cfg.channel_size = stack_channel_size(&w.cfg);
	w.cfg.channel = allocate(64, w.cfg.channel_size);
	w.stack = allocate(64, stack_size(&w.cfg));
	CHECK_EQ(stack_init(w.stack, &w.cfg), 0);
	wind_forward();

	const struct channel_header *h = (const struct channel_header *)w.cfg.channel;

	CHECK(channel_lay_out(&w.layout, h->nr_events, h->nr_requests, h->nr_conns));
	listen_on(80, 4, 0);
	listen_on(81, 4, LISTEN_CLOSE_FIRST);
	listen_on(80, 6, 0);
}

static void end(void)
{
	free(w.cfg.header_base);
	free(w.cfg.page_base);
	free(w.cfg.channel);
	free(w.stack);
}

/* ---- the NIC ---- */

static void refill(void)
{
	for (uint32_t q = 0; q < QUEUES; q++)
		w.nr_fill[q] += stack_refill(w.stack, q, w.fill[q] + w.nr_fill[q],
					     FILL > w.nr_fill[q] ? FILL - w.nr_fill[q] : 0);
}

static void complete(uint32_t leave)
{
	while (w.nr_sent > leave)
		stack_tx_done(w.stack, w.sent[--w.nr_sent]);
}

static void transmit(void)
{
	struct tx_frame frames[8];
	uint32_t nr;

	for (uint32_t q = 0; q < QUEUES; q++) {
		while ((nr = stack_tx(w.stack, q, frames, 8))) {
			for (uint32_t i = 0; i < nr; i++) {
				CHECK(frames[i].len <= w.cfg.mtu + 14);
				w.sent[w.nr_sent++] = frames[i].page;
			}
		}
	}
	complete(one_in(4) ? chance(PAGES) : 0);
}

/* ---- segments ---- */

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

/* Mostly where the connection stands, sometimes around it, seldom anywhere. */
static uint32_t near(uint32_t where, uint32_t spread)
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

static uint8_t some_flags(bool known)
{
	static const uint8_t usual[] = {0x10, 0x10, 0x18, 0x10, 0x11, 0x10, 0x18, 0x14};

	if (!known)
		return one_in(4) ? (uint8_t)chance(256) : 0x02;
	if (one_in(40))
		return (uint8_t)chance(256);
	return usual[one_in(8) ? chance(8) : chance(4)];
}

static uint32_t put_options(uint8_t *p, bool syn)
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

static void build(struct headers *h, uint32_t payload)
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
	put16(tcp + 2, known ? f.local.port : 80 + chance(2));
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
		.grown = payload < RX_MIN_LINEAR ? (uint8_t)(RX_MIN_LINEAR - payload) : 0,
		.payload_len = payload,
	};
}

static void mutate(uint8_t *bytes, uint32_t len)
{
	for (uint32_t n = 1 + chance(3); n; n--)
		bytes[chance(len)] = (uint8_t)chance(256);
}

static uint32_t some_length(void)
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

static void receive(void)
{
	const uint32_t q = chance(QUEUES), payload = some_length();
	struct rx_packet packet = {.queue = q};
	struct headers h;
	uint32_t left = payload < RX_MIN_LINEAR ? RX_MIN_LINEAR : payload;

	if (w.nr_fill[q] * STACK_CHUNK_DATA < left)
		return;
	while (left) {
		struct rx_chunk *chunk = &packet.chunk[packet.nr_chunks++];

		chunk->niov = w.fill[q][--w.nr_fill[q]];
		chunk->len = left < STACK_CHUNK_DATA ? left : STACK_CHUNK_DATA;
		left -= chunk->len;
	}
	if (one_in(50)) {
		stack_rx_discard(w.stack, &packet);
		return;
	}
	build(&h, payload);
	if (one_in(12))
		mutate(h.bytes, h.info.hdr_len);

	uint8_t *d = w.cfg.header_base + (packet.chunk[0].niov + 1ul) * PAGE;

	memcpy(d - h.info.hdr_len, h.bytes, h.info.hdr_len);
	if (one_in(20))
		mutate((uint8_t *)&h.info, sizeof(h.info));
	memcpy(d - RX_META_LEN, &h.info, sizeof(h.info));
	stack_rx(w.stack, &packet, w.now);
}

/* ---- the application ---- */

static struct channel_header *channel(void)
{
	return (struct channel_header *)w.cfg.channel;
}

static void request(uint32_t kind, uint32_t flow, uint32_t a, uint32_t b)
{
	struct channel_request *ring =
		(struct channel_request *)(w.cfg.channel + w.layout.requests);
	const uint32_t head = atomic_load(&channel()->request_head);

	if (head - atomic_load(&channel()->request_tail) >= w.layout.nr_requests)
		return;
	ring[head & (w.layout.nr_requests - 1)] =
		(struct channel_request){.kind = kind, .flow = flow, .a = a, .b = b};
	atomic_store(&channel()->request_head, head + 1);
}

/* Return some tokens, lose others; let go of connections that ended. */
static void consume(void)
{
	const struct channel_event *ring =
		(const struct channel_event *)(w.cfg.channel + w.layout.events);
	uint32_t tail = atomic_load(&channel()->event_tail);

	for (; tail != atomic_load(&channel()->event_head); tail++) {
		const struct channel_event *e = &ring[tail & (w.layout.nr_events - 1)];

		if (e->kind == EVENT_FRAG && !one_in(16))
			request(REQUEST_DONTNEED, e->flow, e->token, 1);
		else if (e->kind == EVENT_EOF || e->kind == EVENT_RESET)
			request(REQUEST_CLOSE, e->flow, 0, 0);
		if (e->kind != EVENT_CLOSED && one_in(3))
			w.seen = *e;
	}
	atomic_store(&channel()->event_tail, tail);
}

static void ask(void)
{
	const uint32_t flow = one_in(10) ? chance(UINT32_MAX) : w.seen.flow;

	switch (chance(10)) {
	case 0:
		request(REQUEST_SHUTDOWN + chance(3), flow, 0, 0);
		break;
	case 1:
		request(chance(8), flow, chance(UINT32_MAX), chance(UINT32_MAX));
		break;
	case 2:
		request(REQUEST_DONTNEED, flow, w.seen.token - chance(3), chance(40));
		break;
	default:
		request(REQUEST_SEND, flow, chance(CHANNEL_REPLY_BYTES), chance(6000));
	}
}

/* ---- the walk ---- */

static void step(void)
{
	if (!one_in(5))
		receive();
	if (one_in(6))
		consume();
	if (one_in(30))
		ask();
	if (one_in(3)) {
		stack_rx_end(w.stack, w.now);
		stack_requests(w.stack, w.now);
		stack_timers(w.stack, w.now);
		refill();
		transmit();
		stack_events_pushed(w.stack);
	}
	if (one_in(10))
		w.now += chance(one_in(50) ? 90000 : 60) * MS;
	if (one_in(5000))
		stack_app_gone(w.stack, w.now);
}

/* Nobody is left: time alone must bring everything home. */
static void wind_down(void)
{
	struct stack_stats stats;

	stack_app_gone(w.stack, w.now);
	for (uint32_t i = 0; i < 10000; i++) {
		const uint64_t deadline = stack_next_deadline(w.stack);

		transmit();
		complete(0);
		if (deadline == STACK_NO_DEADLINE)
			break;
		w.now = deadline > w.now ? deadline : w.now;
		stack_timers(w.stack, w.now);
	}
	stack_stats(w.stack, &stats);
	CHECK_EQ(stats.flows_now, 0);
	CHECK_EQ(stats.tokens_outstanding, 0);
	CHECK_EQ(stats.niovs_free + stats.niovs_fill, NIOVS);
	CHECK_EQ(stats.pages_free, PAGES);
	CHECK_EQ(stats.rcv_wnd_promised, 0);
	CHECK_EQ(stack_check(w.stack), 0);
}

static void walk(uint64_t seed, uint32_t pressure)
{
	struct stack_stats stats;

	start(seed, pressure);
	refill();
	for (uint32_t i = 0; i < STEPS && !check_failures; i++) {
		step();
		if (i % 16 == 0)
			CHECK_EQ(stack_check(w.stack), 0);
	}
	stack_stats(w.stack, &stats);
	/* A walk that never gets in proves nothing. */
	CHECK(stats.flows_established > 50);
	CHECK(stats.frags_delivered > 1000);
	CHECK(stats.rx_ooo_segments > 100);
	wind_down();
	end();
}

static void window_mode(void)
{
	walk(0x9e3779b97f4a7c15ull, PRESSURE_WINDOW);
}

static void drop_mode(void)
{
	walk(0x2545f4914f6cdd1dull, PRESSURE_DROP);
}

CHECK_MAIN(CHECK_TEST(window_mode), CHECK_TEST(drop_mode))
