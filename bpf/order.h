/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Numbers in the order of the wire. */
#ifndef XVS_ORDER_H
#define XVS_ORDER_H

/* A number in host order, within bounds that every verifier knows. Before
 * v7.0: 9d21199842247ab05c675fb9b6c6ca393a5c0024 ("bpf: Add bitwise tracking
 * for BPF_END") a swapped register could hold anything.
 */
static __always_inline __u32 host16(__be16 value)
{
	__u32 number = bpf_ntohs(value);

	asm volatile("%0 &= 0xffff" : "+r"(number));
	return number;
}

#endif
