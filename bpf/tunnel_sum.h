/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Sums of whole packets, for the checksums of the datagrams that carry them. */
#ifndef XVS_TUNNEL_SUM_H
#define XVS_TUNNEL_SUM_H

/* Whether a UDP datagram has a checksum, over all that the IP packet carries. */
static __always_inline bool udp_is_summed(struct udphdr *udp, void *end,
					  __be16 length)
{
	return (void *)(udp + 1) <= end && udp->check && udp->len == length;
}

/* No sum of 16-bit words: it is not known. */
#define NO_SUM (~0ULL)

/* The sum of all octets of a packet, or NO_SUM. With its checksum a segment and
 * its pseudo-header sum up to nothing, and so does an IPv4 header. What is left
 * is known without reading the payload (Linux:
 * Documentation/networking/checksum-offloads.rst, "LCO: Local Checksum
 * Offload"). A fragment has no checksum of its own.
 */
static __always_inline __u64 inner_sum4(struct iphdr *ip, void *end,
					__u32 length)
{
	__u32 header = ip->ihl * 4;
	__be16 segment = bpf_htons(length - header);

	if (ip->frag_off & bpf_htons(0x3fff))
		return NO_SUM;
	switch (ip->protocol) {
	case IPPROTO_ICMP:
		return 0;
	case IPPROTO_UDP:
		if (!udp_is_summed((void *)ip + header, end, segment))
			return NO_SUM;
		break;
	case IPPROTO_TCP:
		break;
	default:
		return NO_SUM;
	}
	return (__u64)(__u32)~ip->saddr + (__u32)~ip->daddr + (__u16)~segment +
	       (__u16)~bpf_htons(ip->protocol);
}

/* Both addresses are in the header and in the pseudo-header, so they cancel out. */
static __always_inline __u64 inner_sum6(struct ipv6hdr *ip, void *end)
{
	__u32 *words = (__u32 *)ip;

	switch (ip->nexthdr) {
	case IPPROTO_UDP:
		if (!udp_is_summed((void *)(ip + 1), end, ip->payload_len))
			return NO_SUM;
		break;
	case IPPROTO_TCP:
	case IPPROTO_ICMPV6:
		break;
	default:
		return NO_SUM;
	}
	return (__u64)words[0] + words[1] + (__u16)~ip->payload_len +
	       (__u16)~bpf_htons(ip->nexthdr);
}

#endif
