/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_output.c - everything we send is built here, each frame in a host page of its own:
 *
 *   tcp_send_ack/synack/rst, tcp_push -> emit() -> tx_queue -> stack_tx() -> the NIC
 *                                                  stack_tx_done() -> page_pool
 *
 * A frame is built once and never looked at again: what has to be sent again is built
 * again, from the reply pages and the flow. If no host page is free nothing is lost: an
 * ACK stays due (ack list), data and FIN are the retransmission timer's.
 */
#include <errno.h>
#include <string.h>

#include "core.h"

#define PAGE_BYTES NETMEM_PAGE_SIZE
#define SACK_OPTION_MAX (4 + 8 * TCP_SACK_BLOCKS_MAX) /* below the smallest MSS we send by, 52 */

/* ---- frames ---- */

/* A host page for the transmit path; NETMEM_NONE when there is none. */
static netmem_ref take_page(struct stack *s, uint32_t owner)
{
	const netmem_ref netmem = page_pool_alloc_netmem(s->tx_area->pool);

	if (netmem_is_none(netmem))
		s->stats.tx_no_page++;
	else
		frag_track(s->tx_area->tracker, netmem, FRAG_TX, owner);
	return netmem;
}

/* A page to build a frame for `queue` in; NULL when there is none, or no way out. */
static struct page *take_frame(struct stack *s, uint32_t queue)
{
	const netmem_ref netmem = tx_queue_for(s, queue) ? take_page(s, 0) : NETMEM_NONE;

	return netmem_is_none(netmem) ? NULL : netmem_to_page(netmem);
}

/* Build the frame in `page`, whose payload is in place already, and queue it. */
static void queue_frame(struct stack *s, uint32_t queue, const struct out_seg *out,
			struct page *page)
{
	struct tx_queue *q = tx_queue_for(s, queue); /* take_frame() has seen that there is one */
	const uint32_t len = wire_build(out, page_address(page));

	/* The ring has a place for every host page, so it cannot be full. */
	q->ring[q->head++ & q->mask] = (struct tx_frame){.page = page_index(page), .len = len};
	s->stats.tx_segments++;
}

static bool emit(struct stack *s, uint32_t queue, const struct out_seg *out)
{
	struct page *page = take_frame(s, queue);

	if (!page)
		return false;
	queue_frame(s, queue, out, page);
	return true;
}

/* What anybody can ask for, with any address as the sender's, leaves pages to those whose
 * connections are open: a SYN-ACK or RST that is not sent is asked for again. What is left are the
 * quarter that is for frames (may_have_page()) and one for replies, or a connection whose
 * application keeps within its share would be reset because of strangers. */
static bool emit_to_stranger(struct stack *s, uint32_t queue, const struct out_seg *out)
{
	if (page_pool_available(s->tx_area->pool) > s->cfg.nr_pages / 2)
		return emit(s, queue, out);
	s->stats.tx_no_page++;
	return false;
}

/* ---- what every segment of a flow carries ---- */

uint32_t tcp_tsval(const struct flow *f, uint64_t now)
{
	return (uint32_t)(now / NS_PER_MS) + f->ts_offset;
}

/* DSACK first (RFC 2883 4), then the islands, as many as fit (RFC 2018 4). */
static void add_sack(struct flow *f, struct out_seg *out)
{
	const uint32_t max = f->ts_ok ? TCP_SACK_BLOCKS_MAX - 1 : TCP_SACK_BLOCKS_MAX;
	const struct island *around;

	if (!f->sack_ok)
		return;
	if (!seq_eq(f->dsack_start, f->dsack_end)) {
		out->sack[out->nr_sack++] = (struct sack_block){f->dsack_start, f->dsack_end};
		around = assembler_find(&f->ooo, f->dsack_start);
		if (around) /* the block that contains it comes second (RFC 2883 4.1.2) */
			out->sack[out->nr_sack++] = (struct sack_block){around->start, around->end};
		f->dsack_end = f->dsack_start; /* reported once */
	}
	struct sack_block recent[TCP_SACK_BLOCKS_MAX];
	const uint32_t nr = assembler_sack(&f->ooo, recent, TCP_SACK_BLOCKS_MAX);

	for (uint32_t i = 0; i < nr && out->nr_sack < max; i++) {
		if (out->nr_sack > 1 && seq_eq(out->sack[1].start, recent[i].start))
			continue;
		out->sack[out->nr_sack++] = recent[i];
	}
}

/* The window to say, in units of 2^shift bytes. What it rounds off the peer is not told of. */
static uint16_t window_field(struct stack *s, struct flow *f, uint8_t shift)
{
	uint32_t wnd = window_advertise(s, f) >> shift;

	wnd = wnd > 0xffff ? 0xffff : wnd;
	f->rcv_told = seq_max(f->rcv_told, seq_add(f->rcv_nxt, wnd << shift));
	return (uint16_t)wnd;
}

/* Header fields of a segment of an open connection; acknowledges what has come so far. */
static struct out_seg out_of(struct stack *s, struct flow *f, uint64_t now, uint8_t flags)
{
	struct out_seg out = {
		.tuple = &f->tuple,
		.link = &f->link,
		.seq = f->snd_nxt,
		.ack = f->rcv_nxt,
		.flags = flags | TCPF_ACK,
		.wscale = -1,
		.has_ts = f->ts_ok,
		.tsval = tcp_tsval(f, now),
		.tsecr = f->ts_recent,
	};

	out.wnd = window_field(s, f, f->rcv_wscale);
	if (f->ecn_echo)
		out.flags |= TCPF_ECE;
	return out;
}

/* An ACK went out with this segment: nothing is owed any more. */
static void acked_now(struct stack *s, struct flow *f)
{
	f->last_ack_sent = f->rcv_nxt;
	f->ack_pending = 0;
	f->ack_now = false;
	list_del(&f->ack_node);
	if (f->t_delack) {
		f->t_delack = 0;
		timer_update(s, f);
	}
}

/* ---- ACKs ---- */

void tcp_send_ack(struct stack *s, struct flow *f, uint64_t now)
{
	struct out_seg out = out_of(s, f, now, 0);

	add_sack(f, &out);
	if (!emit(s, f->queue, &out)) {
		f->ack_now = true;
		list_add_tail(&s->ack_list, &f->ack_node);
		return;
	}
	if (seq_eq(f->last_ack_sent, f->rcv_nxt))
		s->stats.tx_dup_acks++;
	acked_now(s, f);
}

/* RFC 9293 3.8.6.3, RFC 5681 4.2: every second full-sized segment at the latest, unless configured
 * otherwise. In any case once a batch, which is where most of the thinning comes from. */
void tcp_ack_decide(struct stack *s, struct flow *f, uint64_t now)
{
	if (f->ack_now || f->ack_pending >= s->cfg.ack_segments * f->rcv_mss ||
	    (f->quick_acks && f->ack_pending)) {
		f->quick_acks -= f->quick_acks > 0;
		s->stats.tx_acks_immediate++;
		tcp_send_ack(s, f, now);
		return;
	}
	list_del(&f->ack_node);
	if (f->ack_pending && !f->t_delack) {
		f->t_delack = now + s->cfg.delack_ns;
		timer_update(s, f);
	}
}

void tcp_send_synack(struct stack *s, struct flow *f, uint64_t now)
{
	struct out_seg out;

	out = (struct out_seg){
		.tuple = &f->tuple,
		.link = &f->link,
		.seq = f->iss,
		.ack = f->rcv_nxt,
		.flags = TCPF_SYN | TCPF_ACK | (f->ecn_ok ? TCPF_ECE : 0),
		.wnd = window_field(s, f, 0), /* never scaled on a SYN (RFC 7323 2.2) */
		.mss = (uint16_t)tcp_mss(s, f->tuple.family),
		.wscale = f->wscale_ok ? (int8_t)f->rcv_wscale : -1,
		.sack_permitted = f->sack_ok,
		.has_ts = f->ts_ok,
		.tsval = f->id ? tcp_tsval(f, now) : syncookie_tsval(f, now), /* 0: forgotten */
		.tsecr = f->ts_recent,
	};
	if (emit_to_stranger(s, f->queue, &out))
		f->last_ack_sent = f->rcv_nxt;
}

/* ---- RST ---- */

void tcp_send_rst_for(struct stack *s, const struct seg *seg)
{
	struct out_seg out = {
		.tuple = &seg->tuple, .link = &seg->link, .flags = TCPF_RST, .wscale = -1};

	if (seg->flags & TCPF_RST)
		return;
	if (seg->flags & TCPF_ACK) {
		out.seq = seg->ack;
	} else {
		out.flags |= TCPF_ACK;
		out.ack = seq_add(seg->seq, seg_space(seg));
	}
	if (emit_to_stranger(s, seg->queue, &out))
		s->stats.tx_rst++;
}

void tcp_send_rst(struct stack *s, struct flow *f)
{
	const struct out_seg out = {.tuple = &f->tuple,
				    .link = &f->link,
				    .seq = f->snd_nxt,
				    .ack = f->rcv_nxt,
				    .flags = TCPF_RST | TCPF_ACK,
				    .wscale = -1};

	if (emit(s, f->queue, &out))
		s->stats.tx_rst++;
}

/* ---- replies ----
 *
 *      snd_una                     snd_resend        snd_nxt
 *         |==== sent, not acked ======|== sent before ==|--- not sent ---| FIN
 *         '---- replies.bytes: kept in host pages until acknowledged ----'
 */

/* A quarter of the host pages is for frames alone: with all of them full of replies to
 * peers that do not read, nobody would be acknowledged any more. And where there are several
 * applications, one that has many leaves as many for the others. */
static bool may_have_page(const struct stack *s, const struct application *app)
{
	const uint32_t kept = s->cfg.nr_pages / 4 + (s->nr_apps > 1 ? app->reply_pages : 0);

	return page_pool_available(s->tx_area->pool) > kept;
}

/* Another page behind the last; false when there is none for it. */
static bool add_reply_page(struct stack *s, struct flow *f)
{
	struct reply_buffer *r = &f->replies;
	netmem_ref netmem;
	uint32_t page;

	if (r->nr == REPLY_PAGES || !may_have_page(s, f->app))
		return false;
	netmem = take_page(s, f->id);
	if (netmem_is_none(netmem))
		return false;
	f->app->reply_pages++;
	page = area_index(netmem);
	s->reply_pages[page] = (struct reply_page){0};
	if (r->nr++)
		s->reply_pages[r->last].next = page;
	else
		r->first = page;
	r->last = page;
	return true;
}

/* Where the bytes of a reply page are. */
static uint8_t *reply_bytes(const struct stack *s, uint32_t page)
{
	return s->cfg.page_base + (size_t)page * PAGE_BYTES;
}

int tcp_reply_add(struct stack *s, struct flow *f, const uint8_t *bytes, uint32_t len)
{
	struct reply_buffer *r = &f->replies;

	if (len > CHANNEL_REPLY_MAX || r->bytes + len > CHANNEL_REPLY_MAX)
		return -ENOBUFS;
	while (len) {
		struct reply_page *last;
		uint32_t part;

		if ((!r->nr || s->reply_pages[r->last].len == PAGE_BYTES) && !add_reply_page(s, f))
			return -ENOBUFS;
		last = &s->reply_pages[r->last];
		part = PAGE_BYTES - last->len < len ? PAGE_BYTES - last->len : len;
		memcpy(reply_bytes(s, r->last) + last->len, bytes, part);
		last->len += part;
		r->bytes += part;
		bytes += part;
		len -= part;
	}
	return 0;
}

void tcp_reply_acked(struct stack *s, struct flow *f, uint32_t bytes)
{
	struct reply_buffer *r = &f->replies;

	r->bytes -= bytes;
	r->head += bytes;
	while (r->nr && r->head >= s->reply_pages[r->first].len) {
		const uint32_t page = r->first;

		r->head -= s->reply_pages[page].len;
		r->first = s->reply_pages[page].next;
		r->nr--;
		area_free(s, s->tx_area, area_buffer(s->tx_area, page));
		if (f->app)
			f->app->reply_pages--;
	}
}

void tcp_reply_free(struct stack *s, struct flow *f)
{
	tcp_reply_acked(s, f, f->replies.bytes);
}

/* Copy reply bytes [off, off + len) from the pages into a frame. */
static void copy_reply(const struct stack *s, const struct reply_buffer *r, uint32_t off,
		       uint32_t len, uint8_t *to)
{
	uint32_t page = r->first;

	for (off += r->head; len; page = s->reply_pages[page].next) {
		const uint32_t here = s->reply_pages[page].len;
		const uint32_t skip = off < here ? off : here;
		const uint32_t part = here - skip < len ? here - skip : len;

		memcpy(to, reply_bytes(s, page) + skip, part);
		off -= skip;
		to += part;
		len -= part;
	}
}

/* One segment from `snd_resend` on: `len` reply bytes, the FIN if `fin`. */
static bool send_data(struct stack *s, struct flow *f, uint32_t len, bool fin, uint64_t now)
{
	const uint32_t off = (uint32_t)seq_sub(f->snd_resend, f->snd_una);
	const bool again = seq_lt(f->snd_resend, f->snd_nxt);
	struct page *page = take_frame(s, f->queue);
	struct out_seg out;

	if (!page)
		return false;
	out = out_of(s, f, now, fin ? TCPF_FIN : 0);
	out.seq = f->snd_resend;
	out.len = len;
	add_sack(f, &out);
	if (len && off + len == f->replies.bytes)
		out.flags |= TCPF_PSH;
	copy_reply(s, &f->replies, off, len,
		   (uint8_t *)page_address(page) + wire_headers_len(&out));
	queue_frame(s, f->queue, &out, page);

	f->snd_resend = seq_add(f->snd_resend, len + fin);
	if (again) {
		s->stats.tx_retransmits++;
		f->rtt_start = 0; /* Karn: an ACK could be for either copy */
	} else if (!f->rtt_start) {
		f->rtt_start = now;
		f->rtt_seq = f->snd_resend;
	}
	f->snd_nxt = seq_max(f->snd_nxt, f->snd_resend);
	f->fin_sent |= fin;
	acked_now(s, f);
	if (!f->t_rexmit)
		tcp_rexmit_arm(s, f, now);
	return true;
}

/* Payload of a full segment: what the peer takes less the SACK option, if one is due
 * (RFC 6691 3), and never more than fits one host page, whatever the MTU is. */
static uint32_t send_mss(const struct flow *f)
{
	const bool sack = f->sack_ok && (f->ooo.nr || !seq_eq(f->dsack_start, f->dsack_end));
	const uint32_t mss = f->snd_mss - (sack ? SACK_OPTION_MAX : 0);
	const uint32_t room = PAGE_BYTES - WIRE_HEADERS_MAX;

	return mss < room ? mss : room;
}

/* False: there is no page for it. The timer tries again, also when nothing else is out. */
static bool send_or_wait(struct stack *s, struct flow *f, uint32_t len, bool fin, uint64_t now)
{
	if (send_data(s, f, len, fin, now))
		return true;
	if (!f->t_rexmit)
		tcp_rexmit_arm(s, f, now);
	return false;
}

void tcp_push(struct stack *s, struct flow *f, uint64_t now)
{
	const uint32_t wnd = f->snd_wnd < f->cwnd ? f->snd_wnd : f->cwnd;

	if (f->state == TCP_SYN_RECEIVED || f->state == TCP_CLOSED)
		return;
	if (f->fin_sent && seq_eq(f->snd_una, f->snd_nxt))
		return; /* all of it is acknowledged, the FIN too */
	for (;;) {
		const uint32_t off = (uint32_t)seq_sub(f->snd_resend, f->snd_una);
		uint32_t len;

		if (off > f->replies.bytes)
			return; /* the FIN is out */
		len = f->replies.bytes - off;
		if (!len) {
			if (f->app_shut)
				send_or_wait(s, f, 0, true, now);
			return;
		}
		if (len > send_mss(f))
			len = send_mss(f);
		if (off >= wnd || (off && len > wnd - off)) { /* sender's SWS avoidance */
			if (!off && !f->t_rexmit)
				tcp_rexmit_arm(s, f, now); /* zero window: probe it */
			return;
		}
		if (len > wnd - off)
			len = wnd - off;
		if (!send_or_wait(s, f, len, false, now))
			return;
	}
}

void tcp_resend_first(struct stack *s, struct flow *f, uint64_t now)
{
	const seq_t resume = f->snd_resend;
	uint32_t len = f->replies.bytes;

	if (f->state == TCP_SYN_RECEIVED) {
		tcp_send_synack(s, f, now);
		s->stats.tx_retransmits++;
		return;
	}
	if (len > send_mss(f))
		len = send_mss(f);
	/* A zero window gets one byte: enough to be answered (RFC 9293 3.8.6.1). */
	if (len > (f->snd_wnd ? f->snd_wnd : 1))
		len = f->snd_wnd ? f->snd_wnd : 1;
	if (!len && !f->app_shut)
		return;
	f->snd_resend = f->snd_una;
	send_data(s, f, len, !len, now);
	f->snd_resend = seq_max(f->snd_resend, resume);
}
