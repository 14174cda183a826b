/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_listen.c - listeners, and segments that belong to no connection: the CLOSED and
 * LISTEN parts of RFC 9293 3.10.7.1 and 3.10.7.2.
 */
#include <errno.h>
#include <string.h>

#include "core.h"
#include "siphash.h"

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

/* RFC 6528: a 4 us clock plus a keyed hash of the four-tuple, so that numbers of one
 * tuple go up and those of another cannot be told from them. */
static seq_t initial_seq(const struct stack *s, const struct tuple *t, uint64_t now)
{
	return seq((uint32_t)(now / (4 * NS_PER_US)) +
		   (uint32_t)siphash(t, sizeof(*t), s->cfg.isn_key));
}

static uint8_t our_wscale(uint32_t rcv_wnd_max)
{
	uint8_t shift = 0;

	while (shift < TCP_WSCALE_MAX && rcv_wnd_max >> shift > 0xffff)
		shift++;
	return shift;
}

static void take_options(const struct stack *s, struct flow *f, const struct seg *syn, uint64_t now)
{
	const bool v4 = f->tuple.family == 4;
	uint32_t mss = syn->mss;

	if (!mss)
		mss = v4 ? TCP_MSS_DEFAULT_V4 : TCP_MSS_DEFAULT_V6;
	if (mss > tcp_mss(s, f->tuple.family))
		mss = tcp_mss(s, f->tuple.family);
	if (mss < 64) /* a peer cannot make us send a header for each byte */
		mss = 64;
	f->rcv_mss = TCP_MSS_DEFAULT_V4;
	f->ts_ok = syn->has_ts;
	f->ts_recent = syn->tsval;
	f->ts_recent_at = now;
	f->snd_mss = mss - (f->ts_ok ? 12 : 0);
	f->sack_ok = syn->sack_ok;
	f->ecn_ok = seg_asks_for_ecn(syn);
	f->wscale_ok = syn->has_wscale;
	if (f->wscale_ok) {
		f->snd_wscale = syn->wscale;
		f->rcv_wscale = our_wscale(s->cfg.rcv_wnd_max);
	}
}

static void open_flow(struct stack *s, struct flow *f, const struct seg *syn, uint64_t now)
{
	f->link = syn->link;
	f->queue = syn->queue;
	f->irs = syn->seq;
	f->rcv_nxt = f->rcv_adv = f->rcv_told = f->last_ack_sent = seq_add(syn->seq, 1);
	f->iss = initial_seq(s, &f->tuple, now);
	f->snd_una = f->iss;
	f->snd_nxt = f->snd_resend = seq_add(f->iss, 1);
	f->snd_wnd = f->snd_wnd_max = syn->wnd; /* never scaled on a SYN, RFC 7323 2.2 */
	f->snd_wl1 = syn->seq;
	f->snd_wl2 = f->iss;
	f->ts_offset = (uint32_t)(siphash(&f->tuple, sizeof(f->tuple), s->cfg.isn_key) >> 32);
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
 * RFC 4987 3.4: a full backlog, or table, gives up the oldest embryo, if that has had time
 * enough to answer. So a flood of SYNs that nobody will ever acknowledge does not shut real
 * clients out, and a burst of real ones is not cut off in the middle of its handshakes.
 */
#define EMBRYO_MIN_AGE (100 * NS_PER_MS)

static bool evict_embryo(struct stack *s, struct listener *l, uint64_t now)
{
	struct flow *oldest;

	if (list_empty(&l->oldest))
		return false;
	oldest = container_of(l->oldest.next, struct flow, age_node);
	if (now - oldest->t_first_unacked < EMBRYO_MIN_AGE)
		return false;
	tcp_set_state(s, oldest, TCP_EV_TIMEOUT);
	tcp_reap(s, oldest);
	return true;
}

/* Whose flood it is that has filled the table. */
static struct listener *most_embryos(struct stack *s)
{
	struct listener *most = &s->listeners[0];

	for (uint32_t i = 1; i < s->cfg.max_listeners; i++)
		if (s->listeners[i].embryos > most->embryos)
			most = &s->listeners[i];
	return most->embryos ? most : NULL;
}

/* A slot for a new connection, at the expense of one that is over or has never begun. */
static struct flow *make_room(struct stack *s, const struct tuple *tuple, uint64_t now)
{
	struct flow *f = flow_new(&s->flows, tuple);
	struct listener *flooded;

	if (!f)
		f = replace_time_wait(s, tuple);
	if (f)
		return f;
	flooded = most_embryos(s);
	return flooded && evict_embryo(s, flooded, now) ? flow_new(&s->flows, tuple) : NULL;
}

/*
 * Several applications: one that accepts and never closes leaves slots for the others. Embryos
 * count, or a burst of SYNs would be past the bound before the first handshake is done; those
 * of others do not, because make_room() takes their slots away.
 */
static bool has_enough(const struct stack *s, const struct application *app)
{
	const uint32_t held = app->nr_conns + app->nr_embryos;

	if (app->max_conns && held >= app->max_conns)
		return true;
	return s->nr_apps > 1 && held >= s->cfg.max_flows - s->nr_conns - app->nr_embryos;
}

static enum drop accept_syn(struct stack *s, struct listener *l, const struct seg *syn,
			    uint64_t now)
{
	struct flow *f;

	if ((has_enough(s, l->app) || l->embryos >= l->backlog) && !evict_embryo(s, l, now))
		return DROP_BACKLOG;
	f = make_room(s, &syn->tuple, now);
	if (!f)
		return DROP_NO_MEMORY;
	f->app = l->app;
	f->listener = l->id;
	f->pressure = (uint8_t)l->pressure;
	f->close_first = l->flags & LISTEN_CLOSE_FIRST;
	tcp_set_state(s, f, TCP_EV_OPEN);
	open_flow(s, f, syn, now);
	l->embryos++;
	l->app->nr_embryos++;
	list_add_tail(&l->oldest, &f->age_node);
	s->stats.flows_opened++;
	tcp_set_state(s, f, TCP_EV_SYN);
	/* Data on the SYN is not taken: our SYN-ACK covers the SYN alone and the peer
	 * sends it again. */
	tcp_send_synack(s, f, now);
	tcp_rexmit_arm(s, f, now);
	return DROP_NONE;
}

enum drop tcp_listen_input(struct stack *s, const struct seg *seg, uint64_t now)
{
	const int listener = listener_find(s->listeners, s->cfg.max_listeners, &seg->tuple);

	if (seg->flags & TCPF_RST)
		return DROP_NO_FLOW;
	if (listener < 0) {
		tcp_send_rst_for(s, seg);
		return DROP_NO_LISTENER;
	}
	if (seg->flags & TCPF_ACK) {
		tcp_send_rst_for(s, seg);
		return DROP_NO_FLOW;
	}
	if ((seg->flags & (TCPF_SYN | TCPF_FIN)) != TCPF_SYN)
		return DROP_FLAGS;
	return accept_syn(s, &s->listeners[listener], seg, now);
}
