/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Asks for more metadata than any kernel gives: what the probe sees on an old one. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int probe_metadata(struct xdp_md *ctx)
{
	return bpf_xdp_adjust_meta(ctx, -256) ? XDP_ABORTED : XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
