/* SPDX-License-Identifier: Apache-2.0 */
/*
 * assembler.c - islands of fragments above a hole.
 *
 *   tcp_input.c: take_payload() -> payload_cut()      in order, nothing queued
 *                               -> assembler_add()    above a hole, or filling one
 *                               -> assembler_take()   what the hole's end set free
 *
 * A frag is referenced by exactly one list. References to buffers are the caller's
 * business: payload.uses says how many frags each chunk gave.
 */
#include <errno.h>
#include <string.h>

#include "assembler.h"

void frag_pool_init(struct frag_pool *pool, struct rx_frag *frags, uint32_t nr_frags,
		    struct island *islands, uint32_t nr_islands)
{
	memset(pool, 0, sizeof(*pool));
	while (nr_frags--) {
		frags[nr_frags].next = pool->free_frags;
		pool->free_frags = &frags[nr_frags];
		pool->nr_free_frags++;
	}
	while (nr_islands--) {
		islands[nr_islands].next = pool->free_islands;
		pool->free_islands = &islands[nr_islands];
	}
}

/* ---- frags ---- */

void frag_free(struct frag_pool *pool, struct rx_frag *frag)
{
	frag->next = pool->free_frags;
	pool->free_frags = frag;
	pool->nr_free_frags++;
}

static void frag_list_push(struct frag_list *list, struct rx_frag *f)
{
	f->next = NULL;
	if (list->tail)
		list->tail->next = f;
	else
		list->head = f;
	list->tail = f;
	list->nr++;
	list->bytes += f->frag.len;
}

void frag_list_join(struct frag_list *to, struct frag_list *from)
{
	if (!from->head)
		return;
	if (to->tail)
		to->tail->next = from->head;
	else
		to->head = from->head;
	to->tail = from->tail;
	to->nr += from->nr;
	to->bytes += from->bytes;
	memset(from, 0, sizeof(*from));
}

/* The caller has seen that there is one to be had. */
static struct rx_frag *frag_new(struct frag_pool *pool)
{
	struct rx_frag *f = pool->free_frags;

	pool->free_frags = f->next;
	pool->nr_free_frags--;
	return f;
}

/* Chunk `i` from `from` on, at most `bytes` of it; returns how many that were. */
static uint32_t cut_chunk(struct frag_pool *pool, struct payload *p, uint32_t i, uint32_t from,
			  uint32_t bytes, struct frag_list *list)
{
	const uint32_t len = p->len[i] - from < bytes ? p->len[i] - from : bytes;
	struct rx_frag *f = frag_new(pool);

	f->frag = (skb_frag_t){.netmem = p->chunk[i], .len = len, .offset = p->off[i] + from};
	f->source = p->source;
	p->uses[i]++;
	frag_list_push(list, f);
	return len;
}

/* The same of the bytes in the head: they end where the header page does. */
static uint32_t cut_head(struct frag_pool *pool, struct payload *p, uint32_t from, uint32_t bytes,
			 struct frag_list *list)
{
	const uint32_t len = p->head - from < bytes ? p->head - from : bytes;
	struct rx_frag *f = frag_new(pool);

	f->frag = (skb_frag_t){
		.netmem = p->chunk[0], .len = len, .offset = STACK_CHUNK - p->head + from};
	f->source = p->head_source;
	p->uses[0]++;
	frag_list_push(list, f);
	return len;
}

bool payload_cut(struct frag_pool *pool, struct payload *p, uint32_t from, uint32_t bytes,
		 struct frag_list *list)
{
	if (pool->nr_free_frags < p->nr + 1) /* the most it can take */
		return false;
	if (from < p->head) {
		bytes -= cut_head(pool, p, from, bytes, list);
		from = 0;
	} else {
		from -= p->head;
	}
	for (uint32_t i = 0; i < p->nr && bytes; i++) {
		if (from >= p->len[i]) {
			from -= p->len[i];
			continue;
		}
		bytes -= cut_chunk(pool, p, i, from, bytes, list);
		from = 0;
	}
	return true;
}

/* ---- islands ---- */

void assembler_init(struct assembler *a)
{
	memset(a, 0, sizeof(*a));
	list_init(&a->recent);
}

static void touch(struct assembler *a, struct island *i)
{
	list_del(&i->recent);
	i->recent.next = a->recent.next;
	i->recent.prev = &a->recent;
	a->recent.next->prev = &i->recent;
	a->recent.next = &i->recent;
}

/* A new, empty island at `start`, behind `prev` (NULL: in front of all). The caller has
 * seen that there is one to be had. */
static struct island *island_new(struct assembler *a, struct frag_pool *pool, struct island *prev,
				 seq_t start)
{
	struct island *i = pool->free_islands;

	pool->free_islands = i->next;
	memset(i, 0, sizeof(*i));
	i->start = i->end = start;
	list_init(&i->recent);
	i->prev = prev;
	i->next = prev ? prev->next : a->first;
	*(i->next ? &i->next->prev : &a->last) = i;
	*(prev ? &prev->next : &a->first) = i;
	a->nr++;
	return i;
}

static void island_free(struct assembler *a, struct frag_pool *pool, struct island *i)
{
	*(i->prev ? &i->prev->next : &a->first) = i->next;
	*(i->next ? &i->next->prev : &a->last) = i->prev;
	list_del(&i->recent);
	i->next = pool->free_islands;
	pool->free_islands = i;
	a->nr--;
}

/* The last island that begins at or before `at`, NULL if there is none. From the back:
 * after a loss new data lands behind everything queued. */
static struct island *island_before(const struct assembler *a, seq_t at)
{
	struct island *i = a->last;

	while (i && seq_lt(at, i->start))
		i = i->prev;
	return i;
}

static void note_dup(struct sack_block *dup, seq_t start, seq_t end)
{
	if (seq_eq(dup->start, dup->end) && seq_lt(start, end))
		*dup = (struct sack_block){start, end};
}

/*
 * Fill the gap [start, end) that lies right behind `prev` (or in front of everything):
 *
 *      prev          next             prev
 *     [####]........[####]   ->      [##########]      when it touches both
 *          ^start  ^end
 */
static int fill_gap(struct assembler *a, struct frag_pool *pool, struct payload *p,
		    struct island *prev, seq_t start, seq_t end, uint32_t skip)
{
	const uint32_t bytes = (uint32_t)seq_sub(end, start);
	const bool joins = prev && seq_eq(prev->end, start);
	struct frag_list list = {0};
	struct island *i = prev, *next;

	if (!joins && (!pool->free_islands || a->nr >= ASSEMBLER_ISLANDS_MAX))
		return -ENOMEM;
	if (!payload_cut(pool, p, skip, bytes, &list))
		return -ENOMEM;
	if (!joins)
		i = island_new(a, pool, prev, start);
	a->frags += list.nr;
	frag_list_join(&i->frags, &list);
	i->end = end;
	a->bytes += bytes;
	next = i->next;
	if (next && seq_eq(next->start, end)) {
		frag_list_join(&i->frags, &next->frags);
		i->end = next->end;
		island_free(a, pool, next);
	}
	touch(a, i);
	return 0;
}

int64_t assembler_add(struct assembler *a, struct frag_pool *pool, struct payload *p, seq_t start,
		      uint32_t skip, uint32_t bytes, struct sack_block *dup)
{
	const seq_t end = seq_add(start, bytes);
	struct island *prev = island_before(a, start);
	seq_t at = start;
	int64_t added = 0;

	*dup = (struct sack_block){start, start};
	while (seq_lt(at, end)) {
		const struct island *next;
		seq_t stop = end;

		if (prev && seq_lt(at, prev->end)) {
			stop = seq_min(prev->end, end);
			note_dup(dup, at, stop);
			touch(a, prev);
			at = stop;
			continue;
		}
		next = prev ? prev->next : a->first;
		if (next)
			stop = seq_min(next->start, end);
		if (seq_lt(at, stop)) {
			int rc = fill_gap(a, pool, p, prev, at, stop,
					  skip + (uint32_t)seq_sub(at, start));
			if (rc)
				return rc;
			added += seq_sub(stop, at);
		}
		at = stop;
		prev = island_before(a, at);
	}
	return added;
}

seq_t assembler_take(struct assembler *a, struct frag_pool *pool, seq_t rcv_nxt,
		     struct frag_list *list)
{
	struct island *i = a->first;

	if (!i || seq_lt(rcv_nxt, i->start))
		return rcv_nxt;
	rcv_nxt = i->end;
	a->bytes -= i->frags.bytes;
	a->frags -= i->frags.nr;
	frag_list_join(list, &i->frags);
	island_free(a, pool, i);
	return rcv_nxt;
}

uint32_t assembler_sack(const struct assembler *a, struct sack_block *blocks, uint32_t max)
{
	uint32_t nr = 0;

	for (const struct list_node *n = a->recent.next; n != &a->recent && nr < max; n = n->next) {
		const struct island *i = container_of(n, struct island, recent);

		blocks[nr++] = (struct sack_block){i->start, i->end};
	}
	return nr;
}

const struct island *assembler_find(const struct assembler *a, seq_t at)
{
	const struct island *i = island_before(a, at);

	return i && seq_lt(at, i->end) ? i : NULL;
}

seq_t assembler_end(const struct assembler *a, seq_t none)
{
	return a->last ? a->last->end : none;
}

void assembler_clear(struct assembler *a, struct frag_pool *pool, struct frag_list *list)
{
	while (a->first) {
		frag_list_join(list, &a->first->frags);
		island_free(a, pool, a->first);
	}
	a->bytes = 0;
	a->frags = 0;
}
