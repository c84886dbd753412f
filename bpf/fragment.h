/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Fragments: later ones have no ports, so they follow their first one.
 *
 * Few packets come here, and keys take stack, so there are functions of their own
 * that are told of the packet in numbers.
 */
#ifndef XVS_FRAGMENT_H
#define XVS_FRAGMENT_H

/* Reads the addresses of the frame's packet again. */
static __always_inline int fragment_addresses(struct xdp_md *ctx, __u32 shape,
					      struct xvs_fragment_key *key)
{
	void *ip = (void *)(long)ctx->data + sizeof(struct ethhdr) +
		   shape_tag(shape);
	void *end = (void *)(long)ctx->data_end;
	struct ipv6hdr *ip6 = ip;
	struct iphdr *ip4 = ip;

	if (shape & SHAPE_V6) {
		if ((void *)(ip6 + 1) > end)
			return -1;
		__builtin_memcpy(key->saddr, &ip6->saddr, 16);
		__builtin_memcpy(key->daddr, &ip6->daddr, 16);
	} else {
		if ((void *)(ip4 + 1) > end)
			return -1;
		*(__be32 *)key->saddr = ip4->saddr;
		*(__be32 *)key->daddr = ip4->daddr;
	}
	return 0;
}

/* The packet's protocol and its number among its source's packets. */
static __always_inline __u64 fragment_name(struct packet *p)
{
	return p->fragment_id | (__u64)p->fragment_protocol << 32;
}

static __always_inline void fragment_key(__u64 name,
					 struct xvs_fragment_key *key)
{
	key->id = name;
	key->protocol = name >> 32;
}

/* Remembers where a first fragment goes. */
__noinline int fragment_put(struct xdp_md *ctx, __u32 shape, __u64 name,
			    __u64 owner, __u32 now)
{
	struct xvs_fragment_key key __attribute__((aligned(8))) = {};
	struct xvs_fragment fragment = {
		.slot = owner,
		.generation = owner >> 32,
		.seen = now,
	};

	if (fragment_addresses(ctx, shape, &key))
		return -1;
	fragment_key(name, &key);
	return bpf_map_update_elem(&fragments, &key, &fragment, BPF_ANY);
}

/* The slot, and above it the generation, that the first fragment went to; or 0. */
__noinline __u64 fragment_get(struct xdp_md *ctx, __u32 shape, __u64 name,
			      __u32 now)
{
	struct xvs_fragment_key key __attribute__((aligned(8))) = {};
	struct xvs_fragment *first;

	if (fragment_addresses(ctx, shape, &key))
		return 0;
	fragment_key(name, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || (__s32)(now - first->seen) > XVS_TICKS_FRAGMENT)
		return 0;
	return first->slot | (__u64)first->generation << 32;
}

static __always_inline void fragment_store(struct xdp_md *ctx, struct packet *p)
{
	fragment_put(ctx, packet_shape(p), fragment_name(p),
		     p->slot | (__u64)p->generation << 32, p->now);
}

/* The destination that the first fragment went to, or NULL. */
static __always_inline struct xvs_destination *
fragment_destination(struct xdp_md *ctx, struct packet *p)
{
	__u64 owner =
		fragment_get(ctx, packet_shape(p), fragment_name(p), p->now);
	struct xvs_destination *d;

	if (!owner)
		return NULL;
	d = slot_owner(p, owner);
	return d && p->generation == owner >> 32 ? d : NULL;
}

#endif
