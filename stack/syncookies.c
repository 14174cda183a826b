/* SPDX-License-Identifier: Apache-2.0 */
/*
 * syncookies.c - handshakes of which nothing is remembered (Bernstein 1996, RFC 4987 3.6; the
 * layout is that of the kernel's net/ipv4/syncookies.c).
 *
 *   tcp_listen.c: SYN, no room -> syncookie_make()  -> tcp_send_synack(), of a flow that is forgotten
 *                 ACK, no flow -> syncookie_check() -> the SYN again, as far as its ACK brings it back
 *   tcp_output.c: that SYN-ACK -> syncookie_tsval()
 *
 * The sequence number of the SYN-ACK is the cookie, its timestamp has what does not fit in there:
 *
 *   seq   = hash(tuple) + irs + (slot << 24) + (hash(tuple, irs, slot) + (MSS << 21)) mod 2^24
 *   TSval = our clock, of which the last bits are | ECN | SACK | window scale, or 15: none |
 *
 * slot is the time in units of 64 s, MSS an index of eight. The kernel does not hash irs, and adds
 * the index at the other end: there a neighbour of a cookie is one, too, and a connection whose
 * first segment of one or two bytes was lost could begin with the second. Who has not seen the
 * SYN-ACK guesses a number that is taken for a cookie once in 2^28 attempts: two slots of 256,
 * eight MSS of 2^24. The timestamp is taken at its word, since a peer that lies about its own
 * options spoils nobody else's connection.
 */
#include "core.h"
#include "secure_seq.h"

#define SLOT_NS (64 * NS_PER_S)
#define SLOTS_VALID 2 /* this one and the one before */
#define SLOT_SHIFT 24
#define MSS_SHIFT 21
#define HASH_MASK ((1u << SLOT_SHIFT) - 1)

#define TS_WSCALE 0xfu
#define TS_NO_WSCALE 0xfu /* more than TCP_WSCALE_MAX */
#define TS_SACK 0x10u
#define TS_ECN 0x20u
#define TS_OPTIONS 0x3fu

/* Never more than the peer has announced (RFC 9293 MUST-16): the smallest is the least we use. */
static const uint16_t mss_table[] = {TCP_MSS_MIN, 256, 536, 1220, 1300, 1400, 1440, 1460};

#define NR_MSS (sizeof(mss_table) / sizeof(mss_table[0]))

_Static_assert(NR_MSS == 1 << (SLOT_SHIFT - MSS_SHIFT), "each index has a place, and no other");

static uint32_t slot_of(uint64_t now)
{
	return (uint32_t)(now / SLOT_NS);
}

static uint32_t cookie_hash(const struct stack *s, const struct tuple *t, uint32_t irs,
			    uint32_t slot)
{
	const struct {
		struct tuple tuple;
		uint32_t irs, slot;
	} in = {*t, irs, slot};

	_Static_assert(sizeof(in) == sizeof(struct tuple) + 8, "no padding");
	return (uint32_t)siphash(&in, sizeof(in), s->cfg.cookie_key);
}

/* What no slot moves; the last slot there is comes in 8,700 years. */
static uint32_t cookie_base(const struct stack *s, const struct tuple *t)
{
	return cookie_hash(s, t, 0, UINT32_MAX);
}

seq_t syncookie_make(const struct stack *s, const struct seg *syn, uint32_t mss, uint64_t now)
{
	const uint32_t irs = syn->seq.n, slot = slot_of(now);
	uint32_t index = NR_MSS - 1;

	while (index && mss_table[index] > mss)
		index--;
	return seq(cookie_base(s, &syn->tuple) + irs + (slot << SLOT_SHIFT) +
		   ((cookie_hash(s, &syn->tuple, irs, slot) + (index << MSS_SHIFT)) & HASH_MASK));
}

/* The MSS in the cookie that `ack` acknowledges; 0: it is none of ours. */
static uint16_t open_cookie(const struct stack *s, const struct seg *ack, uint64_t now)
{
	const uint32_t irs = ack->seq.n - 1, slot = slot_of(now);
	const uint32_t rest = ack->ack.n - 1 - irs - cookie_base(s, &ack->tuple);
	const uint32_t age = (slot - (rest >> SLOT_SHIFT)) & (UINT32_MAX >> SLOT_SHIFT);
	uint32_t index;

	if (age >= SLOTS_VALID)
		return 0;
	index = (rest - cookie_hash(s, &ack->tuple, irs, slot - age)) & HASH_MASK;
	return index & ((1u << MSS_SHIFT) - 1) ? 0 : mss_table[index >> MSS_SHIFT];
}

bool syncookie_check(const struct stack *s, const struct seg *ack, uint64_t now, struct seg *syn)
{
	const uint16_t mss = open_cookie(s, ack, now);

	if (!mss)
		return false;
	*syn = *ack;
	syn->flags = TCPF_SYN;
	syn->seq = seq_add(ack->seq, UINT32_MAX);
	syn->mss = mss;
	if (ack->has_ts) {
		const uint32_t options = ack->tsecr - secure_tcp_ts_off(s, &ack->tuple);

		syn->flags |= options & TS_ECN ? TCPF_ECE | TCPF_CWR : 0;
		syn->sack_ok = options & TS_SACK;
		syn->wscale = options & TS_WSCALE;
		syn->has_wscale = syn->wscale != TS_NO_WSCALE;
	}
	return true;
}

/* Not ahead of the clock: what the connection sends next must not be older. */
uint32_t syncookie_tsval(const struct flow *f, uint64_t now)
{
	const uint32_t ticks = tcp_tsval(f, now) - f->ts_offset;
	const uint32_t options = (f->ecn_ok ? TS_ECN : 0) | (f->sack_ok ? TS_SACK : 0) |
				 (f->wscale_ok ? f->snd_wscale : TS_NO_WSCALE);
	const uint32_t ts = (ticks & ~TS_OPTIONS) | options;

	return f->ts_offset + (ts <= ticks ? ts : ts - (TS_OPTIONS + 1));
}
