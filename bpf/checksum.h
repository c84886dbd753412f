/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The Internet checksum (RFC 1071). Words are summed as they are in memory. */
#ifndef XVS_CHECKSUM_H
#define XVS_CHECKSUM_H

/* A sum of words in one of 16 bits. */
static __always_inline __u16 sum_words(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* The checksum that a sum of words makes; also what takes it away from another. */
static __always_inline __u16 fold_sum(__u64 sum)
{
	return ~sum_words(sum);
}

/* A checksum after one 16-bit word has changed (RFC 1624, equation 3). */
static __always_inline __u16 update_sum(__u16 check, __u16 old, __u16 new)
{
	return fold_sum((__u64)(__u16)~check + (__u16)~old + new);
}

#endif
