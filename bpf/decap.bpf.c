// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The other end of the balancer's tunnels: for real servers.
 *
 * A packet's way: parse from the outside in, verify, take the tunnel off, count.
 * Each packet ends with one reason; its verdict follows from that:
 *
 *   passed, not an octet changed: not certainly from a balancer for a VIP
 *     not_tunnel      neither IPIP, GRE with IP in it, nor to the port of FOU or
 *                     GUE; later fragments of UDP, whose port nobody knows
 *     foreign_source  a tunnel, but not from a balancer
 *     not_local       from a balancer, but not to an address of this host
 *     outer_malformed a length or version that contradicts another one, or a
 *                     header that is not all there, up to the inner destination
 *     outer_options   IPv4 options or IPv6 extension headers outside
 *     outer_fragment  a fragment outside
 *     unsupported     GRE or GUE of another version, GRE with a checksum, GUE
 *                     with a control message, optional fields or no IP in it
 *     not_vip         what is inside is for no VIP
 *   passed without its tunnel, Ethernet addresses and tag kept
 *     ipip, gre, fou, gue
 *   dropped: from a balancer for a VIP, and not to be trusted with the stack
 *     malformed       the inner packet's lengths contradict each other or those
 *                     of the tunnel
 *     nested          a tunnel in the tunnel
 *     outer_checksum  the outer IPv4 header's is wrong
 *     udp_checksum    the outer UDP header's is wrong, or is right and the inner
 *                     one that it was to follow from is not; zero is none
 *     unverifiable    it has one, and it takes a sum over more octets than
 *                     SUM_MAX, or than are in the frame's first buffer
 *     ce_not_ect      congestion that the inner packet cannot carry on
 *
 * The first of these that fits is the one, in the order of the headers: whose
 * packet it is comes before what is wrong with it. The same two hosts may have
 * other tunnels between them, which send what a balancer never does (ip6tnl's
 * encapsulation limit, fragments, GRE with checksums): theirs is the stack's.
 */
#define BPF_NO_PRESERVE_ACCESS_INDEX
#include <vmlinux-6.18.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "decap.h"

/* Frozen before the program is loaded, so that the verifier folds them. */
const volatile struct xvs_decap_settings settings = {};

/* Everybody's address that matters, with what it is. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2);
	__type(key, __u8[16]);
	__type(value, struct xvs_decap_address);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, XVS_DECAP_REASONS);
	__type(key, __u32);
	__type(value, __u64);
} reasons SEC(".maps");

#include "order.h"
#include "wire.h"
#include "checksum.h"
#include "tag.h"
#include "decap_header.h"
#include "decap_sum.h"
#include "decap_ecn.h"

/* The octets of a frame, of which a program sees those of the first buffer.
 * v5.18: 0165cc817075cf701e4289838f1d925ff1911b3e ("bpf: introduce
 * bpf_xdp_get_buff_len helper")
 */
static __always_inline __u64 frame_length(struct xdp_md *ctx, struct tunnel *t)
{
	if (bpf_core_enum_value_exists(enum bpf_func_id,
				       BPF_FUNC_xdp_get_buff_len))
		return bpf_xdp_get_buff_len(ctx);
	return t->end - (void *)t->eth;
}

/* Puts the Ethernet header in front of the inner packet and cuts off what is
 * before it. That is at least an IPv4 header, so that the two places of the
 * Ethernet header never overlap.
 */
static __always_inline int strip(struct xdp_md *ctx, struct tunnel *t)
{
	__u32 removed = t->offset - sizeof(*t->eth) - t->tag;
	__be16 protocol = bpf_htons(t->inner == 4 ? ETH_P_IP : ETH_P_IPV6);
	struct ethhdr *eth = header_at(t, removed);
	struct tag *tag = tag_of_frame(eth);
	struct tag old = *tag_of_frame(t->eth);

	if ((void *)(eth + 1) + sizeof(*tag) > t->end)
		return XVS_DECAP_MALFORMED;
	__builtin_memcpy(eth->h_dest, t->eth->h_dest, 6);
	__builtin_memcpy(eth->h_source, t->eth->h_source, 6);
	if (t->tag) {
		*tag = old;
		*(__be16 *)(tag + 1) = protocol;
	} else {
		eth->h_proto = protocol;
	}
	if (bpf_xdp_adjust_head(ctx, removed))
		return XVS_DECAP_MALFORMED;
	return t->kind;
}

/* The whole way once for each family, so that neither asks which it is. */
static __always_inline int take_out(struct xdp_md *ctx, struct tunnel *t)
{
	int reason;

	reason = parse_tunnel(t);
	if (reason != CONTINUE)
		return reason;
	reason = t->inner == 4 ? parse_inner4(t) : parse_inner6(ctx, t);
	if (reason != CONTINUE)
		return reason;
	reason = verify_outer(ctx, t);
	if (reason != CONTINUE)
		return reason;
	reason = ecn_propagate(t);
	if (reason != CONTINUE)
		return reason;
	return strip(ctx, t);
}

static __always_inline int process_frame(struct xdp_md *ctx)
{
	struct tunnel t = {};
	__be16 *protocol;
	int reason;

	t.eth = (void *)(long)ctx->data;
	t.end = (void *)(long)ctx->data_end;
	/* What has no room for a tag has none for IP. */
	if ((void *)(t.eth + 1) + sizeof(struct tag) > t.end)
		return XVS_DECAP_NOT_TUNNEL;
	t.tag = tag_length(t.eth);
	t.frame = frame_length(ctx, &t);
	protocol = (void *)t.eth + offsetof(struct ethhdr, h_proto) + t.tag;
	if ((void *)(protocol + 1) > t.end)
		return XVS_DECAP_NOT_TUNNEL;

	switch (*protocol) {
	case bpf_htons(ETH_P_IP):
		t.version = 4;
		reason = parse_outer4(&t, (void *)(protocol + 1));
		return reason == CONTINUE ? take_out(ctx, &t) : reason;
	case bpf_htons(ETH_P_IPV6):
		t.version = 6;
		reason = parse_outer6(ctx, &t, (void *)(protocol + 1));
		return reason == CONTINUE ? take_out(ctx, &t) : reason;
	default:
		return XVS_DECAP_NOT_TUNNEL;
	}
}

SEC("xdp")
int decap(struct xdp_md *ctx)
{
	__u32 reason = process_frame(ctx);
	__u64 *count = bpf_map_lookup_elem(&reasons, &reason);

	if (count)
		(*count)++;
	return reason <= XVS_DECAP_GUE ? XDP_PASS : XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
