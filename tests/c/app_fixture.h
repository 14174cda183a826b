/* SPDX-License-Identifier: Apache-2.0 */
/*
 * app_fixture.h - an application's half of a channel, whose stack is the test.
 */
#ifndef APP_FIXTURE_H
#define APP_FIXTURE_H

#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "check.h"
#include "app.h"

#define NR 64u
#define CONNS 16u
#define BLOCKS 8u
#define BINDING 7u
#define LISTENER 2
#define REGION (1u << 20)
#define FLOW ((1u << CHANNEL_FLOW_SLOT_BITS) + 1)

struct side {
	struct channel_header *header;
	struct channel_layout layout;
	int channel, event, wake, life[2];
	struct app *app;
};

static inline struct side open_side(void)
{
	struct side s;

	channel_lay_out(&s.layout, NR, NR, CONNS, BLOCKS);
	s.channel = memfd_create("channel", 0);
	s.event = eventfd(0, EFD_NONBLOCK);
	s.wake = eventfd(0, EFD_NONBLOCK);
	if (ftruncate(s.channel, s.layout.size) || pipe(s.life))
		abort();
	s.header = mmap(NULL, s.layout.size, PROT_READ | PROT_WRITE, MAP_SHARED, s.channel, 0);
	s.header->magic = CHANNEL_MAGIC;
	s.header->nr_events = s.header->nr_requests = NR;
	s.header->nr_conns = CONNS;
	s.header->nr_blocks = BLOCKS;
	if (app_open(&s.app, s.channel, s.event, s.wake, s.life[0]))
		abort();
	if (app_region(s.app, BINDING, REGION, -1) || app_listener(s.app, LISTENER, 1))
		abort();
	return s;
}

static inline void close_side(struct side *s)
{
	app_close(s->app);
	munmap(s->header, s->layout.size);
	close(s->channel);
	close(s->event);
	close(s->wake);
	close(s->life[0]);
	close(s->life[1]);
}

static inline void push(struct side *s, struct channel_event e)
{
	struct channel_event *ring = (void *)((uint8_t *)s->header + s->layout.events);
	uint32_t head = atomic_load(&s->header->event_head);

	ring[head & (NR - 1)] = e;
	atomic_store_explicit(&s->header->event_head, head + 1, memory_order_release);
}

/* A connection that has been accepted. */
static inline void connect_flow(struct side *s, uint32_t flow)
{
	struct stack_addr local, peer;
	uint32_t id;

	push(s, (struct channel_event){.kind = EVENT_ACCEPT, .flow = flow, .arg = LISTENER});
	CHECK_EQ(app_accept(s->app, LISTENER, &id, &local, &peer), 1);
	CHECK_EQ(id, flow);
}

#endif
