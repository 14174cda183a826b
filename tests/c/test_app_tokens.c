/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The numbers of a socket's tokens: always the lowest free one, against a table that is
 * searched from its start.
 */
#include <errno.h>

#include "check.h"
#include "app.h"

#define MANY 20000u

struct model {
	uint32_t piece[MANY + 1]; /* by token; APP_NIL: free */
	uint32_t live;
};

static uint32_t lowest_free(const struct model *m)
{
	uint32_t token = 1;

	while (m->piece[token] != APP_NIL)
		token++;
	return token;
}

static void numbers_ascend_from_one_and_are_used_again(void)
{
	struct app_tokens t = {0};

	for (uint32_t token = 1; token <= MANY; token++)
		CHECK_EQ(app_token_new(&t, 10 * token), token);
	CHECK_EQ(app_token_erase(&t, 777), 7770);
	CHECK_EQ(app_token_erase(&t, 777), APP_NIL);
	CHECK_EQ(app_token_erase(&t, 13000), 130000);
	CHECK_EQ(app_token_erase(&t, 5), 50);
	CHECK_EQ(app_token_new(&t, 1), 5);
	CHECK_EQ(app_token_new(&t, 2), 777);
	CHECK_EQ(app_token_new(&t, 3), 13000);
	CHECK_EQ(app_token_new(&t, 4), MANY + 1);
	CHECK_EQ(t.live, MANY + 1);
	app_tokens_free(&t);
	CHECK_EQ(app_token_new(&t, 1), 1);
	app_tokens_free(&t);
}

static void what_was_not_handed_out_cannot_be_erased(void)
{
	static const uint32_t wrong[] = {0, 2, 63, 64, 65, 4096, 1u << 31, UINT32_MAX};
	struct app_tokens t = {0};

	for (uint32_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CHECK_EQ(app_token_erase(&t, wrong[i]), APP_NIL);
	CHECK_EQ(app_token_new(&t, 8), 1);
	for (uint32_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CHECK_EQ(app_token_erase(&t, wrong[i]), APP_NIL);
	CHECK_EQ(t.live, 1);
	app_tokens_free(&t);
}

/* Phases that mostly take and that mostly give, so that all sizes are passed both ways. */
static void any_order_of_taking_and_giving(void)
{
	static struct model m;
	struct app_tokens t = {0};
	uint64_t seed = 42;

	memset(m.piece, 0xff, sizeof(m.piece));
	for (uint32_t step = 0; step < 60000; step++) {
		const uint32_t takes = step / 6000 % 2 ? 3 : 7;

		if (m.live < MANY / 4 && check_random(&seed, 10) < takes) {
			const uint32_t token = lowest_free(&m);

			CHECK_EQ(app_token_new(&t, step), token);
			m.piece[token] = step;
			m.live++;
		} else {
			const uint32_t token = check_random(&seed, MANY / 4);

			CHECK_EQ(app_token_erase(&t, token), m.piece[token] | !token * APP_NIL);
			m.live -= token && m.piece[token] != APP_NIL;
			m.piece[token] = APP_NIL;
		}
	}
	CHECK_EQ(t.live, m.live);
	app_tokens_free(&t);
}

CHECK_MAIN(CHECK_TEST(numbers_ascend_from_one_and_are_used_again),
	   CHECK_TEST(what_was_not_handed_out_cannot_be_erased),
	   CHECK_TEST(any_order_of_taking_and_giving))
