/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The application's half against a stack that writes anything: events that make sense or not,
 * indices, addresses, a request ring that is taken late or never. In between the application
 * makes its calls. What it is handed must lie within the binding or the data blocks, its tokens
 * must be its own, and what it counts must agree with what it was given.
 */
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "fuzz.h"
#include "app_fixture.h"

#define HELD 64
#define FLOWS_TRIED 4

static struct fuzz_input input;
static struct side side;
static struct app_frag held[HELD]; /* taken, not given back; of flow held_of */
static uint32_t held_of[HELD], nr_held;
static bool dead; /* the stack */
static bool forgotten; /* the binding, at some time */

int __real_poll(struct pollfd *fds, nfds_t nr, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t nr, int timeout);

/* Nobody waits here: a stack that takes no requests is given up after a thousand looks at it,
 * and not after a second. */
int __wrap_poll(struct pollfd *fds, nfds_t nr, int timeout)
{
	return __real_poll(fds, nr, 0);
}

int __real_fstat64(int fd, struct stat *st);
int __wrap_fstat64(int fd, struct stat *st);

/* MSan of clang 14 does not know the name that this call has since glibc 2.33. */
int __wrap_fstat64(int fd, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	return __real_fstat64(fd, st);
}

static uint32_t chance(uint32_t below)
{
	return fuzz_draw(&input, below);
}

static uint32_t some_flow(void)
{
	return chance(8) ? FLOW + chance(FLOWS_TRIED) : chance(UINT32_MAX);
}

/* ---- the stack ---- */

/* Near what makes sense: each field is right, or at an edge, or anything. */
static void push_likely(void)
{
	struct channel_event e = {.kind = chance(9), .flow = some_flow()};

	if (e.kind == EVENT_DATA) {
		e.token = 1 + chance(BLOCKS + 1);
		e.offset = (e.token - 1ull) * CHANNEL_BLOCK + chance(8);
		e.len = CHANNEL_BLOCK - chance(16);
		e.arg = CHANNEL_DATA_ARG(1 + chance(3), chance(4));
	} else {
		e.token = chance(8) ? 1 + chance(64) : chance(UINT32_MAX);
		e.len = chance(8) ? 1 + chance(5000) : chance(UINT32_MAX);
		e.offset = chance(8) ? REGION - chance(8192) : (uint64_t)chance(UINT32_MAX) << 32;
		e.arg = e.kind == EVENT_ACCEPT ? LISTENER + (chance(8) ? 0 : chance(99))
			: e.kind == EVENT_FRAG ? BINDING + (chance(8) ? 0 : chance(3))
					       : chance(6000);
	}
	push(&side, e);
}

static void push_anything(void)
{
	struct channel_event e;

	fuzz_bytes(&input, &e, sizeof(e));
	push(&side, e);
}

/* As far as it has come, or anywhere. */
static void take_requests(void)
{
	if (chance(8))
		atomic_store(&side.header->request_tail, atomic_load(&side.header->request_head));
	else
		atomic_store(&side.header->request_tail, chance(UINT32_MAX));
}

static void scribble(void)
{
	uint8_t bytes[16];
	const uint32_t at = chance((uint32_t)side.layout.replies - sizeof(bytes));

	fuzz_bytes(&input, bytes, sizeof(bytes));
	memcpy((uint8_t *)side.header + at, bytes, sizeof(bytes));
}

static void die(void)
{
	if (!dead)
		close(side.life[1]);
	dead = true;
}

static void stack_acts(void)
{
	switch (chance(16)) {
	case 0:
		push_anything();
		break;
	case 1:
		take_requests();
		break;
	case 2:
		scribble();
		break;
	case 3:
		atomic_fetch_add(&side.header->event_head, chance(8) ? chance(4) : chance(400));
		break;
	case 4:
		if (!chance(8))
			die();
		break;
	default:
		push_likely();
	}
}

/* ---- the application ---- */

static void check_frag(const struct app_frag *f)
{
	CHECK(f->len && f->token);
	if (!f->dmabuf_id) {
		CHECK(f->kind != RX_DEVICE);
		CHECK(app_inside(f->offset, f->len, (uint64_t)BLOCKS * CHANNEL_BLOCK));
		CHECK_EQ(f->offset / CHANNEL_BLOCK, (f->offset + f->len - 1) / CHANNEL_BLOCK);
	} else if (f->dmabuf_id == BINDING && !forgotten) {
		CHECK(app_inside(f->offset, f->len, REGION));
	}
}

static void take(uint32_t flow)
{
	struct app_frag frags[4];
	const int n = app_take(side.app, flow, frags, 1 + chance(4));

	for (int i = 0; i < n; i++) {
		check_frag(&frags[i]);
		for (int k = 0; k < i; k++)
			CHECK(frags[k].token != frags[i].token);
		if (nr_held < HELD) {
			held[nr_held] = frags[i];
			held_of[nr_held++] = flow;
		}
	}
}

static void give_back(void)
{
	const uint32_t n = nr_held ? chance(nr_held) : 0;
	int freed;

	if (!nr_held)
		return;
	freed = app_dontneed(side.app, held_of[n], &held[n], 1);
	CHECK(freed <= 1);
	held[n] = held[--nr_held];
	held_of[n] = held_of[nr_held];
}

static void receive(uint32_t flow)
{
	static const int flags[] = {0, APP_SOCK_DEVMEM, MSG_PEEK, APP_SOCK_DEVMEM | MSG_TRUNC};
	const uint32_t room = chance(2) ? chance(64) : chance(9000);
	const uint32_t space = chance(400);
	uint8_t *bytes = malloc(room), *control = malloc(space);
	struct app_iov iov[2] = {{bytes, room / 2}, {bytes + room / 2, room - room / 2}};
	struct app_msg msg = {.iov = iov, .nr_iov = 2, .control = control, .controllen = space};

	app_recvmsg(side.app, flow, &msg, flags[chance(4)] | MSG_DONTWAIT);
	CHECK(msg.controllen <= space);
	free(bytes);
	free(control);
}

static void gather(uint32_t flow)
{
	const uint32_t room = chance(6000);
	uint8_t *bytes = malloc(room);

	CHECK(app_gather(side.app, flow, bytes, room, MSG_DONTWAIT) <= (int64_t)room);
	free(bytes);
}

static void give_back_anything(uint32_t flow)
{
	struct {
		uint32_t start, count;
	} tokens[4];

	fuzz_bytes(&input, tokens, sizeof(tokens));
	for (uint32_t i = 0; i < 4; i++)
		tokens[i].count %= 2000;
	app_devmem_dontneed(side.app, flow, tokens, chance(2) ? sizeof(tokens) : chance(40));
}

static void send_some(uint32_t flow)
{
	static const uint8_t reply[20000];

	CHECK(app_send(side.app, flow, reply, chance(sizeof(reply))) <= (int)sizeof(reply));
}

static void ask(uint32_t flow)
{
	struct app_conn_info info;
	int64_t ready[CONNS];

	if (!app_conn_info(side.app, flow, &info))
		CHECK(info.bytes.unbound + info.bytes.head <=
		      info.bytes.linear + info.bytes.data + info.bytes.device);
	CHECK(app_ready(side.app, ready, CONNS) <= (int)CONNS);
	app_error(side.app, flow);
	app_wait(side.app, flow, -1, -1, 0);
}

static void accept_one(void)
{
	struct stack_addr local, peer;
	uint32_t flow;

	app_accept(side.app, LISTENER, &flow, &local, &peer);
}

static void end(uint32_t flow)
{
	switch (chance(6)) {
	case 0:
		app_shutdown(side.app, flow);
		break;
	case 1:
		app_shutdown_read(side.app, flow);
		break;
	case 2:
		app_finish(side.app, flow, (int)chance(2));
		break;
	case 3:
		app_listener(side.app, LISTENER, (int)chance(2));
		break;
	case 4:
		forgotten = true;
		app_region(side.app, BINDING, chance(2) ? REGION : 0, -1);
		break;
	default:
		app_set_strict(side.app, flow, (int)chance(2));
		app_set_rcvlowat(side.app, flow, chance(70000));
	}
}

static void app_acts(void)
{
	const uint32_t flow = some_flow();

	switch (chance(10)) {
	case 0:
	case 1:
		accept_one();
		break;
	case 2:
		take(flow);
		break;
	case 3:
		give_back();
		break;
	case 4:
		receive(flow);
		break;
	case 5:
		gather(flow);
		break;
	case 6:
		give_back_anything(flow);
		break;
	case 7:
		send_some(flow);
		break;
	case 8:
		end(flow);
		break;
	default:
		ask(flow);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	input = (struct fuzz_input){.next = data, .end = data + size};
	side = open_side();
	nr_held = 0;
	dead = forgotten = false;
	while (fuzz_step(&input)) {
		if (chance(2))
			stack_acts();
		else
			app_acts();
	}
	if (dead)
		side.life[1] = -1;
	close_side(&side);
	fuzz_judge();
	return 0;
}
