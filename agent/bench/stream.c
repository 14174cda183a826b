// SPDX-License-Identifier: Apache-2.0
/*
 * stream.c - both ends of kernel connections, as plain as a program can be.
 *
 * Blocking send() and recv() in a loop: what a user would write, without the cost of an
 * interpreter between two calls. Whoever receives from several connections waits with epoll
 * and reads each that is ready once. Latency is that of a request and its response, taken
 * where the request is sent, whoever answers it.
 *
 * The descriptors are the caller's.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "api.h"

#define EVENTS 64
#define PATIENCE_MS 1000 /* of epoll_wait(): to look at the clock though nothing comes */
#define MESSAGE_MAX 4096
#define COPIES_A_LOOK 16

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000ULL + now.tv_nsec;
}

int64_t stream_send(int fd, const uint8_t *data, size_t size)
{
	int64_t total = 0;

	for (;;) {
		ssize_t sent = send(fd, data, size, MSG_NOSIGNAL);

		if (sent < 0)
			return errno == EPIPE || errno == ECONNRESET ? total : -errno;
		total += sent;
	}
}

/* One recv(): 0 or -errno. */
static int receive_once(int fd, const struct stream_sink *sink, struct stream_counts *counts)
{
	ssize_t received = recv(fd, sink->buffer, sink->size, sink->discard ? MSG_TRUNC : 0);

	counts->calls++;
	if (received < 0)
		return -errno;
	if (received == 0)
		return -ENODATA;
	counts->bytes += received;
	return 0;
}

static int receive_ready(int epoll, const struct stream_sink *sink, struct stream_counts *counts)
{
	struct epoll_event events[EVENTS];
	int n = epoll_wait(epoll, events, EVENTS, PATIENCE_MS);
	int err = n < 0 ? -errno : 0;

	counts->calls++;
	for (int i = 0; i < n && !err; i++)
		err = receive_once(events[i].data.fd, sink, counts);
	return err;
}

static int receive_all(int epoll, const int *fds, uint32_t n, const struct stream_sink *sink,
		       uint64_t until_ns, struct stream_counts *counts)
{
	for (uint32_t i = 0; i < n; i++) {
		struct epoll_event event = {.events = EPOLLIN, .data.fd = fds[i]};

		if (epoll_ctl(epoll, EPOLL_CTL_ADD, fds[i], &event))
			return -errno;
	}
	while (now_ns() < until_ns) {
		int err = receive_ready(epoll, sink, counts);

		if (err)
			return err;
	}
	return 0;
}

int stream_recv(const int *fds, uint32_t n, const struct stream_sink *sink, uint64_t until_ns,
		struct stream_counts *counts)
{
	int err = 0, epoll;

	memset(counts, 0, sizeof(*counts));
	if (n == 1) {
		while (!err && now_ns() < until_ns)
			err = receive_once(fds[0], sink, counts);
		return err;
	}
	epoll = epoll_create1(EPOLL_CLOEXEC);
	if (epoll < 0)
		return -errno;
	err = receive_all(epoll, fds, n, sink, until_ns, counts);
	close(epoll);
	return err;
}

/* A whole message each way: 0 or -errno. */
static int ask_once(int fd, uint8_t *message, uint32_t size)
{
	ssize_t done = send(fd, message, size, MSG_NOSIGNAL);

	if (done < 0)
		return -errno;
	done = recv(fd, message, size, MSG_WAITALL);
	if (done < 0)
		return -errno;
	return (uint32_t)done == size ? 0 : -ENODATA;
}

int stream_ask(int fd, uint32_t size, uint64_t until_ns, uint32_t *ns, uint32_t max)
{
	uint8_t message[MESSAGE_MAX] = {0};
	uint64_t before = now_ns();
	uint32_t n = 0;

	if (!size || size > sizeof(message))
		return -EINVAL;
	while (n < max && before < until_ns) {
		int err = ask_once(fd, message, size);
		uint64_t after = now_ns();

		if (err)
			return err;
		ns[n++] = after - before < UINT32_MAX ? after - before : UINT32_MAX;
		before = after;
	}
	return n;
}

uint64_t stream_copy(uint8_t *to, size_t to_size, const uint8_t *from, size_t from_size,
		     uint32_t chunk, uint64_t until_ns)
{
	size_t at = 0, read = 0;
	uint64_t bytes = 0;

	do {
		for (int i = 0; i < COPIES_A_LOOK; i++) {
			memcpy(to + at, from + read, chunk);
			/* What is copied is never looked at: keep the compiler from knowing. */
			__asm__ volatile("" : : "r"(to) : "memory");
			at = at + 2 * chunk <= to_size ? at + chunk : 0;
			read = read + 2 * chunk <= from_size ? read + chunk : 0;
		}
		bytes += (uint64_t)COPIES_A_LOOK * chunk;
	} while (now_ns() < until_ns);
	return bytes;
}

uint64_t stream_tsc(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#else
	return 0;
#endif
}
