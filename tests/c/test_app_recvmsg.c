/* SPDX-License-Identifier: Apache-2.0 */
/*
 * recvmsg(2) of the application's half: whatever the stream is made of, the control buffer's
 * size and the length asked for, all bytes arrive once and in order, tokens are the lowest
 * free ones, and each piece goes back to the stack once, when its last token does.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>

#include "app_fixture.h"

#define MESSAGE 40u /* CMSG_SPACE(sizeof(struct dmabuf_cmsg)) */
#define PIECES 12u
#define STREAM 4096u

struct message {
	uint64_t offset;
	uint32_t size, token, dmabuf_id, flags;
};

/* Byte i of the stream, wherever it lies. */
static uint8_t byte_at(uint64_t i)
{
	return i * 7 + i / 251;
}

struct stream {
	struct side side;
	uint8_t device[STREAM]; /* what would be in the region */
	uint32_t len;
	uint32_t nr_device, nr_host; /* pieces */
	uint32_t runs; /* of one readability */
};

static uint8_t *data_block(struct stream *s, uint32_t block)
{
	return (uint8_t *)s->side.header + s->side.layout.blocks + block * CHANNEL_BLOCK;
}

static void add_piece(struct stream *s, enum rx_kind kind, uint32_t len)
{
	struct channel_event e = {.kind = EVENT_FRAG, .flow = FLOW, .len = len, .arg = BINDING};

	if (kind == RX_DEVICE) {
		e.offset = s->len;
		e.token = 100 + 2 * s->nr_device++; /* no neighbours: a request each */
		for (uint32_t i = 0; i < len; i++)
			s->device[s->len + i] = byte_at(s->len + i);
	} else {
		e.kind = EVENT_DATA;
		e.token = ++s->nr_host;
		e.offset = (e.token - 1) * CHANNEL_BLOCK + 17;
		e.arg = CHANNEL_DATA_ARG(kind, REASON_HEAD);
		for (uint32_t i = 0; i < len; i++)
			data_block(s, e.token - 1)[17 + i] = byte_at(s->len + i);
	}
	s->len += len;
	push(&s->side, e);
}

static void open_stream(struct stream *s, uint64_t seed)
{
	int before = -1;

	memset(s, 0, sizeof(*s));
	s->side = open_side();
	connect_flow(&s->side, FLOW);
	for (uint32_t i = 0; i < PIECES; i++) {
		const uint32_t kind =
			s->nr_host < BLOCKS ? check_random(&seed, 3) : (uint32_t)RX_DEVICE;

		s->runs += (kind == RX_DATA) != before;
		before = kind == RX_DATA;
		add_piece(s, kind, 1 + check_random(&seed, 40));
	}
	push(&s->side, (struct channel_event){.kind = EVENT_EOF, .flow = FLOW});
}

/* Each piece's requests must come once: counts by the stack's name for it. */
static uint32_t count_returned(struct stream *s)
{
	const struct channel_request *ring =
		(const void *)((uint8_t *)s->side.header + s->side.layout.requests);
	const uint32_t head = atomic_load(&s->side.header->request_head);
	uint32_t tail = atomic_load(&s->side.header->request_tail), n = 0;

	for (; tail != head; tail++) {
		const struct channel_request r = ring[tail & (NR - 1)];

		CHECK(r.kind == REQUEST_DONTNEED || r.kind == REQUEST_BLOCK);
		CHECK_EQ(r.flow, FLOW);
		n += r.b;
	}
	atomic_store(&s->side.header->request_tail, tail);
	return n;
}

struct reader {
	struct stream *s;
	uint64_t at; /* in the stream */
	uint32_t tokens[1024];
	uint32_t held;
	bool gives_back; /* at once: then every token is 1 or ascends within a call */
};

static void read_bytes(struct reader *r, const uint8_t *bytes, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		CHECK_EQ(bytes[i], byte_at(r->at + i));
	r->at += n;
}

/* One call's control messages, checked against the stream; returns the linear bytes. */
static uint32_t read_messages(struct reader *r, const uint8_t *iov, const uint8_t *control,
			      size_t used)
{
	const uint32_t before = r->held;
	uint32_t linear = 0;

	CHECK_EQ(used % MESSAGE, 0);
	for (size_t i = 0; i < used; i += MESSAGE) {
		struct cmsghdr header;
		struct message m;

		memcpy(&header, control + i, sizeof(header));
		memcpy(&m, control + i + 16, sizeof(m));
		CHECK_EQ(header.cmsg_len, MESSAGE);
		CHECK_EQ(header.cmsg_level, SOL_SOCKET);
		CHECK_EQ(m.flags, 0);
		if (header.cmsg_type == 78) {
			CHECK(!m.offset && !m.token && !m.dmabuf_id);
			read_bytes(r, iov + linear, m.size);
			linear += m.size;
			continue;
		}
		CHECK_EQ(header.cmsg_type, 79);
		CHECK_EQ(m.dmabuf_id, BINDING);
		CHECK_EQ(m.token, r->gives_back ? r->held - before + 1 : r->held + 1);
		CHECK_EQ(m.offset, r->at);
		read_bytes(r, r->s->device + m.offset, m.size);
		r->tokens[r->held++] = m.token;
	}
	return linear;
}

static void give_back(struct reader *r)
{
	for (uint32_t i = 0; i < r->held; i++) {
		struct {
			uint32_t start, count;
		} range = {r->tokens[i], 1};

		CHECK_EQ(app_devmem_dontneed(r->s->side.app, FLOW, &range, sizeof(range)), 1);
		CHECK_EQ(app_devmem_dontneed(r->s->side.app, FLOW, &range, sizeof(range)), 0);
	}
	r->held = 0;
}

/* Returns how many calls failed for want of control buffer. */
static uint32_t read_all(struct reader *r, size_t controllen, uint32_t len)
{
	struct stream *s = r->s;
	uint32_t too_small = 0;

	for (int64_t n = 1; n;) {
		uint8_t iov[STREAM], control[PIECES * MESSAGE];
		struct app_iov parts[] = {{iov, len / 3}, {iov + len / 3, len - len / 3}};
		struct app_msg msg = {parts, 2, control, controllen};
		const uint64_t before = r->at;

		n = app_recvmsg(s->side.app, FLOW, &msg, APP_SOCK_DEVMEM | MSG_DONTWAIT);
		if (n == -APP_ETOOSMALL) {
			CHECK_EQ(msg.controllen, controllen);
			if (controllen >= MESSAGE)
				return UINT32_MAX;
			controllen = MESSAGE; /* nothing was lost: a larger one goes on */
			too_small++;
			continue;
		}
		if (n < 0)
			return UINT32_MAX;
		if (msg.controllen)
			read_messages(r, iov, control, msg.controllen);
		else
			read_bytes(r, iov, n);
		CHECK_EQ(r->at - before, n);
		if (r->gives_back)
			give_back(r);
	}
	return too_small;
}

static void all_lengths_and_control_buffers(void)
{
	static struct stream s;
	static struct reader r;

	for (uint64_t round = 1; round <= 40; round++) {
		for (size_t controllen = 0; controllen <= PIECES * MESSAGE; controllen += 13) {
			const uint32_t len = 1 + (round * 31 + controllen) % 400;

			open_stream(&s, round);
			r = (struct reader){.s = &s, .gives_back = round % 2};
			CHECK(read_all(&r, controllen, len) <= 1);
			CHECK_EQ(r.at, s.len);
			if (!r.gives_back) { /* device memory stays lent until the tokens go back */
				CHECK_EQ(count_returned(&s), s.nr_host);
				give_back(&r);
				CHECK_EQ(count_returned(&s), s.nr_device);
			} else {
				CHECK_EQ(count_returned(&s), s.nr_host + s.nr_device);
			}
			close_side(&s.side);
		}
	}
}

static void peeking_hands_out_tokens_that_all_must_come_back(void)
{
	static struct stream s;

	for (uint64_t round = 1; round <= 200; round++) {
		uint8_t iov[STREAM], control[PIECES * MESSAGE];
		struct app_iov part = {iov, sizeof(iov)};
		struct app_conn_info info;
		uint32_t tokens = 0;
		int64_t n = 1;

		open_stream(&s, round);
		for (int i = 0; i < 3; i++) {
			struct app_msg msg = {&part, 1, control, sizeof(control)};
			static struct reader r;

			r = (struct reader){.s = &s, .held = tokens};
			n = app_recvmsg(s.side.app, FLOW, &msg,
					APP_SOCK_DEVMEM | MSG_DONTWAIT | MSG_PEEK);
			if (msg.controllen)
				read_messages(&r, iov, control, msg.controllen);
			else
				read_bytes(&r, iov, n);
			CHECK_EQ(r.at, n);
			tokens = r.held;
		}
		app_conn_info(s.side.app, FLOW, &info);
		CHECK_EQ(info.queued, s.len);
		CHECK_EQ(info.tokens, tokens);
		CHECK_EQ(count_returned(&s), 0);
		for (; n > 0;) { /* without tokens: only those of the peeks keep device memory */
			struct app_msg msg = {&part, 1, NULL, 0};

			n = app_recvmsg(s.side.app, FLOW, &msg, MSG_TRUNC | MSG_DONTWAIT);
		}
		for (uint32_t token = 1; token <= tokens; token++) {
			struct app_frag frag = {.token = token};

			CHECK_EQ(app_dontneed(s.side.app, FLOW, &frag, 1), 1);
		}
		CHECK_EQ(count_returned(&s), s.nr_host + s.nr_device);
		close_side(&s.side);
	}
}

/* ---- gathering ---- */

#define FRAGMENTATIONS 10000u

static uint8_t *open_region(struct side *s)
{
	const int fd = memfd_create("region", 0);
	uint8_t *region;

	if (fd < 0 || ftruncate(fd, REGION))
		abort();
	region = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK_EQ(app_region(s->app, BINDING, REGION, fd), 0);
	close(fd);
	return region;
}

/* A stream of up to 12 pieces of all kinds; returns its bytes. */
static uint32_t push_pieces(struct side *s, uint8_t *region, uint64_t at, uint64_t *seed)
{
	uint8_t *blocks = (uint8_t *)s->header + s->layout.blocks;
	const uint32_t nr = 1 + check_random(seed, PIECES);
	uint32_t len = 0, block = 0;

	for (uint32_t i = 0; i < nr; i++) {
		struct channel_event e = {
			.kind = EVENT_FRAG,
			.flow = FLOW,
			.offset = i * 8192 + check_random(seed, 4096),
			.len = 1 + check_random(seed, 3840),
			.token = i + 1,
			.arg = BINDING,
		};
		uint8_t *to = region + e.offset;

		if (block < BLOCKS && check_random(seed, 2)) {
			e.kind = EVENT_DATA;
			e.offset = block * CHANNEL_BLOCK;
			e.token = ++block;
			e.arg = CHANNEL_DATA_ARG(1 + check_random(seed, 2), REASON_UNBOUND);
			to = blocks + e.offset;
		}
		for (uint32_t j = 0; j < e.len; j++)
			to[j] = byte_at(at + len + j);
		push(s, e);
		len += e.len;
	}
	return len;
}

static void any_fragmentation_is_gathered_into_the_stream(void)
{
	static uint8_t out[PIECES * CHANNEL_BLOCK];
	struct side s = open_side();
	uint8_t *region = open_region(&s);
	struct app_conn_info info;
	uint64_t seed = 9, at = 0;

	connect_flow(&s, FLOW);
	for (uint32_t round = 0; round < FRAGMENTATIONS; round++) {
		const uint64_t end = at + push_pieces(&s, region, at, &seed);
		bool same = true;

		while (at < end) {
			const uint32_t room = 1 + check_random(&seed, sizeof(out));
			const int64_t n = app_gather(s.app, FLOW, out, room, MSG_DONTWAIT);

			if (n <= 0)
				break;
			for (int64_t i = 0; i < n; i++)
				same &= out[i] == byte_at(at + i);
			at += n;
		}
		atomic_store(&s.header->request_tail, atomic_load(&s.header->request_head));
		CHECK(same);
		CHECK_EQ(at, end);
	}
	app_conn_info(s.app, FLOW, &info);
	CHECK_EQ(info.tokens, 0);
	CHECK_EQ(info.bytes.device + info.bytes.linear + info.bytes.data, at);
	munmap(region, REGION);
	close_side(&s);
}

/* ---- two threads ---- */

#define LENDINGS 30000u

struct shared {
	struct side side;
	_Atomic uint32_t returned;
};

/* The stack: lends a fragment as long as fewer than 40 are out. */
static void *lend(void *arg)
{
	struct shared *sh = arg;
	struct side *s = &sh->side;
	const struct channel_request *ring =
		(const void *)((uint8_t *)s->header + s->layout.requests);
	uint32_t lent = 0, tail = 0;

	while (sh->returned < LENDINGS) {
		for (; tail != atomic_load(&s->header->request_head); tail++)
			sh->returned += ring[tail & (NR - 1)].b;
		atomic_store(&s->header->request_tail, tail);
		if (lent == LENDINGS || lent - sh->returned > 40)
			continue;
		push(s, (struct channel_event){.kind = EVENT_FRAG,
					       .flow = FLOW,
					       .len = 3,
					       .token = ++lent,
					       .arg = BINDING});
		atomic_thread_fence(memory_order_seq_cst);
		if (atomic_exchange(&s->header->app_waits, 0))
			eventfd_write(s->event, 1);
	}
	return NULL;
}

/* Guesses tokens: all that are given back at one time or another. */
static void *give_any(void *arg)
{
	struct shared *sh = arg;
	uint64_t seed = 5;

	while (sh->returned < LENDINGS) {
		struct {
			uint32_t start, count;
		} ranges[2] = {{check_random(&seed, 64), 8}, {check_random(&seed, 64), 3}};

		app_devmem_dontneed(sh->side.app, FLOW, ranges, sizeof(ranges));
	}
	return NULL;
}

static void reading_and_giving_back_at_once(void)
{
	static struct shared sh;
	pthread_t stack, giver;
	uint64_t got = 0;

	sh.side = open_side();
	connect_flow(&sh.side, FLOW);
	pthread_create(&stack, NULL, lend, &sh);
	pthread_create(&giver, NULL, give_any, &sh);
	while (got < 3 * LENDINGS) {
		uint8_t control[7 * MESSAGE], bytes[64];
		struct app_iov iov = {bytes, sizeof(bytes)};
		struct app_msg msg = {&iov, 1, control, sizeof(control)};
		const int64_t n = app_recvmsg(sh.side.app, FLOW, &msg, APP_SOCK_DEVMEM);

		if (n <= 0) {
			CHECK_EQ(n, 1);
			break;
		}
		got += n;
	}
	pthread_join(stack, NULL);
	pthread_join(giver, NULL);
	CHECK_EQ(got, 3 * LENDINGS);
	CHECK_EQ(sh.returned, LENDINGS);
	close_side(&sh.side);
}

/* ---- descriptors ---- */

static int shows(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN | POLLOUT};

	return poll(&p, 1, 0) > 0 ? p.revents : 0;
}

static int becomes(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, 10000) > 0 ? p.revents : 0;
}

static void tell(struct side *s, struct channel_event e)
{
	push(s, e);
	atomic_thread_fence(memory_order_seq_cst);
	if (atomic_exchange(&s->header->app_waits, 0))
		eventfd_write(s->event, 1);
}

static void a_descriptor_shows_what_the_connection_would(void)
{
	struct side s = open_side();
	struct app_frag frag;
	uint8_t reply[CHANNEL_REPLY_MAX] = {0};
	int conn[2], listener[2];

	socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, conn);
	socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, listener);
	CHECK_EQ(app_watch(s.app, 0, LISTENER, listener[0], listener[1]), 0);
	CHECK_EQ(app_watch(s.app, 0, LISTENER, listener[0], listener[1]), -EBUSY);
	CHECK_EQ(app_watch(s.app, 0, 77, listener[0], listener[1]), -EBADF);
	CHECK_EQ(shows(listener[0]), 0);
	tell(&s, (struct channel_event){.kind = EVENT_ACCEPT, .flow = FLOW, .arg = LISTENER});
	CHECK_EQ(becomes(listener[0], POLLIN), POLLIN);
	CHECK_EQ(app_accept(s.app, LISTENER, &frag.token, &(struct stack_addr){0},
			    &(struct stack_addr){0}),
		 1);
	CHECK_EQ(shows(listener[0]), 0);

	CHECK_EQ(app_watch(s.app, FLOW, -1, conn[0], conn[1]), 0);
	CHECK_EQ(shows(conn[0]), POLLOUT);
	CHECK_EQ(app_set_rcvlowat(s.app, FLOW, 5), 5);
	tell(&s, (struct channel_event){
			 .kind = EVENT_FRAG, .flow = FLOW, .len = 4, .token = 1, .arg = BINDING});
	while (atomic_load(&s.header->event_tail) != atomic_load(&s.header->event_head))
		sched_yield();
	CHECK_EQ(shows(conn[0]), POLLOUT); /* fewer than SO_RCVLOWAT */
	tell(&s, (struct channel_event){
			 .kind = EVENT_FRAG, .flow = FLOW, .len = 1, .token = 2, .arg = BINDING});
	CHECK_EQ(becomes(conn[0], POLLIN), POLLIN);
	CHECK_EQ(app_take(s.app, FLOW, &frag, 1), 1);
	CHECK_EQ(shows(conn[0]), POLLOUT);
	app_set_rcvlowat(s.app, FLOW, 1);
	CHECK_EQ(shows(conn[0]), POLLIN | POLLOUT);
	CHECK_EQ(app_take(s.app, FLOW, &frag, 1), 1);

	while (app_send(s.app, FLOW, reply, sizeof(reply)) > 0)
		atomic_store(&s.header->request_tail, atomic_load(&s.header->request_head));
	CHECK_EQ(shows(conn[0]), 0);
	tell(&s, (struct channel_event){.kind = EVENT_SENT, .flow = FLOW, .arg = 1});
	CHECK_EQ(becomes(conn[0], POLLOUT), POLLOUT);
	tell(&s, (struct channel_event){.kind = EVENT_EOF, .flow = FLOW});
	CHECK_EQ(becomes(conn[0], POLLIN), POLLIN);
	CHECK_EQ(shows(conn[0]), POLLIN | POLLOUT);
	tell(&s, (struct channel_event){.kind = EVENT_RESET, .flow = FLOW, .arg = ECONNRESET});
	CHECK(becomes(conn[0], 0) & POLLHUP);

	close(s.life[1]);
	s.life[1] = dup(s.life[0]);
	CHECK(becomes(listener[0], 0) & POLLHUP); /* the stack is dead */
	close_side(&s);
	for (int i = 0; i < 2; i++) {
		close(conn[i]);
		close(listener[i]);
	}
}

CHECK_MAIN(CHECK_TEST(all_lengths_and_control_buffers),
	   CHECK_TEST(peeking_hands_out_tokens_that_all_must_come_back),
	   CHECK_TEST(any_fragmentation_is_gathered_into_the_stream),
	   CHECK_TEST(reading_and_giving_back_at_once),
	   CHECK_TEST(a_descriptor_shows_what_the_connection_would))
