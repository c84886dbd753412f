/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Tunnels: what is put in front of a packet for a server that is somewhere else.
 *
 * The outer header has a TTL of 64, the packet's DSCP, its ECN field (RFC 6040,
 * section 4.1), and must not be fragmented. The UDP source port and the IPv6
 * flow label follow from the flow, so that whatever spreads packets on their way
 * keeps those of one flow together (RFC 8086, section 3.2; RFC 6438).
 */
#ifndef XVS_TUNNEL_H
#define XVS_TUNNEL_H

#define TUNNEL_TTL 64

/* UDP source ports are from here on (RFC 6335, section 6). */
#define ENTROPY_PORT 0xc000
#define ENTROPY_PORT_BITS 0x3fff

static __always_inline bool tunnel_is_v6(struct xvs_tunnel *t)
{
	return READ_ONCE(t->flags) & XVS_TUNNEL_V6;
}

/* What spreads packets over ways: the hash of their flow, but for fragments that
 * of their addresses, which all of them have.
 */
static __always_inline __u64 tunnel_hash(struct packet *p)
{
	if (!p->later && !p->cpu->more)
		return p->hash;
	return (p->key.saddr[0] ^ p->key.saddr[1] ^ settings.flow_k0) *
	       settings.flow_k1;
}

_Static_assert(XVS_PATHS == 1 << 2, "as many as two bits of a hash");

/* The way of a packet through the tunnel of a slot's destination. */
static __always_inline struct xvs_tunnel *tunnel_find(__u32 slot, __u64 hash)
{
	__u32 index = slot * XVS_PATHS + (hash >> 62);

	return bpf_map_lookup_elem(&tunnels, &index);
}

/* Cuts off what follows the packet: padding, or what a driver takes for a part of
 * the frame. Of a frame in several buffers none is given back here, for some
 * drivers' are freed by wrong rules (bpf/reply.h).
 */
static __always_inline int inner_trim(struct xdp_md *ctx, __u32 whole)
{
	__u32 length = ctx->data_end - ctx->data;

	if (settings.frags) {
		__u32 all = bpf_xdp_get_buff_len(ctx);

		if (all != length)
			return all == whole ? 0 : -1;
	}
	return length > whole ?
		       bpf_xdp_adjust_tail(ctx, (int)(whole - length)) :
		       0;
}

/* A word of an address, as it is in memory, and all of it as the checksum has it. */
static __always_inline __u64 address_word(const __u8 *address, int word)
{
	return READ_ONCE(((const __u64 *)address)[word]);
}

static __always_inline __be32 address_ip4(const __u8 *address)
{
	return address_word(address, 1) >> 32;
}

static __always_inline __u64 address_sum(const __u8 *address)
{
	__u64 first = address_word(address, 0);
	__u64 second = address_word(address, 1);

	return (first & 0xffffffff) + (first >> 32) + (second & 0xffffffff) +
	       (second >> 32);
}

/* The Ethernet header, up to the protocol of what follows. */
static __always_inline void *put_link(void *at, void *end, struct xvs_tunnel *t,
				      __be16 control)
{
	union mac destination, source;
	struct ethhdr *eth = at;
	struct tag *tag;
	__be16 *protocol;

	destination.word = READ_ONCE(*(__u64 *)t->way.mac);
	source.word = READ_ONCE(*(__u64 *)t->way.source_mac);
	if ((void *)(eth + 1) > end)
		return NULL;
	set_macs(eth, &destination, &source);
	at = &eth->h_proto;
	if (control) {
		tag = at;
		if ((void *)(tag + 1) > end)
			return NULL;
		tag->protocol = bpf_htons(ETH_P_8021Q);
		tag->control = control;
		at = tag + 1;
	}
	protocol = at;
	if ((void *)(protocol + 1) > end)
		return NULL;
	*protocol = tunnel_is_v6(t) ? bpf_htons(ETH_P_IPV6) :
				      bpf_htons(ETH_P_IP);
	return protocol + 1;
}

/* RFC 6864, section 4.1: what is never fragmented needs no identification. */
static __always_inline void *put_ip4(void *at, void *end, struct xvs_tunnel *t,
				     __u32 traffic_class, __u8 protocol,
				     __u32 payload)
{
	struct iphdr *ip = at;
	__u32 *words = at;
	__u64 sum = 0;
	int i;

	if ((void *)(ip + 1) > end)
		return NULL;
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = traffic_class;
	ip->tot_len = bpf_htons(sizeof(*ip) + payload);
	ip->id = 0;
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = TUNNEL_TTL;
	ip->protocol = protocol;
	ip->check = 0;
	ip->saddr = address_ip4(t->source);
	ip->daddr = address_ip4(t->destination);
#pragma unroll
	for (i = 0; i < (int)sizeof(*ip) / 4; i++)
		sum += words[i];
	ip->check = fold_sum(sum);
	return ip + 1;
}

static __always_inline void *put_ip6(void *at, void *end, struct xvs_tunnel *t,
				     __u32 traffic_class, __u8 protocol,
				     __u32 payload, __u64 hash)
{
	struct ipv6hdr *ip = at;
	__u64 *source, *destination;

	if ((void *)(ip + 1) > end)
		return NULL;
	source = (__u64 *)&ip->saddr;
	destination = (__u64 *)&ip->daddr;
	*(__be32 *)ip = bpf_htonl(6 << 28 | traffic_class << 20 |
				  (hash >> 32 & 0xfffff));
	ip->payload_len = bpf_htons(payload);
	ip->nexthdr = protocol;
	ip->hop_limit = TUNNEL_TTL;
	source[0] = address_word(t->source, 0);
	source[1] = address_word(t->source, 1);
	destination[0] = address_word(t->destination, 0);
	destination[1] = address_word(t->destination, 1);
	return ip + 1;
}

/* The UDP header (RFC 768). `sum` is that of what it carries, or NO_SUM: then
 * there is no checksum, which tunnels may do over IPv6 too (RFC 6935, section 5).
 */
static __always_inline void *put_udp(void *at, void *end, struct xvs_tunnel *t,
				     __u32 payload, __u64 hash, __u64 sum)
{
	struct udphdr *udp = at;

	if ((void *)(udp + 1) > end)
		return NULL;
	udp->source =
		bpf_htons(ENTROPY_PORT | (hash >> 32 & ENTROPY_PORT_BITS));
	udp->dest = READ_ONCE(t->port);
	udp->len = bpf_htons(payload);
	udp->check = 0;
	if (sum == NO_SUM || !(READ_ONCE(t->flags) & XVS_TUNNEL_CHECKSUM))
		return udp + 1;
	sum += (__u64)udp->source + udp->dest + 2 * (__u64)udp->len +
	       bpf_htons(IPPROTO_UDP);
	if (tunnel_is_v6(t))
		sum += address_sum(t->source) + address_sum(t->destination);
	else
		sum += (__u64)address_ip4(t->source) +
		       address_ip4(t->destination);
	udp->check = fold_sum(sum) ?: 0xffff;
	return udp + 1;
}

/* What is between the outer IP header and the packet, the sum of which is given. */
static __always_inline void *put_tunnel(void *at, void *end,
					struct xvs_tunnel *t, __u8 protocol,
					__u32 payload, __u64 hash, __u64 sum)
{
	__u8 kind = READ_ONCE(t->kind);

	if (kind == XVS_TUNNEL_IPIP)
		return at;
	if (kind == XVS_TUNNEL_GRE) {
		struct gre *gre = at;

		if ((void *)(gre + 1) > end)
			return NULL;
		gre->flags = 0;
		gre->protocol = protocol == IPPROTO_IPV6 ?
					bpf_htons(ETH_P_IPV6) :
					bpf_htons(ETH_P_IP);
		return gre + 1;
	}
	if (kind == XVS_TUNNEL_GUE && sum != NO_SUM)
		sum += bpf_htons(protocol);
	at = put_udp(at, end, t, payload, hash, sum);
	if (at && kind == XVS_TUNNEL_GUE) {
		struct gue *gue = at;

		if ((void *)(gue + 1) > end)
			return NULL;
		gue->form = GUE_PLAIN;
		gue->protocol = protocol;
		gue->flags = 0;
		return gue + 1;
	}
	return at;
}

/* The protocol of the outer IP header. */
static __always_inline __u8 outer_protocol(struct xvs_tunnel *t, __u8 protocol)
{
	switch (READ_ONCE(t->kind)) {
	case XVS_TUNNEL_IPIP:
		return protocol;
	case XVS_TUNNEL_GRE:
		return IPPROTO_GRE;
	default:
		return IPPROTO_UDP;
	}
}

/* What became of the frame. */
enum {
	TUNNEL_SENT,
	TUNNEL_CHANGING, /* the way is another one by now */
	TUNNEL_NO_ROOM,
};

/* Puts the headers of a way in front of the frame's packet. Only numbers go in:
 * the verifier looks through this once, whoever calls it. v5.6: 51c39bb1d5d1
 * ("bpf: Introduce function-by-function verification")
 */
__noinline int tunnel_send(struct xdp_md *ctx, __u32 slot, __u64 way,
			   __u64 hash, __u32 shape)
{
	__u8 protocol = shape & SHAPE_V6 ? IPPROTO_IPV6 : IPPROTO_IPIP;
	__u32 tag = shape_tag(shape);
	__u32 payload = shape & SHAPE_LENGTH;
	__u32 traffic_class, overhead, version;
	struct xvs_tunnel *t;
	__be16 control = 0;
	void *at, *end;
	__u64 sum;

	t = tunnel_find(slot, hash);
	if (!t)
		return TUNNEL_CHANGING;
	version = READ_ONCE(t->version);
	if (version & 1 || READ_ONCE(*(__u64 *)&t->way.ifindex) != way)
		return TUNNEL_CHANGING;
	if (inner_trim(ctx, sizeof(struct ethhdr) + tag + payload))
		return TUNNEL_NO_ROOM;

	at = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (at + sizeof(struct ethhdr) + sizeof(struct tag) > end)
		return TUNNEL_NO_ROOM;
	if (tag)
		control = tag_of_frame(at)->control & bpf_htons(~TAG_VLAN);
	at += sizeof(struct ethhdr) + tag;
	if (at + sizeof(struct iphdr) > end)
		return TUNNEL_NO_ROOM;
	if (protocol == IPPROTO_IPIP) {
		traffic_class = ((struct iphdr *)at)->tos;
		sum = inner_sum4(at, end, payload);
	} else {
		if (at + sizeof(struct ipv6hdr) > end)
			return TUNNEL_NO_ROOM;
		traffic_class = bpf_ntohl(*(__be32 *)at) >> 20 & 0xff;
		sum = inner_sum6(at, end);
	}

	overhead = READ_ONCE(t->overhead);
	payload += overhead;
	control = t->way.vlan ? control | t->way.vlan : 0;
	if (control)
		overhead += sizeof(struct tag);
	if (bpf_xdp_adjust_head(ctx, (int)(tag - overhead)))
		return TUNNEL_NO_ROOM;

	at = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	at = put_link(at, end, t, control);
	if (!at)
		return TUNNEL_NO_ROOM;
	if (tunnel_is_v6(t)) {
		payload -= sizeof(struct ipv6hdr);
		at = put_ip6(at, end, t, traffic_class,
			     outer_protocol(t, protocol), payload, hash);
	} else {
		payload -= sizeof(struct iphdr);
		at = put_ip4(at, end, t, traffic_class,
			     outer_protocol(t, protocol), payload);
	}
	if (!at || !put_tunnel(at, end, t, protocol, payload, hash, sum))
		return TUNNEL_NO_ROOM;
	/* All of the record was read while nobody wrote it. */
	return READ_ONCE(t->version) == version ? TUNNEL_SENT : TUNNEL_CHANGING;
}

#endif
