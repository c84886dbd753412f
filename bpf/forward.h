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

/* The Ethernet header of the way out. The frame's tag becomes that of the way's
 * VLAN, and keeps its priority.
 */
static __always_inline int set_link(struct xdp_md *ctx, struct packet *p,
				    union mac *destination, union mac *source)
{
	struct ethhdr *eth = p->eth;

	if (!p->tag && source->vlan) {
		eth = tag_push(ctx, source->vlan);
		if (!eth)
			return -1;
	} else if (p->tag && !source->vlan) {
		/* What followed the tag now follows the addresses. */
		set_macs((void *)eth + sizeof(struct tag), destination, source);
		return bpf_xdp_adjust_head(ctx, sizeof(struct tag));
	} else if (p->tag) {
		struct tag *tag = tag_of_frame(eth);

		tag->control = (tag->control & bpf_htons(~TAG_VLAN)) |
			       source->vlan;
	}
	set_macs(eth, destination, source);
	return 0;
}

/* A packet of so many octets is in one buffer, whatever the driver. */
#define ONE_BUFFER_MTU 1500

/* The verdict that sends the packet out by an interface, or XDP_ABORTED where
 * that is not one of the ports (any more). What a redirect needs is kept for
 * this CPU, and used only if that is the verdict in the end.
 *
 * The kernel drops what a driver cannot send: before v6.3 any frame in several
 * buffers, b9d460c9245541b13de2369e79688f8e0acc0c3d ("bpf: devmap: check XDP
 * features in __xdp_enqueue routine"). The MTU becomes what it can send.
 */
static __always_inline int way_out(struct xdp_md *ctx, struct packet *p,
				   __u32 ifindex, __u32 overhead, __u32 *mtu)
{
	int verdict;

	if (ifindex == ctx->ingress_ifindex)
		return XDP_TX;
	verdict = bpf_redirect_map(&ports, ifindex, XDP_ABORTED);
	if (verdict == XDP_ABORTED || in_one_buffer(p))
		return verdict;
	verdict = bpf_redirect_map(&frags_ports, ifindex, XDP_ABORTED);
	if (verdict == XDP_ABORTED && *mtu > ONE_BUFFER_MTU - overhead)
		*mtu = ONE_BUFFER_MTU - overhead;
	return verdict;
}

/* Sends the packet by its destination's way out, or through its tunnel. Writes
 * nothing unless it leaves, there is no room for its headers, or the way changes
 * meanwhile. The reason is what is counted when it does.
 */
static __always_inline int forward(struct xdp_md *ctx, struct packet *p,
				   int reason)
{
	struct xvs_destination *d = p->destination;
	/* One word: the MTU of no way out, 0, must not be told to anybody. */
	__u64 way = READ_ONCE(*(__u64 *)&d->way.ifindex);
	__u64 hash = 0;
	__u32 overhead = READ_ONCE(d->overhead);
	union mac destination, source;
	__u32 ifindex, mtu;
	int result;

	if (overhead) {
		struct xvs_tunnel *t;

		hash = tunnel_hash(p);
		t = tunnel_find(p->slot, hash);
		if (!t)
			return XVS_NO_DESTINATION;
		way = READ_ONCE(*(__u64 *)&t->way.ifindex);
	}
	ifindex = way;
	mtu = way >> 32;
	if (!ifindex)
		return XVS_NO_DESTINATION;
	p->verdict = way_out(ctx, p, ifindex, overhead, &mtu);
	if (p->length > mtu)
		return reply_too_big(ctx, p, mtu, reason);
	if (p->verdict == XDP_ABORTED)
		return XVS_NO_DESTINATION;
	if (p->cpu->more)
		fragment_store(p);
	decrement_ttl(p);

	/* Read again: if the verifier knew what it was, it would follow what is
	 * left once for each. Should it have changed, so has the way.
	 */
	if (READ_ONCE(d->overhead)) {
		result = tunnel_send(ctx, p->slot, way, hash, packet_shape(p));
		if (!result)
			return reason;
		return result == TUNNEL_CHANGING ? XVS_NO_DESTINATION :
						   XVS_NO_HEADROOM;
	}
	/* Each address is read as one word, for the record may be changing:
	 * both must be of one VLAN, and the way the same before and after.
	 */
	destination.word = READ_ONCE(*(__u64 *)d->way.mac);
	source.word = READ_ONCE(*(__u64 *)d->way.source_mac);
	if (destination.vlan != source.vlan ||
	    READ_ONCE(*(__u64 *)&d->way.ifindex) != way)
		return XVS_NO_DESTINATION;
	if (set_link(ctx, p, &destination, &source))
		return XVS_NO_HEADROOM;
	return reason;
}

#endif
