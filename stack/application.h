/* SPDX-License-Identifier: Apache-2.0 */
/*
 * application.h - the stack's end of one application's channel (channel.h), and what the
 * application has in its hands. Listeners and flows point to theirs.
 *
 * An index that the application writes may be anything. Here it never leads outside the
 * channel, and it spoils nobody's channel but the application's own.
 */
#ifndef DEVMEMTCP_APPLICATION_H
#define DEVMEMTCP_APPLICATION_H

#include "block.h"
#include "channel.h"
#include "list.h"
#include "stack.h"

struct application {
	uint32_t number;
	struct channel_layout layout; /* private copy */
	struct channel_header *header;
	struct channel_event *events;
	struct channel_request *requests;
	struct channel_conn *conns;
	const uint8_t *replies;
	uint8_t *data; /* block b at data + (b - 1) * CHANNEL_BLOCK */
	uint32_t event_head; /* ahead of the shared one until published */
	uint32_t request_tail; /* the shared one is the application's to read, not ours */
	uint32_t pushed; /* events since stack_events_pushed() */
	/* what it takes of what all share: with several applications there is a bound to each */
	uint32_t nr_conns; /* accepted and not closed */
	uint32_t nr_embryos;
	uint32_t max_conns; /* 0: no bound but what there is */
	uint32_t reply_pages; /* host pages full of what its peers have not acknowledged */
	uint32_t held[STACK_MAX_AREAS]; /* parts of buffers with its flows' bytes, by area */
	uint32_t promised[STACK_MAX_QUEUES]; /* buffers its flows' windows may ask for, by queue */
	struct block_table blocks;
	struct list_node deliver_list; /* flows with more to tell than there is room for */
};

/* Places left in the events ring. More than its size counts as full: then the application's
 * index is a lie. */
static inline uint32_t application_room(const struct application *app)
{
	const uint32_t tail = atomic_load_explicit(&app->header->event_tail, memory_order_acquire);
	const uint32_t used = app->event_head - tail;

	return used <= app->layout.nr_events ? app->layout.nr_events - used : 0;
}

/* What it says, which may be anything: it is its own backlog. */
static inline bool application_has_accepted(const struct application *app, uint32_t slot,
					    uint32_t flow)
{
	return *(const volatile uint32_t *)&app->conns[slot].accepted == flow;
}

/* False: the ring is full. The application sees it after stack_events_pushed(). */
static inline bool application_tell(struct application *app, const struct channel_event *event)
{
	if (!application_room(app))
		return false;
	app->events[app->event_head++ & (app->layout.nr_events - 1)] = *event;
	app->pushed++;
	return true;
}

#endif
