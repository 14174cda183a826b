/* SPDX-License-Identifier: Apache-2.0 */
/*
 * area.c - areas, and the receive queues that use them.
 *
 *   stack_area_open() -> stack_queue_attach() -> stack_refill(), stack_rx() (stack.c) ...
 *   -> stack_queue_detach() -> ... the last token comes back: area_put() ... -> stack_area_close()
 *
 * One block of memory an area: | struct area | descriptors, free stack | pool | tracker | fill_queue |
 *
 * A queue's restart is a detach and an attach. In between it has no area: nothing is received or
 * sent on it, and its flows send by another queue.
 */
#include <errno.h>
#include <string.h>

#include "core.h"

/* A small ring: one thread returns all buffers, and what the cache does not take is better
 * off in the provider's stack, which is LIFO too and so hands out what is warm. */
#define POOL_RING 64

static const struct page_pool_params pool_params = {
	.flags = PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV | PP_FLAG_ALLOW_UNREADABLE_NETMEM,
	.pool_size = POOL_RING,
	.nid = NUMA_NO_NODE,
	.dma_dir = DMA_BIDIRECTIONAL,
	.max_len = NETMEM_PAGE_SIZE,
};

/* ---- memory ---- */

static size_t provider_size(uint32_t nr, bool is_device)
{
	const size_t size = is_device ? device_provider_size(nr) : host_provider_size(nr);

	return MEMORY_ALIGN(offsetof(struct area, device) + size);
}

static size_t tracker_size(uint32_t nr, bool is_device)
{
	return is_device ? frag_tracker_size(nr, 0) : frag_tracker_size(0, nr);
}

size_t area_size(uint32_t nr, bool is_device)
{
	return provider_size(nr, is_device) + page_pool_size(&pool_params) +
	       tracker_size(nr, is_device) + MEMORY_ALIGN(nr);
}

/* The provider is there: the rest. */
static int init_rest(struct area *a, struct memory_provider *mp)
{
	const bool is_device = area_is_device(a);
	struct page_pool_params params = pool_params;
	uint8_t *at = (uint8_t *)a + provider_size(a->nr, is_device);
	int err;

	a->pool = (struct page_pool *)at;
	at += page_pool_size(&params);
	a->tracker = (struct frag_tracker *)at;
	at += tracker_size(a->nr, is_device);
	a->fill_queue = at;
	params.mp = mp;
	err = page_pool_init(a->pool, &params);
	if (err)
		return err;
	frag_tracker_init(a->tracker, is_device ? &a->device : NULL, is_device ? NULL : &a->host);
	return 0;
}

bool area_config_ok(const struct stack_area_config *c)
{
	return c->nr_niovs >= STACK_MIN_AREA && c->nr_niovs <= TOKEN_SLOTS_MAX / 2 &&
	       c->header_base && !c->dmabuf_id == !!c->data_base;
}

int area_init(struct area *mem, uint32_t number, const struct stack_area_config *c)
{
	/* In the UMEM each buffer comes behind its header page, or right behind the last one. */
	const unsigned long step = c->packed ? STACK_CHUNK : 2 * STACK_CHUNK;
	const unsigned long first = step - STACK_CHUNK;
	struct area *a = mem;
	int err;

	memset(a, 0, sizeof(*a));
	a->number = number;
	a->dmabuf_id = c->dmabuf_id;
	a->nr = c->nr_niovs;
	a->header_base = c->header_base;
	/* A batch of segments that carry nothing must find buffers even when every window
	 * is used to the last byte. */
	a->reserve = a->nr / 8 < 128 ? a->nr / 8 : 128;
	if (a->dmabuf_id)
		err = device_provider_init(&a->device, a->nr, 0, first, step);
	else
		err = host_provider_init(&a->host, a->nr, c->data_base, first, step, 0);
	return err ? err : init_rest(a, area_is_device(a) ? &a->device.mp : &a->host.mp);
}

int area_init_tx(struct area *mem, uint32_t nr_pages, uint8_t *base)
{
	struct area *a = mem;
	int err;

	memset(a, 0, sizeof(*a));
	a->number = STACK_NONE;
	a->nr = nr_pages;
	a->queues = 1; /* never drains */
	err = host_provider_init(&a->host, nr_pages, base, 0, STACK_CHUNK, 0);
	return err ? err : init_rest(a, &a->host.mp);
}

/* ---- areas of a stack ---- */

size_t stack_area_size(const struct stack_area_config *config)
{
	return area_config_ok(config) ? area_size(config->nr_niovs, config->dmabuf_id) : 0;
}

static struct area *area_at(const struct stack *s, int area)
{
	return area >= 0 && (uint32_t)area < s->cfg.max_areas ? s->areas[area] : NULL;
}

int stack_area_open(struct stack *s, void *mem, const struct stack_area_config *config)
{
	uint32_t number = 0;
	int err;

	if (!mem || !area_config_ok(config))
		return -EINVAL;
	while (number < s->cfg.max_areas && s->areas[number])
		number++;
	if (number == s->cfg.max_areas || config->nr_niovs > s->cfg.max_niovs - s->niovs_open)
		return -ENOSPC;
	err = area_init(mem, number, config);
	if (err)
		return err;
	s->areas[number] = mem;
	s->niovs_open += config->nr_niovs;
	return (int)number;
}

int stack_area_close(struct stack *s, int area)
{
	struct area *a = area_at(s, area);
	int32_t out;

	if (!a)
		return -ENOENT;
	if (a->queues)
		return -EBUSY;
	a->closing = true;
	out = page_pool_destroy(a->pool);
	if (out)
		return out;
	s->areas[area] = NULL;
	s->niovs_open -= a->nr;
	return 0;
}

void stack_abandon(struct stack *s)
{
	for (uint32_t i = 0; i < s->cfg.max_areas; i++)
		if (s->areas[i] && area_is_device(s->areas[i]))
			device_provider_abandon(&s->areas[i]->device);
}

uint32_t stack_areas_drained(const struct stack *s)
{
	return s->areas_drained;
}

void area_note_drained(struct stack *s, const struct area *a)
{
	if (!a->queues && area_count(a, FRAG_FREE) == a->nr)
		s->areas_drained++;
}

/* ---- queues ---- */

int stack_queue_attach(struct stack *s, uint32_t queue, int area)
{
	struct area *a = area_at(s, area);

	if (queue >= s->cfg.nr_queues)
		return -EINVAL;
	if (!a)
		return -ENOENT;
	if (s->rx[queue].area || a->closing)
		return -EBUSY;
	s->rx[queue].area = a;
	a->queues++;
	s->buffers_back = true; /* windows of its flows may open */
	return 0;
}

static void take_fill_ring(struct stack *s, uint32_t queue)
{
	struct area *a = s->rx[queue].area;

	for (uint32_t i = 0; i < a->nr; i++) {
		const netmem_ref netmem = area_buffer(a, i);

		if (frag_state_of(a->tracker, netmem) == FRAG_FILL && a->fill_queue[i] == queue)
			area_free(s, a, netmem);
	}
	s->rx[queue].fill = 0;
}

void stack_queue_detach(struct stack *s, uint32_t queue)
{
	struct area *a;

	if (queue >= s->cfg.nr_queues || !s->rx[queue].area)
		return;
	a = s->rx[queue].area;
	take_fill_ring(s, queue);
	s->rx[queue].area = NULL;
	a->queues--;
	area_note_drained(s, a);
	tx_queue_gone(s, queue);
}
