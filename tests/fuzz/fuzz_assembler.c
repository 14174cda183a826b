/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The assembler against a map of bytes: each byte of the sequence space in play knows which
 * segment brought it first, and which byte of that it was. Segments, takes, pools that are too
 * small and a sequence space that wraps come from the input; after each step islands, frags,
 * counts, SACK blocks and reports of duplicates are what the map says.
 */
#include <errno.h>

#include "fuzz.h"
#include "assembler.h"

#define SPACE 1024u /* bytes of sequence space in play */
#define FRAGS 256
#define ISLANDS 48
#define CHUNK 100u /* bytes of a chunk at most */
#define SEGMENTS 128u

struct byte {
	uint16_t segment; /* number of it, from 1; 0: not here */
	uint16_t at; /* which of its bytes */
};

static struct fuzz_input input;
static struct rx_frag frags[FRAGS];
static struct island islands[ISLANDS];
static struct frag_pool pool;
static struct assembler a;
static struct net_iov niovs[SEGMENTS][STACK_MAX_CHUNKS];
static struct byte map[SPACE];
static uint32_t base; /* sequence number of map[0] */
static uint32_t edge; /* index of rcv_nxt: nothing is below */
static uint32_t nr_frags; /* of the pool in all */
static uint16_t nr_segments;

static uint32_t chance(uint32_t below)
{
	return fuzz_draw(&input, below);
}

static seq_t seq_at(uint32_t index)
{
	return seq(base + index);
}

/* Where the pieces of each segment's payload begin. */
static struct {
	uint32_t from[STACK_MAX_CHUNKS];
	uint32_t head;
} payloads[SEGMENTS];

/* ---- what the islands must be ---- */

/* The byte that a frag begins with: its netmem says which chunk of which segment it is of. */
static struct byte first_byte(const struct rx_frag *f)
{
	const uint32_t n = (uint32_t)(netmem_to_net_iov(f->frag.netmem) - niovs[0]);
	const uint32_t segment = n / STACK_MAX_CHUNKS;
	const uint32_t at = f->source.in_head
				    ? payloads[segment].head - (STACK_CHUNK - f->frag.offset)
				    : payloads[segment].from[n % STACK_MAX_CHUNKS] + f->frag.offset;

	return (struct byte){(uint16_t)segment, (uint16_t)at};
}

static void check_frags(const struct frag_list *list, uint32_t at, uint32_t end)
{
	uint32_t nr = 0, bytes = 0, wrong = 0;

	for (const struct rx_frag *f = list->head; f; f = f->next) {
		const struct byte first = first_byte(f);

		CHECK(f->frag.len && at + f->frag.len <= end);
		if (check_failures)
			return;
		for (uint32_t i = 0; i < f->frag.len; i++)
			wrong += map[at + i].segment != first.segment ||
				 map[at + i].at != first.at + i;
		at += f->frag.len;
		bytes += f->frag.len;
		nr++;
	}
	CHECK_EQ(wrong, 0);
	CHECK_EQ(at, end);
	CHECK_EQ(nr, list->nr);
	CHECK_EQ(bytes, list->bytes);
}

static void check_sack(void)
{
	struct sack_block blocks[ISLANDS];
	const uint32_t nr = assembler_sack(&a, blocks, ISLANDS);

	CHECK_EQ(nr, a.nr);
	for (uint32_t i = 0; i < nr; i++) {
		const struct island *island = assembler_find(&a, blocks[i].start);

		CHECK(island && seq_eq(island->start, blocks[i].start) &&
		      seq_eq(island->end, blocks[i].end));
	}
}

static void agrees_with_the_map(void)
{
	const struct island *i = a.first, *before = NULL;
	uint32_t at = edge, nr = 0, bytes = 0, used = 0;

	while (at < SPACE && !check_failures) {
		uint32_t end = at;

		while (end < SPACE && map[end].segment)
			end++;
		if (end == at) {
			CHECK(!assembler_find(&a, seq_at(at)));
			while (at < SPACE && !map[at].segment)
				at++;
			continue;
		}
		CHECK(i);
		if (!i)
			return;
		CHECK_EQ(i->start.n - base, at);
		CHECK_EQ(i->end.n - base, end);
		CHECK(i->prev == before);
		check_frags(&i->frags, at, end);
		used += i->frags.nr;
		bytes += end - at;
		nr++;
		at = end;
		before = i;
		i = i->next;
	}
	CHECK(!i && a.last == before);
	CHECK_EQ(a.nr, nr);
	CHECK_EQ(a.bytes, bytes);
	CHECK_EQ(a.frags, used);
	CHECK_EQ(pool.nr_free_frags, nr_frags - used);
	CHECK_EQ(assembler_end(&a, seq(7)).n, before ? before->end.n : 7);
	check_sack();
}

/* ---- steps ---- */

static struct payload some_payload(uint32_t len)
{
	struct payload p = {.head = chance(4) ? 0 : chance(len < 40 ? len + 1 : 40)};
	uint32_t left = len - p.head;

	payloads[nr_segments].head = p.head;
	p.head_source = (struct rx_source){.kind = RX_LINEAR, .in_head = true};
	do {
		const uint32_t most = 1 + chance(CHUNK);

		payloads[nr_segments].from[p.nr] = len - left;
		p.chunk[p.nr] = net_iov_to_netmem(&niovs[nr_segments][p.nr]);
		p.len[p.nr] = p.nr == STACK_MAX_CHUNKS - 1 || left < most ? left : most;
		left -= p.len[p.nr++];
	} while (left);
	return p;
}

/* What was added is the whole segment, or its beginning if frags or islands ran out. */
static void note(uint32_t start, uint32_t len, uint32_t skip, int64_t added)
{
	const struct island *i;

	for (uint32_t b = 0; b < len; b++) {
		if (map[start + b].segment)
			continue;
		i = assembler_find(&a, seq_at(start + b));
		CHECK(i || added < 0);
		if (i)
			map[start + b] = (struct byte){nr_segments, (uint16_t)(skip + b)};
	}
}

static void add(void)
{
	const uint32_t start = edge + chance(SPACE - edge);
	const uint32_t most = SPACE - start < 300 ? SPACE - start : 300;
	const uint32_t len = 1 + chance(most), skip = chance(2) ? 0 : chance(50);
	const uint32_t before = a.frags;
	uint32_t new = 0, first_dup = len, uses = 0;
	struct sack_block dup;
	struct payload p;
	int64_t added;

	nr_segments++;
	p = some_payload(skip + len);
	for (uint32_t b = 0; b < len; b++) {
		new += !map[start + b].segment;
		if (map[start + b].segment && first_dup == len)
			first_dup = b;
	}
	added = assembler_add(&a, &pool, &p, seq_at(start), skip, len, &dup);
	CHECK(added == new || added == -ENOMEM);
	if (added >= 0 && first_dup < len)
		CHECK_EQ(dup.start.n, base + start + first_dup);
	if (first_dup == len)
		CHECK(seq_eq(dup.start, dup.end));
	note(start, len, skip, added);
	for (uint32_t c = 0; c < p.nr; c++)
		uses += p.uses[c];
	CHECK_EQ(uses, a.frags - before);
}

/* The bytes up to here came in order: what begins there is taken. */
static void take(void)
{
	const uint32_t most = SPACE - edge < 300 ? SPACE - edge : 300;
	const uint32_t to = chance(2) && a.first ? a.first->start.n - base : edge + chance(most);
	struct frag_list list = {0};
	uint32_t end = to, nr;
	struct rx_frag *f;

	for (uint32_t b = edge; b < to; b++)
		if (map[b].segment)
			return; /* it would have been taken before */
	while (end < SPACE && map[end].segment)
		end++;
	CHECK_EQ(assembler_take(&a, &pool, seq_at(to), &list).n, base + end);
	check_frags(&list, to, end);
	for (nr = list.nr; (f = frag_list_pop(&list)); nr--)
		frag_free(&pool, f);
	CHECK_EQ(nr, 0);
	memset(map + to, 0, (end - to) * sizeof(*map));
	edge = end;
}

static void end(void)
{
	struct frag_list list = {0};
	struct rx_frag *f;

	assembler_clear(&a, &pool, &list);
	CHECK(!a.first && !a.last && !a.nr && !a.frags && !a.bytes);
	while ((f = frag_list_pop(&list)))
		frag_free(&pool, f);
	CHECK_EQ(pool.nr_free_frags, nr_frags);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	input = (struct fuzz_input){.next = data, .end = data + size};
	if (!fuzz_step(&input))
		return 0;
	base = chance(2) ? 0u - chance(2 * SPACE) : chance(UINT32_MAX);
	nr_frags = chance(2) ? FRAGS : 1 + chance(FRAGS);
	memset(map, 0, sizeof(map));
	edge = nr_segments = 0;
	frag_pool_init(&pool, frags, nr_frags, islands, chance(2) ? ISLANDS : 1 + chance(ISLANDS));
	assembler_init(&a);
	while (fuzz_step(&input) && edge < SPACE && !check_failures) {
		if (chance(4))
			add();
		else
			take();
		agrees_with_the_map();
		if (nr_segments == SEGMENTS - 1)
			break;
	}
	end();
	fuzz_judge();
	return 0;
}
