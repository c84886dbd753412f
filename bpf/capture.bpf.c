// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Frames by what became of them.
 *
 * The other programs hand on a frame that somebody captures, with reason and
 * verdict in their CPU's record. Its octets go to the buffers of this CPU that the
 * captures have put into maps. When a process ends, however it does, the kernel
 * takes its buffers out: a capture without one is over, and is forgotten.
 */
#define BPF_NO_PRESERVE_ACCESS_INDEX
#include <vmlinux-6.18.h>
#include <bpf/bpf_helpers.h>

#include "xvs.h"
#include "maps.h"
#include "once.h"
#include "captures.h"

#define SECOND 1000000000
#define ENOENT 2

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XVS_CAPTURES);
	__type(key, __u32);
	__type(value, struct xvs_capture);
} captures SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, XVS_CAPTURES);
	__type(key, __u32);
	__type(value, struct xvs_captured);
} captured SEC(".maps");

/* Each capture's buffers, by CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__type(key, __u32);
	__type(value, __u32);
} frames0 SEC(".maps"), frames1 SEC(".maps"), frames2 SEC(".maps"),
	frames3 SEC(".maps");

static __always_inline bool is_due(struct xvs_capture *c,
				   struct xvs_captured *t, __u64 now)
{
	if (now - t->began >= SECOND) {
		t->began = now;
		t->taken = 0;
	}
	if (t->taken >= READ_ONCE(c->rate)) {
		t->over++;
		return false;
	}
	t->taken++;
	return true;
}

/* The reasons that a capture asks for from now on. */
static __always_inline __u64 capture_by(struct xdp_md *ctx, void *frames,
					__u32 number, __u32 row,
					struct xvs_captured_frame *frame)
{
	__u32 index = number * settings.cpus + row;
	struct xvs_capture *c = bpf_map_lookup_elem(&captures, &number);
	struct xvs_captured *t = bpf_map_lookup_elem(&captured, &index);
	__u64 reasons;
	__u64 snaplen;
	long result;

	if (!c || !t)
		return 0;
	reasons = READ_ONCE(c->reasons);
	if (!(reasons >> (frame->reason & 63) & 1) ||
	    !is_due(c, t, frame->time))
		return reasons;
	snaplen = READ_ONCE(c->snaplen);
	frame->captured = frame->length < snaplen ? frame->length : snaplen;
	result = bpf_perf_event_output(
		ctx, frames, (__u64)frame->captured << 32 | BPF_F_CURRENT_CPU,
		frame, sizeof(*frame));
	if (result == -ENOENT)
		return 0;
	if (result)
		t->lost++;
	return reasons;
}

SEC("xdp")
int capture(struct xdp_md *ctx)
{
	__u32 number = bpf_get_smp_processor_id();
	__u32 row = number % settings.cpus;
	struct xvs_cpu *cpu = bpf_map_lookup_elem(&cpus, &number);
	struct xvs_captured_frame frame = {};
	__u64 reasons;

	if (!cpu)
		return XDP_PASS;
	frame.time = bpf_ktime_get_ns();
	frame.reason = cpu->reason;
	frame.verdict = cpu->verdict;
	frame.ifindex = ctx->ingress_ifindex;
	/* v5.18: 0165cc817075 ("bpf: introduce bpf_xdp_get_buff_len helper");
	 * settings tell of several buffers only from then on.
	 */
	frame.length = settings.frags ? bpf_xdp_get_buff_len(ctx) :
					(__u64)ctx->data_end - ctx->data;

	reasons = capture_by(ctx, &frames0, 0, row, &frame);
	reasons |= capture_by(ctx, &frames1, 1, row, &frame);
	reasons |= capture_by(ctx, &frames2, 2, row, &frame);
	reasons |= capture_by(ctx, &frames3, 3, row, &frame);
	/* Who is just starting sets its bits again. */
	if (READ_ONCE(cpu->captures) != reasons)
		WRITE_ONCE(cpu->captures, reasons);
	return frame.verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
