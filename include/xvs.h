/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Every struct and constant that the data plane (C) and the control plane
 * (Rust) share. Rust gets them through the skeleton, from this file's BTF.
 *
 * Addresses of both families are 16 octets, IPv4 mapped into IPv6, except in
 * the keys of flows and the sources of fragments. Times are ticks of 2^30 ns of CLOCK_MONOTONIC,
 * which wrap; a difference of two ticks is what counts.
 *
 * The control plane writes records word by word while packets are read, so
 * whatever must change at once lies within one aligned word of 8 octets.
 */
#ifndef XVS_H
#define XVS_H

/* Changes whenever a map's name, key or value does. */
enum xvs_layout {
	XVS_LAYOUT_VERSION = 1,
};

/* Times in ticks, and what a tick is. */
enum xvs_tick {
	/* Shift from nanoseconds to ticks. */
	XVS_TICK_SHIFT = 30,
	/* 60 s: a SYN for a flow that is silent for longer opens a new one. */
	XVS_TICKS_SYN = 56,
	/* 60 s: a flow with a packet since then is a recent one. */
	XVS_TICKS_RECENT = 56,
	/* 30 s: how long the rest of a packet may take after its first
	 * fragment, as long as Linux waits for it (ipfrag_time).
	 */
	XVS_TICKS_FRAGMENT = 28,
};

enum {
	/* Entries in one chunk of a lookup table: with what the kernel adds, a
	 * chunk stays within one page.
	 */
	XVS_CHUNK = 1000,
	/* Interfaces an instance can be attached to. */
	XVS_INTERFACES = 64,
	/* MAC addresses that frames for a VIP may be sent to. */
	XVS_MACS = 64,
	/* Bits of the filter that tells most foreign addresses from VIPs. */
	XVS_FILTER_BITS = 65536,
	/* Room for enum xvs_reason. */
	XVS_REASON_ROOM = 24,
};

/* What became of a packet. The verdict follows from the reason. */
enum xvs_reason {
	/* passed to the host's stack */
	XVS_NOT_IP,
	XVS_NOT_VIP,
	XVS_OTHER_HOST,
	XVS_NEIGHBOUR_DISCOVERY,
	/* forwarded to a destination */
	XVS_FORWARDED_FLOW,
	XVS_FORWARDED_NEW,
	XVS_FORWARDED_SYN,
	XVS_FORWARDED_FRAGMENT,
	XVS_FORWARDED_ICMP,
	/* answered */
	XVS_ECHO_REPLIED,
	XVS_TOO_BIG_REPLIED,
	/* dropped */
	XVS_TOO_BIG_LIMITED,
	XVS_NO_SERVICE,
	XVS_NO_DESTINATION,
	XVS_TTL_EXPIRED,
	XVS_MALFORMED,
	XVS_FRAGMENT_ORPHAN,
	XVS_ICMP_UNSUPPORTED,
	XVS_ICMP_UNOWNED,
	XVS_REASONS,
};

/* Fixed when the program is loaded. */
struct xvs_settings {
	__u64 k0; /* the hash key, little-endian words */
	__u64 k1;
	__u32 table_size;    /* entries of a lookup table */
	__u32 services;	     /* ids are below this */
	__u32 destinations;  /* slots are below this */
	__u32 cpus;	     /* CPUs that have counters of their own */
	__u64 icmp_interval; /* ns between ICMP errors of one CPU */
	__u64 icmp_burst;    /* ns that a CPU may be ahead of that */
};

/* A service's way into the map of services. */
struct xvs_service_key {
	__u8 address[16];
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

/* A service, by id. Id 0 is no service. */
struct xvs_service {
	__u32 table;  /* id of its lookup table, 0: none */
	__u32 vip;    /* id of its VIP */
	__u32 sticky; /* 1: the source address alone is hashed */
	__u32 used;   /* 1: there is such a service */
	__u8 address[16];
	__be16 port;
	__u8 protocol;
	__u8 pad1[5];
	__u64 idle_ns; /* as configured, for readers */
	__u64 closing_ns;
	__u8 pad2[8];
};

/* What a packet needs to leave for a destination, by slot: one cache line. The
 * way out comes last: a record is written in this order.
 */
struct xvs_destination {
	/* One word: who has the slot. */
	__u32 generation; /* a flow that names another is a miss */
	__u32 service;	  /* id of the service */
	__u8 mac[6];	  /* of the server */
	__u8 pad1[2];
	__u8 source_mac[6]; /* of the way out */
	__u8 pad2[2];
	__u32 idle;    /* ticks that a silent flow lives */
	__u32 closing; /* the same after FIN or RST */
	/* One word: the way out. */
	__u32 ifindex; /* 0: none now */
	__u32 mtu;     /* octets of an IP packet */
	__u8 pad3[24];
};

/* Why a destination has a next hop or not. */
enum xvs_status {
	XVS_REACHABLE,
	XVS_NO_PREFIX,
	XVS_INTERFACE_DOWN,
	XVS_RESOLVING,
	XVS_NO_NEIGHBOUR,
};

/* Part of a lookup table: the slots of XVS_CHUNK entries in a row. */
struct xvs_chunk_key {
	__u32 table;
	__u32 chunk;
};

struct xvs_chunk {
	__u32 slot[XVS_CHUNK];
};

/* A flow's key: the packet's addresses and ports as they are on the wire. */
struct xvs_flow4_key {
	__be32 saddr;
	__be32 daddr;
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 pad[3];
};

struct xvs_flow6_key {
	__u8 saddr[16];
	__u8 daddr[16];
	__be16 sport;
	__be16 dport;
	__u8 protocol;
	__u8 pad[3];
};

enum xvs_flow_state {
	XVS_FLOW_OPEN,
	XVS_FLOW_CLOSING, /* FIN or RST seen from the client */
};

struct xvs_flow {
	__u32 slot;
	__u32 generation;
	__u32 seen; /* tick of the last packet */
	enum xvs_flow_state state;
};

/* A packet that comes in fragments. */
struct xvs_fragment_key {
	__u8 saddr[16];
	__u8 daddr[16];
	__be32 id;
	__u8 protocol;
	__u8 pad[3];
};

struct xvs_fragment {
	__u32 slot;
	__u32 generation;
	__u32 seen; /* tick of the first fragment */
	__u32 pad;
};

/* What tells foreign frames from ours before anything is looked up. */
struct xvs_gate {
	/* Each VIP's hash has its bit set; a clear bit means: no VIP. */
	__u64 filter[XVS_FILTER_BITS / 64];
	/* MAC addresses that are this host's, their 6 octets first in memory;
	 * 0 ends the list.
	 */
	__u64 macs[XVS_MACS];
};

/* Counters of one CPU. */
struct xvs_cpu {
	__u64 reasons[XVS_REASON_ROOM];
	__u64 packets;	 /* all, also counts down to the next sample */
	__u64 sample_ns; /* time spent on the sampled packets */
	__u64 samples;
	__u64 icmp_next; /* ns when the next ICMP error is due */
	__u64 pad[4];
};

/* Counters of one service or VIP on one CPU: packets not forwarded. */
struct xvs_refused {
	__u64 reasons[XVS_REASON_ROOM];
};

/* Counters of one destination on one CPU: one cache line. */
struct xvs_traffic {
	__u64 packets;
	__u64 octets;
	__u64 flows;
	__u64 syn;
	__u64 fin;
	__u64 rst;
	__u64 pad[2];
};

/* What readers of an instance want to know of a destination, by slot. */
struct xvs_destination_info {
	__u8 address[16];
	__u32 service; /* 0: the slot is free */
	__u32 generation;
	__u32 weight;
	__u32 disabled; /* 1: gets no new flows */
	enum xvs_status status;
	__u32 pad;
	/* What the slot had counted before it was this destination's. */
	struct xvs_traffic base;
};

/* What a scan of the flows found, by slot; slot 0 has the sums. */
struct xvs_gauge {
	__u32 active; /* open TCP connections */
	__u32 recent; /* flows with a packet in the last minute */
	__u32 flows;  /* flows that the tables hold */
	__u32 pad;
};

/* Traffic of what is gone: at 0 of former VIPs; at a service's id of its
 * former destinations; at a VIP's id, after all services' ids, of its former
 * services.
 */
struct xvs_retired {
	struct xvs_traffic traffic;
	struct xvs_refused refused;
	/* What the id had counted before it was this service's or VIP's. */
	struct xvs_refused base;
};

struct xvs_interface {
	__u32 ifindex; /* 0: end of the list */
	__u32 generic; /* 1: attached in generic mode */
	char name[16];
};

/* One record that describes the instance to its readers. */
struct xvs_instance {
	enum xvs_layout layout;
	enum xvs_reason reasons; /* the first number that is no reason */
	enum xvs_tick tick;
	__u32 process;
	/* Odd while counters move from one record to another: what is read
	 * meanwhile does not add up.
	 */
	__u64 changes;
	__u64 started_ns; /* CLOCK_MONOTONIC */
	struct xvs_settings settings;
	__u32 flows;	/* limit of each flow table */
	__u32 prefixes; /* records in the map of prefixes */
	struct xvs_interface interfaces[XVS_INTERFACES];
};

/* A prefix of a VLAN, by its position in the list. */
struct xvs_prefix {
	__u8 address[16];
	__u32 length; /* of the 128 bits */
	__u32 vlan;
	__u32 ifindex; /* of the interface that is in it, 0: none */
	__u32 pad;
};

_Static_assert(XVS_REASONS <= XVS_REASON_ROOM, "reasons have room");
_Static_assert(sizeof(struct xvs_service) == 64, "one cache line");
_Static_assert(sizeof(struct xvs_destination) == 64, "one cache line");
_Static_assert(sizeof(struct xvs_traffic) == 64, "one cache line");
_Static_assert(sizeof(struct xvs_cpu) == 256, "whole cache lines");
_Static_assert(sizeof(struct xvs_flow4_key) == 16, "packed");
_Static_assert(sizeof(struct xvs_flow6_key) == 40, "packed");
_Static_assert(sizeof(struct xvs_flow) == 16, "packed");

#endif
