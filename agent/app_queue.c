/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_queue.c - what a connection has received and nobody has read: one queue of pieces in
 * stream order, whatever their kind.
 *
 *        read                                     arrived
 *          |device|linear|device  |data |device    |
 *          first                         last
 *
 * Invariants:
 * - `arrived - read` is the sum of the lengths in the queue.
 * - A piece lives as long as it has references: one of the queue, one of each token. What is
 *   handed out in parts (a split, MSG_PEEK) has several. The last reference gives it back.
 * - There are as many pieces as the event ring has places and there are data blocks, which is
 *   as many as a stack that keeps to channel.h can lend. Nothing is allocated here.
 */
#include "app.h"

/* ---- the list of connections with something to read ---- */

/* As tcp_poll(): SO_RCVLOWAT bytes, or an end. */
static bool readable(const struct app_conn *c)
{
	return c->accepted && !c->finished &&
	       (c->arrived - c->read >= c->rcvlowat || c->eof || c->error || c->shut_read);
}

static void ready_add(struct app *a, uint32_t slot)
{
	struct app_conn *c = &a->conns[slot];

	c->ready = true;
	c->ready_next = APP_NIL;
	c->ready_prev = a->ready_last;
	if (a->ready_last == APP_NIL)
		a->ready_first = slot;
	else
		a->conns[a->ready_last].ready_next = slot;
	a->ready_last = slot;
}

static void ready_remove(struct app *a, uint32_t slot)
{
	struct app_conn *c = &a->conns[slot];

	c->ready = false;
	if (c->ready_prev == APP_NIL)
		a->ready_first = c->ready_next;
	else
		a->conns[c->ready_prev].ready_next = c->ready_next;
	if (c->ready_next == APP_NIL)
		a->ready_last = c->ready_prev;
	else
		a->conns[c->ready_next].ready_prev = c->ready_prev;
}

void app_update_ready(struct app *a, struct app_conn *c)
{
	uint32_t slot = c - a->conns;

	if (readable(c) != c->ready) {
		if (c->ready)
			ready_remove(a, slot);
		else
			ready_add(a, slot);
	}
	app_watch_update(a, c);
}

/* ---- pieces ---- */

/* What was free before comes first: memory that was never needed is never touched. */
static uint32_t piece_new(struct app *a)
{
	uint32_t n = a->piece_free;

	if (n != APP_NIL)
		a->piece_free = a->pieces[n].next;
	else if (a->pieces_used < a->nr_pieces)
		n = a->pieces_used++;
	return n;
}

bool app_piece_append(struct app *a, struct app_conn *c, const struct app_piece *piece)
{
	uint32_t n = piece_new(a);

	if (n == APP_NIL)
		return false;
	a->pieces[n] = *piece;
	a->pieces[n].refs = 1;
	a->pieces[n].next = APP_NIL;
	if (c->last == APP_NIL)
		c->first = n;
	else
		a->pieces[c->last].next = n;
	c->last = n;
	c->arrived += piece->len;
	return true;
}

static void piece_free(struct app *a, uint32_t n)
{
	a->pieces[n].next = a->piece_free;
	a->piece_free = n;
	if (a->stuck)
		app_nudge(a); /* who waits can go on: there is room again */
}

void app_piece_put(struct app *a, struct app_returns *back, uint32_t n)
{
	struct app_piece *piece = &a->pieces[n];

	if (--piece->refs)
		return;
	app_return(a, back, piece);
	piece_free(a, n);
}

void app_queue_pop(struct app *a, struct app_conn *c)
{
	const struct app_piece *piece = &a->pieces[c->first];

	c->read += piece->len;
	c->first = piece->next;
	if (c->first == APP_NIL)
		c->last = APP_NIL;
}

/* The first `bytes` of the first piece have been read. */
void app_queue_skip(struct app *a, struct app_conn *c, struct app_returns *back, uint32_t bytes)
{
	struct app_piece *piece = &a->pieces[c->first];
	uint32_t n = c->first;

	if (bytes < piece->len) {
		piece->offset += bytes;
		piece->len -= bytes;
		c->read += bytes;
		return;
	}
	app_queue_pop(a, c);
	app_piece_put(a, back, n);
}

void app_free_pieces(struct app *a, struct app_conn *c)
{
	while (c->first != APP_NIL) {
		uint32_t n = c->first;

		app_queue_pop(a, c);
		if (!--a->pieces[n].refs)
			piece_free(a, n);
	}
	for (uint32_t token = 1; c->tokens.live && token < c->tokens.size; token++) {
		uint32_t n = app_token_erase(&c->tokens, token);

		if (n != APP_NIL && !--a->pieces[n].refs)
			piece_free(a, n);
	}
	app_tokens_free(&c->tokens);
}
