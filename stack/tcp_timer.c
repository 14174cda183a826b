/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_timer.c - one deadline a flow, in a binary heap of slots.
 *
 * A flow has up to three timers (t_delack, t_rexmit, t_linger); the heap holds the
 * earliest. Moving a deadline *later* does not touch the heap: when the old time comes
 * the flow is looked at, nothing is due, and it is put back. Delayed ACKs that never
 * fire thus cost nothing but a store.
 */
#include <errno.h>

#include "core.h"

#define RTO_MIN (200 * NS_PER_MS) /* as Linux; RFC 6298 2.4 would have 1 s */
#define RTO_MEASURED_MAX 4000000000u /* ns that fit 32 bits; back-off goes on from there */
#define RTO_MAX (60 * NS_PER_S) /* RFC 6298 2.5 */
#define R1 3 /* retransmissions before anybody is given up: RFC 9293 3.8.3, SHLD-10 */

/* ---- the heap ---- */

void timer_heap_init(struct timer_heap *h)
{
	h->nr = 0;
}

static struct flow *at(struct stack *s, uint32_t pos)
{
	return &s->flows.flows[s->timers.slot[pos]];
}

static void place(struct stack *s, uint32_t pos, struct flow *f)
{
	s->timers.slot[pos] = flow_slot(&s->flows, f);
	f->heap_pos = pos;
}

static void sift_up(struct stack *s, uint32_t pos, struct flow *f)
{
	for (; pos > 1 && f->heap_when < at(s, pos / 2)->heap_when; pos /= 2)
		place(s, pos, at(s, pos / 2));
	place(s, pos, f);
}

static void sift_down(struct stack *s, uint32_t pos, struct flow *f)
{
	const uint32_t nr = s->timers.nr;

	for (uint32_t child; (child = 2 * pos) <= nr; pos = child) {
		if (child < nr && at(s, child + 1)->heap_when < at(s, child)->heap_when)
			child++;
		if (f->heap_when <= at(s, child)->heap_when)
			break;
		place(s, pos, at(s, child));
	}
	place(s, pos, f);
}

static uint64_t earliest(const struct flow *f)
{
	uint64_t when = STACK_NO_DEADLINE;

	if (f->t_delack)
		when = f->t_delack;
	if (f->t_rexmit && f->t_rexmit < when)
		when = f->t_rexmit;
	if (f->t_linger && f->t_linger < when)
		when = f->t_linger;
	return when;
}

void timer_update(struct stack *s, struct flow *f)
{
	const uint64_t when = earliest(f);

	if (f->heap_pos) {
		if (when < f->heap_when) {
			f->heap_when = when;
			sift_up(s, f->heap_pos, f);
		}
		return;
	}
	if (when == STACK_NO_DEADLINE)
		return;
	f->heap_when = when;
	sift_up(s, ++s->timers.nr, f);
}

void timer_remove(struct stack *s, struct flow *f)
{
	const uint32_t pos = f->heap_pos;
	struct flow *last;

	if (!pos)
		return;
	f->heap_pos = 0;
	last = at(s, s->timers.nr--);
	if (last == f)
		return;
	sift_down(s, pos, last);
	sift_up(s, last->heap_pos, last);
}

/* ---- retransmission ---- */

void tcp_rexmit_arm(struct stack *s, struct flow *f, uint64_t now)
{
	uint64_t rto = f->rto_ns ? f->rto_ns : TCP_RTO_INITIAL;

	for (uint8_t i = 0; i < f->backoff && rto < RTO_MAX; i++)
		rto *= 2;
	if (rto > RTO_MAX)
		rto = RTO_MAX;
	if (!f->backoff)
		f->t_first_unacked = now;
	f->t_rexmit = now + rto;
	timer_update(s, f);
}

void tcp_rtt_sample(struct flow *f, uint64_t rtt_ns)
{
	const uint32_t rtt = (uint32_t)(rtt_ns / NS_PER_US) + 1;
	uint64_t rto;

	if (!f->srtt_us) {
		f->srtt_us = rtt;
		f->rttvar_us = rtt / 2;
	} else {
		const uint32_t err = f->srtt_us > rtt ? f->srtt_us - rtt : rtt - f->srtt_us;

		f->rttvar_us = (3 * f->rttvar_us + err) / 4;
		f->srtt_us = (uint32_t)((7ULL * f->srtt_us + rtt) / 8);
	}
	rto = (f->srtt_us + 4ULL * f->rttvar_us) * NS_PER_US;
	if (rto < RTO_MIN)
		rto = RTO_MIN;
	f->rto_ns = rto < RTO_MEASURED_MAX ? (uint32_t)rto : RTO_MEASURED_MAX;
}

/* R2 of RFC 9293 3.8.3. A peer that keeps its window shut but answers is alive (3.8.6.1):
 * process_ack() starts the clock anew with each answer. The clock alone gives nobody up: it may
 * have jumped, or the loop has not run. */
static bool given_up(const struct stack *s, const struct flow *f, uint64_t now)
{
	if (f->state == TCP_SYN_RECEIVED)
		return f->backoff >= s->cfg.synack_retries;
	return f->backoff >= R1 && now - f->t_first_unacked >= s->cfg.user_timeout_ms * NS_PER_MS;
}

static void rexmit_due(struct stack *s, struct flow *f, uint64_t now)
{
	const bool syn = f->state == TCP_SYN_RECEIVED;
	const bool probing = !syn && !f->snd_wnd && f->app_open;

	if (given_up(s, f, now)) {
		if (!syn)
			tcp_send_rst(s, f);
		tcp_reset(s, f, ETIMEDOUT);
		return;
	}
	if (!syn && !probing) {
		const uint32_t flight = (uint32_t)seq_sub(f->snd_nxt, f->snd_una);

		f->ssthresh = flight / 2 > 2 * f->snd_mss ? flight / 2 : 2 * f->snd_mss;
		f->cwnd = f->snd_mss;
		f->snd_resend = f->snd_una; /* everything behind goes again as ACKs allow */
	}
	f->rtt_start = 0;
	f->dup_acks = 0;
	if (f->backoff < UINT8_MAX)
		f->backoff++;
	tcp_rexmit_arm(s, f, now);
	tcp_resend_first(s, f, now);
}

/* ---- due ---- */

static void flow_due(struct stack *s, struct flow *f, uint64_t now)
{
	const uint32_t id = f->id;

	if (f->t_delack && f->t_delack <= now) {
		f->t_delack = 0;
		s->stats.tx_acks_delayed++;
		tcp_send_ack(s, f, now);
	}
	if (f->t_rexmit && f->t_rexmit <= now) {
		f->t_rexmit = 0;
		rexmit_due(s, f, now);
	}
	if (f->id == id && f->t_linger && f->t_linger <= now) {
		f->t_linger = 0;
		tcp_set_state(s, f, TCP_EV_TIMEOUT);
		tcp_reap(s, f);
	}
	if (f->id == id)
		timer_update(s, f);
}

void timers_expire(struct stack *s, uint64_t now)
{
	while (s->timers.nr && at(s, 1)->heap_when <= now) {
		struct flow *f = at(s, 1);

		timer_remove(s, f);
		flow_due(s, f, now);
	}
}
