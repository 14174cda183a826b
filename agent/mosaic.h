/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mosaic.h - where things lie in the UMEM.
 *
 *   0        4096      8192      12288             8192 n
 *   | H 0    | D 0    | H 1    | D 1    | ...     | TX 0 | TX 1 | ...
 *     host     device   host     device             host
 */
#ifndef DEVMEMTCP_MOSAIC_H
#define DEVMEMTCP_MOSAIC_H

#include <stddef.h>
#include <stdint.h>

#define MOSAIC_PAGE 4096u
#define MOSAIC_HEADROOM 256u /* XDP_PACKET_HEADROOM: what AF_XDP leaves before packet data */

/* UMEM offset of net_iov i's device page. */
static inline uint64_t mosaic_device(uint32_t niov)
{
	return (uint64_t)niov * (2 * MOSAIC_PAGE) + MOSAIC_PAGE;
}

/* What goes into the fill ring, so that packet data begins exactly at the device page. */
static inline uint64_t mosaic_fill(uint32_t niov)
{
	return mosaic_device(niov) - MOSAIC_HEADROOM;
}

/* UMEM offset of transmission page 0. */
static inline uint64_t mosaic_tx(uint32_t nr_niovs)
{
	return (uint64_t)nr_niovs * (2 * MOSAIC_PAGE);
}

#endif
