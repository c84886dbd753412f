// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Probes: what the host sends to a NAT address goes to one given server, as a
 * packet for the VIP, and what the server answers comes back from the NAT address.
 *
 * `probe_request` is on the inner end of the probe interface, and `probe_answer`
 * is given what came in from the network and may be an answer. A probe's source
 * port (an echo's id) is translated, so that no two probes of one port of a VIP
 * have the same, whichever servers they go to.
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
#include "fragment.h"
#include "checksum.h"
#include "reply.h"
#include "tunnel_sum.h"
#include "tunnel.h"
#include "forward.h"
#include "stats.h"
#include "capture.h"
#include "probe_packet.h"
#include "probe_request.h"
#include "probe_answer.h"

static __always_inline int probe_verdict(struct packet *p, int reason)
{
	switch (reason) {
	case XVS_PROBE_FORWARDED:
	case XVS_PROBE_ANSWERED:
		return p->verdict;
	case XVS_TOO_BIG_REPLIED:
		return XDP_TX;
	case XVS_NOT_VIP:
		return XDP_PASS;
	default:
		return XDP_DROP;
	}
}

/* The reason is counted, and the verdict is what follows from it. */
static __always_inline int probe_conclude(struct xdp_md *ctx, struct packet *p,
					  int reason)
{
	count_reason(p, reason);
	return capture(ctx, p->cpu, probe_verdict(p, reason));
}

SEC("xdp")
int probe_request(struct xdp_md *ctx)
{
	struct packet packet = {};
	__u32 cpu = bpf_get_smp_processor_id();
	int reason;

	packet.cpu = bpf_map_lookup_elem(&cpus, &cpu);
	if (!packet.cpu)
		return XDP_DROP;
	reason = request(ctx, &packet);
	/* What is no probe is nothing that was sent to anybody. */
	return reason == CONTINUE ? XDP_DROP :
				    probe_conclude(ctx, &packet, reason);
}

SEC("xdp")
int probe_answer(struct xdp_md *ctx)
{
	struct packet packet = {};
	__u32 cpu = bpf_get_smp_processor_id();

	packet.cpu = bpf_map_lookup_elem(&cpus, &cpu);
	if (!packet.cpu)
		return XDP_PASS;
	return probe_conclude(ctx, &packet, answer(ctx, &packet));
}

/* On the host's end: a native program is redirected to only where there is one. */
SEC("xdp")
int probe_pass(struct xdp_md *ctx __attribute__((unused)))
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
