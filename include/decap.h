/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the program for real servers that takes packets out of tunnels (C) and
 * its control (Rust) share.
 */
#ifndef XVS_DECAP_H
#define XVS_DECAP_H

/* What an address may be, as bits. Addresses are 16 octets, IPv4 mapped into
 * IPv6.
 */
enum xvs_decap_role {
	XVS_DECAP_BALANCER = 1 << 0, /* the source of an outer packet */
	XVS_DECAP_LOCAL = 1 << 1,    /* its destination */
	XVS_DECAP_VIP = 1 << 2,	     /* the destination of an inner one */
};

/* What became of a packet. The verdict follows from the reason. */
enum xvs_decap_reason {
	/* passed to the host's stack as it came */
	XVS_DECAP_NOT_TUNNEL,
	XVS_DECAP_FOREIGN_SOURCE,
	XVS_DECAP_NOT_LOCAL,
	XVS_DECAP_OUTER_MALFORMED,
	XVS_DECAP_OUTER_OPTIONS,
	XVS_DECAP_OUTER_FRAGMENT,
	XVS_DECAP_UNSUPPORTED,
	XVS_DECAP_NOT_VIP,
	/* passed without its tunnel */
	XVS_DECAP_IPIP,
	XVS_DECAP_GRE,
	XVS_DECAP_FOU,
	XVS_DECAP_GUE,
	/* dropped */
	XVS_DECAP_MALFORMED,
	XVS_DECAP_NESTED,
	XVS_DECAP_OUTER_CHECKSUM,
	XVS_DECAP_UDP_CHECKSUM,
	XVS_DECAP_UNVERIFIABLE,
	XVS_DECAP_CE_NOT_ECT,
	XVS_DECAP_REASONS,
};

struct xvs_decap_address {
	enum xvs_decap_role roles;
};

/* Fixed when the program is loaded. */
struct xvs_decap_settings {
	__u32 fou; /* UDP ports as they are on the wire, 0: none */
	__u32 gue;
	enum xvs_decap_reason reasons; /* the first number that is no reason */
};

#endif
