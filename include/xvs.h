/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * Every struct and constant that the data plane (C) and the control plane
 * (Rust) share. Rust gets them through the skeleton, from this file's BTF.
 *
 * Addresses of both families are 16 octets, IPv4 mapped into IPv6, except in
 * flows and the sources of fragments. Times are ticks of 2^30 ns of
 * CLOCK_MONOTONIC, which wrap; a difference of two ticks is what counts.
 *
 * The control plane writes records word by word while packets are read, so
 * whatever must change at once lies within one aligned word of 8 octets.
 */
#ifndef XVS_H
#define XVS_H

/* Changes whenever a map's name, key or value does. */
enum xvs_layout {
	XVS_LAYOUT_VERSION = 8,
};

/* Times in ticks, and what a tick is. */
enum xvs_tick {
	/* Shift from nanoseconds to ticks. */
	XVS_TICK_SHIFT = 30,
	/* 60 s: a SYN for a flow that is silent for longer opens a new one. */
	XVS_TICKS_SYN = 56,
	/* 60 s: a flow with a packet since then is a recent one. */
	XVS_TICKS_RECENT = 56,
	/* Ticks by which the clock of one CPU may be ahead of another's. */
	XVS_TICKS_AHEAD = 16,
	/* 30 s: how long the rest of a packet may take after its first
	 * fragment, as long as Linux waits for it (ipfrag_time).
	 */
	XVS_TICKS_FRAGMENT = 28,
	/* 64 s: a probe that is silent for longer is over. */
	XVS_TICKS_PROBE = 60,
	/* 4 s: the same after FIN or RST. */
	XVS_TICKS_PROBE_CLOSING = 4,
};

enum {
	/* Interfaces an instance can be attached to. */
	XVS_INTERFACES = 64,
	/* MAC addresses that frames for a VIP may be sent to. */
	XVS_MACS = 64,
	/* Bits of the filter that tells most foreign addresses from VIPs. */
	XVS_FILTER_BITS = 65536,
	/* Ids that a VLAN tag has room for. */
	XVS_VLANS = 4096,
	/* Members of bonds that are known not to be in use. */
	XVS_BACKUPS = 8,
	/* Room for enum xvs_reason. */
	XVS_REASON_ROOM = 32,
	/* Places for flows in one bucket: a cache line. */
	XVS_FLOW_WAYS = 4,
	/* Places in one group of 64 buckets: a page, or two. */
	XVS_FLOW_GROUP = 256,
	/* Locks for claiming a place, where there is no other way to. */
	XVS_FLOW_LOCKS = 4096,
	/* Entries that say where a service may be found. */
	XVS_HINTS = 16384,
	/* Sources that the limit of ICMP errors tells apart. */
	XVS_ICMP_SOURCES = 4096,
	/* Probes that are followed at once. */
	XVS_PROBES = 65536,
	/* The ports of probes: the first, and how many. Hosts take ports for
	 * connections of their own from 32,768 on.
	 */
	XVS_PROBE_PORT = 1024,
	XVS_PROBE_PORTS = 31744,
};

/* Programs that the data plane calls, by their place in the map. */
enum xvs_program {
	XVS_PROGRAM_ANSWER,  /* to a probe */
	XVS_PROGRAM_CAPTURE, /* of frames, whose verdict is given already */
	XVS_PROGRAMS,
};

/* How packets travel to a destination. */
enum xvs_tunnel_kind {
	XVS_TUNNEL_NONE, /* as they are, to its MAC address */
	XVS_TUNNEL_IPIP, /* RFC 2003, 2473, 4213 */
	XVS_TUNNEL_GRE,	 /* RFC 2784, 7676 */
	XVS_TUNNEL_FOU,	 /* the IP packet alone behind a UDP header */
	XVS_TUNNEL_GUE,	 /* draft-ietf-intarea-gue-09, version 0 */
};

enum xvs_tunnel_paths {
	/* Ways that the flows of a destination behind a tunnel are spread over:
	 * two bits of a hash.
	 */
	XVS_PATHS = 4,
};

/* What else is to be known of a tunnel: bits. */
enum xvs_tunnel_flags {
	XVS_TUNNEL_V6 = 1 << 0,	      /* the outer header is IPv6 */
	XVS_TUNNEL_CHECKSUM = 1 << 1, /* UDP has a checksum */
};

/* The memory of lookup tables. */
enum xvs_tables {
	/* Entries in one chunk: a page. */
	XVS_CHUNK = 1024,
	/* A table's number is that of its block, shifted by so many bits, plus
	 * that of its first chunk there. Block 0 is none.
	 */
	XVS_BLOCK_SHIFT = 20,
};

/* The owner of a place in the flow table, from the low bits up: the slot of
 * the destination, a check, the client's port. The check is the low bits of
 * the flow's hash plus the slot's generation, so that a flow of a former
 * destination never fits the present one.
 */
enum xvs_flow_owner {
	XVS_FLOW_SLOT_BITS = 20,
	XVS_FLOW_CHECK_BITS = 28,
	XVS_FLOW_PORT_SHIFT = 48,
	/* Slot 0, which no flow has: a place that is free again. */
	XVS_FLOW_FREED = 1 << 20,
	/* Slot 0 too: a place that is being written. */
	XVS_FLOW_BUSY = 2 << 20,
};

/* What is known of a flow, from the low bits up: the tick of its last packet,
 * its age, and whether FIN or RST was seen from the client.
 */
enum xvs_flow_meta {
	XVS_FLOW_SEEN_BITS = 24,
	/* In how many later ticks packets came, 3 for any more. */
	XVS_FLOW_AGE = 1 << 24,
	XVS_FLOW_AGE_MAX = 3,
	XVS_FLOW_CLOSING = 1 << 26,
	/* Shift of the rank of a flow with one packet, and by how much less it
	 * is for each later tick (bpf/flow_store.h).
	 */
	XVS_FLOW_RANK_SHIFT = 12,
	XVS_FLOW_RANK_AGE = 4,
};

/* What the 16 bits of a place in the word of its bucket say. A flow's tag is
 * odd, and follows from its hash.
 */
enum xvs_flow_tag {
	XVS_TAG_UNUSED = 0, /* nothing has ever been there */
	XVS_TAG_FREED = 2,
	/* With so many flows a bucket sends new ones to their second one, if
	 * that has fewer.
	 */
	XVS_FLOW_CROWDED = 3,
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
	XVS_NO_HEADROOM,
	XVS_NAT_FROM_WIRE,
	XVS_PROBE_REFUSED,
	/* of the balancer's own probes */
	XVS_PROBE_FORWARDED,
	XVS_PROBE_ANSWERED,
	/* passed to the host's stack, for no process sees to the balancer */
	XVS_UNATTENDED,
	XVS_REASONS,
};

/* Fixed when the program is loaded. */
struct xvs_settings {
	__u64 k0; /* the hash key, little-endian words */
	__u64 k1;
	/* What makes places of flows a secret of this instance. */
	__u64 flow_k0;
	__u64 flow_k1;	    /* odd */
	__u32 flow_groups;  /* of each flow table */
	__u32 table_size;   /* entries of a lookup table */
	__u32 services;	    /* ids are below this */
	__u32 destinations; /* slots are below this */
	__u32 cpus;	    /* CPUs that have counters of their own */
	/* 1: a frame may be in several buffers. */
	__u32 frags;
	__u64 jiffy_ns;		    /* ns in one of the kernel's jiffies */
	__u64 icmp_interval;	    /* ns between ICMP errors of one CPU */
	__u64 icmp_burst;	    /* ns that a CPU may be ahead of that */
	__u64 icmp_source_interval; /* the same for errors to one source */
	__u64 icmp_source_burst;
	__u32 share; /* 1: news of flows are told */
	__u32 pad;
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
	/* One word: the number of the table from before the last change, 0:
	 * none; and the last tick in which it counts.
	 */
	__u32 previous;
	__u32 until;
	__u32 table; /* number of its lookup table, 0: none */
	__u32 vip;   /* id of its VIP */
	__u8 sticky; /* 1: the source address alone is hashed */
	__u8 used;   /* 1: there is such a service */
	__u8 pad[2];
	__u32 transition_ms; /* as configured, for readers */
	__u8 address[16];
	__be16 port;
	__u8 protocol;
	__u8 pad1;
	__u32 new_flows; /* that each CPU stores in a tick, at most */
	__u64 idle_ns;	 /* as configured, for readers */
	__u64 closing_ns;
};

/* The flows of one service that one CPU may store. */
struct xvs_inflow {
	/* In this tick so many are left of the service's new flows. */
	__u32 tick;
	__u32 left;
	__u64 limited; /* packets that stored no flow, as none was left */
};

/* How frames leave for a neighbour. */
struct xvs_way {
	/* Each word of an address has the VLAN, so that they are known to be of
	 * one way out.
	 */
	__u8 mac[6];	    /* of the neighbour */
	__be16 mac_vlan;    /* of the way out, 0: untagged */
	__u8 source_mac[6]; /* of the way out */
	__be16 vlan;	    /* the same */
	/* One word: the way out. */
	__u32 ifindex; /* 0: none now */
	__u32 mtu;     /* octets of a client's IP packet */
};

/* What a packet needs to leave for a destination, by slot: one cache line. The
 * way out comes last: a record is written in this order.
 */
struct xvs_destination {
	/* One word: who has the slot. */
	__u32 generation; /* a flow that names another is a miss */
	__u32 service;	  /* id of the service, 0: nobody has the slot */
	/* What the service is known by. */
	__u8 address[16];
	__be16 port;
	__u8 protocol;
	/* Octets of its tunnel's headers, 0: no tunnel. Of the ways through a
	 * tunnel the one here is the first.
	 */
	__u8 overhead;
	__u8 pad1[4];
	__u32 idle;    /* ticks that a silent flow lives */
	__u32 closing; /* the same after FIN or RST */
	struct xvs_way way;
};

/* A way through a tunnel, XVS_PATHS of them for each slot: one cache line. */
struct xvs_tunnel {
	/* One word. */
	__u16 version; /* odd while the record is written, another afterwards */
	__u8 overhead; /* octets of the headers */
	__u8 pad;
	__u8 kind;	      /* enum xvs_tunnel_kind */
	__u8 flags;	      /* enum xvs_tunnel_flags */
	__be16 port;	      /* of FOU and GUE */
	__u8 source[16];      /* an address of this host */
	__u8 destination[16]; /* the server's */
	struct xvs_way way;
};

/* Why a destination has a next hop or not. */
enum xvs_status {
	XVS_REACHABLE,
	XVS_NO_PREFIX,
	XVS_INTERFACE_DOWN,
	XVS_RESOLVING,
	XVS_NO_NEIGHBOUR,
	XVS_NO_INTERFACE,
	XVS_MTU_TOO_SMALL,
	XVS_NOT_ATTACHED,
	XVS_NO_ROUTE,
	XVS_NO_ADDRESS,
};

/* Why a prefix of a VLAN can be reached or not. */
enum xvs_vlan_status {
	XVS_VLAN_USABLE,
	XVS_VLAN_NO_INTERFACE,
	XVS_VLAN_ELSEWHERE,
	XVS_VLAN_DOWN,
	XVS_VLAN_MTU_TOO_SMALL,
	XVS_VLAN_NOT_ATTACHED,
};

/* Part of a lookup table, which has as many in a row as it needs. */
struct xvs_chunk {
	__u32 slot[XVS_CHUNK];
};

/* A flow's place. Its owner goes first and comes back last when it is written. */
struct xvs_flow {
	__u64 owner; /* enum xvs_flow_owner; 0: never used */
	/* The client's IPv4 address as it is on the wire, or the high half of
	 * the hash of an IPv6 flow.
	 */
	__u32 client;
	__u32 meta; /* enum xvs_flow_meta */
};

/* Two buckets of one group can have a flow, the second only if the first was
 * crowded.
 */
struct xvs_flows4 {
	struct xvs_flow places[XVS_FLOW_GROUP];
};

/* What is in a group's places, each bucket in one word: a packet that has no
 * flow finds that out here.
 */
struct xvs_tags {
	__u64 buckets[XVS_FLOW_GROUP / XVS_FLOW_WAYS];
};

struct xvs_bucket6 {
	struct xvs_flow places[XVS_FLOW_WAYS];
	__u8 clients[XVS_FLOW_WAYS][16]; /* their addresses */
};

struct xvs_flows6 {
	struct xvs_bucket6 buckets[XVS_FLOW_GROUP / XVS_FLOW_WAYS];
};

/* What has become of a flow, for other balancers. */
struct xvs_flow_news {
	__u8 client[16]; /* its address */
	__u32 slot;
	__u32 generation; /* of the slot */
	__u32 meta;	  /* enum xvs_flow_meta */
	__be16 port;	  /* the client's */
	__u16 pad;
};

/* What became of the records that other balancers sent. */
struct xvs_share {
	__u64 stored;
	__u64 refreshed; /* the flow was there, with that server */
	__u64 kept;	 /* the flow was there, with another server */
	/* refused */
	__u64 no_service;
	__u64 no_destination;
	__u64 expired;
	__u64 no_room;
	__u64 bad; /* no records, or of another version */
};

/* Where a packet goes that comes in fragments. */
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
	/* A bit for each VLAN that the host is in; that of 0 is set, which is
	 * the id of a frame without a tag, or with a priority alone.
	 */
	__u64 vlans[XVS_VLANS / 64];
	/* Members of bonds that are not in use, by ifindex; 0 ends the list.
	 * The kernel takes nothing that comes in there, for another member has
	 * it.
	 */
	__u32 backups[XVS_BACKUPS];
	/* NAT addresses: the first of each family, which begins at a multiple of
	 * their number: of as many IPv4 addresses as there are zeros in the mask,
	 * of 2^32 IPv6 addresses.
	 */
	__be32 nat4;
	__be32 nat4_mask; /* 0: there are none, and no probes */
	__u64 nat6[2];
};

/* The probe interface, a veth: the host's end, and that which programs have. */
struct xvs_probe_link {
	__u32 ifindex; /* of the programs' end, 0: there is none */
	__u32 pad;
	__u8 host_mac[6];
	__u8 pad1[2];
	__u8 mac[6];
	__u8 pad2[2];
};

/* A NAT address, by its number: probes of a destination. Number 0 is the host's
 * own.
 */
struct xvs_nat {
	__u32 slot;  /* 0: nobody has the number */
	__be16 vlan; /* that answers come in, 0: untagged */
	__u8 pad[2];
	__u32 port; /* and by which port: its interface's index */
	__u32 pad1;
	__u8 source[16]; /* what probes are sent from, zeros: nothing */
};

/* What an answer to a probe shows. */
struct xvs_probe_key {
	__u8 vip[16];
	__u8 source[16];   /* the probe's */
	__be16 port;	   /* of the VIP; 0 for an echo */
	__be16 translated; /* of the source; an echo's id */
	__u8 protocol;
	__u8 pad[3];
};

struct xvs_probe {
	__u32 nat;    /* number */
	__u32 seen;   /* tick of the last packet either way */
	__be16 port;  /* the host's, which was translated */
	__u8 closing; /* ends that sent FIN, both after RST: bits */
	__u8 pad[5];
};

/* What a probe's packet from the host shows. */
struct xvs_probe_flow {
	__u32 nat;
	__be16 source; /* port; an echo's id */
	__be16 port;
	__u8 protocol;
	__u8 pad[3];
};

/* Counters of one CPU, which no other one writes. */
struct xvs_cpu {
	__u64 reasons[XVS_REASON_ROOM];
	__u64 packets;	 /* all, also counts down to the next sample */
	__u64 reason;	 /* of the last packet */
	__u64 captures;	 /* reasons that frames are captured of: bits */
	__u64 icmp_next; /* ns when the next ICMP error is due */
	__u64 clock;	 /* ns of CLOCK_MONOTONIC when jiffies were 0 */
	__u64 misses;	 /* how many packets of late had no flow */
	__u64 zero;	 /* for the verifier it can be anything */
	__u64 began;	 /* ns when the last sampled packet came */
	/* The tick until which packets are forwarded unless a process says so
	 * again; 0: until further notice. Written by the control plane.
	 */
	__u64 lease;
	/* Of the packet that is on its way. */
	__u32 fragment_id;
	__u32 fragment_protocol;
	__u32 more;	 /* 1: more fragments follow */
	__u32 stored;	 /* flows stored for it */
	__u64 verdict;	 /* of the last packet that is to be captured */
	__u64 replaced;	 /* flows that lived and lost their place */
	__u64 news_lost; /* news of flows that found no room */
	__u64 sample_ns; /* time spent on the sampled packets */
	__u64 samples;
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
	enum xvs_tunnel_kind tunnel;
	__be16 port;   /* of FOU and GUE */
	__u8 checksum; /* of these: 1: by default, 2: no, 3: yes */
	__u8 pad;
	__u32 nat; /* number of its NAT address */
	/* What the slot had counted before it was this destination's. */
	struct xvs_traffic base;
	__u64 disabled_ns; /* since when it is, of CLOCK_MONOTONIC, 0: it is not */
	__u64 deadline_ns; /* how long its flows stay from then on, 0: always */
	__u32 drained;	   /* 1: it is disabled, and has no flows any more */
	__u32 pad1;
};

/* What a scan of the flows found, by slot; slot 0 has the sums. */
struct xvs_gauge {
	__u32 active; /* open TCP connections */
	__u32 recent; /* flows with a packet in the last minute */
	__u32 flows;  /* flows that the tables hold */
	__u32 newest; /* tick of the last packet of any of them */
	/* Of a disabled destination: packets between the last two scans, and
	 * the ns between these, 0 before there were two.
	 */
	__u64 packets;
	__u64 interval;
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
	__u64 limited; /* as in struct xvs_inflow */
	__u64 limited_base;
};

/* What network cards do to packets on reception that XDP cannot have: bits. */
enum xvs_offload {
	XVS_OFFLOAD_NONE = 0,
	XVS_OFFLOAD_RXVLAN = 1 << 0,
	XVS_OFFLOAD_LRO = 1 << 1,
	XVS_OFFLOAD_GRO_HW = 1 << 2,
	XVS_OFFLOAD_RXVLAN_STAG = 1 << 3,
};

struct xvs_interface {
	__u32 ifindex; /* 0: end of the list */
	__u32 generic; /* 1: attached in generic mode */
	char name[16];
};

/* What the program is on. */
struct xvs_interfaces {
	struct xvs_interface list[XVS_INTERFACES];
};

/* An interface whose receive offloads matter: one with the program, or a member
 * of a bond with it.
 */
struct xvs_card {
	__u32 ifindex; /* 0: no card */
	__u32 device;  /* of the interface with the program */
	char name[16];
	/* Sets of bits: those that were turned off, written before it is done;
	 * and those that are on, and stayed so when asked to be off.
	 */
	enum xvs_offload offloads_off;
	enum xvs_offload offloads_on;
};

struct xvs_cards {
	struct xvs_card list[XVS_INTERFACES];
};

/* One record that describes the instance to its readers. */
struct xvs_instance {
	enum xvs_layout layout;
	enum xvs_reason reasons; /* the first number that is no reason */
	enum xvs_tick tick;
	enum xvs_flow_owner flow_owner;
	enum xvs_flow_meta flow_meta;
	enum xvs_flow_tag flow_tag;
	__u32 process;
	enum xvs_tables tables;
	enum xvs_tunnel_paths paths;
	enum xvs_tunnel_flags tunnel_flags;
	/* Odd while counters move from one record to another: what is read
	 * meanwhile does not add up.
	 */
	__u64 changes;
	__u64 started_ns; /* CLOCK_MONOTONIC */
	struct xvs_settings settings;
	__u32 flows;	/* that each flow table is meant for */
	__u32 prefixes; /* records in the map of prefixes */
	__u64 netns;	/* inode number of its network namespace, 0: unknown */
	/* The first NAT addresses, zeros: none. */
	__u8 nat4[16];
	__u8 nat6[16];
	enum xvs_program programs;
	__u32 nats; /* the highest number of a NAT address that was given */
	/* ns that packets are forwarded without a process, 0: not at all, all
	 * ones: for ever.
	 */
	__u64 keep_ns;
};

/* A prefix of a VLAN, by its position in the list. */
struct xvs_prefix {
	__u8 address[16];
	__u8 own[16];	  /* the host's address in it, zeros: none */
	__u8 gateway[16]; /* of its interface's default route, zeros: none */
	__u32 length;	  /* of the 128 bits */
	__u32 vlan;
	__u32 ifindex; /* of the interface that is in it, 0: none */
	__u32 mtu;     /* octets of an IP packet */
	__u32 limit;   /* of the MTU, as configured, 0: none */
	__u32 tag;     /* id that frames leave with, 0: none */
	enum xvs_vlan_status status;
	__u32 pad;
};

/* What can happen without a call. */
enum xvs_event_kind {
	XVS_EVENT_NONE,
	XVS_EVENT_GENERIC_MODE,
	XVS_EVENT_OFFLOAD_ON,
	XVS_EVENT_RESOLVED,
	XVS_EVENT_UNREACHABLE,
	XVS_EVENT_INTERFACE_DOWN,
	XVS_EVENT_INTERFACE_UP,
	XVS_EVENT_ATTACHED,
	XVS_EVENT_VLAN,
	XVS_EVENT_PATH_MTU,
	XVS_EVENT_DROPPED,
	XVS_EVENT_LOST,
	XVS_EVENT_FAILED,
	XVS_EVENT_TABLE_REBUILT,
	XVS_EVENT_FLOOD_BEGAN,
	XVS_EVENT_FLOOD_ENDED,
	XVS_EVENT_DRAINED,
	XVS_EVENT_TAKEN_OVER,
	XVS_EVENT_KINDS,
};

enum xvs_event_room {
	/* Events that are kept. */
	XVS_EVENTS = 1024,
	/* Octets of an event's text; more are cut off. */
	XVS_EVENT_TEXT = 416,
};

/* What happened last, in a ring: event n is at n modulo XVS_EVENTS. What a kind
 * does not need is zero. Text is UTF-8, zeros after it.
 */
struct xvs_event {
	__u64 number;  /* from 1 on; written last, 0 while the rest is */
	__u64 time_ns; /* of CLOCK_REALTIME */
	enum xvs_event_kind kind;
	__u32 status;	  /* enum xvs_status, xvs_vlan_status, xvs_offload */
	__u8 address[16]; /* of a destination, a server, a prefix */
	struct xvs_service_key service;
	__u32 vlan;
	__u32 length; /* of the prefix */
	__u32 pad;
	__u64 count; /* octets, packets, flows, destinations, events */
	__u8 interface[16];
	__u8 text[XVS_EVENT_TEXT];
};

_Static_assert(XVS_REASONS <= XVS_REASON_ROOM, "reasons have room");
_Static_assert(sizeof(struct xvs_service) == 64, "one cache line");
_Static_assert(sizeof(struct xvs_inflow) == 16, "none lies in two cache lines");
_Static_assert(sizeof(struct xvs_destination) == 64, "one cache line");
_Static_assert(sizeof(struct xvs_tunnel) == 64, "one cache line");
_Static_assert(sizeof(struct xvs_traffic) == 64, "one cache line");
_Static_assert(sizeof(struct xvs_cpu) == 384, "whole cache lines");
_Static_assert(sizeof(struct xvs_chunk) == 4096, "one page");
_Static_assert(sizeof(struct xvs_flow) == 16, "packed");
_Static_assert(sizeof(struct xvs_flow_news) == 32, "packed");
_Static_assert(sizeof(struct xvs_flows4) == 4096, "one page");
_Static_assert(sizeof(struct xvs_flows6) == 8192, "two pages");
_Static_assert(sizeof(struct xvs_event) == 512, "whole cache lines");

#endif
