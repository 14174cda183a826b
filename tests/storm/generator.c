/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generator.c - a storm of random and mutated frames, beside a transfer that they must not touch.
 *
 *   generator NAME=VALUE...      what each means is said at options[]
 *
 * Frames leave by AF_PACKET in batches, marked so that the books can tell them from the kernel's. At
 * the end: how many of each kind the kernel has taken, and how many it refused, as JSON.
 *
 * What makes "the transfer is exact" a promise that can be kept: nobody can tell a segment with the
 * right addresses, ports, checksum, timestamp, sequence and acknowledgement numbers from the real
 * sender's, so none is ever sent. Each frame of any kind passes may_matter(), which looks at it as a
 * receiver would, and knows what its rules are; one that they allow is made anew. What remains are
 * near misses: right in all but one respect.
 *
 * The transfer's numbers move while frames are on their way. `struct honest`, shared with the
 * test, has bounds that stay true: the receiver is at least at rcv_nxt; nothing beyond limit has
 * been sent, and the receiver's window ends within WINDOW_MAX of that.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64
#define FRAME_MAX 9216
#define ETH 14
#define IP4 20
#define IP6 40
#define TCP 20
#define STRANGERS 64 /* addresses: the kernel keeps a neighbour entry for each that it answers */
#define ETH_P_8021AD_TAG 0x88a8

#define FIN 1
#define SYN 2
#define RST 4
#define PSH 8
#define ACK 16

/* Distances in sequence space, all of them such that whole bursts of the transfer fit between the
 * look at its numbers and the frame's arrival. */
#define WINDOW_MAX (1u << 24)
#define NEAR (1u << 20)
#define FAR (1u << 30)
#define SPAN (1u << 28)

struct honest {
	_Atomic uint32_t rcv_nxt; /* of the receiver, at least */
	_Atomic uint32_t limit; /* of the sender, at most */
};

/* From the command line. */
static uint64_t frames = 1000, seed = 1, rate;
static char ifname[IFNAMSIZ];
static uint8_t mac_from[6], mac_to[6];
static uint32_t ip_from, ip_to; /* network order */
static uint8_t ip6_from[16], ip6_to[16];
static uint16_t port_from, port_to;
static uint32_t snd_nxt; /* of the receiver: it sends nothing, so this is all it ever sent */
static uint32_t tsval; /* of the sender, after its SYN */
static uint32_t mtu = 1500, mark;
static struct honest *honest;

/* ---- chance: xorshift64*, the same storm for the same seed ---- */

static uint64_t state;

static uint32_t rnd(void)
{
	state ^= state >> 12;
	state ^= state << 25;
	state ^= state >> 27;
	return (uint32_t)(state * 0x2545f4914f6cdd1dULL >> 32);
}

static uint32_t below(uint32_t n)
{
	return (uint32_t)((uint64_t)rnd() * n >> 32);
}

static uint32_t between(uint32_t least, uint32_t most)
{
	return least + below(most - least + 1);
}

static void fill(uint8_t *p, uint32_t len)
{
	for (; len >= 4; p += 4, len -= 4) {
		uint32_t r = rnd();

		memcpy(p, &r, 4);
	}
	while (len--)
		*p++ = (uint8_t)rnd();
}

/* ---- words and sums ---- */

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static void put32(uint8_t *p, uint32_t v)
{
	put16(p, v >> 16);
	put16(p + 2, v);
}

/* RFC 1071, in host order, not folded. */
static uint64_t sum(const uint8_t *p, uint32_t len)
{
	uint64_t total = 0;

	for (; len >= 2; p += 2, len -= 2)
		total += get16(p);
	return len ? total + (uint64_t)(*p << 8) : total;
}

static uint16_t fold(uint64_t total)
{
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)total;
}

/* ---- a frame under construction ---- */

struct frame {
	uint8_t b[FRAME_MAX];
	uint32_t len;
	uint32_t l3, l4; /* offsets; l4 0: no TCP header */
	bool v6;
};

static uint8_t *tcp_of(struct frame *f)
{
	return f->b + f->l4;
}

static uint64_t pseudo(const struct frame *f, uint32_t l4_len)
{
	const uint8_t *ip = f->b + f->l3;

	return (f->v6 ? sum(ip + 8, 32) : sum(ip + 12, 8)) + IPPROTO_TCP + l4_len;
}

static void finish_ip(struct frame *f)
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

static void finish(struct frame *f)
{
	finish_ip(f);
	if (f->l4)
		finish_tcp(f);
}

static void begin(struct frame *f, bool v6, uint8_t protocol)
{
	uint8_t *ip = f->b + ETH;

	memcpy(f->b, mac_to, 6);
	memcpy(f->b + 6, mac_from, 6);
	put16(f->b + 12, v6 ? ETH_P_IPV6 : ETH_P_IP);
	f->l3 = ETH;
	f->l4 = 0;
	f->v6 = v6;
	if (v6) {
		put32(ip, 0x60000000 | below(1u << 20));
		ip[6] = protocol;
		ip[7] = 64;
		memcpy(ip + 8, ip6_from, 16);
		memcpy(ip + 24, ip6_to, 16);
		f->len = ETH + IP6;
		return;
	}
	put32(ip, 0x45000000);
	put32(ip + 4, (uint32_t)below(1u << 16) << 16 | 0x4000);
	put32(ip + 8, 64u << 24 | (uint32_t)protocol << 16);
	memcpy(ip + 12, &ip_from, 4);
	memcpy(ip + 16, &ip_to, 4);
	f->len = ETH + IP4;
}

static void add_tcp(struct frame *f, uint16_t from, uint16_t to, uint32_t seq, uint32_t ack,
		    uint8_t flags)
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

static void add_timestamps(struct frame *f, uint32_t value)
{
	uint8_t option[12] = {1, 1, 8, 10};

	put32(option + 4, value);
	put32(option + 8, rnd());
	add_option(f, option, sizeof(option));
}

/* Options that nobody should believe: kinds, lengths and contents by chance. */
static void add_bad_options(struct frame *f)
{
	static const uint8_t kinds[] = {0, 1, 2, 3, 4, 5, 8, 19, 29, 30, 34, 253};
	uint8_t options[40];
	const uint32_t len = between(1, 10) * 4;

	fill(options, len);
	for (uint32_t at = 0; at + 1 < len; at += between(1, 6)) {
		options[at] = kinds[below(sizeof(kinds))];
		if (below(2))
			options[at + 1] = (uint8_t)below(12);
	}
	add_option(f, options, len);
}

static void add_payload(struct frame *f, uint32_t most)
{
	const uint32_t room = ETH + mtu - f->len;
	uint32_t len = below(16) ? below(200) : below(room + 1);

	if (len > most)
		len = most;
	if (len > room)
		len = room;
	fill(f->b + f->len, len);
	f->len += len;
}

/* ---- the transfer's own segments, and near misses ---- */

static uint32_t rcv_nxt(void)
{
	return atomic_load_explicit(&honest->rcv_nxt, memory_order_relaxed);
}

static uint32_t limit(void)
{
	return atomic_load_explicit(&honest->limit, memory_order_relaxed);
}

static void as_honest(struct frame *f, uint32_t seq, uint32_t ack, uint8_t flags)
{
	begin(f, false, IPPROTO_TCP);
	add_tcp(f, port_from, port_to, seq, ack, flags);
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

	as_honest(f, in_window(), snd_nxt, data_flags());
	add_timestamps(f, tsval + below(1u << 16));
	add_payload(f, UINT32_MAX);
	finish(f);
	while (n--) {
		const uint32_t at = below(4) ? ETH + below(IP4 + TCP + 12) : below(f->len);

		f->b[at] ^= (uint8_t)(1u << below(8));
	}
}

static void wrong_checksum(struct frame *f)
{
	as_honest(f, in_window(), snd_nxt, data_flags());
	add_timestamps(f, tsval + below(1u << 16));
	add_payload(f, UINT32_MAX);
	finish(f);
	put16(tcp_of(f) + 16, rnd());
}

/* Its end is at most where the receiver is: all of it was there before. */
static void old_data(struct frame *f)
{
	const uint32_t back = between(1, below(2) ? NEAR : SPAN);

	as_honest(f, rcv_nxt() - back, snd_nxt, data_flags() & (uint8_t)~FIN);
	add_timestamps(f, tsval + below(1u << 16));
	add_payload(f, back);
	finish(f);
}

static void beyond_window(struct frame *f)
{
	as_honest(f, limit() + FAR + below(SPAN), snd_nxt, data_flags());
	add_timestamps(f, tsval + below(1u << 16));
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void no_timestamp(struct frame *f)
{
	as_honest(f, in_window(), snd_nxt, data_flags());
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void old_timestamp(struct frame *f)
{
	as_honest(f, in_window(), snd_nxt, data_flags());
	add_timestamps(f, tsval - between(1u << 20, FAR));
	add_payload(f, UINT32_MAX);
	finish(f);
}

/* And a timestamp from days ahead: were it believed, PAWS would shut the sender out. */
static void future_ack(struct frame *f)
{
	as_honest(f, in_window(), snd_nxt + between(1, FAR), data_flags());
	add_timestamps(f, tsval + below(FAR));
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void ancient_ack(struct frame *f)
{
	as_honest(f, in_window(), snd_nxt - FAR - below(SPAN), data_flags());
	add_timestamps(f, tsval + below(FAR));
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void no_ack(struct frame *f)
{
	as_honest(f, in_window(), 0, any_flags() & (uint8_t)~(SYN | RST | ACK));
	add_timestamps(f, tsval + below(1u << 16));
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
	as_stranger(f, port_to, SYN);
	if (below(2))
		add_timestamps(f, rnd());
	if (below(4) == 0)
		add_bad_options(f);
	finish(f);
}

static void stranger_any(struct frame *f)
{
	as_stranger(f, port_to, any_flags());
	if (below(2))
		add_bad_options(f);
	add_payload(f, UINT32_MAX);
	finish(f);
}

static void closed_port(struct frame *f)
{
	as_stranger(f, (uint16_t)below(65536), any_flags());
	if (get16(tcp_of(f) + 2) == port_to)
		put16(tcp_of(f) + 2, port_to ^ 1);
	add_payload(f, 64);
	finish(f);
}

/* ---- what is wrong below TCP ---- */

static void ip_fragment(struct frame *f)
{
	as_stranger(f, port_to, ACK);
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
	as_stranger(f, port_to, any_flags());
	add_payload(f, 1000);
	finish(f);
	memmove(f->b + 16, f->b + 12, f->len - 12);
	put16(f->b + 12, below(2) ? ETH_P_8021Q : ETH_P_8021AD_TAG);
	put16(f->b + 14, below(4) ? below(4096) : 0);
	f->len += 4;
}

static void other_host(struct frame *f)
{
	as_stranger(f, port_to, any_flags());
	finish(f);
	if (below(2))
		f->b[5] ^= (uint8_t)between(1, 255);
	else
		memset(f->b, below(2) ? 0xff : 0x33, 6);
}

static void broken_ip(struct frame *f)
{
	as_stranger(f, port_to, any_flags());
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
	as_stranger(f, port_to, any_flags());
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
	static const uint8_t kinds[] = {0, 43, 44, 50, 51, 60, 135, 6};
	uint32_t n = between(1, 8);
	uint8_t *next;

	begin(f, true, 0);
	next = f->b + ETH + 6;
	while (n--) {
		uint8_t *ext = f->b + f->len;

		*next = kinds[below(below(2) ? 1 : sizeof(kinds))];
		memset(ext, 0, 8);
		ext[1] = below(4) ? 0 : (uint8_t)below(3);
		ext[3] = (uint8_t)below(2);
		f->len += 8 + 8u * ext[1];
		next = ext;
	}
	*next = IPPROTO_TCP;
	add_tcp(f, (uint16_t)rnd(), port_to, rnd(), rnd(), any_flags());
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
	memcpy(f->b, mac_to, 6);
	memcpy(f->b + 6, mac_from, 6);
	f->l4 = 0;
	f->len = between(ETH, below(8) ? 128 : ETH + mtu);
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

/* Name, and how many of WEIGHTS frames are of it. */
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

struct kind {
	const char *name;
	void (*make)(struct frame *f);
	uint32_t weight;
	uint64_t sent, remade;
};

static struct kind kinds[] = {
#define KIND(name, weight) {#name, name, weight, 0, 0},
	KINDS(KIND)
#undef KIND
};

#define NR_KINDS (sizeof(kinds) / sizeof(kinds[0]))

/* ---- what must not be sent ---- */

static bool is_honest_tuple(const struct frame *f)
{
	const uint8_t *ip = f->b + ETH;
	uint32_t hlen;

	if (f->len < ETH + IP4 + TCP || memcmp(f->b, mac_to, 6) || get16(f->b + 12) != ETH_P_IP)
		return false;
	hlen = (ip[0] & 15) * 4u;
	return ip[0] >> 4 == 4 && hlen >= IP4 && f->len >= ETH + hlen + TCP &&
	       ip[9] == IPPROTO_TCP && !(get16(ip + 6) & 0x3fff) && !memcmp(ip + 12, &ip_from, 4) &&
	       !memcmp(ip + 16, &ip_to, 4) && get16(ip + hlen) == port_from &&
	       get16(ip + hlen + 2) == port_to;
}

/* Its lengths, and its checksums: all there, or as an offload leaves them. */
static bool is_intact(const struct frame *f, uint32_t *l4, uint32_t *end)
{
	const uint8_t *ip = f->b + ETH;
	const uint32_t hlen = (ip[0] & 15) * 4u, total = get16(ip + 2);
	const struct frame *at = f;
	uint64_t start;

	*l4 = ETH + hlen;
	*end = ETH + total;
	if (*end > f->len || total < hlen + TCP || fold(sum(ip, hlen)) != 0xffff)
		return false;
	start = pseudo(at, total - hlen);
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

/*
 * Could the receiver's rules let this frame have an effect on the transfer? The rules by which it
 * has none, in the order of RFC 9293 3.10.7.4:
 *
 *   no timestamp, or one from before the SYN (RFC 7323 3.2, 5.3)    unless it is a RST
 *   outside the window
 *   a SYN (RFC 5961 4.2)
 *   no ACK; one of what was never sent, or long past (RFC 5961 5.2)
 */
static bool may_matter(const struct frame *f)
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
	if ((int32_t)(value - (tsval - (1u << 20))) <= 0)
		return false;
	if (!(flags & ACK))
		return false;
	return !((int32_t)(ack - snd_nxt) > 0 || (int32_t)(ack - (snd_nxt - FAR)) <= 0);
}

static struct kind *choose(void)
{
	static uint32_t weights;
	uint32_t n;

	if (!weights)
		for (uint32_t i = 0; i < NR_KINDS; i++)
			weights += kinds[i].weight;
	n = below(weights);
	for (uint32_t i = 0;; i++) {
		if (n < kinds[i].weight)
			return &kinds[i];
		n -= kinds[i].weight;
	}
}

static struct kind *make(struct frame *f)
{
	struct kind *kind = choose();

	kind->make(f);
	while (may_matter(f)) {
		kind->remade++;
		kind->make(f);
	}
	return kind;
}

/* ---- sending ---- */

static int open_socket(void)
{
	const int size = 16 << 20;
	struct sockaddr_ll to = {.sll_family = AF_PACKET};
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);

	to.sll_ifindex = (int)if_nametoindex(ifname);
	if (fd < 0 || bind(fd, (struct sockaddr *)&to, sizeof(to)) ||
	    setsockopt(fd, SOL_SOCKET, SO_MARK, &mark, sizeof(mark)) ||
	    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size))) {
		perror("generator: AF_PACKET");
		exit(1);
	}
	return fd;
}

static double seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Not faster than `rate`; behind it, without haste to make up for it. */
static void keep_pace(uint32_t n)
{
	static double due;
	const double now = seconds();

	if (!rate)
		return;
	if (due < now)
		due = now;
	due += (double)n / (double)rate;
	if (due - now > 0.001) {
		const struct timespec rest = {.tv_nsec = (long)((due - now) * 1e9) % 1000000000};

		nanosleep(&rest, NULL);
	}
}

/*
 * A frame that the kernel does not take ends the call, without a word if some went before it. It is
 * given up: it has been counted at egress. Returns how many were.
 */
static uint64_t send_batch(int fd, struct mmsghdr *msgs, struct kind **of, uint32_t n)
{
	uint64_t refused = 0;
	uint32_t at = 0;

	while (at < n) {
		int sent = sendmmsg(fd, msgs + at, n - at, 0);

		if (sent < 0 && errno != ENOBUFS) {
			perror("generator: sendmmsg");
			exit(1);
		}
		for (int i = 0; i < sent; i++)
			of[at++]->sent++;
		if (at < n) {
			refused++;
			at++;
		}
	}
	return refused;
}

static uint64_t storm(int fd)
{
	static struct frame frame[BATCH];
	struct mmsghdr msgs[BATCH] = {0};
	struct iovec iov[BATCH];
	struct kind *of[BATCH];
	uint64_t refused = 0;

	for (uint64_t done = 0; done < frames;) {
		uint32_t n = frames - done < BATCH ? (uint32_t)(frames - done) : BATCH;

		for (uint32_t i = 0; i < n; i++) {
			of[i] = make(&frame[i]);
			iov[i] = (struct iovec){frame[i].b, frame[i].len};
			msgs[i].msg_hdr.msg_iov = &iov[i];
			msgs[i].msg_hdr.msg_iovlen = 1;
		}
		refused += send_batch(fd, msgs, of, n);
		done += n;
		keep_pace(n);
	}
	return refused;
}

/* ---- the command line ---- */

static void set_ip4(const char *text, uint32_t *to)
{
	if (inet_pton(AF_INET, text, to) != 1)
		exit(2);
}

static void set_ip6(const char *text, uint8_t *to)
{
	if (inet_pton(AF_INET6, text, to) != 1)
		exit(2);
}

static void set_mac(const char *text, uint8_t *to)
{
	if (sscanf(text, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &to[0], &to[1], &to[2], &to[3], &to[4],
		   &to[5]) != 6)
		exit(2);
}

static void set_honest(int fd)
{
	honest = mmap(NULL, sizeof(*honest), PROT_READ, MAP_SHARED, fd, 0);
	if (honest == MAP_FAILED) {
		perror("generator: honest");
		exit(1);
	}
}

static void set(const char *name, const char *value)
{
	const uint64_t number = strtoull(value, NULL, 0);

	if (!strcmp(name, "ifname")) /* to send on */
		snprintf(ifname, sizeof(ifname), "%s", value);
	else if (!strcmp(name, "frames")) /* how many */
		frames = number;
	else if (!strcmp(name, "seed"))
		seed = number;
	else if (!strcmp(name, "rate")) /* frames a second at most; 0: as many as go */
		rate = number;
	else if (!strcmp(name, "mark")) /* of the socket */
		mark = (uint32_t)number;
	else if (!strcmp(name, "mtu"))
		mtu = number < FRAME_MAX - ETH ? (uint32_t)number : FRAME_MAX - ETH;
	else if (!strcmp(name, "mac_from"))
		set_mac(value, mac_from);
	else if (!strcmp(name, "mac_to"))
		set_mac(value, mac_to);
	else if (!strcmp(name, "ip_from")) /* the transfer's sender */
		set_ip4(value, &ip_from);
	else if (!strcmp(name, "ip_to"))
		set_ip4(value, &ip_to);
	else if (!strcmp(name, "ip6_from"))
		set_ip6(value, ip6_from);
	else if (!strcmp(name, "ip6_to"))
		set_ip6(value, ip6_to);
	else if (!strcmp(name, "port_from"))
		port_from = (uint16_t)number;
	else if (!strcmp(name, "port_to"))
		port_to = (uint16_t)number;
	else if (!strcmp(name, "snd_nxt")) /* of the receiver, which sends no data */
		snd_nxt = (uint32_t)number;
	else if (!strcmp(name,
			 "tsval")) /* of the sender, at most a quarter of an hour after its SYN */
		tsval = (uint32_t)number;
	else if (!strcmp(name, "honest")) /* descriptor of struct honest */
		set_honest((int)number);
	else
		exit(2);
}

int main(int argc, char **argv)
{
	double start;
	uint64_t refused;

	for (int i = 1; i < argc; i++) {
		char *value = strchr(argv[i], '=');

		if (!value)
			return 2;
		*value++ = 0;
		set(argv[i], value);
	}
	if (!honest)
		return 2;
	state = seed * 0x9e3779b97f4a7c15ULL + 1;
	start = seconds();
	refused = storm(open_socket());
	printf("{\"refused\": %llu, \"seconds\": %.3f, \"kinds\": {", (unsigned long long)refused,
	       seconds() - start);
	for (uint32_t i = 0; i < NR_KINDS; i++)
		printf("%s\"%s\": [%llu, %llu]", i ? ", " : "", kinds[i].name,
		       (unsigned long long)kinds[i].sent, (unsigned long long)kinds[i].remade);
	printf("}}\n");
	return 0;
}
