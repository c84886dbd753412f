// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * The data plane.
 *
 * A packet's way: parse, find its flow, else its service and the hash's
 * choice, forward, count. Each packet ends with one reason; its verdict
 * follows from that.
 */
#define BPF_NO_PRESERVE_ACCESS_INDEX
#include <vmlinux-6.18.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "xvs.h"
#include "maps.h"
#include "once.h"
#include "siphash.h"
#include "order.h"
#include "wire.h"
#include "tag.h"
#include "mac.h"
#include "packet.h"
#include "nat.h"
#include "hash.h"
#include "flow_news.h"
#include "flow.h"
#include "flow_store.h"
#include "service.h"
#include "fragment.h"
#include "checksum.h"
#include "reply.h"
#include "tunnel_sum.h"
#include "tunnel.h"
#include "forward.h"
#include "icmp.h"
#include "stats.h"
#include "capture.h"

/* A fragment without ports follows the one that had them. */
static __always_inline int follow_fragment(struct packet *p)
{
	struct xvs_destination *d = fragment_destination(p);

	if (!d)
		return XVS_FRAGMENT_ORPHAN;
	/* Only a first fragment is remembered. */
	p->cpu->more = 0;
	p->service = p->owner;
	if (packet_ttl(p) <= 1)
		return XVS_TTL_EXPIRED;
	p->destination = d;
	return XVS_FORWARDED_FRAGMENT;
}

/* TCP and UDP: to the flow's destination, else to the hash's choice. */
static __always_inline int balance(struct packet *p)
{
	struct xvs_destination *d;
	struct flow flow = {};

	d = flow_find(p, &flow);
	p->service = d ? p->owner : service_find(p);
	if (!p->service)
		return XVS_NO_SERVICE;
	if (packet_ttl(p) <= 1)
		return XVS_TTL_EXPIRED;

	if (d && !is_syn(p)) {
		flow_hit(p);
		flow_touch(p, &flow, d);
		p->destination = d;
		return XVS_FORWARDED_FLOW;
	}
	if (d && flow_takes_syn(p, &flow)) {
		p->destination = d;
		return XVS_FORWARDED_FLOW;
	}
	flow_admit(p, &flow);
	if (!is_syn(p))
		flow_expect(p, &flow);
	d = choose(p, &flow);
	if (!d || !d->way.ifindex)
		return XVS_NO_DESTINATION;
	p->destination = d;
	if (leaves_none(p, &flow)) {
		/* What follows belongs to the connection that opens now. */
		flow_delete(p, &flow);
		return XVS_FORWARDED_SYN;
	}
	flow_store(p, &flow);
	if (settings.share && p->cpu->stored)
		flow_tell(p, flow_meta(p));
	return is_syn(p) ? XVS_FORWARDED_SYN : XVS_FORWARDED_NEW;
}

/* Whether no process has said for too long that it is there. */
static __always_inline bool unattended(struct packet *p)
{
	__u32 lease = READ_ONCE(p->cpu->lease);

	return lease && (__s32)(p->now - lease) > 0;
}

static __always_inline int decide(struct xdp_md *ctx, struct packet *p)
{
	int reason;

	p->now = clock_tick(p);
	if (unattended(p))
		return XVS_UNATTENDED;
	if (p->later)
		return follow_fragment(p);
	if (p->protocol == (p->version == 4 ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return handle_icmp(ctx, p);
	reason = parse_transport(p);
	if (reason != CONTINUE)
		return reason;
	return balance(p);
}

static __always_inline int process(struct xdp_md *ctx, struct packet *p)
{
	int reason = decide(ctx, p);

	return p->destination ? forward(ctx, p, reason) : reason;
}

/* The whole way once for each family, so that neither asks which it is. */
static __always_inline int process_frame(struct xdp_md *ctx, struct packet *p)
{
	struct xvs_gate *g;
	__u32 zero = 0;
	__be16 *protocol;
	int reason;

	p->eth = (void *)(long)ctx->data;
	p->end = (void *)(long)ctx->data_end;
	g = bpf_map_lookup_elem(&gate, &zero);
	/* What has no room for a tag has none for IP. */
	if (!g || (void *)(p->eth + 1) + sizeof(struct tag) > p->end)
		return XVS_NOT_IP;
	p->tag = tag_length(p->eth);
	protocol = (void *)p->eth + offsetof(struct ethhdr, h_proto) + p->tag;
	if ((void *)(protocol + 1) > p->end)
		return XVS_NOT_IP;

	switch (*protocol) {
	case bpf_htons(ETH_P_IP):
		p->version = 4;
		reason = parse_ip4(ctx, p, g, (void *)(protocol + 1));
		return reason == CONTINUE ? process(ctx, p) : reason;
	case bpf_htons(ETH_P_IPV6):
		p->version = 6;
		reason = parse_ip6(ctx, p, g, (void *)(protocol + 1));
		return reason == CONTINUE ? process(ctx, p) : reason;
	default:
		return XVS_NOT_IP;
	}
}

/* Counts the packet under its reason and gives the verdict. */
static __always_inline int conclude(struct xdp_md *ctx, struct packet *p,
				    int reason)
{
	__u32 vip;

	switch (reason) {
	case XVS_NOT_IP:
	case XVS_NOT_VIP:
		break;
	case XVS_FORWARDED_FLOW:
	case XVS_FORWARDED_NEW:
	case XVS_FORWARDED_SYN:
	case XVS_FORWARDED_FRAGMENT:
	case XVS_FORWARDED_ICMP:
		count_traffic(p);
		count_reason(p, reason);
		return p->verdict;
	default:
		if (p->service) {
			count_refused(&service_refused, p->row, p->service,
				      settings.services, reason);
			break;
		}
		/* The filter may have let a foreign packet come this far. It
		 * is nobody's business what is wrong with it.
		 */
		vip = vip_find(p);
		if (!vip) {
			reason = XVS_NOT_VIP;
			break;
		}
		count_refused(&vip_refused, p->row, vip, settings.services,
			      reason);
	}
	if (reason == XVS_NOT_VIP && is_for_answers(ctx, p))
		return VERDICT_LEFT;
	count_reason(p, reason);

	switch (reason) {
	case XVS_NOT_IP:
	case XVS_NOT_VIP:
	case XVS_OTHER_HOST:
	case XVS_NEIGHBOUR_DISCOVERY:
	case XVS_UNATTENDED:
		return XDP_PASS;
	case XVS_ECHO_REPLIED:
	case XVS_TOO_BIG_REPLIED:
		return XDP_TX;
	default:
		return XDP_DROP;
	}
}

static __always_inline int run(struct xdp_md *ctx, bool exchange)
{
	__u32 cpu = bpf_get_smp_processor_id();
	__u32 row = counter_row(cpu);
	struct packet packet = { .exchange = exchange, .row = row };
	int verdict;

	packet.cpu = bpf_map_lookup_elem(&cpus, &cpu);
	if (!packet.cpu)
		return XDP_PASS;
	packet.cpu->stored = 0;
	if (!(packet.cpu->packets % SAMPLE)) {
		packet.cpu->began = bpf_ktime_get_ns();
		clock_set(packet.cpu, packet.cpu->began);
	}

	verdict = conclude(ctx, &packet, process_frame(ctx, &packet));

	/* A variable for this would take stack on the whole way. */
	if (!(packet.cpu->packets++ % SAMPLE)) {
		packet.cpu->sample_ns += bpf_ktime_get_ns() - packet.cpu->began;
		packet.cpu->samples++;
	}
	if (verdict == VERDICT_LEFT) {
		bpf_tail_call(ctx, &programs, XVS_PROGRAM_ANSWER);
		/* It is just being started. */
		count_reason(&packet, XVS_NOT_VIP);
		verdict = XDP_PASS;
	}
	return capture(ctx, packet.cpu, verdict);
}

SEC("xdp")
int xvs(struct xdp_md *ctx)
{
	return run(ctx, true);
}

/* For kernels that refuse a program with atomic exchanges. */
SEC("xdp")
int xvs_locks(struct xdp_md *ctx)
{
	return run(ctx, false);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
