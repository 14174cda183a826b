/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - what Python may call of the benchmarks' native half.
 *
 * Plain declarations only: cffi reads this file and the C files include it, so
 * there is no second copy to drift. Functions return 0 or a count, and -errno
 * on failure, unless they say otherwise.
 */

/* ---- stream.c: both ends of kernel connections ---- */

/* Where received bytes go. */
struct stream_sink {
	uint8_t *buffer;
	size_t size; /* of one recv() */
	int discard; /* MSG_TRUNC: they are taken off the socket, and not copied */
};

struct stream_counts {
	uint64_t bytes;
	uint64_t calls; /* system calls */
};

/* send() until the peer resets the connection: bytes handed to the kernel. */
int64_t stream_send(int fd, const uint8_t *data, size_t size);
/* recv() from `n` connections until CLOCK_MONOTONIC is `until_ns`. Returns 0; -ENODATA at the end
 * of a stream. `counts` is of this call. */
int stream_recv(const int *fds, uint32_t n, const struct stream_sink *sink, uint64_t until_ns,
		struct stream_counts *counts);
/* Send `size` bytes (4096 at most), wait for as many in return, and so on until CLOCK_MONOTONIC is
 * `until_ns` or `max` times. `ns` is how long each took; returns how many; -ENODATA when the peer
 * has closed. */
int stream_ask(int fd, uint32_t size, uint64_t until_ns, uint32_t *ns, uint32_t max);
/* memcpy() of `chunk` bytes at a time, round and round both buffers, until CLOCK_MONOTONIC is
 * `until_ns`: bytes. Both sizes are at least `chunk`. */
uint64_t stream_copy(uint8_t *to, size_t to_size, const uint8_t *from, size_t from_size,
		     uint32_t chunk, uint64_t until_ns);
/* Ticks of the time stamp counter, or 0 where there is none to be read. */
uint64_t stream_tsc(void);

/* ---- syn_flood.c: SYNs from strangers that do not exist ---- */

struct syn_flood {
	uint8_t from_mac[6], to_mac[6];
	uint8_t to_ip[4]; /* network order */
	uint16_t to_port; /* host order */
	uint64_t seed;
};

/* Send `count` of them through `fd`, an AF_PACKET socket bound to the interface, spread evenly over
 * so long. Returns how many went out; fewer when the time was too short. */
int64_t syn_flood(int fd, const struct syn_flood *flood, uint64_t count, uint64_t duration_ns);
