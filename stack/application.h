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
	uint32_t reply_pages; /* host pages full of what its peers have not acknowledged */
	struct block_table blocks;
	struct list_node deliver_list; /* flows with more to tell than there is room for */
};

/* Places left in the events ring. */
uint32_t application_room(const struct application *app);
/* False: the ring is full. */
bool application_tell(struct application *app, const struct channel_event *event);
/* Make pushed events visible. */
void application_publish(struct application *app);

#endif
