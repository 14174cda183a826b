/* SPDX-License-Identifier: Apache-2.0 */
/*
 * wire.c - received headers into `struct seg`, `struct out_seg` into a frame.
 *
 *   stack_rx() -> wire_parse()          tcp_output.c -> wire_build()
 *
 * The XDP program has checked lengths and checksums once, in the kernel. Here they are
 * checked again as far as memory safety depends on them, since the record lies in
 * memory that other code of this process could have written.
 */
#include <arpa/inet.h>
#include <string.h>

#include "steer.h"
#include "wire.h"

#define ETH_HLEN 14
#define ETH_P_IPV4 0x0800
#define ETH_P_IPV6 0x86dd

#define ECN_CE 3 /* both bits of the field, RFC 3168 5 */

#define OPT_EOL 0
#define OPT_NOP 1
#define OPT_MSS 2
#define OPT_WSCALE 3
#define OPT_SACK_PERMITTED 4
#define OPT_SACK 5
#define OPT_TIMESTAMPS 8

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint8_t *put16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return p + 2;
}

static uint8_t *put32(uint8_t *p, uint32_t v)
{
	put16(p, (uint16_t)(v >> 16));
	put16(p + 2, (uint16_t)v);
	return p + 4;
}

/* ---- receive ---- */

static const uint8_t v4_mapped[12] = {[10] = 0xff, [11] = 0xff};

static bool is_zero(const uint8_t *p, size_t n)
{
	while (n--)
		if (*p++)
			return false;
	return true;
}

/* Can this be the address of one host? (RFC 1122 3.2.1.3, RFC 4291 2.7, RFC 9293 MUST-57/63) */
static bool is_unicast(const uint8_t ip[16], int family)
{
	if (family == 4) {
		const uint8_t first = ip[12];

		return first != 0 && first != 127 && first < 224;
	}
	return ip[0] != 0xff && !is_zero(ip, 16) && !(is_zero(ip, 15) && ip[15] == 1);
}

static enum drop parse_addresses(const uint8_t *ip, int family, struct tuple *t)
{
	t->family = (uint16_t)family;
	if (family == 4) {
		memcpy(t->peer_ip, v4_mapped, 12);
		memcpy(t->peer_ip + 12, ip + 12, 4);
		memcpy(t->local_ip, v4_mapped, 12);
		memcpy(t->local_ip + 12, ip + 16, 4);
	} else {
		memcpy(t->peer_ip, ip + 8, 16);
		memcpy(t->local_ip, ip + 24, 16);
	}
	if (!is_unicast(t->peer_ip, family) || !is_unicast(t->local_ip, family))
		return DROP_ADDRESS;
	if (!memcmp(t->peer_ip, t->local_ip, 16))
		return DROP_ADDRESS; /* our own address does not come from outside */
	return DROP_NONE;
}

/* Type of service of IPv4, traffic class of IPv6: the last two bits are ECN's. */
static bool is_ce(const uint8_t *ip, int family)
{
	const uint8_t tos = family == 4 ? ip[1] : (uint8_t)(ip[0] << 4 | ip[1] >> 4);

	return (tos & ECN_CE) == ECN_CE;
}

static void parse_option(struct seg *seg, uint8_t kind, uint8_t len, const uint8_t *value)
{
	const bool syn = seg->flags & TCPF_SYN;

	/* A known option of another length is as good as unknown: skip it. */
	switch (kind) {
	case OPT_MSS: /* meaningful on SYN only, MUST-65; so are the next two */
		if (syn && len == 4)
			seg->mss = get16(value);
		break;
	case OPT_WSCALE:
		if (syn && len == 3) {
			seg->has_wscale = true;
			seg->wscale = value[0] > TCP_WSCALE_MAX ? TCP_WSCALE_MAX : value[0];
		}
		break;
	case OPT_SACK_PERMITTED:
		if (syn && len == 2)
			seg->sack_ok = true;
		break;
	case OPT_TIMESTAMPS:
		if (len == 10) {
			seg->has_ts = true;
			seg->tsval = get32(value);
			seg->tsecr = get32(value + 4);
		}
		break;
	}
}

/* Each turn consumes at least one byte; an illegal length ends the list and nothing
 * behind it is believed (RFC 9293 3.1, MUST-7 and MUST-68). */
static void parse_options(struct seg *seg, const uint8_t *p, uint32_t left)
{
	while (left && *p != OPT_EOL) {
		uint8_t len = 1;

		if (*p != OPT_NOP) {
			if (left < 2 || p[1] < 2 || p[1] > left)
				return;
			len = p[1];
			parse_option(seg, p[0], len, p + 2);
		}
		p += len;
		left -= len;
	}
}

/* Does the record hold together, and do the chunks hold what it promises? */
static bool record_ok(const struct rx_info *info, const struct rx_packet *packet)
{
	const uint32_t ip_hlen = info->family == 4 ? IPV4_HLEN : IPV6_HLEN;
	uint32_t bytes = 0;

	if (info->magic != RX_INFO_MAGIC || (info->family != 4 && info->family != 6))
		return false;
	if (info->csum == RX_CSUM_NONE || info->csum > RX_CSUM_TRUSTED)
		return false;
	if (info->hdr_len + info->linear > RX_HDR_MAX || info->l3_off < ETH_HLEN ||
	    info->l4_off < info->l3_off + ip_hlen || info->l4_off + TCP_HLEN > info->hdr_len)
		return false;
	for (uint32_t i = 0; i < packet->nr_chunks; i++)
		bytes += packet->chunk[i].len;
	return info->linear <= info->payload_len && info->payload_len - info->linear <= bytes;
}

enum drop wire_parse(const uint8_t *end, const struct rx_packet *packet, struct seg *seg)
{
	struct rx_info info;
	const uint8_t *eth, *tcp;
	enum drop drop;
	uint32_t doff;

	memcpy(&info, end - RX_META_LEN, sizeof(info));
	if (!record_ok(&info, packet))
		return DROP_RECORD;
	memset(seg, 0, sizeof(*seg));
	eth = end - info.linear - info.hdr_len;
	tcp = eth + info.l4_off;

	drop = parse_addresses(eth + info.l3_off, info.family, &seg->tuple);
	if (drop)
		return drop;
	memcpy(seg->link.dst, eth + 6, 6);
	memcpy(seg->link.src, eth, 6);

	doff = (uint32_t)(tcp[12] >> 4) * 4;
	if (doff < TCP_HLEN || info.l4_off + doff != info.hdr_len)
		return DROP_MALFORMED;
	seg->tuple.peer_port = get16(tcp);
	seg->tuple.local_port = get16(tcp + 2);
	seg->seq = seq(get32(tcp + 4));
	seg->ack = seq(get32(tcp + 8));
	seg->flags = tcp[13];
	seg->wnd = get16(tcp + 14);
	seg->len = info.payload_len;
	seg->head = info.linear;
	seg->hdr_len = info.hdr_len;
	seg->queue = packet->queue;
	seg->csum = info.csum;
	seg->ce = is_ce(eth + info.l3_off, info.family);
	parse_options(seg, tcp + TCP_HLEN, doff - TCP_HLEN);
	return DROP_NONE;
}

/* ---- transmit ---- */

/* RFC 1071, over an even or odd number of bytes; the caller folds. */
static uint64_t csum_add(uint64_t sum, const uint8_t *p, uint32_t len)
{
	for (; len >= 4; p += 4, len -= 4) {
		uint32_t word;

		memcpy(&word, p, 4);
		sum += word;
	}
	if (len >= 2) {
		uint16_t half;

		memcpy(&half, p, 2);
		sum += half;
		p += 2;
		len -= 2;
	}
	if (len) {
		uint16_t half = 0;

		memcpy(&half, p, 1);
		sum += half;
	}
	return sum;
}

static uint16_t csum_fold(uint64_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

static uint32_t options_len(const struct out_seg *out)
{
	uint32_t len = 0;

	if (out->mss)
		len += 4;
	if (out->sack_permitted && !out->has_ts)
		len += 4; /* with timestamps it takes the place of their padding */
	if (out->has_ts)
		len += 12;
	if (out->wscale >= 0)
		len += 4;
	if (out->nr_sack)
		len += 4 + 8 * out->nr_sack;
	return len;
}

static uint32_t ip_hlen(const struct out_seg *out)
{
	return out->tuple->family == 4 ? IPV4_HLEN : IPV6_HLEN;
}

uint32_t wire_headers_len(const struct out_seg *out)
{
	return ETH_HLEN + ip_hlen(out) + TCP_HLEN + options_len(out);
}

/* In the order Linux sends them, each padded by NOPs to whole words in front. */
static void build_options(const struct out_seg *out, uint8_t *p)
{
	if (out->mss) {
		*p++ = OPT_MSS;
		*p++ = 4;
		p = put16(p, out->mss);
	}
	if (out->has_ts || out->sack_permitted) {
		*p++ = out->sack_permitted ? OPT_SACK_PERMITTED : OPT_NOP;
		*p++ = out->sack_permitted ? 2 : OPT_NOP;
		*p++ = out->has_ts ? OPT_TIMESTAMPS : OPT_NOP;
		*p++ = out->has_ts ? 10 : OPT_NOP;
	}
	if (out->has_ts) {
		p = put32(p, out->tsval);
		p = put32(p, out->tsecr);
	}
	if (out->wscale >= 0) {
		*p++ = OPT_NOP;
		*p++ = OPT_WSCALE;
		*p++ = 3;
		*p++ = (uint8_t)out->wscale;
	}
	if (out->nr_sack) {
		*p++ = OPT_NOP;
		*p++ = OPT_NOP;
		*p++ = OPT_SACK;
		*p++ = (uint8_t)(2 + 8 * out->nr_sack);
		for (uint32_t i = 0; i < out->nr_sack; i++) {
			p = put32(p, out->sack[i].start.n);
			p = put32(p, out->sack[i].end.n);
		}
	}
}

static uint8_t *build_ipv4(const struct out_seg *out, uint8_t *ip, uint32_t l4_len)
{
	uint8_t *p = ip;

	*p++ = 0x45;
	*p++ = 0;
	p = put16(p, (uint16_t)(IPV4_HLEN + l4_len));
	p = put16(p, 0); /* identification: of no use with DF, RFC 6864 4.1 */
	p = put16(p, 0x4000); /* DF */
	*p++ = 64;
	*p++ = 6;
	p = put16(p, 0);
	memcpy(p, out->tuple->local_ip + 12, 4);
	memcpy(p + 4, out->tuple->peer_ip + 12, 4);
	const uint16_t sum = csum_fold(csum_add(0, ip, IPV4_HLEN));

	memcpy(ip + 10, &sum, 2);
	return ip + IPV4_HLEN;
}

static uint8_t *build_ipv6(const struct out_seg *out, uint8_t *ip, uint32_t l4_len)
{
	uint8_t *p = put32(ip, 0x60000000);

	p = put16(p, (uint16_t)l4_len);
	*p++ = 6;
	*p++ = 64;
	memcpy(p, out->tuple->local_ip, 16);
	memcpy(p + 16, out->tuple->peer_ip, 16);
	return ip + IPV6_HLEN;
}

/* The pseudo header (RFC 9293 3.1): addresses, protocol and length. */
static uint64_t csum_pseudo(const struct tuple *t, uint32_t l4_len)
{
	const uint32_t skip = t->family == 4 ? 12 : 0;
	uint64_t sum = csum_add(0, t->local_ip + skip, 16 - skip);

	sum = csum_add(sum, t->peer_ip + skip, 16 - skip);
	return sum + htons((uint16_t)l4_len) + htons(6);
}

uint32_t wire_build(const struct out_seg *out, uint8_t *buf)
{
	const uint32_t tcp_hlen = TCP_HLEN + options_len(out);
	const uint32_t l4_len = tcp_hlen + out->len;
	const bool v4 = out->tuple->family == 4;
	uint8_t *ip = buf + ETH_HLEN, *tcp, *p;
	uint16_t sum;

	memcpy(buf, out->link->dst, 6);
	memcpy(buf + 6, out->link->src, 6);
	put16(buf + 12, v4 ? ETH_P_IPV4 : ETH_P_IPV6);
	tcp = v4 ? build_ipv4(out, ip, l4_len) : build_ipv6(out, ip, l4_len);

	p = put16(tcp, out->tuple->local_port);
	p = put16(p, out->tuple->peer_port);
	p = put32(p, out->seq.n);
	p = put32(p, out->flags & TCPF_ACK ? out->ack.n : 0);
	*p++ = (uint8_t)(tcp_hlen / 4 << 4);
	*p++ = out->flags;
	p = put16(p, out->wnd);
	p = put16(p, 0);
	p = put16(p, 0); /* urgent pointer: never used, RFC 6093 */
	build_options(out, p);
	sum = csum_fold(csum_add(csum_pseudo(out->tuple, l4_len), tcp, l4_len));
	memcpy(tcp + 16, &sum, 2);
	return (uint32_t)(tcp - buf) + l4_len;
}
