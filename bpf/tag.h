/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* VLAN tags (IEEE 802.1Q). Only the outermost one counts: what is behind two is
 * no IP packet of ours.
 */
#ifndef XVS_TAG_H
#define XVS_TAG_H

#define ETH_P_8021Q 0x8100

/* What a tagged frame has after the MAC addresses. */
struct tag {
	__be16 protocol; /* ETH_P_8021Q */
	__be16 control;	 /* priority (PCP), DEI, and the VLAN's id */
};

/* The bits of the control word that are the VLAN's id. */
#define TAG_VLAN 0x0fff

/* The octets of a frame's tag: 4, or 0 without one. There is no branch, so that
 * the verifier has one way to follow, not two.
 */
static __always_inline __u64 tag_length(struct ethhdr *eth)
{
	__u64 other = eth->h_proto ^ bpf_htons(ETH_P_8021Q);

	return (other - 1) >> 63 << 2;
}

/* The tag of a frame that has one. */
static __always_inline struct tag *tag_of_frame(struct ethhdr *eth)
{
	return (void *)&eth->h_proto;
}

/* The id of a frame's VLAN, 0 without a tag. The frame has room for one. */
static __always_inline __u32 tag_vlan(struct ethhdr *eth, __u64 length)
{
	__u32 id = host16(tag_of_frame(eth)->control) & TAG_VLAN;

	/* All ones if there is a tag. */
	return id & -(length >> 2);
}

/* Takes the tag from a frame that has one. */
static __always_inline int tag_pop(struct xdp_md *ctx, struct ethhdr *eth)
{
	struct ethhdr *after = (void *)eth + sizeof(struct tag);
	struct ethhdr old = *eth;

	__builtin_memcpy(after->h_dest, old.h_dest, 6);
	__builtin_memcpy(after->h_source, old.h_source, 6);
	return bpf_xdp_adjust_head(ctx, sizeof(struct tag));
}

/* Gives a frame a tag. The MAC addresses are not there yet; NULL if there is no
 * room for it.
 */
static __always_inline struct ethhdr *tag_push(struct xdp_md *ctx,
					       __be16 control)
{
	struct ethhdr *eth;
	struct tag *tag;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*tag)))
		return NULL;
	eth = (void *)(long)ctx->data;
	tag = tag_of_frame(eth);
	if ((void *)(tag + 1) > (void *)(long)ctx->data_end)
		return NULL;
	tag->protocol = bpf_htons(ETH_P_8021Q);
	tag->control = control;
	return eth;
}

/* Gives a frame that has its MAC addresses a tag. */
static __noinline __attribute__((unused)) int tag_restore(struct xdp_md *ctx,
							  __be16 control)
{
	struct ethhdr *eth = (void *)(long)ctx->data;
	struct ethhdr old;

	if ((void *)(eth + 1) > (void *)(long)ctx->data_end)
		return -1;
	old = *eth;
	eth = tag_push(ctx, control);
	if (!eth)
		return -1;
	__builtin_memcpy(eth->h_dest, old.h_dest, 6);
	__builtin_memcpy(eth->h_source, old.h_source, 6);
	return 0;
}

#endif
