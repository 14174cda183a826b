/* SPDX-License-Identifier: Apache-2.0 */
/*
 * area.h - memory of one kind that frames and payload lie in, with all that keeps
 * track of it: provider, page_pool, frag tracker.
 *
 *   device area   net_iovs of one binding, for RX queues; the stack reads header pages only
 *   host area     struct pages, for an RX queue without a binding; the stack reads them all
 *   the TX area   struct pages that frames are built in; every stack has one
 *
 * A netmem leads to its area by what it is part of, net_iov->owner or page->mapping,
 * never by its number: numbers mean something inside one area only.
 *
 * An RX area is opened, attached to queues, detached, drained, closed (api.h). Detached
 * it goes on working: what comes home late goes to the same pool.
 */
#ifndef DEVMEMTCP_AREA_H
#define DEVMEMTCP_AREA_H

#include "frag_tracker.h"
#include "list.h"
#include "memory_provider.h"
#include "page_pool.h"
#include "stack.h"

#define STACK_NO_QUEUE UINT8_MAX

struct area {
	uint32_t number; /* STACK_NONE: the TX area */
	uint32_t dmabuf_id; /* 0: host memory */
	uint32_t nr; /* buffers */
	uint32_t queues; /* that use it now */
	uint32_t reserve; /* buffers never promised: SYNs, ACKs, duplicates */
	bool closing;
	uint8_t *header_base;
	uint8_t *fill_queue; /* by buffer, while it is FILL: in whose ring, or STACK_NO_QUEUE */
	struct page_pool *pool;
	struct frag_tracker *tracker;
	/* Last: the descriptors follow it in memory. */
	union {
		struct device_provider device;
		struct host_provider host;
	};
};

static inline bool area_is_device(const struct area *a)
{
	return NETMEM_CHECK != NETMEM_CHECK_OFF && a->dmabuf_id;
}

/* What area_init() and page_pool_init() need, in one block. */
size_t area_size(uint32_t nr, bool is_device);
/* `mem`: area_size() bytes, 64-byte aligned; anything may be in it. Receive areas: `config` is one
 * that area_config_ok() lets pass. Returns 0 or a negative errno of provider or pool. */
int area_init(struct area *mem, uint32_t number, const struct stack_area_config *config);
/* Pages for transmission, page p at base + 4096 p. */
int area_init_tx(struct area *mem, uint32_t nr_pages, uint8_t *base);
bool area_config_ok(const struct stack_area_config *config);

/* The area of a buffer that is in one: NETMEM_NONE is not. */
static inline struct area *area_of(netmem_ref netmem)
{
	if (netmem_is_net_iov(netmem))
		return container_of(net_iov_owner(netmem_to_net_iov(netmem)), struct area,
				    device.area);
	return container_of(__netmem_to_page(netmem)->mapping, struct area, host);
}

static inline netmem_ref area_buffer(const struct area *a, uint32_t index)
{
	if (area_is_device(a))
		return device_provider_netmem(&a->device, index);
	return page_to_netmem(host_provider_page(&a->host, index));
}

/* What the stack keeps of a buffer is wanted soon. */
static inline void area_prefetch(const struct area *a, uint32_t index)
{
	__builtin_prefetch(&a->tracker->entries[index]);
	__builtin_prefetch(netmem_get_pp_ref_count_ref(area_buffer(a, index)));
}

/* Its index in the area it is of. */
static inline uint32_t area_index(netmem_ref netmem)
{
	if (netmem_is_net_iov(netmem))
		return net_iov_index(netmem_to_net_iov(netmem));
	return page_index(__netmem_to_page(netmem));
}

/* The header page of a receive buffer. */
static inline uint8_t *area_header(const struct area *a, uint32_t index)
{
	return a->header_base + (size_t)index * STACK_CHUNK;
}

/* Buffers that show `state`. */
static inline uint32_t area_count(const struct area *a, enum frag_state state)
{
	return frag_count(a->tracker, area_is_device(a) ? FRAG_NET_IOV : FRAG_HOST_PAGE, state);
}

#endif
