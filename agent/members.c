/* SPDX-License-Identifier: Apache-2.0 */
/*
 * members.c - areas, queues and applications: how they join a loop that runs, and leave.
 *
 * What may take long (mapping, allocating, unmapping) is done by the calling thread. The
 * loop's thread only enters or strikes out what was prepared, between two turns.
 *
 * Call order:
 *   loop_area_open() -> loop_queue_attach() per queue -> loop_queue_stop(), then the socket
 *   is closed, then loop_queue_detach() -> loop_area_close() until it says 0
 *   loop_app_open() -> loop_app_close()
 *
 * Invariants:
 * - A buffer is in one fill ring at a time: what lies in a queue's ring goes home only when
 *   the socket, and with it the ring, is gone. Hence stop and detach are two calls.
 * - The dense lists `attached` and `open` are changed by the loop's thread alone (or while it
 *   does not run), so that a turn needs no lock.
 *
 * Ownership: the memory that the stack needs of areas and applications is the loop's, as are
 * an application's duplicated descriptors and the mapping of its channel; rings and sockets
 * are the caller's until loop_queue_stop().
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "loop.h"

#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#define SO_BUSY_POLL_BUDGET 70
#endif

#define BUSY_POLL_US 20
#define LAST_TURNS 64 /* each takes thousands of requests */

static void *allocate(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

/* ---- areas ---- */

struct area_args {
	const struct stack_area_config *config;
	struct loop_area area;
	int number;
};

static int call_area_open(struct loop *l, void *arg)
{
	struct area_args *a = arg;
	int number = stack_area_open(l->stack, a->area.mem, a->config);

	if (number >= 0)
		l->area[number] = a->area;
	return number;
}

int loop_area_open(struct loop *l, const struct stack_area_config *config, uint64_t tx_base)
{
	struct area_args a = {.config = config};
	int number;

	a.area = (struct loop_area){
		.size = stack_area_size(config),
		.header_base = config->header_base,
		.tx_base = tx_base,
		.nr_niovs = config->nr_niovs,
		.is_device = config->dmabuf_id,
	};
	if (!a.area.size)
		return -EINVAL;
	a.area.mem = allocate(a.area.size);
	if (!a.area.mem)
		return -errno;
	number = a.area.is_device ? loops_hold_key() : 0;
	if (!number) {
		number = loop_call(l, call_area_open, &a);
		if (number < 0 && a.area.is_device)
			loops_drop_key();
	}
	if (number < 0)
		munmap(a.area.mem, a.area.size);
	return number;
}

static int call_area_close(struct loop *l, void *arg)
{
	struct area_args *a = arg;
	int left = stack_area_close(l->stack, a->number);

	if (!left) {
		a->area = l->area[a->number];
		l->area[a->number].mem = NULL;
	}
	return left;
}

int loop_area_close(struct loop *l, int area)
{
	struct area_args a = {.number = area};
	int left = loop_call(l, call_area_close, &a);

	if (left)
		return left;
	if (a.area.is_device)
		loops_drop_key();
	munmap(a.area.mem, a.area.size);
	return 0;
}

/* ---- queues ---- */

static void list_queues(struct loop *l)
{
	l->nr_attached = 0;
	for (uint32_t q = 0; q < l->nr_queues; q++) {
		if (l->qp[q].attached)
			l->attached[l->nr_attached++] = &l->qp[q];
	}
	watch_queues(l);
}

static int prefer_busy_poll(int fd)
{
	int yes = 1, budget = LOOP_BATCH, us = BUSY_POLL_US;

	if (setsockopt(fd, SOL_SOCKET, SO_PREFER_BUSY_POLL, &yes, sizeof(yes)) ||
	    setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL, &us, sizeof(us)) ||
	    setsockopt(fd, SOL_SOCKET, SO_BUSY_POLL_BUDGET, &budget, sizeof(budget)))
		return -errno;
	return 0;
}

struct queue_args {
	uint32_t queue;
	int area;
	const struct loop_queue *rings;
};

static int call_queue_attach(struct loop *l, void *arg)
{
	const struct queue_args *a = arg;
	struct queue_pair *qp = &l->qp[a->queue];
	const struct loop_area *area;
	int err;

	if (qp->attached)
		return -EBUSY;
	err = stack_queue_attach(l->stack, a->queue, a->area);
	if (err)
		return err;
	area = &l->area[a->area];
	if (!heads_cover(l, a->rings, area->nr_niovs)) {
		stack_queue_detach(l->stack, a->queue);
		return -EINVAL;
	}
	*qp = (struct queue_pair){
		.rings = *a->rings,
		.header_base = area->header_base,
		.tx_base = area->tx_base,
		.nr_niovs = area->nr_niovs,
		.layout = l->header_path == HEADERS_CHUNK ? MOSAIC_CHUNKS : MOSAIC_PAIRS,
		.attached = true,
		.packet.queue = a->queue,
	};
	list_queues(l);
	/* Not by the next turn: the thread may get to it after the first packet has come. */
	rings_refill(l, qp);
	return 0;
}

int loop_queue_attach(struct loop *l, uint32_t queue, int area, const struct loop_queue *rings)
{
	struct queue_args a = {.queue = queue, .area = area, .rings = rings};
	int err;

	if (queue >= l->nr_queues)
		return -EINVAL;
	err = l->busy_poll ? prefer_busy_poll(rings->fd) : 0;
	return err ? err : loop_call(l, call_queue_attach, &a);
}

static int call_queue_stop(struct loop *l, void *arg)
{
	struct queue_pair *qp = &l->qp[*(const uint32_t *)arg];

	if (!qp->attached)
		return -ENOENT;
	/* What has arrived already would only have to be sent again. */
	rings_receive_last(l, qp, loop_now());
	rings_send(l, qp);
	qp->attached = false;
	list_queues(l);
	return 0;
}

int loop_queue_stop(struct loop *l, uint32_t queue)
{
	return queue < l->nr_queues ? loop_call(l, call_queue_stop, &queue) : -EINVAL;
}

static int call_queue_detach(struct loop *l, void *arg)
{
	const uint32_t queue = *(const uint32_t *)arg;

	if (l->qp[queue].attached)
		return -EBUSY;
	stack_queue_detach(l->stack, queue);
	return 0;
}

int loop_queue_detach(struct loop *l, uint32_t queue)
{
	return queue < l->nr_queues ? loop_call(l, call_queue_detach, &queue) : -EINVAL;
}

/* ---- applications ---- */

static void list_apps(struct loop *l)
{
	l->nr_open = 0;
	for (uint32_t i = 0; i < STACK_MAX_APPS; i++) {
		if (l->app[i].mem)
			l->open[l->nr_open++] = &l->app[i];
	}
}

static int map_channel(struct loop_app *a, int fd, size_t size)
{
	const int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;
	void *p;

	if (seals < 0 || fstat(fd, &st))
		return -errno;
	/* A file that is or gets shorter raises SIGBUS: the application could kill us by it. */
	if (!(seals & F_SEAL_SHRINK) || (size_t)st.st_size < size)
		return -EINVAL;
	p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	a->channel = p;
	a->channel_size = size;
	return 0;
}

static int duplicate(int fd, int *out)
{
	*out = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	return *out < 0 ? -errno : 0;
}

static int prepare_app(struct loop_app *a, const struct loop_app_config *config,
		       const struct stack_app_config *stack)
{
	int err;

	if (!stack->channel_size || !a->size)
		return -EINVAL;
	err = map_channel(a, config->channel_fd, stack->channel_size);
	if (!err)
		err = duplicate(config->wake_fd, &a->wake_fd);
	if (!err)
		err = duplicate(config->event_fd, &a->event_fd);
	if (!err)
		err = duplicate(config->life_fd, &a->life_fd);
	if (err)
		return err;
	a->mem = allocate(a->size);
	return a->mem ? 0 : -errno;
}

static void close_fd(int fd)
{
	if (fd >= 0)
		close(fd);
}

static void release_app(struct loop_app *a)
{
	if (a->mem)
		munmap(a->mem, a->size);
	if (a->channel)
		munmap(a->channel, a->channel_size);
	close_fd(a->wake_fd);
	close_fd(a->event_fd);
	close_fd(a->life_fd);
	a->mem = NULL;
}

/* The application's end of the pipe hangs up, and that is how it learns even of a SIGKILL.
 * But a child made by fork() may hold a copy of ours: a byte is seen in spite of it. */
static void tell_end(struct loop_app *a)
{
	if (a->life_fd < 0)
		return;
	while (write(a->life_fd, "", 1) < 0 && errno == EINTR)
		;
	close(a->life_fd);
	a->life_fd = -1;
}

struct app_args {
	struct stack_app_config config;
	struct loop_app app;
	int number;
};

static int call_app_open(struct loop *l, void *arg)
{
	struct app_args *a = arg;
	int err, number = stack_app_open(l->stack, a->app.mem, &a->config);

	if (number < 0)
		return number;
	l->app[number] = a->app;
	err = watch_app(l, &l->app[number]);
	if (err) {
		stack_app_close(l->stack, number);
		l->app[number].mem = NULL;
		return err;
	}
	list_apps(l);
	return number;
}

int loop_app_open(struct loop *l, const struct loop_app_config *config)
{
	struct app_args a = {
		.config = {.nr_events = config->nr_events,
			   .nr_requests = config->nr_requests,
			   .nr_blocks = config->nr_blocks},
		.app = {.wake_fd = -1, .event_fd = -1, .life_fd = -1},
	};
	int number;

	a.config.channel_size = stack_channel_size(&l->config, &a.config);
	a.app.size = stack_app_size(&a.config);
	number = prepare_app(&a.app, config, &a.config);
	if (!number) {
		a.config.channel = (uint8_t *)a.app.channel;
		number = loop_call(l, call_app_open, &a);
	}
	if (number < 0)
		release_app(&a.app);
	return number;
}

/* What it asked for since this turn's look, the ends of connections above all: as after close(2)
 * they end by themselves, and are not reset. Bounded, for somebody may be writing still. */
static void take_last_requests(struct loop *l)
{
	for (int turn = 0; turn < LAST_TURNS && stack_requests(l->stack, loop_now()); turn++)
		;
}

static int call_app_close(struct loop *l, void *arg)
{
	struct app_args *a = arg;
	struct loop_app *app = &l->app[a->number];

	if (!app->mem)
		return -ENOENT;
	take_last_requests(l);
	stack_app_close(l->stack, a->number);
	unwatch_app(l, app);
	a->app = *app;
	app->mem = NULL;
	list_apps(l);
	return 0;
}

int loop_app_close(struct loop *l, int app)
{
	struct app_args a = {.number = app};
	int err;

	if (app < 0 || app >= STACK_MAX_APPS)
		return -ENOENT;
	err = loop_call(l, call_app_close, &a);
	if (err)
		return err;
	tell_end(&a.app);
	release_app(&a.app);
	return 0;
}

/* ---- the end ---- */

void members_end(struct loop *l)
{
	for (uint32_t i = 0; i < STACK_MAX_APPS; i++) {
		if (l->app[i].mem)
			tell_end(&l->app[i]);
	}
}

void members_close(struct loop *l)
{
	for (uint32_t i = 0; i < STACK_MAX_APPS; i++) {
		if (l->app[i].mem)
			release_app(&l->app[i]);
	}
	for (uint32_t i = 0; i < STACK_MAX_AREAS; i++) {
		if (l->area[i].mem)
			munmap(l->area[i].mem, l->area[i].size);
	}
}
