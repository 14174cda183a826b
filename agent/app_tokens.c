/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_tokens.c - the tokens of one socket, as the kernel's xarray hands them out: the lowest
 * free number first, from 1, and a number that was given back is the next to be used.
 *
 * A bit a token says that it is free; a bit of the level above says that a word has any:
 *
 *      level 1   0 1 1 ...                      one word for 4096 tokens
 *                | |
 *      level 0   0..0  0010..  1111..           one word for 64 tokens
 *
 * The table doubles when it is full, so finding, taking and freeing a number cost a word a
 * level. Ownership: the connection's; app_tokens_free() leaves an empty table.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app.h"

#define WORD 64u
#define TOKENS_FIRST 64u
#define TOKENS_MAX (1u << 31) /* numbers are below: the kernel's xa_limit_31b */

static uint32_t words(uint32_t bits)
{
	return (bits + WORD - 1) / WORD;
}

static void mark_free(struct app_tokens *t, uint32_t token)
{
	for (uint32_t level = 0; level < t->nr_levels; level++, token /= WORD)
		t->level[level][token / WORD] |= 1ull << token % WORD;
}

static void mark_used(struct app_tokens *t, uint32_t token)
{
	for (uint32_t level = 0; level < t->nr_levels; level++, token /= WORD) {
		t->level[level][token / WORD] &= ~(1ull << token % WORD);
		if (t->level[level][token / WORD])
			return;
	}
}

/* Room for `size` tokens, none of which is free yet. */
static int lay_out(struct app_tokens *t, uint32_t size)
{
	uint32_t total = 0, bits = size;
	uint64_t *at;

	for (t->nr_levels = 0; !t->nr_levels || bits > 1; t->nr_levels++, bits = words(bits))
		total += words(bits);
	at = calloc(total, sizeof(*at));
	if (!at)
		return -ENOMEM;
	t->bits = at;
	bits = size;
	for (uint32_t level = 0; level < t->nr_levels; level++, bits = words(bits)) {
		t->level[level] = at;
		at += words(bits);
	}
	t->size = size;
	return 0;
}

/* Called when all numbers are used, so all bits of the old table are 0. */
static int grow(struct app_tokens *t)
{
	const uint32_t old = t->size, size = old ? 2 * old : TOKENS_FIRST;
	struct app_tokens bigger = *t;
	uint32_t *piece;

	if (old >= TOKENS_MAX)
		return -EBUSY;
	if (lay_out(&bigger, size))
		return -ENOMEM;
	piece = realloc(t->piece, size * sizeof(*piece));
	if (!piece) {
		free(bigger.bits);
		return -ENOMEM;
	}
	free(t->bits);
	bigger.piece = piece;
	*t = bigger;
	memset(piece + old, 0xff, (size - old) * sizeof(*piece)); /* APP_NIL */
	for (uint32_t token = old ? old : 1; token < size; token++) /* 0 is no token */
		mark_free(t, token);
	return 0;
}

int app_token_new(struct app_tokens *t, uint32_t piece)
{
	uint32_t token = 0;
	int err;

	if (!t->size || !t->level[t->nr_levels - 1][0]) {
		err = grow(t);
		if (err)
			return err;
	}
	for (uint32_t level = t->nr_levels; level--;)
		token = token * WORD + __builtin_ctzll(t->level[level][token]);
	mark_used(t, token);
	t->piece[token] = piece;
	t->live++;
	return token;
}

uint32_t app_token_erase(struct app_tokens *t, uint32_t token)
{
	uint32_t piece;

	if (token >= t->size || t->piece[token] == APP_NIL)
		return APP_NIL;
	piece = t->piece[token];
	t->piece[token] = APP_NIL;
	mark_free(t, token);
	t->live--;
	return piece;
}

void app_tokens_free(struct app_tokens *t)
{
	free(t->piece);
	free(t->bits);
	*t = (struct app_tokens){0};
}
