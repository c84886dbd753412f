/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* A packet is parsed once, into one struct that each later step takes. */
#ifndef XVS_PACKET_H
#define XVS_PACKET_H

/* More extension headers than this are malformed (RFC 8504, section 5.3
 * leaves the limit to the node).
 */
#define EXTENSIONS_MAX 8

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

/* A flow's addresses, ports and protocol, as they are on the wire. */
struct tuple {
	/* IPv4 addresses are in the low half of the first word. */
	__u64 saddr[2];
	__u64 daddr[2];
	__u32 ports; /* the source's in the low half */
	__u32 protocol;
};

struct packet {
	struct ethhdr *eth;
	__u64 tag; /* octets of the tag: 4, or 0 without one */
	union {
		struct iphdr *ip4;
		struct ipv6hdr *ip6;
	};
	void *transport;
	void *end; /* of the frame's first buffer */
	/* 4 or 6, in a whole word: so the verifier of every kernel remembers
	 * which of the headers it has seen the bounds of.
	 */
	__u64 version;
	__u32 offset; /* of the transport header in the frame (IPv6) */
	__u32 length; /* octets, by the IP header, itself included */
	__u32 transport_length; /* octets that are left for the transport */
	__u8 protocol;
	__u32 later;	  /* not 0: a fragment, but not the first */
	__u32 flags;	  /* TCP_* */
	__u32 now;	  /* ticks */
	__u32 service;	  /* id, once known */
	__u32 slot;	  /* of the destination, once chosen */
	__u32 generation; /* of the slot */
	__u32 owner;	  /* the service that has the slot */
	/* Where it goes, once chosen; its reason says why. */
	struct xvs_destination *destination;
	__u32 verdict; /* enum xdp_action, of a packet forwarded */
	__u32 row;     /* of this CPU's counters */
	/* Whether the kernel has atomic exchanges: known when compiled. */
	bool exchange;
	/* Has what few steps ask for, too: stack is scarce. */
	struct xvs_cpu *cpu;
	struct tuple key;
	__u64 hash; /* of the key */
};

/* Where a walk over IPv6 headers stands; it starts at the first one. */
struct walk {
	__u32 offset; /* of the next header in the frame */
	__u32 left;   /* octets of the packet from there on */
	__be32 fragment_id;
	__u8 next; /* protocol of the next header */
	__u8 fragment_protocol;
	__u8 pad[2];
	__u32 later; /* as in struct packet */
	__u32 more;
};

/* CLOCK_MONOTONIC in ticks. Any clock that a program can ask is a quarter of
 * what a flow's packet costs; jiffies are a word in memory, so packets whose
 * time is taken say what they are in ns. v5.6:
 * 5576b991e9c1a11d2cc21c4b94fc75ec27603896 ("bpf: Add BPF_FUNC_jiffies64")
 */
static __always_inline __u32 clock_tick(struct packet *p)
{
	return (p->cpu->clock + bpf_jiffies64() * settings.jiffy_ns) >>
	       XVS_TICK_SHIFT;
}

static __always_inline void clock_set(struct xvs_cpu *cpu, __u64 now)
{
	cpu->clock = now - bpf_jiffies64() * settings.jiffy_ns;
}

/* The key's destination address in 32 bits. */
static __always_inline __u32 fold_daddr(struct packet *p)
{
	__u64 folded = p->key.daddr[0] ^ p->key.daddr[1];

	return folded ^ folded >> 32;
}

static __always_inline __be16 source_port(struct packet *p)
{
	return p->key.ports;
}

static __always_inline __be16 destination_port(struct packet *p)
{
	return p->key.ports >> 16;
}

/* The header at an offset of at most OFFSET_MAX. The verifier may have seen
 * that of another copy of the number.
 */
static __always_inline void *header_at(struct packet *p, __u32 offset)
{
	asm volatile("%0 &= 0x7fff" : "+r"(offset));
	return (void *)p->eth + offset;
}

/* Walks over IPv6 extension headers to the transport header, or to a later
 * fragment's payload. 0, or -1 when they are malformed or too many.
 */
static __noinline int walk_extensions(struct xdp_md *ctx, struct walk *walk)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	__u32 offset = walk->offset;
	__u32 left = walk->left;
	__u8 next = walk->next;
	int i;

	/* Unrolled, as compilers like to let a loop's end fall through to its
	 * start. v6.7: 10e14e9652bf9e8104151bfd9200433083deae3d ("bpf: fix
	 * control-flow graph checking in privileged mode") takes that.
	 */
#pragma unroll
	for (i = 0; i <= EXTENSIONS_MAX; i++) {
		__u32 length;
		__u8 *header;

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING &&
		    next != IPPROTO_DSTOPTS && next != IPPROTO_FRAGMENT) {
			walk->offset = offset;
			walk->left = left;
			walk->next = next;
			return 0;
		}

		if (i == EXTENSIONS_MAX || left < 8 || offset > OFFSET_MAX)
			return -1;
		header = data + offset;
		if ((void *)(header + 8) > end)
			return -1;

		if (next == IPPROTO_FRAGMENT) {
			struct frag_hdr *fragment = (void *)header;
			__u16 where = bpf_ntohs(fragment->frag_off);

			length = 8;
			walk->fragment_id = fragment->identification;
			walk->fragment_protocol = fragment->nexthdr;
			/* Neither offset nor M flag: atomic, RFC 6946. */
			if (where & 0xfff8) {
				walk->later = 1;
				walk->offset = offset + 8;
				walk->left = left - 8;
				walk->next = fragment->nexthdr;
				return 0;
			}
			walk->more |= where & 1;
		} else {
			length = ((__u32)header[1] + 1) * 8;
			/* Segments left: this is not the packet's end
			 * (RFC 8200, section 4.4).
			 */
			if (length > left ||
			    (next == IPPROTO_ROUTING && header[3]))
				return -1;
		}
		next = header[0];
		offset += length;
		left -= length;
	}
	return -1;
}

/* Whether an address, folded, may be a VIP. */
static __always_inline bool gate_has(struct xvs_gate *gate, __u32 folded)
{
	__u32 hash = folded * 0x9e3779b1 >> 16;

	return gate->filter[hash / 64 % (XVS_FILTER_BITS / 64)] >> hash % 64 &
	       1;
}

static __always_inline bool gate_has_vip(struct xvs_gate *gate,
					 struct packet *p)
{
	return gate_has(gate, fold_daddr(p));
}

/* Whether the frame's address is one of this host's. */
static __always_inline bool gate_has_mac(struct xvs_gate *gate,
					 struct ethhdr *eth)
{
	__u64 low = *(__u32 *)eth->h_dest;
	__u64 high = *(__u16 *)(eth->h_dest + 4);
	__u64 mac = low | high << 32;
	int i;

	for (i = 0; i < XVS_MACS; i++) {
		if (!gate->macs[i])
			break;
		if (gate->macs[i] == mac)
			return true;
	}
	return false;
}

/* Whether the host is in the frame's VLAN. */
static __always_inline bool gate_has_vlan(struct xvs_gate *gate,
					  struct packet *p)
{
	__u32 id = tag_vlan(p->eth, p->tag);

	return gate->vlans[id / 64 % (XVS_VLANS / 64)] >> id % 64 & 1;
}

/* Whether the frame came in by a bond's member that is not in use. A switch
 * sends what it knows no port for to all members: it is taken once.
 */
static __always_inline bool gate_has_backup(struct xvs_gate *gate,
					    struct xdp_md *ctx)
{
	int i;

	for (i = 0; i < XVS_BACKUPS; i++) {
		if (!gate->backups[i])
			break;
		if (gate->backups[i] == ctx->ingress_ifindex)
			return true;
	}
	return false;
}

/* Whether the frame is for this host. */
static __always_inline bool gate_admits(struct xvs_gate *gate,
					struct xdp_md *ctx, struct packet *p)
{
	return gate_has_mac(gate, p->eth) && gate_has_vlan(gate, p) &&
	       !gate_has_backup(gate, ctx);
}

/* Whether frames may be in several buffers. Kernels that have that also have
 * atomic exchanges: v5.18: c2f2cdbeffda7b153c19e0f3d73149c41026c0db ("bpf:
 * introduce BPF_F_XDP_HAS_FRAGS flag in prog_flags loading the ebpf program").
 */
static __always_inline bool has_frags(struct packet *p)
{
	return p->exchange && settings.frags;
}

/* Whether the frame has all of a packet of so many octets. Headers are in its
 * first buffer, which is all that a program can look into.
 */
static __always_inline bool frame_has(struct xdp_md *ctx, struct packet *p,
				      void *ip, __u32 length)
{
	if (ip + length <= p->end)
		return true;
	return has_frags(p) &&
	       sizeof(*p->eth) + p->tag + length <= bpf_xdp_get_buff_len(ctx);
}

/* Whether all of the packet is in the frame's first buffer. */
static __always_inline bool in_one_buffer(struct packet *p)
{
	__u64 octets = p->end - (void *)p->eth;

	return !has_frags(p) || sizeof(*p->eth) + p->tag + p->length <= octets;
}

/* Puts the packet's source into the key. */
static __always_inline void read_source(struct packet *p)
{
	const __u64 *address;

	if (p->version == 4) {
		p->key.saddr[0] = p->ip4->saddr;
		return;
	}
	/* Read in words, which are not aligned: the verifier allows that where
	 * the machine does.
	 */
	address = (const __u64 *)&p->ip6->saddr;
	p->key.saddr[0] = address[0];
	p->key.saddr[1] = address[1];
}

/* IP. The frame is not for a VIP, or the packet's addresses are in the key,
 * even when it is malformed.
 */
static __always_inline int parse_ip4(struct xdp_md *ctx, struct packet *p,
				     struct xvs_gate *gate, struct iphdr *ip)
{
	__u32 header;

	if ((void *)(ip + 1) > p->end)
		return XVS_NOT_IP;
	p->key.daddr[0] = ip->daddr;
	if (!gate_has_vip(gate, p))
		return XVS_NOT_VIP;
	p->ip4 = ip;
	read_source(p);
	if (!gate_admits(gate, ctx, p))
		return XVS_OTHER_HOST;

	header = ip->ihl * 4;
	p->length = host16(ip->tot_len);
	if (ip->version != 4 || header < sizeof(*ip) || p->length < header ||
	    !frame_has(ctx, p, ip, p->length))
		return XVS_MALFORMED;

	p->protocol = ip->protocol;
	p->later = host16(ip->frag_off) & 0x1fff;
	p->cpu->more = host16(ip->frag_off) >> 13 & 1;
	p->cpu->fragment_id = ip->id;
	p->cpu->fragment_protocol = ip->protocol;
	p->transport = (void *)ip + header;
	p->transport_length = p->length - header;
	return CONTINUE;
}

static __always_inline int parse_ip6(struct xdp_md *ctx, struct packet *p,
				     struct xvs_gate *gate, struct ipv6hdr *ip)
{
	struct walk walk = {};
	const __u64 *address;
	__u32 payload;

	if ((void *)(ip + 1) > p->end)
		return XVS_NOT_IP;
	address = (const __u64 *)&ip->daddr;
	p->key.daddr[0] = address[0];
	p->key.daddr[1] = address[1];
	if (!gate_has_vip(gate, p))
		return XVS_NOT_VIP;
	p->ip6 = ip;
	read_source(p);
	if (!gate_admits(gate, ctx, p))
		return XVS_OTHER_HOST;

	payload = host16(ip->payload_len);
	p->length = sizeof(*ip) + payload;
	if (ip->version != 6 || !payload || !frame_has(ctx, p, ip, p->length))
		return XVS_MALFORMED;

	walk.offset = sizeof(*p->eth) + p->tag + sizeof(*ip);
	walk.left = payload;
	walk.next = ip->nexthdr;
	walk.more = p->cpu->zero;
	if (ip->nexthdr != IPPROTO_TCP && ip->nexthdr != IPPROTO_UDP &&
	    walk_extensions(ctx, &walk))
		return XVS_MALFORMED;
	if (walk.offset > OFFSET_MAX)
		return XVS_MALFORMED;

	p->protocol = walk.next;
	p->later = walk.later;
	p->cpu->more = walk.more;
	p->cpu->fragment_id = walk.fragment_id;
	p->cpu->fragment_protocol = walk.fragment_protocol;
	p->offset = walk.offset;
	p->transport = header_at(p, walk.offset);
	p->transport_length = walk.left;
	return CONTINUE;
}

static __always_inline void set_ports(struct packet *p, __be16 source,
				      __be16 destination, __u8 protocol)
{
	p->key.ports = source | (__u32)destination << 16;
	p->key.protocol = protocol;
}

static __always_inline int parse_tcp(struct packet *p)
{
	struct tcphdr *tcp = p->transport;

	if (p->transport_length < sizeof(*tcp) || (void *)(tcp + 1) > p->end)
		return XVS_MALFORMED;
	if (tcp->doff < 5 || tcp->doff * 4 > p->transport_length)
		return XVS_MALFORMED;
	p->flags = ((__u8 *)tcp)[13];
	set_ports(p, tcp->source, tcp->dest, IPPROTO_TCP);
	return CONTINUE;
}

static __always_inline int parse_udp(struct packet *p)
{
	struct udphdr *udp = p->transport;
	__u32 length;

	if (p->transport_length < sizeof(*udp) || (void *)(udp + 1) > p->end)
		return XVS_MALFORMED;
	length = bpf_ntohs(udp->len);
	if (length < sizeof(*udp) ||
	    (length > p->transport_length && !p->cpu->more))
		return XVS_MALFORMED;
	/* No flags. If the verifier knew that, it would follow what is left of
	 * a packet's way for UDP apart from that for TCP.
	 */
	p->flags = p->cpu->zero;
	set_ports(p, udp->source, udp->dest, IPPROTO_UDP);
	return CONTINUE;
}

static __always_inline int parse_transport(struct packet *p)
{
	switch (p->protocol) {
	case IPPROTO_TCP:
		return parse_tcp(p);
	case IPPROTO_UDP:
		return parse_udp(p);
	default:
		return XVS_NO_SERVICE;
	}
}

/* Time to live, or hop limit. */
static __always_inline __u8 packet_ttl(struct packet *p)
{
	return p->version == 4 ? p->ip4->ttl : p->ip6->hop_limit;
}

static __always_inline bool is_syn(struct packet *p)
{
	return (p->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/* What functions of their own are told of a packet: its length, the length of
 * the frame's tag, the family.
 */
#define SHAPE_LENGTH 0x1ffff
#define SHAPE_TAG_SHIFT 24
#define SHAPE_V6 (1U << 31)

static __always_inline __u32 packet_shape(struct packet *p)
{
	return p->length | p->tag << SHAPE_TAG_SHIFT |
	       (p->version == 6 ? SHAPE_V6 : 0);
}

static __always_inline __u32 shape_tag(__u32 shape)
{
	return shape >> SHAPE_TAG_SHIFT & sizeof(struct tag);
}

/* An address of the packet's family as maps have it. */
static __always_inline void map_address(struct packet *p, const __u64 *address,
					__u64 *mapped)
{
	if (p->version == 4) {
		mapped[0] = 0;
		mapped[1] = bpf_htonl(0xffff) | address[0] << 32;
	} else {
		mapped[0] = address[0];
		mapped[1] = address[1];
	}
}

/* The key's destination as the maps of services and VIPs have it. */
static __always_inline void vip_address(struct packet *p, __u64 *address)
{
	map_address(p, p->key.daddr, address);
}

#endif
