/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Flows: which destination a client's packets went to so far.
 *
 * A table is an array of groups of places, one page each (include/xvs.h), and
 * another of the tags of these places. A keyed hash gives a flow its group, two
 * buckets of it, and its tag; it is in the second bucket only when the first
 * was crowded. Nothing is locked. A reader follows a place only if the client,
 * the service and the generation of the slot all fit, and the owner has not
 * changed in between.
 */
#ifndef XVS_FLOW_H
#define XVS_FLOW_H

#define SLOT_MASK ((1ULL << XVS_FLOW_SLOT_BITS) - 1)
#define CHECK_MASK ((1ULL << XVS_FLOW_CHECK_BITS) - 1)
#define SEEN_MASK ((1U << XVS_FLOW_SEEN_BITS) - 1)

/* Times a tag: that tag in each place of a bucket. */
#define TAGS_EACH 0x0001000100010001ULL

/* No place. */
#define NOWHERE XVS_FLOW_GROUP

/* Where a flow is, or could be. */
struct flow {
	void *group;
	struct xvs_tags *tags; /* of the group */
	__u64 seen; /* tags of the first bucket, when nothing was found */
	__u64 hash;
	__u32 client; /* as in struct xvs_flow */
	__u32 meta;   /* of the flow, when it lives */
	/* The flow's place, or one whose flow is dead; NOWHERE if neither. */
	__u64 place;
	__u64 owner; /* of the place */
	/* What may be stored of the service, once it is asked for. */
	struct xvs_inflow *inflow;
	__u32 left; /* flows that may be */
	/* 1: the packet goes elsewhere than by the table from before. */
	__u32 moved;
};

/* The destination of a slot; who has it goes into the packet, read at once. */
static __always_inline struct xvs_destination *slot_owner(struct packet *p,
							  __u32 slot)
{
	struct xvs_destination *d;
	__u64 owner;

	d = bpf_map_lookup_elem(&destinations, &slot);
	if (!d)
		return NULL;
	owner = READ_ONCE(*(__u64 *)&d->generation);
	p->slot = slot;
	p->generation = owner;
	p->owner = owner >> 32;
	return d;
}

/* A place of the flow's group. The verifier must see the bounds. */
static __always_inline struct xvs_flow *
flow_place(struct packet *p, struct flow *flow, __u32 place)
{
	asm volatile("%0 &= 255" : "+r"(place));
	if (p->version == 4)
		return flow->group + place * sizeof(struct xvs_flow);
	return flow->group + (place << 5 & 0x1f80) + (place << 4 & 0x30);
}

/* The client's IPv6 address of a place: as far behind it as all of the bucket's
 * places are long.
 */
static __always_inline __u64 *flow_client6(struct packet *p, struct flow *flow,
					   __u32 place)
{
	return (__u64 *)(flow_place(p, flow, place) + XVS_FLOW_WAYS);
}

/* The places of the first bucket are start ^ 0 to start ^ 3. All bits of the
 * start come from the hash: to the verifier one place is then like another.
 */
static __always_inline __u32 flow_start1(struct flow *flow)
{
	return flow->hash >> 26 & 0xff;
}

static __always_inline __u32 flow_start2(struct flow *flow)
{
	return flow_start1(flow) ^ ((flow->hash >> 34 & 0xfc) | 4);
}

/* The word with the tags of a bucket. */
static __always_inline __u64 *flow_tags(struct flow *flow, __u32 start)
{
	start /= XVS_FLOW_WAYS;
	asm volatile("%0 &= 63" : "+r"(start));
	return &flow->tags->buckets[start];
}

static __always_inline __u64 flow_tag(struct flow *flow)
{
	return (flow->hash >> 8 & 0xffff) | 1;
}

/* The bits of a place in the word of its bucket. */
static __always_inline __u32 tag_shift(__u32 place)
{
	return place % XVS_FLOW_WAYS * 16;
}

static __always_inline __u64 tag_of(__u64 tags, __u32 place)
{
	return tags >> tag_shift(place) & 0xffff;
}

static __always_inline __u64 tags_with(__u64 tags, __u32 place, __u64 tag)
{
	return (tags & ~(0xffffULL << tag_shift(place))) |
	       tag << tag_shift(place);
}

/* Whether a bucket has a tag, which is not 0. */
static __always_inline bool tags_have(__u64 tags, __u64 tag)
{
	tags ^= tag * TAGS_EACH;
	return (tags - TAGS_EACH) & ~tags & 0x8000800080008000ULL;
}

/* How many places of a bucket have a flow: tags that are odd. */
static __always_inline __u32 tags_flows(__u64 tags)
{
	return (tags & TAGS_EACH) * TAGS_EACH >> 48;
}

/* How many have ever had one: tags that are not 0. */
static __always_inline __u32 tags_used(__u64 tags)
{
	tags |= (tags & 0x7fff7fff7fff7fffULL) + 0x7fff7fff7fff7fffULL;
	return tags_flows(tags >> 15);
}

static __always_inline __u64 flow_owner(struct packet *p, struct flow *flow)
{
	__u64 check = (flow->hash + p->generation) & CHECK_MASK;

	return (__u64)source_port(p) << XVS_FLOW_PORT_SHIFT |
	       check << XVS_FLOW_SLOT_BITS | p->slot;
}

static __always_inline __u32 flow_group(struct flow *flow)
{
	return (flow->hash >> 32) * settings.flow_groups >> 32;
}

/* Finds the flow's group; false if there is none, which cannot be. */
static __always_inline bool flow_locate(struct packet *p, struct flow *flow)
{
	__u32 group;

	p->hash = hash_tuple(p);
	flow->hash = hash_flow(p->hash);
	flow->place = NOWHERE;
	group = flow_group(flow);
	if (p->version == 4) {
		flow->client = p->key.saddr[0];
		flow->group = bpf_map_lookup_elem(&flows4, &group);
		flow->tags = bpf_map_lookup_elem(&tags4, &group);
	} else {
		flow->client = flow->hash >> 32;
		flow->group = bpf_map_lookup_elem(&flows6, &group);
		flow->tags = bpf_map_lookup_elem(&tags6, &group);
	}
	return flow->group && flow->tags;
}

/* Whether the destination is one of the packet's service. */
static __always_inline bool is_of_service(struct packet *p,
					  struct xvs_destination *d)
{
	__u64 *address = (__u64 *)d->address;

	if (d->port != destination_port(p) || d->protocol != p->key.protocol)
		return false;
	if (p->version == 4)
		return address[1] >> 32 == p->key.daddr[0];
	return address[0] == p->key.daddr[0] && address[1] == p->key.daddr[1];
}

/* The destination of the flow in a place that has the packet's client; NULL if
 * that is a flow of another service, or its destination is gone. In the latter
 * case the place can be taken.
 */
static __always_inline struct xvs_destination *
flow_check(struct packet *p, struct flow *flow, __u32 place, __u64 owner)
{
	struct xvs_destination *d;

	if (p->version == 6) {
		__u64 *client = flow_client6(p, flow, place);

		if (READ_ONCE(client[0]) != p->key.saddr[0] ||
		    READ_ONCE(client[1]) != p->key.saddr[1])
			return NULL;
	}
	d = slot_owner(p, owner & SLOT_MASK);
	/* What nobody has is of no service. */
	if (!d || !is_of_service(p, d))
		return NULL;
	flow->place = place;
	flow->owner = owner;
	return owner == flow_owner(p, flow) ? d : NULL;
}

/* Looks through one bucket. */
static __always_inline struct xvs_destination *
flow_look(struct packet *p, struct flow *flow, __u32 start, __u64 tags)
{
	__u64 tag = flow_tag(flow);
	int i;

#pragma unroll
	for (i = 0; i < XVS_FLOW_WAYS; i++) {
		struct xvs_destination *d;
		struct xvs_flow *place;
		__u64 owner;

		if (tag_of(tags, start ^ i) != tag)
			continue;
		place = flow_place(p, flow, start ^ i);
		owner = READ_ONCE(place->owner);
		if (owner >> XVS_FLOW_PORT_SHIFT != source_port(p) ||
		    READ_ONCE(place->client) != flow->client)
			continue;
		d = flow_check(p, flow, start ^ i, owner);
		if (!d)
			continue;
		flow->meta = READ_ONCE(place->meta);
		/* Nobody has taken the place while it was read. */
		return READ_ONCE(place->owner) == owner ? d : NULL;
	}
	return NULL;
}

/* Ticks since the last packet of a place's flow. */
static __always_inline __u32 flow_silence(struct packet *p, __u32 meta)
{
	__u32 silence = (p->now - meta) & SEEN_MASK;

	/* Another CPU's packet came later than this one and was faster. */
	return silence > SEEN_MASK - XVS_TICKS_AHEAD ? 0 : silence;
}

/* Of late more packets had no flow than had one if there are many misses. */
#define MISSES_MANY 32
#define MISSES_MOST 64

static __always_inline void flow_missed(struct packet *p)
{
	if (p->cpu->misses < MISSES_MOST)
		p->cpu->misses++;
}

static __always_inline void flow_hit(struct packet *p)
{
	if (p->cpu->misses)
		p->cpu->misses--;
}

/* Whether the packet probably has no flow. Reading tags first makes a packet
 * with a flow slower, and one without faster, for there are far fewer cache
 * lines of tags. The result is the same.
 */
static __always_inline bool flow_unlikely(struct packet *p)
{
	return is_syn(p) || p->cpu->misses > MISSES_MANY;
}

/* Whether a flow of this destination has not been silent for too long. */
static __always_inline bool flow_lasts(struct packet *p,
				       struct xvs_destination *d, __u32 meta)
{
	return flow_silence(p, meta) <=
	       (meta & XVS_FLOW_CLOSING ? d->closing : d->idle);
}

/* The flow's destination while the flow lives, or NULL. */
static __always_inline struct xvs_destination *flow_find(struct packet *p,
							 struct flow *flow)
{
	struct xvs_destination *d;
	__u64 tags;

	if (!flow_locate(p, flow))
		return NULL;
	/* Where a flow is likely, all places are looked at. */
	tags = flow_tag(flow) * TAGS_EACH;
	if (flow_unlikely(p))
		tags = READ_ONCE(*flow_tags(flow, flow_start1(flow)));
	else if (p->version == 6)
		/* The addresses come while the places do. */
		READ_ONCE(*flow_client6(p, flow, flow_start1(flow)));
	d = flow_look(p, flow, flow_start1(flow), tags);
	if (!d) {
		flow->seen = READ_ONCE(*flow_tags(flow, flow_start1(flow)));
		/* No place is ever unused again. */
		if (tags_used(flow->seen) >= XVS_FLOW_CROWDED) {
			tags = READ_ONCE(*flow_tags(flow, flow_start2(flow)));
			d = flow_look(p, flow, flow_start2(flow), tags);
		}
	}
	return d && flow_lasts(p, d, flow->meta) ? d : NULL;
}

static __always_inline bool flow_takes_syn(struct packet *p, struct flow *flow)
{
	return !(flow->meta & XVS_FLOW_CLOSING) &&
	       flow_silence(p, flow->meta) <= XVS_TICKS_SYN;
}

static __always_inline bool closes(struct packet *p)
{
	return p->flags & (TCP_FIN | TCP_RST);
}

/* What is known of a flow by its first packet. */
static __always_inline __u32 flow_meta(struct packet *p)
{
	return (p->now & SEEN_MASK) | (closes(p) ? XVS_FLOW_CLOSING : 0);
}

/* A packet was seen; writes only what changes, so that the line stays clean
 * for the other CPUs. Should the place have been taken in between, the new flow
 * gets the age of the old one, or is taken for closing, until its next packet
 * at the latest; should two CPUs have packets of one flow, one's change counts.
 */
static __always_inline void flow_touch(struct packet *p, struct flow *flow,
				       struct xvs_destination *d)
{
	__u32 now = p->now & SEEN_MASK;
	__u32 meta = flow->meta;

	if ((meta & SEEN_MASK) != now) {
		meta = (meta & ~SEEN_MASK) | now;
		if (meta / XVS_FLOW_AGE % 4 < XVS_FLOW_AGE_MAX)
			meta += XVS_FLOW_AGE;
	}
	if (closes(p))
		meta |= XVS_FLOW_CLOSING;
	if (meta == flow->meta)
		return;
	WRITE_ONCE(flow_place(p, flow, flow->place)->meta, meta);
	if (settings.share && is_news(flow->meta, meta, flow->hash, d->idle))
		flow_tell(p, meta);
}

#endif
