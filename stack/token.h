/* SPDX-License-Identifier: Apache-2.0 */
/*
 * token.h - what the application holds for each fragment it was given.
 *
 * A token names one frag, not one net_iov: a net_iov that was split is lent under
 * several. Tokens are at least 1 and below 2^31, as the kernel's; the upper bits are a
 * generation, so that one returned twice is noticed instead of freeing its successor.
 */
#ifndef DEVMEMTCP_TOKEN_H
#define DEVMEMTCP_TOKEN_H

#include <stdint.h>

#include "netmem.h"

#define TOKEN_SLOT_BITS 20
#define TOKEN_SLOTS_MAX ((1u << TOKEN_SLOT_BITS) - 1)
#define TOKEN_GENERATIONS (1u << (31 - TOKEN_SLOT_BITS))

struct token_entry {
	netmem_ref netmem; /* none while the slot is free */
	uint32_t flow; /* id of the connection it was given to */
	uint32_t next, prev; /* slots: the flow's chain, or the free list; 0 ends both */
	uint32_t generation;
};

struct token_table {
	struct token_entry *entry; /* slot 0 is never used */
	uint32_t nr; /* slots, slot 0 included */
	uint32_t free;
	uint32_t live;
};

static inline void token_table_init(struct token_table *t)
{
	t->free = 0;
	for (uint32_t slot = t->nr - 1; slot >= 1; slot--) {
		t->entry[slot].next = t->free;
		t->free = slot;
	}
}

/* A token for `netmem`, put in front of the chain *first; 0 when none is free. */
static inline uint32_t token_new(struct token_table *t, netmem_ref netmem, uint32_t flow,
				 uint32_t *first)
{
	const uint32_t slot = t->free;
	struct token_entry *e = &t->entry[slot];

	if (!slot)
		return 0;
	t->free = e->next;
	t->live++;
	e->netmem = netmem;
	e->flow = flow;
	e->prev = 0;
	e->next = *first;
	if (*first)
		t->entry[*first].prev = slot;
	*first = slot;
	return e->generation << TOKEN_SLOT_BITS | slot;
}

/* The slot of a live token of this flow, or 0: tokens come from the application. */
static inline uint32_t token_find(const struct token_table *t, uint32_t token, uint32_t flow)
{
	const uint32_t slot = token & TOKEN_SLOTS_MAX;

	if (!slot || slot >= t->nr || t->entry[slot].generation != token >> TOKEN_SLOT_BITS)
		return 0;
	if (netmem_is_none(t->entry[slot].netmem) || t->entry[slot].flow != flow)
		return 0;
	return slot;
}

/* Take a live slot out of the chain *first; returns what it named. */
static inline netmem_ref token_free(struct token_table *t, uint32_t slot, uint32_t *first)
{
	struct token_entry *e = &t->entry[slot];
	const netmem_ref netmem = e->netmem;

	if (e->next)
		t->entry[e->next].prev = e->prev;
	*(e->prev ? &t->entry[e->prev].next : first) = e->next;
	e->netmem = NETMEM_NONE;
	e->generation = (e->generation + 1) % TOKEN_GENERATIONS;
	e->next = t->free;
	t->free = slot;
	t->live--;
	return netmem;
}

#endif
