/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Flows: which destination a client's packets went to so far. Nothing else
 * knows what the tables are made of.
 */
#ifndef XVS_FLOW_H
#define XVS_FLOW_H

/* The destination of a slot; who has it goes into the packet, read at once. */
static __always_inline struct xvs_destination *slot_owner(struct packet *p,
							  __u32 slot)
{
	struct xvs_destination *d;
	__u64 owner;

	d = bpf_map_lookup_elem(&destinations, &slot);
	if (!d)
		return NULL;
	owner = *(volatile __u64 *)&d->generation;
	p->slot = slot;
	p->generation = owner;
	p->owner = owner >> 32;
	return d;
}

static __always_inline struct xvs_flow *flow_find(struct packet *p)
{
	if (p->version == 4)
		return bpf_map_lookup_elem(&flows4, &p->key.v4);
	return bpf_map_lookup_elem(&flows6, &p->key.v6);
}

/* Ticks since the flow's last packet: -1 when another CPU's packet came later
 * than this one and was faster.
 */
static __always_inline __s32 flow_silence(struct packet *p,
					  struct xvs_flow *flow)
{
	return p->now - flow->seen;
}

/* The flow's destination while the flow lives, or NULL. */
static __always_inline struct xvs_destination *
flow_destination(struct packet *p, struct xvs_flow *flow)
{
	struct xvs_destination *d;
	__s32 limit;

	d = slot_owner(p, flow->slot);
	if (!d || p->generation != flow->generation)
		return NULL;
	limit = flow->state == XVS_FLOW_CLOSING ? d->closing : d->idle;
	if (flow_silence(p, flow) > limit)
		return NULL;
	return d;
}

static __always_inline bool flow_takes_syn(struct packet *p,
					   struct xvs_flow *flow)
{
	return flow->state == XVS_FLOW_OPEN &&
	       flow_silence(p, flow) <= XVS_TICKS_SYN;
}

static __always_inline bool closes(struct packet *p)
{
	return p->flags & (TCP_FIN | TCP_RST);
}

/* A packet was seen; writes only what changes, so that the line stays clean
 * for the other CPUs. The kernel reuses entries at once, so on a race this may
 * touch another flow's.
 */
static __always_inline void flow_touch(struct packet *p, struct xvs_flow *flow)
{
	if (flow->seen != p->now)
		flow->seen = p->now;
	if (closes(p) && flow->state == XVS_FLOW_OPEN)
		flow->state = XVS_FLOW_CLOSING;
}

static __always_inline void flow_store(struct packet *p)
{
	struct xvs_flow flow = {
		.slot = p->slot,
		.generation = p->generation,
		.seen = p->now,
		.state = closes(p) ? XVS_FLOW_CLOSING : XVS_FLOW_OPEN,
	};
	long error;

	if (p->version == 4)
		error = bpf_map_update_elem(&flows4, &p->key.v4, &flow,
					    BPF_ANY);
	else
		error = bpf_map_update_elem(&flows6, &p->key.v6, &flow,
					    BPF_ANY);
	p->stored = !error;
}

static __always_inline void flow_delete(struct packet *p)
{
	if (p->version == 4)
		bpf_map_delete_elem(&flows4, &p->key.v4);
	else
		bpf_map_delete_elem(&flows6, &p->key.v6);
}

#endif
