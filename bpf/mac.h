/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* MAC addresses of a way out. */
#ifndef XVS_MAC_H
#define XVS_MAC_H

/* A MAC address as it is in a record, and what lies behind it in its word. */
union mac {
	__u64 word;
	struct {
		__u8 octets[6];
		__be16 vlan;
	};
};

static __always_inline void set_macs(struct ethhdr *eth, union mac *destination,
				     union mac *source)
{
	__builtin_memcpy(eth->h_dest, destination->octets, 6);
	__builtin_memcpy(eth->h_source, source->octets, 6);
}

#endif
