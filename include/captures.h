/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/*
 * What the program that captures frames (C), its control and those who capture
 * (Rust) share.
 */
#ifndef XVS_CAPTURES_H
#define XVS_CAPTURES_H

enum {
	/* Captures beside each other. */
	XVS_CAPTURES = 4,
};

/* A capture, by its number. */
struct xvs_capture {
	__u64 reasons; /* a bit for each; none: there is no such capture */
	__u64 rate;    /* frames in a second, of each CPU */
	__u64 snaplen; /* octets of a frame */
	__u64 process; /* whose capture it is, 0: nobody's */
};

/* What a CPU has done for a capture: those of a capture are in a row. */
struct xvs_captured {
	__u64 began; /* ns when its present second began */
	__u64 taken; /* frames in that */
	__u64 over;  /* frames that were more than the rate, in all */
	__u64 lost;  /* frames that there was no room for, in all */
	__u64 pad[4];
};

/* What goes before a frame's octets. */
struct xvs_captured_frame {
	__u64 time; /* ns of CLOCK_MONOTONIC */
	__u32 reason;
	__u32 verdict;
	__u32 ifindex;	/* of the interface that it came in by */
	__u32 length;	/* octets of the frame as it is left */
	__u32 captured; /* of them, octets that follow */
	__u32 pad;
};

#endif
