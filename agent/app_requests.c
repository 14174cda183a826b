/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_requests.c - what the application asks of the stack: tokens back, replies, ends.
 *
 * The request ring holds more than an application that keeps to the rules can ask at
 * once (channel.h). If it is full all the same, the stack is behind or does not run:
 * it gets a second, watched over by life_fd, and then the channel is given up.
 *
 * The reply bytes are a ring, too. They are free again when the stack has taken the request
 * that names them, because it copies them then: reply_mark says for each place of the request
 * ring how far the replies had come.
 *
 *      requests   |  taken   | SEND | DONTNEED | SEND |      |
 *                            ^ request_tail           ^ request_head
 *      replies    |  free    | bytes           | bytes |  free
 *                            ^ its mark                ^ reply_head
 *
 * What a connection may still send, the bytes that its peer has not acknowledged say. The
 * stack keeps those in pages of its own, of which it has not many: see REPLY_PAGES.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "app.h"

#define FULL_WAITS 1000 /* of 1 ms */
/* Host pages that unacknowledged replies of all connections may fill: half of what a runtime
 * gives its stack. With three quarters full, the stack resets who wants more. */
#define REPLY_PAGES 1024u
#define PAGE_BYTES 4096u
#define REPLY_PIECE (16u * 1024u) /* what one request names at most */

/* ---- the ring ---- */

static uint32_t requests_untaken(const struct app *a)
{
	uint32_t tail = atomic_load_explicit(&a->channel->request_tail, memory_order_acquire);

	return a->request_head - tail;
}

static bool requests_full(const struct app *a)
{
	/* A tail that makes no sense counts as full, too. */
	return requests_untaken(a) >= a->layout.nr_requests;
}

static bool replies_full(const struct app *a)
{
	const uint32_t untaken = requests_untaken(a);
	const uint32_t next = a->request_head - untaken;

	if (!untaken)
		return false;
	return untaken > a->layout.nr_requests ||
	       a->reply_head - a->reply_mark[next & (a->layout.nr_requests - 1)] >
		       CHANNEL_REPLY_BYTES - REPLY_PIECE;
}

/* Until `full` is no longer so. */
static int wait_for_stack(struct app *a, bool (*full)(const struct app *a))
{
	struct pollfd life = {.fd = a->life_fd, .events = POLLIN};

	a->stats.requests_waited++;
	for (int i = 0; i < FULL_WAITS && full(a); i++) {
		eventfd_write(a->wake_fd, 1);
		if (poll(&life, 1, 1) > 0)
			a->dead = EPIPE;
		if (a->dead)
			return -a->dead;
	}
	if (full(a))
		a->dead = EPROTO; /* it lives, and does not do its part */
	return -a->dead;
}

int app_request(struct app *a, const struct channel_request *request)
{
	struct channel_request *ring;
	uint32_t at;
	int err = requests_full(a) ? wait_for_stack(a, requests_full) : 0;

	if (err)
		return err;
	ring = (void *)((uint8_t *)a->channel + a->layout.requests);
	at = a->request_head & (a->layout.nr_requests - 1);
	ring[at] = *request;
	a->reply_mark[at] = a->reply_head;
	if (request->kind == REQUEST_SEND)
		a->reply_head += request->b;
	a->request_head++;
	atomic_store_explicit(&a->channel->request_head, a->request_head, memory_order_release);
	return 0;
}

void app_kick(struct app *a)
{
	struct channel_header *h = a->channel;

	if (a->request_head == atomic_load_explicit(&h->request_tail, memory_order_relaxed)) {
		a->kick_owed = false;
		return;
	}
	/* The requests are in the ring; only then look whether the stack sleeps. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&h->stack_waits, memory_order_relaxed) &&
	    atomic_exchange_explicit(&h->stack_waits, 0, memory_order_relaxed)) {
		/* Writing to a pipe may take a page, for which there may be no memory. */
		a->kick_owed = eventfd_write(a->wake_fd, 1) && errno == ENOMEM;
		a->stats.wakeups_sent += !a->kick_owed;
		if (a->kick_owed)
			atomic_store_explicit(&h->stack_waits, 1, memory_order_relaxed);
	}
}

/* ---- pieces ---- */

void app_return_end(struct app *a, struct app_returns *back)
{
	const int err = back->run.b ? app_request(a, &back->run) : 0;

	if (err)
		back->err = err;
	back->run.b = 0;
}

/* Neighbours go back in one request. */
void app_return(struct app *a, struct app_returns *back, const struct app_piece *piece)
{
	const uint32_t kind = piece->kind == RX_DEVICE ? REQUEST_DONTNEED : REQUEST_BLOCK;
	struct channel_request *run = &back->run;

	if (run->b && run->kind == kind && run->a + run->b == piece->stack_token &&
	    run->b < CHANNEL_COUNT_MAX) {
		run->b++;
		return;
	}
	app_return_end(a, back);
	run->kind = kind;
	run->a = piece->stack_token;
	run->b = 1;
}

/* ---- replies ---- */

static uint32_t pages(uint32_t unacked)
{
	return unacked ? unacked / PAGE_BYTES + 2 : 0; /* the ends are in pages not full */
}

static void set_unacked(struct app *a, struct app_conn *c, uint32_t unacked)
{
	const bool short_of_pages = a->reply_pages >= REPLY_PAGES;

	a->reply_pages += pages(unacked) - pages(c->unacked);
	c->unacked = unacked;
	app_watch_update(a, c);
	if (!short_of_pages || a->reply_pages >= REPLY_PAGES)
		return;
	for (uint32_t i = 0; i < a->layout.nr_conns; i++) /* who waited for pages can go on */
		app_watch_update(a, &a->conns[i]);
}

bool app_room(const struct app *a, const struct app_conn *c)
{
	if (c->error || c->shut)
		return true; /* the call that follows says so */
	return c->unacked < CHANNEL_REPLY_MAX && a->reply_pages < REPLY_PAGES;
}

void app_acked(struct app *a, struct app_conn *c, uint32_t bytes)
{
	set_unacked(a, c, c->unacked - bytes);
}

static uint32_t smallest(uint32_t x, uint32_t y, uint32_t z)
{
	x = x < y ? x : y;
	return x < z ? x : z;
}

static void write_reply(struct app *a, uint32_t at, const uint8_t *data, uint32_t len)
{
	uint8_t *ring = (uint8_t *)a->channel + a->layout.replies;
	const uint32_t room = CHANNEL_REPLY_BYTES - at, first = len < room ? len : room;

	memcpy(ring + at, data, first);
	memcpy(ring, data + first, len - first);
}

/* As much as fits one request. Returns bytes, 0 when there is no room now. */
static int send_piece(struct app *a, struct app_conn *c, const uint8_t *data, uint32_t len)
{
	struct channel_request request = {.kind = REQUEST_SEND, .flow = c->flow};
	int err;

	if (!app_room(a, c))
		return 0;
	err = replies_full(a) ? wait_for_stack(a, replies_full) : 0;
	if (err)
		return err;
	len = smallest(len, REPLY_PIECE, CHANNEL_REPLY_MAX - c->unacked);
	request.a = a->reply_head % CHANNEL_REPLY_BYTES;
	request.b = len;
	write_reply(a, request.a, data, len);
	err = app_request(a, &request);
	if (err)
		return err;
	set_unacked(a, c, c->unacked + len);
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

/* A stack that was killed leaves a ring that takes what nobody will send. */
static int stack_lives(struct app *a)
{
	struct pollfd life = {.fd = a->life_fd, .events = POLLIN};

	if (!a->dead && poll(&life, 1, 0) > 0)
		a->dead = EPIPE;
	return -a->dead;
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
	if (!n)
		n = stack_lives(a);
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
	if (!err) {
		c->shut = true;
		app_watch_update(a, c);
	} else if (err == -ESHUTDOWN) {
		err = 0; /* done before */
	}
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
	/* The stack counts as delivered what nobody has read from here: RFC 1122 4.2.2.13. */
	if (abort || (c && c->first != APP_NIL))
		request.kind = REQUEST_ABORT;
	err = !c || c->finished ? -EBADF : app_request(a, &request);
	if (!err) {
		c->finished = true;
		app_free_pieces(a, c);
		app_update_ready(a, c);
		app_nudge(a);
	}
	if (c)
		app_watch_end(&c->watch);
	app_kick(a);
	pthread_mutex_unlock(&a->lock);
	return err;
}
