/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - every call into the data plane, and the records that cross it.
 *
 * Plain declarations only: cffi reads this file as it is and every C file of
 * the core includes it through stack.h, so there is no second copy to drift.
 *
 * The core does no I/O and reads no clock: frames come in by stack_rx(), frames
 * to send go out by stack_tx(), and `now` (nanoseconds, monotonic) is an
 * argument. Should it go back all the same, the stack's time goes on from where
 * it was. It allocates nothing: the memory of the stack, of each area and of
 * each application is handed in where it is opened.
 *
 * Call order:
 *
 *   stack_init() -> stack_area_open(), stack_queue_attach() per queue
 *                -> stack_app_open() -> stack_listen() -> turns of the loop
 *
 * and one turn of the caller's loop:
 *
 *   stack_rx() per packet -> stack_rx_end() -> stack_requests() -> stack_timers()
 *   -> stack_refill() per queue -> stack_tx() per queue
 *
 * Areas, queues and applications come and go between two turns.
 */

#define STACK_MAX_CHUNKS 20 /* chunks of one packet; 18 seen for 64 KiB at 3840 bytes each */
#define STACK_CHUNK 4096 /* bytes of one buffer: a net_iov or a host page */
#define STACK_CHUNK_DATA 3840 /* payload bytes the NIC puts into one buffer */
#define STACK_MAX_QUEUES 64
#define STACK_MAX_NIOVS 524287
#define STACK_MIN_AREA 16 /* buffers */
#define STACK_MAX_AREAS 256
#define STACK_MAX_APPS 256
#define STACK_NONE 0xffffffffu /* no area, no application */

/* ---- the check: page or net_iov? ---- */

struct netmem_info {
	uint32_t check; /* NETMEM_CHECK_ of this build, see netmem.h: 0 off, 1 plain, 2 static */
	/* The static form's key: its users, and the whole pages of code that are written to when
	 * the first comes or the last goes. No bytes where it is a word in memory. */
	uint64_t key, code, code_size;
	uint64_t warnings, hits; /* sites that found a net_iov where a page was due; how often */
};

void netmem_info(struct netmem_info *out); /* of the process */

/*
 * One user of the static key more, or less. Device memory with users is one by itself; this is
 * for who must choose the moment, since the first and the last write code: no thread may then be
 * in any other call of this file. 0 or the negative errno of what forbids it, and then nothing
 * has changed. In the other forms they do nothing.
 */
int netmem_key_raise(void);
int netmem_key_lower(void);

/* ---- addresses ---- */

struct stack_addr {
	uint8_t ip[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
	uint16_t port; /* host order */
	uint16_t family; /* 4 or 6 */
};

/* ---- set-up ---- */

struct stack_config {
	/* memory */
	uint32_t max_niovs; /* receive buffers of all areas together, draining ones included */
	uint32_t max_areas;
	uint32_t max_apps;
	uint32_t nr_pages; /* host pages for transmission */
	uint8_t *page_base; /* host page p, mapped at page_base + 4096 p */
	/* limits */
	uint32_t nr_queues;
	uint32_t max_flows; /* connections, embryos and TIME-WAIT included */
	uint32_t max_listeners;
	uint32_t
		fill_min; /* buffers kept in a queue's fill ring at least, if its area has as many */
	uint32_t fill_max; /* and at most: the fill ring's size */
	/* TCP */
	uint32_t mtu; /* bytes of the IP packet */
	uint32_t rcv_wnd_max; /* bytes */
	uint32_t delack_ns; /* < 500 ms, RFC 9293 SHLD-18 */
	uint32_t ack_segments; /* full-sized ones to an ACK, 1 to 255; RFC 5681 4.2 wants 1 or 2 */
	uint32_t synack_retries; /* then an embryo is given up; tcp_synack_retries */
	uint32_t user_timeout_ms; /* R2: how long a peer may owe an ACK; TCP_USER_TIMEOUT */
	uint32_t fin_timeout_ms; /* FIN-WAIT-2 that the application has closed; tcp_fin_timeout */
	uint32_t time_wait_ms; /* 2 MSL */
	/* secret, random per start */
	uint8_t isn_key[16]; /* of initial sequence numbers (RFC 6528) and timestamps */
	uint8_t flow_key[16]; /* of the flow table: what peers see must not tell who collides */
	uint8_t cookie_key[16]; /* of SYN cookies */
};

struct stack;

/* Bytes of memory stack_init() needs for this configuration; 0 if it is not valid. */
size_t stack_size(const struct stack_config *config);

/* Build a stack in `mem` (zeroed, stack_size() bytes, 64-byte aligned): without areas and
 * applications. Returns 0, or -EINVAL when the configuration is not valid. */
int stack_init(struct stack *mem, const struct stack_config *config);

/* The interface's MTU has changed: new connections get the MSS that fits. Returns 0, or -EINVAL
 * for an MTU that stack_init() would refuse; then the old one stays. */
int stack_set_mtu(struct stack *s, uint32_t mtu);

/* ---- areas: memory that the NIC writes to ----
 *
 *   open -> attach to queues -> detach -> (drains) -> close
 *
 * An area is a binding's device memory, net_iovs that the stack cannot read, or host memory,
 * struct pages that it can, for a queue without a binding. A queue uses one area at a time. A
 * detached area lives on while frags of it wait in order and tokens of it are lent.
 */

struct stack_area_config {
	uint32_t nr_niovs; /* buffers */
	uint32_t dmabuf_id; /* of the binding, >= 1; 0: host memory */
	uint8_t *header_base; /* header page of buffer i, mapped at header_base + 4096 i */
	uint8_t *
		data_base; /* host memory: payload of buffer i at data_base + 4096 i; device: NULL */
	uint32_t packed; /* in the UMEM, buffers lie one behind the other, without header pages */
};

/* Bytes of memory stack_area_open() needs; 0 if the configuration is not valid. */
size_t stack_area_size(const struct stack_area_config *config);
/* In `mem` (stack_area_size() bytes, 64-byte aligned), which is the stack's until
 * stack_area_close() says 0. Returns the area's number >= 0, -EINVAL, or -ENOSPC: max_areas or
 * max_niovs are in use. */
int stack_area_open(struct stack *s, void *mem, const struct stack_area_config *config);
/* Returns 0, -EINVAL (no such queue), -ENOENT (no such area), -EBUSY (the queue has one, or the
 * area is being closed). */
int stack_queue_attach(struct stack *s, uint32_t queue, int area);
/* What lies in the queue's fill ring goes home, and so do frames in transmission on it: neither
 * the NIC nor the kernel may touch either any more, so close the queue's socket before. Frames
 * not yet given out by stack_tx() leave by another queue, or wait. Nothing to do for a queue
 * without an area. */
void stack_queue_detach(struct stack *s, uint32_t queue);
/* Returns 0: gone, `mem` is the caller's again; > 0: that many buffers are still out, call again
 * when stack_areas_drained() has moved; -EBUSY: a queue uses it; -ENOENT. */
int stack_area_close(struct stack *s, int area);
/* Nothing is called any more, and all memory may go, whatever is still out. */
void stack_abandon(struct stack *s);
/* A counter that moves when the last buffer of an area without queues has come home. */
uint32_t stack_areas_drained(const struct stack *s);

/* ---- applications ---- */

struct stack_app_config {
	uint8_t *channel; /* shared with the application; see channel.h */
	size_t channel_size; /* bytes */
	uint32_t nr_events; /* power of two */
	uint32_t nr_requests; /* power of two */
	uint32_t nr_blocks; /* data blocks of 4096 bytes, for bytes that are not in device memory */
	uint32_t max_conns; /* connections that it may have open; 0: as many as there are slots */
};

/* Bytes of shared memory that config->channel must point to; 0 if the configuration is not valid.
 * With rings of 2 max_niovs + 8 max_flows entries or more an application that keeps to the rules
 * never finds one full: so many tokens and news of connections there can be. */
size_t stack_channel_size(const struct stack_config *config, const struct stack_app_config *app);
/* Bytes of memory stack_app_open() needs; 0 if the configuration is not valid. */
size_t stack_app_size(const struct stack_app_config *config);
/* In `mem` (stack_app_size() bytes, 64-byte aligned); formats the channel. Both are the stack's
 * until stack_app_close(). Returns the application's number >= 0, -EINVAL, -ENOSPC (max_apps). */
int stack_app_open(struct stack *s, void *mem, const struct stack_app_config *config);
/* The application is gone: its listeners are closed, its connections reset, its tokens and blocks
 * taken back. Connections that it had closed end by themselves. Returns 0 or -ENOENT. */
int stack_app_close(struct stack *s, int app);

/* ---- listeners ---- */

#define LISTEN_CLOSE_FIRST 0x1 /* shut our sending side as soon as the first bytes arrive */

enum stack_pressure {
	PRESSURE_WINDOW, /* the window follows the free buffers: nothing is dropped */
	PRESSURE_DROP, /* as the kernel: outstanding tokens are not charged to the window */
};

/* Returns a listener id >= 0 (slot and generation: not used again soon), -EADDRINUSE, -ENOSPC,
 * -ENOENT (no such application) or -EINVAL. `pressure` is an enum stack_pressure. */
int stack_listen(struct stack *s, int app, const struct stack_addr *local, uint32_t flags,
		 uint32_t backlog, uint32_t pressure);
/* New SYNs are refused from now on; connections live on. Returns 0 or -ENOENT. */
int stack_unlisten(struct stack *s, int listener);

/* ---- frames in ---- */

struct rx_chunk {
	uint32_t
		niov; /* index of the buffer that holds the bytes, in the area of the packet's queue */
	uint32_t
		off; /* of the first byte, from the start of the buffer; off + len <= STACK_CHUNK */
	uint32_t len; /* bytes */
};

struct rx_packet {
	uint32_t queue;
	uint32_t nr_chunks;
	struct rx_chunk chunk[STACK_MAX_CHUNKS];
};

/* Take one packet. The record and headers are read from the header page of chunk[0]: the end of
 * it, as steer.h draws it, whichever way they came. Ownership of all chunks passes to the stack. */
void stack_rx(struct stack *s, const struct rx_packet *packet, uint64_t now);
/* The batch is over: send the ACKs it called for. */
void stack_rx_end(struct stack *s, uint64_t now);
/* Chunks that came back without a packet. `reason`: DROP_TRUNCATED or DROP_NO_HEAD. */
void stack_rx_discard(struct stack *s, const struct rx_packet *packet, uint32_t reason);

/* Buffers for the fill ring of `queue`, by their index in its area: writes at most `max` indices,
 * returns how many. None for a queue without an area. */
uint32_t stack_refill(struct stack *s, uint32_t queue, uint32_t *niovs, uint32_t max);

/* ---- frames out ---- */

struct tx_frame {
	uint32_t
		page; /* host page index, to be given to stack_tx_done(); the frame begins at byte 0 */
	uint32_t len;
};

/* Frames to send on `queue`, in order. Those returned must be sent, or given to stack_tx_done().
 * None for a queue without an area. */
uint32_t stack_tx(struct stack *s, uint32_t queue, struct tx_frame *frames, uint32_t max);
/* The NIC is done with this host page. A page that is not in transmission is ignored and counted. */
void stack_tx_done(struct stack *s, uint32_t page);

/* ---- time ---- */

#define STACK_NO_DEADLINE 0xffffffffffffffffULL

/* When to call stack_timers() at the latest. In the past while requests are left over that were
 * too much for one call of stack_requests(). */
uint64_t stack_next_deadline(const struct stack *s);
void stack_timers(struct stack *s, uint64_t now);

/* ---- the applications' requests and events; see channel.h for the rings ---- */

/* Process what the applications asked for, each within a budget: what exceeds it stays in its ring
 * for the next call. Returns the number of requests taken. */
uint32_t stack_requests(struct stack *s, uint64_t now);
/* Events pushed since the last call: the caller wakes the application if it is not 0. */
uint32_t stack_events_pushed(struct stack *s, int app);

/* ---- looking inside ---- */

/* Why a segment was not accepted: the counters below have one slot for each. */
enum drop {
	DROP_NONE,
	DROP_RECORD, /* the record of the XDP program does not hold together */
	DROP_TRUNCATED, /* a packet whose chunks did not all come */
	DROP_NO_HEAD, /* a packet whose headers had been overwritten when they were looked for */
	DROP_ADDRESS, /* a source or destination that cannot be a connection's */
	DROP_MALFORMED, /* TCP header or data offset */
	DROP_NO_LISTENER,
	DROP_NO_FLOW,
	DROP_FLAGS, /* a combination of flags that has no meaning in this state */
	DROP_BACKLOG,
	DROP_NO_MEMORY, /* flow table or fragment table full */
	DROP_OLD_SEQ,
	DROP_OUT_OF_WINDOW,
	DROP_OLD_ACK,
	DROP_FUTURE_ACK,
	DROP_PAWS,
	DROP_NO_TIMESTAMP,
	DROP_RST_OUT_OF_WINDOW,
	DROP_CHALLENGE,
	DROP_AFTER_FIN,
	DROP_DUPLICATE,
	DROP_CLOSED, /* data for a connection that the application has closed */
	DROP_RESET, /* an RST that was obeyed */
	DROP_REASONS,
};

struct stack_stats {
	uint64_t rx_segments; /* each is in one of: accepted, drops but TRUNCATED and NO_HEAD */
	uint64_t rx_accepted;
	uint64_t
		rx_payload_bytes; /* delivered to applications, in order: the next three together */
	uint64_t bytes_device; /* under tokens */
	uint64_t bytes_linear; /* copied: left in the head of packets that have device bytes too */
	uint64_t bytes_data; /* copied: of packets that lie in host memory altogether */
	uint64_t data_waits; /* times that bytes to copy had to wait for a data block */
	uint64_t rx_ooo_segments;
	uint64_t rx_ooo_pruned; /* bytes above a hole that were given up */
	uint64_t rx_dup_bytes;
	uint64_t rx_csum_partial;
	uint64_t tx_segments;
	uint64_t tx_acks_delayed;
	uint64_t tx_acks_immediate;
	uint64_t tx_dup_acks;
	uint64_t tx_rst;
	uint64_t tx_window_updates;
	uint64_t tx_retransmits;
	uint64_t tx_done_rejected; /* completions of frames that were not with the NIC */
	uint64_t tx_no_page; /* a segment was due and no host page was free */
	uint64_t flows_opened;
	uint64_t flows_established;
	uint64_t flows_closed;
	uint64_t flows_reset;
	uint64_t syncookies_sent;
	uint64_t syncookies_recv; /* right ones */
	uint64_t syncookies_failed; /* ACKs without a connection, while cookies were about */
	uint64_t frags_delivered;
	uint64_t tokens_returned;
	uint64_t requests_rejected; /* what made no sense in the application's ring */
	uint64_t pool_empty; /* a refill wanted more than the area's pool had */
	uint64_t drops[32]; /* by enum drop */
	/* levels, not counters */
	uint64_t flows_now;
	uint64_t tokens_outstanding;
	uint64_t niovs_free; /* device areas, all together: in the pool */
	uint64_t niovs_fill; /* in fill rings */
	uint64_t niovs_queued; /* in order, waiting for room in the events ring */
	uint64_t niovs_ooo;
	uint64_t niovs_lent;
	uint64_t host_free; /* host areas, all together */
	uint64_t host_fill;
	uint64_t host_queued; /* in order, waiting for a data block too */
	uint64_t host_ooo;
	uint64_t pages_free; /* for transmission */
	uint64_t rcv_wnd_promised; /* buffers that advertised windows may ask for */
};

void stack_stats(const struct stack *s, struct stack_stats *out);

struct area_info {
	uint32_t area;
	uint32_t dmabuf_id; /* 0: host memory */
	uint32_t nr_niovs;
	uint32_t queues; /* attached; 0: draining, or not used yet */
	/* buffers by state */
	uint32_t free;
	uint32_t fill;
	uint32_t queued;
	uint32_t ooo;
	uint32_t lent;
	uint32_t promised; /* buffers that advertised windows may ask for */
	/* the page_pool's counters, by the kernel's names (page-pool-stats of netdev.yaml) */
	uint64_t alloc_fast;
	uint64_t alloc_slow;
	uint64_t alloc_empty;
	uint64_t alloc_refill;
	uint64_t alloc_waive;
	uint64_t recycle_cached;
	uint64_t recycle_cache_full;
	uint64_t recycle_ring;
	uint64_t recycle_ring_full;
	uint64_t recycle_released_refcnt;
};

/* Returns 0 or -ENOENT. */
int stack_area_info(const struct stack *s, int area, struct area_info *out);

struct queue_info {
	uint32_t area; /* or STACK_NONE */
	uint32_t fill; /* buffers in its fill ring */
	uint64_t rx_packets;
	uint64_t rx_bytes; /* from the Ethernet header on, padding not counted */
	uint64_t rx_alloc_fail; /* refills that the pool could not serve */
	uint64_t rx_csum_verified; /* by enum rx_csum of the record */
	uint64_t rx_csum_partial;
	uint64_t rx_csum_trusted;
	uint64_t tx_packets;
	uint64_t tx_bytes;
};

/* Counters live as long as the stack, areas come and go. Returns 0 or -ENOENT. */
int stack_queue_info(const struct stack *s, uint32_t queue, struct queue_info *out);

enum tcp_state {
	TCP_CLOSED,
	TCP_LISTEN,
	TCP_SYN_RECEIVED,
	TCP_ESTABLISHED,
	TCP_FIN_WAIT_1,
	TCP_FIN_WAIT_2,
	TCP_CLOSE_WAIT,
	TCP_CLOSING,
	TCP_LAST_ACK,
	TCP_TIME_WAIT,
	TCP_STATES,
};

enum tcp_event {
	TCP_EV_OPEN, /* a listener takes it on */
	TCP_EV_SYN, /* the peer's SYN */
	TCP_EV_SYN_ACKED, /* the ACK of our SYN */
	TCP_EV_FIN, /* the peer's FIN, in order */
	TCP_EV_CLOSE, /* the application has no more to send */
	TCP_EV_FIN_ACKED, /* the ACK of our FIN */
	TCP_EV_TIMEOUT, /* 2 MSL are over, or the peer is given up */
	TCP_EV_RESET, /* RST received or sent */
	TCP_EVENTS,
};

/* The state machine's table, tcp_state.c: the next enum tcp_state, or TCP_STATES when the enum
 * tcp_event cannot happen in this state. */
uint32_t tcp_next_state(uint32_t state, uint32_t event);

struct flow_info {
	uint32_t id;
	uint32_t state; /* enum tcp_state */
	struct stack_addr local;
	struct stack_addr peer;
	uint32_t rcv_nxt;
	uint32_t rcv_wnd; /* bytes, as advertised */
	uint32_t snd_una;
	uint32_t snd_nxt;
	uint32_t ooo_frags;
	uint32_t tokens;
	uint64_t rx_bytes; /* in order */
	uint64_t rx_bytes_device; /* delivered, by the way they took */
	uint64_t rx_bytes_linear;
	uint64_t rx_bytes_data;
	uint32_t app; /* its application's number, or STACK_NONE: that is gone */
	uint32_t queue; /* where its segments come from */
	uint32_t blocks; /* data blocks with the application */
	uint32_t pressure; /* enum stack_pressure */
};

/* The first live flow in slot `from` or behind. Returns its slot (so that + 1 is where to go
 * on), or -ENOENT past the last. */
int stack_flow(const struct stack *s, uint32_t from, struct flow_info *out);

/* What the frag tracker knows of one buffer. */
enum frag_kind { FRAG_HOST_PAGE, FRAG_NET_IOV };
enum frag_state {
	FRAG_FREE, /* in a page_pool or its provider */
	FRAG_FILL, /* given to the NIC: in a fill ring */
	FRAG_RECEIVED, /* holds bytes in order, not yet given to the application */
	FRAG_OOO, /* holds bytes above a hole */
	FRAG_LENT, /* the application holds a token for it */
	FRAG_RETURNED, /* all tokens are back, not yet in the pool */
	FRAG_TX, /* a host page: queued for, or in, transmission */
	FRAG_STATES,
};

struct frag_record {
	uint32_t kind; /* enum frag_kind */
	uint32_t area; /* number, or STACK_NONE: host pages for transmission */
	uint32_t index; /* net_iov or host page number in it */
	uint32_t state; /* enum frag_state */
	uint32_t owner; /* flow id, or 0: the pool or the NIC */
	uint32_t refs; /* pp_ref_count */
	uint64_t offset; /* bytes, in its area's memory */
};

/* Buffer n: the areas in order of their numbers, then the pages for transmission. Returns 0, or
 * -ENOENT past the last. */
int stack_frag(const struct stack *s, uint32_t n, struct frag_record *out);
/* All invariants of all buffers. Returns 0, or -(1 + n) for the first buffer n that breaks one. */
int stack_check(const struct stack *s);
