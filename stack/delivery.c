/* SPDX-License-Identifier: Apache-2.0 */
/*
 * delivery.c - what an application is given: frags under tokens or as copies, and the events of
 * a connection's life, in the order
 *
 *      ACCEPT, (FRAG | DATA | SENT)..., EOF?, RESET?, ..., CLOSED
 *
 * Bytes in device memory are lent. What the stack may read, host pages and what was left in the
 * head, is copied into a data block, and its buffer goes home at once. A flow whose events did not
 * fit into the ring, or that found no block, keeps them as flags, counts and queued frags, and
 * stands on deliver_list until there is room: nothing overtakes what waits.
 */
#include <string.h>

#include "core.h"

/* ---- a flow's events ---- */

static bool tell(const struct flow *f, enum channel_event_kind kind, uint32_t arg)
{
	return application_tell(f->app,
				&(struct channel_event){.kind = kind, .flow = f->id, .arg = arg});
}

static bool tell_accept(const struct flow *f)
{
	const struct channel_conn conn = {
		.local_port = f->tuple.local_port,
		.peer_port = f->tuple.peer_port,
		.family = f->tuple.family,
		.listener = f->listener,
		.flow = f->id,
	};
	struct channel_conn *slot = &f->app->conns[CHANNEL_FLOW_SLOT(f->id)];

	*slot = conn;
	memcpy(slot->local_ip, f->tuple.local_ip, 16);
	memcpy(slot->peer_ip, f->tuple.peer_ip, 16);
	return tell(f, EVENT_ACCEPT, f->listener);
}

static void count_delivered(struct stack *s, struct flow *f, enum rx_kind kind, uint32_t bytes)
{
	f->rx_kind[kind] += bytes;
	s->stats.rx_payload_bytes += bytes;
	if (kind == RX_DEVICE)
		s->stats.bytes_device += bytes;
	else if (kind == RX_LINEAR)
		s->stats.bytes_linear += bytes;
	else
		s->stats.bytes_data += bytes;
}

/* ---- bytes in device memory ---- */

/* Lend the first queued frag: a token, an event. */
static bool lend(struct stack *s, struct flow *f)
{
	const skb_frag_t *frag = &f->rcvq.head->frag;
	const netmem_ref netmem = skb_frag_netmem(frag);
	const struct net_iov *niov = skb_frag_net_iov(frag);
	const struct area *area = area_of(netmem);
	struct channel_event event = {
		.kind = EVENT_FRAG, .flow = f->id, .len = frag->len, .arg = area->dmabuf_id};

	if (NETMEM_WARN_ON_ONCE(!niov)) /* pages are copied: nobody else may see them */
		return false;
	if (!application_room(f->app))
		return false;
	event.token = token_new(&s->tokens, netmem, f->id, &f->token_first);
	if (!event.token)
		return false;
	event.offset = net_iov_virtual_addr(niov) + skb_frag_off(frag);
	application_tell(f->app, &event);
	frag_move(area->tracker, netmem, FRAG_RECEIVED, FRAG_LENT);
	f->tokens++;
	s->stats.frags_delivered++;
	count_delivered(s, f, RX_DEVICE, event.len);
	frag_free(&s->frag_pool, frag_list_pop(&f->rcvq));
	return true;
}

/* ---- bytes that are copied ---- */

/* NULL for what the stack may not read. */
static const uint8_t *readable_bytes(const struct rx_frag *f)
{
	const netmem_ref netmem = skb_frag_netmem(&f->frag);

	if (f->source.in_head)
		return area_header(area_of(netmem), area_index(netmem)) + skb_frag_off(&f->frag);
	return skb_frag_address(&f->frag);
}

/* The first queued frag, to `to`; its buffer goes home. Returns how many bytes that were. */
static uint32_t copy_out(struct stack *s, struct flow *f, uint8_t *to)
{
	struct rx_frag *frag = f->rcvq.head;
	const uint8_t *bytes = readable_bytes(frag);
	const uint32_t len = skb_frag_size(&frag->frag);

	/* copy() has looked at the first, and what joins it is of the same sort. Were one not,
	 * then rather zeros than what the block held before. */
	if (NETMEM_WARN_ON_ONCE(!bytes))
		memset(to, 0, len);
	else
		memcpy(to, bytes, len);
	area_drop_part(s, f, skb_frag_netmem(&frag->frag), FRAG_RECEIVED);
	frag_free(&s->frag_pool, frag_list_pop(&f->rcvq));
	return len;
}

static bool joins(const struct rx_frag *f, const struct rx_source *source, uint32_t len)
{
	return f && f->source.kind == source->kind && f->source.reason == source->reason &&
	       len + skb_frag_size(&f->frag) <= CHANNEL_BLOCK;
}

/* As many blocks as are free and no more: one connection that is not read leaves room for the
 * others of its application (the dynamic threshold of window.c). */
static bool may_have_block(const struct flow *f)
{
	return f->blocks < f->app->blocks.nr_free;
}

/* Copy what is queued first, and what follows of the same sort, into one data block. */
static bool copy(struct stack *s, struct flow *f)
{
	const struct rx_source source =
		f->rcvq.head->source; /* readable: all that join it are too */
	struct application *app = f->app;
	struct channel_event event = {.kind = EVENT_DATA,
				      .flow = f->id,
				      .arg = CHANNEL_DATA_ARG(source.kind, source.reason)};

	if (NETMEM_WARN_ON_ONCE(!readable_bytes(f->rcvq.head)) || !application_room(app))
		return false;
	if (!may_have_block(f)) {
		s->stats.data_waits += !list_on(&f->deliver_node);
		return false;
	}
	event.token = block_new(&app->blocks, f->id, &f->block_first);
	event.offset = (event.token - 1ull) * CHANNEL_BLOCK;
	f->blocks++;
	do {
		event.len += copy_out(s, f, app->data + event.offset + event.len);
	} while (joins(f->rcvq.head, &source, event.len));
	s->buffers_back = true;
	application_tell(app, &event);
	count_delivered(s, f, source.kind, event.len);
	return true;
}

static bool deliver_bytes(struct stack *s, struct flow *f)
{
	while (f->rcvq.head) {
		if (!(f->rcvq.head->source.kind == RX_DEVICE ? lend(s, f) : copy(s, f)))
			return false;
	}
	return true;
}

/* ---- in order ---- */

/* Has the peer's FIN been taken, that is: is everything before it in order? */
static bool at_eof(const struct flow *f)
{
	return f->fin_known && seq_lt(f->fin_seq, f->rcv_nxt);
}

/* Its application is gone: there is nobody to tell. */
static void forget_untold(struct flow *f)
{
	f->accept_untold = f->reset_untold = f->closed_untold = false;
	f->sent_untold = 0;
}

/* True when the application knows all there is to know. */
static bool deliver_all(struct stack *s, struct flow *f)
{
	if (f->accept_untold && !tell_accept(f))
		return false;
	f->accept_untold = false;
	if (f->app_open) {
		if (!deliver_bytes(s, f))
			return false;
		if (f->sent_untold && !tell(f, EVENT_SENT, f->sent_untold))
			return false;
		f->sent_untold = 0;
		if (at_eof(f) && !f->eof_told) {
			if (!tell(f, EVENT_EOF, 0))
				return false;
			f->eof_told = true;
		}
	}
	if (f->reset_untold && !tell(f, EVENT_RESET, f->reset_errno))
		return false;
	f->reset_untold = false;
	if (f->closed_untold && !tell(f, EVENT_CLOSED, 0))
		return false;
	f->closed_untold = false;
	return true;
}

void flow_deliver(struct stack *s, struct flow *f)
{
	if (!f->app)
		forget_untold(f);
	else if (deliver_all(s, f))
		list_del(&f->deliver_node);
	else
		list_add_tail(&f->app->deliver_list, &f->deliver_node);
}

/* How many a call: in turn, so that those who wait for blocks do not stall the loop. */
#define DELIVER_BUDGET 64

void deliver_pending(struct stack *s, struct application *app)
{
	const struct list_node *first = NULL;

	for (int budget = DELIVER_BUDGET; budget && !list_empty(&app->deliver_list); budget--) {
		struct list_node *n = app->deliver_list.next;
		struct flow *f = container_of(n, struct flow, deliver_node);

		if (n == first || !application_room(app))
			return;
		flow_deliver(s, f);
		if (!list_on(n)) {
			tcp_reap(s, f);
			continue;
		}
		first = first ? first : n;
		list_del(n);
		list_add_tail(&app->deliver_list, n);
	}
}

/* ---- what comes back ---- */

static void take_back(struct stack *s, struct flow *f, uint32_t slot)
{
	const netmem_ref netmem = token_free(&s->tokens, slot, &f->token_first);
	struct area *a = area_of(netmem);

	f->tokens--;
	flow_holds(f, a, -1);
	frag_move(a->tracker, netmem, FRAG_LENT, FRAG_RETURNED);
	if (!frag_parts(a->tracker, netmem))
		frag_track(a->tracker, netmem, FRAG_FREE, 0);
	area_put(s, a, netmem);
}

bool token_return(struct stack *s, struct flow *f, uint32_t token)
{
	const uint32_t slot = token_find(&s->tokens, token, f->id);

	if (!slot)
		return false;
	take_back(s, f, slot);
	s->stats.tokens_returned++;
	s->buffers_back = true;
	if (list_on(&f->starved_node)) /* who gives back is first in line for it */
		list_move_head(&s->starved, &f->starved_node);
	return true;
}

bool block_return(struct flow *f, uint32_t block)
{
	if (!block_is_of(&f->app->blocks, block, f->id))
		return false;
	block_free(&f->app->blocks, block, &f->block_first);
	f->blocks--;
	return true;
}

void flow_reclaim(struct stack *s, struct flow *f)
{
	while (f->token_first)
		take_back(s, f, f->token_first);
	while (f->app && f->block_first)
		block_return(f, f->block_first);
}
