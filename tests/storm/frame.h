/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frame.h - a frame under construction, and the transfer beside which it is sent.
 *
 *   frame.c      builds frames, and throws the dice
 *   kinds.c      what frames there are
 *   matter.c     which of them must not be sent
 *   generator.c  sends them
 */
#ifndef DEVMEMTCP_STORM_FRAME_H
#define DEVMEMTCP_STORM_FRAME_H

#include <stdbool.h>
#include <stdint.h>

#define FRAME_MAX 9216
#define ETH 14
#define IP4 20
#define IP6 40
#define TCP 20

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

/*
 * The transfer's numbers move while frames are on their way. These bounds, shared with the test,
 * stay true: the receiver is at least at rcv_nxt; nothing beyond limit has been sent, and the
 * receiver's window ends within WINDOW_MAX of that.
 */
struct honest {
	_Atomic uint32_t rcv_nxt;
	_Atomic uint32_t limit;
};

/* The transfer, and the link that it has in common with the storm. */
struct wire {
	uint8_t mac_from[6], mac_to[6];
	uint32_t ip_from, ip_to; /* network order */
	uint8_t ip6_from[16], ip6_to[16];
	uint16_t port_from, port_to;
	uint32_t snd_nxt; /* of the receiver: it sends nothing, so this is all it ever sent */
	uint32_t tsval; /* of the sender at the start, at most a quarter of an hour after its SYN */
	uint32_t mtu;
	struct honest *honest;
};

extern struct wire wire;

uint32_t rcv_nxt(void);
uint32_t limit(void);
/* The sender's clock, which ticks in milliseconds as Linux's does. */
uint32_t tsval_now(void);

struct frame {
	uint8_t b[FRAME_MAX];
	uint32_t len;
	uint32_t l3, l4; /* offsets; l4 0: no TCP header */
	bool v6;
};

/* ---- chance: xorshift64*, the same storm for the same seed ---- */

void rnd_seed(uint64_t seed);
uint32_t rnd(void);
uint32_t below(uint32_t n);
uint32_t between(uint32_t least, uint32_t most);
void fill(uint8_t *p, uint32_t len);

/* ---- words and sums (RFC 1071, in host order) ---- */

uint16_t get16(const uint8_t *p);
uint32_t get32(const uint8_t *p);
void put16(uint8_t *p, uint32_t v);
void put32(uint8_t *p, uint32_t v);
uint64_t sum(const uint8_t *p, uint32_t len);
uint16_t fold(uint64_t total);
uint64_t pseudo(const struct frame *f, uint32_t l4_len);

/* ---- construction, from the outside in; finish() fills in lengths and sums ---- */

uint8_t *tcp_of(struct frame *f);
void begin(struct frame *f, bool v6, uint8_t protocol);
void add_tcp(struct frame *f, uint16_t from, uint16_t to, uint32_t seq, uint32_t ack,
	     uint8_t flags);
void add_timestamps(struct frame *f, uint32_t value);
/* Options that nobody should believe: kinds, lengths and contents by chance. */
void add_bad_options(struct frame *f);
/* At most so many bytes of noise, and no more than the MTU has room for. */
void add_payload(struct frame *f, uint32_t most);
void finish_ip(struct frame *f);
void finish(struct frame *f);

/* ---- kinds.c ---- */

struct kind {
	const char *name;
	void (*make)(struct frame *f);
	uint32_t weight;
	uint64_t sent;
	uint64_t remade; /* they would have been legitimate */
};

extern struct kind kinds[];
extern const uint32_t nr_kinds;

/* A frame of some kind that must not matter to the transfer. */
struct kind *make_frame(struct frame *f);

/* ---- matter.c ---- */

bool may_matter(const struct frame *f);

#endif
