/* SPDX-License-Identifier: Apache-2.0 */
/* The flow table: found, forgotten, full; stale ids; which listener a segment is for. */
#include "check.h"
#include "flow.h"

#define SLOTS 65

static const uint8_t key[16] = "a secret of ours";

static struct flow_table fresh(void)
{
	struct flow_table t = {
		.flows = calloc(SLOTS, sizeof(struct flow)),
		.nr = SLOTS,
		.buckets = calloc(8, sizeof(uint32_t)), /* few: chains are long */
		.mask = 7,
		.key = key,
	};

	flow_table_init(&t);
	return t;
}

static void done(struct flow_table *t)
{
	free(t->flows);
	free(t->buckets);
}

static struct tuple tuple_of(uint16_t peer_port)
{
	struct tuple t = {.peer_port = peer_port, .local_port = 80, .family = 4};

	return t;
}

static void flows_are_found_until_they_are_unhashed(void)
{
	struct flow_table t = fresh();
	struct flow *f[SLOTS - 1];
	struct tuple tuple;

	for (uint16_t i = 0; i < SLOTS - 1; i++) {
		tuple = tuple_of(i);
		f[i] = flow_new(&t, &tuple);
		CHECK(f[i]);
	}
	tuple = tuple_of(999);
	CHECK(!flow_new(&t, &tuple));
	for (uint16_t i = 0; i < SLOTS - 1; i += 2)
		flow_unhash(&t, f[i]);
	for (uint16_t i = 0; i < SLOTS - 1; i++) {
		tuple = tuple_of(i);
		CHECK(flow_find(&t, &tuple) == (i % 2 ? f[i] : NULL));
		CHECK(flow_by_id(&t, f[i]->id) == f[i]);
	}
	for (uint16_t i = 0; i < SLOTS - 1; i++)
		flow_free(&t, f[i]);
	CHECK_EQ(t.live, 0);
	done(&t);
}

static void a_stale_id_is_of_no_flow(void)
{
	struct flow_table t = fresh();
	struct tuple tuple = tuple_of(1);
	struct flow *f = flow_new(&t, &tuple);
	const uint32_t old = f->id;

	flow_free(&t, f);
	CHECK(!flow_by_id(&t, old));
	CHECK(flow_new(&t, &tuple) == f); /* the slot again, another flow */
	CHECK(!flow_by_id(&t, old));
	CHECK(!flow_by_id(&t, 0));
	CHECK(!flow_by_id(&t, UINT32_MAX));
	done(&t);
}

static void the_last_flow_is_not_remembered_beyond_its_end(void)
{
	struct flow_table t = fresh();
	struct tuple tuple = tuple_of(1);
	struct flow *f = flow_new(&t, &tuple);

	CHECK(flow_find(&t, &tuple) == f);
	flow_free(&t, f);
	CHECK(!flow_find(&t, &tuple));
	done(&t);
}

static void the_exact_address_comes_before_any(void)
{
	struct listener l[3] = {
		{.local = {.port = 80, .family = 4}, .open = true},
		{.local = {.port = 80, .family = 4}, .open = true},
		{.local = {.port = 80, .family = 6}, .open = true},
	};
	struct tuple tuple = tuple_of(1);

	l[0].local.ip[10] = l[0].local.ip[11] = 0xff; /* 0.0.0.0 */
	memcpy(l[1].local.ip, l[0].local.ip, 16);
	l[1].local.ip[15] = 9;
	memcpy(tuple.local_ip, l[0].local.ip, 16);
	tuple.local_ip[15] = 9;
	CHECK_EQ(listener_find(l, 3, &tuple), 1);
	tuple.local_ip[15] = 8;
	CHECK_EQ(listener_find(l, 3, &tuple), 0);
	l[0].open = false;
	CHECK_EQ(listener_find(l, 3, &tuple), -1);
	tuple.family = 6;
	CHECK_EQ(listener_find(l, 3, &tuple), 2);
	tuple.local_port = 81;
	CHECK_EQ(listener_find(l, 3, &tuple), -1);
}

int main(void)
{
	static const struct check_test tests[] = {
		CHECK_TEST(flows_are_found_until_they_are_unhashed),
		CHECK_TEST(a_stale_id_is_of_no_flow),
		CHECK_TEST(the_last_flow_is_not_remembered_beyond_its_end),
		CHECK_TEST(the_exact_address_comes_before_any),
	};

	return check_main(tests, sizeof(tests) / sizeof(*tests));
}
