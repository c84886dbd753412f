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

/* The destination that the service's table has for the packet, or NULL. */
static __always_inline struct xvs_destination *choose(struct packet *p)
{
	struct xvs_destination *d;
	struct xvs_service *service;
	/* A pointer into the packet would keep all of it in memory. */
	__u32 id = p->service;
	__u64 hash;
	__u32 table;

	service = bpf_map_lookup_elem(&services, &id);
	if (!service)
		return NULL;
	table = READ_ONCE(service->table);
	if (!table)
		return NULL;

	hash = service->sticky ? hash_source(p) : p->hash;
	hash = (hash & 0xffffffff) * settings.table_size >> 32;
	d = slot_owner(p, table_slot(table, hash));
	/* A slot that was given away since the table was read is none. */
	return d && p->owner == p->service ? d : NULL;
}

#endif
