/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* SipHash-1-3 over whole words and a last, partial one (src/hash.rs). */
#ifndef XVS_SIPHASH_H
#define XVS_SIPHASH_H

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words of a key are hashed in little-endian order"
#endif

struct siphash {
	__u64 v0, v1, v2, v3;
};

static __always_inline __u64 siphash_rotate(__u64 x, int bits)
{
	return x << bits | x >> (64 - bits);
}

static __always_inline void siphash_round(struct siphash *h)
{
	h->v0 += h->v1;
	h->v2 += h->v3;
	h->v1 = siphash_rotate(h->v1, 13) ^ h->v0;
	h->v3 = siphash_rotate(h->v3, 16) ^ h->v2;
	h->v0 = siphash_rotate(h->v0, 32);
	h->v2 += h->v1;
	h->v0 += h->v3;
	h->v1 = siphash_rotate(h->v1, 17) ^ h->v2;
	h->v3 = siphash_rotate(h->v3, 21) ^ h->v0;
	h->v2 = siphash_rotate(h->v2, 32);
}

static __always_inline void siphash_start(struct siphash *h, __u64 k0, __u64 k1)
{
	h->v0 = k0 ^ 0x736f6d6570736575ULL;
	h->v1 = k1 ^ 0x646f72616e646f6dULL;
	h->v2 = k0 ^ 0x6c7967656e657261ULL;
	h->v3 = k1 ^ 0x7465646279746573ULL;
}

static __always_inline void siphash_word(struct siphash *h, __u64 word)
{
	h->v3 ^= word;
	siphash_round(h);
	h->v0 ^= word;
}

/* The octets after the last whole word, and the number of all octets. */
static __always_inline __u64 siphash_end(struct siphash *h, __u64 rest,
					 __u64 octets)
{
	siphash_word(h, rest | octets << 56);
	h->v2 ^= 0xff;
	siphash_round(h);
	siphash_round(h);
	siphash_round(h);
	return h->v0 ^ h->v1 ^ h->v2 ^ h->v3;
}

#endif
