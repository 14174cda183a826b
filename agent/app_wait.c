/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_wait.c - how the application sleeps until there is something for it.
 *
 * A thread that is about to sleep says so (app_waits), looks at the ring once more, and
 * polls event_fd; the stack pushes its events before it looks at app_waits. With a full
 * fence on either side, one of the two sees the other, and a busy application costs the
 * stack no system call.
 *
 * Several threads may wait. One of them, the leader, polls event_fd; whatever it reads
 * it sorts for all, and then it wakes the others (followers) through peers_fd, one of
 * which leads when the leader has found what it came for.
 */
#include <errno.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>

#include "app.h"

struct want {
	uint32_t flow;
	int listener;
	bool room; /* for a reply, rather than something to read */
	int extra_fd; /* readable: the wait is over */
};

int app_peers_open(struct app *a)
{
	/* A semaphore: each follower takes one. */
	a->peers_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK | EFD_SEMAPHORE);
	return a->peers_fd < 0 ? -errno : 0;
}

static bool anything_ready(const struct app *a)
{
	if (a->ready_first != APP_NIL)
		return true;
	for (int id = 0; id < APP_LISTENERS; id++) {
		if (a->listeners[id].first != APP_NIL)
			return true;
	}
	return false;
}

static bool satisfied(struct app *a, const struct want *want)
{
	const struct app_conn *c;

	if (!want->flow && want->listener < 0)
		return anything_ready(a);
	if (!want->flow)
		return a->listeners[want->listener].first != APP_NIL ||
		       a->listeners[want->listener].closed;
	c = app_conn(a, want->flow);
	if (!c || c->finished)
		return true; /* the call that follows says EBADF */
	return want->room ? app_room(a, c) : c->ready;
}

static int64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
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
		eventfd_write(a->event_fd, 1);
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

static int lead(struct app *a, int extra_fd, int timeout_ms)
{
	struct pollfd fds[] = {
		{.fd = a->event_fd, .events = POLLIN},
		{.fd = a->life_fd, .events = POLLIN},
		{.fd = extra_fd, .events = POLLIN},
	};
	eventfd_t count;
	int n = 0, err = 0;

	a->polled = true;
	atomic_store_explicit(&a->channel->app_waits, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (!events_waiting(a)) {
		pthread_mutex_unlock(&a->lock);
		n = poll(fds, 3, timeout_ms);
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
		eventfd_read(a->event_fd, &count);
	app_drain(a);
	if (fds[1].revents && !a->dead)
		a->dead = EPIPE;
	wake_followers(a);
	return !fds[2].revents;
}

static int wait_for(struct app *a, const struct want *want, int timeout_ms)
{
	int64_t deadline = timeout_ms < 0 ? INT64_MAX : now_ms() + timeout_ms;
	int64_t left;
	int result = 1;

	pthread_mutex_lock(&a->lock);
	for (;;) {
		app_drain(a);
		if (satisfied(a, want)) {
			result = 1;
			break;
		}
		if (a->dead) {
			result = -a->dead;
			break;
		}
		if (result <= 0)
			break;
		left = timeout_ms < 0 ? -1 : deadline - now_ms();
		if (timeout_ms >= 0 && left <= 0) {
			result = 0;
			break;
		}
		result =
			a->polled ? follow(a, want->extra_fd, left) : lead(a, want->extra_fd, left);
	}
	pthread_mutex_unlock(&a->lock);
	return result;
}

int app_wait(struct app *a, uint32_t flow, int listener, int extra_fd, int timeout_ms)
{
	struct want want = {.flow = flow, .listener = listener, .extra_fd = extra_fd};

	if (listener >= APP_LISTENERS)
		return -EINVAL;
	return wait_for(a, &want, timeout_ms);
}

int app_wait_room(struct app *a, uint32_t flow, int timeout_ms)
{
	struct want want = {.flow = flow, .listener = -1, .room = true, .extra_fd = -1};

	return wait_for(a, &want, timeout_ms);
}
