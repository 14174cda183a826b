/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_end.c - how a connection comes to its end: state changes, resets, TIME-WAIT, and when
 * its slot is free again.
 *
 * A flow is over when the protocol is done with it; it is reaped when the application is
 * done with it as well, and knows all there is to know.
 */
#include <errno.h>

#include "core.h"

static const char is_over[TCP_STATES] = {[TCP_CLOSED] = 1, [TCP_TIME_WAIT] = 1};

void tcp_set_state(struct stack *s, struct flow *f, enum tcp_event event)
{
	const enum tcp_state from = f->state;
	const enum tcp_state to = tcp_next_state(from, event);

	assert(to != TCP_STATES);
	if (to == TCP_STATES)
		return; /* a bug of ours; in a release build stay where we are */
	if (from == TCP_SYN_RECEIVED) {
		s->listeners[CHANNEL_LISTENER_SLOT(f->listener)].embryos--;
		s->nr_embryos--;
		f->app->nr_embryos--;
		list_del(&f->age_node);
		window_forget(s, f); /* as an embryo */
	}
	tcp_state_move(f, event);
	if (from == TCP_SYN_RECEIVED)
		window_account(s, f);
	if (event == TCP_EV_SYN_ACKED)
		s->stats.flows_established++;
	if (is_over[to] && !is_over[from]) {
		f->t_rexmit = 0;
		f->t_delack = 0;
		window_forget(s, f);
		list_del(&f->starved_node);
		tcp_reply_free(s, f);
		if (!f->app_open && from != TCP_SYN_RECEIVED)
			f->closed_untold = true;
	}
	if (to == TCP_CLOSED) {
		f->t_linger = 0;
		list_del(&f->ack_node);
		list_del(&f->age_node);
		flow_unhash(&s->flows, f);
		s->stats.flows_closed++;
	}
	timer_update(s, f);
	if (f->closed_untold)
		flow_deliver(s, f);
}

void tcp_drop_ooo(struct stack *s, struct flow *f)
{
	struct frag_list list = {0};

	assembler_clear(&f->ooo, &s->frag_pool, &list);
	stack_drop_frags(s, f, &list, FRAG_OOO);
}

void tcp_reset(struct stack *s, struct flow *f, int err)
{
	const bool accepted = f->state != TCP_SYN_RECEIVED;

	tcp_drop_ooo(s, f);
	s->stats.flows_reset++;
	if (accepted && f->app_open) {
		f->reset_untold = true;
		f->reset_errno = (uint8_t)err;
	}
	tcp_set_state(s, f, err == ETIMEDOUT ? TCP_EV_TIMEOUT : TCP_EV_RESET);
	flow_deliver(s, f);
	tcp_reap(s, f);
}

void tcp_reap(struct stack *s, struct flow *f)
{
	if (f->state != TCP_CLOSED || f->app_open || f->rcvq.nr || f->accept_untold ||
	    f->reset_untold || f->closed_untold)
		return;
	timer_remove(s, f);
	flow_free(&s->flows, f);
}

void tcp_linger(struct stack *s, struct flow *f, uint64_t now)
{
	const bool quiet = f->state == TCP_TIME_WAIT;

	f->t_linger = now + (quiet ? s->cfg.time_wait_ms : s->cfg.fin_timeout_ms) * NS_PER_MS;
	timer_update(s, f);
}

void tcp_enter_time_wait(struct stack *s, struct flow *f, uint64_t now)
{
	tcp_drop_ooo(s, f);
	list_del(&f->age_node);
	list_add_tail(&s->time_wait, &f->age_node);
	tcp_linger(s, f, now);
}
