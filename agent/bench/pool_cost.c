// SPDX-License-Identifier: Apache-2.0
/*
 * pool_cost.c - bench_page_pool_simple for our page_pool.
 *
 * The cases and the pool are those of tools/testing/selftests/net/bench/page_pool of
 * Linux 6.18, less the tasklets: one thread has a pool here. Compiled with each form of the
 * check, together with the memory's sources, so that each module holds one form and nothing
 * is decided at run time.
 *
 * pool_bench_new() -> pool_bench_time() ... -> pool_bench_free()
 *
 * The slow path. Of a page the kernel's benchmark takes a reference, so that it cannot be
 * recycled: it is released, and the last put_page() gives it back. A net_iov has none of its
 * own; there the ring has room for one, and what comes back in a burst goes to the provider.
 */
#include <errno.h>
#include <linux/elf.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "pool_bench.h"

#define PREFILLED 64
#define BURST 256

#define barrier() __asm__ volatile("" : : : "memory")
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define WRITE_ONCE(x, value) (*(volatile __typeof__(x) *)&(x) = (value))

/* ---- set-up ---- */

static struct memory_provider *new_provider(struct pool_bench *b, int *err)
{
	if (b->device) {
		struct device_provider *device;

		b->provider = device =
			aligned_alloc(64, MEMORY_ALIGN(device_provider_size(POOL_BUFFERS)));
		*err = device ? device_provider_init(device, POOL_BUFFERS, 0, 0, NETMEM_PAGE_SIZE)
			      : -ENOMEM;
		return device ? &device->mp : NULL;
	}
	struct host_provider *host;

	b->provider = host = aligned_alloc(64, MEMORY_ALIGN(host_provider_size(POOL_BUFFERS)));
	b->pages = aligned_alloc(NETMEM_PAGE_SIZE, POOL_BUFFERS * NETMEM_PAGE_SIZE);
	if (!host || !b->pages)
		*err = -ENOMEM;
	else
		*err = host_provider_init(host, POOL_BUFFERS, b->pages, 0, NETMEM_PAGE_SIZE, 0);
	return host ? &host->mp : NULL;
}

static int new_pool(struct pool_bench *b)
{
	struct page_pool_params params = {.pool_size = RING_SIZE, .nid = NUMA_NO_NODE};
	int err;

	params.mp = new_provider(b, &err);
	if (err)
		return err;
	if (b->device) {
		params.flags =
			PP_FLAG_DMA_MAP | PP_FLAG_DMA_SYNC_DEV | PP_FLAG_ALLOW_UNREADABLE_NETMEM;
		params.dma_dir = DMA_FROM_DEVICE;
		params.max_len = NETMEM_PAGE_SIZE;
	}
	b->pool = aligned_alloc(64, page_pool_size(&params));
	if (!b->pool)
		return -ENOMEM;
	err = page_pool_init(b->pool, &params);
	if (err) {
		free(b->pool);
		b->pool = NULL;
	}
	return err;
}

/* Take `n` buffers, then put them into the ring. */
static void fill_ring(struct page_pool *pool, uint32_t n)
{
	netmem_ref taken[RING_SIZE];

	for (uint32_t i = 0; i < n; i++)
		taken[i] = page_pool_alloc_netmem(pool);
	for (uint32_t i = 0; i < n; i++)
		page_pool_put_netmem(pool, taken[i], false);
}

struct pool_bench *pool_bench_new(bool device, int *err)
{
	struct pool_bench *b = calloc(1, sizeof(*b));

	if (!b) {
		*err = -ENOMEM;
		return NULL;
	}
	b->device = device;
	b->slots[0] = &b->slots[1];
	b->slots[1] = &b->slots[0];
	b->top = 1;
	pthread_spin_init(&b->lock, PTHREAD_PROCESS_PRIVATE);
	*err = new_pool(b);
	if (*err) {
		pool_bench_free(b);
		return NULL;
	}
	return b;
}

void pool_bench_free(struct pool_bench *b)
{
	if (b->pool)
		page_pool_destroy(b->pool);
	free(b->pool);
	free(b->pages);
	free(b->provider);
	pthread_spin_destroy(&b->lock);
	free(b);
}

/* ---- the cases: each a function of its own, on a cache line's boundary ---- */

#define CASE static __attribute__((noinline, aligned(64))) void

CASE run_empty(struct pool_bench *b, uint32_t loops)
{
	for (uint32_t i = 0; i < loops; i++)
		barrier();
}

CASE run_atomic(struct pool_bench *b, uint32_t loops)
{
	for (uint32_t i = 0; i < loops; i++)
		__atomic_fetch_add(&b->atomic, 1, __ATOMIC_SEQ_CST);
}

CASE run_lock(struct pool_bench *b, uint32_t loops)
{
	for (uint32_t i = 0; i < loops; i++) {
		pthread_spin_lock(&b->lock);
		barrier();
		pthread_spin_unlock(&b->lock);
	}
}

CASE run_loads(struct pool_bench *b, uint32_t loops)
{
	for (uint32_t i = 0; i < loops; i++) {
		(void)READ_ONCE(b->slots[0]);
		(void)READ_ONCE(b->slots[1]);
	}
}

/* The slots are a ring of pointers. */
CASE run_chase(struct pool_bench *b, uint32_t loops)
{
	void **at = b->slots;

	for (uint32_t i = 0; i < loops; i++) {
		at = READ_ONCE(*(void ***)at);
		at = READ_ONCE(*(void ***)at);
	}
	b->slots[2] = at;
}

CASE run_slot(struct pool_bench *b, uint32_t loops)
{
	for (uint32_t i = 0; i < loops; i++) {
		void *taken = READ_ONCE(b->slots[0]);

		WRITE_ONCE(b->slots[0], taken);
	}
}

CASE run_lifo(struct pool_bench *b, uint32_t loops)
{
	for (uint32_t i = 0; i < loops; i++) {
		uint32_t top = READ_ONCE(b->top) - 1;
		void *taken;

		WRITE_ONCE(b->top, top);
		taken = READ_ONCE(b->slots[top]);
		top = READ_ONCE(b->top);
		WRITE_ONCE(b->slots[top], taken);
		WRITE_ONCE(b->top, top + 1);
	}
}

/* Both are inline. What they wrote is in memory when they are done, so that none is cancelled out. */
static inline netmem_ref alloc(struct page_pool *pool)
{
	netmem_ref netmem = page_pool_alloc_netmem(pool);

	barrier();
	return netmem;
}

static inline void put(struct page_pool *pool, netmem_ref netmem, bool allow_direct)
{
	page_pool_put_netmem(pool, netmem, allow_direct);
	barrier();
}

CASE run_fast(struct pool_bench *b, uint32_t loops)
{
	struct page_pool *pool = b->pool;

	for (uint32_t i = 0; i < loops; i++)
		put(pool, alloc(pool), true);
}

CASE run_ring(struct pool_bench *b, uint32_t loops)
{
	struct page_pool *pool = b->pool;

	for (uint32_t i = 0; i < loops; i++)
		put(pool, alloc(pool), false);
}

CASE run_slow_host(struct pool_bench *b, uint32_t loops)
{
	struct page_pool *pool = b->pool;

	for (uint32_t i = 0; i < loops; i++) {
		struct page *page = netmem_to_page(alloc(pool));

		if (!page)
			return;
		get_page(page);
		put(pool, page_to_netmem(page), true);
		put_page(page);
	}
}

CASE run_slow_device(struct pool_bench *b, uint32_t loops)
{
	struct page_pool *pool = b->pool;
	netmem_ref taken[BURST];

	for (uint32_t i = 0; i < loops; i += BURST) {
		for (uint32_t j = 0; j < BURST; j++)
			taken[j] = alloc(pool);
		for (uint32_t j = 0; j < BURST; j++)
			put(pool, taken[j], false);
	}
}

static void run_case(struct pool_bench *b, uint32_t which, uint32_t loops)
{
	static void (*const run[POOL_CASES])(struct pool_bench *b, uint32_t loops) = {
		[POOL_EMPTY] = run_empty,    [POOL_ATOMIC] = run_atomic, [POOL_LOCK] = run_lock,
		[POOL_LOADS] = run_loads,    [POOL_CHASE] = run_chase,	 [POOL_SLOT] = run_slot,
		[POOL_LIFO] = run_lifo,	     [POOL_FAST] = run_fast,	 [POOL_RING] = run_ring,
		[POOL_SLOW] = run_slow_host,
	};

	if (which == POOL_SLOW && b->device)
		run_slow_device(b, loops);
	else
		run[which](b, loops);
}

/* What is in cache and ring before a case; the pool is empty of buffers in use. */
static void prepare(struct pool_bench *b, uint32_t which)
{
	struct page_pool_params params = b->pool->p;

	params.pool_size = which == POOL_SLOW && b->device ? 1 : RING_SIZE;
	page_pool_destroy(b->pool);
	page_pool_init(b->pool, &params);
	fill_ring(b->pool, PREFILLED);
	if (which == POOL_FAST) /* and now some of them are in the cache */
		page_pool_put_netmem(b->pool, page_pool_alloc_netmem(b->pool), true);
}

/* ---- time ---- */

static uint64_t ticks(void)
{
#if defined(__x86_64__)
	uint64_t now;

	/* Neither before what was, nor after what is to be measured. */
	__builtin_ia32_lfence();
	now = __builtin_ia32_rdtsc();
	__builtin_ia32_lfence();
	return now;
#else
	return 0;
#endif
}

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

void pool_bench_time(struct pool_bench *b, uint32_t which, uint32_t loops, struct pool_time *out)
{
	uint64_t ns, began;

	prepare(b, which);
	run_case(b, which, loops / 16); /* caches, and the branch predictor */
	ns = now_ns();
	began = ticks();
	run_case(b, which, loops);
	out->ticks = ticks() - began;
	out->ns = now_ns() - ns;
}

/* ---- instructions ---- */

static int read_pc(pid_t pid, uint64_t *pc)
{
	struct user_regs_struct regs;
	struct iovec iov = {.iov_base = &regs, .iov_len = sizeof(regs)};

	if (ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &iov))
		return -errno;
#if defined(__x86_64__)
	*pc = regs.rip;
#else
	*pc = regs.pc;
#endif
	return 0;
}

/* The child: nothing of it is counted before the first stop, nor after the second. */
static void traced(struct pool_bench *b, uint32_t which, uint32_t loops)
{
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
		_exit(1);
	raise(SIGSTOP);
	run_case(b, which, loops);
	raise(SIGSTOP);
	_exit(0);
}

static int64_t step_through(pid_t pid, uint64_t *pcs, uint32_t max)
{
	int64_t steps = 0;
	int status, err;

	for (;;) {
		if (waitpid(pid, &status, 0) < 0)
			return -errno;
		if (!WIFSTOPPED(status))
			return -EPERM; /* it was not allowed to be traced */
		if (WSTOPSIG(status) == SIGSTOP && steps)
			return steps;
		err = read_pc(pid, &pcs[steps % max]);
		if (err)
			return err;
		steps++;
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL))
			return -errno;
	}
}

/* So that the oldest comes first. */
static void rotate(uint64_t *pcs, uint32_t max, uint32_t by)
{
	uint64_t *copy = malloc(max * sizeof(*copy));

	if (!copy)
		return;
	memcpy(copy, pcs, max * sizeof(*copy));
	for (uint32_t i = 0; i < max; i++)
		pcs[i] = copy[(i + by) % max];
	free(copy);
}

int64_t pool_bench_trace(struct pool_bench *b, uint32_t which, uint32_t loops, uint64_t *pcs,
			 uint32_t max)
{
	int64_t steps;
	pid_t pid;

	prepare(b, which);
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0)
		traced(b, which, loops);
	steps = step_through(pid, pcs, max);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	if (steps > max)
		rotate(pcs, max, steps % max);
	return steps;
}

void pool_bench_code(uint64_t pc, uint8_t *out, uint32_t size)
{
	memcpy(out, (const void *)(uintptr_t)pc, size);
}

/* ---- behaviour ---- */

int pool_bench_misuse(struct pool_bench *b)
{
	netmem_ref netmem = page_pool_alloc_netmem(b->pool);
	uint64_t hits = netmem_warning.hits;
	bool is_null;

	if (netmem_is_none(netmem))
		return -ENOMEM;
	is_null = netmem_to_page(netmem) == NULL;
	page_pool_put_netmem(b->pool, netmem, true);
	return is_null && netmem_warning.hits == hits + 1;
}

uint64_t pool_bench_warnings(void)
{
	return netmem_warning.count;
}
