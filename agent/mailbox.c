/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mailbox.c - what other threads want of the loop.
 *
 * The stack belongs to the loop's thread, so others leave a function in the box and
 * wait until the loop has called it between two turns. Before the loop runs and after
 * it has ended they call it themselves: counters outlive the interface.
 *
 * Call order: mailbox_open(); any thread loop_call(), below the calls of api.h; the loop's thread
 * mailbox_running(true), mailbox_collect() between two turns, mailbox_running(false); mailbox_close().
 *
 * Ownership: a call and its argument are the caller's, who waits for the result.
 */
#include <errno.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "loop.h"

static void carry_out(struct loop *l)
{
	struct loop_mail *m = &l->mail;

	if (!m->call)
		return;
	m->result = m->call(l, m->arg);
	m->call = NULL;
	atomic_store_explicit(&m->pending, false, memory_order_relaxed);
	pthread_cond_signal(&m->done);
}

bool mailbox_collect(struct loop *l)
{
	struct loop_mail *m = &l->mail;

	if (!atomic_load_explicit(&m->pending, memory_order_relaxed))
		return false;
	pthread_mutex_lock(&m->lock);
	carry_out(l);
	pthread_mutex_unlock(&m->lock);
	return true;
}

/* A mutex alone has no order: a thread that calls again and again would be faster than all that
 * have to be woken, and keep them out for seconds. */
static void wait_for_turn(struct loop_mail *m)
{
	const uint32_t ticket = m->next_ticket++;

	while (m->serving != ticket)
		pthread_cond_wait(&m->turn, &m->lock);
}

static void pass_turn(struct loop_mail *m)
{
	m->serving++;
	pthread_cond_broadcast(&m->turn);
}

int loop_call(struct loop *l, int (*call)(struct loop *, void *), void *arg)
{
	struct loop_mail *m = &l->mail;
	int result;

	pthread_mutex_lock(&m->lock);
	wait_for_turn(m);
	if (m->running) {
		m->call = call;
		m->arg = arg;
		atomic_store_explicit(&m->pending, true, memory_order_relaxed);
		eventfd_write(m->fd, 1);
		while (m->call)
			pthread_cond_wait(&m->done, &m->lock);
		result = m->result;
	} else {
		result = call(l, arg);
	}
	pass_turn(m);
	pthread_mutex_unlock(&m->lock);
	return result;
}

/* From `true` on callers wait for the loop; `false` takes the last of them along. */
void mailbox_running(struct loop *l, bool running)
{
	pthread_mutex_lock(&l->mail.lock);
	carry_out(l);
	l->mail.running = running;
	pthread_mutex_unlock(&l->mail.lock);
}

int mailbox_open(struct loop_mail *m)
{
	m->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (m->fd < 0)
		return -errno;
	m->next_ticket = m->serving = 0;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->turn, NULL);
	pthread_cond_init(&m->done, NULL);
	return 0;
}

void mailbox_close(struct loop_mail *m)
{
	if (m->fd < 0)
		return;
	pthread_cond_destroy(&m->done);
	pthread_cond_destroy(&m->turn);
	pthread_mutex_destroy(&m->lock);
	close(m->fd);
	m->fd = -1;
}

/* ---- the calls ---- */

struct listen_args {
	int app;
	const struct stack_addr *local;
	uint32_t flags, backlog, pressure;
};

static int call_listen(struct loop *l, void *arg)
{
	const struct listen_args *a = arg;

	return stack_listen(l->stack, a->app, a->local, a->flags, a->backlog, a->pressure);
}

int loop_listen(struct loop *l, int app, const struct stack_addr *local, uint32_t flags,
		uint32_t backlog, uint32_t pressure)
{
	struct listen_args a = {app, local, flags, backlog, pressure};

	return loop_call(l, call_listen, &a);
}

static int call_unlisten(struct loop *l, void *arg)
{
	return stack_unlisten(l->stack, *(const int *)arg);
}

int loop_unlisten(struct loop *l, int listener)
{
	return loop_call(l, call_unlisten, &listener);
}

static int call_set_mtu(struct loop *l, void *arg)
{
	return stack_set_mtu(l->stack, *(const uint32_t *)arg);
}

int loop_set_mtu(struct loop *l, uint32_t mtu)
{
	return loop_call(l, call_set_mtu, &mtu);
}

struct stats_args {
	struct stack_stats *stack;
	struct loop_stats *loop;
};

static int call_stats(struct loop *l, void *arg)
{
	const struct stats_args *a = arg;

	loop_count_cpu(l);
	stack_stats(l->stack, a->stack);
	*a->loop = l->stats;
	return 0;
}

int loop_stats(struct loop *l, struct stack_stats *stack, struct loop_stats *loop)
{
	struct stats_args a = {.stack = stack, .loop = loop};

	return loop_call(l, call_stats, &a);
}

struct flows_args {
	struct flow_info *out;
	uint32_t max;
};

static int call_flows(struct loop *l, void *arg)
{
	const struct flows_args *a = arg;
	uint32_t n = 0;
	int slot = 0;

	while (n < a->max && (slot = stack_flow(l->stack, slot + 1, &a->out[n])) > 0)
		n++;
	return n;
}

int loop_flows(struct loop *l, struct flow_info *out, uint32_t max)
{
	struct flows_args a = {.out = out, .max = max};

	return loop_call(l, call_flows, &a);
}

struct frags_args {
	struct frag_record *out;
	uint32_t max;
};

static int call_frags(struct loop *l, void *arg)
{
	const struct frags_args *a = arg;
	uint32_t n = 0;

	while (n < a->max && !stack_frag(l->stack, n, &a->out[n]))
		n++;
	return n;
}

int loop_frags(struct loop *l, struct frag_record *out, uint32_t max)
{
	struct frags_args a = {.out = out, .max = max};

	return loop_call(l, call_frags, &a);
}

struct areas_args {
	struct area_info *out;
	uint32_t max;
};

static int call_areas(struct loop *l, void *arg)
{
	const struct areas_args *a = arg;
	uint32_t n = 0;

	for (int area = 0; area < STACK_MAX_AREAS && n < a->max; area++)
		n += !stack_area_info(l->stack, area, &a->out[n]);
	return n;
}

int loop_areas(struct loop *l, struct area_info *out, uint32_t max)
{
	struct areas_args a = {.out = out, .max = max};

	return loop_call(l, call_areas, &a);
}

struct queues_args {
	struct queue_info *out;
	uint32_t max;
};

static int call_queues(struct loop *l, void *arg)
{
	const struct queues_args *a = arg;
	uint32_t n = 0;

	while (n < a->max && !stack_queue_info(l->stack, n, &a->out[n]))
		n++;
	return n;
}

int loop_queues(struct loop *l, struct queue_info *out, uint32_t max)
{
	struct queues_args a = {.out = out, .max = max};

	return loop_call(l, call_queues, &a);
}

static int call_check(struct loop *l, void *arg)
{
	return stack_check(l->stack);
}

int loop_check(struct loop *l)
{
	return loop_call(l, call_check, NULL);
}

static int call_stop(struct loop *l, void *arg)
{
	uint64_t now = loop_now();

	/* What the application asked for before this call: closes, above all. */
	stack_requests(l->stack, now);
	l->stop_at = now + *(const uint32_t *)arg * 1000000ull;
	l->stopping = true;
	return 0;
}

int loop_stop(struct loop *l, uint32_t linger_ms)
{
	return loop_call(l, call_stop, &linger_ms);
}
