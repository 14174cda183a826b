/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delivery.c - what the application is given: frags under tokens, and the events of a
 * connection's life, in the order
 *
 *      ACCEPT, (FRAG | SENT)..., EOF?, RESET?, ..., CLOSED
 *
 * A flow whose events did not fit into the ring keeps them as flags, counts and queued
 * frags, and stands on deliver_list until there is room.
 */
#include <string.h>

#include "core.h"

/* ---- the events ring ---- */

void channel_format(struct stack *s)
{
	struct channel_end *c = &s->channel;

	memset(c->header, 0, sizeof(*c->header));
	c->header->magic = CHANNEL_MAGIC;
	c->header->nr_events = c->layout.nr_events;
	c->header->nr_requests = c->layout.nr_requests;
	c->header->nr_conns = c->layout.nr_conns;
}

/* Places left. The application's index may be anything; a wrong one only harms itself:
 * more than the ring's size counts as full. */
static uint32_t event_room(const struct channel_end *c)
{
	const uint32_t tail = atomic_load_explicit(&c->header->event_tail, memory_order_acquire);
	const uint32_t used = c->event_head - tail;

	return used <= c->layout.nr_events ? c->layout.nr_events - used : 0;
}

static bool push_event(struct stack *s, const struct channel_event *event)
{
	struct channel_end *c = &s->channel;

	if (!event_room(c))
		return false;
	c->events[c->event_head++ & (c->layout.nr_events - 1)] = *event;
	c->pushed++;
	return true;
}

void channel_publish(struct stack *s)
{
	struct channel_end *c = &s->channel;

	atomic_store_explicit(&c->header->event_head, c->event_head, memory_order_release);
}

uint32_t stack_events_pushed(struct stack *s)
{
	const uint32_t pushed = s->channel.pushed;

	channel_publish(s);
	s->channel.pushed = 0;
	return pushed;
}

/* ---- a flow's events ---- */

static bool tell(struct stack *s, const struct flow *f, enum channel_event_kind kind, uint32_t arg)
{
	return push_event(s, &(struct channel_event){.kind = kind, .flow = f->id, .arg = arg});
}

static bool tell_accept(struct stack *s, const struct flow *f)
{
	const struct channel_conn conn = {
		.local_port = f->tuple.local_port,
		.peer_port = f->tuple.peer_port,
		.family = f->tuple.family,
		.listener = f->listener,
		.flow = f->id,
	};
	struct channel_conn *slot = &s->channel.conns[CHANNEL_FLOW_SLOT(f->id)];

	*slot = conn;
	memcpy(slot->local_ip, f->tuple.local_ip, 16);
	memcpy(slot->peer_ip, f->tuple.peer_ip, 16);
	return tell(s, f, EVENT_ACCEPT, f->listener);
}

/* Lend the first queued frag: a token, an event. */
static bool lend(struct stack *s, struct flow *f)
{
	const skb_frag_t *frag = &f->rcvq.head->frag;
	const netmem_ref netmem = skb_frag_netmem(frag);
	const struct net_iov *niov = skb_frag_net_iov(frag);
	struct channel_event event = {.kind = EVENT_FRAG, .flow = f->id, .len = frag->len};

	if (NETMEM_WARN_ON_ONCE(!niov)) /* payload lies in device memory, and nowhere else */
		return false;
	if (!event_room(&s->channel))
		return false;
	event.token = token_new(&s->tokens, netmem, f->id, &f->token_first);
	if (!event.token)
		return false;
	event.offset = net_iov_virtual_addr(niov) + skb_frag_off(frag);
	push_event(s, &event);
	frag_move(s->tracker, netmem, FRAG_RECEIVED, FRAG_LENT);
	f->tokens++;
	s->stats.frags_delivered++;
	s->stats.rx_payload_bytes += event.len;
	return true;
}

static bool lend_all(struct stack *s, struct flow *f)
{
	while (f->rcvq.head) {
		if (!lend(s, f))
			return false;
		frag_free(&s->frag_pool, frag_list_pop(&f->rcvq));
	}
	return true;
}

/* Has the peer's FIN been taken, that is: is everything before it in order? */
static bool at_eof(const struct flow *f)
{
	return f->fin_known && seq_lt(f->fin_seq, f->rcv_nxt);
}

/* True when the application knows all there is to know. */
static bool deliver_all(struct stack *s, struct flow *f)
{
	if (f->accept_untold && !tell_accept(s, f))
		return false;
	f->accept_untold = false;
	if (f->app_open) {
		if (!lend_all(s, f))
			return false;
		if (f->sent_untold && !tell(s, f, EVENT_SENT, f->sent_untold))
			return false;
		f->sent_untold = 0;
		if (at_eof(f) && !f->eof_told) {
			if (!tell(s, f, EVENT_EOF, 0))
				return false;
			f->eof_told = true;
		}
	}
	if (f->reset_untold && !tell(s, f, EVENT_RESET, f->reset_errno))
		return false;
	f->reset_untold = false;
	if (f->closed_untold && !tell(s, f, EVENT_CLOSED, 0))
		return false;
	f->closed_untold = false;
	return true;
}

void flow_deliver(struct stack *s, struct flow *f)
{
	if (deliver_all(s, f))
		list_del(&f->deliver_node);
	else
		list_add_tail(&s->deliver_list, &f->deliver_node);
}

void deliver_pending(struct stack *s)
{
	struct list_node *n, *next;

	for (n = s->deliver_list.next; n != &s->deliver_list; n = next) {
		struct flow *f = container_of(n, struct flow, deliver_node);

		next = n->next;
		flow_deliver(s, f);
		if (list_on(&f->deliver_node))
			return; /* still full */
		tcp_reap(s, f);
	}
}

/* ---- tokens ---- */

static void take_back(struct stack *s, struct flow *f, uint32_t slot)
{
	const netmem_ref netmem = token_free(&s->tokens, slot, &f->token_first);

	f->tokens--;
	frag_move(s->tracker, netmem, FRAG_LENT, FRAG_RETURNED);
	if (!frag_parts(s->tracker, netmem))
		frag_track(s->tracker, netmem, FRAG_FREE, 0);
	page_pool_put_netmem(s->rx_pool, netmem, true);
}

bool token_return(struct stack *s, struct flow *f, uint32_t token)
{
	const uint32_t slot = token_find(&s->tokens, token, f->id);

	if (!slot)
		return false;
	take_back(s, f, slot);
	s->stats.tokens_returned++;
	if (list_on(&f->starved_node)) /* who gives back is first in line for it */
		list_move_head(&s->starved, &f->starved_node);
	return true;
}

void tokens_reclaim(struct stack *s, struct flow *f)
{
	while (f->token_first)
		take_back(s, f, f->token_first);
}
