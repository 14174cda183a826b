/* SPDX-License-Identifier: Apache-2.0 */
/*
 * list.h - intrusive circular lists, as the kernel's: a node that is on no list
 * points at itself, so adding twice and removing twice are both harmless.
 */
#ifndef DEVMEMTCP_LIST_H
#define DEVMEMTCP_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list_node {
	struct list_node *next, *prev;
};

#define container_of(ptr, type, member) ((type *)((char *)(ptr) - offsetof(type, member)))

static inline void list_init(struct list_node *n)
{
	n->next = n->prev = n;
}

static inline bool list_empty(const struct list_node *head)
{
	return head->next == head;
}

static inline bool list_on(const struct list_node *n)
{
	return n->next != n;
}

static inline void list_del(struct list_node *n)
{
	n->prev->next = n->next;
	n->next->prev = n->prev;
	list_init(n);
}

/* At the end, unless it is on a list already. */
static inline void list_add_tail(struct list_node *head, struct list_node *n)
{
	if (list_on(n))
		return;
	n->prev = head->prev;
	n->next = head;
	head->prev->next = n;
	head->prev = n;
}

/* At the front, wherever it was before. */
static inline void list_move_head(struct list_node *head, struct list_node *n)
{
	list_del(n);
	list_add_tail(head->next, n);
}

#endif
