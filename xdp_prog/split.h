/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * split.h - turn headers into metadata, so that packet data is payload alone.
 *
 * The headers are never moved: data is moved past them, and the metadata in
 * front of data is declared to be RX_META_LEN bytes, of which they are the end.
 *
 *   before   |            | Ethernet, IP, TCP | payload | padding |
 *            ^headroom    ^data                                   ^data_end
 *   after    |rx_info|    | Ethernet, IP, TCP | payload |
 *            ^data_meta                       ^data     ^data_end
 *
 * Each adjust invalidates every packet pointer. Once one has succeeded, the
 * packet is no longer what the sender sent, and may be redirected or dropped
 * but not passed to the kernel.
 */
#ifndef DEVMEMTCP_SPLIT_H
#define DEVMEMTCP_SPLIT_H

#include "parse.h"

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

/*
 * bpf_xdp_adjust_head() leaves at least RX_MIN_LINEAR bytes, so a shorter payload
 * gets zeros behind it. There may be no room behind the frame (veth rounds it up
 * to a cache line at most), but there always is in front: the frame is moved
 * there, by as many bytes as are wanted.
 *
 *   before   |     | headers | payload |
 *   after    | headers | payload | 0 0 |
 */
static __always_inline int fill_up(struct xdp_md *ctx, struct segment *seg, __u32 *grown)
{
	__u32 len = seg->hdr_len + seg->payload_len;
	__u32 filled_len = seg->hdr_len + RX_MIN_LINEAR;
	__u32 key = 0;
	struct scratch *s;

	*grown = 0;
	if (filled_len > SHORT_FRAME_MAX || len < ETH_HLEN) /* cannot be: for the verifier */
		return -1;
	if (len >= filled_len)
		return 0;
	*grown = filled_len - len;
	s = bpf_map_lookup_elem(&scratch, &key);
	if (!s || bpf_xdp_adjust_head(ctx, -(int)*grown))
		return -1;
	__builtin_memset(s->words, 0, SHORT_FRAME_MAX);
	return bpf_xdp_load_bytes(ctx, *grown, s->words, len) ||
	       bpf_xdp_store_bytes(ctx, 0, s->words, filled_len);
}

/*
 * Fills in the metadata up to the headers. The bytes between the record and the
 * headers are headroom, where the last user of the page may have left anything,
 * another flow's payload included: zeroed, so that none of it leaves the kernel.
 * volatile, because what the compiler would make of the loop is a memset() call.
 */
static __always_inline int write_metadata(struct xdp_md *ctx, struct segment *seg,
					  enum rx_csum csum, __u32 grown)
{
	void *meta = (void *)(long)ctx->data_meta;
	struct rx_info *info = meta;
	__u32 unused_end = RX_META_LEN - seg->hdr_len;

	if (meta + RX_META_LEN > (void *)(long)ctx->data)
		return -1;
	*info = (struct rx_info){
		.magic = RX_INFO_MAGIC,
		.hdr_len = seg->hdr_len,
		.l3_off = seg->l3_off,
		.l4_off = seg->l4_off,
		.family = seg->dst.family,
		.csum = csum,
		.grown = grown,
		.payload_len = seg->payload_len,
		.queue = ctx->rx_queue_index,
	};
	for (__u32 off = RX_INFO_LEN; off < RX_HDR_MAX && off < unused_end; off += 2)
		*(volatile __u16 *)(meta + off) = 0;
	return 0;
}

static __always_inline enum steer_counter split_headers(struct xdp_md *ctx, struct segment *seg,
							enum rx_csum csum)
{
	__u32 grown;

	if (drop_old_metadata(ctx) || cut_padding(ctx, seg) || fill_up(ctx, seg, &grown) ||
	    bpf_xdp_adjust_head(ctx, seg->hdr_len) || bpf_xdp_adjust_meta(ctx, -RX_META_LEN) ||
	    write_metadata(ctx, seg, csum, grown))
		return STEER_drop_adjust_failed;
	return STEER_redirect;
}

#endif
