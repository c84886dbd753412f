/* SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only */
/* News of flows for other balancers, which user space takes there. Without
 * settings.share the verifier cuts off all of it.
 */
#ifndef XVS_FLOW_NEWS_H
#define XVS_FLOW_NEWS_H

/* Tells of the packet's flow, whose destination is known. What finds no room
 * is counted; what a flow does next tells of it again.
 */
static __always_inline void flow_tell(struct packet *p, __u32 meta)
{
	struct xvs_flow_news *news;

	news = bpf_ringbuf_reserve(&flow_news, sizeof(*news), 0);
	if (!news) {
		p->cpu->news_lost++;
		return;
	}
	map_address(p, p->key.saddr, (__u64 *)news->client);
	news->slot = p->slot;
	news->generation = p->generation;
	news->meta = meta;
	news->port = source_port(p);
	news->pad = 0;
	bpf_ringbuf_submit(news, 0);
}

/* A flow that goes on is told of once in so many ticks, and four times as often
 * if it is forgotten soon.
 */
#define NEWS_TICKS 32

/* Whether others are to hear what has become of a flow: when more is known of
 * it than its last packet, else with its first packet in each period, which its
 * hash says the beginning of, so that not all flows tell at once.
 */
static __always_inline bool is_news(__u32 before, __u32 meta, __u32 hash,
				    __u32 idle)
{
	__u32 period = NEWS_TICKS;
	__u32 seen = (1U << XVS_FLOW_SEEN_BITS) - 1;

	if (idle < NEWS_TICKS)
		period = 1;
	else if (idle < 4 * NEWS_TICKS)
		period = NEWS_TICKS / 4;
	return ((meta ^ before) & ~seen) ||
	       (((meta + hash) ^ (before + hash)) & seen & ~(period - 1));
}

#endif
