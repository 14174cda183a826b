/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app.c - an application's end of a channel: opening and closing it, and its listeners.
 *
 * Call order: app_open(), app_region() per binding; then from any thread app_wait(),
 * app_accept(), app_recvmsg() and the rest of api.h; app_close() when no thread is in here
 * any more.
 *
 * Invariants: what app.h says of `struct app`. But for the token tables, which grow with
 * the tokens that the application holds, nothing is allocated after app_open().
 *
 * Ownership: `struct app` owns its mappings and duplicates of the descriptors.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app.h"

/* ---- what the application takes ---- */

/* ---- listeners ---- */

/* For the stack, which counts who waits against the listener's backlog. */
static void say_accepted(const struct app *a, const struct app_conn *c)
{
	struct channel_conn *shared = (void *)((uint8_t *)a->channel + a->layout.conns);

	*(volatile uint32_t *)&shared[c - a->conns].accepted = c->flow;
}

int app_accept(struct app *a, int listener, uint32_t *flow, struct stack_addr *local,
	       struct stack_addr *peer)
{
	struct app_listener *l;
	struct app_conn *c;
	int taken = 0;

	pthread_mutex_lock(&a->lock);
	app_drain(a);
	l = app_listener_of(a, listener);
	if (!l) {
		taken = -EBADF;
	} else if (l->first != APP_NIL) {
		c = &a->conns[l->first];
		l->first = c->accept_next;
		if (l->first == APP_NIL)
			l->last = APP_NIL;
		c->accepted = true;
		say_accepted(a, c);
		app_watch_listener(l);
		app_update_ready(a, c);
		*flow = c->flow;
		*local = c->local;
		*peer = c->peer;
		taken = 1;
	}
	pthread_mutex_unlock(&a->lock);
	return taken;
}

static void listener_close(struct app *a, struct app_listener *l)
{
	while (l->first != APP_NIL) {
		struct app_conn *c = &a->conns[l->first];

		l->first = c->accept_next;
		app_abort_unwanted(a, c);
	}
	l->last = APP_NIL;
	l->open = false;
	app_watch_end(&l->watch);
}

int app_listener(struct app *a, int listener, int open)
{
	const uint32_t id = listener, slot = CHANNEL_LISTENER_SLOT(id);
	struct app_listener *l = &a->listeners[slot % APP_LISTENERS];

	if (slot >= APP_LISTENERS || listener < 0)
		return -EINVAL;
	pthread_mutex_lock(&a->lock);
	app_drain(a);
	if (l->open && (open || l->id == id))
		listener_close(a, l);
	if (open) {
		l->id = id;
		l->open = true;
	}
	app_kick(a);
	app_nudge(a);
	pthread_mutex_unlock(&a->lock);
	return 0;
}

int app_ready(struct app *a, int64_t *out, uint32_t max)
{
	uint32_t n = 0;

	pthread_mutex_lock(&a->lock);
	app_drain(a);
	for (uint32_t i = 0; i < APP_LISTENERS && n < max; i++) {
		if (a->listeners[i].open && a->listeners[i].first != APP_NIL)
			out[n++] = -1 - (int64_t)a->listeners[i].id;
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

/* ---- device memory ---- */

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void region_forget(struct app_region *r)
{
	if (r->base)
		munmap((void *)r->base, r->size);
	close_fd(r->fd);
	*r = (struct app_region){.fd = -1};
}

struct app_region *app_region_find(struct app *a, uint32_t dmabuf_id)
{
	for (uint32_t i = 0; i < APP_REGIONS; i++) {
		if (a->regions[i].dmabuf_id == dmabuf_id)
			return &a->regions[i];
	}
	return NULL;
}

int app_region(struct app *a, uint32_t dmabuf_id, uint64_t size, int fd)
{
	struct app_region *r;
	int own = -1;

	if (!dmabuf_id)
		return -EINVAL;
	if (size && fd >= 0) {
		own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (own < 0)
			return -errno;
	}
	pthread_mutex_lock(&a->lock);
	r = app_region_find(a, dmabuf_id);
	if (r)
		region_forget(r);
	if (size) {
		r = app_region_find(a, 0);
		if (r)
			*r = (struct app_region){.dmabuf_id = dmabuf_id, .fd = own, .size = size};
		else
			close_fd(own);
	}
	pthread_mutex_unlock(&a->lock);
	return size && !r ? -ENOSPC : 0;
}

const uint8_t *app_region_map(struct app_region *r)
{
	void *base;

	if (r->base || r->fd < 0)
		return r->base;
	base = mmap(NULL, r->size, PROT_READ, MAP_SHARED, r->fd, 0);
	if (base == MAP_FAILED)
		return NULL;
	close(r->fd);
	r->fd = -1;
	r->base = base;
	return base;
}

const uint8_t *app_region_bytes(struct app *a, uint32_t dmabuf_id, uint64_t *size)
{
	const uint8_t *base = NULL;
	struct app_region *r;

	pthread_mutex_lock(&a->lock);
	r = dmabuf_id ? app_region_find(a, dmabuf_id) : NULL;
	if (r) {
		base = app_region_map(r);
		*size = r->size;
	}
	pthread_mutex_unlock(&a->lock);
	return base;
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
	    !channel_lay_out(&a->layout, header->nr_events, header->nr_requests, header->nr_conns,
			     header->nr_blocks) ||
	    a->layout.size != (size_t)st.st_size) {
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
	a->nr_pieces = a->layout.nr_events + a->layout.nr_blocks;
	a->conns = calloc(a->layout.nr_conns, sizeof(*a->conns));
	a->pieces = calloc(a->nr_pieces, sizeof(*a->pieces));
	a->reply_mark = calloc(a->layout.nr_requests, sizeof(*a->reply_mark));
	if (!a->conns || !a->pieces || !a->reply_mark)
		return -ENOMEM;
	a->piece_free = APP_NIL;
	for (uint32_t i = 0; i < a->layout.nr_conns; i++)
		a->conns[i].watch = (struct app_watch){.near = -1, .far = -1};
	for (uint32_t i = 0; i < APP_LISTENERS; i++) {
		a->listeners[i].first = a->listeners[i].last = APP_NIL;
		a->listeners[i].watch = (struct app_watch){.near = -1, .far = -1};
	}
	for (uint32_t i = 0; i < APP_REGIONS; i++)
		a->regions[i].fd = -1;
	a->ready_first = a->ready_last = APP_NIL;
	return 0;
}

int app_open(struct app **out, int channel_fd, int event_fd, int wake_fd, int life_fd)
{
	struct app *a = calloc(1, sizeof(*a));
	int err;

	*out = NULL;
	if (!a)
		return -ENOMEM;
	pthread_mutex_init(&a->lock, NULL);
	a->event_fd = fcntl(event_fd, F_DUPFD_CLOEXEC, 0);
	a->wake_fd = fcntl(wake_fd, F_DUPFD_CLOEXEC, 0);
	a->life_fd = fcntl(life_fd, F_DUPFD_CLOEXEC, 0);
	a->peers_fd = a->nudge_fd = -1;
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

static void close_conns(struct app *a)
{
	if (!a->conns || !a->pieces || !a->reply_mark)
		return; /* allocate() got no further */
	for (uint32_t i = 0; i < a->layout.nr_conns; i++) {
		app_tokens_free(&a->conns[i].tokens);
		app_watch_end(&a->conns[i].watch);
	}
	for (uint32_t i = 0; i < APP_LISTENERS; i++)
		app_watch_end(&a->listeners[i].watch);
	for (uint32_t i = 0; i < APP_REGIONS; i++)
		region_forget(&a->regions[i]);
}

void app_close(struct app *a)
{
	if (!a)
		return;
	app_pump_stop(a);
	close_conns(a);
	close_fd(a->peers_fd);
	close_fd(a->nudge_fd);
	close_fd(a->life_fd);
	close_fd(a->wake_fd);
	close_fd(a->event_fd);
	if (a->channel)
		munmap(a->channel, a->layout.size);
	free(a->reply_mark);
	free(a->pieces);
	free(a->conns);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
