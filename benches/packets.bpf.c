// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * What times the data plane: a wrapper that moves the head back and writes the
 * frame anew before each run, a program that does nothing (its time, with the
 * wrapper's, is subtracted), and a reference that does the least a balancer
 * must: parse, look one flow up, count, rewrite MAC addresses.
 */
#define BPF_NO_PRESERVE_ACCESS_INDEX
#include <vmlinux-6.18.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Octets of a frame that are written anew: programs change headers only. */
#define FRAME 128

/* One case. */
struct bench_plan {
	__u32 program; /* the index of the program under test */
	__u32 mask;    /* packets differ in these bits of one word */
	__u32 next;    /* number of the next packet */
	__u32 offset;  /* of the word */
	__u32 stride;  /* between the values of packets in a row */
	__u32 length;  /* of the frame, FRAME or more */
	__u8 frame[FRAME];
};

struct flow_key {
	__be32 saddr;
	__be32 daddr;
	__be32 ports;
	__u32 protocol;
};

struct flow_value {
	__u64 seen;
	__u8 mac[6];
	__u8 pad[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct bench_plan);
} plans SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 2000000);
	__type(key, struct flow_key);
	__type(value, struct flow_value);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} counters SEC(".maps");

SEC("xdp")
int wrapper(struct xdp_md *ctx)
{
	struct bench_plan *plan;
	__u32 zero = 0;
	long length;
	void *data;
	void *end;
	__be32 *word;

	plan = bpf_map_lookup_elem(&plans, &zero);
	if (!plan)
		return XDP_ABORTED;
	/* To where the last run found the head. If that did not move it this is
	 * a call all the same: what is subtracted has it too.
	 */
	length = ctx->data_end - (long)ctx->data;
	/* Or clang would first add the other one to a pointer. */
	barrier_var(length);
	if (bpf_xdp_adjust_head(ctx, length - (long)plan->length))
		return XDP_ABORTED;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + FRAME > end)
		return XDP_ABORTED;
	__builtin_memcpy(data, plan->frame, FRAME);
	word = data + (plan->offset & (FRAME - 1));
	if ((void *)(word + 1) > end)
		return XDP_ABORTED;
	*word ^= bpf_htonl(plan->next++ * plan->stride & plan->mask);
	bpf_tail_call(ctx, &programs, plan->program);
	return XDP_ABORTED;
}

SEC("xdp")
int nothing(struct xdp_md *ctx)
{
	return ctx->data < ctx->data_end ? XDP_TX : XDP_ABORTED;
}

static __always_inline void count(__u32 index, __u64 more)
{
	__u64 *counter = bpf_map_lookup_elem(&counters, &index);

	if (counter)
		*counter += more;
}

SEC("xdp")
int reference(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	__be32 *ports = (void *)(ip + 1);
	struct flow_value *value;
	struct flow_key key = {};

	if ((void *)(ports + 1) > end || eth->h_proto != bpf_htons(0x0800) ||
	    ip->ihl != 5)
		return XDP_PASS;
	key.saddr = ip->saddr;
	key.daddr = ip->daddr;
	key.ports = *ports;
	key.protocol = ip->protocol;
	value = bpf_map_lookup_elem(&flows, &key);
	if (!value) {
		struct flow_value new = { .mac = { 2, 0, 0, 0, 0, 1 } };

		bpf_map_update_elem(&flows, &key, &new, BPF_ANY);
		return XDP_TX;
	}
	value->seen = bpf_ktime_get_coarse_ns();
	count(0, 1);
	count(1, bpf_ntohs(ip->tot_len));
	count(2, 1);
	__builtin_memcpy(eth->h_source, eth->h_dest, 6);
	__builtin_memcpy(eth->h_dest, value->mac, 6);
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
