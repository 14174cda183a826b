/* SPDX-License-Identifier: Apache-2.0 */
/*
 * secure_seq.h - where a connection's numbers begin: nobody who has seen those of one can tell
 * those of another (the names are the kernel's, net/core/secure_seq.c).
 *
 * Both are halves of one hash and may both be seen by the peer, so nothing else is to depend on
 * that hash: the flow table and the SYN cookies have keys of their own.
 */
#ifndef DEVMEMTCP_SECURE_SEQ_H
#define DEVMEMTCP_SECURE_SEQ_H

#include "core.h"
#include "siphash.h"

#define ISN_TICK_NS (4 * NS_PER_US)

/* RFC 6528 3: a clock of 4 us and F(four-tuple, secret), so that the numbers of one tuple go up
 * and those of another cannot be told from them. */
static inline seq_t secure_tcp_seq(const struct stack *s, const struct tuple *t, uint64_t now)
{
	return seq((uint32_t)(now / ISN_TICK_NS) +
		   (uint32_t)siphash(t, sizeof(*t), s->cfg.isn_key));
}

/* RFC 7323 5.4: what is added to the clock in our timestamps. */
static inline uint32_t secure_tcp_ts_off(const struct stack *s, const struct tuple *t)
{
	return (uint32_t)(siphash(t, sizeof(*t), s->cfg.isn_key) >> 32);
}

#endif
