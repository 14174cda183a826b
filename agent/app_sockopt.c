/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_sockopt.c - setsockopt(2) of a connection, and what is known of it.
 *
 * Each call takes the lock, and sorts what has arrived first, so that its answer is not older
 * than the events in the ring; only SO_DEVMEM_DONTNEED does without: tokens are ours alone.
 */
#include <errno.h>
#include <string.h>

#include "app.h"

/* ---- SO_DEVMEM_DONTNEED ---- */

#define RANGES_MAX 128 /* MAX_DONTNEED_TOKENS of net/core/sock.c */
#define FRAGS_MAX 1024 /* MAX_DONTNEED_FRAGS */

struct token_range { /* struct dmabuf_token of linux/uio.h */
	uint32_t start;
	uint32_t count;
};

/* As sock_devmem_dontneed(): unknown tokens are skipped, but count as attempts. */
static int give_back(struct app *a, struct app_conn *c, const struct token_range *ranges,
		     uint32_t n)
{
	struct app_returns back = {.run.flow = c->flow};
	uint32_t attempts = 0;
	int freed = 0;

	for (uint32_t i = 0; i < n && attempts <= FRAGS_MAX; i++) {
		for (uint32_t j = 0; j < ranges[i].count; j++) {
			uint32_t piece;

			if (++attempts > FRAGS_MAX)
				break;
			piece = app_token_erase(&c->tokens, ranges[i].start + j);
			if (piece == APP_NIL)
				continue;
			app_piece_put(a, &back, piece);
			freed++;
		}
	}
	app_return_end(a, &back);
	app_kick(a);
	return freed;
}

int app_devmem_dontneed(struct app *a, uint32_t flow, const void *optval, uint32_t optlen)
{
	struct token_range ranges[RANGES_MAX];
	struct app_conn *c;
	int freed;

	/* sk_setsockopt() reads an int of every option before it looks which one it is. */
	if (optlen < sizeof(int))
		return -EINVAL;
	if (!optval)
		return -EFAULT;
	if (optlen % sizeof(ranges[0]) || optlen > sizeof(ranges))
		return -EINVAL;
	if (!flow)
		return 0; /* no connection, no tokens */
	memcpy(ranges, optval, optlen);
	pthread_mutex_lock(&a->lock);
	c = app_conn(a, flow);
	freed = c && !c->finished ? give_back(a, c, ranges, optlen / sizeof(ranges[0])) : -EBADF;
	pthread_mutex_unlock(&a->lock);
	return freed;
}

/* ---- the others ---- */

#define RCVLOWAT_SHARE 32 /* of all memory: packets of 1448 bytes fill a third of a buffer */

/* The connection of a call, with the lock held; NULL: closed, and not held. */
static struct app_conn *lock_conn(struct app *a, uint32_t flow)
{
	struct app_conn *c;

	pthread_mutex_lock(&a->lock);
	app_drain(a);
	c = app_conn(a, flow);
	if (c && !c->finished)
		return c;
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

/* After a change that those who wait must look at. */
static int unlock_changed(struct app *a, struct app_conn *c)
{
	app_update_ready(a, c);
	app_nudge(a);
	pthread_mutex_unlock(&a->lock);
	return 0;
}

/* As tcp_set_rcvlowat() caps it at half the receive buffer: more might never arrive, because
 * there is no memory for it or others have it. */
static uint64_t rcvlowat_max(const struct app *a)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < APP_REGIONS; i++)
		sum += a->regions[i].size;
	return (sum ? sum : (uint64_t)a->layout.nr_blocks * CHANNEL_BLOCK) / RCVLOWAT_SHARE;
}

int app_set_rcvlowat(struct app *a, uint32_t flow, uint32_t bytes)
{
	struct app_conn *c = lock_conn(a, flow);
	uint64_t most;

	if (!c)
		return -EBADF;
	most = rcvlowat_max(a);
	c->rcvlowat = bytes < most ? bytes : most;
	c->rcvlowat = c->rcvlowat ? c->rcvlowat : 1;
	bytes = c->rcvlowat;
	unlock_changed(a, c);
	return bytes;
}

int app_set_rcvtimeo(struct app *a, uint32_t flow, int64_t ms)
{
	struct app_conn *c = lock_conn(a, flow);

	if (!c)
		return -EBADF;
	c->rcvtimeo_ms = ms;
	return unlock_changed(a, c);
}

int app_set_strict(struct app *a, uint32_t flow, int strict)
{
	struct app_conn *c = lock_conn(a, flow);

	if (!c)
		return -EBADF;
	c->strict = strict;
	return unlock_changed(a, c);
}

int app_shutdown_read(struct app *a, uint32_t flow)
{
	struct app_conn *c = lock_conn(a, flow);

	if (!c)
		return -EBADF;
	c->shut_read = true;
	return unlock_changed(a, c);
}

int app_error(struct app *a, uint32_t flow)
{
	struct app_conn *c = lock_conn(a, flow);
	int error;

	if (!c)
		return -EBADF;
	error = c->error_told ? 0 : c->error;
	if (error == ECONNRESET && c->eof && !c->shut)
		error = EPIPE; /* tcp_reset() in CLOSE-WAIT */
	c->error_told = c->error != 0;
	pthread_mutex_unlock(&a->lock);
	return error;
}

int app_conn_info(struct app *a, uint32_t flow, struct app_conn_info *out)
{
	struct app_conn *c = lock_conn(a, flow);

	if (!c)
		return -EBADF;
	*out = (struct app_conn_info){
		.bytes = c->bytes,
		.queued = c->arrived - c->read,
		.tokens = c->tokens.live,
		.unacked = c->unacked,
		.error = c->error,
		.eof = c->eof,
	};
	if (c->first != APP_NIL) {
		out->next_kind = a->pieces[c->first].kind;
		out->next_reason = a->pieces[c->first].reason;
	}
	pthread_mutex_unlock(&a->lock);
	return 0;
}
