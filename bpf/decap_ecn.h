/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Explicit congestion notification at the end of a tunnel (RFC 6040). */
#ifndef XVS_DECAP_ECN_H
#define XVS_DECAP_ECN_H

#define ECN_NOT_ECT 0
#define ECN_ECT_1 1
#define ECN_ECT_0 2
#define ECN_CE 3

/* What the inner packet leaves with (figure 4); -1: it is dropped, for its
 * sender cannot be told that there is congestion.
 */
static __always_inline int ecn_decapsulated(__u32 outer, __u32 inner)
{
	if (inner == ECN_NOT_ECT)
		return outer == ECN_CE ? -1 : ECN_NOT_ECT;
	if (outer == ECN_CE)
		return ECN_CE;
	if (outer == ECN_ECT_1 && inner == ECN_ECT_0)
		return ECN_ECT_1;
	return inner;
}

/* The header's checksum follows by RFC 1624, equation 3: one that was wrong
 * stays wrong.
 */
static __always_inline void ecn_set4(struct iphdr *ip, __u32 ecn)
{
	__u16 *word = (void *)ip;
	__u16 old = *word;

	ip->tos = (ip->tos & ~3) | ecn;
	ip->check = update_sum(ip->check, old, *word);
}

static __always_inline void ecn_set6(struct ipv6hdr *ip, __u32 ecn)
{
	__u8 *octet = (__u8 *)ip + 1;

	*octet = (*octet & ~0x30) | ecn << 4;
}

/* Gives the inner packet what the outer one has met on its way. */
static __always_inline int ecn_propagate(struct tunnel *t)
{
	void *ip = header_at(t, t->offset);
	__u32 inner;
	int ecn;

	if (ip + sizeof(struct iphdr) > t->end)
		return XVS_DECAP_MALFORMED;
	inner = t->inner == 4 ? ((struct iphdr *)ip)->tos & 3 :
				((__u8 *)ip)[1] >> 4 & 3;
	ecn = ecn_decapsulated(t->ecn, inner);
	if (ecn < 0)
		return XVS_DECAP_CE_NOT_ECT;
	if ((__u32)ecn == inner)
		return CONTINUE;
	if (t->inner == 4)
		ecn_set4(ip, ecn);
	else
		ecn_set6(ip, ecn);
	return CONTINUE;
}

#endif
