// SPDX-License-Identifier: BSD-2-Clause OR GPL-2.0-only
/*
 * Single steps of a data plane, each in a program of its own that takes it
 * several times. What a step works on comes from the packet, and what it gives
 * goes into the next, so nothing is done only once. A program whose step does
 * nothing costs what is to be subtracted.
 */
#define BPF_NO_PRESERVE_ACCESS_INDEX
#include <vmlinux-6.18.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* So often each program takes its step. */
#define STEPS 8

#define COUNTERS 3
#define SERVICES 1000
#define CHUNKS 66
#define CHUNK 1000
#define INNER_MAPS 4
#define INNER 2048
#define SMALL (INNER_MAPS * INNER)
#define FLOWS 1024
#define PAGES 16384
#define PAGE 512

struct steps_settings {
	__u64 k0; /* the hash key */
	__u64 k1;
	__u32 cpus;
	__u32 divisor;
};

/* Frozen before the programs are loaded, so that the verifier folds them. */
const volatile struct steps_settings settings = {};

#define IPPROTO_ICMPV6 58

#include "../bpf/siphash.h"
#include "../bpf/checksum.h"
#include "../bpf/tunnel_sum.h"

struct counters {
	__u64 counts[8];
};

struct service_key {
	__u8 address[16];
	__u32 port;
};

struct chunk_key {
	__u32 table;
	__u32 chunk;
};

struct chunk {
	__u32 slots[CHUNK];
};

struct flow4_key {
	__u32 words[4];
};

struct flow6_key {
	__u32 words[10];
};

struct flow {
	__u64 words[2];
};

struct far_page {
	__u64 words[PAGE];
};

struct locked {
	struct bpf_spin_lock lock;
	__u32 value;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} percpu SEC(".maps");

/* One row for each CPU; the size is set before the programs are loaded. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} rows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, SERVICES);
	__type(key, struct service_key);
	__type(value, __u32);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, CHUNKS);
	__type(key, struct chunk_key);
	__type(value, struct chunk);
} chunks SEC(".maps");

/* As Maglev tables have it: BPF_F_INNER_MAP is not inlined. */
struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, INNER);
	__type(key, __u32);
	__type(value, __u64);
} inner0 SEC(".maps"), inner1 SEC(".maps"), inner2 SEC(".maps"),
	inner3 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, INNER_MAPS);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = {
	.values = { &inner0, &inner1, &inner2, &inner3 },
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SMALL);
	__type(key, __u32);
	__type(value, __u64);
} small SEC(".maps");

/* Room for more than there are: an LRU hash that is full drops some. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4 * FLOWS);
	__type(key, struct flow4_key);
	__type(value, struct flow);
} flows4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4 * FLOWS);
	__type(key, struct flow6_key);
	__type(value, struct flow);
} flows6 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct locked);
} locks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PAGES);
	__type(key, __u32);
	__type(value, struct far_page);
} pages SEC(".maps");

/* What a step has. */
struct step {
	__u64 x;      /* differs between packets and steps */
	__u32 number; /* of the step */
	__u32 choice; /* one of as many as the program says */
};

/* The client's address, which differs between packets. */
static __always_inline __u64 seed(struct xdp_md *ctx)
{
	__be32 *source = (void *)(long)ctx->data + sizeof(struct ethhdr) +
			 offsetof(struct iphdr, saddr);

	if ((void *)(source + 1) > (void *)(long)ctx->data_end)
		return 0;
	return *source;
}

/* A linear congruential generator's next number (Knuth). */
static __always_inline void stir(struct step *s, __u64 choices)
{
	s->x = s->x * 6364136223846793005ULL + 1442695040888963407ULL;
	s->choice = (s->x >> 32) * choices >> 32;
	s->x += s->choice;
}

/* Takes a step, which tells whether all was there, STEPS times. */
static __always_inline int walk(struct xdp_md *ctx, bool (*step)(struct step *),
				__u64 choices)
{
	struct step s = { .x = seed(ctx) };
	__u32 i;

#pragma unroll
	for (i = 0; i < STEPS; i++) {
		s.number = i;
		stir(&s, choices);
		if (!step(&s))
			return XDP_ABORTED;
	}
	return s.x == 1 ? XDP_PASS : XDP_TX;
}

/* Defines the program of a step. */
#define PROGRAM(name, choices)                                                 \
	SEC("xdp")                                                             \
	int name(struct xdp_md *ctx)                                           \
	{                                                                      \
		return walk(ctx, step_##name, choices);                        \
	}

static __always_inline bool step_no_step(struct step *s __attribute__((unused)))
{
	return true;
}
PROGRAM(no_step, SERVICES)

static __always_inline bool step_clock(struct step *s)
{
	s->x += bpf_ktime_get_ns();
	return true;
}
PROGRAM(clock, SERVICES)

static __always_inline bool step_coarse_clock(struct step *s)
{
	s->x += bpf_ktime_get_coarse_ns();
	return true;
}
PROGRAM(coarse_clock, SERVICES)

static __always_inline bool step_jiffies(struct step *s)
{
	s->x += bpf_jiffies64();
	return true;
}
PROGRAM(jiffies, SERVICES)

static __always_inline bool step_cpu_number(struct step *s)
{
	s->x += bpf_get_smp_processor_id();
	return true;
}
PROGRAM(cpu_number, SERVICES)

static __always_inline bool step_random(struct step *s)
{
	s->x += bpf_get_prandom_u32();
	return true;
}
PROGRAM(random, SERVICES)

static __always_inline bool step_percpu_counter(struct step *s)
{
	__u32 index = s->number % COUNTERS;
	__u64 *count = bpf_map_lookup_elem(&percpu, &index);

	if (!count)
		return false;
	*count += s->choice;
	s->x += *count;
	return true;
}
PROGRAM(percpu_counter, SERVICES)

static __always_inline bool step_row_counter(struct step *s)
{
	__u32 row = bpf_get_smp_processor_id() % settings.cpus;
	struct counters *counters = bpf_map_lookup_elem(&rows, &row);
	__u64 *count;

	if (!counters)
		return false;
	count = &counters->counts[s->number % COUNTERS];
	*count += s->choice;
	s->x += *count;
	return true;
}
PROGRAM(row_counter, SERVICES)

static __always_inline bool step_modulo(struct step *s)
{
	s->x += (__u32)s->x % settings.divisor;
	return true;
}
PROGRAM(modulo, SERVICES)

static __always_inline bool step_service_lookup(struct step *s)
{
	struct service_key key = { .port = s->choice };
	__u32 *id = bpf_map_lookup_elem(&services, &key);

	if (!id)
		return false;
	s->x += *id;
	return true;
}
PROGRAM(service_lookup, SERVICES)

static __always_inline bool step_chunk_lookup(struct step *s)
{
	struct chunk_key key = { .table = 1, .chunk = s->choice };
	struct chunk *chunk = bpf_map_lookup_elem(&chunks, &key);

	if (!chunk)
		return false;
	s->x += chunk->slots[0];
	return true;
}
PROGRAM(chunk_lookup, CHUNKS)

static __always_inline bool step_nested_lookup(struct step *s)
{
	__u32 index = s->choice / INNER;
	void *map = bpf_map_lookup_elem(&outer, &index);
	__u64 *value;

	if (!map)
		return false;
	index = s->choice % INNER;
	value = bpf_map_lookup_elem(map, &index);
	if (!value)
		return false;
	s->x += *value;
	return true;
}
PROGRAM(nested_lookup, SMALL)

static __always_inline bool step_array_lookup(struct step *s)
{
	__u64 *value = bpf_map_lookup_elem(&small, &s->choice);

	if (!value)
		return false;
	s->x += *value;
	return true;
}
PROGRAM(array_lookup, SMALL)

static __always_inline bool step_flow4_lookup(struct step *s)
{
	struct flow4_key key = { .words = { s->choice } };
	struct flow *flow = bpf_map_lookup_elem(&flows4, &key);

	if (!flow)
		return false;
	s->x += flow->words[0];
	return true;
}
PROGRAM(flow4_lookup, FLOWS)

static __always_inline bool step_flow6_lookup(struct step *s)
{
	struct flow6_key key = { .words = { s->choice } };
	struct flow *flow = bpf_map_lookup_elem(&flows6, &key);

	if (!flow)
		return false;
	s->x += flow->words[0];
	return true;
}
PROGRAM(flow6_lookup, FLOWS)

static __always_inline bool step_siphash13(struct step *s)
{
	struct siphash h;

	siphash_start(&h, settings.k0, settings.k1);
	siphash_word(&h, s->x);
	s->x += siphash_end(&h, s->choice, 13);
	return true;
}
PROGRAM(siphash13, SERVICES)

static __always_inline bool step_siphash37(struct step *s)
{
	struct siphash h;

	siphash_start(&h, settings.k0, settings.k1);
	siphash_word(&h, s->x);
	siphash_word(&h, s->choice);
	siphash_word(&h, s->x);
	siphash_word(&h, s->choice);
	s->x += siphash_end(&h, s->choice, 37);
	return true;
}
PROGRAM(siphash37, SERVICES)

/* As a tunnel does it: from the header of the packet in a datagram, and two
 * words for what is in front of that. Nothing is read that is not here.
 */
static __always_inline bool step_datagram_sum(struct step *s)
{
	struct iphdr ip = {
		.ihl = 5,
		.protocol = IPPROTO_TCP,
		.saddr = s->x,
		.daddr = s->choice,
	};
	__u64 sum = inner_sum4(&ip, NULL, s->choice);

	s->x += fold_sum(sum + (__u32)s->x + (s->x >> 32));
	return true;
}
PROGRAM(datagram_sum, SERVICES)

/* A word that no cache has: a number of the run makes each run's differ. */
static __always_inline __u64 *far_word(struct step *s)
{
	struct counters *runs;
	struct far_page *page;
	__u32 row = 0;

	if (s->number == 0) {
		runs = bpf_map_lookup_elem(&rows, &row);
		if (!runs)
			return NULL;
		s->x += ++runs->counts[COUNTERS];
		stir(s, PAGES);
	}
	page = bpf_map_lookup_elem(&pages, &s->choice);
	return page ? &page->words[s->x % PAGE] : NULL;
}

static __always_inline bool step_far_read(struct step *s)
{
	volatile __u64 *word = far_word(s);

	if (word)
		s->x += *word;
	return word;
}
PROGRAM(far_read, PAGES)

static __always_inline bool step_far_write(struct step *s)
{
	volatile __u64 *word = far_word(s);

	if (word)
		*word = 0;
	return word;
}
PROGRAM(far_write, PAGES)

static __always_inline bool step_far_exchange(struct step *s)
{
	__u64 *word = far_word(s);

	if (word)
		s->x += __sync_val_compare_and_swap(word, 0, s->choice & 1);
	return word;
}
PROGRAM(far_exchange, PAGES)

/* The entry is looked up once: that is another step. */
SEC("xdp")
int spin_lock(struct xdp_md *ctx)
{
	struct step s = { .x = seed(ctx) };
	struct locked *entry;
	__u32 zero = 0;
	__u32 i;

	entry = bpf_map_lookup_elem(&locks, &zero);
	if (!entry)
		return XDP_ABORTED;
#pragma unroll
	for (i = 0; i < STEPS; i++) {
		stir(&s, SERVICES);
		bpf_spin_lock(&entry->lock);
		entry->value += s.choice;
		bpf_spin_unlock(&entry->lock);
		s.x += entry->value;
	}
	return s.x == 1 ? XDP_PASS : XDP_TX;
}

/* Every other step takes back what the one before did. */
SEC("xdp")
int adjust_head(struct xdp_md *ctx)
{
	struct step s = { .x = seed(ctx) };
	__u32 i;

#pragma unroll
	for (i = 0; i < STEPS; i++) {
		stir(&s, SERVICES);
		if (bpf_xdp_adjust_head(ctx, i % 2 ? 4 : -4))
			return XDP_ABORTED;
		s.x += s.choice;
	}
	return s.x == 1 ? XDP_PASS : XDP_TX;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
