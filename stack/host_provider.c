/* SPDX-License-Identifier: Apache-2.0 */
/*
 * host_provider.c - host pages for page_pools; the page allocator's part.
 *
 *   host_provider_init() -> page_pool_init(.mp = &hp->mp) ... page_pool_destroy()
 *
 * One block of memory, handed in: | host_provider | struct page x n | u32 x n |
 *
 * A page is free (no pool, _refcount 0), or some pool's (_refcount 1), or, having
 * left its pool while another user held it, nobody's but that user's (_refcount
 * > 0, no pool); whoever drops the last reference brings it home.
 */
#include <errno.h>
#include <string.h>
#include "list.h"
#include "memory_provider.h"
#include "page_pool.h"

static netmem_ref host_take(struct page_pool *pool, uint32_t index)
{
	struct page *page =
		host_provider_page(container_of(pool->mp, struct host_provider, mp), index);
	netmem_ref netmem = page_to_netmem(page);

	page->_refcount = 1;
	page_pool_set_pp_info(pool, netmem);
	return netmem;
}

/* As the kernel's bulk allocation of pages into the cache. */
static netmem_ref host_alloc_netmems(struct page_pool *pool)
{
	netmem_ref netmem = memory_provider_alloc(pool, host_take);

	if (!netmem_is_none(netmem))
		pool->alloc_stats.slow++;
	return netmem;
}

/* The pool's reference is an ordinary one: dropping it frees the page unless it is shared. */
static bool host_release_netmem(struct page_pool *pool, netmem_ref netmem)
{
	page_pool_clear_pp_info(netmem);
	return true;
}

static int host_init(struct page_pool *pool)
{
	if (pool->p.order)
		return -E2BIG;
	memory_provider_add_pool(pool->mp, pool);
	return 0;
}

static void host_destroy(struct page_pool *pool)
{
	memory_provider_del_pool(pool->mp, pool);
}

static const struct memory_provider_ops host_provider_ops = {
	.alloc_netmems = host_alloc_netmems,
	.release_netmem = host_release_netmem,
	.init = host_init,
	.destroy = host_destroy,
};

void put_page(struct page *page)
{
	struct memory_provider *mp = &page->mapping->mp;

	if (NETMEM_WARN_ON_ONCE(page->_refcount <= 0))
		return;
	if (--page->_refcount == 0)
		mp->free[mp->nr_free++] = page_index(page);
}

struct page *virt_to_page(const struct host_provider *hp, const void *va)
{
	uintptr_t offset = (uintptr_t)va - (uintptr_t)hp->base;

	/* An address below the base wraps round and is out of range as well. */
	if (offset >> NETMEM_PAGE_SHIFT >= hp->mp.nr_bufs)
		return NULL;
	return host_provider_page(hp, offset >> NETMEM_PAGE_SHIFT);
}

size_t host_provider_size(uint32_t nr_pages)
{
	return MEMORY_ALIGN(sizeof(struct host_provider)) + (size_t)nr_pages * sizeof(struct page) +
	       MEMORY_ALIGN((size_t)nr_pages * sizeof(uint32_t));
}

int host_provider_init(struct host_provider *mem, uint32_t nr_pages, uint8_t *base,
		       unsigned long dma_base, unsigned long dma_stride, unsigned int nid)
{
	struct page *pages = (void *)((char *)mem + MEMORY_ALIGN(sizeof(*mem)));

	if (nr_pages == 0 || !base || (uintptr_t)base % NETMEM_PAGE_SIZE)
		return -EINVAL;
	memset(pages, 0, (size_t)nr_pages * sizeof(*pages));
	mem->pages = pages;
	mem->base = base;
	for (uint32_t i = 0; i < nr_pages; i++) {
		pages[i].flags = (unsigned long)nid << PAGE_NID_SHIFT;
		pages[i].mapping = mem;
		pages[i].dma_addr = dma_base + i * dma_stride;
		pages[i].virtual_address = base + i * NETMEM_PAGE_SIZE;
	}
	memory_provider_init(&mem->mp, &host_provider_ops, (uint32_t *)(pages + nr_pages),
			     nr_pages);
	return 0;
}
