/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fuzz.h - what the fuzz targets share: how an input becomes choices, and how it is mutated.
 *
 * An input is a row of records of RECORD bytes, one a step. A step's choices come from its own
 * record and no other's, so that a mutation changes one step and leaves the rest of the story
 * as it is; what a record is too short to say is the usual. The mutator knows of records, too:
 * it repeats, drops and moves whole ones, and lets libFuzzer change the bytes of one.
 */
#ifndef DEVMEMTCP_FUZZ_H
#define DEVMEMTCP_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"

#define RECORD 32u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

struct fuzz_input {
	const uint8_t *next, *end; /* records to come */
	const uint8_t *at; /* in this record */
	uint32_t left;
};

/* False: the input is over. */
static inline bool fuzz_step(struct fuzz_input *in)
{
	const size_t left = (size_t)(in->end - in->next);

	in->at = in->next;
	in->left = left < RECORD ? (uint32_t)left : RECORD;
	in->next += in->left;
	return in->left;
}

/* A number below `below`, from as many bytes as that needs; the last one if they are used up. */
static inline uint32_t fuzz_draw(struct fuzz_input *in, uint32_t below)
{
	const uint32_t bytes = below <= 0x100 ? 1 : below <= 0x10000 ? 2 : 4;
	uint32_t n = 0;

	if (in->left < bytes) {
		in->left = 0;
		return below - 1;
	}
	memcpy(&n, in->at, bytes);
	in->at += bytes;
	in->left -= bytes;
	return n % below;
}

/* What is left of this record, padded with zeros. */
static inline void fuzz_bytes(struct fuzz_input *in, void *to, uint32_t len)
{
	const uint32_t have = in->left < len ? in->left : len;

	memset(to, 0, len);
	memcpy(to, in->at, have);
	in->at += have;
	in->left -= have;
}

/* A check that failed has said where: now libFuzzer shall keep the input. */
static inline void fuzz_judge(void)
{
	fflush(stdout);
	if (check_failures)
		abort();
}

static inline size_t mutate_record(uint8_t *data, size_t size, uint64_t *random)
{
	const uint32_t nr = (uint32_t)((size + RECORD - 1) / RECORD);
	const size_t at = (size_t)check_random(random, nr) * RECORD;
	const size_t len = size - at < RECORD ? size - at : RECORD;

	LLVMFuzzerMutate(data + at, len, len);
	return size;
}

/* Room for `count` records before record `at`; false if there is none. */
static inline bool open_gap(uint8_t *data, size_t size, size_t max_size, size_t at, size_t len)
{
	if (size + len > max_size)
		return false;
	memmove(data + at + len, data + at, size - at);
	return true;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
	uint64_t random = 0x9e3779b97f4a7c15ull ^ seed;
	const uint32_t nr = (uint32_t)(size / RECORD);
	uint8_t copy[8 * RECORD];
	size_t from, to, len;

	if (nr < 2)
		return LLVMFuzzerMutate(data, size, max_size);
	from = (size_t)check_random(&random, nr) * RECORD;
	to = (size_t)check_random(&random, nr) * RECORD;
	len = (1 + (size_t)check_random(&random, 8)) * RECORD;
	len = len < size - from ? len : size - from;
	memcpy(copy, data + from, len);
	switch (check_random(&random, 8)) {
	case 0: /* drop */
		if (len == size)
			return mutate_record(data, size, &random);
		memmove(data + from, data + from + len, size - from - len);
		return size - len;
	case 1: /* repeat elsewhere, or here */
	case 2:
		to = check_random(&random, 2) ? to : from;
		len -= len % RECORD;
		if (!len || !open_gap(data, size, max_size, to, len))
			return mutate_record(data, size, &random);
		memcpy(data + to, copy, len);
		return size + len;
	case 3: /* overwrite */
		len = len < size - to ? len : size - to;
		memcpy(data + to, copy, len);
		return size;
	case 4: /* a new one */
		if (!open_gap(data, size, max_size, to, RECORD))
			return mutate_record(data, size, &random);
		for (uint32_t i = 0; i < RECORD; i++)
			data[to + i] = (uint8_t)check_random(&random, 256);
		return size + RECORD;
	default:
		return mutate_record(data, size, &random);
	}
}

#endif
