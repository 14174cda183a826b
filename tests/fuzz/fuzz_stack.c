/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames, time and requests into the whole stack. Each record of the input is one event of the
 * world of stack_walk.h: a segment of a connection that is there, or of none, with a valid
 * record and headers unless the record says otherwise; some time; something that an application
 * asks. Afterwards everybody leaves, and every buffer must be home.
 */
#include "fuzz.h"
#include "stack_walk.h"

static struct fuzz_input input;

static uint32_t walk_draw(uint32_t below)
{
	return fuzz_draw(&input, below);
}

static void pass_time(void)
{
	w.now += chance(one_in(8) ? 90000 : 60) * MS;
	turn();
}

static void change_app(void)
{
	const int number = (int)chance(APPS);

	if (w.apps[number].open)
		close_app(number);
	else
		open_app();
}

static void step(void)
{
	const uint32_t what = chance(16);
	const struct walk_app *a = &w.apps[what % APPS];

	switch (what) {
	case 0:
	case 1:
	case 2:
		if (a->open)
			consume(a);
		break;
	case 3:
	case 4:
	case 5:
		if (a->open)
			ask(a);
		break;
	case 6:
		pass_time();
		break;
	case 7:
		turn();
		break;
	case 8:
		change_app();
		break;
	case 9:
		restart_queue(chance(QUEUES));
		break;
	case 10:
		try_close_area((int)chance(AREAS));
		break;
	default:
		receive();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	input = (struct fuzz_input){.next = data, .end = data + size};
	if (!fuzz_step(&input))
		return 0;
	walk_start(chance(2) ? PRESSURE_WINDOW : PRESSURE_DROP);
	refill();
	for (uint32_t i = 1; fuzz_step(&input); i++) {
		step();
		if (i % 4 == 0)
			turn();
		if (i % 16 == 0)
			CHECK_EQ(stack_check(w.stack), 0);
		for (int n = 0; n < APPS; n++)
			if (w.apps[n].open)
				check_app(n);
	}
	CHECK_EQ(stack_check(w.stack), 0);
	wind_down();
	walk_end();
	fuzz_judge();
	return 0;
}
