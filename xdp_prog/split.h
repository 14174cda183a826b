/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * split.h - turn headers into metadata, so that packet data is payload alone.
 *
 * The head (the headers, and the first payload bytes if the listener wants some of
 * them there) is never moved: data is moved past it, and the metadata in front of
 * data is declared to be RX_META_LEN bytes, of which the head is the end.
 *
 *   before   |            | Ethernet, IP, TCP | payload          | padding |
 *            ^headroom    ^data                                            ^data_end
 *   after    |rx_info|    | Ethernet, IP, TCP | linear | payload |
 *            ^data_meta                                ^data     ^data_end
 *
 * Each adjust invalidates every packet pointer. Once one has succeeded, the
 * packet is no longer what the sender sent, and may be redirected or dropped
 * but not passed to the kernel.
 *
 * What is rare is in global functions: the verifier walks those once, and not once for
 * each of the ways that lead to them, which took it ten times as long as all else.
 */
#ifndef DEVMEMTCP_SPLIT_H
#define DEVMEMTCP_SPLIT_H

#include "parse.h"
#include "slot.h"

#define SHORT_FRAME_MAX 160 /* at least RX_HDR_MAX + RX_MIN_LINEAR, a multiple of 8 */

/* Metadata of an earlier program or a driver would be moved over the headers. */
static __always_inline int drop_old_metadata(struct xdp_md *ctx)
{
	int len = (int)ctx->data - (int)ctx->data_meta;

	return len ? bpf_xdp_adjust_meta(ctx, len) : 0;
}

static __always_inline int cut_padding(struct xdp_md *ctx, struct segment *seg)
{
	int padding = seg->frame_len - seg->l3_end;

	return padding ? bpf_xdp_adjust_tail(ctx, -padding) : 0;
}

static __always_inline __u32 head_len(const struct segment *seg)
{
	return seg->hdr_len + seg->linear;
}

/*
 * How much of the payload can stay in the head: what is there, fits into the
 * metadata, and leaves RX_MIN_LINEAR bytes in the first buffer if others follow
 * (one buffer alone can be filled up).
 */
__noinline __u32 linear_len(struct xdp_md *ctx, __u32 hdr_len, __u32 payload_len, __u32 l3_end,
			    __u32 wanted)
{
	__u32 first_len = (int)ctx->data_end - (int)ctx->data;
	__u32 kept_len = hdr_len + RX_MIN_LINEAR;

	if (wanted > RX_HDR_MAX - hdr_len)
		wanted = RX_HDR_MAX - hdr_len;
	if (wanted > payload_len)
		wanted = payload_len;
	if (first_len < l3_end && wanted + kept_len > first_len)
		wanted = first_len > kept_len ? first_len - kept_len : 0;
	return wanted;
}

/*
 * bpf_xdp_adjust_head() leaves at least RX_MIN_LINEAR bytes, so a payload that is
 * shorter behind the head gets zeros behind it. There may be no room behind the
 * frame (veth rounds it up to a cache line at most), but there always is in front:
 * the frame is moved there, by as many bytes as are wanted.
 *
 *   before   |     | head | payload |
 *   after    | head | payload | 0 0 |
 */
__noinline int move_and_fill(struct xdp_md *ctx, __u32 len, __u32 filled_len)
{
	__u32 key = 0;
	struct scratch *s;
	__u32 grown;

	if (!is_within(&filled_len, ETH_HLEN, SHORT_FRAME_MAX) ||
	    !is_within(&len, ETH_HLEN, SHORT_FRAME_MAX))
		return -1;
	grown = filled_len - len;
	s = bpf_map_lookup_elem(&scratch, &key);
	if (!s || bpf_xdp_adjust_head(ctx, -(int)grown))
		return -1;
	__builtin_memset(s->words, 0, SHORT_FRAME_MAX);
	/* Once more: 6.1 knows nothing of a number that was saved on the stack before its check. */
	return !is_within(&len, ETH_HLEN, SHORT_FRAME_MAX) ||
	       bpf_xdp_load_bytes(ctx, grown, s->words, len) ||
	       !is_within(&filled_len, ETH_HLEN, SHORT_FRAME_MAX) ||
	       bpf_xdp_store_bytes(ctx, 0, s->words, filled_len);
}

static __always_inline int fill_up(struct xdp_md *ctx, const struct segment *seg, __u32 *grown)
{
	__u32 len = seg->hdr_len + seg->payload_len;
	__u32 filled_len = head_len(seg) + RX_MIN_LINEAR;

	*grown = 0;
	if (len >= filled_len)
		return 0;
	*grown = filled_len - len;
	return move_and_fill(ctx, len, filled_len);
}

static __always_inline struct rx_info describe(struct xdp_md *ctx, const struct segment *seg,
					       enum rx_csum csum, __u32 grown)
{
	return (struct rx_info){
		.magic = RX_INFO_MAGIC,
		.hdr_len = seg->hdr_len,
		.l3_off = seg->l3_off,
		.l4_off = seg->l4_off,
		.family = seg->dst.family,
		.csum = csum,
		.grown = grown,
		.payload_len = seg->payload_len,
		.queue = ctx->rx_queue_index,
		.linear = seg->linear,
	};
}

/*
 * Fills in the metadata up to the head. The bytes between the record and the head
 * are headroom, where the last user of the page may have left anything, another
 * flow's payload included: zeroed, so that none of it leaves the kernel.
 * volatile, because what the compiler would make of the loop is a memset() call.
 */
static __always_inline int write_metadata(struct xdp_md *ctx, struct segment *seg,
					  enum rx_csum csum, __u32 grown)
{
	void *meta = (void *)(long)ctx->data_meta;
	struct rx_info *info = meta;
	__u32 unused_end = RX_META_LEN - head_len(seg), off;

	if (meta + RX_META_LEN > (void *)(long)ctx->data)
		return -1;
	*info = describe(ctx, seg, csum, grown);
	for (off = RX_INFO_LEN; off < RX_HDR_MAX && off + 4 <= unused_end; off += 4)
		*(volatile __u32 *)(meta + off) = 0;
	if (unused_end & 2) {
		*(volatile __u16 *)(meta + off) = 0;
		off += 2;
	}
	if (unused_end & 1)
		*(volatile __u8 *)(meta + off) = 0;
	return 0;
}

/* HEADERS_METADATA: the head stays where it is, and becomes metadata. */
static __always_inline enum steer_counter head_to_metadata(struct xdp_md *ctx, struct segment *seg,
							   enum rx_csum csum, __u32 grown)
{
	if (bpf_xdp_adjust_head(ctx, head_len(seg)) || bpf_xdp_adjust_meta(ctx, -RX_META_LEN) ||
	    write_metadata(ctx, seg, csum, grown))
		return STEER_drop_adjust_failed;
	return STEER_redirect;
}

/* The metadata of a packet whose head is in a slot. It overwrites the end of the head. */
static __always_inline int write_slot_ref(struct xdp_md *ctx, __u64 seq)
{
	struct rx_slot_ref *ref;

	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(*ref)))
		return -1;
	ref = (void *)(long)ctx->data_meta;
	if ((void *)(ref + 1) > (void *)(long)ctx->data)
		return -1;
	*ref = (struct rx_slot_ref){.magic = RX_INFO_MAGIC, .seq = seq};
	return 0;
}

/* HEADERS_SLOT: the head is copied, and metadata says where to. */
static __always_inline enum steer_counter head_to_slot(struct xdp_md *ctx, struct segment *seg,
						       enum rx_csum csum, __u32 grown)
{
	struct rx_info info = describe(ctx, seg, csum, grown);
	struct rx_slot *slot;
	__u64 seq;

	slot = slot_claim(&seq);
	if (!slot)
		return STEER_drop_slot_busy;
	if (slot_fill(ctx, slot, &info) || bpf_xdp_adjust_head(ctx, head_len(seg)) ||
	    write_slot_ref(ctx, seq)) {
		slot_abandon(slot);
		return STEER_drop_adjust_failed;
	}
	slot_publish(slot, seq);
	return STEER_redirect;
}

#ifdef DEVMEMTCP_CHUNK_H
/* HEADERS_CHUNK: the head is copied, to where the packet's chunk says. */
static __always_inline enum steer_counter head_to_chunk(struct xdp_md *ctx, struct segment *seg,
							enum rx_csum csum, __u32 grown)
{
	struct rx_info info = describe(ctx, seg, csum, grown);
	struct rx_slot *slot = chunk_slot(ctx);

	if (!slot)
		return STEER_drop_no_chunk;
	if (slot_fill(ctx, slot, &info) || bpf_xdp_adjust_head(ctx, head_len(seg)))
		return STEER_drop_adjust_failed;
	return STEER_redirect;
}
#endif

static __always_inline enum steer_counter split_headers(struct xdp_md *ctx, struct segment *seg,
							enum rx_csum csum, __u32 linear)
{
	__u32 grown;

	if (linear)
		seg->linear = linear_len(ctx, seg->hdr_len, seg->payload_len, seg->l3_end, linear);
	if (drop_old_metadata(ctx) || cut_padding(ctx, seg) || fill_up(ctx, seg, &grown))
		return STEER_drop_adjust_failed;
	switch (headers.path) {
	case HEADERS_METADATA:
		return head_to_metadata(ctx, seg, csum, grown);
	case HEADERS_SLOT:
		return head_to_slot(ctx, seg, csum, grown);
#ifdef DEVMEMTCP_CHUNK_H
	case HEADERS_CHUNK:
		return head_to_chunk(ctx, seg, csum, grown);
#endif
	default:
		return STEER_drop_adjust_failed;
	}
}

#endif
