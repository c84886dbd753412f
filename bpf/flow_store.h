/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Storing flows, and taking places from those that are dead or have less right
 * to them. A writer claims a place by one atomic exchange: of a free place's
 * tag, or of the owner of one that is not free.
 */
#ifndef XVS_FLOW_STORE_H
#define XVS_FLOW_STORE_H

/* Finds how many flows the packet's service may store in this tick. To store
 * one waits for memory that no cache has, and takes other flows' places once the
 * table is full; so a flood for one service costs the others neither.
 */
static __always_inline void flow_admit(struct packet *p, struct flow *flow)
{
	__u32 id = p->service;
	__u32 index = p->row * settings.services + id;
	struct xvs_service *service;
	struct xvs_inflow *inflow;

	inflow = bpf_map_lookup_elem(&inflows, &index);
	if (!inflow)
		return;
	if (inflow->tick != p->now) {
		service = bpf_map_lookup_elem(&services, &id);
		if (!service)
			return;
		inflow->tick = p->now;
		inflow->left = READ_ONCE(service->new_flows);
	}
	flow->inflow = inflow;
	flow->left = inflow->left;
}

/* Reads the first bucket of a flow that is going to be stored there, as most
 * are: so its memory comes while the packet's destination is chosen.
 */
static __always_inline void flow_expect(struct packet *p, struct flow *flow)
{
	__u32 start = flow_start1(flow);

	if (!flow->left || !flow->group ||
	    tags_flows(flow->seen) >= XVS_FLOW_CROWDED)
		return;
	READ_ONCE(flow_place(p, flow, start)->owner);
	if (p->version == 6)
		READ_ONCE(*flow_client6(p, flow, start));
}

/* Puts another value into a word if it has the one that was seen; whether it
 * had. The locks do not keep user space out, which frees places of dead flows:
 * within those few ns a tag may come back, which the census mends, or an
 * expired flow that begins anew may be lost. Before v5.12:
 * 5ffa25502b5ab3d639829a2d1e316cff7f59a41e ("bpf: Add instructions for
 * atomic_[cmp]xchg") this takes a lock.
 */
static __always_inline bool flow_exchange(struct packet *p, struct flow *flow,
					  __u64 *word, __u64 seen, __u64 value)
{
	struct xvs_flow_lock *lock;
	__u32 index;
	bool same;

	if (p->exchange)
		return __sync_val_compare_and_swap(word, seen, value) == seen;
	index = flow_group(flow) % XVS_FLOW_LOCKS;
	lock = bpf_map_lookup_elem(&flow_locks, &index);
	if (!lock)
		return false;
	bpf_spin_lock(&lock->lock);
	same = READ_ONCE(*word) == seen;
	if (same)
		WRITE_ONCE(*word, value);
	bpf_spin_unlock(&lock->lock);
	return same;
}

/* Gives a claimed place its tag. Others may be changing those of its bucket. */
static __always_inline bool flow_set_tag(struct packet *p, struct flow *flow,
					 __u64 tag)
{
	__u64 *word = flow_tags(flow, flow->place);
	int i;

#pragma unroll
	for (i = 0; i < 3; i++) {
		__u64 tags = READ_ONCE(*word);

		if (tag_of(tags, flow->place) == tag)
			return true;
		if (flow_exchange(p, flow, word, tags,
				  tags_with(tags, flow->place, tag)))
			return true;
	}
	return false;
}

/* Writes the flow to the place that it has claimed. */
static __always_inline void flow_write(struct packet *p, struct flow *flow)
{
	struct xvs_flow *place = flow_place(p, flow, flow->place);

	WRITE_ONCE(place->client, flow->client);
	WRITE_ONCE(place->meta, flow_meta(p));
	if (p->version == 6) {
		__u64 *client = flow_client6(p, flow, flow->place);

		WRITE_ONCE(client[0], p->key.saddr[0]);
		WRITE_ONCE(client[1], p->key.saddr[1]);
	}
	WRITE_ONCE(place->owner, flow_owner(p, flow));
	p->cpu->stored = 1;
}

/* Takes a place from the owner that was seen. */
static __always_inline void flow_take(struct packet *p, struct flow *flow)
{
	if (!flow_exchange(p, flow, &flow_place(p, flow, flow->place)->owner,
			   flow->owner, XVS_FLOW_BUSY))
		return;
	if (flow_set_tag(p, flow, flow_tag(flow)))
		flow_write(p, flow);
	/* Else the census frees the place, whose owner is no flow's. */
}

/* A free place of a bucket, or NOWHERE. No branch depends on which it is. */
static __always_inline __u64 flow_free_place(__u32 start, __u64 tags)
{
	__u64 free = ~tags & TAGS_EACH;

	if (!free)
		return NOWHERE;
	/* The ones below the lowest one are as many as the places before it. */
	return start / XVS_FLOW_WAYS * XVS_FLOW_WAYS +
	       tags_flows((free & -free) - 1);
}

/* Claims a free place; false if there is none. Of the two buckets the first is
 * better, as it is looked through first, unless it is crowded and the second
 * has fewer flows. Places themselves are not read here.
 */
static __always_inline bool flow_claim(struct packet *p, struct flow *flow)
{
	__u64 tag = flow_tag(flow);
	int i;

	/* Another CPU may have been faster, even with the same flow. */
#pragma unroll
	for (i = 0; i < 2; i++) {
		__u32 start = flow_start1(flow);
		__u64 tags = i ? READ_ONCE(*flow_tags(flow, start)) :
				 flow->seen;
		__u32 flows = tags_flows(tags);

		if (i && tags_have(tags, tag))
			return true;
		if (flows >= XVS_FLOW_CROWDED) {
			__u32 start2 = flow_start2(flow);
			__u64 tags2 = READ_ONCE(*flow_tags(flow, start2));

			if (i && tags_have(tags2, tag))
				return true;
			if (tags_flows(tags2) < flows) {
				start = start2;
				tags = tags2;
			}
		}
		flow->place = flow_free_place(start, tags);
		if (flow->place == NOWHERE)
			return false;
		if (flow_exchange(p, flow, flow_tags(flow, start), tags,
				  tags_with(tags, flow->place, tag))) {
			flow_write(p, flow);
			return true;
		}
	}
	return true;
}

/* How well a place can be taken from its flow: the ticks that this has been
 * silent, less the better known it is. Each later tick that it was seen in, up
 * to three, counts as much as a 16th of the silence. So what was seen once goes
 * before what was seen again, and no flood takes the place of a flow that sends
 * at all.
 */
#define RANK_NEW (1ULL << XVS_FLOW_RANK_SHIFT)

static __always_inline __u64 flow_rank(struct packet *p, __u64 owner,
				       __u32 meta)
{
	__u32 age = meta / XVS_FLOW_AGE % 4;

	/* It is being written. */
	if (!(owner & SLOT_MASK))
		return 0;
	if (meta & XVS_FLOW_CLOSING)
		age = 0;
	return (flow_silence(p, meta) + 1ULL)
	       << (XVS_FLOW_RANK_SHIFT - XVS_FLOW_RANK_AGE * age);
}

/* Whether the flow in a place lives, as far as can be told without its hash. */
static __always_inline bool flow_lives(struct packet *p, __u64 owner,
				       __u32 meta)
{
	__u32 slot = owner & SLOT_MASK;
	struct xvs_destination *d;

	d = bpf_map_lookup_elem(&destinations, &slot);
	return d && d->service && flow_lasts(p, d, meta);
}

/* Takes the place of another flow, unless all have as much right to stay. */
static __always_inline void flow_replace(struct packet *p, struct flow *flow)
{
	__u64 best = RANK_NEW;
	__u64 found = NOWHERE;
	__u64 seen = 0;
	__u32 lived;
	int i;

#pragma unroll
	for (i = 0; i < 2 * XVS_FLOW_WAYS; i++) {
		__u32 start = i < XVS_FLOW_WAYS ? flow_start1(flow) :
						  flow_start2(flow);
		__u32 index = start ^ i % XVS_FLOW_WAYS;
		struct xvs_flow *place = flow_place(p, flow, index);
		__u64 owner = READ_ONCE(place->owner);
		__u64 rank = flow_rank(p, owner, READ_ONCE(place->meta));
		/* All ones if it is the best so far. Without a branch, of which
		 * the verifier would follow both ways each time.
		 */
		__u64 better = (__s64)(best - rank) >> 63;

		barrier_var(better);
		best ^= (best ^ rank) & better;
		found ^= (found ^ index) & better;
		seen ^= (seen ^ owner) & better;
	}
	if (found == NOWHERE)
		return;
	flow->place = found;
	flow->owner = seen;
	lived = flow_lives(p, seen,
			   READ_ONCE(flow_place(p, flow, found)->meta));
	flow_take(p, flow);
	p->cpu->replaced += lived & p->cpu->stored;
}

/* Stores the flow of a packet that has its destination, if its service may. */
static __always_inline void flow_store(struct packet *p, struct flow *flow)
{
	flow_missed(p);
	if (!flow->inflow || !flow->group || !flow->tags)
		return;
	if (!flow->left) {
		flow->inflow->limited++;
		return;
	}
	flow->inflow->left = flow->left - 1;
	if (flow->place != NOWHERE) {
		flow_take(p, flow);
		return;
	}
	if (!flow_claim(p, flow))
		flow_replace(p, flow);
}

/* Frees the flow's place, if it has one. */
static __always_inline void flow_delete(struct packet *p, struct flow *flow)
{
	if (flow->place == NOWHERE || !flow->group || !flow->tags)
		return;
	if (flow_exchange(p, flow, &flow_place(p, flow, flow->place)->owner,
			  flow->owner, XVS_FLOW_FREED))
		flow_set_tag(p, flow, XVS_TAG_FREED);
}

#endif
