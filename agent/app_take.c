/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_take.c - batches of fragments, without a copy and without a system call.
 *
 * Pieces of all kinds are handed out, in stream order: host memory is read where it lies, in
 * the data blocks, as device memory is in the region. Each has a token of the socket, and the
 * reference that the queue had.
 */
#include <errno.h>

#include "app.h"

/* Nothing to hand out: why? */
static int nothing(const struct app *a, const struct app_conn *c)
{
	if (c->first != APP_NIL && c->strict && a->pieces[c->first].kind != RX_DEVICE)
		return -ENODEV;
	if (c->error)
		return -c->error;
	return c->eof || c->shut_read ? -ENODATA : 0;
}

static int take(struct app *a, struct app_conn *c, struct app_frag *out, uint32_t max)
{
	uint32_t n = 0, dmabuf_id = 0;
	int token = 0;

	while (n < max && c->first != APP_NIL) {
		const uint32_t first = c->first;
		const struct app_piece *piece = &a->pieces[first];

		if (c->strict && piece->kind != RX_DEVICE)
			break;
		if (piece->dmabuf_id && dmabuf_id && piece->dmabuf_id != dmabuf_id)
			break;
		token = app_token_new(&c->tokens, first);
		if (token < 0)
			break;
		out[n++] = (struct app_frag){
			.offset = piece->offset,
			.len = piece->len,
			.token = token,
			.dmabuf_id = piece->dmabuf_id,
			.kind = piece->kind,
			.reason = piece->reason,
		};
		if (piece->dmabuf_id)
			dmabuf_id = piece->dmabuf_id;
		app_queue_pop(a, c); /* its reference is the token's now */
	}
	if (n) {
		app_update_ready(a, c);
		return n;
	}
	return token < 0 ? token : max ? nothing(a, c) : 0;
}

int app_take(struct app *a, uint32_t flow, struct app_frag *out, uint32_t max)
{
	struct app_conn *c;
	int n;

	pthread_mutex_lock(&a->lock);
	app_drain(a);
	c = app_conn(a, flow);
	n = c && !c->finished ? take(a, c, out, max) : -EBADF;
	pthread_mutex_unlock(&a->lock);
	return n;
}

int app_dontneed(struct app *a, uint32_t flow, const struct app_frag *frags, uint32_t n)
{
	struct app_returns back = {.run.flow = flow};
	struct app_conn *c;
	int freed = 0;

	pthread_mutex_lock(&a->lock);
	c = app_conn(a, flow);
	if (!c || c->finished)
		freed = -EBADF;
	for (uint32_t i = 0; i < n && freed >= 0; i++) {
		const uint32_t piece = app_token_erase(&c->tokens, frags[i].token);

		if (piece == APP_NIL)
			continue;
		app_piece_put(a, &back, piece);
		freed++;
	}
	app_return_end(a, &back);
	app_kick(a);
	pthread_mutex_unlock(&a->lock);
	return back.err ? back.err : freed;
}

const uint8_t *app_data_blocks(const struct app *a, uint64_t *size)
{
	*size = (uint64_t)a->layout.nr_blocks * CHANNEL_BLOCK;
	return app_data(a);
}
