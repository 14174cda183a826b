/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app.h - the application's half of the channel: what it keeps in memory of its own.
 */
#ifndef DEVMEMTCP_APP_H
#define DEVMEMTCP_APP_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel.h"
#include "stack.h"
#include "api.h"

#define APP_NIL UINT32_MAX
#define APP_LISTENERS 256 /* as many as the XDP program's map holds */
#define APP_BLOCK 1024u /* reply bytes are handed out in blocks of this size */
#define APP_BLOCKS (CHANNEL_REPLY_BYTES / APP_BLOCK)

/* A fragment that nobody has taken yet. */
struct app_node {
	struct app_frag frag;
	uint32_t next;
};

/* Reply bytes on their way: [0, used) has been asked to be sent, [0, acked) has arrived. */
struct app_block {
	uint32_t used, acked;
	uint32_t next;
};

struct app_conn {
	uint32_t flow; /* 0: the slot is free */
	int listener;
	bool accepted; /* by app_accept(); before, it waits in its listener's queue */
	bool finished; /* by app_finish(); only EVENT_CLOSED is waited for */
	bool eof;
	bool shut; /* our sending side */
	int error; /* errno of a reset, or 0 */
	uint32_t first, last; /* nodes, in stream order */
	uint32_t block_first, block_last; /* replies, in stream order */
	uint32_t unacked; /* reply bytes */
	bool ready; /* in the ready list */
	uint32_t ready_prev, ready_next; /* slots */
	uint32_t accept_next; /* slot */
	struct stack_addr local, peer;
};

struct app_listener {
	uint32_t first, last; /* slots that wait for app_accept() */
	bool closed;
};

struct app {
	pthread_mutex_t lock; /* guards everything below */
	struct channel_header *channel;
	struct channel_layout layout; /* checked once, at app_open() */
	uint64_t region_size;
	int event_fd, wake_fd, life_fd;
	int dead; /* errno: the stack has ended, or cannot be understood */

	uint32_t event_tail;
	uint32_t request_head;

	bool stuck; /* the next event is a fragment, and there is no node for it */

	struct app_conn *conns; /* by slot */
	struct app_node *nodes;
	uint32_t node_free;
	struct app_block blocks[APP_BLOCKS];
	uint32_t block_free;
	struct app_listener listeners[APP_LISTENERS];
	uint32_t ready_first, ready_last; /* connections with something to read */

	/* One waiting thread polls event_fd for all, the others wait for peers_fd. */
	bool polled;
	uint32_t followers;
	int peers_fd;

	struct app_stats stats;
};

static inline struct app_conn *app_conn(struct app *a, uint32_t flow)
{
	uint32_t slot = CHANNEL_FLOW_SLOT(flow);

	if (!flow || slot >= a->layout.nr_conns || a->conns[slot].flow != flow)
		return NULL;
	return &a->conns[slot];
}

/* app.c; all with the lock held */
void app_drain(struct app *a); /* read all events */
void app_update_ready(struct app *a, struct app_conn *c);
void app_free_frags(struct app *a, struct app_conn *c);

/* app_wait.c */
int app_peers_open(struct app *a);
void app_nudge(struct app *a); /* something was closed: whoever waits for it must look */

/* app_requests.c; all with the lock held */
int app_request(struct app *a, const struct channel_request *request);
void app_kick(struct app *a); /* after the last of some requests */
bool app_room(const struct app *a, const struct app_conn *c);
void app_acked(struct app *a, struct app_conn *c, uint32_t bytes);
void app_free_blocks(struct app *a, struct app_conn *c);

#endif
