/* SPDX-License-Identifier: Apache-2.0 */
/* The pool's flow step by step, then at random against a model that knows where each buffer is. */
#include <errno.h>
#include "memory_fixture.h"

/* Takes `n` buffers, and checks that there were so many. */
static void take(struct page_pool *pool, netmem_ref *refs, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		refs[i] = page_pool_alloc_netmem(pool);
		CHECK(!netmem_is_none(refs[i]));
	}
}

static void put_all(struct page_pool *pool, const netmem_ref *refs, uint32_t n, bool direct)
{
	for (uint32_t i = 0; i < n; i++)
		page_pool_put_netmem(pool, refs[i], direct);
}

static uint32_t niov_of(netmem_ref netmem)
{
	return net_iov_index(netmem_to_net_iov(netmem));
}

/* ---- parameters ---- */

static void parameters_are_refused_with_the_kernels_errnos(void)
{
	struct memory_fixture f = memory_fixture(1, 1, 0);
	struct memory_provider *mp = &f.device->mp;
	struct memory_provider no_ops = {.ops = NULL};
	struct page_pool_params good = device_params(mp, 0);
	struct page_pool_params p;
	struct page_pool *pool = fixture_block(page_pool_size(&good));

#define REFUSED(error, ...)                                                                        \
	do {                                                                                       \
		p = good;                                                                          \
		__VA_ARGS__;                                                                       \
		CHECK_EQ(page_pool_init(pool, &p), error);                                         \
	} while (0)

	REFUSED(-EINVAL, p.flags |= 0x10);
	REFUSED(-EINVAL, p.dma_dir = DMA_TO_DEVICE);
	REFUSED(-EINVAL, p.dma_dir = DMA_NONE);
	REFUSED(0, p.dma_dir = DMA_BIDIRECTIONAL);
	CHECK_EQ(page_pool_destroy(pool), 0);
	REFUSED(-EINVAL, p.max_len = 0);
	REFUSED(-EINVAL, p.flags &= ~PP_FLAG_DMA_MAP);
	REFUSED(-EFAULT, p.mp = NULL);
	REFUSED(-EFAULT, p.mp = &no_ops);
	REFUSED(-EOPNOTSUPP, p.flags = PP_FLAG_ALLOW_UNREADABLE_NETMEM);
	REFUSED(-EOPNOTSUPP, p.flags &= ~PP_FLAG_DMA_SYNC_DEV);
	REFUSED(-EOPNOTSUPP, p.flags &= ~PP_FLAG_ALLOW_UNREADABLE_NETMEM);
	REFUSED(-E2BIG, p.order = 1);
	REFUSED(-E2BIG, p = host_params(&f.host->mp, 0); p.order = 1);
#undef REFUSED
	CHECK_EQ(mp->refs, 2); /* none of those left a reference behind */
	free(pool);
	memory_fixture_free(&f);
}

static void the_ring_is_a_power_of_two_and_capped(void)
{
	static const uint32_t sizes[][2] = {
		{0, 1024},	{1, 1},		{2, 2},
		{3, 4},		{64, 64},	{65, 128},
		{16384, 16384}, {16385, 16384}, {UINT32_MAX, 16384},
	};
	struct memory_fixture f = memory_fixture(1, 1, 0);

	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		struct page_pool_params params = host_params(&f.host->mp, sizes[i][0]);
		struct page_pool *pool = fixture_pool(&params);

		CHECK_EQ(pool->ring_mask + 1, sizes[i][1]);
		CHECK(page_pool_size(&params) >= sizeof(*pool) + sizes[i][1] * sizeof(netmem_ref));
		CHECK_EQ(page_pool_destroy(pool), 0);
		free(pool);
	}
	memory_fixture_free(&f);
}

/* ---- alloc ---- */

static void a_fresh_provider_hands_out_ascending_and_in_batches(void)
{
	struct memory_fixture f = memory_fixture(100, 1, 0);
	struct page_pool *pool = f.device_pool;

	for (uint32_t i = 0; i < 100; i++) {
		netmem_ref netmem = page_pool_alloc_netmem(pool);

		CHECK_EQ(niov_of(netmem), i);
		CHECK(netmem_get_pp(netmem) == pool);
		CHECK(netmem_is_pp(netmem));
		CHECK_EQ(*netmem_get_pp_ref_count_ref(netmem), 1);
	}
	CHECK(netmem_is_none(page_pool_alloc_netmem(pool)));
	/* 64, then 36: two trips to the provider and one in vain; the rest from the cache. */
	CHECK_EQ(pool->alloc_stats.empty, 3);
	CHECK_EQ(pool->alloc_stats.fast, 98);
	CHECK_EQ(pool->alloc_stats.slow,
		 0); /* as the kernel: a provider is not the page allocator */
	CHECK_EQ(page_pool_available(pool), 0);
	CHECK_EQ(page_pool_inflight(pool), 100);
	memory_fixture_free(&f);
}

static void host_pages_count_as_the_slow_path(void)
{
	struct memory_fixture f = memory_fixture(1, 2, 0);
	netmem_ref refs[2];

	take(f.host_pool, refs, 2);
	CHECK_EQ(f.host_pool->alloc_stats.slow, 1);
	CHECK_EQ(page_index(netmem_to_page(refs[0])), 0);
	CHECK_EQ(page_index(netmem_to_page(refs[1])), 1);
	CHECK_EQ(netmem_ref_count(refs[0]), 1);
	CHECK(netmem_is_none(page_pool_alloc_netmem(f.host_pool)));
	CHECK_EQ(f.host_pool->alloc_stats.slow, 1);
	memory_fixture_free(&f);
}

static void the_cache_is_last_in_first_out(void)
{
	struct memory_fixture f = memory_fixture(3, 1, 0);
	netmem_ref refs[3];

	take(f.device_pool, refs, 3);
	put_all(f.device_pool, refs, 3, true);
	CHECK_EQ(f.device_pool->recycle_stats.cached, 3);
	for (int i = 3; i-- > 0;)
		CHECK(netmem_equal(page_pool_alloc_netmem(f.device_pool), refs[i]));
	memory_fixture_free(&f);
}

static void the_ring_refills_half_of_the_cache(void)
{
	struct memory_fixture f = memory_fixture(100, 1, 128);
	struct page_pool *pool = f.device_pool;
	netmem_ref refs[100];

	take(pool, refs, 100);
	put_all(pool, refs, 100, false);
	CHECK_EQ(pool->recycle_stats.ring, 100);
	CHECK_EQ(pool->recycle_stats.cached, 0);
	/* The 64 oldest move over, and the youngest of those is on top. */
	CHECK(netmem_equal(page_pool_alloc_netmem(pool), refs[63]));
	CHECK_EQ(pool->alloc_stats.refill, 1);
	CHECK_EQ(pool->cache_count, 63);
	CHECK_EQ(page_pool_resting(pool), 99);
	CHECK_EQ(page_pool_inflight(pool), 100);
	CHECK_EQ(page_pool_available(pool), 99);
	memory_fixture_free(&f);
}

static void a_page_of_another_node_is_waived(void)
{
	struct memory_fixture f = memory_fixture(1, 4, 8);
	struct page_pool *pool = f.host_pool;
	netmem_ref refs[4];

	pool->p.nid = 0;
	take(pool, refs, 4);
	netmem_to_page(refs[1])->flags = 1UL << PAGE_NID_SHIFT;
	put_all(pool, refs, 4, false);
	CHECK(netmem_equal(page_pool_alloc_netmem(pool),
			   refs[0])); /* and refs[1] ended the batch */
	CHECK_EQ(pool->alloc_stats.waive, 1);
	CHECK_EQ(page_pool_resting(pool), 2);
	CHECK_EQ(f.host->mp.nr_free, 1);
	CHECK_EQ(page_pool_inflight(pool), 3);
	CHECK_EQ(page_pool_available(pool), 3);
	memory_fixture_free(&f);
}

/* ---- put ---- */

static void a_full_cache_spills_into_the_ring_and_a_full_ring_to_the_provider(void)
{
	struct memory_fixture f = memory_fixture(PP_ALLOC_CACHE_SIZE + 10, 1, 8);
	struct page_pool *pool = f.device_pool;
	netmem_ref refs[PP_ALLOC_CACHE_SIZE + 10];

	take(pool, refs, PP_ALLOC_CACHE_SIZE + 10);
	put_all(pool, refs, PP_ALLOC_CACHE_SIZE + 10, true);
	CHECK_EQ(pool->recycle_stats.cached, PP_ALLOC_CACHE_SIZE);
	CHECK_EQ(pool->recycle_stats.cache_full, 10);
	CHECK_EQ(pool->recycle_stats.ring, 8);
	CHECK_EQ(pool->recycle_stats.ring_full, 2);
	CHECK_EQ(f.device->mp.nr_free, 2);
	CHECK_EQ(page_pool_inflight(pool), PP_ALLOC_CACHE_SIZE + 8);
	CHECK_EQ(page_pool_available(pool), PP_ALLOC_CACHE_SIZE + 10);
	/* What the provider has again is nobody's. */
	CHECK(netmem_get_pp(refs[PP_ALLOC_CACHE_SIZE + 9]) == NULL);
	CHECK(!netmem_is_pp(refs[PP_ALLOC_CACHE_SIZE + 9]));
	memory_fixture_free(&f);
}

static void only_the_last_reference_recycles(void)
{
	struct memory_fixture f = memory_fixture(1, 1, 0);
	struct page_pool *pool = f.device_pool;
	netmem_ref netmem = page_pool_alloc_netmem(pool);

	page_pool_ref_netmem(netmem);
	page_pool_ref_netmem(netmem);
	CHECK_EQ(*netmem_get_pp_ref_count_ref(netmem), 3);
	page_pool_put_netmem(pool, netmem, true);
	page_pool_put_netmem(pool, netmem, true);
	CHECK_EQ(page_pool_available(pool), 0);
	page_pool_put_netmem(pool, netmem, true);
	CHECK_EQ(page_pool_available(pool), 1);
	CHECK_EQ(*netmem_get_pp_ref_count_ref(netmem), 1);
	memory_fixture_free(&f);
}

static void a_buffer_may_be_split(void)
{
	struct memory_fixture f = memory_fixture(1, 1, 0);
	struct page_pool *pool = f.device_pool;
	netmem_ref netmem = page_pool_alloc_netmem(pool);

	page_pool_fragment_netmem(netmem, 1000);
	CHECK_EQ(page_pool_unref_netmem(netmem, 990), 10);
	for (int i = 0; i < 9; i++)
		page_pool_put_netmem(pool, netmem, true);
	CHECK_EQ(page_pool_available(pool), 0);
	/* All that is left at once: back at rest, and the caller puts it. */
	page_pool_fragment_netmem(netmem, 5);
	CHECK_EQ(page_pool_unref_netmem(netmem, 5), 0);
	CHECK_EQ(*netmem_get_pp_ref_count_ref(netmem), 1);
	page_pool_put_unrefed_netmem(pool, netmem, true);
	CHECK_EQ(page_pool_available(pool), 1);
	memory_fixture_free(&f);
}

static void references_below_zero_warn(void)
{
	struct memory_fixture f = memory_fixture(1, 1, 0);
	netmem_ref netmem = page_pool_alloc_netmem(f.device_pool);
	uint64_t hits = netmem_warning.hits;

	CHECK_EQ(page_pool_unref_netmem(netmem, 2), -1);
	CHECK_EQ(netmem_warning.hits, hits + 1);
	memory_fixture_free(&f);
}

static void a_page_that_is_shared_or_from_the_reserves_is_released(void)
{
	struct memory_fixture f = memory_fixture(1, 2, 0);
	struct page_pool *pool = f.host_pool;
	netmem_ref refs[2];

	take(pool, refs, 2);
	get_page(netmem_to_page(refs[0]));
	netmem_to_page(refs[1])->flags |= PAGE_FLAG_PFMEMALLOC;
	put_all(pool, refs, 2, true);
	CHECK_EQ(pool->recycle_stats.released_refcnt, 2);
	CHECK_EQ(pool->recycle_stats.cached, 0);
	CHECK_EQ(page_pool_inflight(pool), 0);
	CHECK_EQ(f.host->mp.nr_free, 1); /* refs[0] still has its other user */
	put_page(netmem_to_page(refs[0]));
	CHECK_EQ(f.host->mp.nr_free, 2);
	memory_fixture_free(&f);
}

static void the_device_provider_leaks_what_is_not_at_rest(void)
{
	struct memory_fixture f = memory_fixture(1, 1, 0);
	const struct memory_provider_ops *ops = f.device->mp.ops;
	netmem_ref netmem = page_pool_alloc_netmem(f.device_pool);
	netmem_ref foreign = page_to_netmem(host_provider_page(f.host, 0));
	uint64_t hits = netmem_warning.hits;

	page_pool_ref_netmem(netmem);
	CHECK(!ops->release_netmem(f.device_pool, netmem));
	CHECK(!ops->release_netmem(f.device_pool, foreign));
	CHECK_EQ(netmem_warning.hits, hits + 2);
	CHECK_EQ(f.device->mp.nr_free, 0);
	memory_fixture_free(&f);
}

/* ---- the end ---- */

static void destroying_waits_for_what_is_in_use(void)
{
	struct memory_fixture f = memory_fixture(200, 1, 16);
	struct page_pool *pool = f.device_pool;
	netmem_ref refs[150];

	take(pool, refs, 150);
	put_all(pool, refs, 70, true);
	put_all(pool, refs + 70, 70, false);
	CHECK_EQ(page_pool_destroy(pool), 10);
	CHECK_EQ(page_pool_resting(pool), 0);
	CHECK_EQ(f.device->mp.nr_free, 190);
	CHECK_EQ(f.device->mp.refs, 2);
	CHECK(f.device->mp.pools == pool);
	put_all(pool, refs + 140, 10, true);
	CHECK_EQ(page_pool_destroy(pool), 0);
	CHECK_EQ(f.device->mp.nr_free, 200);
	CHECK_EQ(f.device->mp.refs, 1);
	CHECK(f.device->mp.pools == NULL);
	CHECK_EQ(page_pool_destroy(pool), 0);
	CHECK_EQ(f.device->mp.refs, 1);
	memory_fixture_free(&f);
}

static void pools_share_a_provider(void)
{
	struct memory_fixture f = memory_fixture(100, 1, 4);
	struct page_pool_params params = device_params(&f.device->mp, 4);
	struct page_pool *second = fixture_pool(&params);
	netmem_ref a = page_pool_alloc_netmem(f.device_pool);
	netmem_ref b = page_pool_alloc_netmem(second);

	CHECK_EQ(niov_of(a), 0);
	CHECK_EQ(niov_of(b), 64); /* the first pool took a batch */
	CHECK_EQ(page_pool_available(f.device_pool), 63);
	CHECK_EQ(page_pool_available(second), 35);
	page_pool_put_netmem(f.device_pool, a, true);
	CHECK_EQ(page_pool_destroy(f.device_pool), 0);
	CHECK(f.device->mp.pools == second);
	CHECK_EQ(page_pool_available(second), 35 + 64);
	page_pool_put_netmem(second, b, true);
	CHECK_EQ(page_pool_destroy(second), 0);
	CHECK_EQ(f.device->mp.refs, 1);
	free(second);
	memory_fixture_free(&f);
}

static void the_counts_may_wrap(void)
{
	struct memory_fixture f = memory_fixture(2, 1, 0);
	netmem_ref refs[2];

	f.device_pool->pages_state_hold_cnt = UINT32_MAX;
	f.device_pool->pages_state_release_cnt = UINT32_MAX;
	take(f.device_pool, refs, 2);
	CHECK_EQ(page_pool_inflight(f.device_pool), 2);
	memory_fixture_free(&f);
}

/* ---- caught in debug builds ---- */

#ifndef NDEBUG
static void put_twice(void *direct)
{
	struct memory_fixture f = memory_fixture(1, 1, 0);
	netmem_ref netmem = page_pool_alloc_netmem(f.device_pool);

	page_pool_put_netmem(f.device_pool, netmem, direct != NULL);
	page_pool_put_netmem(f.device_pool, netmem, direct != NULL);
}

static void put_after_release(void *unused)
{
	struct memory_fixture f = memory_fixture(1, 1, 0);
	netmem_ref netmem = page_pool_alloc_netmem(f.device_pool);

	(void)unused;
	page_pool_put_netmem(f.device_pool, netmem, true);
	page_pool_destroy(f.device_pool);
	page_pool_put_netmem(f.device_pool, netmem, true);
}

static void put_into_another_pool(void *unused)
{
	struct memory_fixture f = memory_fixture(1, 1, 0);

	(void)unused;
	page_pool_put_netmem(f.host_pool, page_pool_alloc_netmem(f.device_pool), true);
}

static void wrong_puts_are_caught(void)
{
	CHECK(check_aborts(put_twice, NULL));
	CHECK(check_aborts(put_twice, (void *)1));
	CHECK(check_aborts(put_after_release, NULL));
	CHECK(check_aborts(put_into_another_pool, NULL));
}
#endif

/* ---- against a model ---- */

#define MODEL_BUFS 300
#define MODEL_RING 64

/* Three lists of buffer numbers, moved about the naive way, and a reference count each. */
struct model {
	uint32_t cache[PP_ALLOC_CACHE_SIZE], nr_cache;
	uint32_t ring[MODEL_RING], nr_ring; /* [0] is the oldest */
	uint32_t free[MODEL_BUFS], nr_free; /* [nr_free - 1] goes out next */
	uint32_t refs[MODEL_BUFS]; /* 0: not in use */
};

static int model_alloc(struct model *m)
{
	if (m->nr_cache == 0) {
		while (m->nr_ring && m->nr_cache < 64) {
			m->cache[m->nr_cache++] = m->ring[0];
			memmove(m->ring, m->ring + 1, --m->nr_ring * sizeof(m->ring[0]));
		}
	}
	if (m->nr_cache == 0) {
		uint32_t n = m->nr_free < 64 ? m->nr_free : 64;

		memcpy(m->cache, m->free + m->nr_free - n, n * sizeof(m->free[0]));
		m->nr_free -= n;
		m->nr_cache = n;
	}
	if (m->nr_cache == 0)
		return -1;
	m->nr_cache--;
	m->refs[m->cache[m->nr_cache]] = 1;
	return (int)m->cache[m->nr_cache];
}

static void model_put(struct model *m, uint32_t i, bool direct)
{
	if (--m->refs[i])
		return;
	if (direct && m->nr_cache < PP_ALLOC_CACHE_SIZE)
		m->cache[m->nr_cache++] = i;
	else if (m->nr_ring < MODEL_RING)
		m->ring[m->nr_ring++] = i;
	else
		m->free[m->nr_free++] = i;
}

static uint32_t model_pick_in_use(const struct model *m, uint64_t *seed)
{
	uint32_t i = check_random(seed, MODEL_BUFS);

	for (uint32_t n = 0; n < MODEL_BUFS && !m->refs[i]; n++)
		i = (i + 1) % MODEL_BUFS;
	return i;
}

static void model_step(struct model *m, struct memory_fixture *f, uint32_t take_weight,
		       uint64_t *seed)
{
	struct page_pool *pool = f->device_pool;
	uint32_t what = check_random(seed, 100);
	uint32_t i = model_pick_in_use(m, seed);
	netmem_ref netmem = net_iov_to_netmem(device_provider_niov(f->device, i));

	if (what < take_weight || !m->refs[i]) {
		int expected = model_alloc(m);
		netmem_ref got = page_pool_alloc_netmem(pool);

		CHECK_EQ(netmem_is_none(got) ? -1 : (int)niov_of(got), expected);
	} else if (what < 90) {
		bool direct = check_random(seed, 2);

		model_put(m, i, direct);
		page_pool_put_netmem(pool, netmem, direct);
	} else if (what < 98) {
		m->refs[i]++;
		page_pool_ref_netmem(netmem);
	} else {
		m->refs[i] = 1 + check_random(seed, 5);
		page_pool_fragment_netmem(netmem, m->refs[i]);
	}
}

static void model_compare(const struct model *m, const struct memory_fixture *f)
{
	const struct page_pool *pool = f->device_pool;
	uint32_t in_use = 0;

	for (uint32_t i = 0; i < MODEL_BUFS; i++)
		in_use += m->refs[i] != 0;
	CHECK_EQ(pool->cache_count, m->nr_cache);
	CHECK_EQ(page_pool_resting(pool), m->nr_cache + m->nr_ring);
	CHECK_EQ(f->device->mp.nr_free, m->nr_free);
	CHECK_EQ(page_pool_available(pool), MODEL_BUFS - in_use);
	CHECK_EQ(page_pool_inflight(pool), MODEL_BUFS - m->nr_free);
}

static void random_sequences_follow_the_model(void)
{
	for (uint64_t seed = 1; seed <= 20; seed++) {
		struct memory_fixture f = memory_fixture(MODEL_BUFS, 1, MODEL_RING);
		struct model m = {.nr_free = MODEL_BUFS};
		uint64_t random = seed * 0x9e3779b97f4a7c15ULL;
		unsigned long before = check_failures;

		for (uint32_t i = 0; i < MODEL_BUFS; i++)
			m.free[i] = MODEL_BUFS - 1 - i;
		for (int step = 0; step < 4000 && check_failures == before; step++) {
			/* Filling and draining by turns reaches both ends. */
			model_step(&m, &f, step / 500 % 2 ? 20 : 70, &random);
			model_compare(&m, &f);
		}
		if (check_failures != before)
			printf("seed %llu\n", (unsigned long long)seed);
		memory_fixture_free(&f);
	}
}

CHECK_MAIN(CHECK_TEST(parameters_are_refused_with_the_kernels_errnos),
	   CHECK_TEST(the_ring_is_a_power_of_two_and_capped),
	   CHECK_TEST(a_fresh_provider_hands_out_ascending_and_in_batches),
	   CHECK_TEST(host_pages_count_as_the_slow_path),
	   CHECK_TEST(the_cache_is_last_in_first_out),
	   CHECK_TEST(the_ring_refills_half_of_the_cache),
	   CHECK_TEST(a_page_of_another_node_is_waived),
	   CHECK_TEST(a_full_cache_spills_into_the_ring_and_a_full_ring_to_the_provider),
	   CHECK_TEST(only_the_last_reference_recycles), CHECK_TEST(a_buffer_may_be_split),
	   CHECK_TEST(references_below_zero_warn),
	   CHECK_TEST(a_page_that_is_shared_or_from_the_reserves_is_released),
	   CHECK_TEST(the_device_provider_leaks_what_is_not_at_rest),
	   CHECK_TEST(destroying_waits_for_what_is_in_use), CHECK_TEST(pools_share_a_provider),
	   CHECK_TEST(the_counts_may_wrap),
#ifndef NDEBUG
	   CHECK_TEST(wrong_puts_are_caught),
#endif
	   CHECK_TEST(random_sequences_follow_the_model))
