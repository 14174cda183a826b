/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A slot that is written again and again while it is read: what is taken is one packet's, whole.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "loop.h"
#include "mosaic.h"
#include "steer.h"
#include "check.h"

#define SLOTS 4
#define HEADER_LEN 66
#define LOOKS 200000 /* at least; and until both outcomes have been seen */
#define SECONDS_MAX 60

static struct rx_slot slots[SLOTS];
static _Alignas(64) uint8_t page[MOSAIC_PAGE];
static struct loop loop = {.header_path = HEADERS_SLOT, .heads = slots, .nr_heads = SLOTS};
static _Atomic bool stop;

/* Each byte of a packet's head is its number's last one, and so is its length. */
static void write_slot(struct rx_slot *slot, uint64_t number)
{
	_Atomic uint64_t *seq = (_Atomic uint64_t *)&slot->seq;

	atomic_exchange(seq, RX_SLOT_WRITING);
	slot->info = (struct rx_info){
		.magic = RX_INFO_MAGIC, .hdr_len = HEADER_LEN, .payload_len = (uint32_t)number};
	memset(slot->head, (uint8_t)number, HEADER_LEN);
	atomic_store_explicit(seq, number, memory_order_release);
}

static void *program(void *arg)
{
	(void)arg;
	for (uint64_t number = SLOTS; !atomic_load_explicit(&stop, memory_order_relaxed);
	     number += SLOTS)
		write_slot(&slots[0], number);
	return NULL;
}

static bool whole(uint64_t number)
{
	const uint8_t *end = page + MOSAIC_PAGE;
	struct rx_info info;

	memcpy(&info, end - RX_META_LEN, sizeof(info));
	if (info.payload_len != (uint32_t)number || info.hdr_len != HEADER_LEN)
		return false;
	for (uint32_t i = 1; i <= HEADER_LEN; i++)
		if (end[-(int)i] != (uint8_t)number)
			return false;
	return true;
}

static void name_slot(uint64_t number)
{
	const struct rx_slot_ref ref = {.magic = RX_INFO_MAGIC, .seq = number};

	memcpy(page + MOSAIC_PAGE - sizeof(ref), &ref, sizeof(ref));
}

/* Overwritten when the look begins, or while it lasts: nobody can tell, so both are lost. */
static void a_head_is_whole_or_lost(void)
{
	const struct queue_pair qp = {.header_base = page, .packet.nr_chunks = 1};
	const time_t end = time(NULL) + SECONDS_MAX;
	unsigned long taken = 0, lost = 0, mixed = 0;
	pthread_t thread;

	write_slot(&slots[0], SLOTS);
	if (pthread_create(&thread, NULL, program, NULL))
		abort();
	while ((taken + lost < LOOKS || !taken || !lost) && time(NULL) < end) {
		const uint64_t number = atomic_load((_Atomic uint64_t *)&slots[0].seq);

		if (number == RX_SLOT_WRITING)
			continue;
		name_slot(number);
		if (!heads_take(&loop, &qp))
			lost++;
		else if (whole(number))
			taken++;
		else
			mixed++;
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	CHECK(taken);
	CHECK(lost);
	CHECK_EQ(mixed, 0);
}

int main(void)
{
	static const struct check_test tests[] = {
		CHECK_TEST(a_head_is_whole_or_lost),
	};

	return check_main(tests, sizeof(tests) / sizeof(tests[0]));
}
