/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The application's half of the channel: what a hostile stack can do to it (nothing), and
 * that no wake-up is lost when both sides sleep between any two events.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "check.h"
#include "app.h"

#define NR 64u
#define CONNS 16u
#define REGION (1u << 20)
#define FLOW ((1u << CHANNEL_FLOW_SLOT_BITS) + 1)

struct side {
	struct channel_header *header;
	struct channel_layout layout;
	int channel, event, wake, life[2];
	struct app *app;
};

static struct side open_side(void)
{
	struct side s;

	channel_lay_out(&s.layout, NR, NR, CONNS);
	s.channel = memfd_create("channel", 0);
	s.event = eventfd(0, EFD_NONBLOCK);
	s.wake = eventfd(0, EFD_NONBLOCK);
	if (ftruncate(s.channel, s.layout.size) || pipe(s.life))
		abort();
	s.header = mmap(NULL, s.layout.size, PROT_READ | PROT_WRITE, MAP_SHARED, s.channel, 0);
	s.header->magic = CHANNEL_MAGIC;
	s.header->nr_events = s.header->nr_requests = NR;
	s.header->nr_conns = CONNS;
	if (app_open(&s.app, s.channel, REGION, s.event, s.wake, s.life[0]))
		abort();
	return s;
}

static void close_side(struct side *s)
{
	app_close(s->app);
	munmap(s->header, s->layout.size);
	close(s->channel);
	close(s->event);
	close(s->wake);
	close(s->life[0]);
	close(s->life[1]);
}

static void push(struct side *s, struct channel_event e)
{
	struct channel_event *ring = (void *)((uint8_t *)s->header + s->layout.events);
	uint32_t head = atomic_load(&s->header->event_head);

	ring[head & (NR - 1)] = e;
	atomic_store_explicit(&s->header->event_head, head + 1, memory_order_release);
}

/* ---- hostile ---- */

static uint32_t odd_number(uint64_t *seed)
{
	static const uint32_t numbers[] = {0,	 1,	 2,	     FLOW,	 FLOW + 1, 4096,
					   3840, REGION, REGION - 1, UINT32_MAX, 255,	   256};

	return numbers[check_random(seed, sizeof(numbers) / sizeof(numbers[0]))];
}

static void scribble(struct side *s, uint64_t *seed)
{
	uint32_t *words = (uint32_t *)s->header;

	words[check_random(seed, s->layout.size / 4)] = odd_number(seed);
}

static void use(struct side *s, uint64_t *seed)
{
	struct app_frag frags[NR];
	struct stack_addr local, peer;
	int64_t ready[NR];
	uint32_t flow = FLOW;
	int n;

	app_accept(s->app, check_random(seed, 4), &flow, &local, &peer);
	app_ready(s->app, ready, NR);
	n = app_take(s->app, flow, frags, NR);
	for (int i = 0; i < n; i++)
		CHECK(frags[i].token && frags[i].len && frags[i].offset + frags[i].len <= REGION);
	if (n > 0)
		app_dontneed(s->app, flow, frags, n);
	app_send(s->app, flow, (const uint8_t *)"reply", 5);
	if (!check_random(seed, 8))
		app_finish(s->app, flow, check_random(seed, 2));
	if (!check_random(seed, 64))
		app_listener(s->app, check_random(seed, 4), check_random(seed, 2));
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
					 .kind = check_random(&seed, 8),
					 .flow = odd_number(&seed),
					 .offset = (uint64_t)odd_number(&seed)
						   << check_random(&seed, 33),
					 .len = odd_number(&seed),
					 .token = odd_number(&seed),
					 .arg = check_random(&seed, 4),
				 });
			if (round % 2)
				scribble(&s, &seed);
			use(&s, &seed);
		}
		close_side(&s);
	}
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
				.kind = EVENT_FRAG, .flow = FLOW, .len = 1, .token = i});
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
	struct stack_addr local, peer;
	struct app_frag frag;
	uint32_t flow, taken = 0;
	pthread_t stack;
	void *failure;

	push(&s, (struct channel_event){.kind = EVENT_ACCEPT, .flow = FLOW});
	CHECK_EQ(app_accept(s.app, 0, &flow, &local, &peer), 1);
	pthread_create(&stack, NULL, lend_and_wait, &s);
	while (taken < ROUNDS) {
		if (app_wait(s.app, FLOW, -1, -1, 10000) != 1) {
			CHECK(!"the application was not woken");
			break;
		}
		while (app_take(s.app, FLOW, &frag, 1) == 1) {
			CHECK_EQ(frag.token, ++taken);
			CHECK_EQ(app_dontneed(s.app, FLOW, &frag, 1), 1);
		}
	}
	pthread_join(stack, &failure);
	CHECK(!failure);
	CHECK_EQ(taken, ROUNDS);
	close_side(&s);
}

CHECK_MAIN(CHECK_TEST(no_channel_content_harms_the_application), CHECK_TEST(no_wake_up_is_lost))
