/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* ICMP for a VIP: echo requests are answered here, errors go to the server
 * whose packet they quote. Of the rest, only IPv6 neighbour discovery goes to
 * the host.
 */
#ifndef XVS_ICMP_H
#define XVS_ICMP_H

/* Puts the flow whose packet is quoted into the key. */
static __always_inline int parse_quote4(struct packet *p, void *quote,
					__u32 left)
{
	struct iphdr *ip = quote;
	struct udphdr *ports;
	__u32 header;

	if (left < sizeof(*ip) || (void *)(ip + 1) > p->end)
		return XVS_ICMP_UNOWNED;
	header = ip->ihl * 4;
	if (ip->version != 4 || header < sizeof(*ip) || left < header + 4)
		return XVS_ICMP_UNOWNED;
	if (ip->saddr != p->key.daddr[0] || ip->frag_off & bpf_htons(0x1fff) ||
	    (ip->protocol != IPPROTO_TCP && ip->protocol != IPPROTO_UDP))
		return XVS_ICMP_UNOWNED;

	ports = quote + header;
	if ((void *)&ports->len > p->end)
		return XVS_ICMP_UNOWNED;
	p->key.saddr[0] = ip->daddr;
	set_ports(p, ports->dest, ports->source, ip->protocol);
	return CONTINUE;
}

static __always_inline int parse_quote6(struct xdp_md *ctx, struct packet *p,
					void *quote, __u32 left)
{
	struct ipv6hdr *ip = quote;
	struct walk walk = {};
	struct udphdr *ports;
	const __u64 *address;

	if (left < sizeof(*ip) || (void *)(ip + 1) > p->end)
		return XVS_ICMP_UNOWNED;
	address = (const __u64 *)&ip->saddr;
	if (ip->version != 6 || address[0] != p->key.daddr[0] ||
	    address[1] != p->key.daddr[1])
		return XVS_ICMP_UNOWNED;

	walk.offset = p->offset + sizeof(struct icmp6hdr) + sizeof(*ip);
	walk.left = left - sizeof(*ip);
	walk.next = ip->nexthdr;
	if (walk_extensions(ctx, &walk))
		return XVS_ICMP_UNOWNED;
	if (walk.offset > OFFSET_MAX || walk.left < 4 || walk.later ||
	    (walk.next != IPPROTO_TCP && walk.next != IPPROTO_UDP))
		return XVS_ICMP_UNOWNED;

	ports = header_at(p, walk.offset);
	if ((void *)&ports->len > p->end)
		return XVS_ICMP_UNOWNED;
	address = (const __u64 *)&ip->daddr;
	p->key.saddr[0] = address[0];
	p->key.saddr[1] = address[1];
	set_ports(p, ports->dest, ports->source, walk.next);
	return CONTINUE;
}

/* To the flow's destination, or to the one that the hash has for it. Flows
 * are neither stored nor refreshed: anybody can send an error.
 */
static __always_inline int forward_error(struct xdp_md *ctx, struct packet *p)
{
	void *quote = p->transport + sizeof(struct icmphdr);
	__u32 left = p->transport_length - sizeof(struct icmphdr);
	struct xvs_destination *d;
	struct flow flow = {};
	int reason;

	reason = p->version == 4 ? parse_quote4(p, quote, left) :
				   parse_quote6(ctx, p, quote, left);
	if (reason != CONTINUE)
		return reason;

	p->service = service_find(p);
	if (!p->service)
		return XVS_NO_SERVICE;
	if (packet_ttl(p) <= 1)
		return XVS_TTL_EXPIRED;
	d = flow_find(p, &flow);
	if (!d)
		d = choose(p, &flow);
	if (!d)
		return XVS_NO_DESTINATION;
	p->destination = d;
	return XVS_FORWARDED_ICMP;
}

static __always_inline int handle_icmp(struct xdp_md *ctx, struct packet *p)
{
	struct icmphdr *icmp = p->transport;

	/* Here packets are answered, so a bit of the filter is not enough. */
	if (!vip_find(p))
		return XVS_NOT_VIP;
	if (p->transport_length < sizeof(*icmp) || (void *)(icmp + 1) > p->end)
		return XVS_MALFORMED;

	if (p->version == 4) {
		switch (icmp->type) {
		case 8: /* echo request */
			break;
		case 3:	 /* destination unreachable */
		case 11: /* time exceeded */
		case 12: /* parameter problem */
			return forward_error(ctx, p);
		default:
			return XVS_ICMP_UNSUPPORTED;
		}
	} else {
		switch (icmp->type) {
		case 128: /* echo request */
			break;
		case 1 ... 127: /* RFC 4443, section 2.1: errors */
			return forward_error(ctx, p);
		case 133 ... 137: /* RFC 4861 */
			return XVS_NEIGHBOUR_DISCOVERY;
		default:
			return XVS_ICMP_UNSUPPORTED;
		}
	}
	if (p->cpu->more)
		return XVS_ICMP_UNSUPPORTED;
	return reply_echo(p);
}

#endif
