/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_events.c - the stack's events, sorted by connection.
 *
 * The stack is not trusted: an event is copied out of the ring before it is looked at, and
 * what makes no sense is counted and left alone. No event can make the application read
 * outside the memory of a binding it knows, outside the data blocks, or outside the memory
 * here. A fragment of a binding it does not know is handed on as it is: that is what the
 * kernel does with all of them.
 *
 * Called with the lock held. A piece belongs to its connection's queue from here on.
 */
#include <errno.h>
#include <string.h>

#include "app.h"

static void read_addresses(struct app *a, struct app_conn *c)
{
	const struct channel_conn *shared = (const void *)((uint8_t *)a->channel + a->layout.conns);
	const struct channel_conn conn =
		*(const volatile struct channel_conn *)&shared[c - a->conns];

	c->local.family = c->peer.family = conn.family;
	c->local.port = conn.local_port;
	c->peer.port = conn.peer_port;
	memcpy(c->local.ip, conn.local_ip, sizeof(c->local.ip));
	memcpy(c->peer.ip, conn.peer_ip, sizeof(c->peer.ip));
}

void app_abort_unwanted(struct app *a, struct app_conn *c)
{
	struct channel_request request = {.kind = REQUEST_ABORT, .flow = c->flow};

	c->finished = true;
	app_free_pieces(a, c);
	app_update_ready(a, c);
	app_request(a, &request);
}

static bool event_accept(struct app *a, const struct channel_event *e)
{
	uint32_t slot = CHANNEL_FLOW_SLOT(e->flow);
	struct app_listener *listener = app_listener_of(a, e->arg);
	struct app_conn *c;

	if (!e->flow || slot >= a->layout.nr_conns)
		return false;
	c = &a->conns[slot];
	if (c->flow)
		return false;
	*c = (struct app_conn){
		.flow = e->flow,
		.listener = e->arg,
		.first = APP_NIL,
		.last = APP_NIL,
		.rcvlowat = 1,
		.rcvtimeo_ms = -1,
		.accept_next = APP_NIL,
		.watch = {.near = -1, .far = -1},
	};
	read_addresses(a, c);
	if (!listener) { /* closed meanwhile */
		app_abort_unwanted(a, c);
		return true;
	}
	if (listener->last == APP_NIL)
		listener->first = slot;
	else
		a->conns[listener->last].accept_next = slot;
	listener->last = slot;
	app_watch_listener(listener);
	return true;
}

static void accept_queue_remove(struct app *a, const struct app_conn *c)
{
	struct app_listener *listener = app_listener_of(a, c->listener);
	uint32_t slot = c - a->conns, before = APP_NIL, i = listener ? listener->first : APP_NIL;

	while (i != APP_NIL && i != slot) {
		before = i;
		i = a->conns[i].accept_next;
	}
	if (i == APP_NIL)
		return;
	if (before == APP_NIL)
		listener->first = c->accept_next;
	else
		a->conns[before].accept_next = c->accept_next;
	if (listener->last == slot)
		listener->last = before;
	app_watch_listener(listener);
}

static bool event_closed(struct app *a, struct app_conn *c)
{
	if (!c->accepted)
		accept_queue_remove(a, c);
	app_free_pieces(a, c);
	app_acked(a, c, c->unacked);
	c->finished = true;
	app_update_ready(a, c);
	app_watch_end(&c->watch);
	c->flow = 0;
	return true;
}

static bool frag_makes_sense(struct app *a, const struct channel_event *e)
{
	const struct app_region *region = e->arg ? app_region_find(a, e->arg) : NULL;

	return e->arg && (!region || app_inside(e->offset, e->len, region->size));
}

static bool data_makes_sense(const struct app *a, const struct channel_event *e)
{
	const uint64_t block = e->token - 1ull;
	const uint32_t kind = CHANNEL_DATA_KIND(e->arg), reason = CHANNEL_DATA_REASON(e->arg);

	return (kind == RX_LINEAR || kind == RX_DATA) && reason <= REASON_HEAD &&
	       block < a->layout.nr_blocks && e->offset / CHANNEL_BLOCK == block &&
	       app_inside(e->offset % CHANNEL_BLOCK, e->len, CHANNEL_BLOCK);
}

static void count(struct app_conn_bytes *bytes, uint32_t kind, uint32_t reason, uint32_t len)
{
	*(kind == RX_DEVICE   ? &bytes->device
	  : kind == RX_LINEAR ? &bytes->linear
			      : &bytes->data) += len;
	bytes->unbound += reason == REASON_UNBOUND ? len : 0;
	bytes->head += reason == REASON_HEAD ? len : 0;
}

/* 1: taken, 0: makes no sense, -1: no room for it now. */
static int event_piece(struct app *a, struct app_conn *c, const struct channel_event *e)
{
	const bool device = e->kind == EVENT_FRAG;
	const struct app_piece piece = {
		.offset = e->offset,
		.len = e->len,
		.stack_token = e->token,
		.dmabuf_id = device ? e->arg : 0,
		.kind = device ? RX_DEVICE : CHANNEL_DATA_KIND(e->arg),
		.reason = device ? REASON_DEVICE : CHANNEL_DATA_REASON(e->arg),
	};

	if (!e->token || !e->len || c->eof || c->error)
		return 0;
	if (!(device ? frag_makes_sense(a, e) : data_makes_sense(a, e)))
		return 0;
	if (c->finished)
		return 1; /* sent before the stack knew; it takes the piece back itself */
	if (!app_piece_append(a, c, &piece))
		return -1;
	count(&c->bytes, piece.kind, piece.reason, piece.len);
	return 1;
}

static int event_error(const struct channel_event *e)
{
	return e->arg && e->arg < 4096 ? e->arg : ECONNRESET;
}

static int take_event(struct app *a, const struct channel_event *e)
{
	struct app_conn *c = app_conn(a, e->flow);
	int taken = 1;

	if (e->kind == EVENT_ACCEPT)
		return event_accept(a, e);
	if (!c)
		return 0;
	switch (e->kind) {
	case EVENT_FRAG:
	case EVENT_DATA:
		taken = event_piece(a, c, e);
		break;
	case EVENT_EOF:
		c->eof = true;
		break;
	case EVENT_RESET:
		c->error = event_error(e);
		break;
	case EVENT_SENT:
		if (e->arg > c->unacked)
			return 0;
		app_acked(a, c, e->arg);
		break;
	case EVENT_CLOSED:
		return event_closed(a, c);
	default:
		return 0;
	}
	app_update_ready(a, c);
	return taken;
}

void app_drain(struct app *a)
{
	const struct channel_event *ring = (const void *)((uint8_t *)a->channel + a->layout.events);
	uint32_t head = atomic_load_explicit(&a->channel->event_head, memory_order_acquire);

	if (head - a->event_tail > a->layout.nr_events) {
		a->dead = EPROTO;
		return;
	}
	a->stuck = false;
	while (a->event_tail != head) {
		/* volatile: not to be read a second time, when it may be another. */
		const struct channel_event e =
			*(const volatile struct channel_event *)&ring[a->event_tail &
								      (a->layout.nr_events - 1)];
		int taken = take_event(a, &e);

		a->stuck = taken < 0;
		if (a->stuck)
			break;
		a->stats.events_rejected += !taken;
		a->event_tail++;
	}
	atomic_store_explicit(&a->channel->event_tail, a->event_tail, memory_order_release);
	app_kick(a);
}
