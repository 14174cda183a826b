/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pool_bench.h - the pool that pool_cost.c and xsk_recycle.c measure.
 */
#ifndef DEVMEMTCP_POOL_BENCH_H
#define DEVMEMTCP_POOL_BENCH_H

#include <pthread.h>
#include "memory_provider.h"
#include "page_pool.h"
#include "pool_api.h"

#define RING_SIZE 1024 /* as bench_page_pool_simple's */

struct pool_bench {
	void *provider; /* struct host_provider or struct device_provider */
	uint8_t *pages; /* of the host's provider */
	struct page_pool *pool;
	pthread_spinlock_t lock;
	uint32_t atomic;
	void *slots
		[3]; /* of the floors: two that point at each other, and where POOL_CHASE ended */
	uint32_t top; /* POOL_LIFO's: of slots */
	bool device;
};

#endif
