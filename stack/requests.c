/* SPDX-License-Identifier: Apache-2.0 */
/*
 * requests.c - what the applications wrote into their rings. All of it is hostile: entries
 * are copied out before they are looked at, ids, tokens and blocks are looked up, lengths are
 * checked, and what makes no sense is counted and skipped. An application reaches its own flows,
 * and through them its own tokens and blocks, and nothing else.
 *
 * Each has a budget a turn. What exceeds it stays in its ring, and the others have their turn.
 */
#include <errno.h>
#include <string.h>

#include "core.h"

/* One unit is about a request, or a token looked up: a batch's worth of both is well below. */
#define REQUEST_BUDGET 4096
#define SEND_UNIT 64 /* bytes copied */

static uint32_t names(uint32_t count)
{
	return count < CHANNEL_COUNT_MAX ? count : CHANNEL_COUNT_MAX;
}

static uint32_t cost_of(const struct channel_request *r)
{
	switch (r->kind) {
	case REQUEST_DONTNEED:
	case REQUEST_BLOCK:
		return 1 + names(r->b);
	case REQUEST_SEND:
		return 1 + (r->b < CHANNEL_REPLY_MAX ? r->b : CHANNEL_REPLY_MAX) / SEND_UNIT;
	}
	return 1;
}

static bool request_dontneed(struct stack *s, struct flow *f, uint32_t first, uint32_t count)
{
	bool all = count <= CHANNEL_COUNT_MAX;

	for (uint32_t i = 0; i < names(count); i++)
		all &= token_return(s, f, first + i);
	return all;
}

static bool request_block(struct flow *f, uint32_t first, uint32_t count)
{
	bool all = count <= CHANNEL_COUNT_MAX;

	for (uint32_t i = 0; i < names(count); i++)
		all &= block_return(f, first + i);
	return all;
}

static bool request_send(struct stack *s, struct flow *f, uint32_t at, uint32_t len, uint64_t now)
{
	uint32_t room;
	int rc;

	if (f->app_shut || at >= CHANNEL_REPLY_BYTES || len > CHANNEL_REPLY_MAX || !len)
		return false;
	room = CHANNEL_REPLY_BYTES - at; /* the area is a ring: a reply may wrap */
	rc = tcp_reply_add(s, f, f->app->replies + at, len < room ? len : room);
	if (!rc && len > room)
		rc = tcp_reply_add(s, f, f->app->replies, len - room);
	if (rc) { /* bytes that cannot be kept cannot be sent: the stream would have a hole */
		tcp_send_rst(s, f);
		tcp_reset(s, f, -rc);
		return true;
	}
	tcp_push(s, f, now);
	return true;
}

static bool request_shutdown(struct stack *s, struct flow *f, uint64_t now)
{
	if (f->app_shut)
		return f->close_first; /* done already, and not the application's mistake */
	f->app_shut = true;
	tcp_set_state(s, f, TCP_EV_CLOSE);
	tcp_push(s, f, now);
	return true;
}

/* Everything the application had of this flow is given back; protocol goes on alone. */
static void detach(struct stack *s, struct flow *f)
{
	const bool over = f->state == TCP_CLOSED || f->state == TCP_TIME_WAIT;

	flow_reclaim(s, f);
	stack_drop_frags(s, f, &f->rcvq, FRAG_RECEIVED);
	f->app_open = false;
	s->nr_conns--;
	if (f->app)
		f->app->nr_conns--;
	f->reset_untold = false;
	f->closed_untold = over;
	flow_deliver(s, f);
}

static void request_close(struct stack *s, struct flow *f, uint64_t now)
{
	/* RFC 1122 4.2.2.13: closing before everything was read must not look like an end. */
	const bool unread = f->rcvq.nr || f->ooo.nr;
	const bool alive = f->state != TCP_CLOSED && f->state != TCP_TIME_WAIT;

	detach(s, f);
	if (alive && unread) {
		tcp_send_rst(s, f);
		tcp_reset(s, f, ECONNRESET);
		return;
	}
	if (alive && !f->app_shut)
		request_shutdown(s, f, now);
	if (f->state == TCP_FIN_WAIT_2) /* its FIN may never come: RFC 9293 3.10.4 */
		tcp_linger(s, f, now);
	tcp_reap(s, f);
}

void request_abort(struct stack *s, struct flow *f)
{
	const bool alive = f->state != TCP_CLOSED && f->state != TCP_TIME_WAIT;

	detach(s, f);
	if (alive) {
		tcp_send_rst(s, f);
		tcp_reset(s, f, ECONNABORTED);
		return;
	}
	tcp_reap(s, f);
}

static bool handle(struct stack *s, const struct application *app, const struct channel_request *r,
		   uint64_t now)
{
	struct flow *f = flow_by_id(&s->flows, r->flow);
	const bool ended = f && (f->state == TCP_CLOSED || f->state == TCP_TIME_WAIT);

	if (!f || f->app != app || !f->app_open)
		return false;
	switch (r->kind) {
	case REQUEST_DONTNEED:
		return request_dontneed(s, f, r->a, r->b);
	case REQUEST_BLOCK:
		return request_block(f, r->a, r->b);
	case REQUEST_SEND: /* on a connection that was reset: EVENT_RESET has told why */
		return ended || request_send(s, f, r->a, r->b, now);
	case REQUEST_SHUTDOWN:
		return ended || request_shutdown(s, f, now);
	case REQUEST_CLOSE:
		request_close(s, f, now);
		return true;
	case REQUEST_ABORT:
		request_abort(s, f);
		return true;
	}
	return false;
}

/* How many requests wait. A head that cannot be is not believed: there are none then, until the
 * application goes on from there. */
static uint32_t waiting(struct stack *s, struct application *app)
{
	const uint32_t head =
		atomic_load_explicit(&app->header->request_head, memory_order_acquire);
	const uint32_t nr = head - app->request_tail;

	if (nr <= app->layout.nr_requests)
		return nr;
	s->stats.requests_rejected++;
	app->request_tail = head;
	return 0;
}

static uint32_t take_requests(struct stack *s, struct application *app, uint64_t now)
{
	const uint32_t nr = waiting(s, app), mask = app->layout.nr_requests - 1;
	uint32_t taken = 0;

	for (uint32_t cost = 0; taken < nr && cost < REQUEST_BUDGET; taken++) {
		const struct channel_request r =
			*(const volatile struct channel_request *)&app
				 ->requests[(app->request_tail + taken) & mask];

		cost += cost_of(&r);
		if (!handle(s, app, &r, now))
			s->stats.requests_rejected++;
	}
	app->request_tail += taken;
	atomic_store_explicit(&app->header->request_tail, app->request_tail, memory_order_release);
	s->requests_left |= taken < nr;
	return taken;
}

uint32_t stack_requests(struct stack *s, uint64_t now)
{
	uint32_t taken = 0;

	now = stack_clock(s, now);
	s->requests_left = false;
	for (uint32_t i = 0; i < s->apps_end; i++) {
		if (!s->apps[i])
			continue;
		taken += take_requests(s, s->apps[i], now);
		deliver_pending(s, s->apps[i]);
	}
	if (s->buffers_back)
		window_reopen(s, now);
	return taken;
}
