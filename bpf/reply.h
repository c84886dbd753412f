/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Packets that the balancer answers itself, with the VIP as their source. */
#ifndef XVS_REPLY_H
#define XVS_REPLY_H

#define REPLY_TTL 64

#define ICMP_UNREACHABLE 3
#define ICMP_FRAGMENTATION_NEEDED 4
#define ICMP6_PACKET_TOO_BIG 2

/* As much of the packet as an error may quote: 576 octets in all for IPv4
 * (RFC 1812, section 4.3.2.3), 1,280 for IPv6 (RFC 4443, section 2.4).
 */
#define QUOTE4 548
#define QUOTE6 1232
/* The helper sums at most its stack's size at once. */
#define SUM_MAX 512

struct error4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct icmphdr icmp;
	__u8 quote[QUOTE4];
} __attribute__((packed));

struct error6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct icmp6hdr icmp;
	__u8 quote[QUOTE6];
} __attribute__((packed));

static __always_inline void swap_macs(struct ethhdr *eth)
{
	__u8 mac[6];

	__builtin_memcpy(mac, eth->h_dest, 6);
	__builtin_memcpy(eth->h_dest, eth->h_source, 6);
	__builtin_memcpy(eth->h_source, mac, 6);
}

/* Whether the packet came from one host that is not the VIP itself, and may be
 * answered (RFC 1122, section 3.2.2, and RFC 4443, section 2.4).
 */
static __always_inline bool has_host_source(struct packet *p)
{
	const __u32 *words;
	__u32 source;

	if (p->eth->h_source[0] & 1)
		return false;
	if (p->version == 4) {
		source = bpf_ntohl(p->ip4->saddr);
		return source >> 24 != 0 && source >> 24 != 127 &&
		       source < 0xe0000000 && p->ip4->saddr != p->ip4->daddr;
	}
	if (!__builtin_memcmp(&p->ip6->saddr, &p->ip6->daddr, 16))
		return false;
	words = p->ip6->saddr.in6_u.u6_addr32;
	return (words[0] & bpf_htonl(0xff000000)) != bpf_htonl(0xff000000) &&
	       (words[0] | words[1] | words[2] |
		(words[3] & bpf_htonl(0xfffffffe)));
}

/* Turns an echo request of a single host into its reply. Nothing but the type,
 * the addresses and the TTL changes, so the checksums are updated for these
 * alone.
 */
static __always_inline int reply_echo(struct packet *p)
{
	struct icmphdr *icmp = p->transport;
	__u8 type = p->version == 4 ? 0 : 129;
	__u16 sum;

	if (!has_host_source(p))
		return XVS_ICMP_UNSUPPORTED;
	swap_macs(p->eth);
	sum = update_sum(icmp->checksum, bpf_htons(icmp->type << 8),
			 bpf_htons(type << 8));
	/* An ICMP message of zeros alone has 0xffff, which is as good as 0 for
	 * all others.
	 */
	icmp->checksum = p->version == 4 && !sum ? 0xffff : sum;
	icmp->type = type;
	if (p->version == 4) {
		struct iphdr *ip = p->ip4;

		ip->daddr = p->key.saddr[0];
		ip->saddr = p->key.daddr[0];
		ip->check = update_sum(ip->check, bpf_htons(ip->ttl << 8),
				       bpf_htons(REPLY_TTL << 8));
		ip->ttl = REPLY_TTL;
	} else {
		__builtin_memcpy(&p->ip6->daddr, p->key.saddr, 16);
		__builtin_memcpy(&p->ip6->saddr, p->key.daddr, 16);
		p->ip6->hop_limit = REPLY_TTL;
	}
	return XVS_ECHO_REPLIED;
}

_Static_assert(XVS_ICMP_SOURCES == 1 << 12, "as many as a hash of 12 bits");

/* When the next ICMP error to the packet's source is due. Sources are told apart
 * by a secret hash.
 */
static __always_inline __u64 *icmp_source(struct packet *p)
{
	__u64 source = p->key.saddr[0] ^
		       p->key.saddr[1] * 0x9e3779b97f4a7c15ULL;
	__u32 index = (source ^ settings.flow_k0) * settings.flow_k1 >> 52;

	return bpf_map_lookup_elem(&icmp_sources, &index);
}

/* Takes a place in this CPU's stream of ICMP errors, and in that to the packet's
 * source, if one is free in both (RFC 1812, section 4.3.2.8; RFC 4443, section
 * 2.4 (f)). What CPUs send to one source at once may count once.
 */
static __always_inline bool icmp_permitted(struct packet *p)
{
	__u64 now = bpf_ktime_get_ns();
	__u64 *source = icmp_source(p);
	__u64 due, cpu_due;

	if (!source)
		return false;
	due = READ_ONCE(*source);
	cpu_due = p->cpu->icmp_next;
	if (due > now + settings.icmp_source_burst ||
	    cpu_due > now + settings.icmp_burst)
		return false;
	WRITE_ONCE(*source,
		   (due > now ? due : now) + settings.icmp_source_interval);
	p->cpu->icmp_next =
		(cpu_due > now ? cpu_due : now) + settings.icmp_interval;
	return true;
}

/* Makes the frame as long as `whole` octets, with `room` octets of headers in
 * front of the Ethernet header. Only a frame that is longer gets here. One in
 * several buffers stays as long as it was, with padding behind the packet:
 * buffers that are cut off are freed by rules that are not theirs (7.3 on veth:
 * "Bad page state").
 */
static __always_inline int reshape(struct xdp_md *ctx, int room, int whole)
{
	int length = ctx->data_end - ctx->data;
	bool single = !settings.frags ||
		      (int)bpf_xdp_get_buff_len(ctx) == length;

	if (bpf_xdp_adjust_head(ctx, -room))
		return -1;
	return bpf_xdp_adjust_tail(ctx, single ? whole - room - length : -room);
}

static __noinline int error_too_big4(struct xdp_md *ctx, __u32 mtu)
{
	const int room = sizeof(struct iphdr) + sizeof(struct icmphdr);
	struct error4 *e;
	struct iphdr *quoted;
	struct ethhdr *eth;
	__u32 sum;

	if (reshape(ctx, room, sizeof(*e)))
		return -1;
	e = (void *)(long)ctx->data;
	if ((void *)(e + 1) > (void *)(long)ctx->data_end)
		return -1;

	/* The frame's own Ethernet header lies before the quote. */
	eth = (void *)e + room;
	quoted = (void *)e->quote;
	__builtin_memcpy(e->eth.h_dest, eth->h_source, 6);
	__builtin_memcpy(e->eth.h_source, eth->h_dest, 6);
	e->eth.h_proto = bpf_htons(ETH_P_IP);

	e->ip = (struct iphdr){
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(sizeof(*e) - sizeof(e->eth)),
		.frag_off = bpf_htons(0x4000),
		.ttl = REPLY_TTL,
		.protocol = IPPROTO_ICMP,
	};
	e->ip.saddr = quoted->daddr;
	e->ip.daddr = quoted->saddr;
	e->ip.check = fold_sum(
		bpf_csum_diff(NULL, 0, (void *)&e->ip, sizeof(e->ip), 0));

	e->icmp = (struct icmphdr){
		.type = ICMP_UNREACHABLE,
		.code = ICMP_FRAGMENTATION_NEEDED,
	};
	e->icmp.un.frag.mtu = bpf_htons(mtu > 0xffff ? 0xffff : mtu);
	sum = bpf_csum_diff(NULL, 0, (void *)&e->icmp, SUM_MAX, 0);
	sum = bpf_csum_diff(NULL, 0, ((void *)&e->icmp + SUM_MAX),
			    sizeof(e->icmp) + QUOTE4 - SUM_MAX, sum);
	e->icmp.checksum = fold_sum(sum);
	return 0;
}

static __noinline int error_too_big6(struct xdp_md *ctx, __u32 mtu)
{
	const int room = sizeof(struct ipv6hdr) + sizeof(struct icmp6hdr);
	const int length = sizeof(struct icmp6hdr) + QUOTE6;
	struct ipv6hdr *quoted;
	struct error6 *e;
	struct ethhdr *eth;
	__u32 sum;

	if (reshape(ctx, room, sizeof(*e)))
		return -1;
	e = (void *)(long)ctx->data;
	if ((void *)(e + 1) > (void *)(long)ctx->data_end)
		return -1;

	eth = (void *)e + room;
	quoted = (void *)e->quote;
	__builtin_memcpy(e->eth.h_dest, eth->h_source, 6);
	__builtin_memcpy(e->eth.h_source, eth->h_dest, 6);
	e->eth.h_proto = bpf_htons(ETH_P_IPV6);

	e->ip = (struct ipv6hdr){
		.version = 6,
		.payload_len = bpf_htons(length),
		.nexthdr = IPPROTO_ICMPV6,
		.hop_limit = REPLY_TTL,
	};
	e->ip.saddr = quoted->daddr;
	e->ip.daddr = quoted->saddr;

	e->icmp = (struct icmp6hdr){ .icmp6_type = ICMP6_PACKET_TOO_BIG };
	e->icmp.icmp6_dataun.un_data32[0] = bpf_htonl(mtu);
	/* The pseudo-header (RFC 8200, section 8.1), then the message. */
	sum = bpf_csum_diff(NULL, 0, (void *)&e->ip.saddr, 32,
			    bpf_htonl(length + IPPROTO_ICMPV6));
	sum = bpf_csum_diff(NULL, 0, (void *)&e->icmp, SUM_MAX, sum);
	sum = bpf_csum_diff(NULL, 0, ((void *)&e->icmp + SUM_MAX), SUM_MAX,
			    sum);
	sum = bpf_csum_diff(NULL, 0, ((void *)&e->icmp + 2 * SUM_MAX),
			    sizeof(e->icmp) + QUOTE6 - 2 * SUM_MAX, sum);
	e->icmp.icmp6_cksum = fold_sum(sum);
	return 0;
}

/* Tells the client how large a packet may be. A packet with less to quote, on
 * a way out with a smaller MTU, is dropped unanswered.
 */
static __always_inline int reply_too_big(struct xdp_md *ctx, struct packet *p,
					 __u32 mtu, int reason)
{
	__be16 control = 0;
	int error;

	/* An error is no answer to an error, nor to a later fragment (RFC 1122,
	 * section 3.2.2; of IPv6 fragments the first one is answered).
	 */
	if (reason == XVS_FORWARDED_ICMP || reason == XVS_FORWARDED_FRAGMENT ||
	    !has_host_source(p))
		return XVS_TOO_BIG_LIMITED;
	if (p->length < (p->version == 4 ? QUOTE4 : QUOTE6) ||
	    !icmp_permitted(p))
		return XVS_TOO_BIG_LIMITED;
	if (p->tag) {
		control = tag_of_frame(p->eth)->control;
		if (tag_pop(ctx, p->eth))
			return XVS_TOO_BIG_LIMITED;
	}
	error = p->version == 4 ? error_too_big4(ctx, mtu) :
				  error_too_big6(ctx, mtu);
	if (!error && p->tag)
		error = tag_restore(ctx, control);
	return error ? XVS_TOO_BIG_LIMITED : XVS_TOO_BIG_REPLIED;
}

#endif
