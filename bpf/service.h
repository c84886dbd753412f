/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Services, VIPs, and the hash that chooses a destination. */
#ifndef XVS_SERVICE_H
#define XVS_SERVICE_H

/* What follows takes numbers, so that the verifier looks through it once, and
 * has a stack of its own. v5.6: 51c39bb1d5d1 ("bpf: Introduce
 * function-by-function verification")
 */

/* The id of the VIP with this address, or 0 if there is none. */
__noinline __u32 vip_lookup(__u64 high, __u64 low)
{
	__u64 address[2] = { high, low };
	__u32 *id = bpf_map_lookup_elem(&vip_ids, address);

	return id ? *id : 0;
}

/* The VIP's id, or 0 when the packet is for none. */
static __always_inline __u32 vip_find(struct packet *p)
{
	__u64 address[2];

	vip_address(p, address);
	return vip_lookup(address[0], address[1]);
}

/* An address as maps have it in 32 bits: an IPv4 address is what it is. */
static __always_inline __u32 fold_mapped(__u64 *address)
{
	__u64 folded = address[0] ^ address[1];

	if (!address[0] && (__u32)address[1] == bpf_htonl(0xffff))
		return address[1] >> 32;
	return folded ^ folded >> 32;
}

/* The id that the hints have for the service, or 0. */
static __always_inline __u32 service_hinted(struct xvs_service_key *key)
{
	__u32 port = key->port | (__u32)key->protocol << 16;
	__u64 *wanted = (__u64 *)key->address;
	struct xvs_service *service;
	__u64 *address;
	__u32 index;
	__u64 *hint;
	__u32 id;

	index = fold_mapped(wanted) ^ port * 0x85ebca6b;
	index = index * 0x9e3779b1 >> 18;
	hint = bpf_map_lookup_elem(&service_hints, &index);
	if (!hint)
		return 0;
	id = *hint;
	service = bpf_map_lookup_elem(&services, &id);
	if (!service)
		return 0;
	address = (__u64 *)service->address;
	/* A record is cleared long before another service gets its id, and its
	 * port is written last.
	 */
	if (READ_ONCE(service->port) != key->port ||
	    service->protocol != key->protocol ||
	    READ_ONCE(address[0]) != wanted[0] ||
	    READ_ONCE(address[1]) != wanted[1])
		return 0;
	return id;
}

/* The id of the service with this address, or 0; the port is in the low half of
 * the rest, the protocol in the other.
 */
__noinline __u32 service_lookup(__u64 high, __u64 low, __u32 rest)
{
	struct xvs_service_key key __attribute__((aligned(8))) = {};
	__u64 *address = (__u64 *)key.address;
	__u32 hinted;
	__u32 *id;

	address[0] = high;
	address[1] = low;
	key.port = rest;
	key.protocol = rest >> 16;
	hinted = service_hinted(&key);
	if (hinted)
		return hinted;
	id = bpf_map_lookup_elem(&service_ids, &key);
	return id ? *id : 0;
}

/* The service's id, or 0 when the VIP has none on this port. */
static __always_inline __u32 service_find(struct packet *p)
{
	__u64 address[2];

	vip_address(p, address);
	return service_lookup(address[0], address[1],
			      destination_port(p) | p->key.protocol << 16);
}

/* The slot that a table has at an index. */
static __always_inline __u32 table_slot(__u32 table, __u32 index)
{
	__u32 number = table >> XVS_BLOCK_SHIFT;
	struct xvs_chunk *chunk;
	void *block;

	block = bpf_map_lookup_elem(&tables, &number);
	if (!block)
		return 0;
	number = table % (1U << XVS_BLOCK_SHIFT) + index / XVS_CHUNK;
	chunk = bpf_map_lookup_elem(block, &number);
	return chunk ? READ_ONCE(chunk->slot[index % XVS_CHUNK]) : 0;
}

/* What service_slot returns beside the slot: the table from before has another. */
#define SLOT_MOVED (1U << 31)

/* The slot that a service's tables have at an index, or 0. For a packet that goes
 * by the table from before the last change that one counts, while there is one,
 * unless its destination is gone. A function that the verifier looks through by
 * itself.
 */
__noinline __u32 service_slot(__u32 id, __u32 index, __u32 by_previous,
			      __u32 now)
{
	struct xvs_destination *d;
	struct xvs_service *service;
	__u32 former = 0;
	__u64 previous;
	__u32 table;
	__u32 slot;

	service = bpf_map_lookup_elem(&services, &id);
	if (!service)
		return 0;
	/* In this order: with a new table comes the one from before. */
	table = READ_ONCE(service->table);
	previous = READ_ONCE(*(__u64 *)&service->previous);
	if ((__u32)previous && (__s32)((__u32)(previous >> 32) - now) >= 0) {
		slot = table_slot(previous, index);
		d = bpf_map_lookup_elem(&destinations, &slot);
		if (d && d->service == id && d->way.ifindex)
			former = slot;
	}
	if (former && by_previous)
		return former;
	slot = table ? table_slot(table, index) : 0;
	return former && former != slot ? slot | SLOT_MOVED : slot;
}

/* 1 for a SYN. Here and below there are no branches, of which the verifier would
 * follow both ways each time.
 */
static __always_inline __u64 syn_bit(struct packet *p)
{
	__u64 flags = (p->flags & (TCP_SYN | TCP_ACK)) ^ TCP_SYN;

	barrier_var(flags);
	return (flags - 1) >> 63;
}

/* 1 for a packet that goes by the table from before the service's last change: the
 * middle of a TCP connection that has no flow, for it may have begun then, by
 * another balancer; and a SYN whose flow cannot be stored. Of UDP nobody can tell.
 */
static __always_inline __u32 by_previous(struct packet *p, struct flow *flow)
{
	__u64 other = p->key.protocol ^ IPPROTO_TCP;
	__u64 left = flow->left;

	barrier_var(other);
	barrier_var(left);
	return (other - 1) >> 63 & ~(syn_bit(p) & -left >> 63);
}

/* Whether the packet is a SYN whose flow need not be stored, as what comes after it
 * goes the same way by its hash.
 */
static __always_inline bool leaves_none(struct packet *p, struct flow *flow)
{
	__u64 moved = flow->moved;

	barrier_var(moved);
	return syn_bit(p) & ~moved;
}

/* The destination that the hash has for the packet, or NULL. */
static __always_inline struct xvs_destination *choose(struct packet *p,
						      struct flow *flow)
{
	struct xvs_destination *d;
	struct xvs_service *service;
	/* A pointer into the packet would keep all of it in memory. */
	__u32 id = p->service;
	__u64 hash;
	__u32 slot;

	service = bpf_map_lookup_elem(&services, &id);
	if (!service)
		return NULL;
	hash = service->sticky ? hash_source(p) : p->hash;
	hash = (hash & 0xffffffff) * settings.table_size >> 32;
	slot = service_slot(id, hash, by_previous(p, flow), p->now);
	flow->moved = slot / SLOT_MOVED;
	d = slot_owner(p, slot & ~SLOT_MOVED);
	/* A slot that was given away since the table was read is none. */
	return d && p->owner == p->service ? d : NULL;
}

#endif
