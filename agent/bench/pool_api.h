/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_api.h - what Python may call of pool_cost.c.
 *
 * Plain declarations only: cffi reads this file and the C file includes it. It is compiled
 * once for each form of the check, into an extension module of that name.
 */

enum pool_case {
	POOL_EMPTY, /* the loop alone */
	POOL_ATOMIC, /* one atomic increment */
	POOL_LOCK, /* a spin lock taken and released */
	POOL_LOADS, /* two loads from memory, neither of which waits for the other */
	POOL_CHASE, /* two loads from memory, each from where the one before said */
	POOL_SLOT, /* a load and a store of one word: each load is of what was stored last */
	POOL_LIFO, /* the same word at the top of an array, whose count goes down and up */
	POOL_FAST, /* alloc, put back into the cache */
	POOL_RING, /* alloc, put into the ring */
	POOL_SLOW, /* alloc, put that goes back to the provider */
	POOL_CASES,
};

struct pool_time {
	uint64_t ns; /* CLOCK_MONOTONIC */
	uint64_t ticks; /* of the time stamp counter; 0 where there is none to be read */
};

#define POOL_BUFFERS 4096 /* of 4096 bytes each; buffer i is at UMEM address 4096 i */

struct pool_bench;

/*
 * A pool of the host's or the device's provider, as bench_page_pool_simple makes it: ring of 1024,
 * 64 buffers in it. NULL: no memory, or no such provider in this form (-errno is in *err).
 */
struct pool_bench *pool_bench_new(bool device, int *err);
void pool_bench_free(struct pool_bench *b);

/* Time `loops` turns of one case. */
void pool_bench_time(struct pool_bench *b, uint32_t which, uint32_t loops, struct pool_time *out);

/*
 * Run one case in a child process, an instruction at a time. Returns how many there were, of
 * which the addresses of the last `max` are in `pcs`, oldest first; or -errno of ptrace(2).
 */
int64_t pool_bench_trace(struct pool_bench *b, uint32_t which, uint32_t loops, uint64_t *pcs,
			 uint32_t max);

/* Code at an address that pool_bench_trace() gave. */
void pool_bench_code(uint64_t pc, uint8_t *out, uint32_t size);

/* A net_iov taken for a page: 1 when that was NULL and a warning, 0 when not; -errno. */
int pool_bench_misuse(struct pool_bench *b);
/* Sites that have warned so far, once each. */
uint64_t pool_bench_warnings(void);

/* ---- xsk_recycle.c: the pool behind an AF_XDP socket ---- */

struct xsk_recycle {
	void *rx; /* struct xsk_ring_cons * */
	void *fill; /* struct xsk_ring_prod * */
	uint8_t away[POOL_BUFFERS]; /* 1: in the fill ring. All others are the pool's */
	uint64_t received; /* frames */
	uint32_t sleep_ns; /* when there was none; 0: look again at once */
	uint32_t stop; /* set it, once no more frames come */
};

/* Put buffers into the fill ring, before anything else: `n` of them. */
void xsk_recycle_fill(struct xsk_recycle *x, uint32_t n);
/*
 * Receive frames, drop them, and give the kernel a buffer for each, until stopped: through the
 * pool, or, without one, the buffer that came.
 */
void xsk_recycle_run(struct xsk_recycle *x, struct pool_bench *b);
