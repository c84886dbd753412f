/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Fragments: later ones have no ports, so they follow their first one. */
#ifndef XVS_FRAGMENT_H
#define XVS_FRAGMENT_H

/* What all fragments of a packet have in common (RFC 791, section 3.2; RFC 8200,
 * section 4.5), as one word: so long a hash is nobody else's.
 */
static __always_inline __u64 fragment_key(struct packet *p)
{
	return hash_words(p, p->cpu->fragment_id, p->cpu->fragment_protocol);
}

/* Remembers where a first fragment goes: of an ICMP error, whose key has the flow
 * that it quotes, too.
 */
static __always_inline void fragment_store(struct packet *p)
{
	struct xvs_fragment fragment = {
		.slot = p->slot,
		.generation = p->generation,
		.seen = p->now,
	};
	__u64 key;

	read_source(p);
	key = fragment_key(p);
	bpf_map_update_elem(&fragments, &key, &fragment, BPF_ANY);
}

/* The destination that the first fragment went to, or NULL. */
static __always_inline struct xvs_destination *
fragment_destination(struct packet *p)
{
	__u64 key = fragment_key(p);
	struct xvs_destination *d;
	struct xvs_fragment *first;

	first = bpf_map_lookup_elem(&fragments, &key);
	if (!first || (__s32)(p->now - first->seen) > XVS_TICKS_FRAGMENT)
		return NULL;
	d = slot_owner(p, first->slot);
	return d && p->generation == first->generation ? d : NULL;
}

#endif
