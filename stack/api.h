/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - every call into the data plane, and the records that cross it.
 *
 * Plain declarations only: cffi reads this file as it is and every C file of
 * the core includes it through stack.h, so there is no second copy to drift.
 *
 * The core does no I/O and reads no clock: frames come in by stack_rx(), frames
 * to send go out by stack_tx(), and `now` (nanoseconds, monotonic) is an
 * argument. All memory is given to stack_init(); nothing is allocated later.
 *
 * Call order, one turn of the caller's loop:
 *
 *   stack_rx() per packet -> stack_rx_end() -> stack_requests() -> stack_timers()
 *   -> stack_refill() per queue -> stack_tx() per queue
 */

#define STACK_MAX_CHUNKS 20 /* chunks of one packet; 18 seen for 64 KiB at 3840 bytes each */
#define STACK_CHUNK 4096 /* bytes of one net_iov */
#define STACK_CHUNK_DATA 3840 /* payload bytes the NIC puts into one net_iov */
#define STACK_MAX_QUEUES 64

/* ---- addresses ---- */

struct stack_addr {
	uint8_t ip[16]; /* network order; IPv4 as ::ffff:a.b.c.d */
	uint16_t port; /* host order */
	uint16_t family; /* 4 or 6 */
};

/* ---- set-up ---- */

struct stack_config {
	/* memory */
	uint32_t nr_niovs; /* device pages; net_iov i holds region bytes [4096 i, 4096 (i + 1)) */
	uint32_t nr_pages; /* host pages for transmission */
	uint8_t *header_base; /* header page of net_iov i, mapped at header_base + 4096 i */
	uint8_t *page_base; /* host page p, mapped at page_base + 4096 p */
	uint64_t page_umem_base; /* UMEM address of host page 0 */
	uint8_t *channel; /* shared with the application; see channel.h */
	size_t channel_size; /* bytes */
	/* limits */
	uint32_t nr_queues;
	uint32_t max_flows; /* connections, embryos and TIME-WAIT included */
	uint32_t max_listeners;
	uint32_t fill_min; /* buffers kept in a queue's fill ring at least */
	uint32_t fill_max; /* and at most: the fill ring's size */
	/* TCP */
	uint32_t mtu; /* bytes of the IP packet */
	uint32_t rcv_wnd_max; /* bytes */
	uint32_t delack_ns; /* < 500 ms, RFC 9293 SHLD-18 */
	uint32_t time_wait_ms; /* 2 MSL */
	uint32_t pressure; /* enum stack_pressure */
	uint8_t isn_key[16]; /* secret, random per start; RFC 6528 */
};

enum stack_pressure {
	PRESSURE_WINDOW, /* the window follows the free device buffers: nothing is dropped */
	PRESSURE_DROP, /* as the kernel: outstanding tokens are not charged to the window */
};

struct stack;

/* Bytes of memory stack_init() needs for this configuration; 0 if it is not valid. */
size_t stack_size(const struct stack_config *config);

/* Bytes of shared memory config->channel must point to; 0 if the configuration is not valid.
 * stack_init() formats it. Both rings hold more than the tokens and connections there can be,
 * so that an application that keeps to the rules never finds one full. */
size_t stack_channel_size(const struct stack_config *config);

/* Build a stack in `mem` (zeroed, stack_size() bytes, 64-byte aligned).
 * Returns 0, or -EINVAL when the configuration is not valid. */
int stack_init(struct stack *mem, const struct stack_config *config);

/* Offset of net_iov i's device page in the UMEM is 8192 i + 4096; see agent/mosaic.h. */

/* ---- listeners ---- */

#define LISTEN_CLOSE_FIRST 0x1 /* shut our sending side as soon as the first bytes arrive */

/* Returns a listener id >= 0, -EADDRINUSE, or -ENOSPC. */
int stack_listen(struct stack *s, const struct stack_addr *local, uint32_t flags, uint32_t backlog);
/* New SYNs are refused from now on; connections live on. Returns 0 or -ENOENT. */
int stack_unlisten(struct stack *s, int listener);
/* The interface's MTU has changed: new connections get the MSS that fits. Returns 0, or -EINVAL
 * for an MTU that stack_init() would refuse; then the old one stays. */
int stack_set_mtu(struct stack *s, uint32_t mtu);

/* ---- frames in ---- */

struct rx_chunk {
	uint32_t niov; /* index of the net_iov that holds the bytes */
	uint32_t len; /* bytes, from the start of its device page */
};

struct rx_packet {
	uint32_t queue;
	uint32_t nr_chunks;
	struct rx_chunk chunk[STACK_MAX_CHUNKS];
};

/* Take one packet. The record and headers are read from the header page of chunk[0].
 * Ownership of all chunks passes to the stack. */
void stack_rx(struct stack *s, const struct rx_packet *packet, uint64_t now);
/* The batch is over: send the ACKs it called for. */
void stack_rx_end(struct stack *s, uint64_t now);
/* Chunks that came back without a packet (a truncated multi-buffer packet). */
void stack_rx_discard(struct stack *s, const struct rx_packet *packet);

/* Net_iovs for the fill ring of `queue`: writes at most `max` indices, returns how many. */
uint32_t stack_refill(struct stack *s, uint32_t queue, uint32_t *niovs, uint32_t max);

/* ---- frames out ---- */

struct tx_frame {
	uint64_t addr; /* UMEM address */
	uint32_t len;
	uint32_t page; /* host page index, to be given to stack_tx_done() */
};

/* Frames to send on `queue`, in order. Those returned must be sent (or given to stack_tx_done()). */
uint32_t stack_tx(struct stack *s, uint32_t queue, struct tx_frame *frames, uint32_t max);
/* The NIC is done with this host page. A page that is not in transmission is ignored and counted. */
void stack_tx_done(struct stack *s, uint32_t page);

/* ---- time ---- */

#define STACK_NO_DEADLINE 0xffffffffffffffffULL

uint64_t stack_next_deadline(const struct stack *s);
void stack_timers(struct stack *s, uint64_t now);

/* ---- the application's requests and events; see channel.h for the rings ---- */

/* Process what the application asked for. Returns the number of requests taken. */
uint32_t stack_requests(struct stack *s, uint64_t now);
/* Events pushed since the last call: the caller wakes the application if it is not 0. */
uint32_t stack_events_pushed(struct stack *s);
/* The application is gone: reset its connections, take every token back. */
void stack_app_gone(struct stack *s, uint64_t now);

/* ---- looking inside ---- */

/* Why a segment was not accepted: the counters below have one slot for each. */
enum drop {
	DROP_NONE,
	DROP_RECORD, /* the record of the XDP program does not hold together */
	DROP_TRUNCATED, /* a packet whose chunks did not all come */
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
	uint64_t rx_segments;
	uint64_t rx_payload_bytes; /* delivered to applications, in order */
	uint64_t rx_ooo_segments;
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
	uint64_t frags_delivered;
	uint64_t tokens_returned;
	uint64_t requests_rejected; /* what made no sense in the application's ring */
	uint64_t pool_empty; /* a refill wanted more than the pool had */
	uint64_t drops[32]; /* by enum drop */
	/* levels, not counters */
	uint64_t flows_now;
	uint64_t tokens_outstanding;
	uint64_t niovs_free; /* in the pool */
	uint64_t niovs_fill; /* in fill rings */
	uint64_t niovs_queued; /* in order, waiting for room in the events ring */
	uint64_t niovs_ooo;
	uint64_t niovs_lent;
	uint64_t pages_free;
	uint64_t rcv_wnd_promised; /* buffers that advertised windows may ask for */
};

void stack_stats(const struct stack *s, struct stack_stats *out);

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
};

/* The first live flow in slot `from` or behind. Returns its slot (so that + 1 is where to go
 * on), or -ENOENT past the last. */
int stack_flow(const struct stack *s, uint32_t from, struct flow_info *out);

/* What the frag tracker knows of one buffer. */
enum frag_kind { FRAG_HOST_PAGE, FRAG_NET_IOV };
enum frag_state {
	FRAG_FREE, /* in the page_pool or its provider */
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
	uint32_t index; /* net_iov or host page number */
	uint32_t state; /* enum frag_state */
	uint32_t owner; /* flow id, or 0: the pool or the NIC */
	uint32_t refs; /* pp_ref_count */
	uint64_t offset; /* bytes: in the region for a net_iov, in the host area for a page */
};

/* Buffer n of nr_niovs + nr_pages: net_iovs first. Returns 0 or -ENOENT. */
int stack_frag(const struct stack *s, uint32_t n, struct frag_record *out);
/* All invariants of all buffers. Returns 0, or -(1 + n) for the first buffer n that breaks one. */
int stack_check(const struct stack *s);
