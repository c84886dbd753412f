/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The headers of a packet in a tunnel, from the outside in. Each step takes the
 * struct that the ones before it have filled.
 */
#ifndef XVS_DECAP_HEADER_H
#define XVS_DECAP_HEADER_H

/* A packet with more extension headers than this is not of our tunnels. */
#define EXTENSIONS_MAX 4

/* RFC 2784, section 2.1, and RFC 2890, section 2. Bits 6 to 12 are to be
 * ignored, as is what is behind them.
 */
#define GRE_KEY 0x2000
#define GRE_SEQUENCE 0x1000
#define GRE_UNSUPPORTED 0xcc07 /* checksum, RFC 1701's routing, version */

/* In whole words: so the verifier of every kernel remembers what it has seen of
 * each, v5.16: 354e8f1970f8 ("bpf: Support <8-byte scalar spill and refill").
 */
struct tunnel {
	struct ethhdr *eth;
	void *end;   /* of the frame's first buffer */
	__u64 tag;   /* octets of the tag: 4, or 0 without one */
	__u64 frame; /* octets of the frame, in all its buffers */
	__u64 kind;  /* the reason that is counted if nothing is wrong */

	/* The outer packet. */
	__u64 version; /* 4 or 6 */
	union {
		struct iphdr *ip4;
		struct ipv6hdr *ip6;
	};
	__u64 offset; /* of the next header in the frame */
	__u64 left;   /* octets of the packet from there on */
	__u64 length; /* octets of the packet in all */
	__u64 ecn;
	__u64 options;	/* not 0: there are IPv4 options or their like */
	__u64 fragment; /* not 0: it is one */
	struct udphdr *udp;
	__u64 udp_sum; /* of what its checksum covers up to the inner packet */

	/* The inner one begins at the offset. */
	__u64 inner; /* its version, 4 or 6 */
	__u64 inner_length;
};

/* Where a walk over IPv6 extension headers stands. */
struct chain {
	__u32 offset; /* of the next header in the frame */
	__u32 left;   /* octets of the packet from there on */
	__u32 next;   /* protocol of the next header */
	__u32 options;
	__u32 fragment;
	__u32 later; /* not 0: a fragment, but not the first */
};

/* The header at an offset of at most OFFSET_MAX. The verifier may have seen
 * that of another copy of the number.
 */
static __always_inline void *header_at(struct tunnel *t, __u64 offset)
{
	asm volatile("%0 &= 0x7fff" : "+r"(offset));
	return (void *)t->eth + offset;
}

/* What an address is, by its 16 octets. */
static __always_inline __u32 roles_of(const __u64 *address)
{
	struct xvs_decap_address *found;

	found = bpf_map_lookup_elem(&addresses, address);
	return found ? found->roles : 0;
}

static __always_inline __u32 roles_of4(__be32 address)
{
	__u64 mapped[2] = { 0, bpf_htonl(0xffff) | (__u64)address << 32 };

	return roles_of(mapped);
}

/* Nobody has an address in IPv6 that stands for one of IPv4. */
static __always_inline __u32 roles_of6(const struct in6_addr *address)
{
	/* In words, which are not aligned: the verifier allows that where the
	 * machine does.
	 */
	const __u64 *words = (const __u64 *)address;
	__u64 copy[2] = { words[0], words[1] };

	if (!copy[0] && (__u32)copy[1] == bpf_htonl(0xffff))
		return 0;
	return roles_of(copy);
}

static __always_inline bool is_extension(__u32 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING ||
	       next == IPPROTO_DSTOPTS || next == IPPROTO_FRAGMENT;
}

/* Walks over IPv6 extension headers to what comes after them, or to a later
 * fragment's payload. 0, or -1 when they are cut short or too many.
 */
static __noinline int walk_chain(struct xdp_md *ctx, struct chain *chain)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	int i;

	/* Unrolled, as compilers like to let a loop's end fall through to its
	 * start. v6.7: 10e14e9652bf9e8104151bfd9200433083deae3d ("bpf: fix
	 * control-flow graph checking in privileged mode") takes that.
	 */
#pragma unroll
	for (i = 0; i < EXTENSIONS_MAX; i++) {
		__u32 offset = chain->offset;
		__u32 length = 8;
		__u8 *header;

		if (!is_extension(chain->next))
			return 0;
		if (chain->left < 8 || offset > OFFSET_MAX)
			return -1;
		header = data + offset;
		if ((void *)(header + 8) > end)
			return -1;
		if (chain->next == IPPROTO_FRAGMENT) {
			__u16 where = bpf_ntohs(*(__be16 *)(header + 2));

			chain->fragment = 1;
			chain->later = where & 0xfff8;
		} else {
			chain->options = 1;
			length += (__u32)header[1] * 8;
		}
		if (length > chain->left)
			return -1;
		chain->next = header[0];
		chain->offset = offset + length;
		chain->left -= length;
		if (chain->later)
			return 0;
	}
	return is_extension(chain->next) ? -1 : 0;
}

static __always_inline bool is_tunnel_port(__be16 port)
{
	return (settings.fou && port == settings.fou) ||
	       (settings.gue && port == settings.gue);
}

/* Which tunnel the outer packet looks like, 0 if none. Ports are known of
 * packets in one piece and of first fragments.
 */
static __always_inline __u64 tunnel_kind(struct tunnel *t, __u32 protocol,
					 __u32 later)
{
	struct udphdr *udp;

	switch (protocol) {
	case IPPROTO_IPIP:
		t->inner = 4;
		return XVS_DECAP_IPIP;
	case IPPROTO_IPV6:
		t->inner = 6;
		return XVS_DECAP_IPIP;
	case IPPROTO_GRE:
		return XVS_DECAP_GRE;
	case IPPROTO_UDP:
		break;
	default:
		return 0;
	}
	if (later || t->left < sizeof(*udp))
		return 0;
	udp = header_at(t, t->offset);
	if ((void *)(udp + 1) > t->end || !is_tunnel_port(udp->dest))
		return 0;
	t->udp = udp;
	return udp->dest == settings.fou ? XVS_DECAP_FOU : XVS_DECAP_GUE;
}

/* Nothing but its protocol is looked at before it is known whose the packet
 * is: what is wrong with others' packets is the stack's business.
 */
static __always_inline int parse_outer4(struct tunnel *t, struct iphdr *ip)
{
	__u32 header, where;

	if ((void *)(ip + 1) > t->end)
		return XVS_DECAP_NOT_TUNNEL;
	header = ip->ihl * 4;
	where = host16(ip->frag_off) & 0x3fff;
	t->length = host16(ip->tot_len);
	t->left = t->length < header ? 0 : t->length - header;
	t->offset = sizeof(*t->eth) + t->tag + header;
	t->ip4 = ip;
	t->kind = tunnel_kind(t, ip->protocol, where & 0x1fff);
	if (!t->kind)
		return XVS_DECAP_NOT_TUNNEL;

	if (!(roles_of4(ip->saddr) & XVS_DECAP_BALANCER))
		return XVS_DECAP_FOREIGN_SOURCE;
	if (!(roles_of4(ip->daddr) & XVS_DECAP_LOCAL))
		return XVS_DECAP_NOT_LOCAL;
	if (ip->version != 4 || header < sizeof(*ip) || t->length < header)
		return XVS_DECAP_OUTER_MALFORMED;
	t->options = header - sizeof(*ip);
	t->fragment = where;
	t->ecn = ip->tos & 3;
	return CONTINUE;
}

static __always_inline int parse_outer6(struct xdp_md *ctx, struct tunnel *t,
					struct ipv6hdr *ip)
{
	struct chain chain = {};

	if ((void *)(ip + 1) > t->end)
		return XVS_DECAP_NOT_TUNNEL;
	chain.offset = sizeof(*t->eth) + t->tag + sizeof(*ip);
	chain.left = host16(ip->payload_len);
	chain.next = ip->nexthdr;
	t->length = sizeof(*ip) + chain.left;
	if (is_extension(chain.next) && walk_chain(ctx, &chain))
		return XVS_DECAP_NOT_TUNNEL;
	t->offset = chain.offset;
	t->left = chain.left;
	t->ip6 = ip;
	if (t->offset > OFFSET_MAX)
		return XVS_DECAP_NOT_TUNNEL;
	t->kind = tunnel_kind(t, chain.next, chain.later);
	if (!t->kind)
		return XVS_DECAP_NOT_TUNNEL;

	if (!(roles_of6(&ip->saddr) & XVS_DECAP_BALANCER))
		return XVS_DECAP_FOREIGN_SOURCE;
	if (!(roles_of6(&ip->daddr) & XVS_DECAP_LOCAL))
		return XVS_DECAP_NOT_LOCAL;
	if (ip->version != 6)
		return XVS_DECAP_OUTER_MALFORMED;
	t->options = chain.options;
	t->fragment = chain.fragment;
	t->ecn = ((__u8 *)ip)[1] >> 4 & 3;
	return CONTINUE;
}

/* Steps over octets of the outer packet. */
static __always_inline int step(struct tunnel *t, __u64 octets)
{
	if (t->left < octets)
		return XVS_DECAP_OUTER_MALFORMED;
	t->offset += octets;
	t->left -= octets;
	return CONTINUE;
}

static __always_inline int parse_gre(struct tunnel *t)
{
	struct gre *gre = header_at(t, t->offset);
	__u32 flags;

	if (t->left < sizeof(*gre) || (void *)(gre + 1) > t->end)
		return XVS_DECAP_OUTER_MALFORMED;
	switch (gre->protocol) {
	case bpf_htons(ETH_P_IP):
		t->inner = 4;
		break;
	case bpf_htons(ETH_P_IPV6):
		t->inner = 6;
		break;
	default:
		/* Such as Ethernet: another tunnel between the same hosts. */
		return XVS_DECAP_NOT_TUNNEL;
	}
	flags = host16(gre->flags);
	if (flags & GRE_UNSUPPORTED)
		return XVS_DECAP_UNSUPPORTED;
	return step(t, sizeof(*gre) + !!(flags & GRE_KEY) * 4 +
			       !!(flags & GRE_SEQUENCE) * 4);
}

/* The first half of an octet tells the version of what FOU carries. */
static __always_inline int parse_fou(struct tunnel *t)
{
	__u8 *first = header_at(t, t->offset);

	if (!t->left || (void *)(first + 1) > t->end)
		return XVS_DECAP_OUTER_MALFORMED;
	t->inner = *first >> 4;
	return t->inner == 4 || t->inner == 6 ? CONTINUE :
						XVS_DECAP_OUTER_MALFORMED;
}

static __always_inline int parse_gue(struct tunnel *t)
{
	struct gue *gue = header_at(t, t->offset);

	if (t->left < sizeof(*gue) || (void *)(gue + 1) > t->end)
		return XVS_DECAP_OUTER_MALFORMED;
	if (gue->form != GUE_PLAIN || gue->flags)
		return XVS_DECAP_UNSUPPORTED;
	switch (gue->protocol) {
	case IPPROTO_IPIP:
		t->inner = 4;
		break;
	case IPPROTO_IPV6:
		t->inner = 6;
		break;
	default:
		return XVS_DECAP_UNSUPPORTED;
	}
	t->udp_sum += *(__u32 *)gue;
	return step(t, sizeof(*gue));
}

static __always_inline int parse_udp(struct tunnel *t)
{
	struct udphdr *udp = header_at(t, t->offset);
	__u32 *words = (void *)udp;

	if (t->left < sizeof(*udp) || (void *)(udp + 1) > t->end)
		return XVS_DECAP_OUTER_MALFORMED;
	if (host16(udp->len) != t->left)
		return XVS_DECAP_OUTER_MALFORMED;
	t->udp = udp;
	t->udp_sum = (__u64)words[0] + words[1];
	t->offset += sizeof(*udp);
	t->left -= sizeof(*udp);
	return t->kind == XVS_DECAP_FOU ? parse_fou(t) : parse_gue(t);
}

/* What is between the outer IP header and the inner one. Whatever is wrong there,
 * it is not known yet that the packet is for a VIP, so that it is left as it is.
 */
static __always_inline int parse_tunnel(struct tunnel *t)
{
	if (sizeof(*t->eth) + t->tag + t->length > t->frame)
		return XVS_DECAP_OUTER_MALFORMED;
	if (t->options)
		return XVS_DECAP_OUTER_OPTIONS;
	if (t->fragment)
		return XVS_DECAP_OUTER_FRAGMENT;
	switch (t->kind) {
	case XVS_DECAP_IPIP:
		return CONTINUE;
	case XVS_DECAP_GRE:
		return parse_gre(t);
	default:
		return parse_udp(t);
	}
}

/* Whether the inner packet is of a tunnel again, as far as can be told. */
static __always_inline bool is_nested(struct tunnel *t, __u32 protocol,
				      __u32 offset, __u32 left, __u32 later)
{
	struct udphdr *udp;

	if (protocol == IPPROTO_IPIP || protocol == IPPROTO_IPV6 ||
	    protocol == IPPROTO_GRE)
		return true;
	if (protocol != IPPROTO_UDP || later || left < sizeof(*udp) ||
	    offset > OFFSET_MAX)
		return false;
	udp = header_at(t, offset);
	return (void *)(udp + 1) <= t->end && is_tunnel_port(udp->dest);
}

static __always_inline int parse_inner4(struct tunnel *t)
{
	struct iphdr *ip = header_at(t, t->offset);
	__u32 header;

	if (t->left < sizeof(*ip) || (void *)(ip + 1) > t->end ||
	    ip->version != 4)
		return XVS_DECAP_OUTER_MALFORMED;
	if (!(roles_of4(ip->daddr) & XVS_DECAP_VIP))
		return XVS_DECAP_NOT_VIP;
	header = ip->ihl * 4;
	t->inner_length = host16(ip->tot_len);
	if (header < sizeof(*ip) || t->inner_length < header ||
	    t->inner_length > t->left)
		return XVS_DECAP_MALFORMED;
	if (is_nested(t, ip->protocol, t->offset + header,
		      t->inner_length - header, host16(ip->frag_off) & 0x1fff))
		return XVS_DECAP_NESTED;
	return CONTINUE;
}

static __always_inline int parse_inner6(struct xdp_md *ctx, struct tunnel *t)
{
	struct ipv6hdr *ip = header_at(t, t->offset);
	struct chain chain = {};

	if (t->left < sizeof(*ip) || (void *)(ip + 1) > t->end ||
	    ip->version != 6)
		return XVS_DECAP_OUTER_MALFORMED;
	if (!(roles_of6(&ip->daddr) & XVS_DECAP_VIP))
		return XVS_DECAP_NOT_VIP;
	chain.offset = t->offset + sizeof(*ip);
	chain.left = host16(ip->payload_len);
	chain.next = ip->nexthdr;
	t->inner_length = sizeof(*ip) + chain.left;
	if (t->inner_length > t->left)
		return XVS_DECAP_MALFORMED;
	/* What has more headers than are walked is the stack's business. */
	if (is_extension(chain.next) && walk_chain(ctx, &chain))
		return CONTINUE;
	if (is_nested(t, chain.next, chain.offset, chain.left, chain.later))
		return XVS_DECAP_NESTED;
	return CONTINUE;
}

#endif
