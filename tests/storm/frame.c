/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.c - building frames: see frame.h.
 */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "frame.h"

struct wire wire = {.mtu = 1500};

uint32_t rcv_nxt(void)
{
	return atomic_load_explicit(&wire.honest->rcv_nxt, memory_order_relaxed);
}

uint32_t tsval_now(void)
{
	static time_t start;
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	if (!start)
		start = ts.tv_sec;
	return wire.tsval + (uint32_t)(ts.tv_sec - start) * 1000 + (uint32_t)(ts.tv_nsec / 1000000);
}

uint32_t limit(void)
{
	return atomic_load_explicit(&wire.honest->limit, memory_order_relaxed);
}

/* ---- chance: xorshift64*, the same storm for the same seed ---- */

static uint64_t state;

void rnd_seed(uint64_t seed)
{
	state = seed * 0x9e3779b97f4a7c15ULL + 1;
}

uint32_t rnd(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (uint32_t)(state * 0x2545f4914f6cdd1dULL >> 32);
}

uint32_t below(uint32_t n)
{
	return (uint32_t)((uint64_t)rnd() * n >> 32);
}

uint32_t between(uint32_t least, uint32_t most)
{
	return least + below(most - least + 1);
}

void fill(uint8_t *p, uint32_t len)
{
	for (; len >= 4; p += 4, len -= 4) {
		uint32_t r = rnd();

		memcpy(p, &r, 4);
	}
	while (len--)
		*p++ = (uint8_t)rnd();
}

/* ---- words and sums ---- */

uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

/* RFC 1071, in host order, not folded. */
uint64_t sum(const uint8_t *p, uint32_t len)
{
	uint64_t total = 0;

	for (; len >= 2; p += 2, len -= 2)
		total += get16(p);
	return len ? total + (uint64_t)(*p << 8) : total;
}

uint16_t fold(uint64_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)total;
}

/* ---- a frame under construction ---- */

uint8_t *tcp_of(struct frame *f)
{
	return f->b + f->l4;
}

uint64_t pseudo(const struct frame *f, uint32_t l4_len)
{
	const uint8_t *ip = f->b + f->l3;

	return (f->v6 ? sum(ip + 8, 32) : sum(ip + 12, 8)) + IPPROTO_TCP + l4_len;
}

void finish_ip(struct frame *f)
{
	uint8_t *ip = f->b + f->l3;

	if (f->v6) {
		put16(ip + 4, f->len - f->l3 - IP6);
		return;
	}
	put16(ip + 2, f->len - f->l3);
	put16(ip + 10, 0);
	put16(ip + 10, (uint16_t)~fold(sum(ip, (ip[0] & 15) * 4u)));
}

static void finish_tcp(struct frame *f)
{
	const uint32_t len = f->len - f->l4;

	put16(tcp_of(f) + 16, 0);
	put16(tcp_of(f) + 16, (uint16_t)~fold(pseudo(f, len) + sum(tcp_of(f), len)));
}

void finish(struct frame *f)
{
	finish_ip(f);
	if (f->l4)
		finish_tcp(f);
}

void begin(struct frame *f, bool v6, uint8_t protocol)
{
	uint8_t *ip = f->b + ETH;

	memcpy(f->b, wire.mac_to, 6);
	memcpy(f->b + 6, wire.mac_from, 6);
	put16(f->b + 12, v6 ? ETH_P_IPV6 : ETH_P_IP);
	f->l3 = ETH;
	f->l4 = 0;
	f->v6 = v6;
	if (v6) {
		put32(ip, 0x60000000 | below(1u << 20));
		ip[6] = protocol;
		ip[7] = 64;
		memcpy(ip + 8, wire.ip6_from, 16);
		memcpy(ip + 24, wire.ip6_to, 16);
		f->len = ETH + IP6;
		return;
	}
	put32(ip, 0x45000000);
	put32(ip + 4, (uint32_t)below(1u << 16) << 16 | 0x4000);
	put32(ip + 8, 64u << 24 | (uint32_t)protocol << 16);
	memcpy(ip + 12, &wire.ip_from, 4);
	memcpy(ip + 16, &wire.ip_to, 4);
	f->len = ETH + IP4;
}

void add_tcp(struct frame *f, uint16_t from, uint16_t to, uint32_t seq, uint32_t ack, uint8_t flags)
{
	uint8_t *tcp = f->b + f->len;

	f->l4 = f->len;
	put16(tcp, from);
	put16(tcp + 2, to);
	put32(tcp + 4, seq);
	put32(tcp + 8, ack);
	put32(tcp + 12, 5u << 28 | (uint32_t)flags << 16 | below(1u << 16));
	put32(tcp + 16, 0);
	f->len += TCP;
}

static void add_option(struct frame *f, const uint8_t *option, uint32_t len)
{
	memcpy(f->b + f->len, option, len);
	f->len += len;
	tcp_of(f)[12] = (uint8_t)((f->len - f->l4) / 4 << 4);
}

void add_timestamps(struct frame *f, uint32_t value)
{
	uint8_t option[12] = {1, 1, 8, 10};

	put32(option + 4, value);
	put32(option + 8, rnd());
	add_option(f, option, sizeof(option));
}

void add_bad_options(struct frame *f)
{
	static const uint8_t known[] = {0, 1, 2, 3, 4, 5, 8, 19, 29, 30, 34, 253};
	uint8_t options[40];
	const uint32_t len = between(1, 10) * 4;

	fill(options, len);
	for (uint32_t at = 0; at + 1 < len; at += between(1, 6)) {
		options[at] = known[below(sizeof(known))];
		if (below(2))
			options[at + 1] = (uint8_t)below(12);
	}
	add_option(f, options, len);
}

void add_payload(struct frame *f, uint32_t most)
{
	const uint32_t room = ETH + wire.mtu - f->len;
	uint32_t len = below(16) ? below(200) : below(room + 1);

	if (len > most)
		len = most;
	if (len > room)
		len = room;
	fill(f->b + f->len, len);
	f->len += len;
}
