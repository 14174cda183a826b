/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.h - the loop and its mailbox.
 */
#ifndef DEVMEMTCP_LOOP_H
#define DEVMEMTCP_LOOP_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel.h"
#include "stack.h"
#include "api.h"

#define LOOP_BATCH 128

/* One call by another thread, carried out between two turns of the loop. */
struct loop_mail {
	pthread_mutex_t one; /* held by the caller from start to end: one call at a time */
	pthread_mutex_t lock; /* guards the rest */
	pthread_cond_t done;
	int (*call)(struct loop *l, void *arg); /* NULL: the box is empty */
	void *arg;
	int result;
	bool running; /* the loop collects; otherwise callers act for themselves */
	_Atomic bool pending; /* `call`, to be looked at without the lock */
	int fd; /* eventfd that interrupts poll() */
};

/* A received packet may straddle two batches. */
struct loop_rx {
	struct rx_packet packet;
	bool discard; /* what was collected, and the rest of this packet, is of no use */
};

struct loop {
	struct stack *stack;
	size_t stack_size;
	uint32_t nr_queues;
	uint32_t nr_niovs;
	struct loop_queue queue[STACK_MAX_QUEUES];
	struct loop_rx rx[STACK_MAX_QUEUES];
	const uint8_t *header_base;
	uint64_t tx_base; /* UMEM address of host page 0 */

	struct channel_header *channel;
	size_t channel_size;
	int wake_fd, event_fd, life_fd;
	int link_fd; /* rtnetlink: links of this network namespace come and go */

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
	struct pollfd poll[STACK_MAX_QUEUES + 3];
};

uint64_t loop_now(void); /* ns, monotonic */
void loop_count_cpu(struct loop *l);

/* rings.c */
uint32_t rings_receive(struct loop *l, uint32_t q, uint64_t now); /* descriptors taken */
void rings_refill(struct loop *l, uint32_t q);
uint32_t rings_send(struct loop *l, uint32_t q); /* frames sent */
bool rings_sent(const struct loop *l, uint32_t q); /* the kernel has taken all of them */

/* mailbox.c */
int mailbox_open(struct loop_mail *m);
void mailbox_close(struct loop_mail *m);
void mailbox_collect(struct loop *l);
void mailbox_running(struct loop *l, bool running);

#endif
