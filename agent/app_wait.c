/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_wait.c - how the application sleeps until there is something for it.
 *
 * A thread that is about to sleep says so (app_waits), looks at the ring once more, and
 * polls event_fd; the stack pushes its events before it looks at app_waits. With a full
 * fence on either side, one of the two sees the other, and a busy application costs the
 * stack no system call. event_fd is an eventfd or a pipe, and only read from here; another
 * thread of this process that has something to say to the sleeping one writes to nudge_fd.
 *
 * Several threads may wait. One of them, the leader, polls event_fd; whatever it reads
 * it sorts for all, and then it wakes the others (followers) through peers_fd, one of
 * which leads when the leader has found what it came for.
 */
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "app.h"

int app_peers_open(struct app *a)
{
	/* A semaphore: each follower takes one. */
	a->peers_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	a->nudge_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return a->peers_fd < 0 || a->nudge_fd < 0 ? -errno : 0;
}

static bool anything_ready(const struct app *a)
{
	if (a->ready_first != APP_NIL)
		return true;
	for (int i = 0; i < APP_LISTENERS; i++) {
		if (a->listeners[i].open && a->listeners[i].first != APP_NIL)
			return true;
	}
	return false;
}

static bool satisfied(struct app *a, const struct app_want *want)
{
	const struct app_listener *l;
	const struct app_conn *c;

	if (want->pump)
		return a->pump_stops;
	if (!want->flow && want->listener < 0)
		return anything_ready(a);
	if (!want->flow) {
		l = app_listener_of(a, want->listener);
		return !l || l->first != APP_NIL;
	}
	c = app_conn(a, want->flow);
	if (!c || c->finished)
		return true; /* the call that follows says EBADF */
	if (want->room)
		return app_room(a, c);
	if (want->more)
		return c->arrived != want->arrived || c->eof || c->error || c->shut_read;
	return c->ready;
}

#define NS_PER_MS 1000000

static int64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 * NS_PER_MS + ts.tv_nsec;
}

int64_t app_deadline(int64_t timeout_ms)
{
	const int64_t now = now_ns();

	if (timeout_ms < 0 || timeout_ms > (APP_FOREVER - now) / NS_PER_MS)
		return APP_FOREVER;
	return now + timeout_ms * NS_PER_MS;
}

static bool events_waiting(const struct app *a)
{
	if (a->stuck) /* until another thread has taken fragments */
		return false;
	return atomic_load_explicit(&a->channel->event_head, memory_order_relaxed) != a->event_tail;
}

static void wake_followers(struct app *a)
{
	if (a->followers)
		eventfd_write(a->peers_fd, a->followers);
}

void app_nudge(struct app *a)
{
	if (a->polled)
		eventfd_write(a->nudge_fd, 1);
}

/* Returns 1: look again, 0: extra_fd, -EINTR or another error of poll(). */
static int follow(struct app *a, int extra_fd, int timeout_ms)
{
	struct pollfd fds[] = {
		{.fd = a->peers_fd, .events = POLLIN},
		{.fd = extra_fd, .events = POLLIN},
	};
	eventfd_t count;
	int n, err;

	a->followers++;
	pthread_mutex_unlock(&a->lock);
	n = poll(fds, 2, timeout_ms);
	err = errno;
	pthread_mutex_lock(&a->lock);
	a->followers--;
	if (n < 0)
		return -err;
	if (fds[0].revents)
		eventfd_read(a->peers_fd, &count); /* EAGAIN: another follower was faster */
	return !fds[1].revents;
}

/* What a pipe holds more than this is read when the next poll finds it. */
static void empty(int fd)
{
	uint64_t writes[64];

	if (read(fd, writes, sizeof(writes)) < 0)
		return; /* EAGAIN: another process with this descriptor was faster */
}

static int lead(struct app *a, int extra_fd, int timeout_ms)
{
	struct pollfd fds[] = {
		{.fd = a->event_fd, .events = POLLIN},
		{.fd = a->life_fd, .events = POLLIN},
		{.fd = a->nudge_fd, .events = POLLIN},
		{.fd = extra_fd, .events = POLLIN},
	};
	eventfd_t count;
	int n = 0, err = 0;

	if (a->kick_owed)
		timeout_ms = 1; /* app_drain() kicks again */
	a->polled = true;
	atomic_store_explicit(&a->channel->app_waits, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (!events_waiting(a)) {
		pthread_mutex_unlock(&a->lock);
		n = poll(fds, 4, timeout_ms);
		err = errno;
		pthread_mutex_lock(&a->lock);
	}
	atomic_store_explicit(&a->channel->app_waits, 0, memory_order_relaxed);
	a->polled = false;
	if (n < 0) {
		wake_followers(a);
		return -err;
	}
	if (fds[0].revents)
		empty(a->event_fd);
	if (fds[2].revents)
		eventfd_read(a->nudge_fd, &count);
	app_drain(a);
	if (fds[1].revents && !a->dead)
		a->dead = EPIPE;
	wake_followers(a);
	return !fds[3].revents;
}

/* Rounded up, as poll(2) does: a wait may end late, but not early. */
static int ms_left(int64_t deadline)
{
	int64_t left;

	if (deadline == APP_FOREVER)
		return -1;
	left = deadline - now_ns();
	if (left <= 0)
		return 0;
	left = (left - 1) / NS_PER_MS + 1;
	return left > INT_MAX ? INT_MAX : left;
}

int app_wait_for(struct app *a, const struct app_want *want, int64_t deadline)
{
	int result = 1, left;

	for (;;) {
		app_drain(a);
		if (satisfied(a, want))
			return 1;
		if (a->dead)
			return -a->dead;
		if (result <= 0)
			return result;
		left = ms_left(deadline);
		if (!left)
			return 0;
		result =
			a->polled ? follow(a, want->extra_fd, left) : lead(a, want->extra_fd, left);
	}
}

static int wait_for(struct app *a, const struct app_want *want, int timeout_ms)
{
	const int64_t deadline = app_deadline(timeout_ms);
	int result;

	pthread_mutex_lock(&a->lock);
	result = app_wait_for(a, want, deadline);
	pthread_mutex_unlock(&a->lock);
	return result;
}

int app_wait(struct app *a, uint32_t flow, int listener, int extra_fd, int timeout_ms)
{
	const struct app_want want = {.flow = flow, .listener = listener, .extra_fd = extra_fd};

	return wait_for(a, &want, timeout_ms);
}

int app_wait_room(struct app *a, uint32_t flow, int timeout_ms)
{
	const struct app_want want = {.flow = flow, .listener = -1, .room = true, .extra_fd = -1};

	return wait_for(a, &want, timeout_ms);
}
