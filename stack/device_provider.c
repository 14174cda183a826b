/* SPDX-License-Identifier: Apache-2.0 */
/*
 * device_provider.c - net_iovs of a device region, for page_pools.
 *
 *   device_provider_init() -> page_pool_init(.mp = &dp->mp) ... page_pool_destroy()
 *
 * One block of memory, handed in: | device_provider | net_iov x n | u32 x n |
 *
 * A net_iov is in the stack of free ones, with no pool and no magic, or it is
 * some pool's. The region itself is nowhere in here: offsets and UMEM addresses
 * are all that the stack knows of it.
 *
 * Invariant: while a provider has a user (a pool, or somebody with a netmem of it), the
 * static key of the check is up on its behalf. So whoever holds a net_iov holds the key.
 */
#include <errno.h>
#include <string.h>
#include "list.h"
#include "memory_provider.h"
#include "page_pool.h"
#include "stack.h"

#if NETMEM_CHECK != NETMEM_CHECK_OFF

static struct device_provider *device_of(const struct page_pool *pool)
{
	return container_of(pool->mp, struct device_provider, mp);
}

static netmem_ref device_take(struct page_pool *pool, uint32_t index)
{
	netmem_ref netmem = device_provider_netmem(device_of(pool), index);

	page_pool_set_pp_info(pool, netmem);
	return netmem;
}

static netmem_ref device_alloc_netmems(struct page_pool *pool)
{
	return memory_provider_alloc(pool, device_take);
}

/* What is not ours or still has users is leaked, as in the kernel: reuse would be worse. */
static bool device_release_netmem(struct page_pool *pool, netmem_ref netmem)
{
	struct memory_provider *mp = pool->mp;

	if (NETMEM_WARN_ON_ONCE(!netmem_is_net_iov(netmem)) ||
	    NETMEM_WARN_ON_ONCE(*netmem_get_pp_ref_count_ref(netmem) != 1))
		return false;
	page_pool_clear_pp_info(netmem);
	mp->free[mp->nr_free++] = net_iov_index(netmem_to_net_iov(netmem));
	return false;
}

/* Where code may no longer be written, the key stays up: slower, and as right. */
static void lower_if_unused(const struct memory_provider *mp)
{
	if (mp->refs == 1)
		netmem_key_lower();
}

static int device_init(struct page_pool *pool)
{
	const unsigned int needed =
		PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV | PP_FLAG_ALLOW_UNREADABLE_NETMEM;
	int err;

	if ((pool->p.flags & needed) != needed)
		return -EOPNOTSUPP;
	if (pool->p.order)
		return -E2BIG;
	err = pool->mp->refs == 1 ? netmem_key_raise() : 0;
	if (!err)
		memory_provider_add_pool(pool->mp, pool);
	return err;
}

static void device_destroy(struct page_pool *pool)
{
	memory_provider_del_pool(pool->mp, pool);
	lower_if_unused(pool->mp);
}

static const struct memory_provider_ops device_provider_ops = {
	.alloc_netmems = device_alloc_netmems,
	.release_netmem = device_release_netmem,
	.init = device_init,
	.destroy = device_destroy,
};

size_t device_provider_size(uint32_t nr_niovs)
{
	return MEMORY_ALIGN(sizeof(struct device_provider)) +
	       (size_t)nr_niovs * sizeof(struct net_iov) +
	       MEMORY_ALIGN((size_t)nr_niovs * sizeof(uint32_t));
}

int device_provider_init(struct device_provider *mem, uint32_t nr_niovs, unsigned long base_virtual,
			 unsigned long dma_base, unsigned long dma_stride)
{
	struct net_iov *niovs = (void *)((char *)mem + MEMORY_ALIGN(sizeof(*mem)));

	if (nr_niovs == 0 || base_virtual % NETMEM_PAGE_SIZE)
		return -EINVAL;
	memset(niovs, 0, (size_t)nr_niovs * sizeof(*niovs));
	mem->area.niovs = niovs;
	mem->area.num_niovs = nr_niovs;
	mem->area.base_virtual = base_virtual;
	for (uint32_t i = 0; i < nr_niovs; i++) {
		niovs[i].owner = &mem->area;
		niovs[i].type = NET_IOV_DMABUF;
		niovs[i].dma_addr = dma_base + i * dma_stride;
	}
	memory_provider_init(&mem->mp, &device_provider_ops, (uint32_t *)(niovs + nr_niovs),
			     nr_niovs);
	return 0;
}

void device_provider_put(struct device_provider *dp)
{
	memory_provider_put(&dp->mp);
	lower_if_unused(&dp->mp);
}

void device_provider_abandon(struct device_provider *dp)
{
	if (dp->mp.refs <= 1)
		return;
	dp->mp.refs = 1;
	lower_if_unused(&dp->mp);
}

#endif
