/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_recvmsg.c - recvmsg(2) of a connection, as tcp_recvmsg_locked() and tcp_recvmsg_dmabuf()
 * of Linux 6.18 do it.
 *
 * What the kernel has in an skb is here a run of pieces: device pieces and the linear ones
 * before them are an unreadable skb, data pieces are readable ones. For each piece in turn:
 *
 *   kind     with MSG_SOCK_DEVMEM                          without
 *   DATA     copied into the iovec                         copied into the iovec
 *   LINEAR   copied into the iovec, SCM_DEVMEM_LINEAR      EFAULT
 *   DEVICE   SCM_DEVMEM_DMABUF with a token                EFAULT
 *
 * Invariants:
 * - Bytes in device memory count toward the result and the iovec's length, but do not move
 *   the place in the iovec.
 * - A call delivers readable or unreadable bytes, never both; it stops in between.
 * - An error is returned only by a call that has delivered nothing; otherwise it is found
 *   again by the next one, because what could not be delivered stays in the queue.
 *
 * app_gather() is the same loop with device memory read by a mapping: it copies all kinds.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "app.h"

/* include/uapi/asm-generic/socket.h; two architectures have numbers of their own. */
#if defined(__hppa__)
#define SCM_LINEAR 0x404E
#define SCM_DMABUF 0x404F
#elif defined(__sparc__)
#define SCM_LINEAR 0x57
#define SCM_DMABUF 0x58
#else
#define SCM_LINEAR 78
#define SCM_DMABUF 79
#endif

#define AT_ONCE (1u << 20) /* bytes that are copied without letting go of the lock */

struct dmabuf_message { /* struct dmabuf_cmsg of linux/uio.h */
	uint64_t frag_offset;
	uint32_t frag_size;
	uint32_t frag_token;
	uint32_t dmabuf_id;
	uint32_t flags;
};

_Static_assert(sizeof(struct dmabuf_message) == 24, "dmabuf_cmsg is the kernel's");

/* One call. */
struct receive {
	struct app *a;
	struct app_conn *c;
	struct app_msg *msg;
	int flags;
	bool gather;
	uint64_t len; /* bytes that may still be delivered */
	int64_t copied;
	size_t iov, iov_at; /* where the next byte of host memory goes */
	size_t control; /* bytes used */
	int unreadable; /* kind of what was delivered; -1: nothing yet */
	uint64_t peek; /* MSG_PEEK: stream position; otherwise c->read is it */
	uint64_t at_once; /* bytes since the lock was taken */
	struct app_returns back;
};

/* ---- the caller's memory ---- */

static int to_iovec(struct receive *r, const uint8_t *from, uint32_t len)
{
	while (len) {
		const struct app_iov *iov = &r->msg->iov[r->iov];
		const size_t room = r->iov < r->msg->nr_iov ? iov->len - r->iov_at : 0;
		const uint32_t part = len < room ? len : room;

		if (r->iov == r->msg->nr_iov || (part && !iov->base))
			return -EFAULT;
		if (part)
			memcpy((uint8_t *)iov->base + r->iov_at, from, part);
		from += part;
		len -= part;
		r->iov_at += part;
		if (r->iov_at == iov->len) {
			r->iov++;
			r->iov_at = 0;
		}
	}
	return 0;
}

/* put_cmsg_notrunc(): all of it or ETOOSMALL. */
static int to_control(struct receive *r, int type, const struct dmabuf_message *message)
{
	const size_t need = CMSG_LEN(sizeof(*message)), space = CMSG_SPACE(sizeof(*message));
	const size_t room = r->msg->controllen - r->control;
	struct cmsghdr header = {
		.cmsg_len = need,
		.cmsg_level = SOL_SOCKET,
		.cmsg_type = type,
	};
	uint8_t *at;

	if (!r->msg->control || room < need)
		return -APP_ETOOSMALL;
	at = (uint8_t *)r->msg->control + r->control;
	memcpy(at, &header, sizeof(header));
	memcpy(at + CMSG_LEN(0), message, sizeof(*message));
	r->control += space < room ? space : room;
	return 0;
}

/* ---- one piece ---- */

static int deliver_host(struct receive *r, const struct app_piece *piece, uint32_t skip,
			uint32_t len)
{
	const struct dmabuf_message message = {.frag_size = len};
	int err = to_iovec(r, app_data(r->a) + piece->offset + skip, len);

	if (err || r->gather || piece->kind == RX_DATA)
		return err;
	return to_control(r, SCM_LINEAR, &message);
}

static int deliver_token(struct receive *r, uint32_t n, uint32_t skip, uint32_t len)
{
	struct app_piece *piece = &r->a->pieces[n];
	struct dmabuf_message message = {
		.frag_offset = piece->offset + skip,
		.frag_size = len,
		.dmabuf_id = piece->dmabuf_id,
	};
	int err, token = app_token_new(&r->c->tokens, n);

	if (token < 0)
		return token;
	message.frag_token = token;
	err = to_control(r, SCM_DMABUF, &message);
	if (err)
		app_token_erase(&r->c->tokens, token);
	else
		piece->refs++;
	return err;
}

static int deliver_copy(struct receive *r, const struct app_piece *piece, uint32_t skip,
			uint32_t len)
{
	struct app_region *region = app_region_find(r->a, piece->dmabuf_id);
	const uint8_t *base = region ? app_region_map(region) : NULL;

	/* It may have come before the region was known: nobody has looked at its offset yet. */
	if (!base || !app_inside(piece->offset, skip + len, region->size))
		return -EADDRNOTAVAIL;
	return to_iovec(r, base + piece->offset + skip, len);
}

/* Deliver the next `len` bytes of a piece. Returns 0, 1 (they begin the next call) or -errno. */
static int deliver(struct receive *r, uint32_t n, uint32_t skip, uint32_t len)
{
	const struct app_piece *piece = &r->a->pieces[n];
	const int unreadable = piece->kind != RX_DATA;

	if (r->c->strict && piece->kind != RX_DEVICE)
		return -ENODEV;
	if (r->flags & MSG_TRUNC)
		return 0;
	if (r->gather)
		return piece->kind == RX_DEVICE ? deliver_copy(r, piece, skip, len)
						: deliver_host(r, piece, skip, len);
	if (r->unreadable >= 0 && r->unreadable != unreadable)
		return 1;
	if (unreadable && !(r->flags & APP_SOCK_DEVMEM))
		return -EFAULT;
	r->unreadable = unreadable;
	return piece->kind == RX_DEVICE ? deliver_token(r, n, skip, len)
					: deliver_host(r, piece, skip, len);
}

/* ---- the loop ---- */

static uint64_t position(const struct receive *r)
{
	return r->flags & MSG_PEEK ? r->peek : r->c->read;
}

/* The piece at the call's place in the stream, or APP_NIL; *skip: bytes of it already read. */
static uint32_t next_piece(const struct receive *r, uint32_t *skip)
{
	uint64_t behind = position(r) - r->c->read;
	uint32_t n = r->c->first;

	while (n != APP_NIL && behind >= r->a->pieces[n].len) {
		behind -= r->a->pieces[n].len;
		n = r->a->pieces[n].next;
	}
	*skip = behind;
	return n;
}

/* After the lock was let go of: another thread may have read, or closed. 0 or -EBADF. */
static int find_again(struct receive *r, uint32_t flow)
{
	r->c = app_conn(r->a, flow);
	if (!r->c || r->c->finished) {
		r->c = NULL;
		return -EBADF;
	}
	if (r->flags & MSG_PEEK && r->peek < r->c->read)
		r->peek = r->c->read; /* they are gone: tcp_recvmsg() goes on with what follows */
	return 0;
}

/* So that copying much does not keep other threads out for long. Returns 0 or -EBADF. */
static int let_others_in(struct receive *r)
{
	const uint32_t flow = r->c->flow;

	r->at_once = 0;
	app_return_end(r->a, &r->back);
	app_update_ready(r->a, r->c);
	app_kick(r->a);
	pthread_mutex_unlock(&r->a->lock);
	sched_yield();
	pthread_mutex_lock(&r->a->lock);
	return find_again(r, flow);
}

/* Returns 0: go on, 1: the call is over, -errno: it is over, with an error if nothing came. */
static int receive_piece(struct receive *r, uint32_t n, uint32_t skip)
{
	const uint32_t rest = r->a->pieces[n].len - skip, len = r->len < rest ? r->len : rest;
	const int end = deliver(r, n, skip, len);

	if (end)
		return end;
	if (r->flags & MSG_PEEK)
		r->peek += len;
	else
		app_queue_skip(r->a, r->c, &r->back, len);
	r->copied += len;
	r->len -= len;
	r->at_once += len;
	if (r->len && r->at_once >= AT_ONCE)
		return let_others_in(r);
	return !r->len;
}

/* The queue is read to its end. Returns 0: wait for more, 1: the call is over, or -errno. */
static int at_queue_end(struct receive *r, uint64_t target, bool block)
{
	struct app_conn *c = r->c;

	if (c->eof || (uint64_t)r->copied >= target)
		return 1;
	if (r->copied)
		return !block || c->error || c->shut_read;
	if (c->error && !c->error_told) {
		c->error_told = true;
		return -c->error;
	}
	if (c->error || c->shut_read)
		return 1;
	return block ? 0 : -EAGAIN;
}

/* The lock is let go meanwhile. */
static int wait_for_more(struct receive *r, int64_t deadline)
{
	const uint32_t flow = r->c->flow;
	const struct app_want want = {
		.flow = flow,
		.listener = -1,
		.more = true,
		.arrived = r->c->arrived,
		.extra_fd = -1,
	};
	int result;

	app_return_end(r->a, &r->back);
	app_update_ready(r->a, r->c);
	r->at_once = 0;
	result = app_wait_for(r->a, &want, deadline);
	if (find_again(r, flow))
		return -EBADF;
	return result > 0 ? 0 : result < 0 ? result : -EAGAIN;
}

static int64_t receive(struct receive *r)
{
	const bool block = !(r->flags & MSG_DONTWAIT) && r->c->rcvtimeo_ms;
	const int64_t deadline = block ? app_deadline(r->c->rcvtimeo_ms) : 0;
	uint64_t target =
		r->flags & MSG_WAITALL || r->c->rcvlowat > r->len ? r->len : r->c->rcvlowat;
	int end = 0;

	target = target ? target : 1;
	while (!end) {
		uint32_t skip, n = next_piece(r, &skip);

		if (n != APP_NIL) {
			end = receive_piece(r, n, skip);
			continue;
		}
		end = at_queue_end(r, target, block);
		if (!end)
			end = wait_for_more(r, deadline);
	}
	return end < 0 && !r->copied ? end : r->copied;
}

static int64_t run(struct receive *r, uint32_t flow)
{
	struct app *a = r->a;
	int64_t result = -EBADF;

	r->unreadable = -1;
	r->back.run.flow = flow;
	pthread_mutex_lock(&a->lock);
	app_drain(a);
	r->c = app_conn(a, flow);
	if (r->c && !r->c->finished) {
		r->peek = r->c->read;
		result = receive(r);
	}
	if (r->c)
		app_update_ready(a, r->c);
	app_return_end(a, &r->back);
	app_kick(a);
	pthread_mutex_unlock(&a->lock);
	return result;
}

int64_t app_recvmsg(struct app *a, uint32_t flow, struct app_msg *msg, int flags)
{
	struct receive r = {.a = a, .msg = msg, .flags = flags};
	int64_t result;

	if (flags & MSG_ERRQUEUE)
		return -EAGAIN; /* it is always empty */
	if (flags & MSG_OOB)
		return -EINVAL; /* there is no urgent data: the stack takes it for ordinary bytes */
	for (size_t i = 0; i < msg->nr_iov; i++)
		r.len += msg->iov[i].len;
	result = run(&r, flow);
	if (result >= 0)
		msg->controllen = r.control;
	return result;
}

int64_t app_gather(struct app *a, uint32_t flow, uint8_t *out, size_t room, int flags)
{
	struct app_iov iov = {.base = out, .len = room};
	struct app_msg msg = {.iov = &iov, .nr_iov = 1};
	struct receive r = {.a = a, .msg = &msg, .flags = flags, .gather = true, .len = room};

	return run(&r, flow);
}
