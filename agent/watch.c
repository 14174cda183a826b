/* SPDX-License-Identifier: Apache-2.0 */
/*
 * watch.c - what can wake a loop that sleeps.
 *
 * The sockets of attached queues are polled one by one, for in copy mode poll(2) itself
 * receives and sends. Everything else is seldom ready and stands behind one epoll
 * descriptor, so that a sleep costs the same with one application and with 256.
 *
 * Call order: watch_open(), watch_app() and watch_queues() as they come, watch_wait()
 * by the loop's thread, unwatch_app(), watch_close().
 *
 * Invariants:
 * - One watch_wait() does bounded work whatever an application does to its wake_fd: one
 *   read of a few bytes an application, of READY applications at most.
 * - No call on an application's descriptor can block, as long as the other ends are other
 *   open file descriptions (loop_app_config): O_NONBLOCK belongs to those.
 *
 * Ownership: the loop's; an application's descriptors are in its struct loop_app.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop.h"

#define READY 16 /* descriptors a call; epoll gives the others next time */
#define WAKE_BYTES 512 /* several wake-ups of 8 bytes, if it is a pipe */

/* What an event is of: an application by its number, or one of these. */
#define OF_MAIL STACK_MAX_APPS
#define OF_LINKS (STACK_MAX_APPS + 1)

static int watch(struct loop *l, int fd, uint32_t of)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = of};

	return epoll_ctl(l->events, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

static int open_links(struct loop *l)
{
	struct sockaddr_nl addr = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};

	l->link_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (l->link_fd < 0 || bind(l->link_fd, (struct sockaddr *)&addr, sizeof(addr)))
		return -errno;
	return watch(l, l->link_fd, OF_LINKS);
}

int watch_open(struct loop *l)
{
	int err;

	l->events = epoll_create1(EPOLL_CLOEXEC);
	if (l->events < 0)
		return -errno;
	watch_queues(l);
	err = watch(l, l->mail.fd, OF_MAIL);
	return err ? err : open_links(l);
}

int watch_app(struct loop *l, const struct loop_app *a)
{
	return watch(l, a->wake_fd, a - l->app);
}

void unwatch_app(struct loop *l, const struct loop_app *a)
{
	epoll_ctl(l->events, EPOLL_CTL_DEL, a->wake_fd, NULL);
}

void watch_queues(struct loop *l)
{
	for (uint32_t i = 0; i < l->nr_attached; i++) {
		int fd = l->attached[i]->rings.fd;

		l->poll[i] = (struct pollfd){.fd = fd, .events = POLLIN};
	}
	l->poll[l->nr_attached] = (struct pollfd){.fd = l->events, .events = POLLIN};
}

/* A link of this namespace has changed. A socket whose device is gone is unbound, and says
 * ENXIO; one whose device is merely down says ENETDOWN, and may live on when it is up again. */
static void check_links(struct loop *l)
{
	char buf[8192];

	while (recv(l->link_fd, buf, sizeof(buf), MSG_DONTWAIT) > 0)
		;
	l->down = false; /* until the next kick says otherwise */
	for (uint32_t i = 0; i < l->nr_attached; i++) {
		int fd = l->attached[i]->rings.fd;

		if (recv(fd, NULL, 0, MSG_DONTWAIT) < 0 && errno == ENXIO)
			l->error = -ENXIO;
	}
}

static void drain_wake(struct loop *l, struct loop_app *a, uint32_t events)
{
	char buf[WAKE_BYTES];

	if (events & EPOLLIN && read(a->wake_fd, buf, sizeof(buf)) > 0)
		return;
	/* The application has closed its end, and would be ready for ever. */
	if (events & (EPOLLHUP | EPOLLERR))
		unwatch_app(l, a);
}

static void drain_mail(struct loop *l)
{
	eventfd_t count;

	while (eventfd_read(l->mail.fd, &count) < 0 && errno == EINTR)
		;
}

static void look_at_events(struct loop *l)
{
	struct epoll_event ready[READY];
	int n = epoll_wait(l->events, ready, READY, 0);

	for (int i = 0; i < n; i++) {
		uint32_t of = ready[i].data.u32;

		if (of == OF_MAIL)
			drain_mail(l);
		else if (of == OF_LINKS)
			check_links(l);
		else
			drain_wake(l, &l->app[of], ready[i].events);
	}
}

void watch_wait(struct loop *l, const struct timespec *timeout)
{
	int n = ppoll(l->poll, l->nr_attached + 1, timeout, NULL);

	/* ENOMEM: it could not sleep. Turns go on meanwhile. */
	if (n < 0 && errno != EINTR && errno != ENOMEM)
		l->error = -errno;
	if (n <= 0)
		return;
	for (uint32_t i = 0; i < l->nr_attached; i++) {
		int err = 0;
		socklen_t len = sizeof(err);

		if (!(l->poll[i].revents & (POLLERR | POLLHUP | POLLNVAL)))
			continue;
		getsockopt(l->poll[i].fd, SOL_SOCKET, SO_ERROR, &err, &len);
		l->error = err ? -err : -EIO;
	}
	if (l->poll[l->nr_attached].revents)
		look_at_events(l);
}

void watch_close(struct loop *l)
{
	if (l->link_fd >= 0)
		close(l->link_fd);
	if (l->events >= 0)
		close(l->events);
	l->link_fd = l->events = -1;
}
