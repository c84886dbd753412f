/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* From a server, or a router on the way there, to the host. */
#ifndef XVS_PROBE_ANSWER_H
#define XVS_PROBE_ANSWER_H

/* The packet that an ICMP error quotes. */
struct quote {
	struct iphdr *ip4;
	struct ipv6hdr *ip6;
	__be16 *source;
};

static __always_inline bool is_error(struct packet *p, __u8 type)
{
	/* Unreachable, time exceeded, parameter problem; RFC 4443, section 2.1. */
	return p->version == 4 ? type == 3 || type == 11 || type == 12 :
				 type > 0 && type < 128;
}

/* The probe whose packet is quoted, into the key; false if it is none of ours. */
static __always_inline bool parse_probe_quote(struct packet *p, struct quote *q,
					      struct xvs_probe_key *key)
{
	void *at = p->transport + sizeof(struct icmphdr);
	struct ipv6hdr *ip6 = at;
	struct iphdr *ip4 = at;
	__u64 saddr[2] = {}, daddr[2] = {};
	struct icmphdr *icmp;
	struct udphdr *udp;
	__u32 header;

	if (p->version == 4) {
		if ((void *)(ip4 + 1) > p->end)
			return false;
		header = ip4->ihl * 4;
		if (ip4->version != 4 || header < sizeof(*ip4) ||
		    ip4->frag_off & bpf_htons(0x1fff))
			return false;
		q->ip4 = ip4;
		saddr[0] = ip4->saddr;
		daddr[0] = ip4->daddr;
		key->protocol = ip4->protocol;
		at += header;
	} else {
		if ((void *)(ip6 + 1) > p->end || ip6->version != 6)
			return false;
		q->ip6 = ip6;
		__builtin_memcpy(saddr, &ip6->saddr, 16);
		__builtin_memcpy(daddr, &ip6->daddr, 16);
		key->protocol = ip6->nexthdr;
		at += sizeof(*ip6);
	}
	if (saddr[0] != p->key.daddr[0] || saddr[1] != p->key.daddr[1])
		return false;
	map_address(p, saddr, (__u64 *)key->source);
	map_address(p, daddr, (__u64 *)key->vip);

	udp = at;
	icmp = at;
	if ((void *)(udp + 1) > p->end)
		return false;
	switch (key->protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
		key->port = udp->dest;
		q->source = &udp->source;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		q->source = &icmp->un.echo.id;
		break;
	default:
		return false;
	}
	key->translated = *q->source;
	return true;
}

/* Writes the quoted packet as the host had sent it: what the sum over the ICMP
 * message changes by. The quoted checksum of the transport stays what the server
 * was sent.
 */
static __always_inline __u64 translate_quote(struct packet *p, struct quote *q,
					     const __u8 *host, const __u8 *nat,
					     __be16 port)
{
	__u64 change, addresses;
	__u16 check;

	if (p->version == 4) {
		__be32 from = *(const __be32 *)(host + 12);
		__be32 to = *(const __be32 *)(nat + 12);

		addresses = address_change(&q->ip4->saddr, &from, 1) +
			    address_change(&q->ip4->daddr, &to, 1);
		q->ip4->saddr = from;
		q->ip4->daddr = to;
		check = q->ip4->check;
		q->ip4->check = changed_sum(check, addresses);
		change = addresses + word_change(check, q->ip4->check);
	} else {
		change = address_change(&q->ip6->saddr, host, 4) +
			 address_change(&q->ip6->daddr, nat, 4);
		__builtin_memcpy(&q->ip6->saddr, host, 16);
		__builtin_memcpy(&q->ip6->daddr, nat, 16);
	}
	change += word_change(*q->source, port);
	*q->source = port;
	return change;
}

/* Whether the packet came in where answers to the probes are to. */
static __always_inline bool came_right(struct xdp_md *ctx, struct packet *p,
				       struct xvs_nat *nat)
{
	__u32 device = ctx->ingress_ifindex;
	__u32 *port;

	port = bpf_map_lookup_elem(&port_devices, &device);
	return port && *port == nat->port &&
	       tag_vlan(p->eth, p->tag) == host16(nat->vlan);
}

/* Sends the frame into the host's stack, by the probe interface. */
static __always_inline int hand_over(struct xdp_md *ctx, struct packet *p)
{
	struct xvs_probe_link *link;
	union mac host, own;
	__u32 zero = 0;

	link = bpf_map_lookup_elem(&probe_link, &zero);
	if (!link || !link->ifindex)
		return XVS_PROBE_REFUSED;
	host.word = READ_ONCE(*(__u64 *)link->host_mac);
	own.word = READ_ONCE(*(__u64 *)link->mac);
	p->verdict = bpf_redirect(link->ifindex, 0);
	if (!p->tag) {
		set_macs(p->eth, &host, &own);
		return XVS_PROBE_ANSWERED;
	}
	/* What followed the tag now follows the addresses. */
	set_macs((void *)p->eth + sizeof(struct tag), &host, &own);
	if (bpf_xdp_adjust_head(ctx, sizeof(struct tag)))
		return XVS_NO_HEADROOM;
	return XVS_PROBE_ANSWERED;
}

static __always_inline int answer(struct xdp_md *ctx, struct packet *p)
{
	struct xvs_probe_key key __attribute__((aligned(8))) = {};
	__u64 host[2], address[2], change, quoted = 0;
	struct ports ports = {};
	struct quote q = {};
	struct xvs_probe *probe;
	bool parsed, error;
	struct xvs_gate *g;
	struct xvs_nat *nat;
	__u32 number, zero = 0, now;

	g = bpf_map_lookup_elem(&gate, &zero);
	parsed = probe_parse(ctx, p);
	if (!g || !p->version || !gate_admits(g, ctx, p))
		return XVS_NOT_VIP;
	if (p->version == 4 ? is_nat4(g, p->key.daddr[0]) :
			      is_nat6(g, p->key.daddr))
		return XVS_NAT_FROM_WIRE;
	if (!parsed || !find_ports(p, &ports))
		return XVS_NOT_VIP;

	error = ports.echo && is_error(p, ports.type);
	if (error) {
		if (!parse_probe_quote(p, &q, &key))
			return XVS_NOT_VIP;
	} else {
		if (ports.echo &&
		    ports.type != (p->version == 4 ? ICMP_ECHO_REPLY :
						     ICMP6_ECHO_REPLY))
			return XVS_NOT_VIP;
		map_address(p, p->key.saddr, (__u64 *)key.vip);
		map_address(p, p->key.daddr, (__u64 *)key.source);
		key.port = ports.echo ? 0 : *ports.source;
		key.translated = *ports.destination;
		key.protocol = p->protocol;
	}
	probe = bpf_map_lookup_elem(&probes, &key);
	now = probe_now();
	if (!probe || !probe_lives(probe, now))
		return XVS_NOT_VIP;
	number = probe->nat;
	nat = bpf_map_lookup_elem(&nats, &number);
	if (!nat || !nat->slot)
		return XVS_NOT_VIP;
	if (!came_right(ctx, p, nat))
		return XVS_PROBE_REFUSED;

	nat_address(p, g, 0, host);
	nat_address(p, g, number, address);
	if (error) {
		quoted = translate_quote(p, &q, (__u8 *)host, (__u8 *)address,
					 probe->port);
	} else {
		probe_touch(probe, now, ports.flags, PROBE_SERVER);
		quoted = word_change(*ports.destination, probe->port);
		*ports.destination = probe->port;
	}
	change = set_addresses(p, (__u8 *)address, (__u8 *)host);
	set_check(p, &ports, ports.pseudo ? change + quoted : quoted);
	return hand_over(ctx, p);
}

#endif
