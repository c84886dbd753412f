/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* NAT addresses: what a packet that is for no VIP may have to do with probes. */
#ifndef XVS_NAT_H
#define XVS_NAT_H

/* No verdict: another program gives it. */
#define VERDICT_LEFT (-1)

static __always_inline bool is_nat4(struct xvs_gate *g, __be32 address)
{
	return g->nat4_mask && (address & g->nat4_mask) == g->nat4;
}

static __always_inline bool is_nat6(struct xvs_gate *g, const __u64 *address)
{
	return g->nat4_mask && address[0] == g->nat6[0] &&
	       (__u32)address[1] == (__u32)g->nat6[1];
}

/* Whether the packet may answer a probe, or is for a NAT address: it comes from a
 * VIP, as far as the filter tells, or is ICMP, which anybody may send about a
 * packet.
 */
static __always_inline bool nat_concerns(struct xdp_md *ctx, struct xvs_gate *g,
					 struct packet *p)
{
	/* The verifier does not know that nothing was changed. */
	void *at = (void *)(long)ctx->data + sizeof(struct ethhdr) + p->tag;
	void *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip6 = at;
	struct iphdr *ip4 = at;
	const __u64 *address;
	__u64 folded;

	if (p->version == 4) {
		if ((void *)(ip4 + 1) > end)
			return false;
		return ip4->protocol == IPPROTO_ICMP ||
		       gate_has(g, ip4->saddr) || is_nat4(g, p->key.daddr[0]);
	}
	if ((void *)(ip6 + 1) > end)
		return false;
	address = (const __u64 *)&ip6->saddr;
	folded = address[0] ^ address[1];
	return ip6->nexthdr == IPPROTO_ICMPV6 ||
	       gate_has(g, folded ^ folded >> 32) || is_nat6(g, p->key.daddr);
}

/* Whether a packet that is for no VIP is left to the program for answers. */
static __always_inline bool is_for_answers(struct xdp_md *ctx, struct packet *p)
{
	struct xvs_gate *g;
	__u32 zero = 0;

	g = bpf_map_lookup_elem(&gate, &zero);
	return g && g->nat4_mask && nat_concerns(ctx, g, p);
}

#endif
