/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * drop.bpf.c - what steering costs: programs that drop every frame, after more and more work.
 *
 *   drop            nothing: the rate that XDP itself allows on this interface
 *   parse           touch the frame, find Ethernet type, IP addresses and TCP ports
 *   steer_off       the steering program as it is attached (devmemtcp.bpf.c), with no check
 *   steer_frozen    the same, behind "is any device memory bound?" as a constant that the
 *                   verifier knows when it loads the program: it removes the branch
 *   steer_flag      the same, asked of memory for every frame
 *
 * and what AF_XDP costs, and where the frames come from:
 *
 *   redirect        every frame to the AF_XDP socket of its queue
 *   send            XDP_TX, for BPF_PROG_TEST_RUN with live frames: out of the ingress interface
 *
 * The steering program passes on to the kernel what is not ours, which costs a socket
 * buffer and the way through the stack: not to be measured here. So its XDP_PASS becomes
 * XDP_DROP; the code before that is the same, being the same source.
 */
#include "devmemtcp.bpf.c"

/* In .rodata, which libbpf freezes before it loads the programs. */
const volatile bool net_devmem_frozen = true;
/* In .data, which userspace may write at any time. */
volatile bool net_devmem_flag = true;

static __always_inline int drop_steered(struct xdp_md *ctx)
{
	int verdict = steer(ctx);

	return verdict == XDP_PASS ? XDP_DROP : verdict;
}

SEC("xdp.frags")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("xdp.frags")
int parse(struct xdp_md *ctx)
{
	struct hdr_cursor cur = hdr_cursor_at(ctx, 0);
	struct ethhdr *eth = hdr_pull(&cur, sizeof(*eth));
	struct segment seg = {.l3_off = sizeof(*eth)};
	__be16 *ports;

	if (!eth || eth->h_proto != bpf_htons(ETH_P_IP) || parse_ipv4(&cur, &seg))
		return XDP_ABORTED;
	ports = hdr_pull(&cur, 2 * sizeof(*ports));
	/* Never true, but the compiler cannot know: what was read is used. */
	if (!ports || (seg.addr_sum ^ seg.ip_sum) + ports[1] == 0)
		return XDP_ABORTED;
	return XDP_DROP;
}

SEC("xdp.frags")
int steer_off(struct xdp_md *ctx)
{
	return drop_steered(ctx);
}

/*
 * The verifier removes a branch when nothing else leads to its target; a bare return would be
 * shared with other paths, and the branch would stay. What does stay of a frozen constant is the
 * load of it, two instructions.
 */
static __always_inline int drop_unbound(void)
{
	count(STEER_pass_no_socket);
	return XDP_DROP;
}

SEC("xdp.frags")
int steer_frozen(struct xdp_md *ctx)
{
	return net_devmem_frozen ? drop_steered(ctx) : drop_unbound();
}

SEC("xdp.frags")
int steer_flag(struct xdp_md *ctx)
{
	return net_devmem_flag ? drop_steered(ctx) : drop_unbound();
}

SEC("xdp.frags")
int redirect(struct xdp_md *ctx)
{
	return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);
}

SEC("xdp.frags")
int send(struct xdp_md *ctx)
{
	return XDP_TX;
}
