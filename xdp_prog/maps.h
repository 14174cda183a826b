/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * maps.h - what userspace fills in, and where the program keeps its accounts.
 *
 * Userspace writes xsks, listeners, closed_ports, mac and addresses and reads counters and heads.
 * The program writes only counters (its own CPU's column), heads, and scratch.
 */
#ifndef DEVMEMTCP_MAPS_H
#define DEVMEMTCP_MAPS_H

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "steer.h"

#define MAX_QUEUES 64
#define MAX_LISTENERS 256
#define MAX_ADDRESSES 1024
#define SCRATCH_LEN 4096 /* a multiple of 4, small enough to stay in the L1 cache */

/* rx_queue_index -> the AF_XDP socket bound to that queue. */
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} xsks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_LISTENERS);
	__type(key, struct steer_key);
	__type(value, struct steer_value);
} listeners SEC(".maps");

/*
 * A bit for each port, in network byte order: set where userspace knows that there is no
 * listener. Most frames that are not ours end there, at the price of a load, where the keys of
 * listeners would be hashed twice. All zeros: nothing is known, listeners alone decides.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536 / 64);
	__type(key, __u32);
	__type(value, __u64);
} closed_ports SEC(".maps");

/* Our Ethernet address. All zeros until userspace has entered it, which no frame is sent to. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct steer_mac);
} mac SEC(".maps");

/* The interface's IP addresses, port 0: those that an unspecified listener stands for. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ADDRESSES);
	__type(key, struct steer_key);
	__type(value, __u32);
} addresses SEC(".maps");

/* enum steer_counter -> how often. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, STEER_COUNTER_MAX);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

/*
 * Which way the headers go. Userspace sets it before it loads the programs; the verifier knows
 * it then, and leaves the code of the other ways out.
 */
const volatile struct header_config headers SEC(".rodata.headers") = {.path = HEADERS_METADATA};

/* Userspace makes it as large as the path takes, and maps it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rx_slot);
} heads SEC(".maps");

/*
 * Payload on its way through the checksum. Too large for the stack, and per CPU
 * because a queue's packets are handled one at a time on one CPU with softirqs
 * off. The word past the end takes the zeros that round an odd length up.
 */
struct scratch {
	__be32 words[SCRATCH_LEN / 4 + 1];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

static __always_inline void count_n(enum steer_counter reason, __u64 n)
{
	__u32 key = reason;
	__u64 *counter = bpf_map_lookup_elem(&counters, &key);

	if (counter)
		*counter += n;
}

static __always_inline void count(enum steer_counter reason)
{
	count_n(reason, 1);
}

#endif
