/* SPDX-License-Identifier: Apache-2.0 */
/*
 * page_pool.h - recycles packet buffers, pages and net_iovs alike.
 *
 *   page_pool_init() -> page_pool_alloc_netmem() / page_pool_put_netmem() ...
 *   -> page_pool_destroy(), again when buffers came home late, until it says 0
 *
 * Flow, limits, counters and errors are those of net/core/page_pool.c, Linux
 * 6.18. One thread calls into a pool, so no locks, and "direct" recycling (into
 * the cache instead of the ring) is always allowed to a caller who asks for it.
 */
#ifndef DEVMEMTCP_PAGE_POOL_H
#define DEVMEMTCP_PAGE_POOL_H

#include <assert.h>
#include "memory_provider.h"
#include "netmem.h"

#define PP_ALLOC_CACHE_SIZE 128
#define PP_ALLOC_CACHE_REFILL 64
#define PP_RING_DEFAULT 1024
#define PP_RING_MAX 16384 /* a larger pool_size is clamped, silently, as the kernel does */

#define PP_FLAG_DMA_MAP 0x1
#define PP_FLAG_DMA_SYNC_DEV 0x2
#define PP_FLAG_SYSTEM_POOL 0x4
#define PP_FLAG_ALLOW_UNREADABLE_NETMEM 0x8
#define PP_FLAG_ALL 0xf

enum dma_data_direction {
	DMA_BIDIRECTIONAL,
	DMA_TO_DEVICE,
	DMA_FROM_DEVICE,
	DMA_NONE,
};

struct page_pool_params {
	unsigned int flags; /* PP_FLAG_* */
	unsigned int order; /* 2^order pages a buffer; the providers know 0 only */
	unsigned int pool_size; /* ring entries, rounded up to a power of two; 0: the default */
	int nid; /* NUMA node wanted, or NUMA_NO_NODE */
	enum dma_data_direction dma_dir;
	unsigned int max_len; /* bytes the NIC may write, for DMA_SYNC_DEV */
	struct memory_provider *mp;
};

struct page_pool_alloc_stats {
	uint64_t fast; /* from the cache */
	uint64_t slow; /* from the page allocator, which is host_provider's part here */
	uint64_t empty; /* the ring was empty, so the slow path was taken */
	uint64_t refill; /* the cache was refilled from the ring */
	uint64_t waive; /* wrong NUMA node: released instead of handed out */
};

struct page_pool_recycle_stats {
	uint64_t cached;
	uint64_t cache_full; /* ... so the ring was tried */
	uint64_t ring;
	uint64_t ring_full; /* ... so it was released to the provider */
	uint64_t released_refcnt; /* not recyclable: the page has another user, or is pfmemalloc */
};

struct page_pool {
	uint32_t cache_count;
	uint32_t pages_state_hold_cnt; /* buffers taken from the provider, ever */
	uint32_t pages_state_release_cnt; /* and given back; both wrap */
	/* Written with the count, and so in the same cache lines. */
	struct page_pool_alloc_stats alloc_stats;
	struct page_pool_recycle_stats recycle_stats;
	netmem_ref cache[PP_ALLOC_CACHE_SIZE]; /* LIFO: the next out is the last in */

	uint32_t ring_head; /* next in; free-running, masked when used */
	uint32_t ring_tail; /* next out */
	uint32_t ring_mask;
	struct page_pool_params p;
	struct memory_provider *mp; /* NULL once destroyed */
	struct page_pool *mp_next; /* in mp->pools */
	netmem_ref ring[]; /* FIFO */
};

/* Bytes page_pool_init() needs. */
size_t page_pool_size(const struct page_pool_params *params);

/*
 * `mem`: page_pool_size() bytes, 64-byte aligned. Returns 0 or
 *   -EINVAL      an unknown flag; DMA_MAP with a direction in which the device
 *                does not write; DMA_SYNC_DEV without DMA_MAP or without max_len
 *   -EFAULT      no provider, or one without operations
 *   -EOPNOTSUPP  device memory for a pool without DMA_MAP, DMA_SYNC_DEV and
 *                ALLOW_UNREADABLE_NETMEM (host pages need none of them)
 *   -E2BIG       order is not 0
 */
int page_pool_init(struct page_pool *mem, const struct page_pool_params *params);

/* One more user. */
static inline void page_pool_ref_netmem(netmem_ref netmem)
{
	++*netmem_get_pp_ref_count_ref(netmem);
}

/* The caller, sole user, will split the buffer into `nr` pieces, each put on its own. */
static inline void page_pool_fragment_netmem(netmem_ref netmem, long nr)
{
	*netmem_get_pp_ref_count_ref(netmem) = nr;
}

/*
 * Drop `nr` references; returns how many are left. At 0 the count is back at
 * rest (1), which for the common sole user of an unsplit buffer it already is:
 * nothing is written then. Fewer references than `nr` are a bug: warns.
 */
long page_pool_unref_several(struct netmem_desc *desc, long nr);

static inline long page_pool_unref_nmdesc(struct netmem_desc *desc, long nr)
{
	if (__builtin_expect(nr == 1 && desc->pp_ref_count == 1, 1))
		return 0;
	return page_pool_unref_several(desc, nr);
}

static inline long page_pool_unref_netmem(netmem_ref netmem, long nr)
{
	return page_pool_unref_nmdesc(netmem_to_nmdesc(netmem), nr);
}

/*
 * ---- the fast path ----
 *
 * Inline, since a call and its return take longer than all there is to do; what is seldom done is
 * in page_pool.c. The check "page or net_iov?" is made once for a put, and the rest knows: all
 * that a page pays for there being net_iovs is that branch.
 */

/* Debug builds mark what rests in cache and ring: see page_pool.c. */
static inline void page_pool_mark_resting(netmem_ref netmem)
{
#ifndef NDEBUG
	assert(!(netmem_to_nmdesc(netmem)->_flags & NETMEM_FLAG_RESTING));
	netmem_to_nmdesc(netmem)->_flags |= NETMEM_FLAG_RESTING;
#endif
}

static inline netmem_ref page_pool_unmark_resting(netmem_ref netmem)
{
#ifndef NDEBUG
	assert(netmem_to_nmdesc(netmem)->_flags & NETMEM_FLAG_RESTING);
	netmem_to_nmdesc(netmem)->_flags &= ~NETMEM_FLAG_RESTING;
#endif
	return netmem;
}

/* Of alloc_netmems() too: one more for later; the cache has PP_ALLOC_CACHE_REFILL places then. */
static inline void page_pool_place_in_cache(struct page_pool *pool, netmem_ref netmem)
{
	assert(pool->cache_count < PP_ALLOC_CACHE_SIZE);
	page_pool_mark_resting(netmem);
	pool->cache[pool->cache_count++] = netmem;
}

static inline netmem_ref page_pool_take_from_cache(struct page_pool *pool)
{
	return page_pool_unmark_resting(pool->cache[--pool->cache_count]);
}

/* The cache is empty. */
netmem_ref page_pool_alloc_slow(struct page_pool *pool);

/* A buffer with pp_ref_count 1; NETMEM_NONE when cache, ring and provider are empty. */
static inline netmem_ref page_pool_alloc_netmem(struct page_pool *pool)
{
	if (__builtin_expect(pool->cache_count == 0, 0))
		return page_pool_alloc_slow(pool);
	pool->alloc_stats.fast++;
	return page_pool_take_from_cache(pool);
}

/* Not one that somebody else still holds, or of the emergency reserves. */
static inline bool page_may_come_round(const struct page *page)
{
	return page->_refcount == 1 && !page_is_pfmemalloc(page);
}

/* To the ring, or what finds no room there to the provider; of a page that may not come round. */
void page_pool_recycle_in_ring(struct page_pool *pool, netmem_ref netmem, bool cache_full);
void page_pool_release_page(struct page_pool *pool, struct page *page);

/* The last reference is gone. */
static inline void page_pool_recycle(struct page_pool *pool, netmem_ref netmem, bool allow_direct)
{
	if (!allow_direct || __builtin_expect(pool->cache_count == PP_ALLOC_CACHE_SIZE, 0)) {
		page_pool_recycle_in_ring(pool, netmem, allow_direct);
		return;
	}
	page_pool_place_in_cache(pool, netmem);
	pool->recycle_stats.cached++;
}

/* Drop one reference; the last one recycles: into the cache if allow_direct, else the ring. */
static inline void page_pool_put_netmem(struct page_pool *pool, netmem_ref netmem,
					bool allow_direct)
{
	assert(netmem_get_pp(netmem) == pool && netmem_is_pp(netmem));
	if (netmem_is_net_iov(netmem)) {
		if (page_pool_unref_nmdesc(&__netmem_to_net_iov(netmem)->desc, 1) != 0)
			return;
	} else {
		struct page *page = __netmem_to_page(netmem);

		if (page_pool_unref_nmdesc(&page->desc, 1) != 0)
			return;
		if (__builtin_expect(!page_may_come_round(page), 0)) {
			page_pool_release_page(pool, page);
			return;
		}
	}
	page_pool_recycle(pool, netmem, allow_direct);
}

/* As above for a buffer whose last reference the caller dropped with page_pool_unref_netmem(). */
void page_pool_put_unrefed_netmem(struct page_pool *pool, netmem_ref netmem, bool allow_direct);

/* ---- looking, and the end ---- */

/* Buffers outside the provider: in use, and resting in cache and ring too. */
int32_t page_pool_inflight(const struct page_pool *pool);

/* How many allocations would succeed now: cache + ring + what the provider has. */
uint32_t page_pool_available(const struct page_pool *pool);

/* In cache and ring: neither in use nor available to another pool. */
uint32_t page_pool_resting(const struct page_pool *pool);

/* The n-th of those; the tracker's check walks them. */
netmem_ref page_pool_resting_netmem(const struct page_pool *pool, uint32_t n);

/*
 * Give everything at rest back to the provider. Returns how many buffers are
 * still in use: 0 means the pool is gone and its memory free; else call again
 * after they were put (the kernel retries every second).
 */
int32_t page_pool_destroy(struct page_pool *pool);

/* ---- for providers ---- */

/* The pool owns it from now on: magic, pool, one reference, and counted as held. */
void page_pool_set_pp_info(struct page_pool *pool, netmem_ref netmem);
/* It does no longer. */
void page_pool_clear_pp_info(netmem_ref netmem);

#endif
