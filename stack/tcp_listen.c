/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_listen.c - listeners, and segments that belong to no connection: the CLOSED and
 * LISTEN parts of RFC 9293 3.10.7.1 and 3.10.7.2.
 *
 *   SYN -> accept_syn() -> embryo_slot() -> open_embryo()   remembered, while there is room
 *                       -> send_cookie()                    or not
 *   ACK -> accept_ack() -> syncookie_check() -> proven_slot() -> open_embryo() -> tcp_input()
 *
 * Floods: an embryo costs its sender nothing, so embryos are bounded by their listener's backlog
 * and all together by the slots that are free; a cookie costs us nothing. A slot that somebody has
 * proven to be there for, by the ACK of a cookie, is taken from an embryo if need be.
 */
#include <errno.h>
#include <string.h>

#include "core.h"
#include "secure_seq.h"

/* ---- listeners ---- */

#define LISTENER_GENERATIONS (1u << (31 - CHANNEL_LISTENER_SLOT_BITS)) /* ids stay positive */

static struct listener *listener_by_id(struct stack *s, uint32_t id)
{
	const uint32_t slot = CHANNEL_LISTENER_SLOT(id);

	if (slot >= s->cfg.max_listeners || !s->listeners[slot].open || s->listeners[slot].id != id)
		return NULL;
	return &s->listeners[slot];
}

/* Each of a slot has another id: late news of one must not be taken for its successor's. */
static void open_listener(struct listener *l, uint32_t slot, const struct listener *wanted)
{
	const uint32_t generation = l->generation;

	*l = *wanted;
	l->id = generation << CHANNEL_LISTENER_SLOT_BITS | slot;
	l->generation = (generation + 1) % LISTENER_GENERATIONS;
	l->open = true;
	list_init(&l->oldest);
}

int stack_listen(struct stack *s, int app, const struct stack_addr *local, uint32_t flags,
		 uint32_t backlog, uint32_t pressure)
{
	int free = -ENOSPC;

	if (app < 0 || (uint32_t)app >= s->cfg.max_apps || !s->apps[app])
		return -ENOENT;
	if ((local->family != 4 && local->family != 6) || !local->port || !backlog ||
	    pressure > PRESSURE_DROP)
		return -EINVAL;
	for (uint32_t i = 0; i < s->cfg.max_listeners; i++) {
		const struct listener *l = &s->listeners[i];

		if (l->open && !memcmp(&l->local, local, sizeof(*local)))
			return -EADDRINUSE;
		if (!l->open && !l->embryos && free < 0)
			free = (int)i;
	}
	if (free < 0)
		return free;
	open_listener(&s->listeners[free], (uint32_t)free,
		      &(struct listener){.local = *local,
					 .app = s->apps[app],
					 .flags = flags,
					 .backlog = backlog,
					 .pressure = pressure});
	return (int)s->listeners[free].id;
}

int stack_unlisten(struct stack *s, int listener)
{
	struct listener *l = listener_by_id(s, (uint32_t)listener);

	if (!l)
		return -ENOENT;
	l->open = false;
	return 0;
}

void listeners_forget(struct stack *s, const struct application *app)
{
	for (uint32_t i = 0; i < s->cfg.max_listeners; i++) {
		struct listener *l = &s->listeners[i];

		if (l->app != app)
			continue;
		l->open = false;
		l->app = NULL;
		while (l->embryos)
			tcp_reset(s, container_of(l->oldest.next, struct flow, age_node),
				  ECONNABORTED);
	}
}

/* ---- connections ---- */

static uint8_t our_wscale(uint32_t rcv_wnd_max)
{
	uint8_t shift = 0;

	while (shift < TCP_WSCALE_MAX && rcv_wnd_max >> shift > 0xffff)
		shift++;
	return shift;
}

/* What segments to this peer may carry, options included. */
static uint32_t peer_mss(const struct stack *s, const struct seg *syn)
{
	const int family = syn->tuple.family;
	uint32_t mss = syn->mss;

	if (!mss)
		mss = family == 4 ? TCP_MSS_DEFAULT_V4 : TCP_MSS_DEFAULT_V6;
	if (mss > tcp_mss(s, family))
		mss = tcp_mss(s, family);
	return mss < TCP_MSS_MIN ? TCP_MSS_MIN : mss;
}

static void take_options(const struct stack *s, struct flow *f, const struct seg *syn, uint64_t now)
{
	f->rcv_mss = TCP_MSS_DEFAULT_V4;
	f->ts_ok = syn->has_ts;
	f->ts_recent = syn->tsval;
	f->ts_recent_at = now;
	f->snd_mss = peer_mss(s, syn) - (f->ts_ok ? 12 : 0);
	f->sack_ok = syn->sack_ok;
	f->ecn_ok = seg_asks_for_ecn(syn);
	f->wscale_ok = syn->has_wscale;
	if (f->wscale_ok) {
		f->snd_wscale = syn->wscale;
		f->rcv_wscale = our_wscale(s->cfg.rcv_wnd_max);
	}
}

static void open_flow(const struct stack *s, struct flow *f, const struct seg *syn, seq_t iss,
		      uint64_t now)
{
	f->link = syn->link;
	f->queue = syn->queue;
	f->irs = syn->seq;
	f->rcv_nxt = f->rcv_adv = f->rcv_told = f->last_ack_sent = seq_add(syn->seq, 1);
	f->iss = iss;
	f->snd_una = f->iss;
	f->snd_nxt = f->snd_resend = seq_add(f->iss, 1);
	f->snd_wnd = f->snd_wnd_max = syn->wnd; /* never scaled on a SYN, RFC 7323 2.2 */
	f->snd_wl1 = syn->seq;
	f->snd_wl2 = f->iss;
	f->ts_offset = secure_tcp_ts_off(s, &f->tuple);
	window_start(s, f);
	f->rto_ns = TCP_RTO_INITIAL;
	f->quick_acks = 16;
	assembler_init(&f->ooo);
	take_options(s, f, syn, now);
	f->cwnd = 10 * f->snd_mss; /* RFC 6928 */
	f->ssthresh = UINT32_MAX;
}

/* A table full of connections that only wait out their 2 MSL still has room: the oldest
 * goes (RFC 9293 3.10.7.4 allows it for new connections; better than refusing a client). */
static struct flow *replace_time_wait(struct stack *s, const struct tuple *tuple)
{
	struct flow *f = NULL;

	for (struct list_node *n = s->time_wait.next; !f && n != &s->time_wait;) {
		struct flow *old = container_of(n, struct flow, age_node);

		n = n->next;
		if (old->app_open)
			continue; /* its slot is the application's until it closes */
		tcp_set_state(s, old, TCP_EV_TIMEOUT);
		tcp_reap(s, old);
		f = flow_new(&s->flows, tuple);
	}
	return f;
}

/*
 * RFC 4987 3.4: the oldest embryo is given up if its SYN-ACK has waited in vain for as long as one
 * waits before it is sent again. The kernel, too, calls an embryo young until then, and gives up
 * others first. Few SYNs a second, spread over the minutes that an embryo lives, would otherwise
 * be enough to have all clients get cookies.
 */
static bool evict_embryo(struct stack *s, struct listener *l)
{
	struct flow *oldest;

	if (list_empty(&l->oldest))
		return false;
	oldest = container_of(l->oldest.next, struct flow, age_node);
	if (!oldest->backoff)
		return false;
	tcp_set_state(s, oldest, TCP_EV_TIMEOUT);
	tcp_reap(s, oldest);
	return true;
}

/* From the listener that has most: whose flood it is that has filled the table. */
static bool evict_flooder(struct stack *s)
{
	struct listener *most = &s->listeners[0];

	for (uint32_t i = 1; i < s->cfg.max_listeners; i++)
		if (s->listeners[i].embryos > most->embryos)
			most = &s->listeners[i];
	return evict_embryo(s, most);
}

/* Several applications: one that accepts and never closes leaves slots for the others, though not
 * for their embryos, which yield. */
static bool has_enough(const struct stack *s, const struct application *app, uint32_t held)
{
	if (app->max_conns && held >= app->max_conns)
		return true;
	return s->nr_apps > 1 && held >= s->cfg.max_flows - s->nr_conns - (held - app->nr_conns);
}

#define RECOUNT_NS (1 * NS_PER_MS)

/* Which connections it has taken the application writes down, and that is read only when there
 * seem to be too many that it has not: each was counted when it came, and none when it went. */
static void count_waiting(struct stack *s, struct listener *l)
{
	l->waiting = 0;
	for (uint32_t slot = 1; slot < s->flows.used; slot++) {
		const struct flow *f = &s->flows.flows[slot];

		if (f->id && f->app_open && f->listener == l->id)
			l->waiting += !application_has_accepted(l->app, slot, f->id);
	}
}

/* Do as many connections wait for accept() as its backlog says? */
static bool accept_queue_full(struct stack *s, struct listener *l, uint64_t now)
{
	/* Nobody has come since they were counted: a flood is not to have them counted each time. */
	const bool known = l->waiting == l->counted && now - l->counted_at < RECOUNT_NS;

	if (l->waiting >= l->backlog && !known) {
		count_waiting(s, l);
		l->counted = l->waiting;
		l->counted_at = now;
	}
	return l->waiting >= l->backlog;
}

/* For a SYN. Embryos count against their application, or a burst of SYNs would be past its bound
 * before the first handshake is done; and half of what is free is kept for who has done one. */
static struct flow *embryo_slot(struct stack *s, struct listener *l, const struct tuple *tuple)
{
	const uint32_t held = l->app->nr_conns + l->app->nr_embryos;
	struct flow *f;

	if ((l->embryos >= l->backlog || has_enough(s, l->app, held)) && !evict_embryo(s, l))
		return NULL;
	if (s->nr_embryos < flows_free(&s->flows))
		return flow_new(&s->flows, tuple);
	f = replace_time_wait(s, tuple);
	return f || !evict_flooder(s) ? f : flow_new(&s->flows, tuple);
}

/* For the ACK of a cookie. */
static struct flow *proven_slot(struct stack *s, const struct tuple *tuple)
{
	struct flow *f = flow_new(&s->flows, tuple);

	if (!f)
		f = replace_time_wait(s, tuple);
	return f || !evict_flooder(s) ? f : flow_new(&s->flows, tuple);
}

static void open_embryo(struct stack *s, struct listener *l, struct flow *f, const struct seg *syn,
			seq_t iss, uint64_t now)
{
	f->app = l->app;
	f->listener = l->id;
	f->pressure = (uint8_t)l->pressure;
	f->close_first = l->flags & LISTEN_CLOSE_FIRST;
	tcp_set_state(s, f, TCP_EV_OPEN);
	open_flow(s, f, syn, iss, now);
	s->nr_embryos++;
	l->embryos++;
	l->app->nr_embryos++;
	list_add_tail(&l->oldest, &f->age_node);
	s->stats.flows_opened++;
	tcp_set_state(s, f, TCP_EV_SYN);
	tcp_rexmit_arm(s, f, now);
}

/* The SYN-ACK of a flow that is forgotten when it is sent. What no timestamp brings back is not
 * agreed upon. */
static void send_cookie(struct stack *s, struct listener *l, const struct seg *syn, uint64_t now)
{
	struct flow f = {.tuple = syn->tuple};
	struct seg kept = *syn;

	if (!syn->has_ts) {
		kept.has_wscale = kept.sack_ok = false;
		kept.flags = TCPF_SYN; /* no ECN */
	}
	open_flow(s, &f, &kept, syncookie_make(s, syn, peer_mss(s, syn), now), now);
	window_start_cookie(s, &f);
	tcp_send_synack(s, &f, now);
	l->cookies_until = now + SYNCOOKIE_VALID_NS;
	s->stats.syncookies_sent++;
}

static enum drop accept_syn(struct stack *s, struct listener *l, const struct seg *syn,
			    uint64_t now)
{
	struct flow *f;

	if (has_enough(s, l->app, l->app->nr_conns) || s->nr_conns == s->cfg.max_flows ||
	    accept_queue_full(s, l, now))
		return DROP_BACKLOG;
	f = embryo_slot(s, l, &syn->tuple);
	if (!f) {
		send_cookie(s, l, syn, now);
		return DROP_NONE;
	}
	open_embryo(s, l, f, syn, secure_tcp_seq(s, &f->tuple, now), now);
	/* Data on the SYN is not taken: our SYN-ACK covers the SYN alone and the peer
	 * sends it again. */
	tcp_send_synack(s, f, now);
	return DROP_NONE;
}

/* Looked at only while they can be about: at all other times there is nothing to be guessed. */
static bool answers_cookie(const struct stack *s, const struct listener *l, const struct seg *seg,
			   uint64_t now, struct seg *syn)
{
	return now < l->cookies_until && !(seg->flags & TCPF_SYN) &&
	       syncookie_check(s, seg, now, syn);
}

static enum drop accept_ack(struct stack *s, struct listener *l, struct seg *ack, struct payload *p,
			    uint64_t now)
{
	struct seg syn;
	struct flow *f;

	if (!answers_cookie(s, l, ack, now, &syn)) {
		s->stats.syncookies_failed += now < l->cookies_until;
		tcp_send_rst_for(s, ack);
		return DROP_NO_FLOW;
	}
	s->stats.syncookies_recv++;
	if (has_enough(s, l->app, l->app->nr_conns) || accept_queue_full(s, l, now))
		return DROP_BACKLOG; /* no RST: its data comes again, and then there may be room */
	f = proven_slot(s, &ack->tuple);
	if (!f)
		return DROP_NO_MEMORY;
	open_embryo(s, l, f, &syn, seq_add(ack->ack, UINT32_MAX), now);
	window_start_cookie(s, f);
	return tcp_input(s, f, ack, p, now);
}

static struct listener *listener_of(const struct stack *s, const struct seg *seg)
{
	const int listener = listener_find(s->listeners, s->cfg.max_listeners, &seg->tuple);

	return listener < 0 ? NULL : &s->listeners[listener];
}

bool tcp_listen_cookie(const struct stack *s, const struct seg *seg, uint64_t now)
{
	const struct listener *l = listener_of(s, seg);
	struct seg syn;

	return l && answers_cookie(s, l, seg, now, &syn);
}

enum drop tcp_listen_input(struct stack *s, struct seg *seg, struct payload *p, uint64_t now)
{
	struct listener *l = listener_of(s, seg);

	if (seg->flags & TCPF_RST)
		return DROP_NO_FLOW;
	if (!l) {
		tcp_send_rst_for(s, seg);
		return DROP_NO_LISTENER;
	}
	if (seg->flags & TCPF_ACK)
		return accept_ack(s, l, seg, p, now);
	if ((seg->flags & (TCPF_SYN | TCPF_FIN)) != TCPF_SYN)
		return DROP_FLAGS;
	return accept_syn(s, l, seg, now);
}
