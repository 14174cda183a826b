/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - what Python may call of the benchmarks' native half.
 *
 * Plain declarations only: cffi reads this file and the C files include it, so
 * there is no second copy to drift. Functions return 0 or a count, and -errno
 * on failure, unless they say otherwise.
 */

/* ---- soaker.c: what a core has left ---- */

struct soaker;

struct soaker_sample {
	uint64_t work; /* units done since soaker_start() */
	uint64_t ns; /* CLOCK_MONOTONIC at which that was read */
};

/* One thread for each of the `n` CPUs; they rest until soaker_run(). */
int soaker_start(struct soaker **out, const int *cpus, uint32_t n);
void soaker_run(struct soaker *s);
void soaker_rest(struct soaker *s);
/* One sample for each CPU, in the order of soaker_start(). */
void soaker_read(const struct soaker *s, struct soaker_sample *out);
void soaker_stop(struct soaker *s);

/* ---- stream.c: both ends of a kernel connection ---- */

/* send() until the peer resets the connection: bytes handed to the kernel. */
int64_t stream_send(int fd, const uint8_t *data, size_t size);
/* recv() until CLOCK_MONOTONIC is `until_ns`: bytes; -ENODATA at the end of the stream. */
int64_t stream_recv(int fd, uint8_t *buffer, size_t size, uint64_t until_ns);
/* Ticks of the time stamp counter, or 0 where there is none to be read. */
uint64_t stream_tsc(void);
