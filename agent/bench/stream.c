// SPDX-License-Identifier: Apache-2.0
/*
 * stream.c - the two ends of a kernel connection, as plain as a program can be.
 *
 * Blocking send() and recv() in a loop: what a user would write, without the
 * cost of an interpreter between two calls. The descriptors are the caller's.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>
#include "api.h"

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

int64_t stream_recv(int fd, uint8_t *buffer, size_t size, uint64_t until_ns)
{
	int64_t total = 0;

	while (now_ns() < until_ns) {
		ssize_t received = recv(fd, buffer, size, 0);

		if (received < 0)
			return -errno;
		if (received == 0)
			return -ENODATA;
		total += received;
	}
	return total;
}

uint64_t stream_tsc(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#else
	return 0;
#endif
}
