/* SPDX-License-Identifier: Apache-2.0 */
/*
 * window.c - the advertised windows of all flows against the free device buffers.
 *
 * A byte of window is a promise to have a buffer when it arrives, in the area of the queue that
 * the flow comes in by: each area has a budget of its own, and a queue that is attached to another
 * area takes its flows' promises along. Promises are kept in
 * *buffers*: a flow's window divided by what a buffer has been carrying on it (3840
 * bytes for large packets, one MSS or less for small ones). A flow may be promised as
 * much as would be left unpromised afterwards (the dynamic threshold of Choudhury and
 * Hahne): one flow gets half of the free buffers, n flows 1/(n + 1) each.
 *
 *      the area's buffers
 *      |= lent, queued =|== promised: flow 1 | flow 2 | ... ==|== spare ==| reserve |
 *
 * A promise is never taken back (the right edge never moves left, RFC 9293 SHLD-14), it
 * is used up by the data that arrives. Idle flows would therefore keep all others out:
 * a window starts small and grows with what comes (rcv_ssthresh, as Linux), and a flow
 * that holds nothing is let in with two segments though all has been promised to others.
 * What embryos were promised counts against other embryos only: a flood of SYNs must not
 * shut the windows of those that are established.
 *
 * Under PRESSURE_DROP a window says only how much is not yet delivered, as the kernel's does.
 * That is no promise and not accounted as one; such a flow takes what comes free as long as
 * there is more than others were promised, and then its segments are dropped.
 */
#include "core.h"

#define FILL_SLACK 64 /* buffers in a fill ring beyond what is promised: a batch of bare segments */

#define REOPEN_BUDGET 64

#define INITIAL_SEGMENTS 10 /* what a sender begins with: RFC 6928 2 */
#define INITIAL_MAX 0xffffu /* as much as a SYN-ACK can say */
/* Bytes of window for each byte in order: it triples in a round trip, so that it stays
 * ahead of a sender in slow start, which doubles. */
#define GROWTH 2

#define LEARN_MIN 64 /* bytes a buffer is taken to carry at least */

/* A buffer should carry so much, if its flow is to have more than are left to all others. Linux
 * charges what a segment really takes (truesize), so that few bytes in many segments fill a
 * receive buffer as well. */
#define BYTES_A_BUFFER 256

/* What is not used for so long is reclaimed: four retransmissions in a row that were lost, and
 * the hole that they were to fill is not the network's doing. */
#define RECLAIM_NS (4 * NS_PER_S)
#define KEPT_LEAST 2 /* buffers */

/* Buffers that hold nothing and that this queue could be given: at rest in its area's pool,
 * or in its fill ring. What lies in another's cannot be taken back. */
static uint32_t free_bufs(const struct stack *s, uint32_t queue)
{
	const struct rx_queue *rx = &s->rx[queue];

	return rx->area ? page_pool_available(rx->area->pool) + rx->fill : 0;
}

static uint32_t reserve(const struct stack *s, uint32_t queue)
{
	return s->rx[queue].area ? s->rx[queue].area->reserve : 0;
}

static uint32_t buffers_for(const struct flow *f, uint32_t bytes)
{
	return (bytes + f->bytes_per_buf - 1) / f->bytes_per_buf;
}

static void promise(struct stack *s, struct flow *f, uint32_t bufs)
{
	struct rx_queue *rx = &s->rx[f->queue];
	const uint32_t more = bufs - f->promised; /* or less: it wraps */

	f->promised = bufs;
	if (f->pressure == PRESSURE_DROP) {
		rx->unbacked += more;
		return;
	}
	if (f->state == TCP_SYN_RECEIVED)
		rx->promised_embryos += more;
	rx->promised += more;
	if (f->app)
		f->app->promised[f->queue] += more;
}

void window_forget(struct stack *s, struct flow *f)
{
	promise(s, f, 0);
}

/* What has been promised to flows other than this one, and counts against it: on its own
 * queue all of it, on others of the same area what is still to be taken from the pool. */
static uint32_t promised_to_others(const struct stack *s, const struct flow *f)
{
	const bool embryo = f->state == TCP_SYN_RECEIVED;
	const uint32_t own = f->pressure == PRESSURE_DROP ? 0 : f->promised;
	uint32_t bufs = 0;

	for (uint32_t q = 0; q < s->cfg.nr_queues; q++) {
		const struct rx_queue *rx = &s->rx[q];
		const uint32_t due = rx->promised - (embryo ? 0 : rx->promised_embryos);

		if (rx->area != s->rx[f->queue].area)
			continue;
		if (q == f->queue)
			bufs += due - own;
		else if (due > rx->fill)
			bufs += due - rx->fill;
	}
	return bufs;
}

/* What this flow's application has of the area already, by its other flows or in this one's hands.
 * Where there are several applications that counts once more: all flows of one get half of what is
 * free and no more, so that one that does not read leaves room for the others. */
static uint32_t counted_twice(const struct stack *s, const struct flow *f)
{
	const struct area *a = s->rx[f->queue].area;
	uint32_t bufs;

	if (s->nr_apps < 2 || !f->app || !a)
		return 0;
	bufs = f->app->held[a->number];
	for (uint32_t q = 0; q < s->cfg.nr_queues; q++)
		if (s->rx[q].area == a)
			bufs += f->app->promised[q];
	return f->pressure == PRESSURE_DROP ? bufs : bufs - f->promised;
}

/* The window before scaling rounds it: what is promised. */
static uint32_t promised_wnd(const struct flow *f)
{
	return (uint32_t)seq_sub(f->rcv_adv, f->rcv_nxt);
}

/* May the peer still send data? After its FIN, and once all is over, no buffer is due. */
static bool may_receive(const struct flow *f)
{
	return f->state == TCP_SYN_RECEIVED || f->state == TCP_ESTABLISHED ||
	       f->state == TCP_FIN_WAIT_1 || f->state == TCP_FIN_WAIT_2;
}

void window_account(struct stack *s, struct flow *f)
{
	const uint32_t wnd = may_receive(f) ? promised_wnd(f) : 0;
	/* What lies out of order inside the window has its buffers already. */
	const uint32_t due = wnd > f->ooo.bytes ? buffers_for(f, wnd - f->ooo.bytes) : 0;

	promise(s, f, due < f->kept_bufs ? due : f->kept_bufs);
}

/* Down quickly, up slowly: too small an estimate costs throughput, too large a drop. But a
 * window that is charged a buffer a byte would be all there is. */
void window_learn(struct flow *f, uint32_t bytes, uint32_t bufs)
{
	const uint32_t seen = bytes / bufs > LEARN_MIN ? bytes / bufs : LEARN_MIN;
	const int32_t diff = (int32_t)seen - (int32_t)f->bytes_per_buf;

	f->bytes_per_buf += (uint32_t)(diff < 0 ? diff / 4 : (diff + 15) / 16);
}

/* One segment of the peer's, in bytes; of a large MSS, what fits one buffer. */
static uint32_t one_segment(const struct stack *s)
{
	const uint32_t mss = tcp_mss(s, 4);

	return mss < STACK_CHUNK_DATA ? mss : STACK_CHUNK_DATA;
}

/* Of one, what scaling rounds off would stay and keep a window from being renewed. */
static uint32_t two_segments(const struct stack *s)
{
	return 2 * one_segment(s);
}

void window_start(const struct stack *s, struct flow *f)
{
	const uint32_t initial = INITIAL_SEGMENTS * tcp_mss(s, 4);

	f->bytes_per_buf = one_segment(s);
	f->kept_bufs = UINT32_MAX;
	f->reclaim_nxt = f->rcv_nxt;
	f->rcv_ssthresh = initial < INITIAL_MAX ? initial : INITIAL_MAX;
	if (f->rcv_ssthresh > s->cfg.rcv_wnd_max)
		f->rcv_ssthresh = s->cfg.rcv_wnd_max;
}

void window_start_cookie(const struct stack *s, struct flow *f)
{
	const uint32_t wnd = two_segments(s) < f->rcv_ssthresh ? two_segments(s) : f->rcv_ssthresh;

	f->rcv_adv = f->rcv_told = seq_add(f->rcv_nxt, wnd);
}

void window_grow(const struct stack *s, struct flow *f, uint32_t bytes)
{
	const uint64_t grown = f->rcv_ssthresh + (uint64_t)GROWTH * bytes;

	f->rcv_ssthresh = grown < s->cfg.rcv_wnd_max ? (uint32_t)grown : s->cfg.rcv_wnd_max;
}

/* A window of zero that only idle flows keep shut might never open again: half of the
 * reserve is for flows that hold nothing. If too many come at once some of it is dropped. */
static uint32_t least_room(const struct stack *s, const struct flow *f)
{
	if (f->tokens || f->rcvq.nr || free_bufs(s, f->queue) <= reserve(s, f->queue) / 2)
		return 0;
	if (s->nr_apps > 1 && counted_twice(s, f) >= s->rx[f->queue].area->nr / s->nr_apps)
		return 0; /* many flows that hold nothing are something together */
	return two_segments(s);
}

/* The largest window that this flow can be told of: until scaling is in force, and without it for
 * ever, 16 bits are all there is. */
static uint32_t window_limit(const struct flow *f)
{
	return f->rcv_wscale && f->state != TCP_SYN_RECEIVED ? 0xffffu << f->rcv_wscale : 0xffff;
}

/* Buffers with bytes in order that the application has not let go of, at most. */
static uint32_t held(const struct flow *f)
{
	return f->tokens + f->rcvq.nr;
}

/* The largest window this flow could be given now, in bytes. */
static uint32_t window_room(const struct stack *s, const struct flow *f)
{
	const uint64_t most = window_limit(f);
	int64_t spare;
	uint64_t bytes;

	if (f->pressure == PRESSURE_DROP) {
		bytes = f->rcvq.bytes < s->cfg.rcv_wnd_max ? s->cfg.rcv_wnd_max - f->rcvq.bytes : 0;
		return (uint32_t)(bytes < most ? bytes : most);
	}
	spare = (int64_t)free_bufs(s, f->queue) - reserve(s, f->queue) - promised_to_others(s, f) -
		counted_twice(s, f);
	if (f->bytes_per_buf < BYTES_A_BUFFER)
		spare -= held(f);
	bytes = spare > 0 ? (uint64_t)spare / 2 * f->bytes_per_buf + f->ooo.bytes : 0;
	if (bytes < least_room(s, f))
		bytes = least_room(s, f);
	if (bytes > f->rcv_ssthresh)
		bytes = f->rcv_ssthresh;
	return (uint32_t)(bytes < most ? bytes : most);
}

/* A window under PRESSURE_DROP says nothing of what is free: it must not be filled with what
 * others were told they can have, or with another application's half. Among its like, who comes
 * first. */
static bool takes_from_others(const struct stack *s, const struct flow *f, uint32_t free)
{
	const uint32_t promised = promised_to_others(s, f);

	return free < counted_twice(s, f) || (promised && free < promised + reserve(s, f->queue));
}

/* Is what lies above a hole no more than a sender of decent segments would need for its window? */
static bool holds_as_promised(const struct flow *f)
{
	return f->pressure == PRESSURE_WINDOW && f->bytes_per_buf >= BYTES_A_BUFFER &&
	       (uint64_t)f->ooo.frags * BYTES_A_BUFFER <= promised_wnd(f);
}

/*
 * A window is counted in bytes, and a peer may spend it one byte a buffer: with little in each it
 * gets no more buffers than it leaves to all others. Where promises no longer cover what comes, the
 * reserve is kept: for what fills a hole, and so frees what lies above it, for flows that hold
 * nothing, and for segments without data. A fill ring that is empty would not even hear the RST of
 * the connection that has emptied it.
 */
bool window_may_hold(const struct stack *s, const struct flow *f, bool island)
{
	const uint32_t free = free_bufs(s, f->queue), kept = reserve(s, f->queue);
	const bool fair = held(f) + f->ooo.frags + kept < free;

	if (f->pressure == PRESSURE_DROP && takes_from_others(s, f, free))
		return false;
	if (island)
		return free > kept && (fair || holds_as_promised(f));
	if (f->pressure == PRESSURE_DROP ||
	    !held(f)) /* nor must what lies above a hole keep it open */
		return true;
	return free > kept / 2 && (fair || f->bytes_per_buf >= BYTES_A_BUFFER);
}

/* The smallest step worth telling: RFC 9293 3.8.6.2.2 (receiver's SWS avoidance). */
static uint32_t smallest_step(const struct stack *s, const struct flow *f)
{
	const uint32_t half = s->cfg.rcv_wnd_max / 2;

	return f->rcv_mss < half ? f->rcv_mss : half;
}

uint32_t window_advertise(struct stack *s, struct flow *f)
{
	const uint32_t now = promised_wnd(f);
	uint32_t room;

	if (!may_receive(f))
		return now;
	room = window_room(s, f);
	if (room >= now + smallest_step(s, f)) {
		f->rcv_adv = seq_add(f->rcv_nxt, room);
		window_account(s, f);
	}
	if (promised_wnd(f) < f->rcv_ssthresh / 2 && promised_wnd(f) < window_limit(f) / 2)
		list_add_tail(&s->starved, &f->starved_node);
	else
		list_del(&f->starved_node);
	return promised_wnd(f);
}

/* Would this flow's peer gain from an update? As Linux: when the window at least doubles. */
static bool worth_telling(const struct stack *s, const struct flow *f)
{
	const uint32_t wnd = promised_wnd(f), room = window_room(s, f);

	return f->state != TCP_SYN_RECEIVED && room >= 2 * wnd && room >= wnd + smallest_step(s, f);
}

void window_reopen(struct stack *s, uint64_t now)
{
	const struct list_node *first = NULL;

	s->buffers_back = false;
	/* A few a call, in turn: ten thousand hungry flows must not stall the loop. */
	for (int budget = REOPEN_BUDGET; budget && !list_empty(&s->starved); budget--) {
		struct list_node *n = s->starved.next;
		struct flow *f = container_of(n, struct flow, starved_node);

		if (n == first)
			break;
		first = first ? first : n;
		list_del(n);
		list_add_tail(&s->starved, n);
		if (!worth_telling(s, f))
			continue;
		s->stats.tx_window_updates++;
		tcp_send_ack(s, f, now);
	}
}

/* Is less than half of the queue's area neither in use nor promised? */
static bool is_short(const struct stack *s, uint32_t queue)
{
	const struct area *a = s->rx[queue].area;
	uint32_t free, promised = 0;

	if (!a)
		return false;
	free = page_pool_available(a->pool);
	for (uint32_t q = 0; q < s->cfg.nr_queues; q++) {
		if (s->rx[q].area != a)
			continue;
		free += s->rx[q].fill;
		promised += s->rx[q].promised;
	}
	return free < promised + a->nr / 2;
}

static void reclaim(struct stack *s, struct flow *f)
{
	const struct island *first = f->ooo.first;
	const uint32_t used = buffers_for(f, (uint32_t)seq_sub(f->rcv_nxt, f->reclaim_nxt));

	if (first && seq_eq(first->start, f->reclaim_hole)) {
		s->stats.rx_ooo_pruned += f->ooo.bytes;
		tcp_drop_ooo(s, f);
	}
	f->reclaim_hole = first ? first->start : f->irs;
	f->reclaim_nxt = f->rcv_nxt;
	f->kept_bufs = 2 * used + KEPT_LEAST;
	window_account(s, f);
}

/*
 * Where an area is short, what nobody makes use of is for those who would. Nothing that was
 * acknowledged is touched, and no right edge moves.
 *
 * Bytes above a hole that has stood there all the time are given up. Their sender has them still
 * (RFC 2018 8) and has let all its time-outs pass: it hoards, or it is gone. The kernel does so,
 * too, and without waiting (tcp_prune_ofo_queue()).
 *
 * Of a window, twice as many buffers are kept as came meanwhile, and two more. Should all who
 * were quiet come back at once, some of it is dropped, as where all is promised.
 */
void window_reclaim(struct stack *s, uint64_t now)
{
	bool any = false;

	if (now < s->reclaim_at)
		return;
	s->reclaim_at = now + RECLAIM_NS;
	for (uint32_t q = 0; q < s->cfg.nr_queues; q++)
		any |= is_short(s, q);
	for (uint32_t slot = 1; any && slot < s->flows.used; slot++) {
		struct flow *f = &s->flows.flows[slot];

		if (f->id && may_receive(f) && is_short(s, f->queue))
			reclaim(s, f);
	}
	s->buffers_back |= any;
}

/* What is in one queue's ring the others of its area cannot have: beyond what was promised, and
 * that is what nobody has, a queue gets no more than its share. */
uint32_t window_fill_target(const struct stack *s, uint32_t queue)
{
	const struct rx_queue *rx = &s->rx[queue];
	const uint32_t share = rx->area->nr / rx->area->queues;
	const uint32_t least = s->cfg.fill_min < share / 4 ? s->cfg.fill_min : share / 4;
	const uint32_t slack = FILL_SLACK < share / 2 ? FILL_SLACK : share / 2;
	const uint32_t unbacked = rx->unbacked < share ? rx->unbacked : share;
	const uint32_t want = rx->promised + unbacked + slack;

	if (want > s->cfg.fill_max)
		return s->cfg.fill_max;
	return want < least ? least : want;
}
