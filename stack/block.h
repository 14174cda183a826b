/* SPDX-License-Identifier: Apache-2.0 */
/*
 * block.h - the data blocks of one application: who has which.
 *
 * A block is free, or lent: it holds bytes of one flow until REQUEST_BLOCK. Block numbers
 * start at 1, as tokens do. The table is the stack's own; the blocks lie in the channel.
 */
#ifndef DEVMEMTCP_BLOCK_H
#define DEVMEMTCP_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct block_entry {
	uint32_t flow; /* id; 0 while the block is free */
	uint32_t next, prev; /* blocks: the flow's chain, or the free list; 0 ends both */
};

struct block_table {
	struct block_entry *entry; /* [1 .. nr] */
	uint32_t nr;
	uint32_t free;
	uint32_t nr_free;
};

static inline void block_table_init(struct block_table *t, struct block_entry *entry, uint32_t nr)
{
	t->entry = entry;
	t->nr = t->nr_free = nr;
	t->free = 0;
	for (uint32_t block = nr; block >= 1; block--) {
		entry[block] = (struct block_entry){.next = t->free};
		t->free = block;
	}
}

/* A block for `flow`, put in front of its chain *first; 0 when none is free. */
static inline uint32_t block_new(struct block_table *t, uint32_t flow, uint32_t *first)
{
	const uint32_t block = t->free;
	struct block_entry *e = &t->entry[block];

	if (!block)
		return 0;
	t->free = e->next;
	t->nr_free--;
	*e = (struct block_entry){.flow = flow, .next = *first};
	if (*first)
		t->entry[*first].prev = block;
	*first = block;
	return block;
}

/* Is it lent to this flow? Block numbers come from the application. */
static inline bool block_is_of(const struct block_table *t, uint32_t block, uint32_t flow)
{
	return block && block <= t->nr && t->entry[block].flow == flow;
}

/* Take a lent block out of the chain *first. */
static inline void block_free(struct block_table *t, uint32_t block, uint32_t *first)
{
	struct block_entry *e = &t->entry[block];

	if (e->next)
		t->entry[e->next].prev = e->prev;
	*(e->prev ? &t->entry[e->prev].next : first) = e->next;
	*e = (struct block_entry){.next = t->free};
	t->free = block;
	t->nr_free++;
}

#endif
