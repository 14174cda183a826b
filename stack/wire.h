/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.h - bytes to records and back. Every length check of received headers is in
 * wire.c and nowhere else: a `struct seg` that wire_parse() filled in is valid by
 * construction.
 */
#ifndef DEVMEMTCP_WIRE_H
#define DEVMEMTCP_WIRE_H

#include <stdbool.h>
#include <stdint.h>

#include "seq.h"
#include "stack.h"

#define TCPF_FIN 0x01
#define TCPF_SYN 0x02
#define TCPF_RST 0x04
#define TCPF_PSH 0x08
#define TCPF_ACK 0x10
#define TCPF_URG 0x20
#define TCPF_ECE 0x40
#define TCPF_CWR 0x80

#define TCP_HLEN 20
#define IPV4_HLEN 20
#define IPV6_HLEN 40
#define TCP_MSS_DEFAULT_V4 536 /* RFC 9293 3.7.1, MUST-15 */
#define TCP_MSS_DEFAULT_V6 1220
#define TCP_MSS_MIN 64 /* a peer cannot make us send a header for each byte */
#define TCP_WSCALE_MAX 14 /* RFC 7323 2.3 */
#define TCP_SACK_BLOCKS_MAX 4
#define WIRE_HEADERS_MAX (14 + 40 + 60)

/* The four-tuple, padded so that it hashes as whole words. */
struct tuple {
	uint8_t peer_ip[16];
	uint8_t local_ip[16];
	uint16_t peer_port; /* host order */
	uint16_t local_port;
	uint16_t family; /* 4 or 6 */
	uint16_t zero;
};

/* How to reach the peer: the sender's own Ethernet header, turned round. */
struct link {
	uint8_t dst[6];
	uint8_t src[6];
};

struct seg {
	struct tuple tuple;
	struct link link;
	uint32_t queue;
	seq_t seq;
	seq_t ack;
	uint32_t len; /* payload bytes */
	uint32_t head; /* of them in the header page, behind the headers */
	uint32_t hdr_len; /* Ethernet, IP and TCP */
	uint32_t wnd; /* as sent, not scaled */
	uint8_t flags; /* TCPF_* */
	uint8_t csum; /* enum rx_csum */
	bool ce; /* congestion experienced, RFC 3168 5 */
	/* options; meaningful only where their has_ or non-zero value says so */
	bool has_ts;
	bool has_wscale;
	bool sack_ok;
	uint8_t wscale;
	uint16_t mss; /* 0: absent */
	uint32_t tsval;
	uint32_t tsecr;
};

/* Sequence space a segment takes: SYN and FIN count one each. */
static inline uint32_t seg_space(const struct seg *seg)
{
	return seg->len + !!(seg->flags & TCPF_SYN) + !!(seg->flags & TCPF_FIN);
}

/* RFC 3168 6.1.1: a SYN that asks for ECN. */
static inline bool seg_asks_for_ecn(const struct seg *seg)
{
	const uint8_t both = TCPF_ECE | TCPF_CWR;

	return (seg->flags & (both | TCPF_ACK)) == both;
}

/* Fill `seg` from the record, headers and first payload bytes that end at `end` (the end of the
 * header page of the packet's first chunk). Returns DROP_NONE or why the packet is not a segment. */
enum drop wire_parse(const uint8_t *end, const struct rx_packet *packet, struct seg *seg);

struct sack_block {
	seq_t start;
	seq_t end;
};

/* A segment to send. Options are written where the fields say so. */
struct out_seg {
	const struct tuple *tuple;
	const struct link *link;
	seq_t seq;
	seq_t ack;
	uint8_t flags;
	uint16_t wnd; /* as sent, already scaled */
	uint16_t mss; /* 0: no MSS option */
	int8_t wscale; /* -1: no window scale option */
	bool sack_permitted;
	bool has_ts;
	uint32_t tsval;
	uint32_t tsecr;
	uint32_t nr_sack;
	struct sack_block sack[TCP_SACK_BLOCKS_MAX];
	uint32_t len; /* payload bytes, already at buf + wire_headers_len() */
};

/* Bytes of Ethernet, IP and TCP headers of this segment, options included. */
uint32_t wire_headers_len(const struct out_seg *out);
/* Write the headers in front of the payload, checksums included; returns the frame's length. */
uint32_t wire_build(const struct out_seg *out, uint8_t *buf);

#endif
