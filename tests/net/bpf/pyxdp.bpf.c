/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Small programs that tests of pyxdp load, attach and run. */
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include <linux/if_ether.h>

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u16);
	__type(value, __u64);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} hits SEC(".maps");

static __always_inline void count_hit(void)
{
	__u32 zero = 0;
	__u32 *hit = bpf_map_lookup_elem(&hits, &zero);

	if (hit)
		++*hit;
}

/* Frames of ethertype 0x88b5 (local experimental) go to the socket of their queue. */
static __always_inline int redirect_experimental(struct xdp_md *ctx)
{
	struct ethhdr *eth = (void *)(long)ctx->data;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	if (eth->h_proto != bpf_htons(0x88b5))
		return XDP_PASS;
	count_hit();
	return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_DROP);
}

SEC("xdp")
int redirect(struct xdp_md *ctx)
{
	return redirect_experimental(ctx);
}

SEC("xdp.frags")
int redirect_frags(struct xdp_md *ctx)
{
	return redirect_experimental(ctx);
}

/* Eight bytes of metadata: the queue and the interface. */
SEC("xdp")
int annotate(struct xdp_md *ctx)
{
	__u32 *meta;

	if (bpf_xdp_adjust_meta(ctx, -8))
		return XDP_ABORTED;
	meta = (void *)(long)ctx->data_meta;
	if ((void *)(meta + 2) > (void *)(long)ctx->data)
		return XDP_ABORTED;
	meta[0] = ctx->rx_queue_index;
	meta[1] = ctx->ingress_ifindex;
	return XDP_PASS;
}

SEC("xdp.frags")
int length(struct xdp_md *ctx)
{
	__u16 key = 1;
	__u64 len = bpf_xdp_get_buff_len(ctx);

	bpf_map_update_elem(&table, &key, &len, BPF_ANY);
	return XDP_PASS;
}

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

/* Has the name by which libxdp's dispatcher is known. */
SEC("xdp")
int xdp_dispatcher(struct xdp_md *ctx)
{
	return XDP_PASS;
}

/* Reads past the packet: the verifier refuses it. */
SEC("?xdp")
int unbounded(struct xdp_md *ctx)
{
	return *(__u8 *)(long)ctx->data;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
