/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_fixture.h - both providers, a pool each, and the tracker, on the heap,
 * each in a block of exactly the size it asked for: a byte more is ASan's find.
 */
#ifndef DEVMEMTCP_MEMORY_FIXTURE_H
#define DEVMEMTCP_MEMORY_FIXTURE_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "check.h"
#include "frag_tracker.h"
#include "memory_provider.h"
#include "page_pool.h"

#define FIXTURE_REGION_BASE 0x100000UL /* of the first net_iov in its region */
#define FIXTURE_DMA 4096UL /* UMEM address of device page 0, in a mosaic */
#define FIXTURE_HOST_DMA 0x40000000UL

struct memory_fixture {
	struct device_provider *device;
	struct host_provider *host;
	uint8_t *pages;
	struct page_pool *device_pool;
	struct page_pool *host_pool;
	struct frag_tracker *tracker;
};

/* Filled with garbage: nobody may count on zeroes he did not write. */
static inline void *fixture_block(size_t size)
{
	void *mem = aligned_alloc(64, size);

	if (!mem)
		exit(EXIT_FAILURE);
	return memset(mem, 0xa5, size);
}

static inline struct page_pool *fixture_pool(const struct page_pool_params *params)
{
	struct page_pool *pool = fixture_block(page_pool_size(params));

	CHECK_EQ(page_pool_init(pool, params), 0);
	return pool;
}

static inline struct page_pool_params device_params(struct memory_provider *mp, uint32_t ring)
{
	return (struct page_pool_params){
		.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV | PP_FLAG_ALLOW_UNREADABLE_NETMEM,
		.pool_size = ring,
		.nid = NUMA_NO_NODE,
		.dma_dir = DMA_FROM_DEVICE,
		.max_len = NETMEM_PAGE_SIZE,
		.mp = mp,
	};
}

static inline struct page_pool_params host_params(struct memory_provider *mp, uint32_t ring)
{
	return (struct page_pool_params){.pool_size = ring, .nid = NUMA_NO_NODE, .mp = mp};
}

static inline struct memory_fixture memory_fixture(uint32_t nr_niovs, uint32_t nr_pages,
						   uint32_t ring)
{
	struct memory_fixture f;
	struct page_pool_params params;

	f.device = fixture_block(device_provider_size(nr_niovs));
	f.host = fixture_block(host_provider_size(nr_pages));
	f.pages = aligned_alloc(NETMEM_PAGE_SIZE, nr_pages * NETMEM_PAGE_SIZE);
	CHECK_EQ(device_provider_init(f.device, nr_niovs, FIXTURE_REGION_BASE, FIXTURE_DMA, 8192),
		 0);
	CHECK_EQ(host_provider_init(f.host, nr_pages, f.pages, FIXTURE_HOST_DMA, 4096, 0), 0);
	params = device_params(&f.device->mp, ring);
	f.device_pool = fixture_pool(&params);
	params = host_params(&f.host->mp, ring);
	f.host_pool = fixture_pool(&params);
	f.tracker = fixture_block(frag_tracker_size(nr_niovs, nr_pages));
	frag_tracker_init(f.tracker, f.device, f.host);
	return f;
}

static inline void memory_fixture_free(struct memory_fixture *f)
{
	device_provider_abandon(f->device);
	free(f->tracker);
	free(f->device_pool);
	free(f->host_pool);
	free(f->pages);
	free(f->host);
	free(f->device);
}

#endif
