/* SPDX-License-Identifier: Apache-2.0 */
/*
 * skb_frag.h - a piece of netmem: where some received bytes lie.
 *
 * Names and behaviour are those of include/linux/skbuff.h and skbuff_ref.h of Linux 6.18.
 */
#ifndef DEVMEMTCP_SKB_FRAG_H
#define DEVMEMTCP_SKB_FRAG_H

#include "netmem.h"

typedef struct skb_frag {
	netmem_ref netmem;
	uint32_t len; /* bytes */
	uint32_t offset; /* of the first one, from the start of the buffer */
} skb_frag_t;

#if __SIZEOF_POINTER__ == 8
_Static_assert(sizeof(skb_frag_t) == 16, "skb_frag_t layout");
#endif

static inline netmem_ref skb_frag_netmem(const skb_frag_t *frag)
{
	return frag->netmem;
}

static inline bool skb_frag_is_net_iov(const skb_frag_t *frag)
{
	return netmem_is_net_iov(frag->netmem);
}

/* NULL for a page. */
static inline struct net_iov *skb_frag_net_iov(const skb_frag_t *frag)
{
	if (!skb_frag_is_net_iov(frag))
		return NULL;
	return __netmem_to_net_iov(frag->netmem);
}

/* NULL for a net_iov, and no warning: many callers ask in order to find out. */
static inline struct page *skb_frag_page(const skb_frag_t *frag)
{
	if (skb_frag_is_net_iov(frag))
		return NULL;
	return __netmem_to_page(frag->netmem);
}

static inline uint32_t skb_frag_size(const skb_frag_t *frag)
{
	return frag->len;
}

static inline uint32_t skb_frag_off(const skb_frag_t *frag)
{
	return frag->offset;
}

/* Of its first byte; NULL for a net_iov. */
static inline void *skb_frag_address(const skb_frag_t *frag)
{
	struct page *page = skb_frag_page(frag);

	if (!page)
		return NULL;
	return (char *)page_address(page) + frag->offset;
}

/* As skb_frag_address(); NULL also for a page that has no mapping. */
static inline void *skb_frag_address_safe(const skb_frag_t *frag)
{
	struct page *page = skb_frag_page(frag);

	if (!page || !page_address(page))
		return NULL;
	return (char *)page_address(page) + frag->offset;
}

/* UMEM address `offset` bytes into the frag. Both kinds carry theirs: nothing is mapped. */
static inline unsigned long skb_frag_dma_map(const skb_frag_t *frag, size_t offset)
{
	return netmem_get_dma_addr(frag->netmem) + frag->offset + offset;
}

#endif
