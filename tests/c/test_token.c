/* SPDX-License-Identifier: Apache-2.0 */
/* Tokens: who holds them, what a stale one is worth, and that they run out and come back. */
#include "check.h"
#include "token.h"

#define SLOTS 9 /* slot 0 is not used */

static struct token_entry entries[SLOTS];
static struct net_iov niov;

static struct token_table fresh(void)
{
	struct token_table t = {.entry = entries, .nr = SLOTS};

	memset(entries, 0, sizeof(entries));
	token_table_init(&t);
	return t;
}

static void a_token_is_found_by_its_flow_alone(void)
{
	struct token_table t = fresh();
	uint32_t first = 0, token = token_new(&t, net_iov_to_netmem(&niov), 5, &first);

	CHECK(token >= 1 && token < 1u << 31);
	CHECK(token_find(&t, token, 5));
	CHECK(!token_find(&t, token, 6));
	CHECK(!token_find(&t, 0, 5));
	CHECK(!token_find(&t, SLOTS, 5));
	CHECK(!token_find(&t, UINT32_MAX, 5));
}

static void one_returned_twice_does_not_free_its_successor(void)
{
	struct token_table t = fresh();
	uint32_t first = 0, old = token_new(&t, net_iov_to_netmem(&niov), 5, &first), next;

	CHECK(netmem_equal(token_free(&t, token_find(&t, old, 5), &first),
			   net_iov_to_netmem(&niov)));
	CHECK(!token_find(&t, old, 5));
	next = token_new(&t, net_iov_to_netmem(&niov), 5, &first);
	CHECK(next != old);
	CHECK(!token_find(&t, old, 5) && token_find(&t, next, 5));
}

static void they_run_out_and_come_back(void)
{
	struct token_table t = fresh();
	uint32_t first = 0, nr = 0;

	while (token_new(&t, net_iov_to_netmem(&niov), 1, &first))
		nr++;
	CHECK_EQ(nr, SLOTS - 1);
	CHECK_EQ(t.live, nr);
	/* From the middle of the chain, then from its ends. */
	token_free(&t, entries[first].next, &first);
	while (first)
		token_free(&t, first, &first);
	CHECK_EQ(t.live, 0);
	CHECK(token_new(&t, net_iov_to_netmem(&niov), 1, &first));
}

int main(void)
{
	static const struct check_test tests[] = {
		CHECK_TEST(a_token_is_found_by_its_flow_alone),
		CHECK_TEST(one_returned_twice_does_not_free_its_successor),
		CHECK_TEST(they_run_out_and_come_back),
	};

	return check_main(tests, sizeof(tests) / sizeof(*tests));
}
