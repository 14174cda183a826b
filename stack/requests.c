/* SPDX-License-Identifier: Apache-2.0 */
/*
 * requests.c - what the application wrote into its ring. All of it is hostile: entries
 * are copied out before they are looked at, ids and tokens are looked up, lengths are
 * checked, and what makes no sense is counted and skipped.
 */
#include <errno.h>
#include <string.h>

#include "core.h"

/* Tokens one request may name: as SO_DEVMEM_DONTNEED, so that a count of 2^32 - 1 cannot
 * keep the loop busy. */
#define DONTNEED_MAX 1024

static bool request_dontneed(struct stack *s, struct flow *f, uint32_t first, uint32_t count)
{
	bool all = count <= DONTNEED_MAX;

	for (uint32_t i = 0; i < count && i < DONTNEED_MAX; i++)
		all &= token_return(s, f, first + i);
	return all;
}

static bool request_send(struct stack *s, struct flow *f, uint32_t at, uint32_t len, uint64_t now)
{
	uint32_t room;
	int rc;

	if (f->app_shut || at >= CHANNEL_REPLY_BYTES || len > CHANNEL_REPLY_MAX || !len)
		return false;
	room = CHANNEL_REPLY_BYTES - at; /* the area is a ring: a reply may wrap */
	rc = tcp_reply_add(s, f, s->channel.replies + at, len < room ? len : room);
	if (!rc && len > room)
		rc = tcp_reply_add(s, f, s->channel.replies, len - room);
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

	tokens_reclaim(s, f);
	stack_drop_frags(s, &f->rcvq, FRAG_RECEIVED);
	f->app_open = false;
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

static void request_abort(struct stack *s, struct flow *f)
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

static bool handle(struct stack *s, const struct channel_request *r, uint64_t now)
{
	struct flow *f = flow_by_id(&s->flows, r->flow);
	const bool ended = f && (f->state == TCP_CLOSED || f->state == TCP_TIME_WAIT);

	if (!f || !f->app_open)
		return false;
	switch (r->kind) {
	case REQUEST_DONTNEED:
		return request_dontneed(s, f, r->a, r->b);
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

uint32_t stack_requests(struct stack *s, uint64_t now)
{
	struct channel_end *c = &s->channel;
	const uint64_t returned = s->stats.tokens_returned;
	uint32_t nr = atomic_load_explicit(&c->header->request_head, memory_order_acquire) -
		      c->request_tail;

	if (nr > c->layout.nr_requests) { /* an index that cannot be: take what a ring can hold */
		s->stats.requests_rejected++;
		nr = c->layout.nr_requests;
	}
	for (uint32_t i = 0; i < nr; i++) {
		const struct channel_request r =
			*(const volatile struct channel_request *)&c
				 ->requests[(c->request_tail + i) & (c->layout.nr_requests - 1)];

		if (!handle(s, &r, now))
			s->stats.requests_rejected++;
	}
	c->request_tail += nr;
	atomic_store_explicit(&c->header->request_tail, c->request_tail, memory_order_release);
	deliver_pending(s);
	if (s->stats.tokens_returned != returned)
		window_reopen(s, now);
	return nr;
}

void stack_app_gone(struct stack *s, uint64_t now)
{
	struct channel_end *c = &s->channel;

	(void)now;
	/* Nobody reads the ring any more: what it still holds must not keep flows waiting
	 * for room, whatever the application left as its index. */
	channel_publish(s);
	atomic_store_explicit(&c->header->event_tail, c->event_head, memory_order_relaxed);
	for (uint32_t slot = 1; slot < s->flows.nr; slot++) {
		struct flow *f = &s->flows.flows[slot];

		if (f->id && f->app_open) {
			f->accept_untold = false;
			request_abort(s, f);
		}
	}
	deliver_pending(s);
}
