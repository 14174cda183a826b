/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_provider.h - where a page_pool gets its memory from and gives it back to.
 *
 * A provider owns the descriptors (struct net_iov or struct page) of one memory
 * area and knows which of them no pool has. It serves any number of pools; the
 * pools keep it alive. Two exist:
 *
 *   device_provider  a region the stack cannot read: net_iovs
 *   host_provider    pages the stack writes segments to, or may read payload in: struct page
 *
 * The operations are the kernel's, less nl_fill() and uninstall(): what netlink
 * says of a binding, and what becomes of one when its netdev goes, is decided
 * by the control plane, which the data plane does not know.
 */
#ifndef DEVMEMTCP_MEMORY_PROVIDER_H
#define DEVMEMTCP_MEMORY_PROVIDER_H

#include <errno.h>
#include "netmem.h"

struct memory_provider_ops {
	/*
	 * Cache and ring are empty: returns one netmem, NETMEM_NONE when there is
	 * none. May put more into the pool's cache with
	 * page_pool_place_in_cache(). Each was given page_pool_set_pp_info().
	 */
	netmem_ref (*alloc_netmems)(struct page_pool *pool);
	/* Take one back. True: the pool shall put_page() it, false: that was all. */
	bool (*release_netmem)(struct page_pool *pool, netmem_ref netmem);
	/* Once a pool, at page_pool_init(): 0 or a negative errno, which that returns. */
	int (*init)(struct page_pool *pool);
	/* The pool's last buffer came home. */
	void (*destroy)(struct page_pool *pool);
};

/*
 * What every provider is made of. Free buffers are an array used as a stack:
 *
 *      free[]  | 5 | 3 | 2 | 1 | 0 |
 *                            ^ nr_free: next out is free[nr_free - 1]
 *
 * It is filled in descending order, so a fresh provider hands out 0, 1, 2, ...
 * as the kernel's first-fit genpool does. Genpool keeps to lowest-free-first for
 * ever and pays a bitmap scan under a lock for it (allocation up to 100 us and
 * 128 returned tokens 5 ms have been reported); nobody needs that order once
 * buffers have been recycled through a LIFO cache and a FIFO ring. The stack is
 * one load and one store each way, and what was freed last is warm.
 */
struct memory_provider {
	const struct memory_provider_ops *ops;
	struct page_pool *pools; /* that draw from here; linked by mp_next */
	uint32_t *free; /* indices of buffers that no pool has */
	uint32_t nr_free;
	uint32_t nr_bufs;
	uint32_t refs; /* 1 (whoever made it) + pools + get_netmem()s */
};

/* For providers: fill the stack; add and remove a pool; count a user who is no pool. */
void memory_provider_init(struct memory_provider *mp, const struct memory_provider_ops *ops,
			  uint32_t *free, uint32_t nr_bufs);
void memory_provider_add_pool(struct memory_provider *mp, struct page_pool *pool);
void memory_provider_del_pool(struct memory_provider *mp, struct page_pool *pool);
void memory_provider_get(struct memory_provider *mp);
void memory_provider_put(struct memory_provider *mp);

/*
 * The whole of alloc_netmems() but for `take`, which readies buffer `index` for
 * the pool. A batch, where the kernel's devmem takes one buffer at a time out of
 * genpool: a pool comes here when a burst has emptied it, and wants more than one.
 */
netmem_ref memory_provider_alloc(struct page_pool *pool,
				 netmem_ref (*take)(struct page_pool *pool, uint32_t index));

#define MEMORY_ALIGN(bytes) (((size_t)(bytes) + 63) & ~(size_t)63) /* to a cache line */

/* ---- the device region ---- */

struct device_provider {
	struct memory_provider mp;
	struct net_iov_area area; /* found from a net_iov by its owner, if its type is ours */
};

#if NETMEM_CHECK != NETMEM_CHECK_OFF

/* Bytes for the provider, its net_iovs and its stack. */
size_t device_provider_size(uint32_t nr_niovs);

/*
 * net_iov i stands for region bytes [base_virtual + 4096 i, ...) and UMEM
 * address dma_base + i * dma_stride. `mem`: device_provider_size() bytes, 64-byte
 * aligned. Returns 0, or -EINVAL: no net_iovs, or base_virtual not page-aligned.
 */
int device_provider_init(struct device_provider *mem, uint32_t nr_niovs, unsigned long base_virtual,
			 unsigned long dma_base, unsigned long dma_stride);
/* One user less, see get_netmem(). */
void device_provider_put(struct device_provider *dp);
/* All users are gone, whatever they still have: pools and netmems of it are used no more. */
void device_provider_abandon(struct device_provider *dp);

#else

/* A build without device memory. */
static inline size_t device_provider_size(uint32_t nr_niovs)
{
	return sizeof(struct device_provider);
}

static inline int device_provider_init(struct device_provider *mem, uint32_t nr_niovs,
				       unsigned long base_virtual, unsigned long dma_base,
				       unsigned long dma_stride)
{
	return -EOPNOTSUPP;
}

static inline void device_provider_put(struct device_provider *dp)
{
}
static inline void device_provider_abandon(struct device_provider *dp)
{
}

#endif

static inline struct net_iov *device_provider_niov(const struct device_provider *dp, uint32_t i)
{
	return &dp->area.niovs[i];
}

/* Of a provider that has users. */
static inline netmem_ref device_provider_netmem(const struct device_provider *dp, uint32_t i)
{
#if NETMEM_CHECK == NETMEM_CHECK_OFF
	return NETMEM_NONE;
#else
	return net_iov_to_netmem(device_provider_niov(dp, i));
#endif
}

static inline uint32_t net_iov_index(const struct net_iov *niov)
{
	return net_iov_idx(niov);
}

/* ---- host pages ---- */

struct host_provider {
	struct memory_provider mp;
	struct page *pages;
	uint8_t *base; /* page p is base[4096 p ... 4096 (p + 1)) */
};

/* Bytes for the provider, its page descriptors and its stack (not the pages themselves). */
size_t host_provider_size(uint32_t nr_pages);

/*
 * Page p lies at base + 4096 p and at UMEM address dma_base + p * dma_stride, on NUMA
 * node `nid`. `mem`: host_provider_size() bytes, 64-byte aligned.
 * Returns 0, or -EINVAL: no pages, no base, or base not page-aligned.
 */
int host_provider_init(struct host_provider *mem, uint32_t nr_pages, uint8_t *base,
		       unsigned long dma_base, unsigned long dma_stride, unsigned int nid);

static inline struct page *host_provider_page(const struct host_provider *hp, uint32_t i)
{
	return &hp->pages[i];
}

static inline uint32_t page_index(const struct page *page)
{
	return page - page->mapping->pages;
}

/* The page that address `va` lies in; NULL if it is none of this provider's. */
struct page *virt_to_page(const struct host_provider *hp, const void *va);

/* As above; NETMEM_NONE if it is none of this provider's. */
static inline netmem_ref virt_to_netmem(const struct host_provider *hp, const void *va)
{
	return page_to_netmem(virt_to_page(hp, va));
}

#endif
