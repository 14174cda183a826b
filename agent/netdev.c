/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netdev.c - what must be known of an interface before it is taken.
 */
#include <errno.h>
#include <stdbool.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "stack.h"
#include "api.h"

int netns_enter(int fd)
{
	return setns(fd, CLONE_NEWNET) ? -errno : 0;
}

static bool same_address(const struct sockaddr *sa, const struct stack_addr *addr)
{
	if (addr->family == 4 && sa->sa_family == AF_INET)
		return !memcmp(&((const struct sockaddr_in *)sa)->sin_addr, addr->ip + 12, 4);
	if (addr->family == 6 && sa->sa_family == AF_INET6)
		return !memcmp(&((const struct sockaddr_in6 *)sa)->sin6_addr, addr->ip, 16);
	return false;
}

int netdev_has_address(const char *ifname, const struct stack_addr *addr)
{
	struct ifaddrs *list, *i;
	int found = 0;

	if (getifaddrs(&list))
		return -errno;
	for (i = list; i && !found; i = i->ifa_next)
		found = i->ifa_addr && !strncmp(i->ifa_name, ifname, IFNAMSIZ) &&
			same_address(i->ifa_addr, addr);
	freeifaddrs(list);
	return found;
}
