/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_ack.c - what an acceptable ACK says about our side of the stream: the send window,
 * what has arrived, and what has to go again (RFC 9293 3.10.7.4 fifth, RFC 5681).
 *
 *   tcp_input.c: check_ack() -> tcp_process_ack() -> new_ack() or dup_ack() -> tcp_push()
 */
#include "core.h"

static void update_send_window(struct flow *f, const struct seg *seg)
{
	if (seq_lt(f->snd_wl1, seg->seq) ||
	    (seq_eq(f->snd_wl1, seg->seq) && seq_leq(f->snd_wl2, seg->ack))) {
		f->snd_wnd = seg->wnd << f->snd_wscale;
		if (f->snd_wnd > f->snd_wnd_max)
			f->snd_wnd_max = f->snd_wnd;
		f->snd_wl1 = seg->seq;
		f->snd_wl2 = seg->ack;
	}
}

/* RFC 5681 3.1: slow start, then one segment a round trip. */
static void grow_cwnd(struct flow *f, uint32_t acked)
{
	if (f->cwnd < f->ssthresh)
		f->cwnd += acked < f->snd_mss ? acked : f->snd_mss;
	else
		f->cwnd += f->snd_mss * f->snd_mss / f->cwnd + 1;
	if (f->cwnd > CHANNEL_REPLY_MAX)
		f->cwnd = CHANNEL_REPLY_MAX; /* more can never be outstanding */
}

/* SND.UNA < SEG.ACK <= SND.NXT */
static void new_ack(struct stack *s, struct flow *f, const struct seg *seg, uint64_t now)
{
	uint32_t acked = (uint32_t)seq_sub(seg->ack, f->snd_una);
	const bool fin = f->fin_sent && acked == f->replies.bytes + 1;

	f->snd_una = seg->ack;
	f->snd_resend = seq_max(f->snd_resend, f->snd_una);
	if (f->rtt_start && seq_leq(f->rtt_seq, seg->ack)) {
		tcp_rtt_sample(f, now - f->rtt_start);
		f->rtt_start = 0;
	}
	f->backoff = 0;
	f->dup_acks = 0;
	acked -= fin;
	if (acked) {
		grow_cwnd(f, acked);
		tcp_reply_acked(s, f, acked);
		f->sent_untold += acked;
		flow_deliver(s, f);
	}
	if (seq_eq(f->snd_una, f->snd_nxt)) {
		f->t_rexmit = 0;
		timer_update(s, f);
	} else {
		tcp_rexmit_arm(s, f, now);
	}
	if (fin) {
		tcp_set_state(s, f, TCP_EV_FIN_ACKED);
		if (f->state == TCP_TIME_WAIT)
			tcp_enter_time_wait(s, f, now);
		else if (f->state == TCP_FIN_WAIT_2 && !f->app_open)
			tcp_linger(s, f, now);
	}
}

/* RFC 5681 2: no data, same window, same ACK, and something is outstanding. */
static void dup_ack(struct stack *s, struct flow *f, const struct seg *seg, uint32_t old_wnd,
		    uint64_t now)
{
	if (seg->len || seg->flags & TCPF_FIN || f->snd_wnd != old_wnd ||
	    seq_eq(f->snd_una, f->snd_nxt))
		return;
	if (++f->dup_acks != 3)
		return;
	f->ssthresh = (uint32_t)seq_sub(f->snd_nxt, f->snd_una) / 2;
	if (f->ssthresh < 2 * f->snd_mss)
		f->ssthresh = 2 * f->snd_mss;
	f->cwnd = f->ssthresh;
	tcp_resend_first(s, f, now);
}

void tcp_process_ack(struct stack *s, struct flow *f, const struct seg *seg, uint64_t now)
{
	const uint32_t old_wnd = f->snd_wnd;

	update_send_window(f, seg);
	if (!f->snd_wnd) {
		/* It answers: alive, only not ready (RFC 9293 3.8.6.1). Once the application
		 * has closed, that is not enough: nobody else would ever end it (RFC 6429 3). */
		if (f->app_open)
			f->t_first_unacked = now;
	} else if (!old_wnd) {
		f->snd_resend = f->snd_una; /* probes sent into the shut window were lost */
	}
	if (seq_lt(f->snd_una, seg->ack))
		new_ack(s, f, seg, now);
	else if (seq_eq(f->snd_una, seg->ack))
		dup_ack(s, f, seg, old_wnd, now);
	if (f->state != TCP_CLOSED && f->state != TCP_TIME_WAIT)
		tcp_push(s, f, now);
}
