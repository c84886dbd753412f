/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* From the host to a server. */
#ifndef XVS_PROBE_REQUEST_H
#define XVS_PROBE_REQUEST_H

/* So many ports are tried: of a VIP's port that half of all ports are taken of, one
 * of 65,536 probes finds none.
 */
#define PORT_TRIES 16

/* The number of the packet's NAT address, 0 if it is for none. */
static __always_inline __u32 nat_number(struct xvs_gate *g, struct packet *p)
{
	if (p->version == 4)
		return is_nat4(g, p->key.daddr[0]) ?
			       bpf_ntohl(p->key.daddr[0] & ~g->nat4_mask) :
			       0;
	return is_nat6(g, p->key.daddr) ? bpf_ntohl(p->key.daddr[1] >> 32) : 0;
}

/* Whether the packet is from the host's own address there. The kernel forwards none
 * that has it as its source in IPv4, and one with a hop limit below 255 in IPv6.
 */
static __always_inline bool is_from_host(struct xvs_gate *g, struct packet *p)
{
	if (p->version == 4)
		return (__be32)p->key.saddr[0] == g->nat4;
	return p->ip6->hop_limit == 255 && p->key.saddr[0] == g->nat6[0] &&
	       p->key.saddr[1] == g->nat6[1];
}

/* What a probe arrives with: a server that has the VIP somewhere behind it can pass
 * it on, once. One that has not, and routes it back to a balancer, gets it nowhere:
 * that forwards nothing with 1. It would answer an echo.
 */
#define PROBE_TTL 2
#define PROBE_ECHO_TTL 1

static __always_inline void set_ttl(struct packet *p, __u8 ttl)
{
	if (p->version == 4) {
		p->ip4->check = update_sum(p->ip4->check,
					   bpf_htons(p->ip4->ttl << 8),
					   bpf_htons(ttl << 8));
		p->ip4->ttl = ttl;
	} else {
		p->ip6->hop_limit = ttl;
	}
}

/* Whether there is an address to send from. */
static __always_inline bool has_source(struct xvs_nat *nat)
{
	const __u64 *source = (const __u64 *)nat->source;

	return source[0] | source[1];
}

/* The port that a probe is sent from, 0 if there is none left. All but the port is in
 * the key.
 */
static __always_inline __be16 probe_port(struct xvs_probe_flow *flow,
					 struct xvs_probe_key *key, __u32 flags)
{
	__u32 now = probe_now();
	struct xvs_probe fresh = {
		.nat = flow->nat,
		.seen = now,
		.port = flow->source,
	};
	struct xvs_probe *probe;
	__u32 *known, port;
	int i;

	known = bpf_map_lookup_elem(&probe_flows, flow);
	if (known) {
		key->translated = *known;
		probe = bpf_map_lookup_elem(&probes, key);
		if (probe && probe->nat == flow->nat &&
		    probe->port == flow->source) {
			probe_touch(probe, now, flags, PROBE_HOST);
			return key->translated;
		}
	}
#pragma unroll
	for (i = 0; i < PORT_TRIES; i++) {
		port = (__u64)bpf_get_prandom_u32() * XVS_PROBE_PORTS >> 32;
		key->translated = bpf_htons(XVS_PROBE_PORT + port);
		probe = bpf_map_lookup_elem(&probes, key);
		if (probe && probe_lives(probe, now))
			continue;
		if (probe)
			bpf_map_delete_elem(&probes, key);
		/* Another CPU may have been faster. */
		if (bpf_map_update_elem(&probes, key, &fresh, BPF_NOEXIST))
			continue;
		port = key->translated;
		bpf_map_update_elem(&probe_flows, flow, &port, BPF_ANY);
		return port;
	}
	return 0;
}

/* Tells the host how large a probe's packet may be. */
static __always_inline int request_too_big(struct xdp_md *ctx, struct packet *p,
					   __u32 mtu)
{
	if (p->length < (p->version == 4 ? QUOTE4 : QUOTE6))
		return XVS_TOO_BIG_LIMITED;
	if (p->version == 4 ? error_too_big4(ctx, mtu) :
			      error_too_big6(ctx, mtu))
		return XVS_TOO_BIG_LIMITED;
	return XVS_TOO_BIG_REPLIED;
}

/* The way that the packet will leave by: its interface, and above it the longest
 * packet.
 */
static __always_inline __u64 request_way(struct packet *p)
{
	struct xvs_tunnel *t;

	if (!READ_ONCE(p->destination->overhead))
		return READ_ONCE(*(__u64 *)&p->destination->way.ifindex);
	t = tunnel_find(p->slot, tunnel_hash(p));
	return t ? READ_ONCE(*(__u64 *)&t->way.ifindex) : 0;
}

/* The reason that the packet ends with, or CONTINUE if it is no probe. */
static __always_inline int request(struct xdp_md *ctx, struct packet *p)
{
	struct xvs_probe_key key __attribute__((aligned(8))) = {};
	struct xvs_probe_flow flow = {};
	struct ports ports = {};
	struct xvs_gate *g;
	struct xvs_nat *nat;
	__u32 zero = 0;
	bool parsed;
	__be16 port;
	__u64 change, way;

	g = bpf_map_lookup_elem(&gate, &zero);
	parsed = probe_parse(ctx, p);
	if (!g || !p->version || p->tag)
		return CONTINUE;
	flow.nat = nat_number(g, p);
	if (!flow.nat)
		return CONTINUE;
	if (!parsed || (void *)(p->eth + 1) + p->length > p->end ||
	    !is_from_host(g, p) || !find_ports(p, &ports))
		return XVS_PROBE_REFUSED;
	if (ports.echo &&
	    ports.type != (p->version == 4 ? ICMP_ECHO : ICMP6_ECHO))
		return XVS_PROBE_REFUSED;
	nat = bpf_map_lookup_elem(&nats, &flow.nat);
	if (!nat || !nat->slot)
		return XVS_PROBE_REFUSED;
	p->destination = slot_owner(p, nat->slot);
	if (!p->destination || !p->owner)
		return XVS_PROBE_REFUSED;

	flow.source = *ports.source;
	flow.port = ports.echo ? 0 : *ports.destination;
	flow.protocol = p->protocol;
	/* Probes take all of a tunnel's ways by turns. */
	p->hash =
		(flow.source | (__u64)flow.port << 16 | (__u64)flow.nat << 32) *
		0x9e3779b97f4a7c15ULL;
	way = request_way(p);
	if (!(__u32)way || !has_source(nat))
		return XVS_NO_DESTINATION;
	if (p->length > way >> 32)
		return request_too_big(ctx, p, way >> 32);

	__builtin_memcpy(key.vip, p->destination->address, 16);
	__builtin_memcpy(key.source, nat->source, 16);
	key.port = flow.port;
	key.protocol = flow.protocol;
	port = probe_port(&flow, &key, ports.flags);
	if (!port)
		return XVS_PROBE_REFUSED;

	change = set_addresses(p, key.source, key.vip);
	if (!ports.pseudo)
		change = 0;
	change += word_change(flow.source, port);
	*ports.source = port;
	set_check(p, &ports, change);
	/* One is taken off when it is forwarded. */
	set_ttl(p, (ports.echo ? PROBE_ECHO_TTL : PROBE_TTL) + 1);
	return forward(ctx, p, XVS_PROBE_FORWARDED);
}

#endif
