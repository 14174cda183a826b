// SPDX-License-Identifier: Apache-2.0
/*
 * syn_flood.c - SYNs from strangers that do not exist, at an even pace.
 *
 * Each is complete: options as Linux sends them, sums right, the source drawn from 198.18.0.0/15
 * (RFC 2544: networks for benchmarks) with a port and a sequence number. Frames leave through a
 * packet socket, as many at a time as are due. An answer finds nobody, and so no RST comes back
 * that would take an embryo away.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include "api.h"

#define BATCH 64
#define NAP_NS 500000
#define SOURCES 0xc6120000u /* 198.18.0.0/15 */

struct frame {
	uint8_t eth[14];
	struct iphdr ip;
	struct tcphdr tcp;
	uint8_t options[20];
} __attribute__((packed));

/* MSS 1460, SACK permitted, timestamps, window scale 7. */
static const uint8_t options[20] = {2, 4, 0x05, 0xb4, 4, 2, 8, 10, [16] = 1, 3, 3, 7};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

/* SplitMix64 (Steele, Lea and Flood, 2014). */
static uint64_t draw(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

/* RFC 1071, of an even number of bytes. */
static uint32_t add_bytes(uint32_t sum, const void *bytes, size_t size)
{
	const uint8_t *p = bytes;

	for (size_t i = 0; i < size; i += 2)
		sum += p[i] << 8 | p[i + 1];
	return sum;
}

static uint16_t folded(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return htons((uint16_t)~sum);
}

static void make_template(struct frame *f, const struct syn_flood *flood)
{
	memset(f, 0, sizeof(*f));
	memcpy(f->eth, flood->to_mac, 6);
	memcpy(f->eth + 6, flood->from_mac, 6);
	f->eth[12] = 0x08;
	f->ip.version = 4;
	f->ip.ihl = sizeof(f->ip) / 4;
	f->ip.tot_len = htons(sizeof(*f) - sizeof(f->eth));
	f->ip.frag_off = htons(0x4000); /* DF */
	f->ip.ttl = 64;
	f->ip.protocol = IPPROTO_TCP;
	memcpy(&f->ip.daddr, flood->to_ip, 4);
	f->tcp.dest = htons(flood->to_port);
	f->tcp.doff = (sizeof(f->tcp) + sizeof(options)) / 4;
	f->tcp.syn = 1;
	f->tcp.window = htons(64240);
	memcpy(f->options, options, sizeof(options));
}

static void make_frame(struct frame *f, uint64_t *state)
{
	const size_t l4_len = sizeof(f->tcp) + sizeof(f->options);
	const uint64_t who = draw(state), what = draw(state);
	const uint32_t tsval = (uint32_t)(what >> 32), seq = (uint32_t)what;
	uint32_t sum;

	f->ip.saddr = htonl(SOURCES | (uint32_t)(who & 0x1ffff));
	f->ip.check = 0;
	f->ip.check = folded(add_bytes(0, &f->ip, sizeof(f->ip)));
	f->tcp.source = htons((uint16_t)(1024 + (who >> 32) % 64512));
	f->tcp.seq = seq;
	memcpy(f->options + 8, &tsval, 4);
	f->tcp.check = 0;
	sum = add_bytes(IPPROTO_TCP + l4_len, &f->ip.saddr, 8);
	f->tcp.check = folded(add_bytes(sum, &f->tcp, l4_len));
}

/* How many went out, or -errno. A queue that is full has lost its frame, as in any flood. */
static int send_batch(int fd, struct frame *frames, unsigned int count, uint64_t *state)
{
	struct iovec bytes[BATCH];
	struct mmsghdr messages[BATCH] = {0};
	int sent;

	for (unsigned int i = 0; i < count; i++) {
		make_frame(&frames[i], state);
		bytes[i] = (struct iovec){&frames[i], sizeof(frames[i])};
		messages[i].msg_hdr.msg_iov = &bytes[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	sent = sendmmsg(fd, messages, count, 0);
	if (sent < 0)
		return errno == ENOBUFS || errno == EAGAIN ? 0 : -errno;
	return sent;
}

int64_t syn_flood(int fd, const struct syn_flood *flood, uint64_t count, uint64_t duration_ns)
{
	const struct timespec nap = {.tv_nsec = NAP_NS};
	const uint64_t start = now_ns();
	struct frame frames[BATCH];
	uint64_t state = flood->seed, sent = 0;

	for (int i = 0; i < BATCH; i++)
		make_template(&frames[i], flood);
	for (uint64_t at = 0; sent < count && at < duration_ns; at = now_ns() - start) {
		const uint64_t due = (uint64_t)((double)count * at / duration_ns) + 1 - sent;
		int rc = 0;

		if (due)
			rc = send_batch(fd, frames, due < BATCH ? due : BATCH, &state);
		if (rc < 0)
			return rc;
		sent += rc;
		if (due <= BATCH)
			nanosleep(&nap, NULL);
	}
	return (int64_t)sent;
}
