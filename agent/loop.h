/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - the loop: its queues, areas and applications, its mailbox, and its fellows.
 */
#ifndef DEVMEMTCP_LOOP_H
#define DEVMEMTCP_LOOP_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "channel.h"
#include "stack.h"
#include "api.h"
#include "steer.h"

#define LOOP_BATCH 128 /* packets a turn of a queue; also buffers, frames, completions a step */

/* One call by another thread, carried out between two turns of the loop. */
struct loop_mail {
	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t turn; /* `serving` has gone on */
	pthread_cond_t done;
	uint32_t next_ticket, serving; /* one call at a time, in the order in which callers came */
	int (*call)(struct loop *l, void *arg); /* NULL: the box is empty */
	void *arg;
	int result;
	bool running; /* the loop collects; otherwise callers act for themselves */
	_Atomic bool pending; /* `call`, to be looked at without the lock */
	int fd; /* eventfd that interrupts poll() */
};

/* An RX queue, the TX queue of its socket, and where their buffers lie: all that a batch
 * needs. What changes with each packet comes last. */
struct queue_pair {
	struct loop_queue rings;
	uint8_t *header_base;
	uint64_t tx_base; /* UMEM address of transmission page 0 */
	uint32_t nr_niovs;
	enum mosaic_layout layout; /* MOSAIC_CHUNKS: and the socket is zero-copy */
	bool attached;
	bool discard; /* what was collected, and the rest of this packet, is of no use */
	struct rx_packet packet; /* may straddle two batches */
};

/* What the queues of one area have in common. */
struct loop_area {
	void *mem; /* the stack's; NULL: no such area */
	size_t size;
	uint8_t *header_base;
	uint64_t tx_base;
	uint32_t nr_niovs;
	bool is_device;
};

struct loop_app {
	void *mem; /* the stack's; NULL: no such application */
	size_t size;
	struct channel_header *channel;
	size_t channel_size;
	int wake_fd, event_fd, life_fd;
	bool wake_owed;
};

struct loop {
	struct loop *next; /* of the process, see loops.c */
	struct stack *stack;
	size_t stack_size;
	struct stack_config config;

	/* by number; those in use, densely, below */
	struct queue_pair qp[STACK_MAX_QUEUES];
	struct loop_app app[STACK_MAX_APPS];
	struct loop_area area[STACK_MAX_AREAS];
	uint32_t nr_queues; /* how many there can be */

	struct queue_pair *attached[STACK_MAX_QUEUES];
	struct loop_app *open[STACK_MAX_APPS];
	uint32_t nr_attached, nr_open;

	int link_fd; /* rtnetlink: links of this network namespace come and go */
	/* how headers come, see heads.c */
	enum header_path header_path;
	const struct rx_slot *heads; /* the XDP program writes them; NULL: there are none */
	uint32_t nr_heads;

	int notice_fd; /* eventfd: an area has drained */
	uint32_t drained; /* of stack_areas_drained(), as noticed last */

	int cpu;
	bool busy_poll;
	uint64_t spin_max; /* ns; 0: sleep at once */
	uint64_t spin; /* what the last spins have proved worth, at most spin_max */
	uint64_t idle_since; /* ns; 0: the last turn had work */

	bool down; /* the interface is down; the link socket says when it is up again */
	bool stopping;
	uint64_t stop_at; /* ns: connections have until then to finish */
	int error; /* -errno of the kernel's that ends the loop */

	struct loop_mail mail;
	struct loop_stats stats;
	int events; /* epoll: whatever is seldom ready, so that poll() need not look at it */
	struct pollfd poll[STACK_MAX_QUEUES + 1]; /* attached queues, then `events` */
};

uint64_t loop_now(void); /* ns, monotonic */
void loop_count_cpu(struct loop *l);

/* watch.c */
int watch_open(struct loop *l);
int watch_app(struct loop *l, const struct loop_app *a);
void unwatch_app(struct loop *l, const struct loop_app *a);
void watch_queues(struct loop *l); /* after `attached` has changed */
void watch_wait(struct loop *l, const struct timespec *timeout);
void watch_close(struct loop *l);

/* rings.c */
uint32_t rings_receive(struct loop *l, struct queue_pair *qp, uint64_t now); /* descriptors taken */
void rings_receive_last(struct loop *l, struct queue_pair *qp, uint64_t now);
void rings_refill(struct loop *l, struct queue_pair *qp);
uint32_t rings_send(struct loop *l, struct queue_pair *qp); /* frames sent */
bool rings_sent(const struct queue_pair *qp); /* the kernel has taken all of them */

/* heads.c */
bool heads_ok(const struct loop_config *config);
/* Whether a queue whose area has so many buffers has a slot for each of them. */
bool heads_cover(const struct loop *l, const struct loop_queue *queue, uint32_t nr_niovs);
/* The record and headers of a packet whose first buffer is `niov` are soon looked at. */
void heads_prefetch(const struct loop *l, const struct queue_pair *qp, uint32_t niov);
/* Record and headers of qp->packet are where stack_rx() looks for them; false: they are lost. */
bool heads_take(const struct loop *l, const struct queue_pair *qp);

/* members.c */
void members_end(struct loop *l); /* tell the applications that the loop has ended */
void members_close(struct loop *l);

/* mailbox.c */
int mailbox_open(struct loop_mail *m);
void mailbox_close(struct loop_mail *m);
bool mailbox_collect(struct loop *l); /* true: there was a call */
void mailbox_running(struct loop *l, bool running);
/* Have `call` run by the loop's thread between two turns, and return what it returns. */
int loop_call(struct loop *l, int (*call)(struct loop *l, void *arg), void *arg);

/* loops.c */
void loops_enter(void);
void loops_leave(void);
void loops_join(struct loop *l);
void loops_quit(struct loop *l); /* with all device areas that it has */
int loops_hold_key(void); /* 0, or why code cannot be written: no device area may open */
void loops_drop_key(void);

#endif
