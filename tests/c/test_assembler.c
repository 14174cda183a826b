/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The assembler against a byte map: random segments, cut into chunks, over a window that
 * crosses the 32-bit wrap. After every step the islands are the runs of the map, each byte
 * comes from the segment that brought it first, and no frag is lost.
 */
#include <errno.h>
#include "assembler.h"
#include "check.h"

#define SPACE 600u /* bytes of sequence space in play */
#define FRAGS 4096
#define CHUNK 50u /* bytes a chunk, so that segments take several */

static struct rx_frag frags[FRAGS];
static struct island islands[ASSEMBLER_ISLANDS_MAX + 8];
static struct frag_pool pool;
static struct assembler a;
static struct net_iov niovs[STACK_MAX_CHUNKS];

/* Which segment a byte came from: the net_iov's UMEM address serves as its mark. */
static uint32_t map[SPACE];
static const uint32_t wrap_base = UINT32_MAX - SPACE / 2;

static void fresh(uint32_t nr_frags, uint32_t nr_islands)
{
	frag_pool_init(&pool, frags, nr_frags, islands, nr_islands);
	assembler_init(&a);
	memset(map, 0, sizeof(map));
}

static struct payload payload_of(uint32_t len)
{
	struct payload p = {0};

	for (; len; p.nr++) {
		p.chunk[p.nr] = net_iov_to_netmem(&niovs[p.nr]);
		p.len[p.nr] = len < CHUNK ? len : CHUNK;
		len -= p.len[p.nr];
	}
	return p;
}

/* The same with its first bytes in the header page of chunk 0. */
static struct payload payload_with_head(uint32_t head, uint32_t len)
{
	struct payload p = payload_of(len - head);

	if (!p.nr) { /* a packet that is wholly in its head still has a chunk */
		p.chunk[p.nr] = net_iov_to_netmem(&niovs[0]);
		p.len[p.nr++] = 14;
	}
	p.head = head;
	p.head_source = (struct rx_source){.kind = RX_LINEAR, .in_head = true};
	p.source = (struct rx_source){.kind = RX_DEVICE};
	return p;
}

static uint32_t list_bytes(const struct frag_list *list)
{
	uint32_t bytes = 0, nr = 0;

	for (const struct rx_frag *f = list->head; f; f = f->next, nr++) {
		CHECK(f->frag.len > 0);
		bytes += f->frag.len;
	}
	CHECK_EQ(nr, list->nr);
	CHECK_EQ(bytes, list->bytes);
	return bytes;
}

static uint32_t frags_in_use(void)
{
	uint32_t nr = 0;

	for (const struct island *i = a.first; i; i = i->next)
		nr += i->frags.nr;
	return nr;
}

/* The islands are the runs of the map, ascending, and never touch. */
static void agrees_with_the_map(void)
{
	const struct island *i = a.first;
	uint32_t at = 0, nr = 0, bytes = 0;

	while (at < SPACE) {
		uint32_t end = at;

		while (end < SPACE && map[end])
			end++;
		if (end == at) {
			at++;
			continue;
		}
		CHECK(i);
		if (!i)
			return;
		CHECK_EQ(i->start.n, wrap_base + at);
		CHECK_EQ(i->end.n, wrap_base + end);
		CHECK_EQ(list_bytes(&i->frags), end - at);
		CHECK(!i->next || i->next->prev == i);
		bytes += end - at;
		nr++;
		at = end;
		i = i->next;
	}
	CHECK(!i);
	CHECK_EQ(a.nr, nr);
	CHECK_EQ(a.bytes, bytes);
	CHECK_EQ(pool.nr_free_frags, FRAGS - frags_in_use());
}

static void random_segments_agree_with_a_byte_map(void)
{
	srand(1);
	for (int round = 0; round < 300; round++) {
		fresh(FRAGS, ASSEMBLER_ISLANDS_MAX);
		for (int step = 0; step < 40; step++) {
			const uint32_t start = (uint32_t)rand() % SPACE;
			const uint32_t most = SPACE - start < 300 ? SPACE - start : 300;
			const uint32_t len = 1 + (uint32_t)rand() % most;
			struct payload p = payload_with_head((uint32_t)rand() % (len + 1), len);
			struct sack_block dup;
			uint32_t new = 0, first_dup = SPACE, uses = 0;
			int64_t added;

			for (uint32_t b = start; b < start + len; b++) {
				if (map[b] && first_dup == SPACE)
					first_dup = b;
				new += !map[b];
				map[b] = 1;
			}
			const uint32_t before = frags_in_use();

			added = assembler_add(&a, &pool, &p, seq(wrap_base + start), 0, len, &dup);
			CHECK_EQ(added, new);
			if (first_dup == SPACE)
				CHECK(seq_eq(dup.start, dup.end));
			else
				CHECK_EQ(dup.start.n, wrap_base + first_dup);
			for (uint32_t c = 0; c < p.nr; c++)
				uses += p.uses[c];
			CHECK_EQ(uses, frags_in_use() - before);
			agrees_with_the_map();
		}
	}
}

static void what_was_queued_first_stays(void)
{
	struct payload old = payload_of(CHUNK), new = payload_of(3 * CHUNK);
	struct sack_block dup;

	fresh(FRAGS, 16);
	old.chunk[0] = net_iov_to_netmem(&niovs[9]);
	assembler_add(&a, &pool, &old, seq(1000 + CHUNK), 0, CHUNK, &dup);
	assembler_add(&a, &pool, &new, seq(1000), 0, 3 * CHUNK, &dup);
	CHECK_EQ(a.nr, 1);
	CHECK_EQ(new.uses[1], 0); /* the chunk that lay over the old bytes is not referenced */
	CHECK_EQ(a.first->frags.nr, 3);
	CHECK(netmem_equal(a.first->frags.head->next->frag.netmem, old.chunk[0]));
}

static void one_chunk_may_give_two_frags(void)
{
	struct payload island = payload_of(10), over = payload_of(CHUNK);
	struct sack_block dup;

	fresh(FRAGS, 16);
	island.chunk[0] = net_iov_to_netmem(&niovs[9]);
	assembler_add(&a, &pool, &island, seq(120), 0, 10, &dup);
	assembler_add(&a, &pool, &over, seq(100), 0, CHUNK, &dup);
	CHECK_EQ(over.uses[0], 2);
	CHECK_EQ(a.first->frags.nr, 3);
	CHECK_EQ(a.first->frags.tail->frag.offset, 30);
	CHECK_EQ(a.first->frags.tail->frag.len, 20);
}

static void a_frag_is_of_the_head_or_of_a_chunk(void)
{
	struct payload p = payload_with_head(30, 30 + CHUNK);
	struct frag_list list = {0};
	const struct rx_frag *f;

	fresh(FRAGS, 16);
	CHECK(payload_cut(&pool, &p, 10, 40, &list));
	CHECK_EQ(list.nr, 2);
	CHECK_EQ(p.uses[0], 2); /* both hold the buffer */
	f = list.head;
	CHECK(f->source.in_head && f->source.kind == RX_LINEAR);
	CHECK_EQ(f->frag.offset, STACK_CHUNK - 20); /* the head ends where its page does */
	CHECK_EQ(f->frag.len, 20);
	f = f->next;
	CHECK(!f->source.in_head && f->source.kind == RX_DEVICE);
	CHECK_EQ(f->frag.offset, 0);
	CHECK_EQ(f->frag.len, 20);
	memset(&list, 0, sizeof(list));
	CHECK(payload_cut(&pool, &p, 35, 10, &list));
	CHECK_EQ(list.nr, 1);
	CHECK_EQ(list.head->frag.offset, 5);
	memset(&list, 0, sizeof(list));
	CHECK(payload_cut(&pool, &p, 5, 10, &list));
	CHECK_EQ(list.nr, 1);
	CHECK_EQ(list.head->frag.offset, STACK_CHUNK - 25);
	CHECK_EQ(list.head->frag.len, 10);
}

static void a_head_needs_a_frag_of_its_own(void)
{
	struct payload p = payload_with_head(10, 10 + 2 * CHUNK);
	struct frag_list list = {0};

	fresh(2, 16);
	CHECK(!payload_cut(&pool, &p, 0, 10 + 2 * CHUNK, &list));
	CHECK_EQ(list.nr, 0);
	fresh(3, 16);
	CHECK(payload_cut(&pool, &p, 0, 10 + 2 * CHUNK, &list));
	CHECK_EQ(list.nr, 3);
	CHECK_EQ(list_bytes(&list), 10 + 2 * CHUNK);
}

static void taking_gives_only_what_begins_at_the_edge(void)
{
	struct payload p = payload_of(20), q = payload_of(20);
	struct frag_list list = {0};
	struct sack_block dup;

	fresh(FRAGS, 16);
	assembler_add(&a, &pool, &p, seq(100), 0, 20, &dup);
	assembler_add(&a, &pool, &q, seq(200), 0, 20, &dup);
	CHECK_EQ(assembler_take(&a, &pool, seq(99), &list).n, 99);
	CHECK_EQ(assembler_take(&a, &pool, seq(100), &list).n, 120);
	CHECK_EQ(list_bytes(&list), 20);
	CHECK_EQ(a.nr, 1);
	assembler_clear(&a, &pool, &list);
	CHECK_EQ(list_bytes(&list), 40);
	CHECK_EQ(a.nr, 0);
	CHECK_EQ(a.bytes, 0);
}

static void blocks_are_reported_most_recent_first(void)
{
	struct sack_block blocks[4], dup;

	fresh(FRAGS, 16);
	for (uint32_t i = 0; i < 6; i++) {
		struct payload p = payload_of(10);

		assembler_add(&a, &pool, &p, seq(100 + 100 * i), 0, 10, &dup);
	}
	struct payload again = payload_of(10);

	assembler_add(&a, &pool, &again, seq(210), 0, 10, &dup); /* makes [200, 220) */
	CHECK_EQ(assembler_sack(&a, blocks, 4), 4);
	CHECK_EQ(blocks[0].start.n, 200);
	CHECK_EQ(blocks[0].end.n, 220);
	CHECK_EQ(blocks[1].start.n, 600);
	CHECK_EQ(blocks[2].start.n, 500);
	CHECK_EQ(blocks[3].start.n, 400);
}

static void running_out_leaves_everything_consistent(void)
{
	struct payload p = payload_of(2 * CHUNK);
	struct sack_block dup;

	fresh(1, 16); /* fewer frags than the payload has chunks */
	CHECK_EQ(assembler_add(&a, &pool, &p, seq(100), 0, 2 * CHUNK, &dup), -ENOMEM);
	CHECK_EQ(p.uses[0] + p.uses[1], 0);
	CHECK_EQ(a.nr, 0);
	CHECK_EQ(pool.nr_free_frags, 1);

	fresh(FRAGS, ASSEMBLER_ISLANDS_MAX + 8);
	for (uint32_t i = 0; i < ASSEMBLER_ISLANDS_MAX + 4; i++) {
		struct payload one = payload_of(1);
		const int64_t added = assembler_add(&a, &pool, &one, seq(2 * i), 0, 1, &dup);

		CHECK_EQ(added, i < ASSEMBLER_ISLANDS_MAX ? 1 : -ENOMEM);
	}
	CHECK_EQ(a.nr, ASSEMBLER_ISLANDS_MAX);
	/* A full table still takes what makes it smaller. */
	struct payload gap = payload_of(1);

	CHECK_EQ(assembler_add(&a, &pool, &gap, seq(1), 0, 1, &dup), 1);
	CHECK_EQ(a.nr, ASSEMBLER_ISLANDS_MAX - 1);
}

int main(void)
{
	static const struct check_test tests[] = {
		CHECK_TEST(random_segments_agree_with_a_byte_map),
		CHECK_TEST(what_was_queued_first_stays),
		CHECK_TEST(one_chunk_may_give_two_frags),
		CHECK_TEST(a_frag_is_of_the_head_or_of_a_chunk),
		CHECK_TEST(a_head_needs_a_frag_of_its_own),
		CHECK_TEST(taking_gives_only_what_begins_at_the_edge),
		CHECK_TEST(blocks_are_reported_most_recent_first),
		CHECK_TEST(running_out_leaves_everything_consistent),
	};

	return check_main(tests, sizeof(tests) / sizeof(*tests));
}
