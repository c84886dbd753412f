/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The last step of a packet that has a destination. */
#ifndef XVS_FORWARD_H
#define XVS_FORWARD_H

/* One less, and the checksum follows (RFC 1624, equation 3, for a change of
 * -0x0100 in the word of TTL and protocol).
 */
static __always_inline void decrement_ttl(struct packet *p)
{
	if (p->version == 4) {
		__u32 sum = p->ip4->check;

		sum += bpf_htons(0x0100);
		p->ip4->check = sum + (sum >= 0xffff);
		p->ip4->ttl--;
	} else {
		p->ip6->hop_limit--;
	}
}

/* Sends the packet to the server's MAC address. Writes nothing unless it
 * leaves. The reason is what is counted when it does.
 */
static __always_inline int forward(struct xdp_md *ctx, struct packet *p,
				   struct xvs_destination *d, int reason)
{
	/* One word: the MTU of no way out, 0, must not be told to anybody. */
	__u64 way = READ_ONCE(*(__u64 *)&d->ifindex);
	__u32 ifindex = way;
	__u32 mtu = way >> 32;

	if (!ifindex)
		return XVS_NO_DESTINATION;
	if (p->length > mtu)
		return reply_too_big(ctx, p, mtu, reason);

	if (p->more)
		fragment_store(p);
	decrement_ttl(p);
	/* Each address is read as one word: it may be changing. */
	union {
		__u64 word;
		__u8 octets[8];
	} mac = { READ_ONCE(*(__u64 *)d->mac) },
	  source = { READ_ONCE(*(__u64 *)d->source_mac) };

	__builtin_memcpy(p->eth->h_dest, mac.octets, 6);
	__builtin_memcpy(p->eth->h_source, source.octets, 6);
	p->verdict = ifindex == ctx->ingress_ifindex ? XDP_TX :
						       bpf_redirect(ifindex, 0);
	return reason;
}

#endif
