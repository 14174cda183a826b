/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app.c - the stack's events, sorted into one queue a connection.
 *
 * Call order: app_open(); then from any thread app_wait(), app_accept(), app_take() and
 * the requests of app_requests.c; app_close() when no thread is in here any more.
 *
 * Invariants:
 * - The stack is not trusted: an event is copied out of the ring before it is looked at,
 *   and what makes no sense is counted and left alone. No event can make the application
 *   read outside its region, or outside the memory here.
 * - Nothing is allocated after app_open(): there is a node for each event the ring can
 *   hold. A stack that keeps to channel.h never runs out of them; with one that does not,
 *   events stay in the ring until fragments are taken.
 *
 * Ownership: `struct app` owns its mapping of the channel and duplicates of the descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app.h"

static uint8_t *at(struct app *a, size_t offset)
{
	return (uint8_t *)a->channel + offset;
}

/* ---- the list of connections with something to read ---- */

static bool readable(const struct app_conn *c)
{
	return c->accepted && !c->finished && (c->first != APP_NIL || c->eof || c->error);
}

static void ready_add(struct app *a, uint32_t slot)
{
	struct app_conn *c = &a->conns[slot];

	c->ready = true;
	c->ready_next = APP_NIL;
	c->ready_prev = a->ready_last;
	if (a->ready_last == APP_NIL)
		a->ready_first = slot;
	else
		a->conns[a->ready_last].ready_next = slot;
	a->ready_last = slot;
}

static void ready_remove(struct app *a, uint32_t slot)
{
	struct app_conn *c = &a->conns[slot];

	c->ready = false;
	if (c->ready_prev == APP_NIL)
		a->ready_first = c->ready_next;
	else
		a->conns[c->ready_prev].ready_next = c->ready_next;
	if (c->ready_next == APP_NIL)
		a->ready_last = c->ready_prev;
	else
		a->conns[c->ready_next].ready_prev = c->ready_prev;
}

void app_update_ready(struct app *a, struct app_conn *c)
{
	uint32_t slot = c - a->conns;

	if (readable(c) == c->ready)
		return;
	if (c->ready)
		ready_remove(a, slot);
	else
		ready_add(a, slot);
}

/* ---- fragments of a connection ---- */

static bool frag_append(struct app *a, struct app_conn *c, const struct channel_event *e)
{
	uint32_t n = a->node_free;

	if (n == APP_NIL)
		return false;
	a->node_free = a->nodes[n].next;
	a->nodes[n] = (struct app_node){
		.frag = {.offset = e->offset, .len = e->len, .token = e->token},
		.next = APP_NIL,
	};
	if (c->last == APP_NIL)
		c->first = n;
	else
		a->nodes[c->last].next = n;
	c->last = n;
	return true;
}

static void frag_pop(struct app *a, struct app_conn *c)
{
	uint32_t n = c->first;

	c->first = a->nodes[n].next;
	if (c->first == APP_NIL)
		c->last = APP_NIL;
	a->nodes[n].next = a->node_free;
	a->node_free = n;
}

void app_free_frags(struct app *a, struct app_conn *c)
{
	while (c->first != APP_NIL)
		frag_pop(a, c);
}

/* ---- events ---- */

static void read_addresses(struct app *a, struct app_conn *c)
{
	const struct channel_conn *shared = (void *)at(a, a->layout.conns);
	struct channel_conn conn = shared[c - a->conns];

	c->local.family = c->peer.family = conn.family;
	c->local.port = conn.local_port;
	c->peer.port = conn.peer_port;
	memcpy(c->local.ip, conn.local_ip, sizeof(c->local.ip));
	memcpy(c->peer.ip, conn.peer_ip, sizeof(c->peer.ip));
}

static void abort_unwanted(struct app *a, struct app_conn *c)
{
	struct channel_request request = {.kind = REQUEST_ABORT, .flow = c->flow};

	c->finished = true;
	app_free_frags(a, c);
	app_update_ready(a, c);
	app_request(a, &request);
}

static bool event_accept(struct app *a, const struct channel_event *e)
{
	uint32_t slot = CHANNEL_FLOW_SLOT(e->flow);
	struct app_listener *listener;
	struct app_conn *c;

	if (!e->flow || slot >= a->layout.nr_conns || e->arg >= APP_LISTENERS)
		return false;
	c = &a->conns[slot];
	if (c->flow)
		return false;
	*c = (struct app_conn){
		.flow = e->flow,
		.listener = e->arg,
		.first = APP_NIL,
		.last = APP_NIL,
		.block_first = APP_NIL,
		.block_last = APP_NIL,
		.accept_next = APP_NIL,
	};
	read_addresses(a, c);
	listener = &a->listeners[e->arg];
	if (listener->closed) {
		abort_unwanted(a, c);
		return true;
	}
	if (listener->last == APP_NIL)
		listener->first = slot;
	else
		a->conns[listener->last].accept_next = slot;
	listener->last = slot;
	return true;
}

static void accept_queue_remove(struct app *a, const struct app_conn *c)
{
	struct app_listener *listener = &a->listeners[c->listener];
	uint32_t slot = c - a->conns, before = APP_NIL, i = listener->first;

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
}

static bool event_closed(struct app *a, struct app_conn *c)
{
	if (!c->accepted)
		accept_queue_remove(a, c);
	app_free_frags(a, c);
	app_free_blocks(a, c);
	c->finished = true;
	app_update_ready(a, c);
	c->flow = 0;
	return true;
}

/* 1: taken, 0: makes no sense, -1: no node for it now. */
static int event_frag(struct app *a, struct app_conn *c, const struct channel_event *e)
{
	if (!e->token || !e->len || e->len > a->region_size ||
	    e->offset > a->region_size - e->len || c->eof || c->error)
		return 0;
	if (c->finished)
		return 1; /* sent before the stack knew; it takes the token back itself */
	return frag_append(a, c, e) ? 1 : -1;
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
		taken = event_frag(a, c, e);
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
	const struct channel_event *ring = (void *)at(a, a->layout.events);
	uint32_t head = atomic_load_explicit(&a->channel->event_head, memory_order_acquire);

	if (head - a->event_tail > a->layout.nr_events) {
		a->dead = EPROTO;
		return;
	}
	a->stuck = false;
	while (a->event_tail != head) {
		struct channel_event e = ring[a->event_tail & (a->layout.nr_events - 1)];
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

/* ---- what the application takes ---- */

int app_accept(struct app *a, int listener, uint32_t *flow, struct stack_addr *local,
	       struct stack_addr *peer)
{
	struct app_listener *l;
	struct app_conn *c;
	int taken = 0;

	if (listener < 0 || listener >= APP_LISTENERS)
		return -EINVAL;
	pthread_mutex_lock(&a->lock);
	app_drain(a);
	l = &a->listeners[listener];
	if (l->first != APP_NIL) {
		c = &a->conns[l->first];
		l->first = c->accept_next;
		if (l->first == APP_NIL)
			l->last = APP_NIL;
		c->accepted = true;
		app_update_ready(a, c);
		*flow = c->flow;
		*local = c->local;
		*peer = c->peer;
		taken = 1;
	}
	pthread_mutex_unlock(&a->lock);
	return taken;
}

int app_listener(struct app *a, int listener, int open)
{
	struct app_listener *l;

	if (listener < 0 || listener >= APP_LISTENERS)
		return -EINVAL;
	pthread_mutex_lock(&a->lock);
	app_drain(a);
	l = &a->listeners[listener];
	l->closed = !open;
	while (l->closed && l->first != APP_NIL) {
		struct app_conn *c = &a->conns[l->first];

		l->first = c->accept_next;
		abort_unwanted(a, c);
	}
	if (l->first == APP_NIL)
		l->last = APP_NIL;
	app_kick(a);
	app_nudge(a);
	pthread_mutex_unlock(&a->lock);
	return 0;
}

static int take(struct app *a, struct app_conn *c, struct app_frag *out, uint32_t max)
{
	uint32_t n = 0;

	while (n < max && c->first != APP_NIL) {
		out[n++] = a->nodes[c->first].frag;
		frag_pop(a, c);
	}
	app_update_ready(a, c);
	if (n && a->stuck)
		app_nudge(a); /* who waits can go on: there are nodes again */
	if (n || !max)
		return n;
	if (c->error)
		return -c->error;
	return c->eof ? -ENODATA : 0;
}

int app_take(struct app *a, uint32_t flow, struct app_frag *out, uint32_t max)
{
	struct app_conn *c;
	int n;

	pthread_mutex_lock(&a->lock);
	app_drain(a);
	c = app_conn(a, flow);
	n = c && !c->finished ? take(a, c, out, max) : -EBADF;
	pthread_mutex_unlock(&a->lock);
	return n;
}

int app_ready(struct app *a, int64_t *out, uint32_t max)
{
	uint32_t n = 0;

	pthread_mutex_lock(&a->lock);
	app_drain(a);
	for (int id = 0; id < APP_LISTENERS && n < max; id++) {
		if (a->listeners[id].first != APP_NIL)
			out[n++] = -1 - id;
	}
	for (uint32_t s = a->ready_first; s != APP_NIL && n < max; s = a->conns[s].ready_next)
		out[n++] = a->conns[s].flow;
	pthread_mutex_unlock(&a->lock);
	return n;
}

void app_stats(struct app *a, struct app_stats *out)
{
	pthread_mutex_lock(&a->lock);
	*out = a->stats;
	pthread_mutex_unlock(&a->lock);
}

/* ---- opening and closing ---- */

static int map_channel(struct app *a, int fd)
{
	const struct channel_header *header;
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if ((size_t)st.st_size < sizeof(*header))
		return -EPROTO;
	header = mmap(NULL, st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (header == MAP_FAILED)
		return -errno;
	a->channel = (struct channel_header *)header;
	if (header->magic != CHANNEL_MAGIC ||
	    !channel_lay_out(&a->layout, header->nr_events, header->nr_requests,
			     header->nr_conns) ||
	    a->layout.size > (size_t)st.st_size) {
		munmap(a->channel, st.st_size);
		a->channel = NULL;
		return -EPROTO;
	}
	a->event_tail = atomic_load(&a->channel->event_tail);
	a->request_head = atomic_load(&a->channel->request_head);
	return 0;
}

static int allocate(struct app *a)
{
	a->conns = calloc(a->layout.nr_conns, sizeof(*a->conns));
	a->nodes = calloc(a->layout.nr_events, sizeof(*a->nodes));
	if (!a->conns || !a->nodes)
		return -ENOMEM;
	for (uint32_t i = 0; i < a->layout.nr_events; i++)
		a->nodes[i].next = i + 1 < a->layout.nr_events ? i + 1 : APP_NIL;
	for (uint32_t i = 0; i < APP_BLOCKS; i++)
		a->blocks[i].next = i + 1 < APP_BLOCKS ? i + 1 : APP_NIL;
	for (uint32_t i = 0; i < APP_LISTENERS; i++)
		a->listeners[i].first = a->listeners[i].last = APP_NIL;
	a->ready_first = a->ready_last = APP_NIL;
	return 0;
}

int app_open(struct app **out, int channel_fd, uint64_t region_size, int event_fd, int wake_fd,
	     int life_fd)
{
	struct app *a = calloc(1, sizeof(*a));
	int err;

	*out = NULL;
	if (!a)
		return -ENOMEM;
	pthread_mutex_init(&a->lock, NULL);
	a->region_size = region_size;
	a->event_fd = fcntl(event_fd, F_DUPFD_CLOEXEC, 0);
	a->wake_fd = fcntl(wake_fd, F_DUPFD_CLOEXEC, 0);
	a->life_fd = fcntl(life_fd, F_DUPFD_CLOEXEC, 0);
	a->peers_fd = -1;
	err = a->event_fd < 0 || a->wake_fd < 0 || a->life_fd < 0 ? -errno : 0;
	if (!err)
		err = map_channel(a, channel_fd);
	if (!err)
		err = allocate(a);
	if (!err)
		err = app_peers_open(a);
	if (err) {
		app_close(a);
		return err;
	}
	*out = a;
	return 0;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

void app_close(struct app *a)
{
	if (!a)
		return;
	close_fd(a->peers_fd);
	close_fd(a->life_fd);
	close_fd(a->wake_fd);
	close_fd(a->event_fd);
	if (a->channel)
		munmap(a->channel, a->layout.size);
	free(a->nodes);
	free(a->conns);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
