/* SPDX-License-Identifier: Apache-2.0 */
/* Sequence numbers around every place where 32 bits wrap. */
#include "check.h"
#include "seq.h"

static const uint32_t bases[] = {0, 1, 1000, 0x7fffffff, 0x80000000, 0xfffffffe, 0xffffffff};

static void order_holds_over_the_wrap(void)
{
	for (size_t i = 0; i < sizeof(bases) / sizeof(*bases); i++) {
		const seq_t a = seq(bases[i]);

		for (uint32_t step = 1; step < 1u << 31; step = step * 3 + 1) {
			const seq_t b = seq_add(a, step);

			CHECK(seq_lt(a, b) && !seq_lt(b, a));
			CHECK(seq_leq(a, b) && seq_leq(a, a) && !seq_leq(b, a));
			CHECK_EQ(seq_sub(b, a), step);
			CHECK_EQ(seq_sub(a, b), -(int64_t)step);
			CHECK(seq_eq(seq_max(a, b), b) && seq_eq(seq_min(a, b), a));
		}
	}
}

static void a_window_holds_its_first_and_not_its_end(void)
{
	for (size_t i = 0; i < sizeof(bases) / sizeof(*bases); i++) {
		const seq_t start = seq(bases[i]);

		CHECK(seq_in_window(start, start, 1));
		CHECK(!seq_in_window(start, start, 0));
		CHECK(seq_in_window(seq_add(start, 999), start, 1000));
		CHECK(!seq_in_window(seq_add(start, 1000), start, 1000));
		CHECK(!seq_in_window(seq_add(start, (uint32_t)-1), start, 1000));
	}
}

static void timestamps_wrap_alike(void)
{
	CHECK(ts_lt(0xffffffff, 0));
	CHECK(!ts_lt(0, 0xffffffff));
	CHECK(!ts_lt(7, 7));
}

int main(void)
{
	static const struct check_test tests[] = {
		CHECK_TEST(order_holds_over_the_wrap),
		CHECK_TEST(a_window_holds_its_first_and_not_its_end),
		CHECK_TEST(timestamps_wrap_alike),
	};

	return check_main(tests, sizeof(tests) / sizeof(*tests));
}
