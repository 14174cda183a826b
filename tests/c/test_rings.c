/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Descriptors that no kernel should write: outside of the UMEM, across the end of a buffer, for a
 * buffer twice, for one that nobody gave; with records and headers to match. None of them becomes
 * a packet, what is right beside them does, and afterwards every buffer is home.
 *
 * What is read or written outside is the sanitizers' to find: rings, header pages and slots are
 * allocations of their own, and of device memory there is none.
 */
#include <linux/if_xdp.h>
#include <xdp/xsk.h>

#include "loop.h"
#include "mosaic.h"
#include "check.h"
#include "stack_fixture.h"

#ifndef XDP_PKT_CONTD
#define XDP_PKT_CONTD (1 << 0)
#endif

#define NIOVS 48 /* no power of two: none of the stack's sizes fits by chance */
#define PAGES 16
#define FILL 16
#define RING 64
#define SLOTS 128 /* HEADERS_SLOT: more than there are buffers */
#define FIRST_HEAD 3 /* HEADERS_CHUNK: of the queue's area */
#define DATA 310 /* where payload begins, behind headroom and headers */
#define TURNS 20000

/* The kernel's side of a ring. */
struct kernel_ring {
	uint32_t producer, consumer, flags;
	void *entries;
};

static struct bed {
	struct loop loop;
	struct queue_pair *qp;
	struct stack_config cfg;
	struct stack_area_config area_cfg;
	void *area_mem;
	int area;
	struct xsk_ring_cons rx;
	struct xsk_ring_prod fill;
	struct kernel_ring kernel_rx, kernel_fill;
	struct rx_slot *heads;
	uint64_t packets; /* HEADERS_SLOT: numbered so far */
	uint64_t random;
	uint64_t now;
} b;

static uint32_t chance(uint32_t below)
{
	return check_random(&b.random, below);
}

static void *allocate(size_t alignment, size_t size)
{
	void *p;

	if (posix_memalign(&p, alignment, size))
		abort();
	return memset(p, 0, size);
}

/* ---- set-up ---- */

static void open_stack(void)
{
	b.cfg = stack_config_of_tests();
	b.cfg.max_niovs = NIOVS;
	b.cfg.max_areas = b.cfg.max_apps = 1;
	b.cfg.nr_pages = PAGES;
	b.cfg.page_base = allocate(MOSAIC_PAGE, PAGES * MOSAIC_PAGE);
	b.cfg.nr_queues = 1;
	b.cfg.max_flows = b.cfg.max_listeners = 1;
	b.cfg.fill_max = FILL;
	b.loop.stack = allocate(64, stack_size(&b.cfg));
	CHECK_EQ(stack_init(b.loop.stack, &b.cfg), 0);
}

static void open_area(enum mosaic_layout layout)
{
	b.area_cfg = (struct stack_area_config){
		.nr_niovs = NIOVS,
		.dmabuf_id = 1,
		.header_base = allocate(MOSAIC_PAGE, NIOVS * MOSAIC_PAGE),
		.packed = layout == MOSAIC_CHUNKS,
	};
	b.area_mem = allocate(64, stack_area_size(&b.area_cfg));
	b.area = stack_area_open(b.loop.stack, b.area_mem, &b.area_cfg);
	CHECK_EQ(stack_queue_attach(b.loop.stack, 0, b.area), 0);
}

static void open_rings(void)
{
	b.kernel_rx.entries = allocate(64, RING * sizeof(struct xdp_desc));
	b.kernel_fill.entries = allocate(64, RING * sizeof(uint64_t));
	b.rx = (struct xsk_ring_cons){
		.mask = RING - 1,
		.size = RING,
		.producer = &b.kernel_rx.producer,
		.consumer = &b.kernel_rx.consumer,
		.ring = b.kernel_rx.entries,
		.flags = &b.kernel_rx.flags,
	};
	b.fill = (struct xsk_ring_prod){
		.cached_cons = RING,
		.mask = RING - 1,
		.size = RING,
		.producer = &b.kernel_fill.producer,
		.consumer = &b.kernel_fill.consumer,
		.ring = b.kernel_fill.entries,
		.flags = &b.kernel_fill.flags,
	};
}

static void start(enum header_path path)
{
	const enum mosaic_layout layout = path == HEADERS_CHUNK ? MOSAIC_CHUNKS : MOSAIC_PAIRS;
	const uint32_t nr_heads = path == HEADERS_CHUNK ? FIRST_HEAD + NIOVS : SLOTS;

	memset(&b, 0, sizeof(b));
	b.random = 0x9e3779b97f4a7c15;
	b.now = 1000000000;
	open_stack();
	open_area(layout);
	open_rings();
	b.heads = allocate(64, nr_heads * sizeof(*b.heads));
	b.loop.header_path = path;
	b.loop.heads = b.heads;
	b.loop.nr_heads = nr_heads;
	b.qp = &b.loop.qp[0];
	*b.qp = (struct queue_pair){
		.rings = {.rx = &b.rx, .fill = &b.fill, .fd = -1, .first_head = FIRST_HEAD},
		.header_base = b.area_cfg.header_base,
		.tx_base = mosaic_tx(layout, NIOVS),
		.nr_niovs = NIOVS,
		.layout = layout,
		.attached = true,
	};
	rings_refill(&b.loop, b.qp);
}

/* What lies in the fill ring goes home; nothing else is out, for there are no connections. */
static void end(void)
{
	CHECK_EQ(stack_check(b.loop.stack), 0);
	stack_queue_detach(b.loop.stack, 0);
	CHECK_EQ(stack_area_close(b.loop.stack, b.area), 0);
	free(b.heads);
	free(b.kernel_rx.entries);
	free(b.kernel_fill.entries);
	free(b.area_mem);
	free(b.area_cfg.header_base);
	free(b.loop.stack);
	free(b.cfg.page_base);
}

/* ---- the kernel ---- */

/* What the fill ring gives, as a buffer; none: -1. */
static int take_buffer(void)
{
	const uint64_t *addrs = b.kernel_fill.entries;
	uint64_t addr;

	if (b.kernel_fill.consumer == b.kernel_fill.producer)
		return -1;
	addr = addrs[b.kernel_fill.consumer++ & (RING - 1)];
	return (int)(addr / mosaic_step(b.qp->layout));
}

/* Where a packet's payload begins in that buffer, as a descriptor has it. */
static uint64_t payload_addr(uint32_t niov)
{
	const uint64_t fill = mosaic_fill(b.qp->layout, niov);

	if (b.qp->layout == MOSAIC_CHUNKS)
		return fill + DATA;
	return fill | (uint64_t)MOSAIC_HEADROOM << XSK_UNALIGNED_BUF_OFFSET_SHIFT;
}

static void push(uint64_t addr, uint32_t len, uint32_t options)
{
	struct xdp_desc *descs = b.kernel_rx.entries;

	CHECK(b.kernel_rx.producer - b.kernel_rx.consumer < RING);
	descs[b.kernel_rx.producer++ & (RING - 1)] =
		(struct xdp_desc){.addr = addr, .len = len, .options = options};
}

/* Record and headers of a segment to a port that nobody listens on, some bytes of it garbled. */
static void put_head(uint32_t niov, uint32_t payload, uint32_t garbled)
{
	const struct segment seg = {.peer_port = 2000, .local_port = 80, .flags = 0x10};
	uint8_t *end = b.area_cfg.header_base + (niov + 1ul) * MOSAIC_PAGE;
	struct rx_slot slot = {
		.seq = ++b.packets,
		.info = {.magic = RX_INFO_MAGIC,
			 .hdr_len = IPV4_HEADERS,
			 .l3_off = 14,
			 .l4_off = IPV4_L4,
			 .family = 4,
			 .csum = RX_CSUM_VERIFIED,
			 .payload_len = payload},
	};
	struct rx_slot_ref ref = {.magic = RX_INFO_MAGIC, .seq = b.packets};

	put_ipv4_headers(slot.head, &seg);
	while (garbled--)
		((uint8_t *)&slot.info)[chance(RX_META_LEN)] = (uint8_t)chance(256);
	switch (b.loop.header_path) {
	case HEADERS_METADATA:
		memcpy(end - RX_META_LEN, &slot.info, sizeof(slot.info));
		memcpy(end - IPV4_HEADERS, slot.head, IPV4_HEADERS);
		break;
	case HEADERS_SLOT:
		b.heads[slot.seq & (SLOTS - 1)] = slot;
		memcpy(end - sizeof(ref), &ref, sizeof(ref));
		break;
	case HEADERS_CHUNK:
		b.heads[FIRST_HEAD + niov] = slot;
		break;
	}
}

static struct stack_stats turn(void)
{
	struct stack_stats stats;
	struct tx_frame frame;

	rings_receive(&b.loop, b.qp, b.now += 1000);
	while (stack_tx(b.loop.stack, 0, &frame, 1)) /* a reset */
		stack_tx_done(b.loop.stack, frame.page);
	rings_refill(&b.loop, b.qp);
	stack_stats(b.loop.stack, &stats);
	return stats;
}

/* A packet as it should be, which gets as far as to the listeners. */
static void packet_passes(void)
{
	struct stack_stats before, after;
	const uint32_t niov = (uint32_t)take_buffer();

	stack_stats(b.loop.stack, &before);
	put_head(niov, 100, 0);
	push(payload_addr(niov), 100, 0);
	after = turn();
	CHECK_EQ(after.drops[DROP_NO_LISTENER] - before.drops[DROP_NO_LISTENER], 1);
}

/* ---- chunks, one lie at a time ---- */

static void a_chunk_from_outside_is_no_packet(void)
{
	static const uint64_t addrs[] = {
		(uint64_t)NIOVS * MOSAIC_PAGE, /* transmission page 0 */
		(uint64_t)NIOVS * MOSAIC_PAGE + DATA,
		1ull << 44, /* number 0 in 32 bits */
		DATA | 1ull << XSK_UNALIGNED_BUF_OFFSET_SHIFT,
		1ull << 63,
		UINT64_MAX - MOSAIC_PAGE + 1,
		UINT64_MAX,
	};

	start(HEADERS_CHUNK);
	for (uint32_t i = 0; i < sizeof(addrs) / sizeof(addrs[0]); i++) {
		push(addrs[i], 100, 0);
		CHECK_EQ(turn().niovs_fill, FILL);
		CHECK_EQ(b.loop.stats.rx_bad_descs, i + 1);
		packet_passes();
	}
	end();
}

static void a_chunk_has_an_end(void)
{
	static const struct {
		uint32_t off, len;
		bool fits;
	} cases[] = {
		{0, MOSAIC_PAGE, true},
		{0, MOSAIC_PAGE + 1, false},
		{DATA, MOSAIC_PAGE - DATA, true},
		{DATA, MOSAIC_PAGE - DATA + 1, false},
		{DATA, UINT32_MAX, false},
		{DATA, UINT32_MAX - DATA + 1, false}, /* ends at 0, in 32 bits */
		{MOSAIC_PAGE - 1, 1, true},
		{MOSAIC_PAGE - 1, 2, false},
	};
	uint32_t bad = 0, passed = 0;
	struct stack_stats stats;

	start(HEADERS_CHUNK);
	for (uint32_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		const uint32_t niov = (uint32_t)take_buffer();

		put_head(niov, cases[i].len, 0);
		push(mosaic_fill(MOSAIC_CHUNKS, niov) + cases[i].off, cases[i].len, 0);
		stats = turn();
		bad += !cases[i].fits;
		passed += cases[i].fits;
		CHECK_EQ(b.loop.stats.rx_bad_descs, bad);
		CHECK_EQ(stats.drops[DROP_TRUNCATED], bad);
		CHECK_EQ(stats.drops[DROP_NO_LISTENER] + stats.drops[DROP_RECORD], passed);
	}
	end();
}

static void a_chunk_comes_once(void)
{
	struct stack_stats stats;
	uint32_t niov;

	start(HEADERS_CHUNK);
	niov = (uint32_t)take_buffer();
	put_head(niov, 100, 0);
	push(payload_addr(niov), 100, 0);
	push(payload_addr(niov), 100, 0);
	stats = turn();
	CHECK_EQ(stats.drops[DROP_NO_LISTENER], 1);
	CHECK_EQ(stats.drops[DROP_RECORD], 1);

	niov = (uint32_t)take_buffer(); /* twice in one packet */
	put_head(niov, 200, 0);
	push(payload_addr(niov), 100, XDP_PKT_CONTD);
	push(payload_addr(niov), 100, 0);
	stats = turn();
	CHECK_EQ(stats.drops[DROP_NO_LISTENER], 1);
	CHECK_EQ(stats.drops[DROP_RECORD], 2);
	packet_passes();
	end();
}

static void a_chunk_that_nobody_gave_is_no_packet(void)
{
	bool given[NIOVS] = {false};
	const uint64_t *addrs;
	uint32_t left = 0;

	start(HEADERS_CHUNK);
	addrs = b.kernel_fill.entries;
	for (uint32_t i = 0; i < FILL; i++)
		given[addrs[i] / MOSAIC_PAGE] = true;
	for (uint32_t niov = 0; niov < NIOVS; niov++) {
		if (given[niov])
			continue;
		put_head(niov, 100, 0);
		push(payload_addr(niov), 100, 0);
		CHECK_EQ(turn().drops[DROP_RECORD], ++left);
	}
	CHECK_EQ(left, NIOVS - FILL);
	packet_passes();
	end();
}

/* ---- all of them at once ---- */

static uint64_t any_addr(void)
{
	const uint32_t any = chance(NIOVS + 2);

	switch (chance(8)) {
	case 0:
		return (uint64_t)chance(UINT32_MAX) << 32 | chance(UINT32_MAX);
	case 1:
		return 0 - (uint64_t)chance(4 * MOSAIC_PAGE);
	case 2:
		return mosaic_fill(b.qp->layout, any) + chance(MOSAIC_PAGE);
	case 3:
		return payload_addr(any) ^ 1ull << chance(64);
	default:
		return payload_addr(any);
	}
}

static uint32_t any_len(void)
{
	static const uint32_t edges[] = {
		0, 1, MOSAIC_PAGE - DATA, STACK_CHUNK_DATA, MOSAIC_PAGE, UINT32_MAX};

	return chance(2) ? chance(2 * MOSAIC_PAGE) : edges[chance(6)];
}

static void push_anything(void)
{
	const int niov = take_buffer();
	const bool true_one = niov >= 0 && !chance(3);
	const uint32_t len = chance(3) ? 1 + chance(1000) : any_len();
	uint32_t options = chance(4) ? 0 : XDP_PKT_CONTD;

	if (!chance(16))
		options = chance(UINT32_MAX);
	put_head(niov >= 0 ? (uint32_t)niov : chance(NIOVS), len, chance(2) ? 0 : 1 + chance(8));
	push(true_one ? payload_addr((uint32_t)niov) : any_addr(), len, options);
}

static void lies(enum header_path path)
{
	struct stack_stats stats = {0};

	start(path);
	for (uint32_t i = 0; i < TURNS; i++) {
		for (uint32_t n = chance(RING / 2); n; n--)
			push_anything();
		stats = turn();
		if (i % 64 == 0)
			CHECK_EQ(stack_check(b.loop.stack), 0);
	}
	CHECK(b.loop.stats.rx_bad_descs);
	CHECK(stats.drops[DROP_RECORD]);
	CHECK(stats.drops[DROP_TRUNCATED]);
	CHECK(stats.drops[DROP_NO_LISTENER]);
	rings_receive_last(&b.loop, b.qp, b.now);
	end();
}

static void metadata_and_lies(void)
{
	lies(HEADERS_METADATA);
}

static void slots_and_lies(void)
{
	lies(HEADERS_SLOT);
}

static void chunks_and_lies(void)
{
	lies(HEADERS_CHUNK);
}

CHECK_MAIN(CHECK_TEST(a_chunk_from_outside_is_no_packet), CHECK_TEST(a_chunk_has_an_end),
	   CHECK_TEST(a_chunk_comes_once), CHECK_TEST(a_chunk_that_nobody_gave_is_no_packet),
	   CHECK_TEST(metadata_and_lies), CHECK_TEST(slots_and_lies), CHECK_TEST(chunks_and_lies))
