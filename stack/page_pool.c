/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_pool.c - the kernel's page_pool for one thread.
 *
 *   alloc    cache pop -> refill: up to 64 from the ring -> the provider
 *   put      last reference? -> recyclable? -> cache (if direct) -> ring -> the provider
 *
 * Invariants:
 *   - a buffer in cache or ring has pp_ref_count 1, our magic and this pool
 *   - hold - release = buffers outside the provider = in use + cache + ring
 *
 * Ownership: alloc passes one reference to the caller; the last put passes the
 * buffer back. Debug builds mark what rests in cache and ring (in _flags, next to
 * the count that a put reads anyway), to stop at a second put of the same buffer:
 * by its count alone it looks like a sole user's first.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include "page_pool.h"

/* ---- set-up ---- */

static uint32_t ring_entries(const struct page_pool_params *params)
{
	uint32_t n = params->pool_size ? params->pool_size : PP_RING_DEFAULT;

	if (n >= PP_RING_MAX)
		return PP_RING_MAX;
	return n == 1 ? 1 : 1u << (32 - __builtin_clz(n - 1));
}

size_t page_pool_size(const struct page_pool_params *params)
{
	return MEMORY_ALIGN(sizeof(struct page_pool) + ring_entries(params) * sizeof(netmem_ref));
}

static int check_params(const struct page_pool_params *params)
{
	if (params->flags & ~PP_FLAG_ALL)
		return -EINVAL;
	if (params->flags & PP_FLAG_DMA_MAP && params->dma_dir != DMA_FROM_DEVICE &&
	    params->dma_dir != DMA_BIDIRECTIONAL)
		return -EINVAL;
	if (params->flags & PP_FLAG_DMA_SYNC_DEV &&
	    (!(params->flags & PP_FLAG_DMA_MAP) || params->max_len == 0))
		return -EINVAL;
	if (!params->mp || !params->mp->ops)
		return -EFAULT;
	return 0;
}

int page_pool_init(struct page_pool *mem, const struct page_pool_params *params)
{
	int err = check_params(params);

	if (err)
		return err;
	memset(mem, 0, sizeof(*mem));
	mem->ring_mask = ring_entries(params) - 1;
	mem->p = *params;
	mem->mp = params->mp;
	return mem->mp->ops->init(mem);
}

void page_pool_set_pp_info(struct page_pool *pool, netmem_ref netmem)
{
	struct netmem_desc *desc = netmem_to_nmdesc(netmem);

	desc->pp = pool;
	desc->pp_magic = PP_SIGNATURE;
	page_pool_fragment_netmem(netmem, 1);
	pool->pages_state_hold_cnt++;
}

void page_pool_clear_pp_info(netmem_ref netmem)
{
	struct netmem_desc *desc = netmem_to_nmdesc(netmem);

	desc->pp = NULL;
	desc->pp_magic = 0;
}

/* ---- back to the provider ---- */

static void page_pool_return_netmem(struct page_pool *pool, netmem_ref netmem)
{
	struct page *page;

	pool->pages_state_release_cnt++;
	if (!pool->mp->ops->release_netmem(pool, netmem))
		return;
	page = netmem_to_page(netmem); /* warns of a provider that wants a net_iov to be put */
	if (page)
		put_page(page);
}

void page_pool_release_page(struct page_pool *pool, struct page *page)
{
	pool->recycle_stats.released_refcnt++;
	pool->pages_state_release_cnt++;
	if (pool->mp->ops->release_netmem(pool, page_to_netmem(page)))
		put_page(page);
}

/* ---- the ring ---- */

static uint32_t ring_count(const struct page_pool *pool)
{
	return pool->ring_head - pool->ring_tail;
}

static netmem_ref ring_consume(struct page_pool *pool)
{
	return page_pool_unmark_resting(pool->ring[pool->ring_tail++ & pool->ring_mask]);
}

void page_pool_recycle_in_ring(struct page_pool *pool, netmem_ref netmem, bool cache_full)
{
	pool->recycle_stats.cache_full += cache_full;
	if (ring_count(pool) > pool->ring_mask) {
		pool->recycle_stats.ring_full++;
		page_pool_return_netmem(pool, netmem);
		return;
	}
	page_pool_mark_resting(netmem);
	pool->ring[pool->ring_head++ & pool->ring_mask] = netmem;
	pool->recycle_stats.ring++;
}

/* ---- alloc ---- */

static bool on_pref_nid(const struct page_pool *pool, netmem_ref netmem)
{
	return pool->p.nid == NUMA_NO_NODE || netmem_is_pref_nid(netmem, pool->p.nid);
}

/*
 * The cache is empty: fill half of it, so that the puts to come find room too.
 * A page of the wrong node goes back, and ends the batch: more would follow.
 */
static netmem_ref refill_alloc_cache(struct page_pool *pool)
{
	if (ring_count(pool) == 0) {
		pool->alloc_stats.empty++;
		return NETMEM_NONE;
	}
	while (pool->cache_count < PP_ALLOC_CACHE_REFILL && ring_count(pool)) {
		netmem_ref netmem = ring_consume(pool);

		if (!on_pref_nid(pool, netmem)) {
			page_pool_return_netmem(pool, netmem);
			pool->alloc_stats.waive++;
			break;
		}
		page_pool_place_in_cache(pool, netmem);
	}
	if (pool->cache_count == 0)
		return NETMEM_NONE;
	pool->alloc_stats.refill++;
	return page_pool_take_from_cache(pool);
}

netmem_ref page_pool_alloc_slow(struct page_pool *pool)
{
	netmem_ref netmem = refill_alloc_cache(pool);

	if (!netmem_is_none(netmem))
		return netmem;
	return pool->mp->ops->alloc_netmems(pool);
}

/* ---- put ---- */

long page_pool_unref_several(struct netmem_desc *desc, long nr)
{
	long left = desc->pp_ref_count - nr;

	desc->pp_ref_count = left == 0 ? 1 : left;
	NETMEM_WARN_ON_ONCE(left < 0);
	return left;
}

void page_pool_put_unrefed_netmem(struct page_pool *pool, netmem_ref netmem, bool allow_direct)
{
	assert(netmem_get_pp(netmem) == pool && netmem_is_pp(netmem));
	if (!netmem_is_net_iov(netmem)) {
		struct page *page = __netmem_to_page(netmem);

		if (!page_may_come_round(page)) {
			page_pool_release_page(pool, page);
			return;
		}
	}
	page_pool_recycle(pool, netmem, allow_direct);
}

/* ---- looking, and the end ---- */

int32_t page_pool_inflight(const struct page_pool *pool)
{
	return (int32_t)(pool->pages_state_hold_cnt - pool->pages_state_release_cnt);
}

uint32_t page_pool_resting(const struct page_pool *pool)
{
	return pool->cache_count + ring_count(pool);
}

netmem_ref page_pool_resting_netmem(const struct page_pool *pool, uint32_t n)
{
	if (n < pool->cache_count)
		return pool->cache[n];
	return pool->ring[(pool->ring_tail + n - pool->cache_count) & pool->ring_mask];
}

uint32_t page_pool_available(const struct page_pool *pool)
{
	return page_pool_resting(pool) + pool->mp->nr_free;
}

int32_t page_pool_destroy(struct page_pool *pool)
{
	if (!pool->mp)
		return 0;
	while (pool->cache_count)
		page_pool_return_netmem(pool, page_pool_take_from_cache(pool));
	while (ring_count(pool))
		page_pool_return_netmem(pool, ring_consume(pool));
	if (page_pool_inflight(pool) == 0) {
		pool->mp->ops->destroy(pool);
		pool->mp = NULL;
		return 0;
	}
	return page_pool_inflight(pool);
}
