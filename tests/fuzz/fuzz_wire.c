/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records, headers and options. The input is the 160 bytes in front of a payload, from their
 * end; its first bytes say what is put right: nothing, the record, the data offset too. What is
 * parsed must be what another parser reads, one that keeps a list of options and looks into it
 * afterwards; and what is built from it, parsed again, must be the same.
 */
#include "fuzz.h"
#include "steer.h"
#include "wire.h"

#define KNOBS 8u /* bytes of the input in front of the headers */

struct option {
	uint8_t kind, len;
	const uint8_t *value;
};

/* ---- another parser of options ---- */

static uint32_t number(const uint8_t *p, uint32_t bytes)
{
	uint32_t n = 0;

	while (bytes--)
		n = n << 8 | *p++;
	return n;
}

static uint32_t list_options(const uint8_t *p, uint32_t len, struct option *list)
{
	uint32_t nr = 0, at = 0;

	while (at < len && p[at] != 0) {
		if (p[at] == 1) {
			at++;
			continue;
		}
		if (at + 1 >= len || p[at + 1] < 2 || at + p[at + 1] > len)
			break;
		list[nr++] = (struct option){p[at], p[at + 1], p + at + 2};
		at += p[at + 1];
	}
	return nr;
}

/* The last of this kind and length: the one that counts. */
static const uint8_t *last(const struct option *list, uint32_t nr, uint8_t kind, uint8_t len)
{
	while (nr--)
		if (list[nr].kind == kind && list[nr].len == len)
			return list[nr].value;
	return NULL;
}

static void check_options(const struct seg *seg, const uint8_t *options, uint32_t len)
{
	struct option list[40];
	const uint32_t nr = list_options(options, len, list);
	const bool syn = seg->flags & TCPF_SYN;
	const uint8_t *mss = last(list, nr, 2, 4), *wscale = last(list, nr, 3, 3);
	const uint8_t *ts = last(list, nr, 8, 10);

	CHECK_EQ(seg->mss, syn && mss ? number(mss, 2) : 0);
	CHECK_EQ(seg->has_wscale, syn && wscale);
	if (seg->has_wscale)
		CHECK_EQ(seg->wscale, *wscale > 14 ? 14 : *wscale);
	CHECK_EQ(seg->sack_ok, syn && last(list, nr, 4, 2));
	CHECK_EQ(seg->has_ts, !!ts);
	if (ts) {
		CHECK_EQ(seg->tsval, number(ts, 4));
		CHECK_EQ(seg->tsecr, number(ts + 4, 4));
	}
}

/* ---- built and parsed again ---- */

static void build_and_parse(const struct seg *seg, const uint8_t *knobs)
{
	const struct rx_packet packet = {.nr_chunks = 1, .chunk = {{.len = 100}}};
	struct out_seg out = {
		.tuple = &seg->tuple,
		.link = &seg->link,
		.seq = seg->seq,
		.ack = seg->ack,
		.flags = seg->flags,
		.wnd = (uint16_t)seg->wnd,
		.mss = seg->mss,
		.wscale = seg->has_wscale ? (int8_t)seg->wscale : -1,
		.sack_permitted = seg->sack_ok,
		.has_ts = seg->has_ts,
		.tsval = seg->tsval,
		.tsecr = seg->tsecr,
		.len = knobs[1] % 64,
	};
	uint8_t frame[WIRE_HEADERS_MAX + 64] = {0}, page[RX_META_LEN];
	struct seg back;
	uint32_t hdr_len;

	if (!(seg->flags & TCPF_SYN)) { /* in the room that a SYN's options leave */
		out.nr_sack = knobs[2] % (out.has_ts ? 4 : 5);
		for (uint32_t i = 0; i < out.nr_sack; i++)
			out.sack[i] = (struct sack_block){seq_add(seg->seq, i), seg->ack};
	}
	hdr_len = wire_headers_len(&out);
	CHECK(hdr_len <= WIRE_HEADERS_MAX);
	CHECK_EQ(wire_build(&out, frame), hdr_len + out.len);
	memcpy(page + sizeof(page) - hdr_len, frame, hdr_len);
	const struct rx_info info = {
		.magic = RX_INFO_MAGIC,
		.hdr_len = (uint8_t)hdr_len,
		.l3_off = 14,
		.l4_off = seg->tuple.family == 4 ? 34 : 54,
		.family = (uint8_t)seg->tuple.family,
		.csum = RX_CSUM_VERIFIED,
		.payload_len = out.len,
	};
	memcpy(page, &info, sizeof(info));
	CHECK_EQ(wire_parse(page + sizeof(page), &packet, &back), DROP_NONE);
	CHECK_EQ(back.seq.n, seg->seq.n);
	CHECK_EQ(back.ack.n, seg->flags & TCPF_ACK ? seg->ack.n : 0);
	CHECK_EQ(back.flags, seg->flags);
	CHECK_EQ(back.wnd, seg->wnd);
	CHECK_EQ(back.mss, seg->mss);
	CHECK_EQ(back.has_wscale, seg->has_wscale);
	CHECK_EQ(back.sack_ok, seg->sack_ok);
	CHECK_EQ(back.has_ts, seg->has_ts);
	CHECK(!seg->has_ts || (back.tsval == seg->tsval && back.tsecr == seg->tsecr));
	CHECK(!memcmp(back.tuple.peer_ip, seg->tuple.local_ip, 16));
	CHECK_EQ(back.tuple.peer_port, seg->tuple.local_port);
}

/* ---- the input ---- */

/* As much as the knobs say is put right, so that what lies behind the first checks is reached. */
static void put_right(uint8_t *page, const uint8_t *knobs)
{
	const bool six = knobs[3] & 1;
	const uint8_t doff = 5 + knobs[4] % 11, l3 = 14 + (knobs[3] >> 1) % 5;
	const uint8_t l4 = (uint8_t)(l3 + (six ? 40 : 20));
	struct rx_info info = {
		.magic = RX_INFO_MAGIC,
		.hdr_len = (uint8_t)(l4 + doff * 4),
		.l3_off = l3,
		.l4_off = l4,
		.family = six ? 6 : 4,
		.csum = RX_CSUM_VERIFIED + knobs[5] % 3,
		.payload_len = knobs[1],
		.linear = knobs[6] % 8,
	};
	uint8_t *tcp;

	if (info.hdr_len + info.linear > RX_HDR_MAX)
		info.linear = 0;
	if (info.payload_len < info.linear)
		info.payload_len = info.linear;
	memcpy(page, &info, sizeof(info));
	if (knobs[0] % 4 < 2)
		return;
	tcp = page + RX_META_LEN - info.linear - info.hdr_len + l4;
	tcp[12] = (uint8_t)(doff << 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t knobs[KNOBS] = {0}, *page;
	struct rx_packet packet = {.queue = 1, .nr_chunks = 2};
	struct rx_info info;
	struct seg seg;
	size_t len;

	if (size < KNOBS)
		return 0;
	memcpy(knobs, data, KNOBS);
	len = size - KNOBS < RX_META_LEN ? size - KNOBS : RX_META_LEN;
	page = calloc(1, RX_META_LEN); /* exactly as long: one byte more is the sanitizer's find */
	memcpy(page + RX_META_LEN - len, data + KNOBS, len);
	packet.chunk[0].len = knobs[7];
	packet.chunk[1].len = knobs[1];
	if (knobs[0] % 4)
		put_right(page, knobs);
	memcpy(&info, page, sizeof(info));
	if (wire_parse(page + RX_META_LEN, &packet, &seg) == DROP_NONE) {
		const uint8_t *tcp = page + RX_META_LEN - info.linear - info.hdr_len + info.l4_off;

		CHECK(seg.head <= seg.len && seg.len - seg.head <= (uint32_t)knobs[7] + knobs[1]);
		CHECK_EQ(seg.hdr_len, info.hdr_len);
		CHECK_EQ(seg.tuple.peer_port, number(tcp, 2));
		CHECK_EQ(seg.tuple.local_port, number(tcp + 2, 2));
		CHECK_EQ(seg.seq.n, number(tcp + 4, 4));
		CHECK_EQ(seg.ack.n, number(tcp + 8, 4));
		CHECK_EQ(seg.wnd, number(tcp + 14, 2));
		check_options(&seg, tcp + 20, (uint32_t)(tcp[12] >> 4) * 4 - 20);
		build_and_parse(&seg, knobs);
	}
	free(page);
	fuzz_judge();
	return 0;
}
