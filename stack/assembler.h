/* SPDX-License-Identifier: Apache-2.0 */
/*
 * assembler.h - puts fragments of a byte stream in order without copying a byte.
 *
 * A *frag* is a piece of one buffer with its place in sequence space. What lies
 * above a hole is kept as *islands*: contiguous runs of frags, disjoint, never
 * touching, ascending. An island is one SACK block (RFC 2018).
 *
 *   rcv_nxt        island          island
 *     |    hole   [f][f][f]  hole  [f]       ... right edge of the window
 *
 * Frags and islands come from two fixed pools shared by all flows.
 */
#ifndef DEVMEMTCP_ASSEMBLER_H
#define DEVMEMTCP_ASSEMBLER_H

#include "channel.h"
#include "list.h"
#include "skb_frag.h"
#include "seq.h"
#include "wire.h"

/* More holes than this in one window is not loss but an attack on the list walk. */
#define ASSEMBLER_ISLANDS_MAX 512

/* What kind of bytes a frag is, and why (enum rx_kind, enum rx_reason). */
struct rx_source {
	_Alignas(4) uint8_t kind; /* copied for each frag: as one word */
	uint8_t reason;
	bool in_head; /* in the buffer's header page, at frag.offset of that: the stack may read them */
};

struct rx_frag {
	struct rx_frag *next;
	skb_frag_t frag;
	struct rx_source source;
};

struct frag_list {
	struct rx_frag *head, *tail;
	uint32_t nr;
	uint32_t bytes;
};

struct island {
	seq_t start, end; /* [start, end) */
	struct frag_list frags;
	struct island *next, *prev; /* by sequence; next also chains the free pool */
	struct list_node recent; /* in assembler.recent */
};

struct assembler {
	struct island *first, *last;
	struct list_node recent; /* most recently changed first: RFC 2018 4 (a) and (c) */
	uint32_t nr;
	uint32_t bytes;
	uint32_t frags;
};

/* Both pools; one for the whole stack. */
struct frag_pool {
	struct rx_frag *free_frags;
	struct island *free_islands;
	uint32_t nr_free_frags;
};

void frag_pool_init(struct frag_pool *pool, struct rx_frag *frags, uint32_t nr_frags,
		    struct island *islands, uint32_t nr_islands);

struct area;

/*
 * The payload of one received packet:
 *
 *      header page of chunk 0   chunk 0         chunk 1
 *      [ headers | head bytes ] [ len[0] ]      [ len[1] ] ...
 *
 * `uses` counts the frags cut from each chunk (chunk 0's include those in its header page), so
 * that whoever made the payload can settle references when all cutting is done.
 */
struct payload {
	struct area *area; /* all chunks are of this one */
	struct rx_source head_source, source; /* of the bytes in the head, and in the chunks */
	uint32_t head; /* bytes */
	uint32_t nr;
	netmem_ref chunk[STACK_MAX_CHUNKS];
	uint32_t off[STACK_MAX_CHUNKS]; /* of the first byte, from the start of the buffer */
	uint32_t len[STACK_MAX_CHUNKS];
	uint16_t uses[STACK_MAX_CHUNKS];
	bool settled; /* stack_settle_payload() has been here */
};

/* Append bytes [from, from + bytes) of the payload to `list`. False, and nothing
 * appended, when the frag pool cannot hold them. */
bool payload_cut(struct frag_pool *pool, struct payload *p, uint32_t from, uint32_t bytes,
		 struct frag_list *list);

static inline struct rx_frag *frag_list_pop(struct frag_list *list)
{
	struct rx_frag *f = list->head;

	if (!f)
		return NULL;
	list->head = f->next;
	if (!list->head)
		list->tail = NULL;
	list->nr--;
	list->bytes -= f->frag.len;
	return f;
}

/* Move all of `from` behind `to`. */
void frag_list_join(struct frag_list *to, struct frag_list *from);
void frag_free(struct frag_pool *pool, struct rx_frag *frag);

void assembler_init(struct assembler *a);

/*
 * Add stream bytes [start, start + bytes), which are the payload's from `skip` on. What
 * is queued already stays: bytes that were selectively acknowledged are never replaced.
 *
 * `dup` is set to the first part that was a duplicate (empty if none). Returns the
 * number of new bytes, or -ENOMEM when frags or islands ran out: what had been taken by
 * then stays.
 */
int64_t assembler_add(struct assembler *a, struct frag_pool *pool, struct payload *p, seq_t start,
		      uint32_t skip, uint32_t bytes, struct sack_block *dup);

/* If the first island begins at or below `rcv_nxt`, move its frags to `list` and return
 * the sequence number it ends at; otherwise `rcv_nxt`. Islands never begin below. */
seq_t assembler_take(struct assembler *a, struct frag_pool *pool, seq_t rcv_nxt,
		     struct frag_list *list);

/* SACK blocks, most recent first; returns how many were written. */
uint32_t assembler_sack(const struct assembler *a, struct sack_block *blocks, uint32_t max);

/* The island that holds `at`, or NULL. */
const struct island *assembler_find(const struct assembler *a, seq_t at);

/* Where the highest island ends; `none` if there is no island. */
seq_t assembler_end(const struct assembler *a, seq_t none);

/* Everything out, into `list`, in sequence order. */
void assembler_clear(struct assembler *a, struct frag_pool *pool, struct frag_list *list);

#endif
