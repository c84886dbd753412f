/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* Captures: a frame whose reason is asked for goes on to another program. */
#ifndef XVS_CAPTURE_H
#define XVS_CAPTURE_H

/* The verdict, which a capture does not change. While there are none, this is all
 * they cost: both words lie beside others that each packet needs.
 */
static __always_inline int capture(struct xdp_md *ctx, struct xvs_cpu *cpu,
				   int verdict)
{
	if (READ_ONCE(cpu->captures) >> (cpu->reason & 63) & 1) {
		cpu->verdict = verdict;
		bpf_tail_call(ctx, &programs, XVS_PROGRAM_CAPTURE);
	}
	return verdict;
}

#endif
