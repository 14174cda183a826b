// SPDX-License-Identifier: Apache-2.0
/*
 * soaker.c - how much of each core is left over, counted by somebody who takes it.
 *
 * Tick-sampled accounting books work that runs in softirq on whoever was
 * interrupted, and does not see what is shorter than a tick. So one thread on
 * each core, in the scheduling class below all others (SCHED_IDLE), counts units
 * of work. What it cannot do, measured against what it does when nothing else
 * runs, was taken from it: by tasks, softirqs, interrupts, and the hypervisor.
 *
 * soaker_start() -> soaker_run() -> soaker_read() ... -> soaker_rest() -> soaker_stop()
 *
 * A unit is a chain of dependent multiplications: it touches no memory, so it
 * takes nothing from the caches of what is measured. The threads share only
 * what they wait on; each counts on a cache line of its own.
 */
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "api.h"

#define UNIT_STEPS 512 /* some 2000 cycles: short next to a time slice, long next to a store */

enum order {
	ORDER_REST,
	ORDER_RUN,
	ORDER_STOP,
};

struct core {
	_Alignas(128) _Atomic uint64_t work;
	struct soaker *soaker;
	pthread_t thread;
	int cpu;
	_Atomic int error; /* of becoming an idle thread on its core; -1: not yet known */
};

struct soaker {
	_Alignas(128) _Atomic uint32_t order;
	uint32_t nr_cores; /* whose threads exist */
	struct core cores[];
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static int become_idle_on(int cpu)
{
	struct sched_param none = {0};
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set) || sched_setscheduler(0, SCHED_IDLE, &none))
		return errno;
	return 0;
}

static uint64_t one_unit(uint64_t x)
{
	for (int i = 0; i < UNIT_STEPS; i++) {
		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
		/* Keeps the chain: without it the compiler folds the steps into one. */
		__asm__ volatile("" : "+r"(x));
	}
	return x;
}

static void *soak(void *argument)
{
	struct core *core = argument;
	struct soaker *s = core->soaker;
	uint64_t x = 1, done = 0;
	uint32_t order;

	atomic_store(&core->error, become_idle_on(core->cpu));
	while ((order = atomic_load_explicit(&s->order, memory_order_acquire)) != ORDER_STOP) {
		if (order == ORDER_REST) {
			futex_wait(&s->order, ORDER_REST);
			continue;
		}
		x = one_unit(x);
		atomic_store_explicit(&core->work, ++done, memory_order_relaxed);
	}
	return NULL;
}

static void give_order(struct soaker *s, enum order order)
{
	atomic_store_explicit(&s->order, order, memory_order_release);
	futex_wake_all(&s->order);
}

/* Wait for all threads to be where they belong; their first error, or 0. */
static int settled(struct soaker *s)
{
	int error = 0;

	for (uint32_t i = 0; i < s->nr_cores; i++) {
		int each;

		while ((each = atomic_load(&s->cores[i].error)) < 0)
			sched_yield();
		if (!error)
			error = each;
	}
	return error;
}

int soaker_start(struct soaker **out, const int *cpus, uint32_t n)
{
	struct soaker *s;
	int error = 0;

	s = aligned_alloc(_Alignof(struct core), sizeof(*s) + n * sizeof(s->cores[0]));
	if (!s)
		return -ENOMEM;
	atomic_init(&s->order, ORDER_REST);
	s->nr_cores = 0;
	for (uint32_t i = 0; i < n && !error; i++) {
		struct core *core = &s->cores[i];

		core->soaker = s;
		core->cpu = cpus[i];
		atomic_init(&core->work, 0);
		atomic_init(&core->error, -1);
		error = pthread_create(&core->thread, NULL, soak, core);
		if (!error)
			s->nr_cores++;
	}
	if (!error)
		error = settled(s);
	if (error) {
		soaker_stop(s);
		return -error;
	}
	*out = s;
	return 0;
}

void soaker_run(struct soaker *s)
{
	give_order(s, ORDER_RUN);
}

void soaker_rest(struct soaker *s)
{
	give_order(s, ORDER_REST);
}

void soaker_read(const struct soaker *s, struct soaker_sample *out)
{
	for (uint32_t i = 0; i < s->nr_cores; i++) {
		struct timespec now;

		clock_gettime(CLOCK_MONOTONIC, &now);
		out[i].ns = now.tv_sec * 1000000000ULL + now.tv_nsec;
		out[i].work = atomic_load_explicit(&s->cores[i].work, memory_order_relaxed);
	}
}

void soaker_stop(struct soaker *s)
{
	give_order(s, ORDER_STOP);
	for (uint32_t i = 0; i < s->nr_cores; i++)
		pthread_join(s->cores[i].thread, NULL);
	free(s);
}
