/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is built is parsed back the same, options of every legal shape; and no record and
 * no header, however wrong, is read beyond the 160 bytes in front of the payload (the
 * page is exactly that long here: one byte more is ASan's find).
 */
#include <netinet/in.h>
#include "check.h"
#include "steer.h"
#include "wire.h"

static const struct rx_packet one_chunk = {.nr_chunks = 1, .chunk = {{.niov = 0, .len = 3840}}};

static uint8_t *end_of_page(void)
{
	return (uint8_t *)calloc(1, RX_META_LEN) + RX_META_LEN;
}

static void free_page(uint8_t *end)
{
	free(end - RX_META_LEN);
}

/* Put a built frame's headers in front of `end`, with the record the program would write. */
static void place(uint8_t *end, const uint8_t *frame, uint32_t hdr_len, int family,
		  uint32_t payload)
{
	const struct rx_info info = {
		.magic = RX_INFO_MAGIC,
		.hdr_len = (uint8_t)hdr_len,
		.l3_off = 14,
		.l4_off = family == 4 ? 34 : 54,
		.family = (uint8_t)family,
		.csum = RX_CSUM_VERIFIED,
		.payload_len = payload,
	};

	memcpy(end - RX_META_LEN, &info, sizeof(info));
	memcpy(end - hdr_len, frame, hdr_len);
}

static struct tuple tuple_of(int family)
{
	struct tuple t = {.peer_port = 40000, .local_port = 80, .family = (uint16_t)family};

	if (family == 4) {
		t.peer_ip[10] = t.peer_ip[11] = t.local_ip[10] = t.local_ip[11] = 0xff;
		memcpy(t.peer_ip + 12, (uint8_t[]){10, 0, 0, 1}, 4);
		memcpy(t.local_ip + 12, (uint8_t[]){10, 0, 0, 2}, 4);
	} else {
		t.peer_ip[0] = t.local_ip[0] = 0xfd;
		t.peer_ip[15] = 1;
		t.local_ip[15] = 2;
	}
	return t;
}

/* The frame goes from local to peer; received, the two change places. */
static struct tuple turned(struct tuple t)
{
	const struct tuple old = t;

	memcpy(t.peer_ip, old.local_ip, 16);
	memcpy(t.local_ip, old.peer_ip, 16);
	t.peer_port = old.local_port;
	t.local_port = old.peer_port;
	return t;
}

/* Sum of 16-bit words, pseudo header included: 0xffff when right (RFC 1071). */
static uint16_t tcp_sum(const uint8_t *frame, uint32_t len, int family)
{
	const uint32_t l4 = family == 4 ? 34 : 54, addr = family == 4 ? 26 : 22;
	uint64_t sum = IPPROTO_TCP + (len - l4);

	for (uint32_t i = addr; i < len; i += 2)
		sum += (uint32_t)frame[i] << 8 | (i + 1 < len ? frame[i + 1] : 0);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

static void built_and_parsed_are_the_same(void)
{
	const struct link link = {.dst = {1, 2, 3, 4, 5, 6}, .src = {6, 5, 4, 3, 2, 1}};

	for (int shape = 0; shape < 64; shape++) {
		const int family = shape & 1 ? 6 : 4;
		const struct tuple tuple = tuple_of(family), back = turned(tuple);
		struct out_seg out = {
			.tuple = &tuple,
			.link = &link,
			.seq = seq(0xfffffff0),
			.ack = seq(77),
			.flags = TCPF_SYN | TCPF_ACK,
			.wnd = 54321,
			.mss = shape & 2 ? 1460 : 0,
			.wscale = shape & 4 ? 9 : -1,
			.sack_permitted = shape & 8,
			.has_ts = shape & 16,
			.tsval = 0xdeadbeef,
			.tsecr = 5,
			.len = shape & 32 ? 7 : 0,
		};
		uint8_t frame[256] = {0}, *end = end_of_page();
		const uint32_t hdr_len = wire_headers_len(&out);
		struct seg seg;
		uint32_t len;

		memcpy(frame + hdr_len, "payload", 7);
		len = wire_build(&out, frame);
		CHECK_EQ(len, hdr_len + out.len);
		CHECK_EQ(tcp_sum(frame, len, family), 0xffff);
		place(end, frame, hdr_len, family, out.len);
		CHECK_EQ(wire_parse(end, &one_chunk, &seg), DROP_NONE);
		CHECK(!memcmp(&seg.tuple, &back, sizeof(back)));
		CHECK(!memcmp(seg.link.dst, link.src, 6) && !memcmp(seg.link.src, link.dst, 6));
		CHECK(seq_eq(seg.seq, out.seq) && seq_eq(seg.ack, out.ack));
		CHECK_EQ(seg.flags, out.flags);
		CHECK_EQ(seg.wnd, out.wnd);
		CHECK_EQ(seg.len, out.len);
		CHECK_EQ(seg.mss, out.mss);
		CHECK_EQ(seg.has_wscale, out.wscale >= 0);
		CHECK_EQ(seg.wscale, out.wscale >= 0 ? 9 : 0);
		CHECK_EQ(seg.sack_ok, out.sack_permitted);
		CHECK_EQ(seg.has_ts, out.has_ts);
		CHECK_EQ(seg.tsval, out.has_ts ? out.tsval : 0);
		free_page(end);
	}
}

static void sack_blocks_fill_the_options_to_the_last_byte(void)
{
	const struct tuple tuple = tuple_of(4);
	const struct link link = {0};
	struct out_seg out = {.tuple = &tuple, .link = &link, .flags = TCPF_ACK, .wscale = -1};
	uint8_t frame[256];

	out.has_ts = true;
	out.nr_sack = 3;
	for (uint32_t i = 0; i < 3; i++)
		out.sack[i] = (struct sack_block){seq(100 * i), seq(100 * i + 50)};
	CHECK_EQ(wire_headers_len(&out), 14 + 20 + 60);
	CHECK_EQ(wire_build(&out, frame), 94);
	CHECK_EQ(frame[46], 0xf0); /* data offset 15 */
	CHECK_EQ(frame[34 + 20 + 12 + 2], 5);
	CHECK_EQ(frame[34 + 20 + 12 + 3], 26);
	CHECK_EQ(tcp_sum(frame, 94, 4), 0xffff);
}

static void parse_options(struct seg *seg, const uint8_t *options, uint32_t len, uint8_t flags)
{
	const struct tuple tuple = tuple_of(4);
	const struct link link = {0};
	const struct out_seg out = {.tuple = &tuple, .link = &link, .flags = flags, .wscale = -1};
	uint8_t frame[256] = {0}, *end = end_of_page();

	wire_build(&out, frame);
	memcpy(frame + 54, options, len);
	frame[46] = (uint8_t)((20 + len) / 4 << 4);
	place(end, frame, 54 + len, 4, 0);
	CHECK_EQ(wire_parse(end, &one_chunk, seg), DROP_NONE);
	free_page(end);
}

static void options_stand_anywhere_and_unknown_ones_are_skipped(void)
{
	static const uint8_t odd[] = {1, 253, 3, 9, 2, 4, 5, 0xb4, 1, 3, 3, 200, 4, 2, 0, 0};
	struct seg seg;

	parse_options(&seg, odd, sizeof(odd), TCPF_SYN);
	CHECK_EQ(seg.mss, 1460);
	CHECK_EQ(seg.wscale, 14); /* 200 counts as 14 */
	CHECK(seg.sack_ok);
	parse_options(&seg, odd, sizeof(odd), TCPF_ACK); /* not on a SYN: as if absent */
	CHECK_EQ(seg.mss, 0);
	CHECK(!seg.has_wscale && !seg.sack_ok);
}

static void nothing_behind_an_illegal_length_is_believed(void)
{
	static const uint8_t rows[][8] = {
		{253, 0, 2, 4, 5, 0xb4, 0, 0}, /* length 0 */
		{253, 1, 2, 4, 5, 0xb4, 0, 0}, /* length 1 */
		{253, 200, 2, 4, 5, 0xb4, 0, 0}, /* beyond the header */
		{0, 0, 2, 4, 5, 0xb4, 0, 0}, /* behind the end of the list */
		{2, 3, 5, 1, 1, 1, 1, 2}, /* MSS of another length; a kind in the last byte */
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct seg seg;

		parse_options(&seg, rows[i], 8, TCPF_SYN);
		CHECK_EQ(seg.mss, 0);
	}
}

static void wrong_sources_and_destinations_are_dropped(void)
{
	static const uint8_t wrong4[][4] = {
		{0, 0, 0, 0}, {127, 0, 0, 1}, {224, 0, 0, 1}, {240, 0, 0, 1}, {255, 255, 255, 255},
	};
	const struct link link = {0};
	struct seg seg;

	for (size_t i = 0; i < 2 * sizeof(wrong4) / sizeof(*wrong4); i++) {
		struct tuple tuple = tuple_of(4);
		const struct out_seg out = {.tuple = &tuple, .link = &link, .wscale = -1};
		uint8_t frame[256] = {0}, *end = end_of_page();

		memcpy((i & 1 ? tuple.peer_ip : tuple.local_ip) + 12, wrong4[i / 2], 4);
		wire_build(&out, frame);
		place(end, frame, 54, 4, 0);
		CHECK_EQ(wire_parse(end, &one_chunk, &seg), DROP_ADDRESS);
		free_page(end);
	}
}

/* Random records over random headers: whatever is accepted lies inside the page. */
static void no_record_is_read_out_of_bounds(void)
{
	struct seg seg;
	int accepted = 0;

	srand(2);
	for (int i = 0; i < 200000; i++) {
		uint8_t *end = end_of_page();
		struct rx_info info = {.magic = RX_INFO_MAGIC, .csum = RX_CSUM_VERIFIED};

		for (uint8_t *p = end - RX_META_LEN; p < end; p++)
			*p = (uint8_t)rand();
		info.family = rand() & 1 ? 4 : 6;
		info.hdr_len = (uint8_t)(rand() % 160);
		info.l3_off = (uint8_t)(14 + rand() % 5);
		info.l4_off = (uint8_t)(34 + rand() % 80);
		info.payload_len = (uint32_t)rand() % 5000;
		memcpy(end - RX_META_LEN, &info, sizeof(info));
		if (wire_parse(end, &one_chunk, &seg) == DROP_NONE) {
			accepted++;
			CHECK(seg.len <= 3840);
		}
		free_page(end);
	}
	CHECK(accepted > 0);
}

int main(void)
{
	static const struct check_test tests[] = {
		CHECK_TEST(built_and_parsed_are_the_same),
		CHECK_TEST(sack_blocks_fill_the_options_to_the_last_byte),
		CHECK_TEST(options_stand_anywhere_and_unknown_ones_are_skipped),
		CHECK_TEST(nothing_behind_an_illegal_length_is_believed),
		CHECK_TEST(wrong_sources_and_destinations_are_dropped),
		CHECK_TEST(no_record_is_read_out_of_bounds),
	};

	return check_main(tests, sizeof(tests) / sizeof(*tests));
}
