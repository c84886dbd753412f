/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* The maps, in the order in which a packet meets them. Sizes that depend on
 * options are set by the control plane before it loads the program. It maps
 * all arrays into its memory.
 */
#ifndef XVS_MAPS_H
#define XVS_MAPS_H

/* Frozen before the program is loaded, so that the verifier folds them. */
const volatile struct xvs_settings settings = {};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_gate);
} gate SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_flows4);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_flows6);
} flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_tags);
} tags4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_tags);
} tags6 SEC(".maps");

/* Only for kernels without atomic exchanges (bpf/flow_store.h). A lock cannot
 * lie in memory that is mapped.
 */
struct xvs_flow_lock {
	struct bpf_spin_lock lock;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVS_FLOW_LOCKS);
	__type(key, __u32);
	__type(value, struct xvs_flow_lock);
} flow_locks SEC(".maps");

/* News of flows, for other balancers; a page unless they are told. v5.8:
 * 457f44363a88 ("bpf: Implement BPF ring buffer and verifier support for it")
 */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} flow_news SEC(".maps");

/* Destinations by slot; slot 0 is none. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct xvs_destination);
} destinations SEC(".maps");

/* Ways through tunnels, XVS_PATHS in a row for each slot. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XVS_PATHS);
	__type(key, __u32);
	__type(value, struct xvs_tunnel);
} tunnels SEC(".maps");

/* Ids of services by address, port and protocol. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2);
	__type(key, struct xvs_service_key);
	__type(value, __u32);
} service_ids SEC(".maps");

/* Ids of services by a hash of the same; the last that came has the entry. To
 * be tried first, for it is faster.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XVS_HINTS);
	__type(key, __u32);
	__type(value, __u64);
} service_hints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct xvs_service);
} services SEC(".maps");

/* Lookup tables, in blocks that are made when there are tables for them. A
 * table that a service has is never changed: a new one is written elsewhere,
 * and one word of the service's record is what swaps them.
 *
 * Blocks differ in size, which is BPF_F_INNER_MAP. That also keeps their lookup
 * from being inlined, which from v6.0 on, before v6.4 and v6.1.34, finds entry
 * 0 alone: cba41bb78d70 ("bpf: Fix elem_size not being set for inner maps").
 * They are made without BTF types, so none is named here.
 */
struct xvs_block {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE | BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct xvs_chunk));
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct xvs_block);
} tables SEC(".maps");

/* Ids of VIPs by address. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2);
	__type(key, __u8[16]);
	__type(value, __u32);
} vip_ids SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct xvs_fragment);
} fragments SEC(".maps");

/* The interfaces that packets may leave by, by index. The kernel takes an entry
 * out when its interface goes: 6f9d451ab1a3 ("xdp: Add devmap_hash map type for
 * looking up devices by hashed index"), ce197d83a9fc ("xdp: Handle device
 * unregister for devmap_hash map type").
 */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, XVS_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

/* Those of them that send frames which are in several buffers. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, XVS_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} frags_ports SEC(".maps");

/* When the next ICMP error to a source is due, in ns; by a hash of its address. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, XVS_ICMP_SOURCES);
	__type(key, __u32);
	__type(value, __u64);
} icmp_sources SEC(".maps");

/* Programs that go on with what the data plane leaves to them. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, XVS_PROGRAMS);
	__type(key, __u32);
	__type(value, __u32);
} programs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_probe_link);
} probe_link SEC(".maps");

/* NAT addresses by number. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct xvs_nat);
} nats SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, XVS_PROBES);
	__type(key, struct xvs_probe_key);
	__type(value, struct xvs_probe);
} probes SEC(".maps");

/* The port that a probe was translated to. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, XVS_PROBES);
	__type(key, struct xvs_probe_flow);
	__type(value, __u32);
} probe_flows SEC(".maps");

/* The port that an interface with the program is, or is a member of: a bond is
 * there beside its members.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4 * XVS_INTERFACES);
	__type(key, __u32);
	__type(value, __u32);
} port_devices SEC(".maps");

/* A record for each CPU that there could be. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_cpu);
} cpus SEC(".maps");

/* Counters, one row of records for each CPU: no CPU writes another's line,
 * and memory goes with the CPUs there are, not with those there could be.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_traffic);
} traffic SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_refused);
} service_refused SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_refused);
} vip_refused SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_inflow);
} inflows SEC(".maps");

/* What follows is written by the control plane for readers of the instance;
 * no packet touches it.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_instance);
} instance SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_interfaces);
} interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_cards);
} cards SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_prefix);
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct xvs_destination_info);
} destination_infos SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct xvs_gauge);
} gauges SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct xvs_retired);
} retired SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct xvs_share);
} share SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XVS_EVENTS);
	__type(key, __u32);
	__type(value, struct xvs_event);
} event_log SEC(".maps");

#endif
