/* SPDX-License-Identifier: Apache-2.0 */
/*
 * loops.c - all loops of the process, and the moment in which all of them stand still.
 *
 * In its static form the check "page or net_iov?" is code that is written to when the first
 * device area of the process opens and when the last one closes (jump_label/static_key.h). That code
 * is every loop's, so every loop must be out of it: each is called between two turns, and in that
 * call calls the next, so that the last one writes while all others wait for it. This is the
 * kernel's stop_machine(), for the threads that matter.
 *
 *      caller -> loop 1 -> loop 2 -> ... -> write        each arrow: a loop_call() that waits
 *
 * Call order:
 *   loops_enter(), a stack is made, loops_join(), loops_leave()
 *   -> loops_hold_key() before a device area opens, loops_drop_key() after it has closed
 *   -> loops_enter(), the stack is abandoned, loops_quit(), loops_leave()
 *
 * Invariants:
 * - Whoever calls the stack is in a turn of a loop, in a loop_call(), or between loops_enter() and
 *   loops_leave().
 * - The lock is taken before any loop is called, never in a call: two that want all loops at once
 *   do not wait for each other.
 * - A child made by fork() has copies of its parent's loops without their threads. It forgets them.
 */
#include "loop.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct loop *joined; /* linked by `next` */
static uint32_t device_areas; /* of all loops */
static bool raised; /* the static key has a user on their behalf */

void loops_enter(void)
{
	pthread_mutex_lock(&lock);
}

void loops_leave(void)
{
	pthread_mutex_unlock(&lock);
}

static void forget_in_child(void)
{
	joined = NULL;
	pthread_mutex_unlock(&lock);
}

static void handle_forks(void)
{
	pthread_atfork(loops_enter, loops_leave, forget_in_child);
}

void loops_join(struct loop *l)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, handle_forks);
	l->next = joined;
	joined = l;
}

struct stop {
	struct loop *next; /* to be stopped too */
	int (*change)(void);
};

static int stop_rest(struct loop *l, void *arg)
{
	const struct stop *stop = arg;
	struct stop rest = *stop;

	if (!stop->next)
		return stop->change();
	rest.next = stop->next->next;
	return loop_call(stop->next, stop_rest, &rest);
}

static int with_all_stopped(int (*change)(void))
{
	struct stop all = {.next = joined, .change = change};

	return stop_rest(NULL, &all);
}

int loops_hold_key(void)
{
	int err = 0;

	loops_enter();
	if (!raised)
		err = with_all_stopped(netmem_key_raise);
	if (!err) {
		raised = true;
		device_areas++;
	}
	loops_leave();
	return err;
}

/* Where code may no longer be written, the key stays up until the next time. */
static void drop_key(void)
{
	if (--device_areas == 0)
		raised = with_all_stopped(netmem_key_lower) != 0;
}

void loops_drop_key(void)
{
	loops_enter();
	drop_key();
	loops_leave();
}

void loops_quit(struct loop *l)
{
	struct loop **link = &joined;

	while (*link && *link != l)
		link = &(*link)->next;
	if (*link)
		*link = l->next;
	for (uint32_t i = 0; i < STACK_MAX_AREAS; i++)
		if (l->area[i].mem && l->area[i].is_device)
			drop_key();
}
