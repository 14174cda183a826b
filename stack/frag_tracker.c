/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frag_tracker.c - one entry a buffer, kept by the calls of frag_tracker.h.
 *
 * What frag_tracker_check() holds to, for every buffer:
 *   - its kind is what its netmem says: a device buffer is reachable neither as
 *     a page nor by an address, a host page is both
 *   - its state is one that its kind can be in
 *   - it has parts exactly when it is RECEIVED, OOO or LENT, and shows the most
 *     exposed of them
 *   - it is FREE exactly when it lies, once, in a pool or its provider, with its
 *     references at rest; otherwise a pool owns it and each part has a reference
 *   - whoever has bytes in it is named: RECEIVED, OOO and LENT have an owner, FREE
 *     and FILL have none
 * and for all of them together: the counts add up, and what the pools have in
 * flight is what the providers miss.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include "frag_tracker.h"
#include "page_pool.h"
#include "skb_frag.h"

#define TO(state) (1u << (state))

/* By kind and state: the states it, or one of its parts, may go to. */
static const uint8_t legal_moves[FRAG_KINDS][FRAG_STATES] = {
	[FRAG_NET_IOV] =
		{
			[FRAG_FREE] = TO(FRAG_FILL),
			/* FREE: the packet was dropped, or the ring taken down. */
			[FRAG_FILL] = TO(FRAG_RECEIVED) | TO(FRAG_OOO) | TO(FRAG_FREE),
			/* FREE: dropped, or copied, as what lies in its header page is. */
			[FRAG_RECEIVED] = TO(FRAG_LENT) | TO(FRAG_FREE),
			/* Lent only by way of RECEIVED: the hole below it was filled first. */
			[FRAG_OOO] = TO(FRAG_RECEIVED) | TO(FRAG_FREE),
			[FRAG_LENT] = TO(FRAG_RETURNED),
			[FRAG_RETURNED] = TO(FRAG_FREE),
		},
	[FRAG_HOST_PAGE] =
		{
			[FRAG_FREE] = TO(FRAG_FILL) | TO(FRAG_TX),
			/* Never lent: what the stack can read it copies for the application. */
			[FRAG_FILL] = TO(FRAG_RECEIVED) | TO(FRAG_OOO) | TO(FRAG_FREE),
			[FRAG_RECEIVED] = TO(FRAG_FREE),
			[FRAG_OOO] = TO(FRAG_RECEIVED) | TO(FRAG_FREE),
			[FRAG_TX] = TO(FRAG_FREE),
		},
};

/* Can a buffer of this kind be in that state? What nothing leaves is none of its states. */
static bool frag_may_hold(enum frag_kind kind, enum frag_state state)
{
	return state < FRAG_STATES && legal_moves[kind][state];
}

bool frag_may_move(enum frag_kind kind, enum frag_state from, enum frag_state to)
{
	return legal_moves[kind][from] & TO(to);
}

static bool has_parts(enum frag_state state)
{
	return state == FRAG_RECEIVED || state == FRAG_OOO || state == FRAG_LENT;
}

static bool owner_fits(enum frag_state state, uint32_t owner)
{
	if (state == FRAG_FREE || state == FRAG_FILL)
		return owner == 0;
	return owner != 0 || !has_parts(state);
}

/* ---- entries ---- */

static enum frag_kind kind_of(netmem_ref netmem)
{
	return netmem_is_net_iov(netmem) ? FRAG_NET_IOV : FRAG_HOST_PAGE;
}

static struct frag_entry *entry_of(const struct frag_tracker *t, netmem_ref netmem)
{
	if (netmem_is_net_iov(netmem))
		return &t->entries[net_iov_index(netmem_to_net_iov(netmem))];
	return &t->entries[t->nr_niovs + page_index(__netmem_to_page(netmem))];
}

static uint32_t parts_of(const struct frag_entry *e)
{
	return (uint32_t)e->lent + e->ooo + e->received;
}

static uint16_t *part(struct frag_entry *e, enum frag_state state)
{
	assert(has_parts(state));
	if (state == FRAG_LENT)
		return &e->lent;
	return state == FRAG_OOO ? &e->ooo : &e->received;
}

/* Of an entry that has parts. */
static enum frag_state most_exposed(const struct frag_entry *e)
{
	if (e->lent)
		return FRAG_LENT;
	return e->ooo ? FRAG_OOO : FRAG_RECEIVED;
}

static void show(struct frag_tracker *t, struct frag_entry *e, enum frag_kind kind,
		 enum frag_state state)
{
	t->count[kind][e->state]--;
	t->count[kind][state]++;
	e->state = state;
}

/* ---- set-up ---- */

size_t frag_tracker_size(uint32_t nr_niovs, uint32_t nr_pages)
{
	return MEMORY_ALIGN(sizeof(struct frag_tracker)) +
	       MEMORY_ALIGN(((size_t)nr_niovs + nr_pages) * sizeof(struct frag_entry));
}

void frag_tracker_init(struct frag_tracker *mem, const struct device_provider *device,
		       const struct host_provider *host)
{
	const uint32_t nr_niovs = device ? device->mp.nr_bufs : 0;
	const uint32_t nr_pages = host ? host->mp.nr_bufs : 0;

	memset(mem, 0, frag_tracker_size(nr_niovs, nr_pages));
	mem->device = device;
	mem->host = host;
	mem->nr_niovs = nr_niovs;
	mem->nr_pages = nr_pages;
	mem->entries = (void *)((char *)mem + MEMORY_ALIGN(sizeof(*mem)));
	mem->count[FRAG_NET_IOV][FRAG_FREE] = mem->nr_niovs;
	mem->count[FRAG_HOST_PAGE][FRAG_FREE] = mem->nr_pages;
}

/* ---- the hot path ---- */

void frag_track(struct frag_tracker *t, netmem_ref netmem, enum frag_state to, uint32_t owner)
{
	struct frag_entry *e = entry_of(t, netmem);
	enum frag_kind kind = kind_of(netmem);

	assert(frag_may_move(kind, e->state, to));
	assert(parts_of(e) <= 1);
	assert(owner_fits(to, owner));
	e->lent = to == FRAG_LENT;
	e->ooo = to == FRAG_OOO;
	e->received = to == FRAG_RECEIVED;
	e->owner = owner;
	show(t, e, kind, to);
}

void frag_move(struct frag_tracker *t, netmem_ref netmem, enum frag_state from, enum frag_state to)
{
	struct frag_entry *e = entry_of(t, netmem);
	enum frag_kind kind = kind_of(netmem);

	assert(frag_may_move(kind, from, to));
	assert(*part(e, from) > 0);
	--*part(e, from);
	if (has_parts(to))
		++*part(e, to);
	if (parts_of(e)) {
		show(t, e, kind, most_exposed(e));
		return;
	}
	if (to == FRAG_FREE)
		e->owner = 0;
	show(t, e, kind, to);
}

void frag_split(struct frag_tracker *t, netmem_ref netmem, enum frag_state state)
{
	struct frag_entry *e = entry_of(t, netmem);
	enum frag_kind kind = kind_of(netmem);

	assert(frag_may_hold(kind, state));
	assert(parts_of(e) > 0 && parts_of(e) < FRAG_MAX_PARTS);
	++*part(e, state);
	show(t, e, kind, most_exposed(e));
}

/* ---- looking ---- */

enum frag_state frag_state_of(const struct frag_tracker *t, netmem_ref netmem)
{
	return entry_of(t, netmem)->state;
}

uint32_t frag_parts(const struct frag_tracker *t, netmem_ref netmem)
{
	return parts_of(entry_of(t, netmem));
}

static netmem_ref buffer(const struct frag_tracker *t, uint32_t n)
{
	if (n < t->nr_niovs)
		return device_provider_netmem(t->device, n);
	return page_to_netmem(host_provider_page(t->host, n - t->nr_niovs));
}

static enum frag_kind buffer_kind(const struct frag_tracker *t, uint32_t n)
{
	return n < t->nr_niovs ? FRAG_NET_IOV : FRAG_HOST_PAGE;
}

int frag_tracker_record(const struct frag_tracker *t, uint32_t n, struct frag_record *out)
{
	const struct frag_entry *e;

	if (n >= t->nr_niovs + t->nr_pages)
		return -ENOENT;
	e = &t->entries[n];
	out->kind = buffer_kind(t, n);
	out->area = STACK_NONE; /* the caller's to say */
	out->state = e->state;
	out->owner = e->owner;
	out->refs = (uint32_t)*netmem_get_pp_ref_count_ref(buffer(t, n));
	if (out->kind == FRAG_NET_IOV) {
		out->index = n;
		out->offset = net_iov_virtual_addr(device_provider_niov(t->device, n));
	} else {
		out->index = n - t->nr_niovs;
		out->offset = (uint64_t)out->index << NETMEM_PAGE_SHIFT;
	}
	return 0;
}

/* ---- the check ---- */

/* Which buffer, going by the address alone: what lies in a broken pool may be anything. */
static bool buffer_number(const struct frag_tracker *t, netmem_ref netmem, uint32_t *n)
{
	bool is_net_iov = netmem_is_net_iov(netmem);
	size_t size = is_net_iov ? sizeof(struct net_iov) : sizeof(struct page);
	uint32_t nr = is_net_iov ? t->nr_niovs : t->nr_pages;
	const void *first;
	uintptr_t offset;

	if (!nr)
		return false;
	first = is_net_iov ? (const void *)t->device->area.niovs : (const void *)t->host->pages;
	offset = (uintptr_t)netmem_to_nmdesc(netmem) - (uintptr_t)first;
	if (offset % size || offset / size >= nr)
		return false;
	*n = offset / size + (is_net_iov ? 0 : t->nr_niovs);
	return true;
}

/* Count for each buffer how often it lies in a pool of `mp`, or in `mp` itself. */
static bool mark_resting(const struct frag_tracker *t, const struct memory_provider *mp,
			 uint32_t first)
{
	int64_t inflight = 0;
	uint32_t n;

	for (const struct page_pool *pool = mp->pools; pool; pool = pool->mp_next) {
		for (uint32_t i = 0; i < page_pool_resting(pool); i++) {
			if (!buffer_number(t, page_pool_resting_netmem(pool, i), &n) ||
			    n - first >= mp->nr_bufs)
				return false;
			t->entries[n].resting++;
		}
		inflight += page_pool_inflight(pool);
	}
	for (uint32_t i = 0; i < mp->nr_free; i++) {
		if (mp->free[i] >= mp->nr_bufs)
			return false;
		t->entries[first + mp->free[i]].resting++;
	}
	return inflight == (int64_t)mp->nr_bufs - mp->nr_free;
}

/* Kind, and what follows from it. Asks as a caller would who has only the frag. */
static bool kind_holds(const struct frag_tracker *t, uint32_t n)
{
	const skb_frag_t frag = {.netmem = buffer(t, n), .len = NETMEM_PAGE_SIZE};

	if (buffer_kind(t, n) == FRAG_NET_IOV) {
		const struct net_iov *niov = skb_frag_net_iov(&frag);

		return niov && net_is_devmem_iov(niov) && net_iov_owner(niov) == &t->device->area &&
		       !skb_frag_page(&frag) && !skb_frag_address(&frag);
	}
	return !skb_frag_net_iov(&frag) && skb_frag_page(&frag)->mapping == t->host &&
	       virt_to_page(t->host, skb_frag_address(&frag)) == skb_frag_page(&frag);
}

static bool state_holds(const struct frag_entry *e, enum frag_kind kind)
{
	if (!frag_may_hold(kind, e->state) || !owner_fits(e->state, e->owner))
		return false;
	if (has_parts(e->state))
		return parts_of(e) && e->state == most_exposed(e);
	return parts_of(e) == 0;
}

/* In a provider the count is what the last user or, of a fresh one, nobody left. */
static bool is_at_rest(netmem_ref netmem)
{
	long refs = *netmem_get_pp_ref_count_ref(netmem);

	return refs == 1 || (refs == 0 && !netmem_is_pp(netmem));
}

static bool refs_hold(const struct frag_tracker *t, uint32_t n)
{
	const struct frag_entry *e = &t->entries[n];
	netmem_ref netmem = buffer(t, n);
	long refs = *netmem_get_pp_ref_count_ref(netmem);

	if (e->state == FRAG_FREE)
		return e->resting == 1 && is_at_rest(netmem);
	return e->resting == 0 && netmem_is_pp(netmem) && netmem_get_pp(netmem) && refs >= 1 &&
	       refs >= (long)parts_of(e);
}

int frag_tracker_check(const struct frag_tracker *t)
{
	uint32_t total = t->nr_niovs + t->nr_pages;
	uint32_t count[FRAG_KINDS][FRAG_STATES] = {0};
	bool sums_hold;

	for (uint32_t n = 0; n < total; n++)
		t->entries[n].resting = 0;
	sums_hold = !t->device || mark_resting(t, &t->device->mp, 0);
	sums_hold &= !t->host || mark_resting(t, &t->host->mp, t->nr_niovs);
	for (uint32_t n = 0; n < total; n++) {
		enum frag_kind kind = buffer_kind(t, n);

		if (!kind_holds(t, n) || !state_holds(&t->entries[n], kind) || !refs_hold(t, n))
			return -(int)(1 + n);
		count[kind][t->entries[n].state]++;
	}
	if (!sums_hold || memcmp(count, t->count, sizeof(count)))
		return -(int)(1 + total);
	return 0;
}
