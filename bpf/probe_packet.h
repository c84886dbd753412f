/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* A probe's packet, either way: parsed, matched, and written anew. */
#ifndef XVS_PROBE_PACKET_H
#define XVS_PROBE_PACKET_H

#define ICMP_ECHO_REPLY 0
#define ICMP_ECHO 8
#define ICMP6_ECHO 128
#define ICMP6_ECHO_REPLY 129

/* Where a transport's ports and checksum are, and what it is. */
struct ports {
	__be16 *source; /* of an echo its id, twice */
	__be16 *destination;
	__sum16 *check;
	__u32 flags; /* TCP_* */
	bool echo;
	bool pseudo; /* the checksum is over the addresses too */
	__u8 type;   /* of an ICMP message */
};

/* The ticks of now. A CPU that no packet came in on has no clock of its own. */
static __always_inline __u32 probe_now(void)
{
	return bpf_ktime_get_ns() >> XVS_TICK_SHIFT;
}

/* Parses a frame up to the transport header. False if it has none: no IP packet,
 * or a fragment, in which case the addresses are in the key all the same.
 */
static __always_inline bool probe_parse(struct xdp_md *ctx, struct packet *p)
{
	struct ipv6hdr *ip6;
	struct iphdr *ip4;
	__be16 *protocol;
	__u32 header;

	p->eth = (void *)(long)ctx->data;
	p->end = (void *)(long)ctx->data_end;
	if ((void *)(p->eth + 1) + sizeof(struct tag) > p->end)
		return false;
	p->tag = tag_length(p->eth);
	protocol = (void *)p->eth + offsetof(struct ethhdr, h_proto) + p->tag;
	if ((void *)(protocol + 1) > p->end)
		return false;
	p->cpu->more = 0;
	if (*protocol == bpf_htons(ETH_P_IP)) {
		ip4 = (void *)(protocol + 1);
		if ((void *)(ip4 + 1) > p->end)
			return false;
		p->version = 4;
		p->ip4 = ip4;
		p->key.saddr[0] = ip4->saddr;
		p->key.daddr[0] = ip4->daddr;
		header = ip4->ihl * 4;
		p->length = host16(ip4->tot_len);
		if (ip4->version != 4 || header < sizeof(*ip4) ||
		    p->length < header || ip4->frag_off & bpf_htons(0x3fff))
			return false;
		p->protocol = ip4->protocol;
		p->transport = (void *)ip4 + header;
		p->transport_length = p->length - header;
		return true;
	}
	if (*protocol != bpf_htons(ETH_P_IPV6))
		return false;
	ip6 = (void *)(protocol + 1);
	if ((void *)(ip6 + 1) > p->end || ip6->version != 6)
		return false;
	p->version = 6;
	p->ip6 = ip6;
	__builtin_memcpy(p->key.saddr, &ip6->saddr, 16);
	__builtin_memcpy(p->key.daddr, &ip6->daddr, 16);
	p->transport_length = host16(ip6->payload_len);
	p->length = sizeof(*ip6) + p->transport_length;
	p->protocol = ip6->nexthdr;
	p->transport = ip6 + 1;
	return true;
}

/* The ports of a transport header; false if it has none. */
static __always_inline bool find_ports(struct packet *p, struct ports *ports)
{
	struct tcphdr *tcp = p->transport;
	struct udphdr *udp = p->transport;
	struct icmphdr *icmp = p->transport;

	ports->pseudo = true;
	ports->source = &udp->source;
	ports->destination = &udp->dest;
	switch (p->protocol) {
	case IPPROTO_TCP:
		if ((void *)(tcp + 1) > p->end)
			return false;
		ports->check = &tcp->check;
		ports->flags = ((__u8 *)tcp)[13];
		return true;
	case IPPROTO_UDP:
		if ((void *)(udp + 1) > p->end)
			return false;
		ports->check = &udp->check;
		return true;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if ((p->protocol == IPPROTO_ICMP) != (p->version == 4) ||
		    (void *)(icmp + 1) > p->end)
			return false;
		ports->pseudo = p->version == 6;
		ports->check = &icmp->checksum;
		ports->source = &icmp->un.echo.id;
		ports->destination = &icmp->un.echo.id;
		ports->type = icmp->type;
		ports->echo = true;
		return true;
	default:
		return false;
	}
}

/* What a sum changes by when an address does. */
static __always_inline __u64 address_change(const void *old, const void *new,
					    __u32 words)
{
	const __u32 *from = old, *to = new;
	__u64 change = 0;
	__u32 i;

#pragma unroll
	for (i = 0; i < 4; i++) {
		if (i < words)
			change += (__u64)(__u32)~from[i] + to[i];
	}
	return change;
}

static __always_inline __u64 word_change(__u16 old, __u16 new)
{
	return (__u64)(__u16)~old + new;
}

/* A checksum after what it is over has changed (RFC 1624, equation 3). */
static __always_inline __u16 changed_sum(__u16 check, __u64 change)
{
	return fold_sum((__u64)(__u16)~check + change);
}

/* Writes both addresses of the packet, as maps have them: what the sum over them
 * changes by.
 */
static __always_inline __u64 set_addresses(struct packet *p, const __u8 *source,
					   const __u8 *destination)
{
	__u64 change;

	if (p->version == 4) {
		__be32 from = *(const __be32 *)(source + 12);
		__be32 to = *(const __be32 *)(destination + 12);

		change = address_change(&p->ip4->saddr, &from, 1) +
			 address_change(&p->ip4->daddr, &to, 1);
		p->ip4->saddr = from;
		p->ip4->daddr = to;
		p->ip4->check = changed_sum(p->ip4->check, change);
		return change;
	}
	change = address_change(&p->ip6->saddr, source, 4) +
		 address_change(&p->ip6->daddr, destination, 4);
	__builtin_memcpy(&p->ip6->saddr, source, 16);
	__builtin_memcpy(&p->ip6->daddr, destination, 16);
	return change;
}

/* Updates the checksum of a transport header. */
static __always_inline void set_check(struct packet *p, struct ports *ports,
				      __u64 change)
{
	__u16 check = *ports->check;

	/* RFC 768: no checksum at all, which is not to become one. */
	if (p->protocol == IPPROTO_UDP && !check)
		return;
	check = changed_sum(check, change);
	if (p->protocol == IPPROTO_UDP && !check)
		check = 0xffff;
	*ports->check = check;
}

/* The NAT address of a number, and number 0, the host's own. */
static __always_inline void nat_address(struct packet *p, struct xvs_gate *g,
					__u32 number, __u64 *to)
{
	__u64 address[2];

	if (p->version == 4) {
		address[0] = g->nat4 | bpf_htonl(number);
	} else {
		address[0] = g->nat6[0];
		address[1] = (__u32)g->nat6[1] | (__u64)bpf_htonl(number) << 32;
	}
	map_address(p, address, to);
}

/* The ends of a probe. */
#define PROBE_HOST 1
#define PROBE_SERVER 2
#define PROBE_BOTH 3

static __always_inline bool probe_lives(struct xvs_probe *probe, __u32 now)
{
	__u32 limit = probe->closing == PROBE_BOTH ? XVS_TICKS_PROBE_CLOSING :
						     XVS_TICKS_PROBE;

	return (__s32)(now - READ_ONCE(probe->seen)) <= (__s32)limit;
}

/* Takes note of a packet of a probe, from one of its ends. */
static __always_inline void probe_touch(struct xvs_probe *probe, __u32 now,
					__u32 flags, __u8 end)
{
	WRITE_ONCE(probe->seen, now);
	if (flags & TCP_SYN && end == PROBE_HOST)
		probe->closing = 0;
	if (flags & TCP_FIN)
		probe->closing |= end;
	if (flags & TCP_RST)
		probe->closing = PROBE_BOTH;
}

#endif
