/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_watch.c - a descriptor for poll(2) that shows what a connection or listener would.
 *
 * It is one end of a pair of AF_UNIX stream sockets, whose state is made to agree:
 *
 *      near (the application's)         far (ours)
 *      readable      <-----------------  one byte lies in near's queue
 *      not writable  ----------------->  near has filled far's queue
 *      hung up       <-----------------  far is shut down
 *
 * So select(), poll(), epoll and event loops work with it, level-triggered, in both
 * directions. It is brought up to date wherever the state changes, under the lock, and only
 * when it differs: a system call an edge. Several listeners may share one pair (a wildcard
 * address on several interfaces): each adds one byte at most.
 *
 * Somebody must read the ring when no thread waits in here: the pump, a thread that is started
 * with the first watch. It leads or follows as any other (app_wait.c).
 *
 * Ownership: both descriptors of a watch are duplicates, and ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "app.h"

#define FILLING 1024

static void show_readable(struct app_watch *w, bool readable)
{
	char byte = 0;

	if (readable == w->readable)
		return;
	if (readable)
		send(w->far, &byte, 1, MSG_DONTWAIT | MSG_NOSIGNAL);
	else
		recv(w->near, &byte, 1, MSG_DONTWAIT);
	w->readable = readable;
}

static void show_full(struct app_watch *w, bool full)
{
	static const char filling[FILLING];
	char drained[FILLING];

	if (full == w->full)
		return;
	if (full) {
		while (send(w->near, filling, sizeof(filling), MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
			continue;
	} else {
		while (recv(w->far, drained, sizeof(drained), MSG_DONTWAIT) > 0)
			continue;
	}
	w->full = full;
}

/* For good, and readable with it: an error, or the end of both directions. */
static void show_hung_up(struct app_watch *w)
{
	if (w->hung_up)
		return;
	show_full(w, false);
	shutdown(w->far, SHUT_RDWR);
	w->hung_up = true;
}

void app_watch_update(struct app *a, struct app_conn *c)
{
	struct app_watch *w = &c->watch;

	if (w->near < 0)
		return;
	if (a->dead || c->error || ((c->eof || c->shut_read) && c->shut)) {
		show_hung_up(w);
		return;
	}
	show_readable(w, c->ready);
	show_full(w, !app_room(a, c));
}

void app_watch_listener(struct app_listener *l)
{
	if (l->watch.near >= 0)
		show_readable(&l->watch, l->first != APP_NIL);
}

void app_watch_end(struct app_watch *w)
{
	if (w->near < 0)
		return;
	show_readable(w, false); /* a pair may be shared */
	close(w->near);
	close(w->far);
	*w = (struct app_watch){.near = -1, .far = -1};
}

/* ---- the pump ---- */

static void show_death(struct app *a)
{
	for (uint32_t i = 0; i < a->layout.nr_conns; i++)
		app_watch_update(a, &a->conns[i]);
	for (uint32_t i = 0; i < APP_LISTENERS; i++) {
		if (a->listeners[i].watch.near >= 0)
			show_hung_up(&a->listeners[i].watch);
	}
}

static void *pump(void *arg)
{
	const struct app_want want = {.pump = true, .listener = -1, .extra_fd = -1};
	struct app *a = arg;
	int result;

	pthread_mutex_lock(&a->lock);
	do {
		result = app_wait_for(a, &want, APP_FOREVER);
	} while (result == -EINTR);
	if (result < 0)
		show_death(a);
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

static int pump_start(struct app *a)
{
	sigset_t all, before;
	int err;

	if (a->pump_runs)
		return 0;
	sigfillset(&all); /* signals are for the application's own threads */
	pthread_sigmask(SIG_SETMASK, &all, &before);
	err = pthread_create(&a->pump, NULL, pump, a);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	a->pump_runs = !err;
	a->pump_owner = getpid();
	return -err;
}

void app_pump_stop(struct app *a)
{
	if (!a->pump_runs || a->pump_owner != getpid())
		return;
	pthread_mutex_lock(&a->lock);
	a->pump_stops = true;
	app_nudge(a);
	pthread_mutex_unlock(&a->lock);
	pthread_join(a->pump, NULL);
}

/* ---- what is watched ---- */

static int watch_begin(struct app_watch *w, int near, int far)
{
	const int near_too = fcntl(near, F_DUPFD_CLOEXEC, 0);
	const int far_too = fcntl(far, F_DUPFD_CLOEXEC, 0);
	const int least = 1; /* the kernel makes it its minimum: soon full */

	if (near_too < 0 || far_too < 0) {
		const int err = -errno;

		if (near_too >= 0)
			close(near_too);
		if (far_too >= 0)
			close(far_too);
		return err;
	}
	setsockopt(near, SOL_SOCKET, SO_SNDBUF, &least, sizeof(least));
	*w = (struct app_watch){.near = near_too, .far = far_too};
	return 0;
}

static int watch_conn(struct app *a, uint32_t flow, int near, int far)
{
	struct app_conn *c = app_conn(a, flow);
	int err;

	if (!c || c->finished)
		return -EBADF;
	if (c->watch.near >= 0)
		return -EBUSY;
	err = watch_begin(&c->watch, near, far);
	app_watch_update(a, c);
	return err;
}

static int watch_listener(struct app *a, int listener, int near, int far)
{
	struct app_listener *l = app_listener_of(a, listener);
	int err;

	if (!l)
		return -EBADF;
	if (l->watch.near >= 0)
		return -EBUSY;
	err = watch_begin(&l->watch, near, far);
	if (!err)
		show_full(&l->watch, true);
	app_watch_listener(l);
	return err;
}

int app_watch(struct app *a, uint32_t flow, int listener, int near, int far)
{
	int err;

	pthread_mutex_lock(&a->lock);
	app_drain(a);
	err = pump_start(a);
	if (!err)
		err = flow ? watch_conn(a, flow, near, far)
			   : watch_listener(a, listener, near, far);
	if (!err && a->dead)
		show_death(a);
	pthread_mutex_unlock(&a->lock);
	return err;
}
