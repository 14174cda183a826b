/* SPDX-License-Identifier: Apache-2.0 */
/*
 * channel.h - the memory that a stack and one application share: two
 * single-producer single-consumer rings and a table of connections.
 *
 *   +-----------------+ 0
 *   | channel_header  |  indices, one writer each, a cache line apart
 *   +-----------------+ CHANNEL_EVENTS_OFF
 *   | events          |  stack -> application: connections, fragments, ends
 *   +-----------------+
 *   | requests        |  application -> stack: tokens back, replies, closes
 *   +-----------------+
 *   | conns           |  addresses of each connection; the stack writes
 *   +-----------------+
 *   | reply bytes     |  small replies; the application writes
 *   +-----------------+ page aligned
 *   | data blocks     |  received bytes that are not in device memory; the stack writes
 *   +-----------------+
 *
 * Neither side trusts the other: geometry is computed from private copies of
 * the capacities, indices are masked, entries are copied out before they are
 * looked at, and every number in them is checked by whoever reads it.
 */
#ifndef DEVMEMTCP_CHANNEL_H
#define DEVMEMTCP_CHANNEL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CHANNEL_MAGIC 0x64766d32u
#define CHANNEL_REPLY_BYTES (256u * 1024u)
#define CHANNEL_BLOCK 4096u /* bytes of a data block */

/*
 * Received bytes come in three kinds, which recvmsg(2) tells apart as well:
 *
 *   RX_DEVICE  in device memory (EVENT_FRAG; SCM_DEVMEM_DMABUF)
 *   RX_LINEAR  left in the head by the split, of a packet that has device bytes too
 *              (EVENT_DATA; SCM_DEVMEM_LINEAR)
 *   RX_DATA    of a packet that lies in host memory altogether (EVENT_DATA; no message)
 */
enum rx_kind {
	RX_DEVICE,
	RX_LINEAR,
	RX_DATA,
};

/* Why they are where they are. */
enum rx_reason {
	REASON_DEVICE, /* in device memory, as wanted */
	REASON_UNBOUND, /* received on a queue without a binding */
	REASON_HEAD, /* the split left them with the headers */
};

/* Events of one flow, FRAG and DATA together, are in stream order. */
enum channel_event_kind {
	EVENT_NONE,
	EVENT_ACCEPT, /* flow: a connection is established; arg: listener id */
	EVENT_FRAG, /* flow, offset, len, token; arg: dmabuf id */
	EVENT_EOF, /* flow: the peer's FIN, after all of its bytes */
	EVENT_RESET, /* flow: reset or given up; arg: errno; no more events but CLOSED */
	EVENT_SENT, /* flow; arg: reply bytes that the peer has acknowledged */
	EVENT_CLOSED, /* flow: closed by the application and over; the id means nothing any more */
	EVENT_DATA, /* flow, offset in the data blocks, len, token: block + 1; arg: kind and reason */
};

/* arg of EVENT_DATA */
#define CHANNEL_DATA_ARG(kind, reason) ((uint32_t)(kind) | (uint32_t)(reason) << 8)
#define CHANNEL_DATA_KIND(arg) ((arg) & 0xff)
#define CHANNEL_DATA_REASON(arg) ((arg) >> 8 & 0xff)

struct channel_event {
	uint32_t kind;
	uint32_t flow; /* connection id: slot and generation, never 0 */
	uint64_t offset; /* bytes from the start of the region, or of the data blocks */
	uint32_t len; /* bytes */
	uint32_t token; /* >= 1: to be given back, by REQUEST_DONTNEED or REQUEST_BLOCK */
	uint32_t arg;
	uint32_t reserved;
};

enum channel_request_kind {
	REQUEST_NONE,
	REQUEST_DONTNEED, /* flow, a: first token, b: count, at most CHANNEL_COUNT_MAX */
	REQUEST_SEND, /* flow, a: position in the reply bytes, b: length */
	REQUEST_SHUTDOWN, /* flow: no more to send (FIN) */
	REQUEST_CLOSE, /* flow: done with it, tokens included; undelivered data resets (RFC 1122 4.2.2.13) */
	REQUEST_ABORT, /* flow: RST now */
	REQUEST_BLOCK, /* flow, a: first block + 1, b: count: data blocks that were read */
};

/* What one request may name. More is not looked at: as SO_DEVMEM_DONTNEED. */
#define CHANNEL_COUNT_MAX 1024u

struct channel_request {
	uint32_t kind;
	uint32_t flow;
	uint32_t a;
	uint32_t b;
};

struct channel_conn {
	uint8_t local_ip[16];
	uint8_t peer_ip[16];
	uint16_t local_port;
	uint16_t peer_port;
	uint16_t family;
	uint16_t reserved16;
	uint32_t listener; /* id, as in EVENT_ACCEPT */
	uint32_t flow;
	uint32_t accepted; /* written by the application: the flow again, once it has taken it */
	uint32_t reserved[3];
};

/* One index a cache line: each has one writer, and the other side only reads it. */
struct channel_header {
	uint32_t magic;
	uint32_t nr_events; /* power of two */
	uint32_t nr_requests; /* power of two */
	uint32_t nr_conns;
	uint32_t nr_blocks;
	_Alignas(64) _Atomic uint32_t event_head; /* written by the stack */
	_Alignas(64) _Atomic uint32_t event_tail; /* written by the application */
	_Alignas(64) _Atomic uint32_t request_head; /* written by the application */
	_Alignas(64) _Atomic uint32_t request_tail; /* written by the stack */
	_Alignas(64) _Atomic uint32_t app_waits; /* set by the application before it sleeps */
	_Alignas(64) _Atomic uint32_t stack_waits; /* set by the stack before it sleeps */
	_Alignas(64) uint8_t end[64];
};

_Static_assert(sizeof(struct channel_event) == 32, "channel_event is shared memory");
_Static_assert(sizeof(struct channel_request) == 16, "channel_request is shared memory");
_Static_assert(sizeof(struct channel_conn) == 64, "channel_conn is shared memory");
_Static_assert(sizeof(struct channel_header) == 512, "channel_header is shared memory");

/* Where things lie. Each side computes this once, from capacities it has checked, and
 * keeps it in its own memory: what the header says later is not looked at again. */
struct channel_layout {
	uint32_t nr_events, nr_requests, nr_conns, nr_blocks;
	size_t events, requests, conns, replies, blocks; /* byte offsets */
	size_t size; /* bytes of the whole channel */
};

#define CHANNEL_MAX_ENTRIES (1u << 24)
#define CHANNEL_MAX_BLOCKS (1u << 18) /* 1 GiB */

static inline bool channel_capacity_ok(uint32_t n)
{
	return n && n <= CHANNEL_MAX_ENTRIES && !(n & (n - 1));
}

/* Returns false when the capacities are not ones that a stack would have chosen. */
static inline bool channel_lay_out(struct channel_layout *l, uint32_t nr_events,
				   uint32_t nr_requests, uint32_t nr_conns, uint32_t nr_blocks)
{
	if (!channel_capacity_ok(nr_events) || !channel_capacity_ok(nr_requests) || !nr_conns ||
	    nr_conns > CHANNEL_MAX_ENTRIES || !nr_blocks || nr_blocks > CHANNEL_MAX_BLOCKS)
		return false;
	l->nr_events = nr_events;
	l->nr_requests = nr_requests;
	l->nr_conns = nr_conns;
	l->nr_blocks = nr_blocks;
	l->events = sizeof(struct channel_header);
	l->requests = l->events + (size_t)nr_events * sizeof(struct channel_event);
	l->conns = l->requests + (size_t)nr_requests * sizeof(struct channel_request);
	l->replies = l->conns + (size_t)nr_conns * sizeof(struct channel_conn);
	l->blocks = l->replies + CHANNEL_REPLY_BYTES;
	l->blocks = (l->blocks + CHANNEL_BLOCK - 1) / CHANNEL_BLOCK * CHANNEL_BLOCK;
	l->size = l->blocks + (size_t)nr_blocks * CHANNEL_BLOCK;
	return true;
}

/* The slot of a flow id; ids are slot + generation, and slots are < nr_conns. */
#define CHANNEL_FLOW_SLOT_BITS 20
#define CHANNEL_FLOW_SLOT(id) ((id) & ((1u << CHANNEL_FLOW_SLOT_BITS) - 1))

/* The same of a listener id: slots are < max_listeners, which is at most 2^16 - 1. */
#define CHANNEL_LISTENER_SLOT_BITS 16
#define CHANNEL_LISTENER_SLOT(id) ((id) & ((1u << CHANNEL_LISTENER_SLOT_BITS) - 1))

/* Bytes of unacknowledged replies one connection may have; more resets it with ENOBUFS. */
#define CHANNEL_REPLY_MAX (64u * 1024u)

#endif
