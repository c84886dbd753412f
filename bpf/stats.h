/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Counting: one reason for each packet, and what a destination got. */
#ifndef XVS_STATS_H
#define XVS_STATS_H

/* The time of one packet in so many is taken. */
#define SAMPLE 1024

/* A CPU's row of counters. CPUs that came after the program was loaded share a row
 * with an earlier one.
 */
static __always_inline __u32 counter_row(__u32 cpu)
{
	/* A division costs more than all else here. */
	return cpu < settings.cpus ? cpu : cpu % settings.cpus;
}

/* The bounds are checked of the very number that is used. */
static __always_inline void count_reason(struct packet *p, __u64 reason)
{
	barrier_var(reason);
	if (reason < XVS_REASON_ROOM)
		p->cpu->reasons[reason]++;
	p->cpu->reason = reason;
}

static __always_inline void count_refused(void *map, __u32 row, __u32 id,
					  __u32 ids, __u32 reason)
{
	__u32 index = row * ids + id;
	struct xvs_refused *refused = bpf_map_lookup_elem(map, &index);

	if (refused && reason < XVS_REASON_ROOM)
		refused->reasons[reason]++;
}

static __always_inline void count_traffic(struct packet *p)
{
	__u32 index = p->row * settings.destinations + p->slot;
	struct xvs_traffic *t = bpf_map_lookup_elem(&traffic, &index);

	if (!t)
		return;
	t->packets++;
	t->octets += p->length;
	t->flows += p->cpu->stored;
	if (p->flags & (TCP_SYN | TCP_FIN | TCP_RST)) {
		t->syn += is_syn(p);
		t->fin += !!(p->flags & TCP_FIN);
		t->rst += !!(p->flags & TCP_RST);
	}
}

#endif
