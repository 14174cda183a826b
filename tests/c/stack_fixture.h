/* SPDX-License-Identifier: Apache-2.0 */
/*
 * stack_fixture.h - what tests of a whole stack share: a configuration, and the headers of a
 * segment from 192.0.2.2 to 192.0.2.1.
 */
#ifndef DEVMEMTCP_STACK_FIXTURE_H
#define DEVMEMTCP_STACK_FIXTURE_H

#include <stdint.h>
#include <string.h>

#include "stack.h"

#define IPV4_HEADERS 54 /* Ethernet, IP and TCP without options */
#define IPV4_L4 34

static inline void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

struct segment {
	uint16_t peer_port, local_port;
	uint32_t seq, ack;
	uint8_t flags;
	uint32_t len; /* payload */
};

/* What of IPV4_HEADERS bytes the stack looks at. */
static inline void put_ipv4_headers(uint8_t *eth, const struct segment *seg)
{
	uint8_t *tcp = eth + IPV4_L4;

	memcpy(eth + 26, "\xc0\x00\x02\x02\xc0\x00\x02\x01", 8);
	put16(tcp, seg->peer_port);
	put16(tcp + 2, seg->local_port);
	put32(tcp + 4, seg->seq);
	put32(tcp + 8, seg->ack);
	tcp[12] = 0x50;
	tcp[13] = seg->flags;
	put16(tcp + 14, 0xffff);
}

/* But for how much of everything there may be. */
static inline struct stack_config stack_config_of_tests(void)
{
	return (struct stack_config){
		.fill_min = 8,
		.mtu = 1500,
		.rcv_wnd_max = 1 << 18,
		.delack_ns = 40 * 1000000,
		.ack_segments = 2,
		.isn_key = "a secret of ours",
	};
}

#endif
