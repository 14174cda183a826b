/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two applications on one stack. The hostile one writes anything into every word of the
 * memory it shares with the stack: indices, capacities, requests that name the flows and
 * tokens of the other. The honest one must not notice: each of its bytes is compared with
 * what its peer sent, when it is delivered and once more before its token goes back, and
 * nobody but itself may close, reset or send on its connections.
 *
 * What is read or written outside is the sanitizers' to find: each piece of memory is an
 * allocation of its own, and device memory is one that the stack is never told of.
 *
 * DEVMEMTCP_HOSTILE_SECONDS=60: how long each test goes on, instead of a fixed number of
 * steps.
 */
#include <pthread.h>
#include <time.h>

#include "channel.h"
#include "check.h"
#include "core.h"
#include "stack_fixture.h"
#include "steer.h"

#define PAGE 4096u
#define MS 1000000ull
#define STEPS 30000
#define STEPS_BESIDE_A_THREAD 10000

#define QUEUES 2 /* the first on device memory, the second on host memory */
#define NIOVS 128 /* of each area */
#define PAGES 48
#define FILL 48
#define FLOWS 16
#define EVENTS 32
#define REQUESTS 64
#define BLOCKS 24
#define DMABUF 7

#define PORT_HONEST 80
#define PORT_HOSTILE 81
#define PEERS 4 /* connections of each */
#define ISN 1000u
#define HELD_MAX 24 /* tokens and blocks that the honest application keeps for a while */

struct app {
	int number;
	void *mem;
	uint8_t *channel;
	struct channel_layout layout;
};

struct pages {
	int number;
	void *mem;
	uint8_t *headers;
	uint8_t *data;
};

/* What the honest application has and has not yet given back. */
struct held {
	struct channel_event event;
	uint32_t position; /* in the stream */
};

static struct bed {
	struct stack *stack;
	struct stack_config cfg;
	struct pages area[QUEUES];
	struct app honest, hostile;
	uint64_t random;
	uint64_t now;
	uint32_t fill[QUEUES][NIOVS];
	uint32_t nr_fill[QUEUES];
	uint32_t linear; /* bytes that the split leaves in the head */

	struct held held[HELD_MAX];
	uint32_t nr_held;
	uint32_t nap; /* steps that the honest application sleeps: its ring fills up */
	uint32_t position[FLOWS + 1]; /* by slot: bytes delivered of the flow in it */
	uint64_t bytes; /* delivered to the honest application, and right */

	struct channel_event seen[16]; /* the hostile application's: worth abusing */
} b;

static uint32_t chance(uint32_t below)
{
	return check_random(&b.random, below);
}

static bool one_in(uint32_t n)
{
	return !chance(n);
}

static struct channel_header *header(const struct app *app)
{
	return (struct channel_header *)app->channel;
}

/* ---- set-up ---- */

static void *allocate(size_t alignment, size_t size)
{
	void *p;

	if (posix_memalign(&p, alignment, size))
		abort();
	return memset(p, 0, size);
}

/* Indices run free and wrap after 2^32: let it be soon, and one that is not masked lead far. */
static void wind_forward(const struct app *app)
{
	const uint32_t start = 0u - 1000;
	struct application *inside = b.stack->apps[app->number];

	inside->event_head = inside->request_tail = start;
	header(app)->event_head = header(app)->event_tail = start;
	header(app)->request_head = header(app)->request_tail = start;
}

static void open_app(struct app *app, uint16_t port, uint32_t pressure)
{
	struct stack_app_config config = {
		.nr_events = EVENTS,
		.nr_requests = REQUESTS,
		.nr_blocks = BLOCKS,
	};
	struct stack_addr addr = {.ip = {[10] = 0xff, [11] = 0xff}, .port = port, .family = 4};

	config.channel_size = stack_channel_size(&b.cfg, &config);
	app->channel = config.channel = allocate(PAGE, config.channel_size);
	app->mem = allocate(64, stack_app_size(&config));
	app->number = stack_app_open(b.stack, app->mem, &config);
	CHECK(app->number >= 0);
	CHECK(channel_lay_out(&app->layout, EVENTS, REQUESTS, FLOWS + 1, BLOCKS));
	CHECK(stack_listen(b.stack, app->number, &addr, 0, PEERS, pressure) >= 0);
	wind_forward(app);
}

static void close_app(struct app *app)
{
	CHECK_EQ(stack_app_close(b.stack, app->number), 0);
	free(app->mem);
	free(app->channel);
}

static void open_area(uint32_t q)
{
	struct pages *area = &b.area[q];
	struct stack_area_config config = {.nr_niovs = NIOVS, .dmabuf_id = q ? 0 : DMABUF};

	area->headers = allocate(PAGE, NIOVS * PAGE);
	area->data = allocate(PAGE, NIOVS * PAGE);
	config.header_base = area->headers;
	config.data_base = q ? area->data : NULL;
	area->mem = allocate(64, stack_area_size(&config));
	area->number = stack_area_open(b.stack, area->mem, &config);
	CHECK(area->number >= 0);
	CHECK_EQ(stack_queue_attach(b.stack, q, area->number), 0);
}

static void close_area(uint32_t q)
{
	stack_queue_detach(b.stack, q);
	CHECK_EQ(stack_area_close(b.stack, b.area[q].number), 0);
	free(b.area[q].mem);
	free(b.area[q].headers);
	free(b.area[q].data);
}

static void start(uint64_t seed)
{
	memset(&b, 0, sizeof(b));
	b.random = seed;
	b.now = 1000 * MS;
	b.cfg = stack_config_of_tests();
	b.cfg.max_niovs = QUEUES * NIOVS;
	b.cfg.max_areas = QUEUES;
	b.cfg.max_apps = 2;
	b.cfg.nr_pages = PAGES;
	b.cfg.page_base = allocate(PAGE, PAGES * PAGE);
	b.cfg.nr_queues = QUEUES;
	b.cfg.max_flows = FLOWS;
	b.cfg.max_listeners = 2;
	b.cfg.fill_max = FILL;
	b.cfg.time_wait_ms = 100;
	b.stack = allocate(64, stack_size(&b.cfg));
	CHECK_EQ(stack_init(b.stack, &b.cfg), 0);
	for (uint32_t q = 0; q < QUEUES; q++)
		open_area(q);
	open_app(&b.honest, PORT_HONEST, PRESSURE_WINDOW);
	open_app(&b.hostile, PORT_HOSTILE, PRESSURE_DROP);
}

/* ---- the NIC and the peers behind it ---- */

/* What a peer sends at this position of its stream: no two ports and no two pages alike. */
static uint8_t pattern(uint16_t port, uint32_t position)
{
	return (uint8_t)((position * 0x9e3779b1u >> 24) + port * 31u);
}

static uint32_t smaller(uint32_t a, uint32_t c)
{
	return a < c ? a : c;
}

/* Record, headers and the linear part, as the XDP program leaves them in front of D. */
static void put_head(uint8_t *d, const struct segment *seg, uint32_t linear)
{
	const uint32_t behind = seg->len - linear;
	const struct rx_info info = {
		.magic = RX_INFO_MAGIC,
		.hdr_len = IPV4_HEADERS,
		.l3_off = 14,
		.l4_off = IPV4_L4,
		.family = 4,
		.csum = RX_CSUM_VERIFIED,
		.grown = behind < RX_MIN_LINEAR ? (uint8_t)(RX_MIN_LINEAR - behind) : 0,
		.payload_len = seg->len,
		.linear = (uint8_t)linear,
	};
	uint8_t *eth = d - linear - info.hdr_len;

	memset(d - RX_META_LEN, 0, RX_META_LEN);
	memcpy(d - RX_META_LEN, &info, sizeof(info));
	put_ipv4_headers(eth, seg);
	for (uint32_t i = 0; i < linear; i++)
		(d - linear)[i] = pattern(seg->peer_port, seg->seq - ISN - 1 + i);
}

static void receive(uint32_t q, const struct segment *seg)
{
	const uint32_t linear = smaller(seg->len, b.linear);
	struct rx_packet packet = {.queue = q};
	uint32_t position = seg->seq - ISN - 1 + linear;
	uint32_t payload = seg->len - linear;
	uint32_t left = payload < RX_MIN_LINEAR ? RX_MIN_LINEAR : payload;

	if (b.nr_fill[q] * STACK_CHUNK_DATA < left)
		return; /* lost, as by a NIC without buffers */
	while (left) {
		struct rx_chunk *chunk = &packet.chunk[packet.nr_chunks++];
		uint8_t *data;

		chunk->niov = b.fill[q][--b.nr_fill[q]];
		chunk->len = smaller(left, STACK_CHUNK_DATA);
		data = b.area[q].data + (size_t)chunk->niov * PAGE;
		for (uint32_t i = 0; i < chunk->len; i++)
			data[i] = payload ? pattern(seg->peer_port, position++) : 0,
			payload -= !!payload;
		left -= chunk->len;
	}
	put_head(b.area[q].headers + (packet.chunk[0].niov + 1ul) * PAGE, seg, linear);
	stack_rx(b.stack, &packet, b.now);
}

/* The connection between these ports, as the stack sees it. */
static bool find_flow(uint16_t local, uint16_t peer, struct flow_info *f)
{
	int slot = 0;

	while ((slot = stack_flow(b.stack, (uint32_t)slot + 1, f)) > 0)
		if (f->local.port == local && f->peer.port == peer)
			return true;
	return false;
}

/* A peer that opens its connection, sends what the window allows and never closes. */
static void peer_acts(uint16_t local, uint16_t peer)
{
	struct segment seg = {.peer_port = peer, .local_port = local, .seq = ISN, .flags = 0x02};
	struct flow_info f;

	if (find_flow(local, peer, &f)) {
		seg.seq = f.rcv_nxt;
		seg.ack = f.snd_nxt;
		seg.flags = 0x10;
		if (f.state == TCP_ESTABLISHED)
			seg.len = smaller(1 + chance(one_in(4) ? 40 : 9000), f.rcv_wnd);
		else if (f.state != TCP_SYN_RECEIVED && one_in(20))
			seg.flags = 0x14; /* one that the application has left: let it begin anew */
	}
	receive(chance(QUEUES), &seg);
}

static void refill(void)
{
	for (uint32_t q = 0; q < QUEUES; q++)
		b.nr_fill[q] += stack_refill(b.stack, q, b.fill[q] + b.nr_fill[q],
					     FILL > b.nr_fill[q] ? FILL - b.nr_fill[q] : 0);
}

static void transmit(void)
{
	struct tx_frame frames[8];
	uint32_t nr;

	for (uint32_t q = 0; q < QUEUES; q++)
		while ((nr = stack_tx(b.stack, q, frames, 8)))
			for (uint32_t i = 0; i < nr; i++)
				stack_tx_done(b.stack, frames[i].page);
}

static void turn(void)
{
	stack_rx_end(b.stack, b.now);
	stack_requests(b.stack, b.now);
	stack_timers(b.stack, b.now);
	refill();
	transmit();
	stack_events_pushed(b.stack, b.honest.number);
	stack_events_pushed(b.stack, b.hostile.number);
}

/* ---- the honest application ---- */

static void request(const struct app *app, const struct channel_request *r)
{
	struct channel_request *ring =
		(struct channel_request *)(app->channel + app->layout.requests);
	const uint32_t head = atomic_load(&header(app)->request_head);

	ring[head & (app->layout.nr_requests - 1)] = *r;
	atomic_store(&header(app)->request_head, head + 1);
}

static bool is_right(const struct held *h)
{
	const struct channel_event *e = &h->event;
	const struct channel_conn *conn =
		(const struct channel_conn *)(b.honest.channel + b.honest.layout.conns) +
		CHANNEL_FLOW_SLOT(e->flow);
	const bool frag = e->kind == EVENT_FRAG;
	const uint8_t *memory = frag ? b.area[0].data : b.honest.channel + b.honest.layout.blocks;
	const uint64_t size = frag ? NIOVS * PAGE : BLOCKS * CHANNEL_BLOCK;

	if (e->offset > size || e->len > size - e->offset || conn->local_port != PORT_HONEST)
		return false;
	for (uint32_t i = 0; i < e->len; i++)
		if (memory[e->offset + i] != pattern(conn->peer_port, h->position + i))
			return false;
	return true;
}

static void give_back(uint32_t n)
{
	const struct held h = b.held[n];

	CHECK(is_right(&h));
	b.held[n] = b.held[--b.nr_held];
	request(&b.honest,
		&(struct channel_request){
			.kind = h.event.kind == EVENT_FRAG ? REQUEST_DONTNEED : REQUEST_BLOCK,
			.flow = h.event.flow,
			.a = h.event.token,
			.b = 1,
		});
}

static void take(const struct channel_event *e)
{
	uint32_t *position = &b.position[CHANNEL_FLOW_SLOT(e->flow)];
	struct held *h;

	if (e->kind == EVENT_ACCEPT) {
		*position = 0;
		return;
	}
	/* Nobody has closed, reset or sent anything, nor has the peer. */
	CHECK(e->kind == EVENT_FRAG || e->kind == EVENT_DATA);
	if (e->kind == EVENT_FRAG)
		CHECK_EQ(e->arg, DMABUF);
	h = &b.held[b.nr_held++];
	*h = (struct held){.event = *e, .position = *position};
	*position += e->len;
	CHECK(is_right(h));
	b.bytes += e->len;
}

static void honest_acts(void)
{
	const struct app *app = &b.honest;
	const struct channel_event *ring =
		(const struct channel_event *)(app->channel + app->layout.events);
	uint32_t tail = atomic_load(&header(app)->event_tail);

	while (tail != atomic_load(&header(app)->event_head) && b.nr_held < HELD_MAX)
		take(&ring[tail++ & (app->layout.nr_events - 1)]);
	atomic_store(&header(app)->event_tail, tail);
	for (uint32_t n = chance(b.nr_held + 1); n; n--)
		give_back(chance(b.nr_held));
}

/* Its connections are as it has left them: open, and nothing was ever sent. */
static void check_honest_flows(void)
{
	struct flow_info f;

	for (uint16_t i = 0; i < PEERS; i++) {
		if (!find_flow(PORT_HONEST, 2000 + i, &f) || f.state == TCP_SYN_RECEIVED)
			continue;
		CHECK_EQ(f.state, TCP_ESTABLISHED);
		CHECK_EQ(f.snd_nxt, f.snd_una);
		CHECK_EQ(f.app, b.honest.number);
	}
}

/* ---- the hostile application: its own random numbers, for it may be another thread ---- */

struct attacker {
	uint64_t random;
	const struct app *app;
	struct channel_event victim[HELD_MAX]; /* what the other one holds */
	uint32_t nr_victims;
};

static uint32_t edge(struct attacker *a, uint32_t near)
{
	static const uint32_t edges[] = {0,	     1,	       EVENTS,	   REQUESTS,   BLOCKS,
					 BLOCKS + 1, 1u << 20, 0x7fffffff, 0x80000000, UINT32_MAX};

	switch (check_random(&a->random, 4)) {
	case 0:
		return near + check_random(&a->random, 5) - 2;
	case 1:
		return near + edges[check_random(&a->random, 10)];
	case 2:
		return edges[check_random(&a->random, 10)];
	default:
		return check_random(&a->random, UINT32_MAX);
	}
}

/* Something that was delivered: mostly to itself, often to the other. */
static struct channel_event loot(struct attacker *a)
{
	const volatile struct channel_event *ring =
		(const struct channel_event *)(a->app->channel + a->app->layout.events);

	if (a->nr_victims && check_random(&a->random, 3) == 0)
		return a->victim[check_random(&a->random, a->nr_victims)];
	return ring[check_random(&a->random, EVENTS)];
}

static void forge_request(struct attacker *a)
{
	volatile struct channel_request *ring =
		(struct channel_request *)(a->app->channel + a->app->layout.requests);
	const uint32_t head = atomic_load(&header(a->app)->request_head);
	volatile struct channel_request *r = &ring[head & (REQUESTS - 1)];
	const struct channel_event it = loot(a);
	const struct channel_event other = check_random(&a->random, 3) ? it : loot(a);

	r->kind = check_random(&a->random, 16) ? check_random(&a->random, 8) : edge(a, 0);
	if (r->kind >= REQUEST_SEND && r->kind <= REQUEST_ABORT && check_random(&a->random, 32))
		r->kind = it.kind == EVENT_DATA ? REQUEST_BLOCK : REQUEST_DONTNEED; /* live on */
	r->flow = check_random(&a->random, 8) ? it.flow : edge(a, it.flow);
	r->a = check_random(&a->random, 4) ? other.token : edge(a, other.token);
	r->b = check_random(&a->random, 2) ? 1 : edge(a, 0);
	atomic_store(&header(a->app)->request_head, head + 1);
}

static void scribble(struct attacker *a)
{
	struct channel_header *h = header(a->app);
	volatile uint32_t *words = (uint32_t *)a->app->channel;

	switch (check_random(&a->random, 16)) {
	case 0:
		atomic_store(&h->request_head, edge(a, atomic_load(&h->request_tail)));
		break;
	case 1:
		atomic_store(&h->event_tail, edge(a, atomic_load(&h->event_head)));
		break;
	case 2:
		words[check_random(&a->random, sizeof(*h) / 4)] = edge(a, 0);
		break;
	case 3:
		words[check_random(&a->random, (uint32_t)(a->app->layout.size / 4))] = edge(a, 0);
		break;
	case 4: /* behave for once, so that events go on */
		atomic_store(&h->event_tail, atomic_load(&h->event_head));
		atomic_store(&h->request_head, atomic_load(&h->request_tail));
		break;
	default:
		forge_request(a);
	}
}

static void look_at_the_other(struct attacker *a)
{
	a->nr_victims = b.nr_held;
	for (uint32_t i = 0; i < b.nr_held; i++)
		a->victim[i] = b.held[i].event;
}

/* ---- the tests ---- */

static uint64_t seconds_to_go_on(void)
{
	const char *text = getenv("DEVMEMTCP_HOSTILE_SECONDS");

	return text ? strtoull(text, NULL, 10) : 0;
}

static bool goes_on(uint32_t step, uint32_t steps)
{
	static struct timespec end;
	const uint64_t seconds = seconds_to_go_on();
	struct timespec now;

	if (check_failures)
		return false;
	if (!seconds)
		return step < steps;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (!step)
		end = (struct timespec){now.tv_sec + (time_t)seconds, now.tv_nsec};
	return now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec);
}

static void step(uint32_t n)
{
	const uint16_t peer = (uint16_t)chance(PEERS);

	if (n % 512 == 0)
		b.linear = chance(3) ? chance(RX_LINEAR_MAX + 1) : 0;
	peer_acts(PORT_HONEST, 2000 + peer);
	peer_acts(PORT_HOSTILE, 3000 + peer);
	turn();
	if (b.nap)
		b.nap--;
	else
		honest_acts();
	if (one_in(60))
		b.nap = chance(60);
	b.now += chance(5) * MS;
	if (n % 16 == 0) {
		check_honest_flows();
		CHECK_EQ(stack_check(b.stack), 0);
	}
}

/* The hostile application is gone, the honest one closes: all that there is comes home. */
static void finish(void)
{
	struct stack_stats stats;
	struct area_info info;

	CHECK(b.bytes > 1000000); /* a victim that never got anything proves nothing */
	close_app(&b.hostile);
	while (b.nr_held)
		give_back(0), turn();
	close_app(&b.honest);
	for (uint32_t i = 0; i < 10000; i++) {
		const uint64_t deadline = stack_next_deadline(b.stack);

		transmit();
		if (deadline == STACK_NO_DEADLINE)
			break;
		b.now = deadline > b.now ? deadline : b.now;
		stack_timers(b.stack, b.now);
	}
	stack_stats(b.stack, &stats);
	CHECK_EQ(stats.flows_now, 0);
	CHECK_EQ(stats.tokens_outstanding, 0);
	CHECK_EQ(stats.pages_free, PAGES);
	CHECK_EQ(stats.rcv_wnd_promised, 0);
	CHECK(stats.requests_rejected > 100);
	for (uint32_t q = 0; q < QUEUES; q++) {
		CHECK_EQ(stack_area_info(b.stack, b.area[q].number, &info), 0);
		CHECK_EQ(info.free + info.fill, NIOVS);
	}
	CHECK_EQ(stack_check(b.stack), 0);
	for (uint32_t q = 0; q < QUEUES; q++)
		close_area(q);
	free(b.cfg.page_base);
	free(b.stack);
}

/* Between two turns: the same run each time. */
static void in_turns(void)
{
	struct attacker a = {.random = 0x2545f4914f6cdd1dull, .app = &b.hostile};

	start(0x9e3779b97f4a7c15ull);
	for (uint32_t n = 0; goes_on(n, STEPS); n++) {
		look_at_the_other(&a);
		for (uint32_t i = chance(20); i; i--)
			scribble(&a);
		step(n);
		if (one_in(2000)) { /* killed, and started again */
			close_app(&b.hostile);
			open_app(&b.hostile, PORT_HOSTILE, chance(2));
		}
	}
	finish();
}

static _Atomic bool stop;

/* With both CPUs busy the thread may not have run for long: it is waited for. */
static bool attacked(void)
{
	return check_failures || b.stack->stats.requests_rejected > 100;
}

static void *scribble_for_ever(void *arg)
{
	while (!atomic_load_explicit(&stop, memory_order_relaxed))
		scribble(arg);
	return NULL;
}

/* At any moment: a value may be another one when it is looked at for the second time. */
static void beside_a_thread(void)
{
	struct attacker a = {.random = 0x2545f4914f6cdd1dull, .app = &b.hostile};
	pthread_t thread;

	start(0x9e3779b97f4a7c15ull);
	atomic_store(&stop, false);
	if (pthread_create(&thread, NULL, scribble_for_ever, &a))
		abort();
	for (uint32_t n = 0; goes_on(n, STEPS_BESIDE_A_THREAD) || !attacked(); n++)
		step(n);
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	finish();
}

CHECK_MAIN(CHECK_TEST(in_turns), CHECK_TEST(beside_a_thread))
