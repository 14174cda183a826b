/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_provider.c - what the providers have in common: the stack of free
 * buffers, the list of pools, the count of users.
 *
 * The provider's memory is its creator's: it may go when `refs` is back at 1.
 */
#include "memory_provider.h"
#include "page_pool.h"

void memory_provider_init(struct memory_provider *mp, const struct memory_provider_ops *ops,
			  uint32_t *free, uint32_t nr_bufs)
{
	mp->ops = ops;
	mp->pools = NULL;
	mp->free = free;
	mp->nr_free = nr_bufs;
	mp->nr_bufs = nr_bufs;
	mp->refs = 1;
	/* Descending, so that 0 is on top. */
	for (uint32_t i = 0; i < nr_bufs; i++)
		free[i] = nr_bufs - 1 - i;
}

netmem_ref memory_provider_alloc(struct page_pool *pool,
				 netmem_ref (*take)(struct page_pool *pool, uint32_t index))
{
	struct memory_provider *mp = pool->mp;
	uint32_t n = mp->nr_free < PP_ALLOC_CACHE_REFILL ? mp->nr_free : PP_ALLOC_CACHE_REFILL;
	const uint32_t *batch;

	if (n == 0)
		return NETMEM_NONE;
	mp->nr_free -= n;
	batch = &mp->free[mp->nr_free];
	/* batch[n - 1] was on top: it goes out now, and the cache gets the rest in stack order. */
	for (uint32_t i = 0; i < n - 1; i++)
		page_pool_place_in_cache(pool, take(pool, batch[i]));
	return take(pool, batch[n - 1]);
}

void memory_provider_add_pool(struct memory_provider *mp, struct page_pool *pool)
{
	pool->mp_next = mp->pools;
	mp->pools = pool;
	memory_provider_get(mp);
}

void memory_provider_del_pool(struct memory_provider *mp, struct page_pool *pool)
{
	struct page_pool **link = &mp->pools;

	while (*link != pool)
		link = &(*link)->mp_next;
	*link = pool->mp_next;
	memory_provider_put(mp);
}

void memory_provider_get(struct memory_provider *mp)
{
	mp->refs++;
}

void memory_provider_put(struct memory_provider *mp)
{
	if (NETMEM_WARN_ON_ONCE(mp->refs == 0))
		return;
	mp->refs--;
}
