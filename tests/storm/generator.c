/* SPDX-License-Identifier: Apache-2.0 */
/*
 * generator.c - a storm of random and mutated frames, beside a transfer that they must not touch.
 *
 *   generator NAME=VALUE...      set() says what each means
 *
 * Frames leave by AF_PACKET in batches, marked so that the books can tell them from the kernel's. At
 * the end: how many of each kind the kernel has taken, and how many it refused, as JSON.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>

#include "frame.h"

#define BATCH 64

/* From the command line. */
static uint64_t frames = 1000, seed = 1, rate;
static char ifname[IFNAMSIZ];
static uint32_t mark;

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
			of[i] = make_frame(&frame[i]);
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
	wire.honest = mmap(NULL, sizeof(*wire.honest), PROT_READ, MAP_SHARED, fd, 0);
	if (wire.honest == MAP_FAILED) {
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
		wire.mtu = number < FRAME_MAX - ETH ? (uint32_t)number : FRAME_MAX - ETH;
	else if (!strcmp(name, "mac_from"))
		set_mac(value, wire.mac_from);
	else if (!strcmp(name, "mac_to"))
		set_mac(value, wire.mac_to);
	else if (!strcmp(name, "ip_from")) /* the transfer's sender */
		set_ip4(value, &wire.ip_from);
	else if (!strcmp(name, "ip_to"))
		set_ip4(value, &wire.ip_to);
	else if (!strcmp(name, "ip6_from"))
		set_ip6(value, wire.ip6_from);
	else if (!strcmp(name, "ip6_to"))
		set_ip6(value, wire.ip6_to);
	else if (!strcmp(name, "port_from"))
		wire.port_from = (uint16_t)number;
	else if (!strcmp(name, "port_to"))
		wire.port_to = (uint16_t)number;
	else if (!strcmp(name, "snd_nxt")) /* of the receiver, which sends no data */
		wire.snd_nxt = (uint32_t)number;
	else if (!strcmp(name, "tsval")) /* of the sender */
		wire.tsval = (uint32_t)number;
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
	if (!wire.honest)
		return 2;
	rnd_seed(seed);
	start = seconds();
	refused = storm(open_socket());
	printf("{\"refused\": %llu, \"seconds\": %.3f, \"kinds\": {", (unsigned long long)refused,
	       seconds() - start);
	for (uint32_t i = 0; i < nr_kinds; i++)
		printf("%s\"%s\": [%llu, %llu]", i ? ", " : "", kinds[i].name,
		       (unsigned long long)kinds[i].sent, (unsigned long long)kinds[i].remade);
	printf("}}\n");
	return 0;
}
