/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flow.h - one TCP connection, the table that finds it, and the listeners.
 *
 * A flow is found by its four-tuple from the wire side and by its id (slot and
 * generation) from the application's side. It leaves the hash table when the
 * protocol is done with it and frees its slot when the application is, too:
 *
 *     SYN ──► hashed, embryo ──► EVENT_ACCEPT ──► ... ──► unhashed ──► slot free
 *                                (app holds it)   both: protocol over, REQUEST_CLOSE
 */
#ifndef DEVMEMTCP_FLOW_H
#define DEVMEMTCP_FLOW_H

#include "application.h"
#include "assembler.h"
#include "channel.h"
#include "list.h"
#include "wire.h"

#define FLOW_NONE 0u

struct listener {
	struct stack_addr local;
	struct application *app; /* whose connections they will be */
	uint32_t id; /* slot | generation */
	uint32_t generation; /* the next one's */
	uint32_t flags; /* LISTEN_* */
	uint32_t pressure; /* enum stack_pressure */
	uint32_t backlog; /* embryos at most, and as many that wait to be accepted */
	uint32_t embryos;
	uint32_t waiting; /* for the application to accept them, at most */
	uint32_t counted; /* how many it were at the last count */
	uint64_t counted_at;
	struct list_node oldest; /* embryos by age */
	uint64_t cookies_until; /* SYN cookies may come back; 0: none was sent */
	bool open;
};

#define REPLY_PAGES (CHANNEL_REPLY_MAX / 4096 + 1)

/* Reply bytes the peer has not acknowledged, in host pages (tcp_output.c). Most flows have none:
 * the pages are chained in a table of the stack's, by their number. */
struct reply_buffer {
	uint32_t first, last; /* the oldest page, and the youngest, if there are any */
	uint32_t nr; /* pages, REPLY_PAGES at most */
	uint32_t head; /* bytes of the oldest page already acknowledged */
	uint32_t bytes; /* unacknowledged, all pages */
};

struct reply_page {
	uint32_t next; /* of the same flow, younger */
	uint32_t len; /* bytes */
};

struct flow {
	/* identity */
	struct tuple tuple;
	struct link link;
	uint32_t id; /* slot | generation; 0 while the slot is free */
	uint32_t queue; /* where its segments came from last */
	uint32_t hash_next; /* slot, or FLOW_NONE */
	struct application *app; /* NULL: gone, and nobody is told anything any more */
	uint32_t listener; /* id */
	uint8_t pressure; /* enum stack_pressure, its listener's */
	const uint8_t state; /* enum tcp_state; only tcp_state.c has another way to it */
	bool hashed;
	bool app_open; /* between EVENT_ACCEPT and REQUEST_CLOSE */
	bool app_shut; /* REQUEST_SHUTDOWN or REQUEST_CLOSE: a FIN is due or sent */
	bool close_first; /* LISTEN_CLOSE_FIRST: a FIN as soon as the first bytes arrive */

	/* receive sequence space (RFC 9293 3.3.1):
	 *
	 *    rcv_nxt - delivered | rcv_nxt ... islands ... rcv_told | ... rcv_adv |
	 *       in order            what may come: the window           lost in scaling
	 */
	seq_t irs;
	seq_t rcv_nxt;
	seq_t rcv_adv; /* right edge that buffers are kept for: never goes back */
	seq_t rcv_told; /* the farthest a window field has said: what lies beyond is refused */
	seq_t last_ack_sent; /* RFC 7323 4.3 Last.ACK.sent */
	seq_t fin_seq; /* where the peer's FIN is, if fin_known */
	bool fin_known; /* seen, perhaps above a hole */
	bool eof_told; /* EVENT_EOF is in the ring */
	uint8_t rcv_wscale;
	uint8_t snd_wscale;
	bool wscale_ok; /* the peer offered it, RFC 7323 2.2 */
	bool sack_ok;
	bool ts_ok;
	bool ecn_ok;
	bool ecn_echo; /* ECE on every ACK, until the peer's CWR */
	uint16_t rcv_mss; /* largest payload seen, up to ours: what "full-sized" means here */
	uint32_t ack_pending; /* bytes received since the last ACK */
	uint32_t promised; /* buffers the advertised window may ask for (window.c) */
	uint32_t kept_bufs; /* promised at most, whatever the window says (window_reclaim()) */
	uint32_t rcv_ssthresh; /* bytes the window may have at most for now (window.c) */
	uint32_t bytes_per_buf; /* payload bytes a buffer carries on this flow, smoothed */
	seq_t reclaim_nxt, reclaim_hole; /* rcv_nxt and the end of its hole when last looked at */
	uint64_t rx_bytes;
	uint64_t rx_kind[RX_DATA + 1]; /* bytes delivered, by enum rx_kind */
	struct assembler ooo;
	struct frag_list rcvq; /* in order, not told the application yet */
	seq_t dsack_start, dsack_end; /* reported in the next ACK when not empty */

	/* send sequence space */
	seq_t iss;
	seq_t snd_una;
	seq_t snd_nxt; /* behind the highest ever sent */
	seq_t snd_resend; /* where sending goes on: snd_nxt, or behind it after a time-out */
	seq_t snd_wl1;
	seq_t snd_wl2;
	uint32_t snd_wnd;
	uint32_t snd_wnd_max; /* RFC 5961 5.2 MAX.SND.WND */
	uint32_t snd_mss;
	uint32_t cwnd;
	uint32_t ssthresh;
	uint8_t dup_acks;
	bool fin_sent;
	struct reply_buffer replies;

	/* time, ns; 0 = not armed */
	uint64_t t_delack;
	uint64_t t_rexmit; /* SYN-ACK, data, FIN, or window probe */
	uint64_t t_linger; /* end of TIME-WAIT, or of an orphan's FIN-WAIT-2 */
	uint64_t t_first_unacked; /* since when the peer owes an ACK: R2 of RFC 9293 3.8.3 */
	uint64_t heap_when;
	uint32_t heap_pos; /* 0: not in the heap */
	uint32_t rto_ns;
	uint32_t srtt_us; /* 0: no measurement yet */
	uint32_t rttvar_us;
	uint64_t rtt_start; /* 0: no segment is being timed (Karn) */
	seq_t rtt_seq;
	uint8_t backoff;

	/* timestamps */
	uint32_t ts_recent;
	uint32_t ts_offset; /* per connection, RFC 7323 5.4 */
	uint64_t ts_recent_at;

	/* ACK scheduling */
	uint8_t quick_acks; /* the first segments are acknowledged at once (slow start) */
	bool ack_now;
	uint8_t challenge_budget; /* RFC 5961 7 */
	uint64_t challenge_since;

	/* what the application has not been told yet, because its events ring was full */
	bool accept_untold;
	bool reset_untold;
	bool closed_untold;
	uint8_t reset_errno;
	uint32_t sent_untold; /* bytes */

	uint32_t tokens; /* with the application */
	uint32_t token_first; /* chain through the token table, 0 ends it */
	uint32_t blocks; /* data blocks with the application */
	uint32_t block_first; /* chain through its block table */

	struct list_node ack_node; /* on stack.ack_list: decide at the end of the batch */
	struct list_node starved_node; /* on stack.starved: window below what it could use */
	struct list_node deliver_node; /* on application.deliver_list: no room for all there is */
	struct list_node age_node; /* on listener.oldest or stack.time_wait: the first to go */
};

struct flow_table {
	struct flow *flows; /* slot 0 is never used: id 0 means none */
	uint32_t nr; /* slots, slot 0 included */
	uint32_t used; /* slots from here on have never been: their memory is not touched */
	uint32_t *buckets;
	uint32_t mask;
	uint32_t free; /* first free slot below `used`, chained by hash_next */
	uint32_t live;
	uint32_t generation;
	struct flow *last; /* the flow of the previous segment: bursts hit it */
	const uint8_t *key;
};

/* flows and buckets are zeroed memory. */
void flow_table_init(struct flow_table *t);

static inline uint32_t flow_slot(const struct flow_table *t, const struct flow *f)
{
	return (uint32_t)(f - t->flows);
}

static inline uint32_t flows_free(const struct flow_table *t)
{
	return t->nr - 1 - t->live;
}

/* NULL when there is none. */
struct flow *flow_find(struct flow_table *t, const struct tuple *tuple);
/* NULL when `id` is of no live flow: ids come from the application and may be anything. */
struct flow *flow_by_id(struct flow_table *t, uint32_t id);
/* A zeroed flow in the hash table; NULL when all slots are in use. */
struct flow *flow_new(struct flow_table *t, const struct tuple *tuple);
void flow_unhash(struct flow_table *t, struct flow *f);
void flow_free(struct flow_table *t, struct flow *f);

/* The slot: the exact address before the unspecified one; -1 when nobody listens. */
int listener_find(const struct listener *l, uint32_t nr, const struct tuple *tuple);

#endif
