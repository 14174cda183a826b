/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loop.c - one thread, the AF_XDP rings on one side and the stack on the other.
 *
 * A turn: receive a batch a queue -> ACKs -> the application's requests -> timers ->
 * refill -> send, one kick a queue. Then the next turn, or spin, or sleep in ppoll(2).
 *
 * Call order: loop_open(), loop_run() in a thread of its own, loop_stop() from another,
 * loop_close().
 *
 * Invariants:
 * - No system call a packet: a turn makes one kick a queue that sent, and one write(2)
 *   when the application sleeps and there is something for it.
 * - The loop sleeps only after having said so (stack_waits) and having looked at the
 *   requests once more; the application writes its request before it looks at
 *   stack_waits. With a full fence on either side, one of the two sees the other.
 *   The same holds the other way round, for events and app_waits.
 * - The stack is touched by this thread alone; other threads use the mailbox.
 * - The fill rings hold buffers from loop_open() on, before anything can be steered here.
 *
 * Ownership: the loop owns the stack and its own mapping of the channel; rings, sockets,
 * UMEM and eventfds are the caller's and must outlive it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xdp/xsk.h>

#include "loop.h"
#include "mosaic.h"

#ifndef SO_PREFER_BUSY_POLL
#define SO_PREFER_BUSY_POLL 69
#define SO_BUSY_POLL_BUDGET 70
#endif

#define BUSY_POLL_US 20
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

static void drain_eventfd(int fd)
{
	eventfd_t count;

	while (eventfd_read(fd, &count) < 0 && errno == EINTR)
		;
}

/* ---- sleep ---- */

static void wake_application(struct loop *l)
{
	if (!stack_events_pushed(l->stack))
		return;
	/* The events are in the ring; only then look whether anyone sleeps. */
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_load_explicit(&l->channel->app_waits, memory_order_relaxed) &&
	    atomic_exchange_explicit(&l->channel->app_waits, 0, memory_order_relaxed)) {
		eventfd_write(l->event_fd, 1);
		l->stats.wakeups_sent++;
	}
}

/* A link of this namespace has changed. A socket whose device is gone is unbound, and says
 * ENXIO; one whose device is merely down says ENETDOWN, and may live on when it is up again. */
static void check_links(struct loop *l)
{
	char buf[8192];

	while (recv(l->link_fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
	l->down = false; /* until the next kick says otherwise */
	for (uint32_t q = 0; q < l->nr_queues; q++) {
		if (recv(l->queue[q].fd, NULL, 0, MSG_DONTWAIT) < 0 && errno == ENXIO)
			l->error = -ENXIO;
	}
}

static void look_at_fds(struct loop *l, const struct timespec *timeout)
{
	const struct pollfd *end = &l->poll[l->nr_queues];
	int n = ppoll(l->poll, l->nr_queues + 3, timeout, NULL);

	if (n < 0 && errno != EINTR)
		l->error = -errno;
	if (n <= 0)
		return;
	for (uint32_t q = 0; q < l->nr_queues; q++) {
		int err = 0;
		socklen_t len = sizeof(err);

		if (!(l->poll[q].revents & (POLLERR | POLLHUP | POLLNVAL)))
			continue;
		getsockopt(l->queue[q].fd, SOL_SOCKET, SO_ERROR, &err, &len);
		l->error = err ? -err : -EIO;
	}
	if (end[0].revents)
		drain_eventfd(l->wake_fd);
	if (end[1].revents)
		drain_eventfd(l->mail.fd);
	if (end[2].revents)
		check_links(l);
}

static void drive_napi(struct loop *l)
{
	for (uint32_t q = 0; q < l->nr_queues; q++) {
		if (l->busy_poll || xsk_ring_prod__needs_wakeup(l->queue[q].fill))
			recv(l->queue[q].fd, NULL, 0, MSG_DONTWAIT);
	}
}

static struct timespec until(const struct loop *l, uint64_t deadline)
{
	uint64_t now = loop_now(), ns;

	if (l->stopping && l->stop_at < deadline)
		deadline = l->stop_at;
	for (uint32_t q = 0; q < l->nr_queues; q++) {
		/* The device's queue was full: poll() itself sends in copy mode, soon again. */
		if (!l->down && !rings_sent(l, q) && deadline > now + 1000000)
			deadline = now + 1000000;
	}
	ns = deadline > now ? deadline - now : 0;
	return (struct timespec){.tv_sec = ns / 1000000000u, .tv_nsec = ns % 1000000000u};
}

static void sleep_until_needed(struct loop *l)
{
	struct timespec timeout = until(l, stack_next_deadline(l->stack));

	atomic_store_explicit(&l->channel->stack_waits, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst);
	if (!stack_requests(l->stack, loop_now())) {
		l->stats.sleeps++;
		look_at_fds(l, &timeout);
	}
	atomic_store_explicit(&l->channel->stack_waits, 0, memory_order_relaxed);
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
			look_at_fds(l, &at_once);
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
	for (uint32_t q = 0; q < l->nr_queues; q++)
		work += rings_receive(l, q, now);
	if (work)
		stack_rx_end(l->stack, now);
	work += stack_requests(l->stack, now);
	if (now >= stack_next_deadline(l->stack)) {
		stack_timers(l->stack, now);
		work++;
	}
	/* The application first: its thread starts while this one is in the kick. */
	wake_application(l);
	for (uint32_t q = 0; q < l->nr_queues; q++) {
		rings_refill(l, q);
		work += rings_send(l, q);
	}
	mailbox_collect(l);
	return work;
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

static int prepare_thread(int cpu)
{
	cpu_set_t set;
	sigset_t all;

	/* Signals are for threads that run Python: it acts on them between two calls. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, NULL);
	if (cpu < 0)
		return 0;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) ? -errno : 0;
}

/* The application's end of the pipe hangs up, and that is how it learns even of a SIGKILL.
 * But a child made by fork() may hold a copy of ours: a byte is seen in spite of it. */
static void end_of_life(struct loop *l)
{
	while (write(l->life_fd, "", 1) < 0 && errno == EINTR)
		;
	close(l->life_fd);
	l->life_fd = -1;
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
		stack_app_gone(l->stack, loop_now());
		turn(l);
	}
	loop_count_cpu(l);
	mailbox_running(l, false);
	end_of_life(l);
	return l->error;
}

/* ---- opening and closing ---- */

static int open_links(struct loop *l)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};

	l->link_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (l->link_fd < 0 || bind(l->link_fd, (struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	return 0;
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

static int map_channel(struct loop *l, int fd, size_t size)
{
	const int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (seals < 0 || fstat(fd, &st))
		return -errno;
	/* A file that is or gets shorter raises SIGBUS: the application could kill us by it. */
	if (!(seals & F_SEAL_SHRINK) || (size_t)st.st_size < size)
		return -EINVAL;
	l->channel_size = size;
	l->channel = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (l->channel == MAP_FAILED) {
		l->channel = NULL;
		return -errno;
	}
	return 0;
}

static int open_stack(struct loop *l, const struct loop_config *config, struct stack_config *stack)
{
	size_t channel = stack_channel_size(stack);
	int err;

	l->stack_size = stack_size(stack);
	if (!channel || !l->stack_size)
		return -EINVAL;
	err = map_channel(l, config->channel_fd, channel);
	if (err)
		return err;
	l->stack = mmap(NULL, l->stack_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	if (l->stack == MAP_FAILED) {
		l->stack = NULL;
		return -errno;
	}
	stack->channel = (uint8_t *)l->channel;
	stack->channel_size = channel;
	return stack_init(l->stack, stack);
}

static void watch(struct loop *l)
{
	for (uint32_t q = 0; q < l->nr_queues; q++)
		l->poll[q] = (struct pollfd){.fd = l->queue[q].fd, .events = POLLIN};
	l->poll[l->nr_queues] = (struct pollfd){.fd = l->wake_fd, .events = POLLIN};
	l->poll[l->nr_queues + 1] = (struct pollfd){.fd = l->mail.fd, .events = POLLIN};
	l->poll[l->nr_queues + 2] = (struct pollfd){.fd = l->link_fd, .events = POLLIN};
}

static int set_up(struct loop *l, const struct loop_config *config, struct stack_config stack)
{
	int err;

	l->nr_queues = stack.nr_queues;
	l->nr_niovs = stack.nr_niovs;
	l->header_base = stack.header_base;
	l->tx_base = stack.page_umem_base;
	l->wake_fd = config->wake_fd;
	l->event_fd = config->event_fd;
	l->cpu = config->cpu;
	l->busy_poll = config->busy_poll;
	l->spin_max = l->spin = config->spin_us * 1000ull;
	memcpy(l->queue, config->queues, stack.nr_queues * sizeof(*l->queue));
	for (uint32_t q = 0; q < l->nr_queues; q++) {
		l->rx[q].packet.queue = q;
		err = l->busy_poll ? prefer_busy_poll(l->queue[q].fd) : 0;
		if (err)
			return err;
	}
	l->life_fd = fcntl(config->life_fd, F_DUPFD_CLOEXEC, 0);
	if (l->life_fd < 0)
		return -errno;
	err = mailbox_open(&l->mail);
	if (!err)
		err = open_links(l);
	if (!err)
		err = open_stack(l, config, &stack);
	if (err)
		return err;
	watch(l);
	/* Not by the first turn: the thread may get to it after the first SYN has come. */
	for (uint32_t q = 0; q < l->nr_queues; q++)
		rings_refill(l, q);
	return 0;
}

int loop_open(struct loop **out, const struct loop_config *config, const struct stack_config *stack)
{
	struct loop *l;
	int err;

	*out = NULL;
	if (!stack->nr_queues || stack->nr_queues > STACK_MAX_QUEUES)
		return -EINVAL;
	l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->link_fd = l->mail.fd = l->life_fd = -1;
	err = set_up(l, config, *stack);
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
	if (l->stack)
		munmap(l->stack, l->stack_size);
	if (l->channel)
		munmap(l->channel, l->channel_size);
	if (l->link_fd >= 0)
		close(l->link_fd);
	if (l->life_fd >= 0)
		close(l->life_fd);
	mailbox_close(&l->mail);
	free(l);
}
