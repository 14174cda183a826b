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

#define CHANNEL_MAGIC 0x64766d31u
#define CHANNEL_REPLY_BYTES (256u * 1024u)

enum channel_event_kind {
	EVENT_NONE,
	EVENT_ACCEPT, /* flow: a connection is established; arg: listener id */
	EVENT_FRAG, /* flow, offset, len, token */
	EVENT_EOF, /* flow: the peer's FIN, after all of its bytes */
	EVENT_RESET, /* flow: reset or given up; arg: errno; no more events but CLOSED */
	EVENT_SENT, /* flow; arg: reply bytes that the peer has acknowledged */
	EVENT_CLOSED, /* flow: closed by the application and over; the id means nothing any more */
};

struct channel_event {
	uint32_t kind;
	uint32_t flow; /* connection id: slot and generation, never 0 */
	uint64_t offset; /* bytes from the start of the region */
	uint32_t len; /* bytes */
	uint32_t token; /* >= 1 */
	uint32_t arg;
	uint32_t reserved;
};

enum channel_request_kind {
	REQUEST_NONE,
	REQUEST_DONTNEED, /* flow, a: first token, b: count */
	REQUEST_SEND, /* flow, a: position in the reply bytes, b: length */
	REQUEST_SHUTDOWN, /* flow: no more to send (FIN) */
	REQUEST_CLOSE, /* flow: done with it, tokens included; undelivered data resets (RFC 1122 4.2.2.13) */
	REQUEST_ABORT, /* flow: RST now */
};

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
	uint16_t listener;
	uint32_t flow;
	uint32_t reserved[5];
};

/* One index a cache line: each has one writer, and the other side only reads it. */
struct channel_header {
	uint32_t magic;
	uint32_t nr_events; /* power of two */
	uint32_t nr_requests; /* power of two */
	uint32_t nr_conns;
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
	uint32_t nr_events, nr_requests, nr_conns;
	size_t events, requests, conns, replies; /* byte offsets */
	size_t size; /* bytes of the whole channel */
};

#define CHANNEL_MAX_ENTRIES (1u << 24)

static inline bool channel_capacity_ok(uint32_t n)
{
	return n && n <= CHANNEL_MAX_ENTRIES && !(n & (n - 1));
}

/* Returns false when the capacities are not ones that a stack would have chosen. */
static inline bool channel_lay_out(struct channel_layout *l, uint32_t nr_events,
				   uint32_t nr_requests, uint32_t nr_conns)
{
	if (!channel_capacity_ok(nr_events) || !channel_capacity_ok(nr_requests) || !nr_conns ||
	    nr_conns > CHANNEL_MAX_ENTRIES)
		return false;
	l->nr_events = nr_events;
	l->nr_requests = nr_requests;
	l->nr_conns = nr_conns;
	l->events = sizeof(struct channel_header);
	l->requests = l->events + (size_t)nr_events * sizeof(struct channel_event);
	l->conns = l->requests + (size_t)nr_requests * sizeof(struct channel_request);
	l->replies = l->conns + (size_t)nr_conns * sizeof(struct channel_conn);
	l->size = l->replies + CHANNEL_REPLY_BYTES;
	return true;
}

/* The slot of a flow id; ids are slot + generation, and slots are < nr_conns. */
#define CHANNEL_FLOW_SLOT_BITS 20
#define CHANNEL_FLOW_SLOT(id) ((id) & ((1u << CHANNEL_FLOW_SLOT_BITS) - 1))

/* Bytes of unacknowledged replies one connection may have; more resets it with ENOBUFS. */
#define CHANNEL_REPLY_MAX (64u * 1024u)

#endif
