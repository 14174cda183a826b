/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mosaic.h - where things lie in the UMEM.
 *
 *   MOSAIC_PAIRS    0        4096      8192      12288             8192 n
 *                   | H 0    | D 0    | H 1    | D 1    | ...     | TX 0 | TX 1 | ...
 *                     host     device   host     device             host
 *
 *   MOSAIC_CHUNKS   0        4096     8192              4096 n
 *                   | D 0    | D 1    | ...            | TX 0 | TX 1 | ...
 *                     device   device                    host
 *
 * To be included behind api.h, which declares the layouts.
 */
#ifndef DEVMEMTCP_MOSAIC_H
#define DEVMEMTCP_MOSAIC_H

#include <stddef.h>
#include <stdint.h>

#define MOSAIC_PAGE 4096u
#define MOSAIC_HEADROOM 256u /* XDP_PACKET_HEADROOM: what AF_XDP leaves before packet data */

/* Bytes of UMEM that belong to one net_iov. */
static inline uint64_t mosaic_step(enum mosaic_layout layout)
{
	return layout == MOSAIC_CHUNKS ? MOSAIC_PAGE : 2 * MOSAIC_PAGE;
}

/* UMEM offset of net_iov i's device page. */
static inline uint64_t mosaic_device(enum mosaic_layout layout, uint32_t niov)
{
	return (niov + 1ull) * mosaic_step(layout) - MOSAIC_PAGE;
}

/* What goes into the fill ring. Behind a header page, packet data is to begin exactly at the
 * device page; in a chunk it begins where the driver has left headroom. */
static inline uint64_t mosaic_fill(enum mosaic_layout layout, uint32_t niov)
{
	return mosaic_device(layout, niov) - (layout == MOSAIC_CHUNKS ? 0 : MOSAIC_HEADROOM);
}

/* UMEM offset of transmission page 0. */
static inline uint64_t mosaic_tx(enum mosaic_layout layout, uint32_t nr_niovs)
{
	return nr_niovs * mosaic_step(layout);
}

#endif
