/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The application's half of the channel: what a hostile stack can do to it (nothing), and
 * that no wake-up is lost when both sides sleep between any two events.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "app_fixture.h"

/* ---- hostile ---- */

static uint32_t odd_number(uint64_t *seed)
{
	static const uint32_t numbers[] = {0,	       1,    2,	       FLOW,	FLOW + 1,
					   4096,       3840, LISTENER, REGION,	REGION - 1,
					   UINT32_MAX, 255,  256,      BINDING, 8 * 4096};

	return numbers[check_random(seed, sizeof(numbers) / sizeof(numbers[0]))];
}

static void scribble(struct side *s, uint64_t *seed)
{
	uint32_t *words = (uint32_t *)s->header;

	words[check_random(seed, s->layout.size / 4)] = odd_number(seed);
}

/* What was told of data blocks lies in them, so the sanitizer sees a wrong one. */
static void receive(struct side *s, uint64_t *seed, uint32_t flow)
{
	static const int flags[] = {0, MSG_PEEK, MSG_TRUNC, APP_SOCK_DEVMEM,
				    APP_SOCK_DEVMEM | MSG_PEEK | MSG_WAITALL};
	uint8_t bytes[5000], control[200];
	const uint32_t cut = check_random(seed, sizeof(bytes));
	struct app_iov iov[] = {{bytes, cut}, {bytes + cut, sizeof(bytes) - cut}};
	struct app_msg msg = {
		.iov = iov,
		.nr_iov = 2,
		.control = control,
		.controllen = check_random(seed, sizeof(control)),
	};
	struct {
		uint32_t start, count;
	} ranges[] = {{odd_number(seed), odd_number(seed)}, {1, 4}};
	const size_t room = msg.controllen;

	app_recvmsg(s->app, flow, &msg, MSG_DONTWAIT | flags[check_random(seed, 5)]);
	CHECK(msg.controllen <= room);
	app_gather(s->app, flow, bytes, cut, MSG_DONTWAIT);
	app_devmem_dontneed(s->app, flow, ranges, sizeof(ranges));
}

static void take_and_return(struct side *s, uint64_t *seed, uint32_t flow)
{
	const uint64_t data = (uint64_t)s->layout.nr_blocks * CHANNEL_BLOCK;
	struct app_frag frags[NR];
	int n = app_take(s->app, flow, frags, NR);

	for (int i = 0; i < n; i++) {
		const uint64_t size = frags[i].dmabuf_id == BINDING ? REGION
				      : frags[i].dmabuf_id	    ? UINT64_MAX
								    : data;

		CHECK(frags[i].token && frags[i].len && frags[i].offset <= size - frags[i].len);
		CHECK_EQ(frags[i].kind != RX_DEVICE, frags[i].dmabuf_id == 0);
	}
	if (n > 0 && check_random(seed, 4))
		app_dontneed(s->app, flow, frags, n);
}

static void use(struct side *s, uint64_t *seed)
{
	struct stack_addr local, peer;
	struct app_conn_info info;
	int64_t ready[NR];
	uint32_t flow = FLOW;

	app_accept(s->app, LISTENER, &flow, &local, &peer);
	app_ready(s->app, ready, NR);
	receive(s, seed, flow);
	take_and_return(s, seed, flow);
	app_conn_info(s->app, flow, &info);
	app_send(s->app, flow, (const uint8_t *)"reply", 5);
	if (!check_random(seed, 8))
		app_finish(s->app, flow, check_random(seed, 2));
	if (!check_random(seed, 64)) {
		app_listener(s->app, LISTENER, 0);
		app_listener(s->app, LISTENER, 1);
	}
	/* The stack takes requests, so that the ring is never full for long. */
	atomic_store(&s->header->request_tail, s->app->request_head);
}

static void no_channel_content_harms_the_application(void)
{
	for (uint64_t round = 1; round <= 300; round++) {
		struct side s = open_side();
		uint64_t seed = round;

		for (int step = 0; step < 200 && !s.app->dead; step++) {
			push(&s, (struct channel_event){
					 .kind = check_random(&seed, 10),
					 .flow = odd_number(&seed),
					 .offset = (uint64_t)odd_number(&seed)
						   << check_random(&seed, 33),
					 .len = odd_number(&seed),
					 .token = odd_number(&seed),
					 .arg = odd_number(&seed),
				 });
			if (round % 2)
				scribble(&s, &seed);
			use(&s, &seed);
		}
		close_side(&s);
	}
}

/* What came before its region was known has not been looked at. */
static void no_late_region_is_read_outside(void)
{
	const int memory = memfd_create("memory", 0);
	struct app_conn_info info;
	struct side s = open_side();
	uint8_t bytes[64];

	if (ftruncate(memory, REGION))
		abort();
	connect_flow(&s, FLOW);
	push(&s, (struct channel_event){.kind = EVENT_FRAG,
					.flow = FLOW,
					.offset = UINT64_MAX - 4,
					.len = sizeof(bytes),
					.token = 1,
					.arg = BINDING + 1});
	CHECK_EQ(app_conn_info(s.app, FLOW, &info), 0);
	CHECK_EQ(app_region(s.app, BINDING + 1, REGION, memory), 0);
	CHECK_EQ(app_gather(s.app, FLOW, bytes, sizeof(bytes), MSG_DONTWAIT), -EADDRNOTAVAIL);
	close_side(&s);
	close(memory);
}

/* ---- wake-ups ---- */

#define ROUNDS 100000u

/* Plays the stack: an event, then wait for its token, as loop.c does both. */
static void *lend_and_wait(void *arg)
{
	struct side *s = arg;
	struct pollfd wake = {.fd = s->wake, .events = POLLIN};
	eventfd_t count;

	for (uint32_t i = 1; i <= ROUNDS; i++) {
		push(s, (struct channel_event){
				.kind = EVENT_FRAG, .flow = FLOW, .len = 1, .token = i, .arg = 1});
		atomic_thread_fence(memory_order_seq_cst);
		if (atomic_load(&s->header->app_waits) && atomic_exchange(&s->header->app_waits, 0))
			eventfd_write(s->event, 1);
		while (atomic_load(&s->header->request_head) != i) {
			atomic_store(&s->header->stack_waits, 1);
			atomic_thread_fence(memory_order_seq_cst);
			if (atomic_load(&s->header->request_head) != i &&
			    poll(&wake, 1, 10000) == 0)
				return "the stack was not woken";
			atomic_store(&s->header->stack_waits, 0);
			eventfd_read(s->wake, &count);
		}
		atomic_store(&s->header->request_tail, i);
	}
	return NULL;
}

static void no_wake_up_is_lost(void)
{
	struct side s = open_side();
	struct app_frag frag;
	uint32_t taken = 0;
	pthread_t stack;
	void *failure;

	connect_flow(&s, FLOW);
	pthread_create(&stack, NULL, lend_and_wait, &s);
	while (taken < ROUNDS) {
		if (app_wait(s.app, FLOW, -1, -1, 10000) != 1) {
			CHECK(!"the application was not woken");
			break;
		}
		while (app_take(s.app, FLOW, &frag, 1) == 1) {
			taken++;
			CHECK_EQ(frag.token, 1); /* the lowest that is free */
			CHECK_EQ(app_dontneed(s.app, FLOW, &frag, 1), 1);
		}
	}
	pthread_join(stack, &failure);
	CHECK(!failure);
	CHECK_EQ(taken, ROUNDS);
	close_side(&s);
}

CHECK_MAIN(CHECK_TEST(no_channel_content_harms_the_application),
	   CHECK_TEST(no_late_region_is_read_outside), CHECK_TEST(no_wake_up_is_lost))
