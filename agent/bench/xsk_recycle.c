// SPDX-License-Identifier: Apache-2.0
/*
 * xsk_recycle.c - what xdpsock's receive-and-drop does, with the buffers from our page_pool.
 *
 * xsk_recycle_fill() once, then xsk_recycle_run() in a thread, again and again, each time with
 * the pool of another form of the check: the socket, its rings and its UMEM stay.
 *
 * Ownership. A buffer is in the fill ring, in a descriptor of the RX ring, or the pool's. A run
 * begins and ends without the second kind: the pools take turns in owning all that is not in
 * the fill ring, and `away` carries over what is.
 */
#include <string.h>
#include <time.h>
#include <xdp/xsk.h>
#include "pool_bench.h"

#define BATCH 64

static netmem_ref buffer(const struct pool_bench *b, uint32_t i)
{
	if (b->device)
		return device_provider_netmem(b->provider, i);
	return page_to_netmem(host_provider_page(b->provider, i));
}

static uint32_t number(netmem_ref netmem)
{
	return netmem_get_dma_addr(netmem) / NETMEM_PAGE_SIZE;
}

void xsk_recycle_fill(struct xsk_recycle *x, uint32_t n)
{
	uint32_t index;

	if (xsk_ring_prod__reserve(x->fill, n, &index) != n)
		return;
	for (uint32_t i = 0; i < n; i++) {
		*xsk_ring_prod__fill_addr(x->fill, index + i) = i * NETMEM_PAGE_SIZE;
		x->away[i] = 1;
	}
	xsk_ring_prod__submit(x->fill, n);
}

/* Everything out of the pool, and back in but for what is away. */
static void take_over(const struct xsk_recycle *x, struct pool_bench *b)
{
	for (uint32_t i = 0; i < POOL_BUFFERS; i++)
		page_pool_alloc_netmem(b->pool);
	for (uint32_t i = 0; i < POOL_BUFFERS; i++)
		if (!x->away[i])
			page_pool_put_netmem(b->pool, buffer(b, i), true);
}

/* What the pool still has is not away; then it gets back the rest, which another will own. */
static void hand_over(struct xsk_recycle *x, struct pool_bench *b)
{
	netmem_ref netmem;

	memset(x->away, 1, sizeof(x->away));
	while (!netmem_is_none(netmem = page_pool_alloc_netmem(b->pool)))
		x->away[number(netmem)] = 0;
	for (uint32_t i = 0; i < POOL_BUFFERS; i++)
		page_pool_put_netmem(b->pool, buffer(b, i), true);
}

/* Frames of a batch: put back, and as many buffers taken. There is room: the frames were in it. */
static void recycle_pool(struct xsk_recycle *x, struct pool_bench *b, uint32_t rx, uint32_t fill,
			 uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t addr = xsk_ring_cons__rx_desc(x->rx, rx + i)->addr;

		page_pool_put_netmem(b->pool, buffer(b, addr / NETMEM_PAGE_SIZE), true);
	}
	for (uint32_t i = 0; i < n; i++)
		*xsk_ring_prod__fill_addr(x->fill, fill + i) =
			netmem_get_dma_addr(page_pool_alloc_netmem(b->pool));
}

static void recycle_same(struct xsk_recycle *x, uint32_t rx, uint32_t fill, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t addr = xsk_ring_cons__rx_desc(x->rx, rx + i)->addr;

		*xsk_ring_prod__fill_addr(x->fill, fill + i) = addr & ~(NETMEM_PAGE_SIZE - 1);
	}
}

/* Returns how many frames there were. */
static uint32_t turn(struct xsk_recycle *x, struct pool_bench *b)
{
	uint32_t rx, fill, n = xsk_ring_cons__peek(x->rx, BATCH, &rx);

	if (n == 0)
		return 0;
	/* The kernel took n addresses out for these, so that this succeeds once it says so. */
	while (xsk_ring_prod__reserve(x->fill, n, &fill) != n)
		;
	if (b)
		recycle_pool(x, b, rx, fill, n);
	else
		recycle_same(x, rx, fill, n);
	xsk_ring_prod__submit(x->fill, n);
	xsk_ring_cons__release(x->rx, n);
	__atomic_store_n(&x->received, x->received + n, __ATOMIC_RELAXED);
	return n;
}

void xsk_recycle_run(struct xsk_recycle *x, struct pool_bench *b)
{
	const struct timespec sleep = {.tv_nsec = x->sleep_ns};

	if (b)
		take_over(x, b);
	for (;;) {
		if (turn(x, b))
			continue;
		if (__atomic_load_n(&x->stop, __ATOMIC_ACQUIRE))
			break;
		if (x->sleep_ns)
			nanosleep(&sleep, NULL);
	}
	if (b)
		hand_over(x, b);
}
