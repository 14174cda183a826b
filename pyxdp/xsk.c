/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xsk.c - UMEM, AF_XDP sockets and their rings, for callers without a C compiler.
 *
 * Call order: pyxdp_umem_create(), pyxdp_socket_create() for each socket,
 * xsk_socket__delete() for each, xsk_umem__delete().
 *
 * Invariants of libxdp that the callers keep:
 *  - The first socket on a UMEM takes over the UMEM's descriptor and the fill and
 *    completion rings made with it: it must get the same pyxdp_queue_rings.
 *  - That descriptor stays open, and its queue bound, until xsk_umem__delete().
 *  - Sockets on the same (interface, queue) share one fill and one completion ring.
 *    libxdp keeps the pointer, so pyxdp_queue_rings outlives all of them.
 *
 * Ownership: the UMEM area, the rings structs and the configs are the caller's.
 * The ring functions are xsk.h's inline ones, made callable; rings are not locked.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_xdp.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "pyxdp.h"

#ifndef SOL_XDP
#define SOL_XDP 283
#endif

struct pyxdp_queue_rings {
	struct xsk_ring_prod fill;
	struct xsk_ring_cons comp;
};

struct pyxdp_socket_rings {
	struct xsk_ring_cons rx;
	struct xsk_ring_prod tx;
};

/* libxdp makes its sockets without SOCK_CLOEXEC: a program started by ours would keep the
 * queue bound after we have closed it. Cannot fail on a descriptor that is open. */
static void close_on_exec(int fd)
{
	fcntl(fd, F_SETFD, FD_CLOEXEC);
}

/* ---- UMEM ---- */

struct pyxdp_queue_rings *pyxdp_queue_rings_new(void)
{
	return calloc(1, sizeof(struct pyxdp_queue_rings));
}

void pyxdp_queue_rings_free(struct pyxdp_queue_rings *rings)
{
	free(rings);
}

struct xsk_ring_prod *pyxdp_fill_ring(struct pyxdp_queue_rings *rings)
{
	return &rings->fill;
}

struct xsk_ring_cons *pyxdp_comp_ring(struct pyxdp_queue_rings *rings)
{
	return &rings->comp;
}

int pyxdp_umem_create(struct xsk_umem **umem, uintptr_t area, uint64_t size,
		      struct pyxdp_queue_rings *rings, const struct pyxdp_umem_config *config)
{
	struct xsk_umem_config umem_config = {
		.fill_size = config->fill_size,
		.comp_size = config->comp_size,
		.frame_size = config->frame_size,
		.frame_headroom = config->headroom,
		.flags = config->unaligned ? XDP_UMEM_UNALIGNED_CHUNK_FLAG : 0,
	};

	int err = xsk_umem__create(umem, (void *)area, size, &rings->fill, &rings->comp,
				   &umem_config);

	if (!err)
		close_on_exec(xsk_umem__fd(*umem));
	return err;
}

/* ---- socket ---- */

struct pyxdp_socket_rings *pyxdp_socket_rings_new(void)
{
	return calloc(1, sizeof(struct pyxdp_socket_rings));
}

void pyxdp_socket_rings_free(struct pyxdp_socket_rings *rings)
{
	free(rings);
}

struct xsk_ring_cons *pyxdp_rx_ring(struct pyxdp_socket_rings *rings)
{
	return &rings->rx;
}

struct xsk_ring_prod *pyxdp_tx_ring(struct pyxdp_socket_rings *rings)
{
	return &rings->tx;
}

int pyxdp_socket_create(struct xsk_socket **xsk, const char *ifname, uint32_t queue,
			struct xsk_umem *umem, struct pyxdp_socket_rings *rings,
			struct pyxdp_queue_rings *queue_rings,
			const struct pyxdp_socket_config *config)
{
	struct xsk_socket_config socket_config = {
		.rx_size = config->rx_size,
		.tx_size = config->tx_size,
		.libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
		.bind_flags = config->bind_flags,
	};

	int err = xsk_socket__create_shared(xsk, ifname, queue, umem,
					    config->rx_size ? &rings->rx : NULL,
					    config->tx_size ? &rings->tx : NULL, &queue_rings->fill,
					    &queue_rings->comp, &socket_config);

	if (!err)
		close_on_exec(xsk_socket__fd(*xsk));
	return err;
}

int pyxdp_socket_kick(int fd)
{
	return sendto(fd, NULL, 0, MSG_DONTWAIT, NULL, 0) < 0 ? -errno : 0;
}

int pyxdp_socket_statistics(int fd, struct pyxdp_statistics *statistics)
{
	struct xdp_statistics kernel = {};
	socklen_t len = sizeof(kernel);

	if (getsockopt(fd, SOL_XDP, XDP_STATISTICS, &kernel, &len))
		return -errno;
	statistics->rx_dropped = kernel.rx_dropped;
	statistics->rx_invalid_descs = kernel.rx_invalid_descs;
	statistics->tx_invalid_descs = kernel.tx_invalid_descs;
	statistics->rx_ring_full = kernel.rx_ring_full;
	statistics->rx_fill_ring_empty_descs = kernel.rx_fill_ring_empty_descs;
	statistics->tx_ring_empty_descs = kernel.tx_ring_empty_descs;
	return 0;
}

int pyxdp_socket_options(int fd)
{
	struct xdp_options options;
	socklen_t len = sizeof(options);

	if (getsockopt(fd, SOL_XDP, XDP_OPTIONS, &options, &len))
		return -errno;
	return options.flags;
}

/* ---- producer rings ---- */

uint32_t pyxdp_prod_size(const struct xsk_ring_prod *ring)
{
	return ring->size;
}

uint32_t pyxdp_prod_free(struct xsk_ring_prod *ring)
{
	return xsk_prod_nb_free(ring, ring->size);
}

uint32_t pyxdp_prod_reserve(struct xsk_ring_prod *ring, uint32_t n, uint32_t *index)
{
	return xsk_ring_prod__reserve(ring, n, index);
}

void pyxdp_prod_submit(struct xsk_ring_prod *ring, uint32_t n)
{
	xsk_ring_prod__submit(ring, n);
}

bool pyxdp_prod_needs_wakeup(const struct xsk_ring_prod *ring)
{
	return xsk_ring_prod__needs_wakeup(ring);
}

void pyxdp_fill_set(struct xsk_ring_prod *fill, uint32_t index, uint64_t addr)
{
	*xsk_ring_prod__fill_addr(fill, index) = addr;
}

void pyxdp_tx_set(struct xsk_ring_prod *tx, uint32_t index, uint64_t addr, uint32_t len,
		  uint32_t options)
{
	struct xdp_desc *desc = xsk_ring_prod__tx_desc(tx, index);

	desc->addr = addr;
	desc->len = len;
	desc->options = options;
}

/* ---- consumer rings ---- */

uint32_t pyxdp_cons_size(const struct xsk_ring_cons *ring)
{
	return ring->size;
}

uint32_t pyxdp_cons_peek(struct xsk_ring_cons *ring, uint32_t n, uint32_t *index)
{
	return xsk_ring_cons__peek(ring, n, index);
}

void pyxdp_cons_release(struct xsk_ring_cons *ring, uint32_t n)
{
	xsk_ring_cons__release(ring, n);
}

uint64_t pyxdp_comp_get(const struct xsk_ring_cons *comp, uint32_t index)
{
	return *xsk_ring_cons__comp_addr(comp, index);
}

void pyxdp_rx_get(const struct xsk_ring_cons *rx, uint32_t index, struct pyxdp_desc *desc)
{
	const struct xdp_desc *kernel = xsk_ring_cons__rx_desc(rx, index);

	desc->addr = kernel->addr;
	desc->len = kernel->len;
	desc->options = kernel->options;
}
