/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_input.c - a segment of a known connection, in the steps and the order of RFC 9293
 * 3.10.7.4, with RFC 7323 (timestamps, PAWS), RFC 5961 (blind attacks) and RFC 3168 (ECN).
 *
 *   tcp_input() -> reopens_time_wait, replaces_embryo -> check_syn_received -> check_timestamps
 *               -> check_sequence -> check_rst -> check_syn -> check_ack
 *               -> note_timestamp -> take_ack -> take_payload -> take_fin
 *
 * Each step says: go on (DROP_NONE), or why the segment ends here. A segment is
 * answered at most once: an ACK that is due is noted (ack_now, the ack list) and sent
 * when the batch is over, except where the RFCs want one for each segment.
 */
#include <errno.h>
#include <string.h>

#include "core.h"

#define PAWS_IDLE_NS (24ULL * 24 * 3600 * NS_PER_S) /* RFC 7323 5.5: ts_recent is too old */
#define CHALLENGE_PERIOD_NS (500 * NS_PER_MS)
#define CHALLENGE_BUDGET 10 /* ACKs a period to what an attacker may have sent */

/* ---- helpers of the steps ---- */

/* The window as the peer has read it: what its segments are judged by. */
static uint32_t told_wnd(const struct flow *f)
{
	return (uint32_t)seq_sub(f->rcv_told, f->rcv_nxt);
}

static void ack_at_batch_end(struct stack *s, struct flow *f, bool now)
{
	f->ack_now |= now;
	list_add_tail(&s->ack_list, &f->ack_node);
}

/* An ACK that a blind attacker could ask for: not more than a few a second (RFC 5961 7). */
static void challenge_ack(struct stack *s, struct flow *f, uint64_t now)
{
	if (now - f->challenge_since >= CHALLENGE_PERIOD_NS) {
		f->challenge_since = now;
		f->challenge_budget = CHALLENGE_BUDGET;
	}
	if (!f->challenge_budget)
		return;
	f->challenge_budget--;
	tcp_send_ack(s, f, now);
}

/* RFC 9293 3.10.7.4, first: what takes sequence space is acknowledged each time, since its
 * sender waits for that; a bare ACK only so often that two confused peers do not ring. */
static void answer_unacceptable(struct stack *s, struct flow *f, const struct seg *seg,
				uint64_t now)
{
	if (seg_space(seg))
		tcp_send_ack(s, f, now);
	else
		challenge_ack(s, f, now);
}

/* The peer's route or its hash may change: answer where the last good segment came from. */
static void follow_path(struct stack *s, struct flow *f, const struct seg *seg)
{
	f->link = seg->link;
	if (f->queue == seg->queue)
		return;
	window_forget(s, f);
	f->queue = seg->queue;
	window_account(s, f);
}

static bool acks_what_we_sent(const struct flow *f, const struct seg *seg)
{
	if (seq_lt(f->snd_nxt, seg->ack))
		return false;
	return !seq_lt(seg->ack, f->snd_una) ||
	       (uint32_t)seq_sub(f->snd_una, seg->ack) <= f->snd_wnd_max;
}

/* What the peer has sent again says where it is, too: the answers to the first may have gone
 * astray, and without one nothing new would come. Not what somebody may have guessed. */
static void follow_repeated(struct stack *s, struct flow *f, const struct seg *seg)
{
	if (seg_space(seg) && seg->flags & TCPF_ACK && acks_what_we_sent(f, seg) &&
	    (uint32_t)seq_sub(f->rcv_nxt, seg->seq) <= s->cfg.rcv_wnd_max)
		follow_path(s, f, seg);
}

/* ---- the steps ---- */

/* RFC 6191, RFC 9293 3.10.7.4 MAY-2: a SYN that cannot be an old one may reopen a
 * connection in TIME-WAIT. */
static bool reopens_time_wait(const struct flow *f, const struct seg *seg)
{
	if (f->state != TCP_TIME_WAIT || f->app_open ||
	    (seg->flags & (TCPF_SYN | TCPF_ACK | TCPF_RST | TCPF_FIN)) != TCPF_SYN)
		return false;
	if (f->ts_ok && seg->has_ts && seg->tsval != f->ts_recent)
		return ts_lt(f->ts_recent, seg->tsval);
	return seq_lt(f->rcv_nxt, seg->seq);
}

/* The peer's SYN came twice, and the first was answered by a cookie, which the peer goes by. */
static bool replaces_embryo(const struct stack *s, const struct flow *f, const struct seg *seg,
			    uint64_t now)
{
	return f->state == TCP_SYN_RECEIVED && (seg->flags & (TCPF_ACK | TCPF_RST)) == TCPF_ACK &&
	       !seq_eq(seg->ack, f->snd_nxt) && tcp_listen_cookie(s, seg, now);
}

/* A SYN again, or an ACK that acknowledges something else than our SYN. */
static enum drop check_syn_received(struct stack *s, struct flow *f, const struct seg *seg,
				    uint64_t now)
{
	if (f->state != TCP_SYN_RECEIVED || seg->flags & TCPF_RST)
		return DROP_NONE;
	if ((seg->flags & (TCPF_SYN | TCPF_ACK)) == TCPF_SYN && seq_eq(seg->seq, f->irs)) {
		f->ecn_ok &= seg_asks_for_ecn(seg); /* it has tried in vain: RFC 3168 6.1.1.1 */
		follow_path(s, f, seg);
		tcp_send_synack(s, f, now);
		return DROP_DUPLICATE;
	}
	if (seg->flags & TCPF_ACK && !(seg->flags & TCPF_SYN) && !seq_eq(seg->ack, f->snd_nxt)) {
		tcp_send_rst_for(s, seg);
		return DROP_FUTURE_ACK;
	}
	return DROP_NONE;
}

static bool is_older(const struct flow *f, const struct seg *seg, uint64_t now)
{
	return ts_lt(seg->tsval, f->ts_recent) && now - f->ts_recent_at < PAWS_IDLE_NS;
}

/* RFC 7323 5.3 R1, and 3.2 for a segment that lost its timestamps. RSTs are exempt. */
static enum drop check_timestamps(struct stack *s, struct flow *f, const struct seg *seg,
				  uint64_t now)
{
	if (!f->ts_ok || seg->flags & (TCPF_RST | TCPF_SYN))
		return DROP_NONE;
	if (!seg->has_ts)
		return DROP_NO_TIMESTAMP;
	if (is_older(f, seg, now)) {
		answer_unacceptable(s, f, seg, now);
		return DROP_PAWS;
	}
	return DROP_NONE;
}

/* Is any of it inside the window (RFC 9293 3.4, table 6)? A pure ACK may sit at the right
 * edge exactly: that is where a sender stands that has filled the window. */
static bool acceptable(const struct flow *f, const struct seg *seg)
{
	const uint32_t wnd = told_wnd(f);
	const uint32_t space = seg_space(seg);

	if (!space)
		return seq_eq(seg->seq, f->rcv_nxt) || seq_in_window(seg->seq, f->rcv_nxt, wnd + 1);
	return seq_lt(f->rcv_nxt, seq_add(seg->seq, space)) && seq_lt(seg->seq, f->rcv_told);
}

/* Next in line, but our window is shut: its ACK must be heard all the same (MUST-66). */
static void hear_window_probe(struct stack *s, struct flow *f, const struct seg *seg, uint64_t now)
{
	if (f->state != TCP_SYN_RECEIVED && seq_leq(f->snd_una, seg->ack) &&
	    seq_leq(seg->ack, f->snd_nxt)) {
		tcp_process_ack(s, f, seg, now);
		tcp_reap(s, f);
	}
}

static enum drop check_sequence(struct stack *s, struct flow *f, const struct seg *seg,
				uint64_t now)
{
	if (acceptable(f, seg))
		return DROP_NONE;
	if (seg->flags & TCPF_RST)
		return DROP_RST_OUT_OF_WINDOW;
	if (seg->flags & TCPF_SYN) {
		challenge_ack(s, f, now);
		return DROP_CHALLENGE;
	}
	if (f->state == TCP_TIME_WAIT && seg->flags & TCPF_FIN)
		tcp_enter_time_wait(s, f, now); /* restart 2 MSL, MUST-13 */
	if (seq_leq(seq_add(seg->seq, seg_space(seg)), f->rcv_nxt)) {
		if (seg->len && seq_lt(seg->seq, f->rcv_nxt)) { /* RFC 2883 4.1.1 */
			f->dsack_start = seg->seq;
			f->dsack_end = seq_add(seg->seq, seg->len);
			s->stats.rx_dup_bytes += seg->len;
		}
		follow_repeated(s, f, seg);
		answer_unacceptable(s, f, seg, now);
		return DROP_OLD_SEQ;
	}
	if (seg->flags & TCPF_ACK && seq_eq(seg->seq, f->rcv_nxt))
		hear_window_probe(s, f, seg, now);
	if (f->state != TCP_CLOSED)
		challenge_ack(s, f, now);
	return DROP_OUT_OF_WINDOW;
}

/* RFC 5961 3.2: only the exact next sequence number resets. */
static enum drop check_rst(struct stack *s, struct flow *f, const struct seg *seg, uint64_t now)
{
	if (!(seg->flags & TCPF_RST))
		return DROP_NONE;
	if (!seq_eq(seg->seq, f->rcv_nxt)) {
		if (!seq_in_window(seg->seq, f->rcv_nxt, told_wnd(f)))
			return DROP_RST_OUT_OF_WINDOW;
		challenge_ack(s, f, now);
		return DROP_CHALLENGE;
	}
	/* In TIME-WAIT a RST would end the quiet time early (RFC 1337): ignored. */
	if (f->state != TCP_TIME_WAIT)
		tcp_reset(s, f, ECONNRESET);
	return DROP_RESET;
}

/* RFC 5961 4.2: whatever its sequence number. */
static enum drop check_syn(struct stack *s, struct flow *f, const struct seg *seg, uint64_t now)
{
	if (!(seg->flags & TCPF_SYN))
		return DROP_NONE;
	challenge_ack(s, f, now);
	return DROP_CHALLENGE;
}

static void tell_accept(struct stack *s, struct flow *f)
{
	f->app_open = true;
	s->listeners[CHANNEL_LISTENER_SLOT(f->listener)].waiting++;
	f->app->nr_conns++;
	s->nr_conns++;
	f->accept_untold = true;
	flow_deliver(s, f);
}

/* Nothing of a segment is believed before this: RFC 5961 5.2, and for what is not a stream's byte,
 * a timestamp for instance, too. */
static enum drop check_ack(struct stack *s, struct flow *f, const struct seg *seg, uint64_t now)
{
	if (!(seg->flags & TCPF_ACK))
		return DROP_FLAGS;
	if (f->state == TCP_SYN_RECEIVED) /* check_syn_received() has seen that it fits */
		return DROP_NONE;
	if (!acks_what_we_sent(f, seg)) {
		challenge_ack(s, f, now);
		return seq_lt(f->snd_nxt, seg->ack) ? DROP_FUTURE_ACK : DROP_OLD_ACK;
	}
	return DROP_NONE;
}

static void take_ack(struct stack *s, struct flow *f, const struct seg *seg, uint64_t now)
{
	if (f->state != TCP_SYN_RECEIVED) {
		tcp_process_ack(s, f, seg, now);
		return;
	}
	f->snd_una = seg->ack;
	f->snd_wnd = seg->wnd << f->snd_wscale;
	f->snd_wnd_max = f->snd_wnd;
	f->snd_wl1 = seg->seq;
	f->snd_wl2 = seg->ack;
	f->t_rexmit = 0;
	f->backoff = 0;
	f->t_first_unacked = 0;
	tcp_set_state(s, f, TCP_EV_SYN_ACKED);
	tell_accept(s, f);
}

/* RFC 7323 4.3: the timestamp to echo is that of the segment the next ACK answers. */
static void note_timestamp(struct flow *f, const struct seg *seg, uint64_t now)
{
	if (f->ts_ok && seg->has_ts && !is_older(f, seg, now) &&
	    seq_leq(seg->seq, f->last_ack_sent)) {
		f->ts_recent = seg->tsval;
		f->ts_recent_at = now;
	}
}

/* RFC 3168 6.1.3: a mark on data is echoed on every ACK until the sender says that it has slowed
 * down; data with that word may have met congestion again. */
static void note_congestion(struct flow *f, const struct seg *seg)
{
	if (!f->ecn_ok || !seg->len)
		return;
	if (seg->flags & TCPF_CWR)
		f->ecn_echo = false;
	if (seg->ce)
		f->ecn_echo = true;
}

/*
 * What is left of the payload when the part before rcv_nxt and the part behind the
 * window (or behind the peer's FIN) are cut off:
 *
 *      seg.seq          rcv_nxt                    rcv_told or fin_seq
 *        |---- skip -----|======= taken ===============|--- cut ---|
 */
struct cut {
	seq_t start;
	uint32_t skip;
	uint32_t bytes;
};

static struct cut trim(struct flow *f, struct seg *seg)
{
	const seq_t right = f->fin_known ? seq_min(f->fin_seq, f->rcv_told) : f->rcv_told;
	seq_t end = seq_add(seg->seq, seg->len);
	struct cut c = {.start = seq_max(seg->seq, f->rcv_nxt)};

	if (seq_lt(right, end)) {
		end = right;
		seg->flags &= (uint8_t)~TCPF_FIN;
	}
	c.skip = (uint32_t)seq_sub(c.start, seg->seq);
	c.bytes = seq_lt(c.start, end) ? (uint32_t)seq_sub(end, c.start) : 0;
	return c;
}

/* The straightforward case: next in line, nothing waiting behind a hole. */
static int take_in_order(struct stack *s, struct flow *f, struct payload *p, const struct cut *c)
{
	if (!payload_cut(&s->frag_pool, p, c->skip, c->bytes, &f->rcvq))
		return -ENOMEM;
	f->rcv_nxt = seq_add(f->rcv_nxt, c->bytes);
	return 0;
}

/* Above a hole, or filling one. */
static int take_out_of_order(struct stack *s, struct flow *f, struct payload *p,
			     const struct cut *c)
{
	struct frag_list ready = {0};
	struct sack_block dup;
	int64_t added;

	added = assembler_add(&f->ooo, &s->frag_pool, p, c->start, c->skip, c->bytes, &dup);
	if (!seq_eq(dup.start, dup.end)) {
		f->dsack_start = dup.start;
		f->dsack_end = dup.end;
		s->stats.rx_dup_bytes += (uint32_t)seq_sub(dup.end, dup.start);
	}
	stack_settle_payload(s, f, p, FRAG_OOO);
	f->rcv_nxt = assembler_take(&f->ooo, &s->frag_pool, f->rcv_nxt, &ready);
	for (struct rx_frag *frag = ready.head; frag; frag = frag->next)
		frag_move(area_of(frag->frag.netmem)->tracker, frag->frag.netmem, FRAG_OOO,
			  FRAG_RECEIVED);
	frag_list_join(&f->rcvq, &ready);
	return added < 0 ? (int)added : 0;
}

static bool takes_data(enum tcp_state state)
{
	return state == TCP_ESTABLISHED || state == TCP_FIN_WAIT_1 || state == TCP_FIN_WAIT_2;
}

static enum drop take_payload(struct stack *s, struct flow *f, struct seg *seg, struct payload *p,
			      uint64_t now)
{
	const seq_t before = f->rcv_nxt;
	const bool had_hole = f->ooo.nr;
	struct cut c;
	int rc;

	if (!takes_data(f->state))
		return DROP_AFTER_FIN;
	c = trim(f, seg);
	if (!c.bytes)
		return DROP_AFTER_FIN;
	if (!f->app_open) { /* new data after close: nobody will ever read it (RFC 9293 3.6.1) */
		tcp_send_rst(s, f);
		tcp_reset(s, f, ECONNRESET);
		return DROP_CLOSED;
	}
	if (!window_may_hold(s, f, !seq_eq(c.start, before))) {
		tcp_send_ack(s, f, now);
		return DROP_NO_MEMORY;
	}
	if (seq_lt(seg->seq, before)) { /* RFC 2883 4.2: the part that we had */
		f->dsack_start = seg->seq;
		f->dsack_end = before;
		s->stats.rx_dup_bytes += c.skip;
	}
	if (!had_hole && seq_eq(c.start, f->rcv_nxt)) {
		rc = take_in_order(s, f, p, &c);
		stack_settle_payload(s, f, p, FRAG_RECEIVED);
	} else {
		rc = take_out_of_order(s, f, p, &c);
		s->stats.rx_ooo_segments++;
	}
	window_learn(f, seg->len, p->nr);
	if (seg->len > f->rcv_mss)
		f->rcv_mss = (uint16_t)(seg->len < s->cfg.mtu ? seg->len : s->cfg.mtu);
	f->rx_bytes += (uint32_t)seq_sub(f->rcv_nxt, before);
	f->ack_pending += (uint32_t)seq_sub(f->rcv_nxt, before);
	window_grow(s, f, (uint32_t)seq_sub(f->rcv_nxt, before));
	window_account(s, f);
	flow_deliver(s, f);

	/* RFC 5681 4.2: at once, and for each segment, while there is a hole; at once when
	 * one was filled; otherwise when the batch is over. */
	if (seq_eq(before, f->rcv_nxt) || rc)
		tcp_send_ack(s, f, now);
	else
		ack_at_batch_end(s, f, had_hole || !seq_eq(f->dsack_start, f->dsack_end));
	return rc ? DROP_NO_MEMORY : DROP_NONE;
}

/* The application wants the first bytes to end our sending side (LISTEN_CLOSE_FIRST). */
static void close_first(struct stack *s, struct flow *f, uint64_t now)
{
	if (f->app_shut || !f->close_first || !f->rx_bytes)
		return;
	if (f->state != TCP_ESTABLISHED && f->state != TCP_CLOSE_WAIT)
		return;
	f->app_shut = true;
	tcp_set_state(s, f, TCP_EV_CLOSE);
	tcp_push(s, f, now);
}

/* True when the peer's FIN is next in line now, and taken. */
static bool take_fin(struct stack *s, struct flow *f, const struct seg *seg, uint64_t now)
{
	if (seg->flags & TCPF_FIN && !f->fin_known && takes_data(f->state)) {
		const seq_t at = seq_add(seg->seq, seg->len);

		if (seq_lt(at, assembler_end(&f->ooo, at)))
			return false; /* there is data behind it already: one of the two lies */
		f->fin_known = true;
		f->fin_seq = at;
		if (!seq_eq(at, f->rcv_nxt) && !seg->len) /* else its payload was answered */
			tcp_send_ack(s, f, now);
	}
	if (!f->fin_known || !seq_eq(f->fin_seq, f->rcv_nxt) || !takes_data(f->state))
		return false;
	f->rcv_nxt = seq_add(f->rcv_nxt, 1);
	f->rcv_adv = seq_max(f->rcv_adv, f->rcv_nxt);
	f->rcv_told = seq_max(f->rcv_told, f->rcv_nxt);
	ack_at_batch_end(s, f, true);
	tcp_set_state(s, f, TCP_EV_FIN);
	window_account(s, f);
	list_del(&f->starved_node);
	if (f->state == TCP_TIME_WAIT)
		tcp_enter_time_wait(s, f, now);
	flow_deliver(s, f);
	return true;
}

/* A new connection on the four-tuple of one that waits out its 2 MSL, or has never begun. */
static enum drop reopen(struct stack *s, struct flow *f, struct seg *seg, struct payload *p,
			uint64_t now)
{
	tcp_set_state(s, f, TCP_EV_TIMEOUT);
	tcp_reap(s, f);
	return tcp_listen_input(s, seg, p, now);
}

enum drop tcp_input(struct stack *s, struct flow *f, struct seg *seg, struct payload *p,
		    uint64_t now)
{
	const uint32_t id = f->id;
	enum drop drop;

	if (reopens_time_wait(f, seg) || replaces_embryo(s, f, seg, now))
		return reopen(s, f, seg, p, now);
	if ((drop = check_syn_received(s, f, seg, now)) ||
	    (drop = check_timestamps(s, f, seg, now)) || (drop = check_sequence(s, f, seg, now)) ||
	    (drop = check_rst(s, f, seg, now)) || (drop = check_syn(s, f, seg, now)) ||
	    (drop = check_ack(s, f, seg, now)))
		return drop;
	follow_path(s, f, seg);
	note_timestamp(f, seg, now);
	note_congestion(f, seg);
	take_ack(s, f, seg, now);
	if (seg->len)
		drop = take_payload(s, f, seg, p, now);
	/* The connection may be over, and its slot another's, by now. */
	if (f->id == id && (drop == DROP_NONE || drop == DROP_AFTER_FIN) &&
	    take_fin(s, f, seg, now))
		drop = DROP_NONE; /* nothing new in its payload, but its FIN was */
	if (f->id == id)
		close_first(s, f, now);
	if (f->id == id)
		tcp_reap(s, f);
	return drop;
}
