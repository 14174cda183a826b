/* SPDX-License-Identifier: Apache-2.0 */
/*
 * core.h - struct stack, and which file does what with it.
 *
 *   stack.c       memory layout, frames in and out
 *   area.c        areas of memory, and which queue uses which
 *   application.c applications: the stack's end of their channels
 *   inspect.c     counters, levels and dumps
 *   tcp_listen.c  listeners, and segments without a flow: SYNs, and RSTs for the rest
 *   syncookies.c  SYNs without a flow
 *   tcp_input.c   segments of a flow: the steps of RFC 9293 3.10.7.4
 *   tcp_ack.c     what their ACKs say of our side of the stream
 *   tcp_end.c     states, resets, TIME-WAIT, and when a slot is free
 *   tcp_output.c  what we send: ACKs, replies, FIN, RST
 *   tcp_timer.c   one deadline a flow, in a heap
 *   window.c      what is advertised, against what is free
 *   delivery.c    in-order frags to the application, as tokens or as data blocks
 *   requests.c    what the applications want
 *
 * All of it runs on one thread. Nothing is allocated here: see api.h for who brings what.
 */
#ifndef DEVMEMTCP_CORE_H
#define DEVMEMTCP_CORE_H

#include <assert.h>

#include "application.h"
#include "area.h"
#include "channel.h"
#include "flow.h"
#include "stack.h"
#include "steer.h"
#include "tcp_state.h"
#include "token.h"
#include "wire.h"

#define NS_PER_US 1000ULL
#define NS_PER_MS 1000000ULL
#define NS_PER_S 1000000000ULL

/* Frames built and not yet handed to the NIC, one FIFO a queue. */
struct tx_queue {
	struct tx_frame *ring;
	uint32_t head, tail, mask;
	uint64_t packets, bytes;
};

struct rx_queue {
	struct area *area; /* NULL: not attached */
	uint32_t fill; /* buffers in its fill ring */
	uint32_t promised; /* buffers its flows' windows may ask for */
	uint32_t promised_embryos; /* of it, to flows that may never come to be */
	uint32_t unbacked; /* the same of flows under PRESSURE_DROP, which is no promise */
	uint64_t packets, bytes, alloc_fail;
	uint64_t csum[RX_CSUM_TRUSTED + 1]; /* packets, by enum rx_csum */
};

struct timer_heap {
	uint32_t *slot; /* flow slots, [1 .. nr], by flow.heap_when */
	uint32_t nr;
};

struct stack {
	struct stack_config cfg;

	/* memory */
	struct area **areas; /* by number; NULL: none */
	uint32_t niovs_open; /* buffers of all of them */
	uint32_t areas_drained;
	struct area *tx_area; /* host pages that frames are built in */
	struct frag_pool frag_pool;
	struct token_table tokens;
	bool buffers_back; /* since window_reopen(): applications have given some back */

	/* queues */
	struct rx_queue rx[STACK_MAX_QUEUES];
	struct tx_queue tx[STACK_MAX_QUEUES];
	struct reply_page *reply_pages; /* by host page */
	uint8_t *page_sent; /* by host page: queue + 1 if it is with the NIC */

	/* connections */
	struct flow_table flows;
	struct listener *listeners;
	struct list_node ack_list;
	struct list_node starved;
	struct list_node time_wait; /* oldest first */
	struct timer_heap timers;

	struct application **apps; /* by number; NULL: none */
	uint32_t apps_end; /* behind the last */
	uint32_t nr_apps;
	uint32_t nr_conns; /* of all of them */
	uint32_t nr_embryos;
	bool requests_left; /* more than one call's budget */
	uint64_t now; /* of the last call that brought one */
	uint64_t now_ahead; /* of the caller's clock: by what that has gone back */
	uint64_t reclaim_at; /* when window_reclaim() looks again */
	struct stack_stats stats;
};

/* ---- stack.c ---- */

/* The stack's time for the caller's `now`: it never goes back. */
uint64_t stack_clock(struct stack *s, uint64_t now);

/* All frags of a payload are cut: give each chunk the references it needs and its state,
 * or put it back if nothing of it was taken. Once a payload. */
void stack_settle_payload(struct stack *s, struct flow *f, struct payload *p,
			  enum frag_state state);
/* Where a frame for `queue` is to be queued: there, or by any queue that has a socket while that
 * has none; NULL when no queue has. */
struct tx_queue *tx_queue_for(struct stack *s, uint32_t queue);
/* The queue has no socket any more: what was with the NIC is done, what waits leaves by another. */
void tx_queue_gone(struct stack *s, uint32_t queue);
/* Frags of this flow that will not be delivered: give their parts back. */
void stack_drop_frags(struct stack *s, const struct flow *f, struct frag_list *list,
		      enum frag_state from);

/* What we announce, and take at most: the MTU less the fixed headers (RFC 6691 2). Fits 16
 * bits, since config_ok() holds the MTU to that. */
static inline uint32_t tcp_mss(const struct stack *s, int family)
{
	return s->cfg.mtu - TCP_HLEN - (family == 4 ? IPV4_HLEN : IPV6_HLEN);
}

/* ---- area.c ---- */

/* Counts it, if its last buffer has come home and no queue uses it. */
void area_note_drained(struct stack *s, const struct area *a);

/* Drop one reference of a buffer of `a` whose state says already what it will be. */
static inline void area_put(struct stack *s, struct area *a, netmem_ref netmem)
{
	page_pool_put_netmem(a->pool, netmem, true);
	if (!a->queues)
		area_note_drained(s, a);
}

/* A buffer without parts, or its one part: FREE, and home. */
static inline void area_free(struct stack *s, struct area *a, netmem_ref netmem)
{
	frag_track(a->tracker, netmem, FRAG_FREE, 0);
	area_put(s, a, netmem);
}

/* So many parts more, or less, of buffers of `a` hold bytes of this flow. */
static inline void flow_holds(const struct flow *f, const struct area *a, int parts)
{
	if (f->app)
		f->app->held[a->number] += (uint32_t)parts;
}

/* One part, in state `from`, ends, and its reference with it. */
static inline void area_drop_part(struct stack *s, const struct flow *f, netmem_ref netmem,
				  enum frag_state from)
{
	struct area *a = area_of(netmem);

	flow_holds(f, a, -1);
	frag_move(a->tracker, netmem, from, FRAG_FREE);
	area_put(s, a, netmem);
}

/* ---- tcp_listen.c ---- */

/* No more connections for this application: neither those to come nor those that begin. */
void listeners_forget(struct stack *s, const struct application *app);
enum drop tcp_listen_input(struct stack *s, struct seg *seg, struct payload *p, uint64_t now);
/* Is it the ACK of a cookie that may still be about? */
bool tcp_listen_cookie(const struct stack *s, const struct seg *seg, uint64_t now);

/* ---- syncookies.c ---- */

#define SYNCOOKIE_VALID_NS (128 * NS_PER_S) /* one is never taken later */

/* The initial sequence number of a SYN-ACK that stands for all there is to know. */
seq_t syncookie_make(const struct stack *s, const struct seg *syn, uint32_t mss, uint64_t now);
/* Does `ack` answer one? Then `syn` is what it was sent for: sequence number and options. */
bool syncookie_check(const struct stack *s, const struct seg *ack, uint64_t now, struct seg *syn);
/* The timestamp of that SYN-ACK, which has the peer's options in its last bits. */
uint32_t syncookie_tsval(const struct flow *f, uint64_t now);

/* ---- tcp_input.c ---- */

enum drop tcp_input(struct stack *s, struct flow *f, struct seg *seg, struct payload *p,
		    uint64_t now);

/* ---- tcp_ack.c ---- */

void tcp_process_ack(struct stack *s, struct flow *f, const struct seg *seg, uint64_t now);

/* ---- tcp_end.c ---- */

void tcp_set_state(struct stack *s, struct flow *f, enum tcp_event event);
/* The connection is over without agreement: `err` is what the application gets to know. */
void tcp_reset(struct stack *s, struct flow *f, int err);
/* What lies above a hole is given up: its sender has it still. */
void tcp_drop_ooo(struct stack *s, struct flow *f);
/* Free the slot if neither side needs it any more. */
void tcp_reap(struct stack *s, struct flow *f);
void tcp_enter_time_wait(struct stack *s, struct flow *f, uint64_t now);
/* End the flow in a while, whatever the peer does: TIME-WAIT, and FIN-WAIT-2 that nobody has. */
void tcp_linger(struct stack *s, struct flow *f, uint64_t now);

/* ---- tcp_output.c ---- */

void tcp_send_ack(struct stack *s, struct flow *f, uint64_t now);
void tcp_send_synack(struct stack *s, struct flow *f, uint64_t now);
/* RST for a segment that nobody wants (RFC 9293 3.10.7.1). Never answers a RST. */
void tcp_send_rst_for(struct stack *s, const struct seg *seg);
void tcp_send_rst(struct stack *s, struct flow *f);
/* As much of replies and FIN as windows allow. */
void tcp_push(struct stack *s, struct flow *f, uint64_t now);
/* Send again what is unacknowledged, from snd_una: one segment. */
void tcp_resend_first(struct stack *s, struct flow *f, uint64_t now);
/* The end-of-batch decision: now, later, or not at all. */
void tcp_ack_decide(struct stack *s, struct flow *f, uint64_t now);
/* Queue reply bytes; -ENOBUFS when too much is unacknowledged or no page is free. */
int tcp_reply_add(struct stack *s, struct flow *f, const uint8_t *bytes, uint32_t len);
void tcp_reply_acked(struct stack *s, struct flow *f, uint32_t bytes);
void tcp_reply_free(struct stack *s, struct flow *f);
uint32_t tcp_tsval(const struct flow *f, uint64_t now);

/* ---- tcp_timer.c ---- */

#define TCP_RTO_INITIAL (1 * NS_PER_S) /* RFC 6298 2.1 */

void timer_heap_init(struct timer_heap *h);
/* After any t_* of the flow was set or cleared. */
void timer_update(struct stack *s, struct flow *f);
void timer_remove(struct stack *s, struct flow *f);
void timers_expire(struct stack *s, uint64_t now);
/* (Re)start the retransmission timer with the current back-off. */
void tcp_rexmit_arm(struct stack *s, struct flow *f, uint64_t now);
/* A round-trip time was measured (RFC 6298 2.2, 2.3). */
void tcp_rtt_sample(struct flow *f, uint64_t rtt_ns);

/* ---- window.c ---- */

/* Before the first segment is answered. */
void window_start(const struct stack *s, struct flow *f);
/* The window of a SYN-ACK that is forgotten: the same each time, so that it is known afterwards. */
void window_start_cookie(const struct stack *s, struct flow *f);
/* `bytes` came in order: the peer makes use of its window. */
void window_grow(const struct stack *s, struct flow *f, uint32_t bytes);
/* The window to put into the next segment, in bytes; moves rcv_adv. */
uint32_t window_advertise(struct stack *s, struct flow *f);
/* rcv_nxt moved, or the flow ended: what is still promised to it? */
void window_account(struct stack *s, struct flow *f);
void window_forget(struct stack *s, struct flow *f);
/* A packet of `bytes` payload took `bufs` buffers. */
void window_learn(struct flow *f, uint32_t bytes, uint32_t bufs);
/* May payload stay: above a hole (`island`), or in order? */
bool window_may_hold(const struct stack *s, const struct flow *f, bool island);
/* Buffers came back: tell flows that wait for a larger window. */
void window_reopen(struct stack *s, uint64_t now);
/* Now and then: take back what is kept and not used. */
void window_reclaim(struct stack *s, uint64_t now);
/* How many buffers the fill ring of this queue, which has an area, should hold. */
uint32_t window_fill_target(const struct stack *s, uint32_t queue);

/* ---- delivery.c ---- */

/* Push whatever the application has not been told of this flow. */
void flow_deliver(struct stack *s, struct flow *f);
/* Flows that found the events ring full, or no data block free: is there room now? */
void deliver_pending(struct stack *s, struct application *app);
/* A token, or block, came back. False: it is not one of this flow's. */
bool token_return(struct stack *s, struct flow *f, uint32_t token);
bool block_return(struct flow *f, uint32_t block);
/* All of them, asked for or not. */
void flow_reclaim(struct stack *s, struct flow *f);

/* ---- requests.c ---- */

/* The application is done with this flow, and never mind what it has not read. */
void request_abort(struct stack *s, struct flow *f);

#endif
