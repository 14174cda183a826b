/* SPDX-License-Identifier: Apache-2.0 */
/*
 * application.c - applications come, are told things, and go.
 *
 *   stack_app_open() -> stack_listen() ... application_tell() -> stack_events_pushed() ...
 *   -> stack_app_close()
 *
 * The channel's memory and `struct application` are the caller's, lent from open to close.
 * After that nothing in the stack points to either.
 */
#include <errno.h>
#include <string.h>

#include "core.h"

/* ---- opening ---- */

static bool lay_out(const struct stack_config *c, const struct stack_app_config *app,
		    struct channel_layout *l)
{
	return channel_lay_out(l, app->nr_events, app->nr_requests, c->max_flows + 1,
			       app->nr_blocks);
}

size_t stack_channel_size(const struct stack_config *config, const struct stack_app_config *app)
{
	struct channel_layout l;

	return stack_size(config) && lay_out(config, app, &l) ? l.size : 0;
}

static size_t head_size(void)
{
	return MEMORY_ALIGN(sizeof(struct application));
}

size_t stack_app_size(const struct stack_app_config *config)
{
	if (!config->nr_blocks || config->nr_blocks > CHANNEL_MAX_BLOCKS)
		return 0;
	return head_size() + MEMORY_ALIGN((config->nr_blocks + 1ul) * sizeof(struct block_entry));
}

static void format(const struct application *app)
{
	struct channel_header *h = app->header;

	memset(h, 0, sizeof(*h));
	h->magic = CHANNEL_MAGIC;
	h->nr_events = app->layout.nr_events;
	h->nr_requests = app->layout.nr_requests;
	h->nr_conns = app->layout.nr_conns;
	h->nr_blocks = app->layout.nr_blocks;
}

int stack_app_open(struct stack *s, void *mem, const struct stack_app_config *config)
{
	struct application *app = mem;
	struct channel_layout l;
	uint32_t number = 0;

	if (!mem || !config->channel || !lay_out(&s->cfg, config, &l) ||
	    config->channel_size < l.size)
		return -EINVAL;
	while (number < s->cfg.max_apps && s->apps[number])
		number++;
	if (number == s->cfg.max_apps)
		return -ENOSPC;
	*app = (struct application){
		.number = number,
		.layout = l,
		.header = (struct channel_header *)config->channel,
		.events = (struct channel_event *)(config->channel + l.events),
		.requests = (struct channel_request *)(config->channel + l.requests),
		.conns = (struct channel_conn *)(config->channel + l.conns),
		.replies = config->channel + l.replies,
		.data = config->channel + l.blocks,
		.max_conns = config->max_conns,
	};
	block_table_init(&app->blocks, (struct block_entry *)((uint8_t *)mem + head_size()),
			 l.nr_blocks);
	list_init(&app->deliver_list);
	format(app);
	s->apps[number] = app;
	s->nr_apps++;
	if (number >= s->apps_end)
		s->apps_end = number + 1;
	return (int)number;
}

/* ---- closing ---- */

/* Of a flow that the application had closed itself the protocol's end is all that is left. */
static void orphan(struct stack *s, struct flow *f)
{
	list_del(&f->deliver_node);
	f->app = NULL;
	if (f->app_open) {
		request_abort(s, f);
		return;
	}
	flow_deliver(s, f);
	tcp_reap(s, f);
}

int stack_app_close(struct stack *s, int number)
{
	struct application *app;

	if (number < 0 || (uint32_t)number >= s->cfg.max_apps || !s->apps[number])
		return -ENOENT;
	app = s->apps[number];
	listeners_forget(s, app);
	for (uint32_t slot = 1; slot < s->flows.used; slot++) {
		struct flow *f = &s->flows.flows[slot];

		if (f->id && f->app == app)
			orphan(s, f);
	}
	s->buffers_back = true;
	s->apps[number] = NULL;
	s->nr_apps--;
	while (s->apps_end && !s->apps[s->apps_end - 1])
		s->apps_end--;
	return 0;
}

/* ---- the events ring ---- */

uint32_t stack_events_pushed(struct stack *s, int number)
{
	struct application *app;
	uint32_t pushed;

	if (number < 0 || (uint32_t)number >= s->cfg.max_apps || !s->apps[number])
		return 0;
	app = s->apps[number];
	pushed = app->pushed;
	atomic_store_explicit(&app->header->event_head, app->event_head, memory_order_release);
	app->pushed = 0;
	return pushed;
}
