/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Internet checksums (RFC 1071) of outer headers. Sums are of words as they are
 * in memory, which is as good as of those in host order.
 */
#ifndef XVS_DECAP_SUM_H
#define XVS_DECAP_SUM_H

/* Octets that a sum is made over, at most, when it takes all of a packet: as
 * many as a jumbo frame has.
 */
#define SUM_MAX 9216
/* What the kernel sums at once is at most as much as a program's stack. */
#define SUM_CHUNK 512
#define SUM_PIECE 64

/* What valid words sum up to. */
#define SUM_VALID 0xffff

static __always_inline bool is_sum4_valid(struct iphdr *ip)
{
	__u32 *words = (void *)ip;

	return sum_words((__u64)words[0] + words[1] + words[2] + words[3] +
			 words[4]) == SUM_VALID;
}

/* The last octets of those up to a place in the frame. For the verifier they are
 * always the same ones, so it follows what is left of a loop's ways once.
 */
static __always_inline void *octets_before(struct xdp_md *ctx, __u32 stop,
					   __u32 left)
{
	__u32 offset = stop - left;

	asm volatile("%0 &= 0x7fff" : "+r"(offset));
	return (void *)(long)ctx->data + offset;
}

/* The sum of octets of the frame from an even offset on, which lie in its first
 * buffer; -1 if they do not, or are too many. It is not static, so that the
 * verifier follows it once, and not for all that is known of each caller.
 */
__noinline __s64 sum_octets(struct xdp_md *ctx, __u32 offset, __u32 left)
{
	void *end = (void *)(long)ctx->data_end;
	__u32 stop = offset + left;
	__s64 part = 0;
	__u8 *from;
	__u64 sum;
	int i;

	if (left > SUM_MAX || offset > OFFSET_MAX - SUM_MAX)
		return -1;
	from = octets_before(ctx, stop, left);
	for (i = 0; i < SUM_MAX / SUM_CHUNK && left >= SUM_CHUNK; i++) {
		if ((void *)(from + SUM_CHUNK) > end)
			return -1;
		part = bpf_csum_diff(NULL, 0, (void *)from, SUM_CHUNK, part);
		from += SUM_CHUNK;
		left -= SUM_CHUNK;
	}
	from = octets_before(ctx, stop, left);
	for (i = 0; i < SUM_CHUNK / SUM_PIECE && left >= SUM_PIECE; i++) {
		if ((void *)(from + SUM_PIECE) > end)
			return -1;
		part = bpf_csum_diff(NULL, 0, (void *)from, SUM_PIECE, part);
		from += SUM_PIECE;
		left -= SUM_PIECE;
	}
	sum = (__u32)part;
	from = octets_before(ctx, stop, left);
	for (i = 0; i < SUM_PIECE / 2 && left >= 2; i++) {
		/* Compilers like to move the end instead. */
		asm volatile("" : "+r"(from));
		if ((void *)(from + 2) > end)
			return -1;
		sum += *(__u16 *)from;
		from += 2;
		left -= 2;
	}
	from = octets_before(ctx, stop, left);
	if (left) {
		/* Filled up with a zero. */
		if ((void *)(from + 1) > end)
			return -1;
		sum += *from;
	}
	return sum_words(sum);
}

/* Whether a checksum of the transport covers all that the IP packet has of it,
 * and the stack will check that. It then sums up to what takes away the sum of
 * its pseudo-header.
 */
static __always_inline bool covers_all(struct tunnel *t, void *transport,
				       __u32 protocol, __u32 length)
{
	struct udphdr *udp = transport;

	switch (protocol) {
	case IPPROTO_TCP:
		return length >= sizeof(struct tcphdr);
	case IPPROTO_UDP:
		return length >= sizeof(*udp) && (void *)(udp + 1) <= t->end &&
		       udp->check && host16(udp->len) == length;
	default:
		return false;
	}
}

/* The sum of an inner packet whose checksums are right, from its headers alone
 * (local checksum offload); -1 if it takes more than that. A checksum that is
 * wrong the stack finds, so what is taken for right here is so in the end.
 */
static __always_inline __s64 expected_sum4(struct tunnel *t)
{
	struct iphdr *ip = header_at(t, t->offset);
	__u32 header, length;
	void *transport;

	if ((void *)(ip + 1) > t->end || host16(ip->frag_off) & 0x3fff)
		return -1;
	header = ip->ihl * 4;
	length = t->inner_length - header;
	/* The header itself sums up to nothing, as does ICMP. */
	if (ip->protocol == IPPROTO_ICMP)
		return length >= sizeof(struct icmphdr) ? 0 : -1;
	transport = header_at(t, t->offset + header);
	if (!covers_all(t, transport, ip->protocol, length))
		return -1;
	return fold_sum((__u64)ip->saddr + ip->daddr + bpf_htons(ip->protocol) +
			bpf_htons(length));
}

static __always_inline __s64 expected_sum6(struct tunnel *t)
{
	struct ipv6hdr *ip = header_at(t, t->offset);
	__u32 length = t->inner_length - sizeof(*ip);

	if ((void *)(ip + 1) > t->end)
		return -1;
	if (ip->nexthdr == IPPROTO_ICMPV6) {
		if (length < sizeof(struct icmp6hdr))
			return -1;
	} else if (!covers_all(t, ip + 1, ip->nexthdr, length)) {
		return -1;
	}
	/* Of the header what the pseudo-header has too, which is addresses and
	 * length, is taken away by that.
	 */
	return sum_words((__u64) * (__u32 *)ip + *(__u16 *)&ip->nexthdr +
			 (__u16)~bpf_htons(ip->nexthdr));
}

/* The sum of the outer pseudo-header (RFC 768; RFC 8200, section 8.1). */
static __always_inline __u64 pseudo_sum(struct tunnel *t)
{
	__u32 *words;

	if (t->version == 4)
		return (__u64)t->ip4->saddr + t->ip4->daddr +
		       bpf_htons(IPPROTO_UDP) + t->udp->len;
	words = (void *)&t->ip6->saddr;
	return (__u64)words[0] + words[1] + words[2] + words[3] + words[4] +
	       words[5] + words[6] + words[7] + bpf_htons(IPPROTO_UDP) +
	       t->udp->len;
}

/* A checksum of zero is none, for tunnels over IPv6 too (RFC 6935). */
static __always_inline int verify_udp(struct xdp_md *ctx, struct tunnel *t)
{
	__s64 sum = -1;

	if (!t->udp->check)
		return CONTINUE;
	if (t->inner_length == t->left)
		sum = t->inner == 4 ? expected_sum4(t) : expected_sum6(t);
	if (sum < 0)
		sum = sum_octets(ctx, t->offset, t->left);
	if (sum < 0)
		return XVS_DECAP_UNVERIFIABLE;
	if (sum_words(pseudo_sum(t) + t->udp_sum + sum) != SUM_VALID)
		return XVS_DECAP_UDP_CHECKSUM;
	return CONTINUE;
}

static __always_inline int verify_outer(struct xdp_md *ctx, struct tunnel *t)
{
	if (t->version == 4 && !is_sum4_valid(t->ip4))
		return XVS_DECAP_OUTER_CHECKSUM;
	return t->udp ? verify_udp(ctx, t) : CONTINUE;
}

#endif
