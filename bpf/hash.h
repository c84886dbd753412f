/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Hashes of packets. Balancers that have the same key and table size choose
 * alike (src/hash.rs).
 */
#ifndef XVS_HASH_H
#define XVS_HASH_H

/* The addresses, a word and an octet without anything in between. */
static __always_inline __u64 hash_words(struct packet *p, __u32 word,
					__u8 octet)
{
	__u64 last = word | (__u64)octet << 32;
	struct siphash h;

	siphash_start(&h, settings.k0, settings.k1);
	if (p->version == 4) {
		siphash_word(&h, p->key.saddr[0] | p->key.daddr[0] << 32);
		return siphash_end(&h, last, 13);
	}
	siphash_word(&h, p->key.saddr[0]);
	siphash_word(&h, p->key.saddr[1]);
	siphash_word(&h, p->key.daddr[0]);
	siphash_word(&h, p->key.daddr[1]);
	return siphash_end(&h, last, 37);
}

static __always_inline __u64 hash_tuple(struct packet *p)
{
	return hash_words(p, p->key.ports, p->key.protocol);
}

/* The source's address alone. */
static __always_inline __u64 hash_source(struct packet *p)
{
	struct siphash h;

	siphash_start(&h, settings.k0, settings.k1);
	if (p->version == 4)
		return siphash_end(&h, p->key.saddr[0], 4);
	siphash_word(&h, p->key.saddr[0]);
	siphash_word(&h, p->key.saddr[1]);
	return siphash_end(&h, 0, 16);
}

/* What a flow's place follows from: the hash of its packets, in an order that
 * only this instance knows. Who knows the key of that one has no way known to
 * aim at a place but packets whose hashes are the same in all 64 bits.
 */
static __always_inline __u64 hash_flow(__u64 hash)
{
	hash = (hash ^ settings.flow_k0) * settings.flow_k1;
	return (hash ^ hash >> 32) * 0xd6e8feb86659fd93ULL;
}

#endif
