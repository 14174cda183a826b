/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_requests.c - what the application asks of the stack: tokens back, replies, ends.
 *
 * The request ring holds more than an application that keeps to the rules can ask at
 * once (channel.h). If it is full all the same, the stack is behind or does not run:
 * it gets a second, watched over by life_fd, and then the channel is given up.
 *
 * Reply bytes lie in blocks; a block belongs to one connection until the peer has
 * acknowledged all of it. The stack has copied it long before, but so the blocks alone
 * say what a connection may still send; peers that do not read hold theirs.
 *
 *      block_first            block_last
 *      |acked|....used|  ...  |....used|      room|
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "app.h"

#define FULL_WAITS 1000 /* of 1 ms */
#define TOKENS_A_REQUEST 1024u /* what the stack takes, as SO_DEVMEM_DONTNEED does */

/* ---- the ring ---- */

static bool ring_full(const struct app *a)
{
	uint32_t tail = atomic_load_explicit(&a->channel->request_tail, memory_order_acquire);

	/* A tail that makes no sense counts as full, too. */
	return a->request_head - tail >= a->layout.nr_requests;
}

static int wait_for_stack(struct app *a)
{
	struct pollfd life = {.fd = a->life_fd, .events = POLLIN};

	a->stats.requests_waited++;
	for (int i = 0; i < FULL_WAITS && ring_full(a); i++) {
		eventfd_write(a->wake_fd, 1);
		if (poll(&life, 1, 1) > 0)
			a->dead = EPIPE;
		if (a->dead)
			return -a->dead;
	}
	if (ring_full(a))
		a->dead = EPROTO; /* it lives, and does not do its part */
	return -a->dead;
}

int app_request(struct app *a, const struct channel_request *request)
{
	struct channel_request *ring;
	int err = ring_full(a) ? wait_for_stack(a) : 0;

	if (err)
		return err;
	ring = (void *)((uint8_t *)a->channel + a->layout.requests);
	ring[a->request_head & (a->layout.nr_requests - 1)] = *request;
	a->request_head++;
	atomic_store_explicit(&a->channel->request_head, a->request_head, memory_order_release);
	return 0;
}

void app_kick(struct app *a)
{
	struct channel_header *h = a->channel;

	if (a->request_head == atomic_load_explicit(&h->request_tail, memory_order_relaxed))
		return;
	/* The requests are in the ring; only then look whether the stack sleeps. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&h->stack_waits, memory_order_relaxed) &&
	    atomic_exchange_explicit(&h->stack_waits, 0, memory_order_relaxed)) {
		eventfd_write(a->wake_fd, 1);
		a->stats.wakeups_sent++;
	}
}

/* ---- tokens ---- */

static uint32_t run_length(const struct app_frag *frags, uint32_t n)
{
	uint32_t run = 1;

	while (run < n && run < TOKENS_A_REQUEST && frags[run].token == frags[0].token + run)
		run++;
	return run;
}

int app_dontneed(struct app *a, uint32_t flow, const struct app_frag *frags, uint32_t n)
{
	struct channel_request request = {.kind = REQUEST_DONTNEED, .flow = flow};
	const struct app_conn *c;
	int err = 0;

	pthread_mutex_lock(&a->lock);
	c = app_conn(a, flow);
	if (!c || c->finished)
		err = -EBADF;
	for (uint32_t i = 0; i < n && !err; i += request.b) {
		request.a = frags[i].token;
		request.b = run_length(frags + i, n - i);
		err = app_request(a, &request);
	}
	app_kick(a);
	pthread_mutex_unlock(&a->lock);
	return err ? err : (int)n;
}

/* ---- replies ---- */

static bool block_open(const struct app *a, const struct app_conn *c)
{
	return c->block_last != APP_NIL && a->blocks[c->block_last].used < APP_BLOCK;
}

bool app_room(const struct app *a, const struct app_conn *c)
{
	if (c->error || c->shut)
		return true; /* the call that follows says so */
	return c->unacked < CHANNEL_REPLY_MAX && (block_open(a, c) || a->block_free != APP_NIL);
}

static bool block_append(struct app *a, struct app_conn *c)
{
	uint32_t b = a->block_free;

	if (b == APP_NIL)
		return false;
	a->block_free = a->blocks[b].next;
	a->blocks[b] = (struct app_block){.next = APP_NIL};
	if (c->block_last == APP_NIL)
		c->block_first = b;
	else
		a->blocks[c->block_last].next = b;
	c->block_last = b;
	return true;
}

static void block_pop(struct app *a, struct app_conn *c)
{
	uint32_t b = c->block_first;

	c->block_first = a->blocks[b].next;
	if (c->block_first == APP_NIL)
		c->block_last = APP_NIL;
	a->blocks[b].next = a->block_free;
	a->block_free = b;
}

void app_free_blocks(struct app *a, struct app_conn *c)
{
	while (c->block_first != APP_NIL)
		block_pop(a, c);
	c->unacked = 0;
}

void app_acked(struct app *a, struct app_conn *c, uint32_t bytes)
{
	c->unacked -= bytes;
	while (c->block_first != APP_NIL) {
		struct app_block *b = &a->blocks[c->block_first];
		uint32_t here = b->used - b->acked < bytes ? b->used - b->acked : bytes;

		b->acked += here;
		bytes -= here;
		if (b->acked < b->used)
			return;
		block_pop(a, c);
	}
}

static uint32_t smallest(uint32_t x, uint32_t y, uint32_t z)
{
	x = x < y ? x : y;
	return x < z ? x : z;
}

/* As much as fits the connection's last block. Returns bytes, 0 when there is no room now. */
static int send_piece(struct app *a, struct app_conn *c, const uint8_t *data, uint32_t len)
{
	struct channel_request request = {.kind = REQUEST_SEND, .flow = c->flow};
	struct app_block *b;
	int err;

	if (c->unacked >= CHANNEL_REPLY_MAX || (!block_open(a, c) && !block_append(a, c)))
		return 0;
	b = &a->blocks[c->block_last];
	len = smallest(len, APP_BLOCK - b->used, CHANNEL_REPLY_MAX - c->unacked);
	request.a = c->block_last * APP_BLOCK + b->used;
	request.b = len;
	memcpy((uint8_t *)a->channel + a->layout.replies + request.a, data, len);
	err = app_request(a, &request);
	if (err)
		return err;
	b->used += len;
	c->unacked += len;
	return len;
}

static int may_send(const struct app_conn *c)
{
	if (!c || c->finished)
		return -EBADF;
	if (c->error)
		return -c->error;
	return c->shut ? -ESHUTDOWN : 0;
}

int app_send(struct app *a, uint32_t flow, const uint8_t *data, uint32_t len)
{
	struct app_conn *c;
	uint32_t done = 0;
	int n;

	pthread_mutex_lock(&a->lock);
	app_drain(a);
	c = app_conn(a, flow);
	n = may_send(c);
	while (!n && done < len) {
		n = send_piece(a, c, data + done, len - done);
		if (n <= 0)
			break;
		done += n;
		n = 0;
	}
	app_kick(a);
	pthread_mutex_unlock(&a->lock);
	if (done)
		return done;
	return n < 0 ? n : len ? -EAGAIN : 0;
}

/* ---- ends ---- */

int app_shutdown(struct app *a, uint32_t flow)
{
	struct channel_request request = {.kind = REQUEST_SHUTDOWN, .flow = flow};
	struct app_conn *c;
	int err;

	pthread_mutex_lock(&a->lock);
	c = app_conn(a, flow);
	err = may_send(c);
	if (!err)
		err = app_request(a, &request);
	if (!err)
		c->shut = true;
	else if (err == -ESHUTDOWN)
		err = 0; /* done before */
	app_kick(a);
	pthread_mutex_unlock(&a->lock);
	return err;
}

int app_finish(struct app *a, uint32_t flow, int abort)
{
	struct channel_request request = {.kind = REQUEST_CLOSE, .flow = flow};
	struct app_conn *c;
	int err;

	pthread_mutex_lock(&a->lock);
	app_drain(a);
	c = app_conn(a, flow);
	/* The stack counts as delivered what nobody has taken from here: RFC 1122 4.2.2.13. */
	if (abort || (c && c->first != APP_NIL))
		request.kind = REQUEST_ABORT;
	err = !c || c->finished ? -EBADF : app_request(a, &request);
	if (!err) {
		c->finished = true;
		app_free_frags(a, c);
		app_update_ready(a, c);
		app_nudge(a);
	}
	app_kick(a);
	pthread_mutex_unlock(&a->lock);
	return err;
}
