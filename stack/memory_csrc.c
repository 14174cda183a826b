/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_csrc.c - memory_api.h over the core's own functions.
 *
 * Here, outside the core, memory is allocated: what a caller of the core does.
 */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include "frag_tracker.h"
#include "memory_api.h"
#include "memory_provider.h"
#include "page_pool.h"
#include "skb_frag.h"

struct memory {
	struct device_provider *device;
	struct host_provider *host;
	uint8_t *pages;
	struct page_pool *pools[FRAG_KINDS];
	struct frag_tracker *tracker;
};

static struct page_pool_params device_pool_params(struct memory *m, uint32_t ring)
{
	return (struct page_pool_params){
		.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV | PP_FLAG_ALLOW_UNREADABLE_NETMEM,
		.pool_size = ring,
		.nid = NUMA_NO_NODE,
		.dma_dir = DMA_FROM_DEVICE,
		.max_len = NETMEM_PAGE_SIZE,
		.mp = &m->device->mp,
	};
}

static struct page_pool *new_pool(const struct page_pool_params *params)
{
	struct page_pool *pool = aligned_alloc(64, page_pool_size(params));

	if (pool && page_pool_init(pool, params) == 0)
		return pool;
	free(pool);
	return NULL;
}

static bool memory_build(struct memory *m, uint32_t nr_niovs, uint32_t nr_pages, uint32_t ring,
			 uint64_t region_base)
{
	struct page_pool_params device_params, host_params;

	m->device = aligned_alloc(64, device_provider_size(nr_niovs));
	m->host = aligned_alloc(64, host_provider_size(nr_pages));
	m->pages = aligned_alloc(NETMEM_PAGE_SIZE, (size_t)nr_pages << NETMEM_PAGE_SHIFT);
	m->tracker = aligned_alloc(64, frag_tracker_size(nr_niovs, nr_pages));
	if (!m->device || !m->host || !m->pages || !m->tracker)
		return false;
	if (device_provider_init(m->device, nr_niovs, region_base, 4096, 8192) ||
	    host_provider_init(m->host, nr_pages, m->pages, 0, NETMEM_PAGE_SIZE, 0))
		return false;
	device_params = device_pool_params(m, ring);
	host_params = (struct page_pool_params){
		.pool_size = ring, .nid = NUMA_NO_NODE, .mp = &m->host->mp};
	m->pools[FRAG_NET_IOV] = new_pool(&device_params);
	m->pools[FRAG_HOST_PAGE] = new_pool(&host_params);
	if (!m->pools[FRAG_NET_IOV] || !m->pools[FRAG_HOST_PAGE])
		return false;
	frag_tracker_init(m->tracker, m->device, m->host);
	return true;
}

struct memory *memory_new(uint32_t nr_niovs, uint32_t nr_pages, uint32_t ring, uint64_t region_base)
{
	struct memory *m = calloc(1, sizeof(*m));

	if (m && memory_build(m, nr_niovs, nr_pages, ring, region_base))
		return m;
	memory_free(m);
	return NULL;
}

void memory_free(struct memory *m)
{
	if (!m)
		return;
	if (m->pools[FRAG_NET_IOV])
		device_provider_abandon(m->device);
	free(m->tracker);
	free(m->pools[FRAG_HOST_PAGE]);
	free(m->pools[FRAG_NET_IOV]);
	free(m->pages);
	free(m->host);
	free(m->device);
	free(m);
}

static netmem_ref netmem_of(const struct memory *m, uint32_t buffer)
{
	uint32_t nr_niovs = m->device->mp.nr_bufs;

	if (buffer < nr_niovs)
		return device_provider_netmem(m->device, buffer);
	return page_to_netmem(host_provider_page(m->host, buffer - nr_niovs));
}

/* ---- page_pool ---- */

int memory_alloc(struct memory *m, uint32_t kind)
{
	netmem_ref netmem = page_pool_alloc_netmem(m->pools[kind]);

	if (netmem_is_none(netmem))
		return -ENOMEM;
	if (netmem_is_net_iov(netmem))
		return (int)net_iov_index(netmem_to_net_iov(netmem));
	return (int)(m->device->mp.nr_bufs + page_index(netmem_to_page(netmem)));
}

void memory_put(struct memory *m, uint32_t buffer, bool direct)
{
	netmem_ref netmem = netmem_of(m, buffer);

	page_pool_put_netmem(netmem_get_pp(netmem), netmem, direct);
}

void memory_ref(struct memory *m, uint32_t buffer)
{
	page_pool_ref_netmem(netmem_of(m, buffer));
}

void memory_fragment(struct memory *m, uint32_t buffer, int32_t nr)
{
	page_pool_fragment_netmem(netmem_of(m, buffer), nr);
}

uint32_t memory_available(const struct memory *m, uint32_t kind)
{
	return page_pool_available(m->pools[kind]);
}

int32_t memory_inflight(const struct memory *m, uint32_t kind)
{
	return page_pool_inflight(m->pools[kind]);
}

int32_t memory_destroy_pool(struct memory *m, uint32_t kind)
{
	return page_pool_destroy(m->pools[kind]);
}

void memory_pool_stats(const struct memory *m, uint32_t kind, struct memory_pool_stats *out)
{
	const struct page_pool *pool = m->pools[kind];
	const struct memory_provider *mp = kind == FRAG_NET_IOV ? &m->device->mp : &m->host->mp;

	*out = (struct memory_pool_stats){
		.fast = pool->alloc_stats.fast,
		.slow = pool->alloc_stats.slow,
		.empty = pool->alloc_stats.empty,
		.refill = pool->alloc_stats.refill,
		.waive = pool->alloc_stats.waive,
		.cached = pool->recycle_stats.cached,
		.cache_full = pool->recycle_stats.cache_full,
		.ring = pool->recycle_stats.ring,
		.ring_full = pool->recycle_stats.ring_full,
		.released_refcnt = pool->recycle_stats.released_refcnt,
		.in_cache = pool->cache_count,
		.in_ring = page_pool_resting(pool) - pool->cache_count,
		.in_provider = mp->nr_free,
	};
}

int memory_try_pool(struct memory *m, uint32_t flags, uint32_t order, uint32_t pool_size,
		    uint32_t dma_dir, uint32_t max_len)
{
	const struct page_pool_params params = {
		.flags = flags,
		.order = order,
		.pool_size = pool_size,
		.nid = NUMA_NO_NODE,
		.dma_dir = dma_dir,
		.max_len = max_len,
		.mp = &m->device->mp,
	};
	struct page_pool *pool = aligned_alloc(64, page_pool_size(&params));
	int err;

	if (!pool)
		return -ENOMEM;
	err = page_pool_init(pool, &params);
	if (!err)
		page_pool_destroy(pool);
	free(pool);
	return err;
}

/* ---- netmem ---- */

void memory_netmem(const struct memory *m, uint32_t buffer, struct memory_netmem *out)
{
	const skb_frag_t frag = {.netmem = netmem_of(m, buffer)};

	*out = (struct memory_netmem){
		.is_net_iov = netmem_is_net_iov(frag.netmem),
		.has_page = skb_frag_page(&frag) != NULL,
		.has_address = netmem_address(frag.netmem) != NULL,
		.is_pp = netmem_is_pp(frag.netmem),
		.is_pfmemalloc = netmem_is_pfmemalloc(frag.netmem),
		.ref_count = netmem_ref_count(frag.netmem),
		.pp_ref_count = *netmem_get_pp_ref_count_ref(frag.netmem),
		.dma_addr = netmem_get_dma_addr(frag.netmem),
	};
}

bool memory_to_page(const struct memory *m, uint32_t buffer)
{
	return netmem_to_page(netmem_of(m, buffer)) != NULL;
}

uint64_t memory_warning_count(void)
{
	return netmem_warning.count;
}

uint64_t memory_warning_hits(void)
{
	return netmem_warning.hits;
}

/* ---- frag tracker ---- */

bool memory_may_move(uint32_t kind, uint32_t from, uint32_t to)
{
	return frag_may_move(kind, from, to);
}

void memory_track(struct memory *m, uint32_t buffer, uint32_t to, uint32_t owner)
{
	frag_track(m->tracker, netmem_of(m, buffer), to, owner);
}

void memory_move(struct memory *m, uint32_t buffer, uint32_t from, uint32_t to)
{
	frag_move(m->tracker, netmem_of(m, buffer), from, to);
}

void memory_split(struct memory *m, uint32_t buffer, uint32_t state)
{
	frag_split(m->tracker, netmem_of(m, buffer), state);
}

uint32_t memory_count(const struct memory *m, uint32_t kind, uint32_t state)
{
	return frag_count(m->tracker, kind, state);
}

uint32_t memory_parts(const struct memory *m, uint32_t buffer)
{
	return frag_parts(m->tracker, netmem_of(m, buffer));
}

int memory_record(const struct memory *m, uint32_t buffer, struct memory_record *out)
{
	struct frag_record record;
	int err = frag_tracker_record(m->tracker, buffer, &record);

	if (err)
		return err;
	*out = (struct memory_record){
		.kind = record.kind,
		.index = record.index,
		.state = record.state,
		.owner = record.owner,
		.refs = record.refs,
		.offset = record.offset,
	};
	return 0;
}

int memory_check(const struct memory *m)
{
	return frag_tracker_check(m->tracker);
}
