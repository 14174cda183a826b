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

#include <linux/version.h>
#include "parse.h"

#define CSUM_OK 0xffff
#define CSUM_DIFF_MAX 512 /* bytes bpf_csum_diff() takes at a time before Linux 6.13 */
#define CSUM_PIECES (0x10000 / CSUM_DIFF_MAX) /* a segment is shorter than 64 KiB */

extern int LINUX_KERNEL_VERSION __kconfig;

static __always_inline __u16 csum_fold(__u64 sum)
{
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 32) + (sum & 0xffffffff);
	sum = (sum >> 16) + (sum & 0xffff);
	sum = (sum >> 16) + (sum & 0xffff);
	return sum;
}

struct csum_walk {
	struct xdp_md *ctx;
	struct scratch *scratch;
	__u32 piece_len;
	__u32 off; /* of what is not summed yet, and its length */
	__u32 left;
	__u64 sum;
};

/* One piece; a bpf_loop() callback, so 0 goes on and 1 ends the walk, early if left. */
static long csum_piece(__u32 index, void *arg)
{
	struct csum_walk *walk = arg;
	__be32 *words = walk->scratch->words;
	__u32 n = walk->piece_len;
	__s64 sum;

	if (walk->left < n)
		n = walk->left;
	if (n == 0)
		return 1;
	n = ((n - 1) & (SCRATCH_LEN - 1)) + 1; /* it is within that: as every verifier can see */
	words[n / 4] = 0;
	if (bpf_xdp_load_bytes(walk->ctx, walk->off, words, n))
		return 1;
	sum = bpf_csum_diff(NULL, 0, words, (n + 3) & ~3, 0);
	if (sum < 0)
		return 1;
	walk->sum += sum;
	walk->off += n;
	walk->left -= n;
	return walk->left == 0;
}

/*
 * Adds the len bytes at off, whichever fragments they lie in. Pieces have an
 * even length, so a byte's place in its 16-bit word never changes from piece to
 * piece, and an odd last byte is padded with a zero behind it.
 */
static __noinline int csum_range(struct xdp_md *ctx, __u32 off, __u32 len, __u64 *sum)
{
	struct csum_walk walk = {.ctx = ctx, .off = off, .left = len, .sum = *sum};
	__u32 key = 0;

	walk.piece_len =
		LINUX_KERNEL_VERSION < KERNEL_VERSION(6, 13, 0) ? CSUM_DIFF_MAX : SCRATCH_LEN;
	walk.scratch = bpf_map_lookup_elem(&scratch, &key);
	if (!walk.scratch)
		return -1;
	if (bpf_loop(CSUM_PIECES, csum_piece, &walk, 0) < 0 || walk.left)
		return -1;
	*sum = walk.sum;
	return 0;
}

/* IPv6 has no header checksum. parse_ipv4() has summed all but the options. */
static __always_inline enum steer_counter check_ip_csum(struct xdp_md *ctx, struct segment *seg)
{
	__u32 options = seg->l3_off + sizeof(struct iphdr);
	__u32 len = seg->l4_off - options;

	if (seg->dst.family != 4)
		return STEER_redirect;
	if (len && csum_range(ctx, options, len, &seg->ip_sum))
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
