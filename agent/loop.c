/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - one thread, the AF_XDP rings on one side and the stack on the other.
 *
 * A turn: receive a batch a queue -> ACKs -> the applications' requests -> timers ->
 * refill -> send, one kick a queue. Then the next turn, or spin, or sleep in ppoll(2).
 *
 * Call order: loop_open(); areas, queues and applications join (members.c) and loop_run() is
 * started in a thread of its own, in any order; loop_stop() from another thread, loop_close().
 *
 * Invariants:
 * - No system call a packet: a turn makes one kick a queue that sent, and one write(2) an
 *   application that sleeps and has something to learn.
 * - The loop sleeps only after having said so (stack_waits) and having looked at the
 *   requests once more; the application writes its request before it looks at
 *   stack_waits. With a full fence on either side, one of the two sees the other.
 *   The same holds the other way round, for events and app_waits.
 * - The stack is touched by this thread alone; other threads use the mailbox.
 * - A turn does bounded work for each queue and for each application, whatever they do.
 *
 * Ownership: the loop owns the stack, and what members.c says of its members. The notice's
 * eventfd is the caller's and must outlive it.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <xdp/xsk.h>

#include "loop.h"

#define IDLE_TURNS_A_POLL 256 /* how often a loop that never sleeps looks at its fds */
#define SPIN_MIN_NS 1000

uint64_t loop_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

/* ---- sleep ---- */

/* Writing to a pipe may take a page, for which there may be no memory: then it is owed. In a
 * full one lie wake-ups enough, and behind one without a reader nobody sleeps. */
static void wake(struct loop *l, struct loop_app *a)
{
	a->wake_owed = eventfd_write(a->event_fd, 1) && errno == ENOMEM;
	l->stats.wakeups_sent += !a->wake_owed;
	if (a->wake_owed)
		atomic_store_explicit(&a->channel->app_waits, 1, memory_order_relaxed);
}

static void wake_applications(struct loop *l)
{
	for (uint32_t i = 0; i < l->nr_open; i++) {
		struct loop_app *a = l->open[i];

		if (!stack_events_pushed(l->stack, a - l->app) && !a->wake_owed)
			continue;
		/* The events are in the ring; only then look whether anyone sleeps. */
		atomic_thread_fence(memory_order_seq_cst);
		if (atomic_load_explicit(&a->channel->app_waits, memory_order_relaxed) &&
		    atomic_exchange_explicit(&a->channel->app_waits, 0, memory_order_relaxed))
			wake(l, a);
		else
			a->wake_owed = false;
	}
}

static void give_notice(struct loop *l)
{
	uint32_t drained = stack_areas_drained(l->stack);

	if (drained == l->drained)
		return;
	l->drained = drained;
	eventfd_write(l->notice_fd, 1);
}

static void drive_napi(struct loop *l)
{
	for (uint32_t i = 0; i < l->nr_attached; i++) {
		const struct loop_queue *rings = &l->attached[i]->rings;

		if (l->busy_poll || xsk_ring_prod__needs_wakeup(rings->fill))
			recv(rings->fd, NULL, 0, MSG_DONTWAIT);
	}
}

/* What could not be done, and is to be tried again soon. */
static bool owes(const struct loop *l)
{
	/* The device's queue was full: poll() itself sends in copy mode. */
	for (uint32_t i = 0; i < l->nr_attached && !l->down; i++) {
		if (!rings_sent(l->attached[i]))
			return true;
	}
	for (uint32_t i = 0; i < l->nr_open; i++) {
		if (l->open[i]->wake_owed)
			return true;
	}
	return false;
}

static struct timespec until(const struct loop *l, uint64_t deadline)
{
	uint64_t now = loop_now(), ns;

	if (l->stopping && l->stop_at < deadline)
		deadline = l->stop_at;
	if (deadline > now + 1000000 && owes(l))
		deadline = now + 1000000;
	ns = deadline > now ? deadline - now : 0;
	return (struct timespec){.tv_sec = ns / 1000000000u, .tv_nsec = ns % 1000000000u};
}

static void say_waits(struct loop *l, uint32_t waits)
{
	for (uint32_t i = 0; i < l->nr_open; i++)
		atomic_store_explicit(&l->open[i]->channel->stack_waits, waits,
				      memory_order_relaxed);
}

static void sleep_until_needed(struct loop *l)
{
	struct timespec timeout = until(l, stack_next_deadline(l->stack));

	say_waits(l, 1);
	atomic_thread_fence(memory_order_seq_cst);
	if (!stack_requests(l->stack, loop_now())) {
		l->stats.sleeps++;
		watch_wait(l, &timeout);
	}
	say_waits(l, 0);
}

/* Spinning is worth it when the next packet is near: the budget doubles when a spin has
 * found work and halves when it has not. */
static void rest(struct loop *l, bool worked)
{
	static const struct timespec at_once;
	uint64_t now;

	if (worked) {
		if (l->idle_since)
			l->spin = l->spin * 2 < l->spin_max ? l->spin * 2 : l->spin_max;
		l->idle_since = 0;
		return;
	}
	drive_napi(l);
	if (l->busy_poll) {
		if (l->stats.turns % IDLE_TURNS_A_POLL == 0)
			watch_wait(l, &at_once);
		return;
	}
	if (l->spin_max) {
		now = loop_now();
		if (!l->idle_since)
			l->idle_since = now;
		if (now - l->idle_since < l->spin) {
			cpu_relax();
			return;
		}
		l->spin = l->spin / 2 > SPIN_MIN_NS ? l->spin / 2 : SPIN_MIN_NS;
		l->idle_since = 0;
	}
	sleep_until_needed(l);
}

/* ---- the turns ---- */

static bool turn(struct loop *l)
{
	uint64_t now = loop_now();
	uint32_t work = 0;

	l->stats.turns++;
	for (uint32_t i = 0; i < l->nr_attached; i++)
		work += rings_receive(l, l->attached[i], now);
	if (work)
		stack_rx_end(l->stack, now);
	work += stack_requests(l->stack, now);
	if (now >= stack_next_deadline(l->stack)) {
		stack_timers(l->stack, now);
		work++;
	}
	/* The applications first: their threads start while this one is in the kick. */
	wake_applications(l);
	for (uint32_t i = 0; i < l->nr_attached; i++) {
		rings_refill(l, l->attached[i]);
		work += rings_send(l, l->attached[i]);
	}
	give_notice(l);
	/* A call may leave frames to send and events to tell of: another turn for those. */
	return mailbox_collect(l) || work;
}

/* Connections that still have something to say to their peer. */
static bool lingering(const struct loop *l)
{
	struct flow_info flow;
	int slot = 0;

	while ((slot = stack_flow(l->stack, slot + 1, &flow)) > 0) {
		if (flow.state == TCP_FIN_WAIT_1 || flow.state == TCP_CLOSING ||
		    flow.state == TCP_LAST_ACK)
			return true;
	}
	return false;
}

void loop_count_cpu(struct loop *l)
{
	struct timespec ts;

	if (!l->mail.running)
		return; /* the caller's thread is not the loop's */
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	l->stats.cpu_ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* A wake-up must not interrupt the application or, on the same machine, the sender: what they
 * are at becomes part of the next batch. An idle core runs this thread as soon as any other.
 * Who has started us with a policy of his own knows better, and a sandbox that does not let us
 * choose makes us slower, no more. */
static void do_not_preempt(void)
{
	const struct sched_param none = {0};

	if (sched_getscheduler(0) == SCHED_OTHER)
		sched_setscheduler(0, SCHED_BATCH, &none);
}

static int prepare_thread(int cpu)
{
	cpu_set_t set;
	sigset_t all;

	/* Signals are for threads that run Python: it acts on them between two calls. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	do_not_preempt();
	if (cpu < 0)
		return 0;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

static void end_applications(struct loop *l)
{
	for (uint32_t i = 0; i < l->nr_open; i++)
		stack_app_close(l->stack, l->open[i] - l->app);
	l->nr_open = 0;
}

int loop_run(struct loop *l)
{
	l->error = prepare_thread(l->cpu);
	mailbox_running(l, true);
	while (!l->error) {
		bool worked = turn(l);

		if (l->stopping && (!lingering(l) || loop_now() >= l->stop_at))
			break;
		rest(l, worked);
	}
	if (!l->error) {
		end_applications(l);
		turn(l);
	}
	loop_count_cpu(l);
	mailbox_running(l, false);
	members_end(l);
	return l->error;
}

/* ---- opening and closing ---- */

static int open_stack(struct loop *l)
{
	l->stack_size = stack_size(&l->config);
	if (!l->stack_size)
		return -EINVAL;
	l->stack = mmap(NULL, l->stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	if (l->stack == MAP_FAILED) {
		l->stack = NULL;
		return -errno;
	}
	return stack_init(l->stack, &l->config);
}

int loop_open(struct loop **out, const struct loop_config *config, const struct stack_config *stack)
{
	struct loop *l;
	int err;

	*out = NULL;
	if (!stack->nr_queues || stack->nr_queues > STACK_MAX_QUEUES || !heads_ok(config))
		return -EINVAL;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->config = *stack;
	l->nr_queues = stack->nr_queues;
	l->notice_fd = config->notice_fd;
	l->cpu = config->cpu;
	l->busy_poll = config->busy_poll;
	l->header_path = config->header_path;
	l->heads = config->heads;
	l->nr_heads = config->nr_heads;
	l->spin_max = l->spin = config->spin_us * 1000ull;
	l->link_fd = l->events = l->mail.fd = -1;
	err = mailbox_open(&l->mail);
	if (!err)
		err = watch_open(l);
	if (!err) {
		loops_enter();
		err = open_stack(l);
		loops_join(l);
		loops_leave();
	}
	if (err) {
		loop_close(l);
		return err;
	}
	*out = l;
	return 0;
}

void loop_close(struct loop *l)
{
	if (!l)
		return;
	loops_enter();
	if (l->stack)
		stack_abandon(l->stack);
	loops_quit(l);
	loops_leave();
	members_close(l);
	if (l->stack)
		munmap(l->stack, l->stack_size);
	watch_close(l);
	mailbox_close(&l->mail);
	free(l);
}
