/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * csum.h - the Internet checksum (RFC 1071) of the IP header and of the segment.
 *
 * Sums are one's complement and in network byte order as loaded, so no byte is
 * ever swapped. They are kept in 64 bits and folded once at the end. A sum over
 * data that includes its checksum field is right if it folds to 0xffff; it can
 * not fold to 0, since the addresses and the protocol number are not all zero.
 */
#ifndef DEVMEMTCP_CSUM_H
#define DEVMEMTCP_CSUM_H

#include "parse.h"

#define CSUM_OK 0xffff
#define CSUM_PIECES (0x10000 / SCRATCH_LEN) /* a segment is shorter than 64 KiB */

static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return sum;
}

/*
 * Adds the len bytes at off, whichever fragments they lie in. Pieces have an
 * even length, so a byte's place in its 16-bit word never changes from piece to
 * piece, and an odd last byte is padded with a zero behind it.
 */
static __noinline int csum_range(struct xdp_md *ctx, __u32 off, __u32 len, __u64 *sum)
{
	__u32 key = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &key);

	if (!s)
		return -1;
	for (int i = 0; i < CSUM_PIECES && len; i++) {
		__u32 n = len < SCRATCH_LEN ? len : SCRATCH_LEN;
		__s64 piece;

		s->words[n / 4] = 0;
		if (bpf_xdp_load_bytes(ctx, off, s->words, n))
			return -1;
		piece = bpf_csum_diff(NULL, 0, s->words, (n + 3) & ~3, 0);
		if (piece < 0)
			return -1;
		*sum += piece;
		off += n;
		len -= n;
	}
	return len ? -1 : 0;
}

/* IPv6 has no header checksum. parse_ipv4() has summed all but the options. */
static __always_inline enum steer_counter check_ip_csum(struct xdp_md *ctx, struct segment *seg)
{
	__u32 options = seg->l3_off + sizeof(struct iphdr);

	if (seg->dst.family != 4)
		return STEER_redirect;
	if (csum_range(ctx, options, seg->l4_off - options, &seg->ip_sum))
		return STEER_drop_ip_malformed;
	return csum_fold(seg->ip_sum) == CSUM_OK ? STEER_redirect : STEER_drop_ip_csum;
}

/*
 * A local sender leaves the sum to a NIC that is not there (CHECKSUM_PARTIAL):
 * the field then holds the folded sum of the pseudo header alone, and the
 * segment has never been on a wire that could have damaged it.
 */
static __always_inline enum steer_counter check_tcp_csum(struct xdp_md *ctx, struct segment *seg,
							 __u32 flags, enum rx_csum *verdict)
{
	struct hdr_cursor cur = hdr_cursor_at(ctx, seg->l4_off);
	struct tcphdr *tcp = hdr_pull(&cur, sizeof(*tcp));
	__u32 len = seg->l3_end - seg->l4_off;
	__u64 sum = seg->addr_sum + bpf_htons(IPPROTO_TCP) + bpf_htons(len);

	if (!tcp)
		return STEER_drop_tcp_malformed;
	if (flags & STEER_CSUM_TRUST) {
		*verdict = RX_CSUM_TRUSTED;
		return STEER_redirect;
	}
	if (tcp->check == csum_fold(sum)) {
		*verdict = RX_CSUM_PARTIAL;
		return STEER_redirect;
	}
	if (csum_range(ctx, seg->l4_off, len, &sum) || csum_fold(sum) != CSUM_OK)
		return STEER_drop_tcp_csum;
	*verdict = RX_CSUM_VERIFIED;
	return STEER_redirect;
}

#endif
