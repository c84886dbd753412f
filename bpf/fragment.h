/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Fragments: later ones have no ports, so they follow their first one. */
#ifndef XVS_FRAGMENT_H
#define XVS_FRAGMENT_H

static __always_inline void fragment_key(struct packet *p,
					 struct xvs_fragment_key *key)
{
	vip_address(p, (__u64 *)key->daddr);
	if (p->version == 4) {
		*(__be32 *)key->saddr = p->ip4->saddr;
	} else {
		__builtin_memcpy(key->saddr, &p->ip6->saddr, 16);
	}
	key->id = p->fragment_id;
	key->protocol = p->fragment_protocol;
}

static __always_inline void fragment_store(struct packet *p)
{
	struct xvs_fragment_key key __attribute__((aligned(8))) = {};
	struct xvs_fragment fragment = {
		.slot = p->slot,
		.generation = p->generation,
		.seen = p->now,
		.hash = p->hash >> 32,
	};

	fragment_key(p, &key);
	bpf_map_update_elem(&fragments, &key, &fragment, BPF_ANY);
}

/* The destination that the first fragment went to, or NULL. */
static __always_inline struct xvs_destination *
fragment_destination(struct packet *p)
{
	struct xvs_fragment_key key __attribute__((aligned(8))) = {};
	struct xvs_fragment *first;
	struct xvs_destination *d;

	fragment_key(p, &key);
	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || (__s32)(p->now - first->seen) > XVS_TICKS_FRAGMENT)
		return NULL;
	d = slot_owner(p, first->slot);
	if (!d || p->generation != first->generation)
		return NULL;
	p->hash = (__u64)first->hash << 32;
	return d;
}

#endif
