/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow.c - the flow table: open hashing by a keyed hash of the four-tuple, slots
 * from a free list, ids that a stale holder cannot mistake for a newer flow.
 */
#include <string.h>

#include "flow.h"
#include "siphash.h"

void flow_table_init(struct flow_table *t)
{
	t->free = FLOW_NONE;
	t->used = 1;
	t->last = NULL;
}

static uint32_t *bucket_of(struct flow_table *t, const struct tuple *tuple)
{
	return &t->buckets[siphash(tuple, sizeof(*tuple), t->key) & t->mask];
}

struct flow *flow_find(struct flow_table *t, const struct tuple *tuple)
{
	if (t->last && !memcmp(&t->last->tuple, tuple, sizeof(*tuple)))
		return t->last;
	for (uint32_t slot = *bucket_of(t, tuple); slot != FLOW_NONE;
	     slot = t->flows[slot].hash_next) {
		if (!memcmp(&t->flows[slot].tuple, tuple, sizeof(*tuple)))
			return t->last = &t->flows[slot];
	}
	return NULL;
}

struct flow *flow_by_id(struct flow_table *t, uint32_t id)
{
	const uint32_t slot = CHANNEL_FLOW_SLOT(id);

	if (!id || slot >= t->nr || t->flows[slot].id != id)
		return NULL;
	return &t->flows[slot];
}

static uint32_t take_slot(struct flow_table *t)
{
	const uint32_t slot = t->free;

	if (slot != FLOW_NONE) {
		t->free = t->flows[slot].hash_next;
		return slot;
	}
	return t->used < t->nr ? t->used++ : FLOW_NONE;
}

struct flow *flow_new(struct flow_table *t, const struct tuple *tuple)
{
	const uint32_t generations = 1u << (32 - CHANNEL_FLOW_SLOT_BITS);
	const uint32_t slot = take_slot(t);
	struct flow *f;
	uint32_t *bucket;

	if (slot == FLOW_NONE)
		return NULL;
	f = &t->flows[slot];
	t->live++;
	memset(f, 0, sizeof(*f));
	t->generation = (t->generation + 1) & (generations - 1);
	f->id = t->generation << CHANNEL_FLOW_SLOT_BITS | slot;
	f->tuple = *tuple;
	list_init(&f->ack_node);
	list_init(&f->starved_node);
	list_init(&f->deliver_node);
	list_init(&f->age_node);

	bucket = bucket_of(t, tuple);
	f->hash_next = *bucket;
	*bucket = slot;
	f->hashed = true;
	return f;
}

void flow_unhash(struct flow_table *t, struct flow *f)
{
	const uint32_t slot = flow_slot(t, f);
	uint32_t *link;

	if (!f->hashed)
		return;
	for (link = bucket_of(t, &f->tuple); *link != slot; link = &t->flows[*link].hash_next)
		;
	*link = f->hash_next;
	f->hashed = false;
	if (t->last == f)
		t->last = NULL;
}

void flow_free(struct flow_table *t, struct flow *f)
{
	flow_unhash(t, f);
	list_del(&f->ack_node);
	list_del(&f->starved_node);
	list_del(&f->deliver_node);
	list_del(&f->age_node);
	f->id = 0;
	f->hash_next = t->free;
	t->free = flow_slot(t, f);
	t->live--;
}

static bool addr_is_any(const struct stack_addr *a)
{
	static const uint8_t any4[16] = {[10] = 0xff, [11] = 0xff};
	static const uint8_t any6[16];

	return !memcmp(a->ip, a->family == 4 ? any4 : any6, 16);
}

int listener_find(const struct listener *l, uint32_t nr, const struct tuple *tuple)
{
	int wildcard = -1;

	for (uint32_t i = 0; i < nr; i++) {
		if (!l[i].open || l[i].local.port != tuple->local_port ||
		    l[i].local.family != tuple->family)
			continue;
		if (!memcmp(l[i].local.ip, tuple->local_ip, 16))
			return (int)i;
		if (addr_is_any(&l[i].local))
			wildcard = (int)i;
	}
	return wildcard;
}
