/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shared memory as an application may write it: any word, at any time. First there are
 * connections of two applications, with tokens and blocks out and bytes above holes; then the
 * input writes requests, indices and anything else into the channel of the first. The stack
 * must stay whole, and the other application's connections must stay as they are.
 */
#include "fuzz.h"
#include "stack_walk.h"

#define HOSTILE 0
#define HONEST 1
#define CONNS 2 /* of each */
#define SEGMENT 700u

static struct fuzz_input input;
static bool from_input; /* before, the world is set up: each choice is the usual one */

static uint32_t walk_draw(uint32_t below)
{
	return from_input ? fuzz_draw(&input, below) : below - 1;
}

/* ---- before ---- */

static bool find(int app, uint32_t nth, struct flow_info *f)
{
	for (int slot = 0; (slot = stack_flow(w.stack, (uint32_t)slot + 1, f)) > 0;)
		if (f->app == (uint32_t)app && !nth--)
			return true;
	return false;
}

static void receive_segment(const struct segment *seg)
{
	struct rx_packet packet = {.queue = 0};
	struct headers h = {
		.info =
			{
				.magic = RX_INFO_MAGIC,
				.hdr_len = IPV4_HEADERS,
				.l3_off = 14,
				.l4_off = IPV4_L4,
				.family = 4,
				.csum = RX_CSUM_VERIFIED,
				.payload_len = seg->len,
			},
	};

	put_ipv4_headers(h.bytes, seg);
	CHECK(take_chunks(&packet, seg->len < RX_MIN_LINEAR ? RX_MIN_LINEAR : seg->len));
	place(w.areas[w.area[0]].cfg.header_base + (packet.chunk[0].niov + 1ul) * PAGE, &h);
	stack_rx(w.stack, &packet, w.now);
	turn();
}

static void connect_peer(int app, uint32_t nth)
{
	struct segment seg = {
		.peer_port = (uint16_t)(2000 + nth),
		.local_port = (uint16_t)(80 + app),
		.seq = 999,
		.flags = 0x02,
	};
	struct flow_info f;

	receive_segment(&seg);
	CHECK(find(app, nth, &f));
	seg.seq++;
	seg.ack = f.snd_nxt;
	seg.flags = 0x10;
	receive_segment(&seg);
	seg.len = SEGMENT;
	for (uint32_t i = 0; i < 3; i++) {
		receive_segment(&seg);
		seg.seq += SEGMENT;
	}
	seg.seq += SEGMENT; /* above a hole */
	receive_segment(&seg);
}

static void set_up(void)
{
	from_input = false;
	walk_start(PRESSURE_WINDOW);
	refill();
	for (uint32_t i = 0; i < CONNS; i++) {
		connect_peer(HOSTILE, i);
		connect_peer(HONEST, i);
	}
	from_input = true;
}

/* ---- the hostile application ---- */

/* An id or number near to one that is in use, or anything. */
static uint32_t some_number(uint32_t near_to)
{
	return chance(4) ? near_to + chance(4) : chance(UINT32_MAX);
}

static void write_request(const struct walk_app *a)
{
	struct channel_request *ring =
		(struct channel_request *)(a->cfg.channel + a->layout.requests);
	const uint32_t head = atomic_load(&channel(a)->request_head);
	const int owner = chance(5) ? HOSTILE : HONEST;
	struct channel_request r = {.kind = chance(9)};
	struct flow_info f = {0};

	find(owner, chance(CONNS), &f);
	r.flow = some_number(f.id);
	r.a = some_number(r.kind == REQUEST_SEND ? CHANNEL_REPLY_BYTES - 2 : 1);
	r.b = chance(2) ? chance(4) : chance(UINT32_MAX);
	ring[head & (a->layout.nr_requests - 1)] = r;
	atomic_store(&channel(a)->request_head, head + 1);
}

/* Twelve bytes anywhere in the header, the rings or the addresses. */
static void scribble(const struct walk_app *a)
{
	uint8_t bytes[12];
	const uint32_t at = chance((uint32_t)a->layout.replies - sizeof(bytes));

	fuzz_bytes(&input, bytes, sizeof(bytes));
	memcpy(a->cfg.channel + at, bytes, sizeof(bytes));
}

static void write_index(const struct walk_app *a)
{
	_Atomic uint32_t *const index[] = {&channel(a)->event_head, &channel(a)->event_tail,
					   &channel(a)->request_head, &channel(a)->request_tail};
	_Atomic uint32_t *which = index[chance(4)];

	atomic_store(which, some_number(atomic_load(which)));
}

static void step(void)
{
	const struct walk_app *a = &w.apps[HOSTILE];

	switch (chance(8)) {
	case 0:
		scribble(a);
		break;
	case 1:
		write_index(a);
		break;
	case 2:
		w.now += chance(2000) * MS;
		turn();
		break;
	case 3:
		turn();
		break;
	case 4:
		atomic_store(&channel(a)->event_tail, atomic_load(&channel(a)->event_head));
		break;
	default:
		write_request(a);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct flow_info before[CONNS], after;

	input = (struct fuzz_input){.next = data, .end = data + size};
	set_up();
	for (uint32_t i = 0; i < CONNS; i++)
		CHECK(find(HONEST, i, &before[i]));
	while (fuzz_step(&input))
		step();
	from_input = false;
	turn();
	CHECK_EQ(stack_check(w.stack), 0);
	for (int n = 0; n < APPS; n++)
		check_app(n);
	for (uint32_t i = 0; i < CONNS; i++) {
		CHECK(find(HONEST, i, &after));
		CHECK_EQ(after.id, before[i].id);
		CHECK(after.tokens >= before[i].tokens);
		CHECK(after.blocks >= before[i].blocks);
	}
	wind_down();
	walk_end();
	fuzz_judge();
	return 0;
}
