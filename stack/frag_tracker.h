/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frag_tracker.h - what every buffer of one area is, and what it is doing.
 *
 * Buffers are numbered: the net_iovs 0 ... nr_niovs - 1 first, then the host
 * pages; an area has one kind only. The header page of the mosaic that lies
 * before buffer i has no life of its own: it is filled, read and reused together
 * with that, so buffer i's entry speaks for both.
 *
 *   net_iov    FREE -> FILL -> RECEIVED | OOO ... -> LENT -> RETURNED -> FREE
 *   host page  FREE -> FILL -> RECEIVED | OOO ... -> FREE      (copied out)
 *              FREE -> TX -> FREE
 *
 * Parts. A segment that straddles what is already queued leaves two frags of one
 * buffer, and so does one of whose payload some lies in the header page; two
 * tokens may name one net_iov. So a buffer in use has *parts*, each RECEIVED, OOO
 * or LENT, and each holding one pp reference. The entry counts them; the state it
 * shows is the most exposed of its parts,
 *
 *   LENT > OOO > RECEIVED
 *
 * (memory that the application can see, over memory that may yet be refused,
 * over memory that is only waiting). When the last part ends, the state is what
 * that part ended in: RETURNED or FREE.
 *
 * The tracker follows; it owns no reference and frees nothing. Call it next to
 * the pool's function, before a put and after an alloc or ref. Debug builds
 * assert that each move is in the table of legal moves of frag_tracker.c.
 */
#ifndef DEVMEMTCP_FRAG_TRACKER_H
#define DEVMEMTCP_FRAG_TRACKER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "stack.h"
#include "memory_provider.h"
#include "netmem.h"

#define FRAG_KINDS 2
#define FRAG_MAX_PARTS UINT16_MAX /* more than a net_iov has bytes */

struct frag_entry {
	uint32_t owner; /* flow id, 0: the pool or the NIC */
	uint16_t lent; /* parts by state */
	uint16_t ooo;
	uint16_t received;
	uint8_t state; /* enum frag_state: the one shown */
	uint8_t resting; /* frag_tracker_check()'s: times found in a pool or provider */
};

struct frag_tracker {
	const struct device_provider *device;
	const struct host_provider *host;
	uint32_t nr_niovs;
	uint32_t nr_pages;
	uint32_t count[FRAG_KINDS][FRAG_STATES]; /* buffers, by shown state */
	struct frag_entry *entries; /* nr_niovs + nr_pages, behind this struct */
};

size_t frag_tracker_size(uint32_t nr_niovs, uint32_t nr_pages);

/* `mem`: frag_tracker_size() bytes, 64-byte aligned; either provider may be NULL, with 0 buffers.
 * All buffers start FREE. */
void frag_tracker_init(struct frag_tracker *mem, const struct device_provider *device,
		       const struct host_provider *host);

/*
 * The buffer, of which there is at most one part, goes to state `to`: FREE with
 * owner 0, FILL with owner 0, RECEIVED, OOO, LENT with the flow's id, ...
 */
void frag_track(struct frag_tracker *t, netmem_ref netmem, enum frag_state to, uint32_t owner);

/* One part goes from `from` (RECEIVED, OOO, LENT) to `to`; RETURNED or FREE ends the part. */
void frag_move(struct frag_tracker *t, netmem_ref netmem, enum frag_state from, enum frag_state to);

/* A buffer in use gets one more part, in state `state` (RECEIVED, OOO or LENT). */
void frag_split(struct frag_tracker *t, netmem_ref netmem, enum frag_state state);

/* Is it a legal move for a buffer of this kind, or for a part of it? */
bool frag_may_move(enum frag_kind kind, enum frag_state from, enum frag_state to);

enum frag_state frag_state_of(const struct frag_tracker *t, netmem_ref netmem);

/* Parts of a buffer in use; 0 in the other states. */
uint32_t frag_parts(const struct frag_tracker *t, netmem_ref netmem);

/* Buffers of `kind` that show `state`. */
static inline uint32_t frag_count(const struct frag_tracker *t, enum frag_kind kind,
				  enum frag_state state)
{
	return t->count[kind][state];
}

/* Buffer n; returns 0, or -ENOENT past the last. Does not know which area it speaks of. */
int frag_tracker_record(const struct frag_tracker *t, uint32_t n, struct frag_record *out);

/*
 * Every invariant of every buffer (listed in frag_tracker.c). Returns 0, or
 * -(1 + n) for the first buffer n that breaks one; n is one past the last buffer
 * when it is the sums that do. Linear; for tests and debugging.
 */
int frag_tracker_check(const struct frag_tracker *t);

#endif
