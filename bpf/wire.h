/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* What the kernel's types lack of headers on the wire, for all programs. */
#ifndef XVS_WIRE_H
#define XVS_WIRE_H

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd

#define IPPROTO_HOPOPTS 0
#define IPPROTO_ROUTING 43
#define IPPROTO_FRAGMENT 44
#define IPPROTO_ICMPV6 58
#define IPPROTO_DSTOPTS 60

/* More than the offset of any header in a frame. */
#define OFFSET_MAX 0x7fff

/* A step's result when no reason has ended the packet's way yet. */
#define CONTINUE (-1)

/* GRE without any of the optional fields (RFC 2784, section 2.1). */
struct gre {
	__be16 flags;
	__be16 protocol; /* ETH_P_* of the packet */
};

/* GUE, version 0, without optional fields (draft-ietf-intarea-gue-09, section
 * 3.2).
 */
struct gue {
	__u8 form;     /* version, control message, length beyond 4 octets */
	__u8 protocol; /* IPPROTO_* of the packet */
	__be16 flags;
};

/* All of the form of a data message, which is all that tunnels send. */
#define GUE_PLAIN 0x00

#endif
