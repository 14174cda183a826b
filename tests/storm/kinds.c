/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kinds.c - the frames of a storm: mutations of the transfer's own segments, near misses of them,
 * strangers, what is broken below TCP, and noise.
 */
#include <linux/if_ether.h>
#include <netinet/in.h>
#include <string.h>

#include "frame.h"

#define STRANGERS 64 /* addresses: the kernel keeps a neighbour entry for each that it answers */
#define ETH_P_8021AD_TAG 0x88a8

/* ---- the transfer's own segments, and near misses ---- */

static void as_honest(struct frame *f, uint32_t seq, uint32_t ack, uint8_t flags)
{
	begin(f, false, IPPROTO_TCP);
	add_tcp(f, wire.port_from, wire.port_to, seq, ack, flags);
}

static uint32_t in_window(void)
{
	return rcv_nxt() + below(NEAR);
}

static uint8_t any_flags(void)
{
	return (uint8_t)rnd();
}

static uint8_t data_flags(void)
{
	return (uint8_t)(ACK | (below(2) ? PSH : 0) | (below(32) ? 0 : FIN));
}

/* As the sender would send it, then a few bits turned over, headers preferred. */
static void flipped(struct frame *f)
{
	uint32_t n = between(1, 8);

	as_honest(f, in_window(), wire.snd_nxt, data_flags());
	add_timestamps(f, tsval_now() + below(1u << 16));
	add_payload(f, UINT32_MAX);
	finish(f);
	while (n--) {
		const uint32_t at = below(4) ? ETH + below(IP4 + TCP + 12) : below(f->len);

		f->b[at] ^= (uint8_t)(1u << below(8));
	}
}

static void wrong_checksum(struct frame *f)
{
	as_honest(f, in_window(), wire.snd_nxt, data_flags());
	add_timestamps(f, tsval_now() + below(1u << 16));
	add_payload(f, UINT32_MAX);
	finish(f);
	put16(tcp_of(f) + 16, rnd());
}

/* Its end is at most where the receiver is: all of it was there before. */
static void old_data(struct frame *f)
{
	const uint32_t back = between(1, below(2) ? NEAR : SPAN);

	as_honest(f, rcv_nxt() - back, wire.snd_nxt, data_flags() & (uint8_t)~FIN);
	add_timestamps(f, tsval_now() + below(1u << 16));
	add_payload(f, back);
	finish(f);
}

static void beyond_window(struct frame *f)
{
	as_honest(f, limit() + FAR + below(SPAN), wire.snd_nxt, data_flags());
	add_timestamps(f, tsval_now() + below(1u << 16));
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void no_timestamp(struct frame *f)
{
	as_honest(f, in_window(), wire.snd_nxt, data_flags());
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void old_timestamp(struct frame *f)
{
	as_honest(f, in_window(), wire.snd_nxt, data_flags());
	add_timestamps(f, wire.tsval - between(1u << 20, FAR));
	add_payload(f, UINT32_MAX);
	finish(f);
}

/* And a timestamp from days ahead: were it believed, PAWS would shut the sender out. */
static void future_ack(struct frame *f)
{
	as_honest(f, in_window(), wire.snd_nxt + between(1, FAR), data_flags());
	add_timestamps(f, tsval_now() + below(FAR));
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void ancient_ack(struct frame *f)
{
	as_honest(f, in_window(), wire.snd_nxt - FAR - below(SPAN), data_flags());
	add_timestamps(f, tsval_now() + below(FAR));
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void no_ack(struct frame *f)
{
	as_honest(f, in_window(), 0, any_flags() & (uint8_t)~(SYN | RST | ACK));
	add_timestamps(f, tsval_now() + below(1u << 16));
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void syn_again(struct frame *f)
{
	as_honest(f, below(4) ? in_window() : rnd(), rnd(), any_flags() | SYN);
	if (below(2))
		add_bad_options(f);
	finish(f);
}

static void blind_reset(struct frame *f)
{
	const uint32_t seq = below(2) ? rcv_nxt() - between(1, SPAN) : limit() + FAR + below(SPAN);

	as_honest(f, seq, rnd(), (uint8_t)(RST | (any_flags() & (FIN | ACK | PSH))));
	finish(f);
}

static void strange_options(struct frame *f)
{
	as_honest(f, rnd(), rnd(), any_flags());
	add_bad_options(f);
	add_payload(f, UINT32_MAX);
	finish(f);
}

/* ---- strangers ---- */

/* Another address of the subnet, or another port. */
static void as_stranger(struct frame *f, uint16_t to, uint8_t flags)
{
	const bool v6 = below(3) == 0;
	uint8_t *ip = f->b + ETH;

	begin(f, v6, IPPROTO_TCP);
	if (below(2))
		ip[v6 ? 23 : 15] = (uint8_t)between(100, 100 + STRANGERS - 1);
	add_tcp(f, (uint16_t)between(1, 65535), to, rnd(), rnd(), flags);
}

static void stranger_syn(struct frame *f)
{
	as_stranger(f, wire.port_to, SYN);
	if (below(2))
		add_timestamps(f, rnd());
	if (below(4) == 0)
		add_bad_options(f);
	finish(f);
}

static void stranger_any(struct frame *f)
{
	as_stranger(f, wire.port_to, any_flags());
	if (below(2))
		add_bad_options(f);
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void closed_port(struct frame *f)
{
	as_stranger(f, (uint16_t)below(65536), any_flags());
	if (get16(tcp_of(f) + 2) == wire.port_to)
		put16(tcp_of(f) + 2, wire.port_to ^ 1);
	add_payload(f, 64);
	finish(f);
}

/* ---- what is wrong below TCP ---- */

static void ip_fragment(struct frame *f)
{
	as_stranger(f, wire.port_to, ACK);
	add_payload(f, UINT32_MAX);
	if (f->v6) { /* the fragment header takes the place of the ports */
		f->b[f->l3 + 6] = IPPROTO_FRAGMENT;
		f->b[f->l4] = IPPROTO_TCP;
		finish_ip(f);
		return;
	}
	put16(f->b + f->l3 + 6, between(1, 0x3fff));
	finish(f);
}

static void tagged(struct frame *f)
{
	as_stranger(f, wire.port_to, any_flags());
	add_payload(f, 1000);
	finish(f);
	memmove(f->b + 16, f->b + 12, f->len - 12);
	put16(f->b + 12, below(2) ? ETH_P_8021Q : ETH_P_8021AD_TAG);
	put16(f->b + 14, below(4) ? below(4096) : 0);
	f->len += 4;
}

static void other_host(struct frame *f)
{
	as_stranger(f, wire.port_to, any_flags());
	finish(f);
	if (below(2))
		f->b[5] ^= (uint8_t)between(1, 255);
	else
		memset(f->b, below(2) ? 0xff : 0x33, 6);
}

static void broken_ip(struct frame *f)
{
	as_stranger(f, wire.port_to, any_flags());
	add_payload(f, 300);
	finish(f);
	for (uint32_t n = between(1, 4); n; n--)
		f->b[f->l3 + below(f->v6 ? 7 : IP4)] = (uint8_t)rnd();
	if (!f->v6 && below(2))
		put16(f->b + f->l3 + 10,
		      (uint16_t)~fold(sum(f->b + f->l3, IP4) - get16(f->b + f->l3 + 10)));
}

static void broken_tcp(struct frame *f)
{
	as_stranger(f, wire.port_to, any_flags());
	add_payload(f, 60);
	tcp_of(f)[12] = (uint8_t)rnd();
	finish(f);
	if (below(4) == 0) {
		f->len = f->l4 + below(TCP);
		finish_ip(f);
	}
}

static void extension_headers(struct frame *f)
{
	static const uint8_t extensions[] = {0, 43, 44, 50, 51, 60, 135, 6};
	uint32_t n = between(1, 8);
	uint8_t *next;

	begin(f, true, 0);
	next = f->b + ETH + 6;
	while (n--) {
		uint8_t *ext = f->b + f->len;

		*next = extensions[below(below(2) ? 1 : sizeof(extensions))];
		memset(ext, 0, 8);
		ext[1] = below(4) ? 0 : (uint8_t)below(3);
		ext[3] = (uint8_t)below(2);
		f->len += 8 + 8u * ext[1];
		next = ext;
	}
	*next = IPPROTO_TCP;
	add_tcp(f, (uint16_t)rnd(), wire.port_to, rnd(), rnd(), any_flags());
	add_payload(f, 200);
	finish(f);
}

static void other_protocol(struct frame *f)
{
	static const uint8_t protocols[] = {2, 4, 17, 41, 47, 89, 132, 136, 255};

	begin(f, below(2), protocols[below(sizeof(protocols))]);
	add_payload(f, 1000);
	finish(f);
}

/* Nothing but noise behind the addresses; no ARP, or the kernel would learn what is not so. */
static void noise(struct frame *f)
{
	memcpy(f->b, wire.mac_to, 6);
	memcpy(f->b + 6, wire.mac_from, 6);
	f->l4 = 0;
	f->len = between(ETH, below(8) ? 128 : ETH + wire.mtu);
	fill(f->b + 12, f->len > 12 ? f->len - 12 : 0);
	if (get16(f->b + 12) == ETH_P_ARP)
		f->b[12] = 0;
}

static void noise_in_ip(struct frame *f)
{
	begin(f, false, IPPROTO_TCP);
	add_payload(f, UINT32_MAX);
	finish_ip(f);
}

/* Name, and how many there are of it for one of weight 1. */
#define KINDS(X)                                                                                   \
	X(flipped, 10)                                                                             \
	X(wrong_checksum, 6)                                                                       \
	X(old_data, 10)                                                                            \
	X(beyond_window, 8)                                                                        \
	X(no_timestamp, 8)                                                                         \
	X(old_timestamp, 8)                                                                        \
	X(future_ack, 6)                                                                           \
	X(ancient_ack, 4)                                                                          \
	X(no_ack, 3)                                                                               \
	X(syn_again, 5)                                                                            \
	X(blind_reset, 6)                                                                          \
	X(strange_options, 3)                                                                      \
	X(stranger_syn, 4)                                                                         \
	X(stranger_any, 8)                                                                         \
	X(closed_port, 2)                                                                          \
	X(ip_fragment, 2)                                                                          \
	X(tagged, 2)                                                                               \
	X(other_host, 2)                                                                           \
	X(broken_ip, 5)                                                                            \
	X(broken_tcp, 5)                                                                           \
	X(extension_headers, 5)                                                                    \
	X(other_protocol, 2)                                                                       \
	X(noise, 3)                                                                                \
	X(noise_in_ip, 3)

struct kind kinds[] = {
#define KIND(name, weight) {#name, name, weight, 0, 0},
	KINDS(KIND)
#undef KIND
};

const uint32_t nr_kinds = sizeof(kinds) / sizeof(kinds[0]);

/* ---- one of them ---- */

static struct kind *choose(void)
{
	static uint32_t weights;
	uint32_t n;

	if (!weights)
		for (uint32_t i = 0; i < nr_kinds; i++)
			weights += kinds[i].weight;
	n = below(weights);
	for (uint32_t i = 0;; i++) {
		if (n < kinds[i].weight)
			return &kinds[i];
		n -= kinds[i].weight;
	}
}

struct kind *make_frame(struct frame *f)
{
	struct kind *kind = choose();

	kind->make(f);
	while (may_matter(f)) {
		kind->remade++;
		kind->make(f);
	}
	return kind;
}
