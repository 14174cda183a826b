/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * freplace.bpf.c - the smallest program with a function that another may replace.
 *
 * Loaded once, to learn whether this kernel lets libxdp's dispatcher work. Both parts
 * are in one object, of which each half is loaded on its own.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

__attribute__((noinline)) int stub(struct xdp_md *ctx)
{
	volatile int action = XDP_PASS;

	return ctx ? action : XDP_ABORTED;
}

SEC("xdp")
int host(struct xdp_md *ctx)
{
	return stub(ctx);
}

/* "?": not loaded unless asked for. */
SEC("?freplace/stub")
int replacement(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
