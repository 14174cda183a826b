/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seq.h - sequence numbers (RFC 9293 3.4): the only place that knows that they wrap.
 *
 * A struct, so that a raw `<` between two of them does not compile. All comparisons
 * are by signed distance and hold for numbers less than 2^31 apart.
 */
#ifndef DEVMEMTCP_SEQ_H
#define DEVMEMTCP_SEQ_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
	uint32_t n;
} seq_t;

static inline seq_t seq(uint32_t n)
{
	return (seq_t){n};
}

static inline seq_t seq_add(seq_t a, uint32_t bytes)
{
	return (seq_t){a.n + bytes};
}

/* How far `a` is ahead of `b`; negative when it is behind. */
static inline int32_t seq_sub(seq_t a, seq_t b)
{
	return (int32_t)(a.n - b.n);
}

static inline bool seq_eq(seq_t a, seq_t b)
{
	return a.n == b.n;
}

static inline bool seq_lt(seq_t a, seq_t b)
{
	return seq_sub(a, b) < 0;
}

static inline bool seq_leq(seq_t a, seq_t b)
{
	return seq_sub(a, b) <= 0;
}

static inline seq_t seq_max(seq_t a, seq_t b)
{
	return seq_lt(a, b) ? b : a;
}

static inline seq_t seq_min(seq_t a, seq_t b)
{
	return seq_lt(a, b) ? a : b;
}

/* start <= a < start + bytes */
static inline bool seq_in_window(seq_t a, seq_t start, uint32_t bytes)
{
	return a.n - start.n < bytes;
}

/* Timestamps (RFC 7323 5.2) wrap by the same arithmetic. */
static inline bool ts_lt(uint32_t a, uint32_t b)
{
	return (int32_t)(a - b) < 0;
}

#endif
