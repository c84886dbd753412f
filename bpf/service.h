/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Services, VIPs, and the hash that chooses a destination. */
#ifndef XVS_SERVICE_H
#define XVS_SERVICE_H

/* The VIP's id, or 0 when the packet is for none. */
static __always_inline __u32 vip_find(struct packet *p)
{
	__u64 address[2];
	__u32 *id;

	vip_address(p, address);
	id = bpf_map_lookup_elem(&vip_ids, address);
	return id ? *id : 0;
}

/* The id that the hints have for the service, or 0. */
static __always_inline __u32 service_hinted(struct packet *p,
					    struct xvs_service_key *key)
{
	__u32 port = key->port | (__u32)key->protocol << 16;
	__u32 index = (fold_daddr(p) ^ port * 0x85ebca6b) * 0x9e3779b1 >> 18;
	__u64 *wanted = (__u64 *)key->address;
	struct xvs_service *service;
	__u64 *address;
	__u64 *hint;
	__u32 id;

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

/* The service's id, or 0 when the VIP has none on this port. */
static __always_inline __u32 service_find(struct packet *p)
{
	struct xvs_service_key key __attribute__((aligned(8))) = {};
	__u32 hinted;
	__u32 *id;

	vip_address(p, (__u64 *)key.address);
	key.port = destination_port(p);
	key.protocol = p->key.protocol;
	hinted = service_hinted(p, &key);
	if (hinted)
		return hinted;
	id = bpf_map_lookup_elem(&service_ids, &key);
	return id ? *id : 0;
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
