/* SPDX-License-Identifier: Apache-2.0 */
/* States and parts, each legal and illegal move, and a check() that notices each kind of damage. */
#include <errno.h>
#include "memory_fixture.h"

#define FLOW 7

static struct memory_fixture f;

static void fixture_up(void)
{
	f = memory_fixture(4, 4, 4);
}

static void fixture_down(void)
{
	memory_fixture_free(&f);
}

static netmem_ref filled(void)
{
	netmem_ref netmem = page_pool_alloc_netmem(f.device_pool);

	frag_track(f.tracker, netmem, FRAG_FILL, 0);
	return netmem;
}

/* A net_iov that FLOW has one part of, in `state`. */
static netmem_ref in_use(enum frag_state state)
{
	netmem_ref netmem = filled();

	if (state == FRAG_OOO) {
		frag_track(f.tracker, netmem, FRAG_OOO, FLOW);
		return netmem;
	}
	frag_track(f.tracker, netmem, FRAG_RECEIVED, FLOW);
	if (state == FRAG_LENT)
		frag_track(f.tracker, netmem, FRAG_LENT, FLOW);
	return netmem;
}

static netmem_ref sent(void)
{
	netmem_ref netmem = page_pool_alloc_netmem(f.host_pool);

	frag_track(f.tracker, netmem, FRAG_TX, FLOW);
	return netmem;
}

/* ---- lives ---- */

static void a_fresh_tracker_has_everything_free(void)
{
	struct frag_record record = {.area = 9};

	fixture_up();
	CHECK_EQ(frag_count(f.tracker, FRAG_NET_IOV, FRAG_FREE), 4);
	CHECK_EQ(frag_count(f.tracker, FRAG_HOST_PAGE, FRAG_FREE), 4);
	CHECK_EQ(frag_tracker_check(f.tracker), 0);
	for (uint32_t n = 0; n < 8; n++) {
		CHECK_EQ(frag_tracker_record(f.tracker, n, &record), 0);
		CHECK_EQ(record.kind, n < 4 ? FRAG_NET_IOV : FRAG_HOST_PAGE);
		CHECK_EQ(record.index, n % 4);
		CHECK_EQ(record.area, STACK_NONE);
		CHECK_EQ(record.state, FRAG_FREE);
		CHECK_EQ(record.owner, 0);
		CHECK_EQ(record.offset, n % 4 * 4096 + (n < 4 ? FIXTURE_REGION_BASE : 0));
	}
	CHECK_EQ(frag_tracker_record(f.tracker, 8, &record), -ENOENT);
	fixture_down();
}

static void check_shows(netmem_ref netmem, enum frag_state state)
{
	enum frag_kind kind = netmem_is_net_iov(netmem) ? FRAG_NET_IOV : FRAG_HOST_PAGE;

	CHECK_EQ(frag_state_of(f.tracker, netmem), state);
	CHECK(frag_count(f.tracker, kind, state) >= 1);
	CHECK_EQ(frag_tracker_check(f.tracker), 0);
}

static void the_life_of_a_net_iov(void)
{
	netmem_ref netmem;
	struct frag_record record;

	fixture_up();
	netmem = filled();
	check_shows(netmem, FRAG_FILL);
	frag_track(f.tracker, netmem, FRAG_OOO, FLOW);
	check_shows(netmem, FRAG_OOO);
	frag_move(f.tracker, netmem, FRAG_OOO, FRAG_RECEIVED);
	check_shows(netmem, FRAG_RECEIVED);
	frag_move(f.tracker, netmem, FRAG_RECEIVED, FRAG_LENT);
	check_shows(netmem, FRAG_LENT);
	CHECK_EQ(frag_tracker_record(f.tracker, 0, &record), 0);
	CHECK_EQ(record.state, FRAG_LENT);
	CHECK_EQ(record.owner, FLOW);
	CHECK_EQ(record.refs, 1);
	frag_move(f.tracker, netmem, FRAG_LENT, FRAG_RETURNED);
	check_shows(netmem, FRAG_RETURNED);
	frag_track(f.tracker, netmem, FRAG_FREE, 0);
	page_pool_put_netmem(f.device_pool, netmem, true);
	check_shows(netmem, FRAG_FREE);
	CHECK_EQ(frag_count(f.tracker, FRAG_NET_IOV, FRAG_FREE), 4);
	fixture_down();
}

static void the_life_of_a_host_page(void)
{
	netmem_ref netmem;
	struct frag_record record;

	fixture_up();
	netmem = sent();
	check_shows(netmem, FRAG_TX);
	CHECK_EQ(frag_tracker_record(f.tracker, 4, &record), 0);
	CHECK_EQ(record.kind, FRAG_HOST_PAGE);
	CHECK_EQ(record.state, FRAG_TX);
	CHECK_EQ(record.owner, FLOW);
	frag_track(f.tracker, netmem, FRAG_FREE, 0);
	page_pool_put_netmem(f.host_pool, netmem, false);
	check_shows(netmem, FRAG_FREE);
	fixture_down();
}

/* Of an area without device memory: copied out, never lent. */
static void the_life_of_a_received_host_page(void)
{
	netmem_ref netmem;

	fixture_up();
	netmem = page_pool_alloc_netmem(f.host_pool);
	frag_track(f.tracker, netmem, FRAG_FILL, 0);
	check_shows(netmem, FRAG_FILL);
	frag_track(f.tracker, netmem, FRAG_OOO, FLOW);
	page_pool_ref_netmem(netmem);
	frag_split(f.tracker, netmem, FRAG_RECEIVED);
	check_shows(netmem, FRAG_OOO);
	frag_move(f.tracker, netmem, FRAG_OOO, FRAG_RECEIVED);
	check_shows(netmem, FRAG_RECEIVED);
	for (uint32_t left = 2; left; left--) {
		CHECK_EQ(frag_parts(f.tracker, netmem), left);
		frag_move(f.tracker, netmem, FRAG_RECEIVED, FRAG_FREE);
		page_pool_put_netmem(f.host_pool, netmem, true);
		CHECK_EQ(frag_tracker_check(f.tracker), 0);
	}
	check_shows(netmem, FRAG_FREE);
	CHECK_EQ(page_pool_available(f.host_pool), 4);
	fixture_down();
}

static void an_area_has_one_kind(void)
{
	const uint32_t sizes[][2] = {{4, 0}, {0, 4}};

	fixture_up();
	for (size_t i = 0; i < 2; i++) {
		struct frag_tracker *t = fixture_block(frag_tracker_size(sizes[i][0], sizes[i][1]));
		struct frag_record record;

		frag_tracker_init(t, sizes[i][0] ? f.device : NULL, sizes[i][1] ? f.host : NULL);
		CHECK_EQ(frag_tracker_check(t), 0);
		for (uint32_t n = 0; n < 4; n++) {
			CHECK_EQ(frag_tracker_record(t, n, &record), 0);
			CHECK_EQ(record.kind, sizes[i][0] ? FRAG_NET_IOV : FRAG_HOST_PAGE);
			CHECK_EQ(record.index, n);
		}
		CHECK_EQ(frag_tracker_record(t, 4, &record), -ENOENT);
		free(t);
	}
	fixture_down();
}

static void each_buffer_has_an_entry_of_its_own(void)
{
	struct frag_record record;

	fixture_up();
	for (uint32_t i = 0; i < 4; i++) {
		netmem_ref niov = filled(), page = page_pool_alloc_netmem(f.host_pool);

		frag_track(f.tracker, niov, FRAG_RECEIVED, 10 + i);
		frag_track(f.tracker, page, FRAG_TX, 14 + i);
		CHECK_EQ(frag_state_of(f.tracker, niov), FRAG_RECEIVED);
		CHECK_EQ(frag_state_of(f.tracker, page), FRAG_TX);
	}
	for (uint32_t n = 0; n < 8; n++) {
		CHECK_EQ(frag_tracker_record(f.tracker, n, &record), 0);
		CHECK_EQ(record.owner, 10 + n);
		CHECK_EQ(record.state, n < 4 ? FRAG_RECEIVED : FRAG_TX);
	}
	CHECK_EQ(frag_tracker_check(f.tracker), 0);
	fixture_down();
}

static void a_dropped_packet_frees_its_buffer(void)
{
	netmem_ref netmem;

	fixture_up();
	netmem = filled();
	frag_track(f.tracker, netmem, FRAG_FREE, 0);
	page_pool_put_netmem(f.device_pool, netmem, true);
	check_shows(netmem, FRAG_FREE);
	fixture_down();
}

/* ---- parts ---- */

static void split(netmem_ref netmem, enum frag_state state)
{
	page_pool_ref_netmem(netmem);
	frag_split(f.tracker, netmem, state);
}

static void end_part(netmem_ref netmem, enum frag_state from, enum frag_state to)
{
	frag_move(f.tracker, netmem, from, to);
	if (frag_state_of(f.tracker, netmem) == FRAG_RETURNED)
		frag_track(f.tracker, netmem, FRAG_FREE, 0);
	page_pool_put_netmem(f.device_pool, netmem, true);
}

static void the_most_exposed_part_shows(void)
{
	netmem_ref netmem;

	fixture_up();
	netmem = in_use(FRAG_RECEIVED);
	split(netmem, FRAG_OOO);
	check_shows(netmem, FRAG_OOO);
	CHECK_EQ(frag_parts(f.tracker, netmem), 2);
	frag_move(f.tracker, netmem, FRAG_RECEIVED, FRAG_LENT);
	check_shows(netmem, FRAG_LENT);
	split(netmem, FRAG_LENT); /* a second token */
	CHECK_EQ(frag_parts(f.tracker, netmem), 3);

	end_part(netmem, FRAG_LENT, FRAG_RETURNED);
	check_shows(netmem, FRAG_LENT);
	end_part(netmem, FRAG_LENT, FRAG_RETURNED);
	check_shows(netmem, FRAG_OOO);
	frag_move(f.tracker, netmem, FRAG_OOO, FRAG_RECEIVED);
	check_shows(netmem, FRAG_RECEIVED);
	end_part(netmem, FRAG_RECEIVED, FRAG_FREE);
	check_shows(netmem, FRAG_FREE);
	CHECK_EQ(page_pool_available(f.device_pool), 4);
	fixture_down();
}

static void a_part_may_be_dropped_while_another_is_lent(void)
{
	netmem_ref netmem;

	fixture_up();
	netmem = in_use(FRAG_LENT);
	split(netmem, FRAG_OOO);
	end_part(netmem, FRAG_OOO, FRAG_FREE);
	check_shows(netmem, FRAG_LENT);
	CHECK_EQ(frag_parts(f.tracker, netmem), 1);
	end_part(netmem, FRAG_LENT, FRAG_RETURNED);
	check_shows(netmem, FRAG_FREE);
	fixture_down();
}

/* ---- the table, move by move ---- */

static bool is_legal(enum frag_kind kind, enum frag_state from, enum frag_state to)
{
	static const enum frag_state niov_moves[][2] = {
		{FRAG_FREE, FRAG_FILL},	    {FRAG_FILL, FRAG_FREE},	{FRAG_FILL, FRAG_RECEIVED},
		{FRAG_FILL, FRAG_OOO},	    {FRAG_RECEIVED, FRAG_LENT}, {FRAG_RECEIVED, FRAG_FREE},
		{FRAG_OOO, FRAG_RECEIVED},  {FRAG_OOO, FRAG_FREE},	{FRAG_LENT, FRAG_RETURNED},
		{FRAG_RETURNED, FRAG_FREE},
	};
	static const enum frag_state page_moves[][2] = {
		{FRAG_FREE, FRAG_TX},	{FRAG_TX, FRAG_FREE},	    {FRAG_FREE, FRAG_FILL},
		{FRAG_FILL, FRAG_FREE}, {FRAG_FILL, FRAG_RECEIVED}, {FRAG_FILL, FRAG_OOO},
		{FRAG_OOO, FRAG_FREE},	{FRAG_OOO, FRAG_RECEIVED},  {FRAG_RECEIVED, FRAG_FREE},
	};
	bool is_niov = kind == FRAG_NET_IOV;
	size_t n = is_niov ? sizeof(niov_moves) / sizeof(niov_moves[0])
			   : sizeof(page_moves) / sizeof(page_moves[0]);

	for (size_t i = 0; i < n; i++) {
		const enum frag_state *move = is_niov ? niov_moves[i] : page_moves[i];

		if (move[0] == from && move[1] == to)
			return true;
	}
	return false;
}

static void the_table_has_the_legal_moves_and_no_others(void)
{
	for (int kind = 0; kind < FRAG_KINDS; kind++)
		for (int from = 0; from < FRAG_STATES; from++)
			for (int to = 0; to < FRAG_STATES; to++)
				CHECK_EQ(frag_may_move(kind, from, to), is_legal(kind, from, to));
}

#ifndef NDEBUG
struct attempt {
	enum frag_kind kind;
	enum frag_state from;
	enum frag_state to;
	uint32_t owner;
};

/* Puts buffer 0 of the kind into `from`, which need not be one of its own, and moves it. */
static void attempt_track(void *arg)
{
	const struct attempt *a = arg;
	netmem_ref netmem = a->kind == FRAG_NET_IOV
				    ? net_iov_to_netmem(device_provider_niov(f.device, 0))
				    : page_to_netmem(host_provider_page(f.host, 0));
	struct frag_entry *e = &f.tracker->entries[a->kind == FRAG_NET_IOV ? 0 : 4];

	e->state = a->from;
	e->received = a->from == FRAG_RECEIVED;
	e->ooo = a->from == FRAG_OOO;
	e->lent = a->from == FRAG_LENT;
	frag_track(f.tracker, netmem, a->to, a->owner);
}

static void illegal_moves_are_caught(void)
{
	fixture_up();
	for (int kind = 0; kind < FRAG_KINDS; kind++) {
		for (int from = 0; from < FRAG_STATES; from++) {
			for (int to = 0; to < FRAG_STATES; to++) {
				struct attempt a = {kind, from, to, FLOW};

				if (to == FRAG_FREE || to == FRAG_FILL)
					a.owner = 0;
				CHECK_EQ(check_aborts(attempt_track, &a),
					 !is_legal(kind, from, to));
			}
		}
	}
	fixture_down();
}

static void wrong_owners_are_caught(void)
{
	struct attempt wrong[] = {
		{FRAG_NET_IOV, FRAG_FREE, FRAG_FILL, FLOW},
		{FRAG_NET_IOV, FRAG_FILL, FRAG_FREE, FLOW},
		{FRAG_NET_IOV, FRAG_FILL, FRAG_RECEIVED, 0},
		{FRAG_NET_IOV, FRAG_FILL, FRAG_OOO, 0},
		{FRAG_NET_IOV, FRAG_RECEIVED, FRAG_LENT, 0},
		{FRAG_HOST_PAGE, FRAG_TX, FRAG_FREE, FLOW},
	};
	struct attempt reset = {FRAG_HOST_PAGE, FRAG_FREE, FRAG_TX, 0}; /* a RST without a flow */

	fixture_up();
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		CHECK(check_aborts(attempt_track, &wrong[i]));
	CHECK(!check_aborts(attempt_track, &reset));
	fixture_down();
}

static void move_an_absent_part(void *netmem)
{
	frag_move(f.tracker, *(netmem_ref *)netmem, FRAG_OOO, FRAG_RECEIVED);
}

static void lend_what_is_out_of_order(void *netmem)
{
	frag_move(f.tracker, *(netmem_ref *)netmem, FRAG_OOO, FRAG_LENT);
}

static void track_with_two_parts(void *netmem)
{
	frag_split(f.tracker, *(netmem_ref *)netmem, FRAG_RECEIVED);
	frag_track(f.tracker, *(netmem_ref *)netmem, FRAG_FREE, 0);
}

static void split_into_fill(void *netmem)
{
	frag_split(f.tracker, *(netmem_ref *)netmem, FRAG_FILL);
}

static void split_received(void *netmem)
{
	frag_split(f.tracker, *(netmem_ref *)netmem, FRAG_RECEIVED);
}

static void wrong_parts_are_caught(void)
{
	netmem_ref received, ooo, fill, page;

	fixture_up();
	received = in_use(FRAG_RECEIVED);
	ooo = in_use(FRAG_OOO);
	fill = filled();
	page = sent();
	CHECK(check_aborts(move_an_absent_part, &received));
	CHECK(check_aborts(lend_what_is_out_of_order, &ooo));
	CHECK(check_aborts(track_with_two_parts, &received));
	CHECK(check_aborts(split_into_fill, &received));
	CHECK(check_aborts(split_received, &fill));
	CHECK(check_aborts(split_received, &page));
	CHECK(!check_aborts(split_received, &received));
	fixture_down();
}
#endif

/* ---- damage ---- */

/*
 * Buffers by the time they are damaged: net_iov 0 FREE, 1 FILL, 2 LENT, 3 OOO
 * (two parts); host page 0 (buffer 4) FREE, 1 TX.
 */
static netmem_ref niov_ref(uint32_t i)
{
	return net_iov_to_netmem(device_provider_niov(f.device, i));
}

static struct frag_entry *entry(uint32_t n)
{
	return &f.tracker->entries[n];
}

static void free_twice(void)
{
	f.device_pool->cache[f.device_pool->cache_count++] = niov_ref(0);
}

static void free_nowhere(void)
{
	f.device_pool->cache_count--;
}

static void lent_and_in_the_cache(void)
{
	f.device_pool->cache[0] = niov_ref(2);
	f.device_pool->cache_count = 1;
	entry(0)->state = FRAG_FILL;
}

static void lent_and_in_the_ring(void)
{
	f.device_pool->ring[f.device_pool->ring_head++ & f.device_pool->ring_mask] = niov_ref(2);
}

static void lent_and_in_the_provider(void)
{
	f.device->mp.free[f.device->mp.nr_free++] = 2;
}

static void free_with_references(void)
{
	page_pool_ref_netmem(niov_ref(0));
}

static void free_with_owner(void)
{
	entry(0)->owner = FLOW;
}

static void fill_with_owner(void)
{
	entry(1)->owner = FLOW;
}

static void lent_without_owner(void)
{
	entry(2)->owner = 0;
}

static void lent_without_reference(void)
{
	*netmem_get_pp_ref_count_ref(niov_ref(2)) = 0;
}

static void fill_without_reference(void)
{
	*netmem_get_pp_ref_count_ref(niov_ref(1)) = 0;
}

static void fewer_references_than_parts(void)
{
	*netmem_get_pp_ref_count_ref(niov_ref(3)) = 1;
}

static void lent_without_parts(void)
{
	entry(2)->lent = 0;
}

static void fill_with_parts(void)
{
	entry(1)->lent = 1;
}

static void shows_the_less_exposed_part(void)
{
	entry(3)->state = FRAG_RECEIVED;
}

static void net_iov_in_transmission(void)
{
	entry(1)->state = FRAG_TX;
}

static void no_such_state(void)
{
	entry(1)->state = FRAG_STATES;
}

static void host_page_lent(void)
{
	*entry(5) = (struct frag_entry){.owner = FLOW, .lent = 1, .state = FRAG_LENT};
}

static void host_page_returned(void)
{
	*entry(5) = (struct frag_entry){.owner = FLOW, .state = FRAG_RETURNED};
}

static void free_host_page_out_of_order(void)
{
	*entry(4) = (struct frag_entry){.owner = FLOW, .ooo = 1, .state = FRAG_OOO};
}

static void lent_without_pool(void)
{
	page_pool_clear_pp_info(niov_ref(2));
}

static void net_iov_of_another_type(void)
{
	device_provider_niov(f.device, 2)->type = NET_IOV_IOURING;
}

static void net_iov_of_another_area(void)
{
	static struct net_iov_area other;

	other.niovs = device_provider_niov(f.device, 0);
	device_provider_niov(f.device, 2)->owner = &other;
}

static void host_page_at_the_wrong_address(void)
{
	host_provider_page(f.host, 1)->virtual_address = f.pages;
}

static void host_page_over_device_memory(void)
{
	host_provider_page(f.host, 1)->virtual_address = f.device;
}

static void counts_that_do_not_add_up(void)
{
	f.tracker->count[FRAG_NET_IOV][FRAG_LENT]++;
}

static void a_pool_that_lost_count(void)
{
	f.device_pool->pages_state_release_cnt++;
}

static void garbage_in_a_pool(void)
{
	f.device_pool->cache[f.device_pool->cache_count++] =
		net_iov_to_netmem(device_provider_niov(f.device, 4));
}

static void half_a_descriptor_in_a_pool(void)
{
	f.device_pool->cache[0] = net_iov_to_netmem(
		(struct net_iov *)((char *)device_provider_niov(f.device, 0) + 8));
	entry(0)->state = FRAG_FILL;
}

static void a_page_in_the_device_pool(void)
{
	f.device_pool->cache[f.device_pool->cache_count++] =
		page_to_netmem(host_provider_page(f.host, 1));
}

static void garbage_in_a_provider(void)
{
	f.device->mp.free[f.device->mp.nr_free++] = 4;
}

#define SUMS 8 /* "one past the last buffer" */

static const struct damage {
	const char *name;
	void (*inflict)(void);
	uint32_t buffer; /* the first that check() must blame */
} damages[] = {
#define DAMAGE(function, buffer) {#function, function, buffer}
	DAMAGE(free_twice, 0),
	DAMAGE(free_nowhere, 0),
	DAMAGE(lent_and_in_the_cache, 2),
	DAMAGE(lent_and_in_the_ring, 2),
	DAMAGE(lent_and_in_the_provider, 2),
	DAMAGE(free_with_references, 0),
	DAMAGE(free_with_owner, 0),
	DAMAGE(fill_with_owner, 1),
	DAMAGE(lent_without_owner, 2),
	DAMAGE(lent_without_reference, 2),
	DAMAGE(fill_without_reference, 1),
	DAMAGE(fewer_references_than_parts, 3),
	DAMAGE(lent_without_parts, 2),
	DAMAGE(fill_with_parts, 1),
	DAMAGE(shows_the_less_exposed_part, 3),
	DAMAGE(net_iov_in_transmission, 1),
	DAMAGE(no_such_state, 1),
	DAMAGE(host_page_lent, 5),
	DAMAGE(host_page_returned, 5),
	DAMAGE(free_host_page_out_of_order, 4),
	DAMAGE(lent_without_pool, 2),
	DAMAGE(net_iov_of_another_type, 2),
	DAMAGE(net_iov_of_another_area, 2),
	DAMAGE(host_page_at_the_wrong_address, 5),
	DAMAGE(host_page_over_device_memory, 5),
	DAMAGE(counts_that_do_not_add_up, SUMS),
	DAMAGE(a_pool_that_lost_count, SUMS),
	DAMAGE(garbage_in_a_pool, SUMS),
	DAMAGE(half_a_descriptor_in_a_pool, SUMS),
	DAMAGE(a_page_in_the_device_pool, SUMS),
	DAMAGE(garbage_in_a_provider, SUMS),
#undef DAMAGE
};

static void prepare_for_damage(void)
{
	netmem_ref refs[4], pages[2];

	fixture_up();
	for (int i = 0; i < 4; i++) {
		refs[i] = filled();
		CHECK_EQ(net_iov_index(netmem_to_net_iov(refs[i])), i);
	}
	frag_track(f.tracker, refs[0], FRAG_FREE, 0);
	page_pool_put_netmem(f.device_pool, refs[0], true);
	frag_track(f.tracker, refs[2], FRAG_RECEIVED, FLOW);
	frag_track(f.tracker, refs[2], FRAG_LENT, FLOW);
	frag_track(f.tracker, refs[3], FRAG_RECEIVED, FLOW);
	split(refs[3], FRAG_OOO);
	pages[0] = sent();
	pages[1] = sent();
	frag_track(f.tracker, pages[0], FRAG_FREE, 0);
	page_pool_put_netmem(f.host_pool, pages[0], true);
}

static void each_kind_of_damage_is_noticed(void)
{
	for (size_t i = 0; i < sizeof(damages) / sizeof(damages[0]); i++) {
		unsigned long before = check_failures;

		prepare_for_damage();
		CHECK_EQ(frag_tracker_check(f.tracker), 0);
		damages[i].inflict();
		CHECK_EQ(frag_tracker_check(f.tracker), -(1 + (int)damages[i].buffer));
		if (check_failures != before)
			printf("  %s\n", damages[i].name);
		fixture_down();
	}
}

static void a_check_changes_nothing(void)
{
	fixture_up();
	in_use(FRAG_LENT);
	CHECK_EQ(frag_tracker_check(f.tracker), 0);
	CHECK_EQ(frag_tracker_check(f.tracker), 0);
	fixture_down();
}

CHECK_MAIN(CHECK_TEST(a_fresh_tracker_has_everything_free), CHECK_TEST(the_life_of_a_net_iov),
	   CHECK_TEST(the_life_of_a_host_page), CHECK_TEST(the_life_of_a_received_host_page),
	   CHECK_TEST(an_area_has_one_kind), CHECK_TEST(each_buffer_has_an_entry_of_its_own),
	   CHECK_TEST(a_dropped_packet_frees_its_buffer), CHECK_TEST(the_most_exposed_part_shows),
	   CHECK_TEST(a_part_may_be_dropped_while_another_is_lent),
	   CHECK_TEST(the_table_has_the_legal_moves_and_no_others),
#ifndef NDEBUG
	   CHECK_TEST(illegal_moves_are_caught), CHECK_TEST(wrong_owners_are_caught),
	   CHECK_TEST(wrong_parts_are_caught),
#endif
	   CHECK_TEST(each_kind_of_damage_is_noticed), CHECK_TEST(a_check_changes_nothing))
