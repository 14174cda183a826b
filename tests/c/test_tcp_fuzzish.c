/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A long random walk through the whole stack: segments that nearly fit, segments that
 * do not, mutated headers and records, several applications that ask for anything, queues that
 * go from one area to another, a NIC that is slow, a clock that jumps. What it looks for is what
 * the sanitizers see, plus stack_check() all the way and every buffer home at the end.
 */
#include "stack_walk.h"

#define STEPS 200000

static uint64_t random_state;

static uint32_t walk_draw(uint32_t below)
{
	return check_random(&random_state, below);
}

static void act(void)
{
	const int number = (int)chance(APPS);
	const struct walk_app *a = &w.apps[number];

	if (!a->open) {
		if (one_in(20))
			open_app();
		return;
	}
	if (one_in(6))
		consume(a);
	if (one_in(30))
		ask(a);
	if (one_in(5000))
		close_app(number);
}

static void step(void)
{
	if (!one_in(5))
		receive();
	for (uint32_t i = 0; i < APPS; i++)
		act();
	if (one_in(3))
		turn();
	if (one_in(10))
		w.now += chance(one_in(50) ? 90000 : 60) * MS;
	if (one_in(400))
		restart_queue(chance(QUEUES));
	if (one_in(100))
		try_close_area((int)chance(AREAS));
}

static void walk(uint64_t seed, uint32_t pressure)
{
	struct stack_stats stats;

	random_state = seed;
	walk_start(pressure);
	refill();
	for (uint32_t i = 0; i < STEPS && !check_failures; i++) {
		step();
		if (i % 16 == 0)
			CHECK_EQ(stack_check(w.stack), 0);
		for (int n = 0; n < APPS; n++)
			if (w.apps[n].open)
				check_app(n);
	}
	stack_stats(w.stack, &stats);
	/* A walk that never gets in proves nothing. */
	CHECK(stats.flows_established > 50);
	CHECK(stats.frags_delivered > 1000);
	CHECK(stats.rx_ooo_segments > 100);
	CHECK(stats.bytes_linear > 1000);
	CHECK(stats.data_waits > 10);
	CHECK(w.copied > 1000);
	CHECK(w.closed_late > 10);
	CHECK(w.next_dmabuf > 50);
	CHECK(stack_areas_drained(w.stack) > 50);
	wind_down();
	walk_end();
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
