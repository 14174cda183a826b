/* SPDX-License-Identifier: Apache-2.0 */
/*
 * matter.c - which frames must not be sent, for the transfer to be exact.
 *
 * Nobody can tell a segment with the right addresses, ports, checksum, timestamp, sequence and
 * acknowledgement numbers from the real sender's. So each frame of any kind is looked at as a
 * receiver would, who knows the rules; one that they allow is made anew. What remains are near
 * misses: right in all but one respect.
 */
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

#include "frame.h"

static bool is_honest_tuple(const struct frame *f)
{
	const uint8_t *ip = f->b + ETH;
	uint32_t hlen;

	if (f->len < ETH + IP4 + TCP || memcmp(f->b, wire.mac_to, 6) ||
	    get16(f->b + 12) != ETH_P_IP)
		return false;
	hlen = (ip[0] & 15) * 4u;
	return ip[0] >> 4 == 4 && hlen >= IP4 && f->len >= ETH + hlen + TCP &&
	       ip[9] == IPPROTO_TCP && !(get16(ip + 6) & 0x3fff) &&
	       !memcmp(ip + 12, &wire.ip_from, 4) && !memcmp(ip + 16, &wire.ip_to, 4) &&
	       get16(ip + hlen) == wire.port_from && get16(ip + hlen + 2) == wire.port_to;
}

/* Its lengths, and its checksums: all there, or as an offload leaves them. */
static bool is_intact(const struct frame *f, uint32_t *l4, uint32_t *end)
{
	const uint8_t *ip = f->b + ETH;
	const uint32_t hlen = (ip[0] & 15) * 4u, total = get16(ip + 2);
	uint64_t start;

	*l4 = ETH + hlen;
	*end = ETH + total;
	if (*end > f->len || total < hlen + TCP || fold(sum(ip, hlen)) != 0xffff)
		return false;
	start = pseudo(f, total - hlen);
	return get16(f->b + *l4 + 16) == fold(start) ||
	       fold(start + sum(f->b + *l4, total - hlen)) == 0xffff;
}

/* The last of several counts, as a parser has it that takes each. */
static bool find_timestamp(const uint8_t *p, uint32_t left, uint32_t *value)
{
	bool found = false;

	while (left && *p) {
		uint32_t len = 1;

		if (*p != 1) {
			if (left < 2 || p[1] < 2 || p[1] > left)
				break;
			len = p[1];
			if (*p == 8 && len == 10) {
				*value = get32(p + 2);
				found = true;
			}
		}
		p += len;
		left -= len;
	}
	return found;
}

/* Before what comes next: what takes no space stands in line at rcv_nxt itself. */
static bool is_old(uint32_t seq, uint32_t space)
{
	const uint32_t next = rcv_nxt();

	return (int32_t)(seq + (space ? space : 1) - next) <= 0 && next - seq <= FAR;
}

static bool is_beyond(uint32_t seq)
{
	const uint32_t ahead = seq - (limit() + WINDOW_MAX);

	return ahead >= FAR - WINDOW_MAX && ahead <= FAR + SPAN;
}

/* And not so long before that, as time goes on, it would be from the future (RFC 7323 5.2). */
static bool is_from_before(uint32_t tsval)
{
	const uint32_t behind = wire.tsval - tsval;

	return behind >= 1u << 20 && behind <= FAR;
}

/*
 * Could the receiver's rules let this frame have an effect on the transfer? The rules by which it
 * has none, in the order of RFC 9293 3.10.7.4:
 *
 *   no timestamp, or one from before the SYN (RFC 7323 3.2, 5.3)    unless it is a RST
 *   outside the window
 *   a SYN (RFC 5961 4.2)
 *   no ACK; one of what was never sent, or long past (RFC 5961 5.2)
 */
bool may_matter(const struct frame *f)
{
	uint32_t l4, end, doff, seq, ack, value, space;
	const uint8_t *tcp;
	uint8_t flags;

	if (!is_honest_tuple(f) || !is_intact(f, &l4, &end))
		return false;
	tcp = f->b + l4;
	doff = (tcp[12] >> 4) * 4u;
	if (doff < TCP || l4 + doff > end)
		return false;
	flags = tcp[13];
	seq = get32(tcp + 4);
	ack = get32(tcp + 8);
	space = end - l4 - doff + !!(flags & SYN) + !!(flags & FIN);
	if (is_old(seq, space) || is_beyond(seq))
		return false;
	if (flags & RST)
		return true;
	if (flags & SYN)
		return false;
	if (!find_timestamp(tcp + TCP, doff - TCP, &value))
		return false;
	if (is_from_before(value))
		return false;
	if (!(flags & ACK))
		return false;
	return !((int32_t)(ack - wire.snd_nxt) > 0 || (int32_t)(ack - (wire.snd_nxt - FAR)) <= 0);
}
