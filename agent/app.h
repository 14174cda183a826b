/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app.h - the application's half of the channel: what it keeps in memory of its own.
 *
 *   app.c           opening and closing, listeners
 *   app_events.c    the stack's events, sorted by connection
 *   app_queue.c     received bytes of a connection: one queue of three kinds
 *   app_tokens.c    the tokens of a connection: numbers for the pieces that were handed out
 *   app_recvmsg.c   recvmsg(2); app_take.c: batches without a copy; app_sockopt.c: tokens back
 *   app_requests.c  what is asked of the stack; app_wait.c: sleeping; app_watch.c: descriptors
 *                   for poll(2)
 */
#ifndef DEVMEMTCP_APP_H
#define DEVMEMTCP_APP_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "channel.h"
#include "stack.h"
#include "api.h"

#define APP_NIL UINT32_MAX
#define APP_LISTENERS 256 /* as many as the XDP program's map holds */
#define APP_REGIONS 64 /* bindings whose memory is known at a time */

/*
 * A piece of the stream: bytes in device memory, or in a data block. The connection's queue
 * holds a reference to it, and each token; the last one gives it back to the stack.
 */
struct app_piece {
	uint64_t offset; /* in the region of `dmabuf_id`, or in the data blocks */
	uint32_t len; /* what is left in the queue of it */
	uint32_t stack_token; /* what the stack calls it: a token, or a block + 1 */
	uint32_t dmabuf_id;
	uint32_t refs;
	uint32_t next; /* in the queue, or in the free list */
	uint8_t kind, reason; /* enum rx_kind, enum rx_reason */
};

/* Numbers for pieces, the lowest free one first, from 1. */
#define APP_TOKEN_LEVELS 6
struct app_tokens {
	uint32_t *piece; /* by token; APP_NIL: free */
	uint64_t *bits; /* all levels in one allocation */
	uint64_t
		*level[APP_TOKEN_LEVELS]; /* [0]: a bit a token, set if free; above: a bit a word */
	uint32_t nr_levels;
	uint32_t size; /* tokens there is room for; a power of two, or 0 */
	uint32_t live;
};

/* One end of a pair of connected sockets, whose other end the application gives to poll(2). */
struct app_watch {
	int near, far; /* -1: nobody watches; near: the application's end */
	bool readable, full, hung_up; /* what `near` shows now */
};

struct app_conn {
	uint32_t flow; /* 0: the slot is free */
	int listener;
	bool accepted; /* by app_accept(); before, it waits in its listener's queue */
	bool finished; /* by app_finish(); only EVENT_CLOSED is waited for */
	bool eof;
	bool shut; /* our sending side */
	bool shut_read;
	bool strict; /* refuse what is not in device memory */
	bool error_told; /* recvmsg(2) tells of a reset once */
	int error; /* errno of a reset, or 0 */
	uint32_t first, last; /* pieces, in stream order */
	uint64_t arrived, read; /* stream positions: bytes queued ever, and taken ever */
	uint32_t rcvlowat;
	int64_t rcvtimeo_ms; /* -1: for ever */
	struct app_tokens tokens;
	struct app_conn_bytes bytes;
	uint32_t unacked; /* reply bytes asked to be sent that have not arrived */
	bool ready; /* in the ready list */
	uint32_t ready_prev, ready_next; /* slots */
	uint32_t accept_next; /* slot */
	struct app_watch watch;
	struct stack_addr local, peer;
};

struct app_listener {
	uint32_t id; /* of the stack's listener, which carries a generation */
	uint32_t first, last; /* slots that wait for app_accept() */
	bool open;
	struct app_watch watch;
};

/* Device memory of one binding. */
struct app_region {
	uint32_t dmabuf_id; /* 0: not in use */
	int fd; /* to be mapped at the first use; -1: cannot be */
	uint64_t size;
	const uint8_t *base; /* or NULL */
};

struct app {
	pthread_mutex_t lock; /* guards everything below */
	struct channel_header *channel;
	struct channel_layout layout; /* checked once, at app_open() */
	struct app_region regions[APP_REGIONS];
	int event_fd, wake_fd, life_fd;
	int dead; /* errno: the stack has ended, or cannot be understood */

	uint32_t event_tail;
	uint32_t request_head;
	uint32_t reply_head; /* bytes written into the ring of replies, ever */
	uint32_t *reply_mark; /* by place in the request ring: `reply_head` before it */
	uint32_t reply_pages; /* that unacknowledged replies may fill in the stack */

	bool kick_owed; /* the stack sleeps, and could not be told of the last requests */
	bool stuck; /* the next event is a piece, and there is no room for it */

	struct app_conn *conns; /* by slot */
	struct app_piece *pieces;
	uint32_t nr_pieces;
	uint32_t pieces_used; /* those behind have never been used */
	uint32_t piece_free;
	struct app_listener listeners[APP_LISTENERS]; /* by slot */
	uint32_t ready_first, ready_last; /* connections with something to read */

	/* One waiting thread polls event_fd and nudge_fd for all, the others wait for peers_fd. */
	bool polled;
	uint32_t followers;
	int peers_fd;
	int nudge_fd;

	/* The thread that keeps descriptors up to date while nobody else reads events. */
	bool pump_runs, pump_stops;
	pthread_t pump;
	pid_t pump_owner; /* a child made by fork() has no such thread */

	struct app_stats stats;
};

static inline struct app_conn *app_conn(struct app *a, uint32_t flow)
{
	uint32_t slot = CHANNEL_FLOW_SLOT(flow);

	if (!flow || slot >= a->layout.nr_conns || a->conns[slot].flow != flow)
		return NULL;
	return &a->conns[slot];
}

static inline bool app_inside(uint64_t offset, uint32_t len, uint64_t size)
{
	return len <= size && offset <= size - len;
}

static inline struct app_listener *app_listener_of(struct app *a, uint32_t id)
{
	uint32_t slot = CHANNEL_LISTENER_SLOT(id);

	if (slot >= APP_LISTENERS || !a->listeners[slot].open || a->listeners[slot].id != id)
		return NULL;
	return &a->listeners[slot];
}

/* Everything below is called with the lock held. */

/* app_events.c */
void app_drain(struct app *a); /* read all events */
void app_abort_unwanted(struct app *a, struct app_conn *c);

/* app_queue.c */
/* Pieces on their way back to the stack, run by run; app_return_end() sends the last. */
struct app_returns {
	struct channel_request run;
	int err; /* -EPIPE or -EPROTO: the stack takes nothing any more */
};
bool app_piece_append(struct app *a, struct app_conn *c, const struct app_piece *piece);
void app_piece_put(struct app *a, struct app_returns *back, uint32_t piece);
void app_queue_skip(struct app *a, struct app_conn *c, struct app_returns *back, uint32_t bytes);
void app_queue_pop(struct app *a, struct app_conn *c); /* its reference is the caller's */
void app_free_pieces(struct app *a, struct app_conn *c); /* the stack knows without being told */
void app_update_ready(struct app *a, struct app_conn *c);

/* app_tokens.c */
int app_token_new(struct app_tokens *t, uint32_t piece); /* >= 1, -ENOMEM, -EBUSY */
uint32_t app_token_erase(struct app_tokens *t, uint32_t token); /* its piece, or APP_NIL */
void app_tokens_free(struct app_tokens *t);

/* app_wait.c */
struct app_want {
	uint32_t flow;
	int64_t listener; /* id, or -1 */
	bool room; /* for a reply, rather than something to read */
	bool pump; /* for its own end alone */
	bool more; /* than has `arrived` */
	uint64_t arrived;
	int extra_fd; /* readable: the wait is over; -1: none */
};
int app_peers_open(struct app *a);
void app_nudge(struct app *a); /* something was closed: whoever waits for it must look */
#define APP_FOREVER INT64_MAX
int64_t app_deadline(int64_t timeout_ms); /* in ns of CLOCK_MONOTONIC; -1 ms: APP_FOREVER */
int app_wait_for(struct app *a, const struct app_want *want, int64_t deadline);

/* app_watch.c */
void app_watch_update(struct app *a, struct app_conn *c);
void app_watch_listener(struct app_listener *l);
void app_watch_end(struct app_watch *w);
void app_pump_stop(struct app *a); /* without the lock */

/* app_requests.c */
int app_request(struct app *a, const struct channel_request *request);
void app_kick(struct app *a); /* after the last of some requests */
bool app_room(const struct app *a, const struct app_conn *c);
void app_acked(struct app *a, struct app_conn *c, uint32_t bytes);
void app_return(struct app *a, struct app_returns *back, const struct app_piece *piece);
void app_return_end(struct app *a, struct app_returns *back);

/* app.c */
struct app_region *app_region_find(struct app *a, uint32_t dmabuf_id); /* 0: a free one */
const uint8_t *app_region_map(struct app_region *r); /* NULL: cannot be read */

static inline const uint8_t *app_data(const struct app *a)
{
	return (const uint8_t *)a->channel + a->layout.blocks;
}

#endif
