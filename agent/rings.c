/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rings.c - between the four rings of an AF_XDP socket and the stack.
 *
 * RX descriptors become packets of buffers, frames of the stack become TX descriptors,
 * free buffers go to the fill ring, completions come back as host pages.
 *
 * Invariants:
 * - A descriptor is looked at before it is believed: what does not begin at a data page
 *   of the queue's area, or in zero-copy mode is not within one, never reaches the stack as
 *   a packet.
 * - Every buffer that comes out of the RX ring goes to the stack exactly once, by
 *   stack_rx() or stack_rx_discard().
 * - A call takes one batch of one queue at most, so that no queue starves another.
 * - One kick (sendto) a call of rings_send(), repeated only while the kernel left frames
 *   in the ring. In zero-copy mode the driver takes frames and buffers by itself; a call
 *   wakes it, where it has said that it sleeps.
 */
#include <errno.h>
#include <linux/if_xdp.h>
#include <sys/socket.h>
#include <xdp/xsk.h>

#include "loop.h"
#include "mosaic.h"

#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0)
#endif

/* Of LOOP_BATCH packets of 64 KB: one turn, and one ACK, for what came while we were away. */
#define RX_BATCH (LOOP_BATCH * STACK_MAX_CHUNKS)
#define KICKS_WITHOUT_PROGRESS 32 /* then the device is slower than we are: next turn */

/* ---- receive ---- */

static inline void prefetch_headers(const struct loop *l, const struct queue_pair *qp,
				    uint64_t addr)
{
	heads_prefetch(l, qp, xsk_umem__add_offset_to_addr(addr) / mosaic_step(qp->layout));
}

static inline bool desc_to_data_page(const struct queue_pair *qp, const struct xdp_desc *desc,
				     struct rx_chunk *chunk, bool *usable)
{
	uint64_t data = xsk_umem__add_offset_to_addr(desc->addr);
	uint64_t base = xsk_umem__extract_addr(desc->addr);
	uint64_t niov = (base + MOSAIC_HEADROOM) / mosaic_step(MOSAIC_PAIRS);

	if (niov >= qp->nr_niovs || base != mosaic_fill(MOSAIC_PAIRS, niov))
		return false;
	chunk->niov = niov;
	chunk->off = 0;
	*usable = data == mosaic_device(MOSAIC_PAIRS, niov) && desc->len <= STACK_CHUNK_DATA;
	return true;
}

/* The payload begins behind the driver's headroom and the headers. */
static inline bool desc_to_shared_chunk(const struct queue_pair *qp, const struct xdp_desc *desc,
					struct rx_chunk *chunk, bool *usable)
{
	uint64_t niov = desc->addr / MOSAIC_PAGE;

	if (niov >= qp->nr_niovs)
		return false;
	chunk->niov = niov;
	chunk->off = desc->addr % MOSAIC_PAGE;
	*usable = desc->len <= MOSAIC_PAGE - chunk->off;
	return true;
}

/* What a descriptor says, as a chunk: false if no buffer of ours is meant. `*usable` is
 * false when one is, but the bytes are not where they must be. */
static inline bool desc_to_chunk(const struct queue_pair *qp, const struct xdp_desc *desc,
				 struct rx_chunk *chunk, bool *usable)
{
	chunk->len = desc->len;
	return qp->layout == MOSAIC_CHUNKS ? desc_to_shared_chunk(qp, desc, chunk, usable)
					   : desc_to_data_page(qp, desc, chunk, usable);
}

static void give_up(struct loop *l, struct queue_pair *qp)
{
	if (qp->packet.nr_chunks)
		stack_rx_discard(l->stack, &qp->packet, DROP_TRUNCATED);
	qp->packet.nr_chunks = 0;
	qp->discard = true;
}

static void collect(struct loop *l, struct queue_pair *qp, const struct xdp_desc *desc)
{
	struct rx_packet *p = &qp->packet;
	bool usable;

	if (p->nr_chunks == STACK_MAX_CHUNKS) {
		l->stats.rx_oversize += !qp->discard;
		give_up(l, qp);
	}
	if (!desc_to_chunk(qp, desc, &p->chunk[p->nr_chunks], &usable)) {
		l->stats.rx_bad_descs++;
		give_up(l, qp);
		return;
	}
	p->nr_chunks++;
	if (!usable) {
		l->stats.rx_bad_descs++;
		give_up(l, qp);
	}
}

static void packet_complete(struct loop *l, struct queue_pair *qp, uint64_t now)
{
	if (qp->discard) {
		give_up(l, qp);
		qp->discard = false;
		return;
	}
	l->stats.rx_packets++;
	if (heads_take(l, qp))
		stack_rx(l->stack, &qp->packet, now);
	else
		stack_rx_discard(l->stack, &qp->packet, DROP_NO_HEAD);
	qp->packet.nr_chunks = 0;
}

uint32_t rings_receive(struct loop *l, struct queue_pair *qp, uint64_t now)
{
	struct xsk_ring_cons *ring = qp->rings.rx;
	uint32_t index, taken = 0, packets = 0;
	const uint32_t n = xsk_ring_cons__peek(ring, RX_BATCH, &index);

	if (!n)
		return 0;
	prefetch_headers(l, qp, xsk_ring_cons__rx_desc(ring, index)->addr);
	while (taken < n && packets < LOOP_BATCH) {
		struct xdp_desc desc = *xsk_ring_cons__rx_desc(ring, index + taken++);

		collect(l, qp, &desc);
		if (desc.options & XDP_PKT_CONTD)
			continue;
		if (taken < n) /* of the next packet: only the first chunk has headers */
			prefetch_headers(l, qp, xsk_ring_cons__rx_desc(ring, index + taken)->addr);
		packet_complete(l, qp, now);
		packets++;
	}
	xsk_ring_cons__cancel(ring, n - taken);
	xsk_ring_cons__release(ring, taken);
	l->stats.rx_batches++;
	l->stats.rx_descs += taken;
	return taken;
}

/* A ring's worth at most, though the NIC may still be filling it; the rest of a packet that
 * has not come by then will not. */
void rings_receive_last(struct loop *l, struct queue_pair *qp, uint64_t now)
{
	uint32_t left = qp->rings.rx->size, n;

	do {
		n = rings_receive(l, qp, now);
		left -= n < left ? n : left;
	} while (n && left);
	give_up(l, qp);
	stack_rx_end(l->stack, now);
}

/* A driver that has run dry looks at the fill ring again when it is told to: not before the loop
 * rests, if that were left to poll(), and under load of another queue it does not rest. */
static void wake_receiver(struct loop *l, const struct queue_pair *qp)
{
	if (!xsk_ring_prod__needs_wakeup(qp->rings.fill))
		return;
	l->stats.rx_wakeups++;
	recv(qp->rings.fd, NULL, 0, MSG_DONTWAIT);
}

void rings_refill(struct loop *l, struct queue_pair *qp)
{
	struct xsk_ring_prod *ring = qp->rings.fill;
	uint32_t niovs[LOOP_BATCH];
	uint32_t room, n, index = 0, filled = 0;

	do {
		room = xsk_prod_nb_free(ring, LOOP_BATCH);
		n = stack_refill(l->stack, qp->packet.queue, niovs,
				 room < LOOP_BATCH ? room : LOOP_BATCH);
		if (!n)
			break;
		xsk_ring_prod__reserve(ring, n, &index);
		for (uint32_t i = 0; i < n; i++)
			*xsk_ring_prod__fill_addr(ring, index + i) =
				mosaic_fill(qp->layout, niovs[i]);
		xsk_ring_prod__submit(ring, n);
		filled += n;
	} while (n == LOOP_BATCH);
	if (filled && qp->layout == MOSAIC_CHUNKS)
		wake_receiver(l, qp);
}

/* ---- send ---- */

static void reap_completions(struct loop *l, struct queue_pair *qp)
{
	struct xsk_ring_cons *ring = qp->rings.completion;
	uint32_t index, n = xsk_ring_cons__peek(ring, LOOP_BATCH, &index);

	for (uint32_t i = 0; i < n; i++) {
		uint64_t addr = *xsk_ring_cons__comp_addr(ring, index + i);

		addr = xsk_umem__extract_addr(addr);
		/* The stack ignores, and counts, a page that is not in transmission. */
		stack_tx_done(l->stack, (addr - qp->tx_base) / MOSAIC_PAGE);
	}
	if (n)
		xsk_ring_cons__release(ring, n);
}

static inline bool ring_drained(const struct xsk_ring_prod *ring)
{
	return __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE) == *ring->producer;
}

bool rings_sent(const struct queue_pair *qp)
{
	return ring_drained(qp->rings.tx);
}

static bool try_again(int err)
{
	return err == EAGAIN || err == EBUSY || err == ENOBUFS || err == EINTR;
}

static bool call_kernel(struct loop *l, const struct queue_pair *qp)
{
	if (sendto(qp->rings.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0 || try_again(errno))
		return true;
	if (errno == ENETDOWN)
		l->down = true; /* which is not gone: see check_links() */
	else
		l->error = -errno;
	return false;
}

/* Zero-copy: the driver sends, and says when it has nothing left and goes to sleep. */
static void wake_sender(struct loop *l, const struct queue_pair *qp)
{
	if (!xsk_ring_prod__needs_wakeup(qp->rings.tx))
		return;
	l->stats.tx_kicks++;
	call_kernel(l, qp);
}

/* One call sends at most 32 frames, and may send none: the completion ring or the device's
 * queue is full (EAGAIN, ENOBUFS), or another thread is in there (EBUSY). */
static void kick(struct loop *l, struct queue_pair *qp)
{
	struct xsk_ring_prod *ring = qp->rings.tx;
	uint32_t stuck = 0, before;

	l->stats.tx_kicks++;
	while (!ring_drained(ring) && stuck < KICKS_WITHOUT_PROGRESS) {
		before = __atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE);
		if (!call_kernel(l, qp))
			return;
		if (__atomic_load_n(ring->consumer, __ATOMIC_ACQUIRE) != before) {
			stuck = 0;
			continue;
		}
		stuck++;
		l->stats.tx_kick_retries++;
		reap_completions(l, qp);
	}
}

uint32_t rings_send(struct loop *l, struct queue_pair *qp)
{
	struct xsk_ring_prod *ring = qp->rings.tx;
	struct tx_frame frames[LOOP_BATCH];
	uint32_t room, n, index = 0, sent = 0;

	reap_completions(l, qp);
	do {
		room = xsk_prod_nb_free(ring, LOOP_BATCH);
		n = stack_tx(l->stack, qp->packet.queue, frames,
			     room < LOOP_BATCH ? room : LOOP_BATCH);
		if (!n)
			break;
		xsk_ring_prod__reserve(ring, n, &index);
		for (uint32_t i = 0; i < n; i++) {
			struct xdp_desc *desc = xsk_ring_prod__tx_desc(ring, index + i);

			*desc = (struct xdp_desc){
				.addr = qp->tx_base + (uint64_t)frames[i].page * MOSAIC_PAGE,
				.len = frames[i].len,
			};
		}
		xsk_ring_prod__submit(ring, n);
		sent += n;
	} while (n == LOOP_BATCH);
	l->stats.tx_frames += sent;
	if (ring_drained(ring))
		return sent;
	if (qp->layout == MOSAIC_CHUNKS)
		wake_sender(l, qp);
	else
		kick(l, qp);
	return sent;
}
