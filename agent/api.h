/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - what Python may call of the runtime's native half.
 *
 * Plain declarations only: cffi reads this file behind stack/api.h, and csrc.c
 * includes both, so there is no second copy to drift. Functions return 0 or a
 * count, and -errno on failure, unless they say otherwise.
 */

/* ---- mosaic.c: the memory that the NIC writes ---- */

enum mosaic_layout {
	MOSAIC_PAIRS, /* copy mode: a header page before each data page */
	MOSAIC_CHUNKS, /* zero-copy: data pages alone, each of them one aligned chunk */
};

struct mosaic {
	uint8_t *base; /* the UMEM; except while it is registered, nothing is mapped there */
	size_t size; /* bytes */
	uint8_t *headers; /* header page of buffer i at headers + 4096 i */
	uint8_t *data; /* host memory: data page of buffer i at data + 4096 i; else NULL */
	size_t host_size; /* bytes of headers and data */
	uint32_t nr_niovs;
	uint32_t nr_pages;
	uint32_t readable; /* host memory of its own, not a region's */
	uint32_t layout; /* enum mosaic_layout */
	int host_fd;
};

/* Bytes of UMEM, and mappings needed until it is sealed. */
size_t mosaic_size(enum mosaic_layout layout, uint32_t nr_niovs, uint32_t nr_pages);
size_t mosaic_mappings(enum mosaic_layout layout, uint32_t nr_niovs);
int mosaic_open(struct mosaic *m, enum mosaic_layout layout, uint32_t nr_niovs, uint32_t nr_pages,
		int readable);
/* Map all pages, to be registered: those of `region_fd` unless it is readable, and `tx_fd`'s. A
 * region with pages of 2 MiB can be mapped as MOSAIC_CHUNKS alone. */
int mosaic_map(struct mosaic *m, int region_fd, int tx_fd);
int mosaic_seal(struct mosaic *m);
/* Let a child read data page `niov`: the signal that killed it, 0 if it read the page. */
int mosaic_read_probe(const struct mosaic *m, uint32_t niov);
void mosaic_close(struct mosaic *m);

/* ---- loop.c: the thread that runs the stack ---- */

struct xsk_ring_cons;
struct xsk_ring_prod;
struct loop;

struct loop_config {
	int notice_fd; /* eventfd: written to when an area has drained */
	int cpu; /* CPU to run on, or -1 */
	uint32_t spin_us; /* poll the rings up to that long before sleeping */
	uint32_t busy_poll; /* never sleep, and drive NAPI from the loop */
	uint32_t header_path; /* enum header_path of the XDP program */
	const void *heads; /* nr_heads struct rx_slot, mapped until loop_close(); or NULL */
	uint32_t nr_heads; /* HEADERS_SLOT: the program's slot_mask + 1 */
};

/* With HEADERS_CHUNK all areas are MOSAIC_CHUNKS, and all sockets zero-copy; else neither. */

struct loop_stats {
	uint64_t turns;
	uint64_t sleeps;
	uint64_t rx_batches;
	uint64_t rx_packets;
	uint64_t rx_descs;
	uint64_t rx_bad_descs; /* did not point at packet data in a device page */
	uint64_t rx_oversize; /* packets of more than STACK_MAX_CHUNKS chunks */
	uint64_t tx_frames;
	uint64_t tx_kicks;
	uint64_t tx_kick_retries;
	uint64_t rx_wakeups; /* the driver had run out of buffers, and was told of new ones */
	uint64_t wakeups_sent; /* event_fd writes */
	uint64_t cpu_ns; /* CPU time of the loop's thread */
};

/* Build a loop with a stack of its own, which has neither queues nor applications yet. Call it,
 * and nothing else here, in the network namespace of the interface. */
int loop_open(struct loop **out, const struct loop_config *config,
	      const struct stack_config *stack);
/* Run until loop_stop() (returns 0) or until the interface is gone (-ENETDOWN, -ENXIO ...). */
int loop_run(struct loop *l);

/* All of the following until loop_close(): callable from any thread, before the loop runs, while
 * it does, and after it ended. */

/* `tx_base`: UMEM address of transmission page 0. Returns the area's number. */
int loop_area_open(struct loop *l, const struct stack_area_config *config, uint64_t tx_base);
int loop_area_close(struct loop *l, int area); /* see stack_area_close() */

struct loop_queue {
	struct xsk_ring_cons *rx;
	struct xsk_ring_prod *fill;
	struct xsk_ring_prod *tx;
	struct xsk_ring_cons *completion;
	int fd; /* of the AF_XDP socket */
	uint32_t first_head; /* HEADERS_CHUNK: the slot of its area's buffer 0 */
};

/* Its fill ring holds buffers when this returns. */
int loop_queue_attach(struct loop *l, uint32_t queue, int area, const struct loop_queue *rings);
/* Take what is in its RX ring, send what is in its TX ring, and touch them no more. */
int loop_queue_stop(struct loop *l, uint32_t queue);
/* Its socket is closed: what lay in its rings goes home. */
int loop_queue_detach(struct loop *l, uint32_t queue);

/* Descriptors are duplicated. O_NONBLOCK is a property of the open file description, which who
 * has a duplicate can change: unless the application may stop the loop, give it none of these
 * but the other ends of pipes. */
struct loop_app_config {
	int channel_fd; /* memfd of stack_channel_size() bytes, sealed against shrinking */
	int wake_fd; /* eventfd, or read end of a pipe: the application has made requests */
	int event_fd; /* eventfd, or write end of a pipe: events for the application */
	int life_fd; /* write end of a pipe; written to and closed at the loop's end, or its own */
	uint32_t nr_events, nr_requests, nr_blocks; /* see struct stack_app_config */
};

int loop_app_open(struct loop *l, const struct loop_app_config *config); /* its number */
int loop_app_close(struct loop *l, int app);

int loop_listen(struct loop *l, int app, const struct stack_addr *local, uint32_t flags,
		uint32_t backlog, uint32_t pressure);
int loop_unlisten(struct loop *l, int listener);
int loop_set_mtu(struct loop *l, uint32_t mtu);
int loop_stats(struct loop *l, struct stack_stats *stack, struct loop_stats *loop);
int loop_flows(struct loop *l, struct flow_info *out, uint32_t max);
int loop_frags(struct loop *l, struct frag_record *out, uint32_t max);
int loop_areas(struct loop *l, struct area_info *out, uint32_t max); /* how many there are */
int loop_queues(struct loop *l, struct queue_info *out, uint32_t max);
int loop_check(struct loop *l);
/* Connections that the application has closed get up to `linger_ms` to finish, the others
 * are reset; then loop_run() returns. */
int loop_stop(struct loop *l, uint32_t linger_ms);
void loop_close(struct loop *l);

/* ---- app.c: the application's half of the channel ---- */

struct app;

struct app_stats {
	uint64_t events_rejected; /* what made no sense in the stack's ring */
	uint64_t wakeups_sent; /* wake_fd writes */
	uint64_t requests_waited; /* the request ring was full */
};

/* `event_fd` is readable when the stack has events for a sleeping application, `wake_fd` is for
 * writing: an eventfd or an end of a pipe, not blocking. `life_fd` is the read end of
 * loop_config's pipe: readable when the stack has ended. All descriptors are duplicated. */
int app_open(struct app **out, int channel_fd, int event_fd, int wake_fd, int life_fd);
void app_close(struct app *a);
void app_stats(struct app *a, struct app_stats *out);
/* The device memory of a binding: fragments outside of its `size` are rejected, and app_gather()
 * reads it through a mapping of `fd` (duplicated; -1: none). Size 0 forgets it. */
int app_region(struct app *a, uint32_t dmabuf_id, uint64_t size, int fd);
/* Its mapping, which stays until app_region() or app_close(); NULL: there is none. */
const uint8_t *app_region_bytes(struct app *a, uint32_t dmabuf_id, uint64_t *size);

/* Wait for something to read (or an end) on `flow`, to accept on `listener` (flow 0), or on
 * any (flow 0, listener -1). Returns 1, or 0 after `timeout_ms` (-1: none) or when `extra_fd`
 * is readable (-1: none), -EINTR, -EPIPE when the stack has ended. */
int app_wait(struct app *a, uint32_t flow, int listener, int extra_fd, int timeout_ms);
/* From now on `near` shows to poll(2) what the flow, or with flow 0 the listener, would: `near`
 * and `far` are a pair of connected AF_UNIX stream sockets, and are duplicated. -EBUSY: it has
 * such a pair already. */
int app_watch(struct app *a, uint32_t flow, int listener, int near, int far);
/* The flows (then listeners, as -1 - id) that have something to read (to accept). */
int app_ready(struct app *a, int64_t *out, uint32_t max);
/* The next connection of `listener`: 1 and its id and addresses, or 0; -EBADF: not open. */
int app_accept(struct app *a, int listener, uint32_t *flow, struct stack_addr *local,
	       struct stack_addr *peer);
/* From now on connections of this listener are taken (1), or reset (0). */
int app_listener(struct app *a, int listener, int open);

/* ---- app_recvmsg.c: recvmsg(2) with MSG_SOCK_DEVMEM, as tcp_recvmsg() of Linux 6.18 ---- */

#define APP_SOCK_DEVMEM 0x2000000 /* MSG_SOCK_DEVMEM, which C libraries do not declare */
#define APP_ETOOSMALL 525 /* the kernel's ETOOSMALL, which no header for programs declares */

struct app_iov { /* struct iovec */
	void *base;
	size_t len;
};

struct app_cmsg { /* struct cmsghdr */
	size_t len;
	int level;
	int type;
};

struct app_msg { /* what struct msghdr has of use for TCP */
	struct app_iov *iov;
	size_t nr_iov;
	void *control;
	size_t controllen; /* room; then the bytes used; left alone on failure */
};

/* Bytes received, 0 at the end of the stream, or -errno: the kernel's, and -EBADF when there is
 * no such connection, -EINTR, -EPIPE when the stack has ended. */
int64_t app_recvmsg(struct app *a, uint32_t flow, struct app_msg *msg, int flags);
/* Fill `out` with the bytes of the stream, whatever memory they are in: flags and result are
 * those of recv(2), and -EADDRNOTAVAIL when they are in device memory that cannot be read. */
int64_t app_gather(struct app *a, uint32_t flow, uint8_t *out, size_t room, int flags);

/* ---- app_sockopt.c: setsockopt(2), and what is known of a connection ---- */

/* SO_DEVMEM_DONTNEED: how many fragments were given back, or -errno. Flow 0: a socket without a
 * connection. */
int app_devmem_dontneed(struct app *a, uint32_t flow, const void *optval, uint32_t optlen);
/* SO_RCVLOWAT: returns the bytes it has become. SO_RCVTIMEO in milliseconds (-1: none). */
int app_set_rcvlowat(struct app *a, uint32_t flow, uint32_t bytes);
int app_set_rcvtimeo(struct app *a, uint32_t flow, int64_t ms);
/* Refuse, with -ENODEV, to deliver what is not in device memory. */
int app_set_strict(struct app *a, uint32_t flow, int strict);
/* SO_ERROR: the errno of a reset, once; then 0. */
int app_error(struct app *a, uint32_t flow);

struct app_conn_bytes { /* received, by where they are and why */
	uint64_t device;
	uint64_t linear; /* in the head, beside device bytes */
	uint64_t data; /* of packets that are in host memory altogether */
	uint64_t unbound; /* of both: received on a queue without a binding */
	uint64_t head; /* of both: left with the headers by the split */
};

struct app_conn_info {
	struct app_conn_bytes bytes;
	uint64_t queued; /* bytes that nobody has read */
	uint32_t tokens; /* handed out and not given back */
	uint32_t unacked; /* reply bytes that the peer has not acknowledged */
	uint32_t next_kind; /* enum rx_kind of the next byte, if any is queued ... */
	uint32_t next_reason; /* ... and enum rx_reason */
	int error; /* errno of a reset, or 0 */
	int eof;
};

int app_conn_info(struct app *a, uint32_t flow, struct app_conn_info *out);

/* ---- app_take.c: batches of fragments, without a copy ---- */

/* Where some received bytes are. */
struct app_frag {
	uint64_t offset; /* bytes from the start of the binding's memory, or of the data blocks */
	uint32_t len; /* bytes */
	uint32_t token; /* >= 1 */
	uint32_t dmabuf_id; /* 0: in a data block */
	uint16_t kind; /* enum rx_kind */
	uint16_t reason; /* enum rx_reason */
};

/* Fragments in order, of one binding at most: their count, 0 when there are none now, -ENODATA at
 * the end of the stream, -errno of a reset, -EBADF when there is no such connection, -ENODEV when
 * it is strict and the next is not in device memory. */
int app_take(struct app *a, uint32_t flow, struct app_frag *out, uint32_t max);
/* Returns how many tokens were given back: unknown ones are skipped. */
int app_dontneed(struct app *a, uint32_t flow, const struct app_frag *frags, uint32_t n);
/* The data blocks, to read fragments of dmabuf id 0 in. */
const uint8_t *app_data_blocks(const struct app *a, uint64_t *size);

/* ---- app_requests.c ---- */

/* Bytes queued, possibly fewer than `len`; -EAGAIN when there is no room now. */
int app_send(struct app *a, uint32_t flow, const uint8_t *data, uint32_t len);
/* Wait until app_send() is worth another try; returns like app_wait(). */
int app_wait_room(struct app *a, uint32_t flow, int timeout_ms);
int app_shutdown(struct app *a, uint32_t flow);
/* Nothing more is read: what is queued stays, and the end comes after it. */
int app_shutdown_read(struct app *a, uint32_t flow);
int app_finish(struct app *a, uint32_t flow, int abort);

/* ---- frags.c: what must not be Python per fragment ---- */

/* Where fragments can be read: a binding's memory and the data blocks, and bytes of both. */
struct frags_view {
	const uint8_t *region;
	uint64_t region_size;
	const uint8_t *data;
	uint64_t data_size;
};

/* Compare with bytes 1 ... period - 1, newline, and so on from `*phase`: wrong bytes. */
int64_t frags_check(const struct frags_view *view, const struct app_frag *frags, uint32_t n,
		    uint32_t period, uint32_t *phase);
/* Write what follows the first `skip` bytes, one writev(2) a call: bytes written. */
int64_t frags_write(const struct frags_view *view, const struct app_frag *frags, uint32_t n,
		    uint64_t skip, int fd);
int64_t frags_copy(const struct frags_view *view, const struct app_frag *frags, uint32_t n,
		   uint8_t *out, uint64_t room);
int64_t frags_bytes(const struct app_frag *frags, uint32_t n);
/* Bytes of those fragments in device memory that lie wholly below `size`. */
int64_t frags_inside(const struct app_frag *frags, uint32_t n, uint64_t size);

/* ---- privileges.c: what the process that runs the stack alone must not be able to do ---- */

/* Give up what reads the memory of others, in this thread and those it starts: to be called
 * before there is any other. */
int privileges_give_up(void);

/* ---- netdev.c: what must be known of an interface before it is taken ---- */

/* Enter the network namespace that `fd` refers to, with the calling thread alone. */
int netns_enter(int fd);
/* 1 when this address is on the interface, else 0. */
int netdev_has_address(const char *ifname, const struct stack_addr *addr);
/* The addresses of the interface, ports 0; returns how many there are, of which the first
 * `max` are in `out`. */
int netdev_addresses(const char *ifname, struct stack_addr *out, uint32_t max);
