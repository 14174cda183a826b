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

static bool to_stack_addr(const struct sockaddr *sa, struct stack_addr *out)
{
	*out = (struct stack_addr){0};
	if (sa->sa_family == AF_INET) {
		out->family = 4;
		out->ip[10] = out->ip[11] = 0xff;
		memcpy(out->ip + 12, &((const struct sockaddr_in *)sa)->sin_addr, 4);
	} else if (sa->sa_family == AF_INET6) {
		out->family = 6;
		memcpy(out->ip, &((const struct sockaddr_in6 *)sa)->sin6_addr, 16);
	}
	return out->family;
}

int netdev_addresses(const char *ifname, struct stack_addr *out, uint32_t max)
{
	struct stack_addr addr;
	struct ifaddrs *list, *i;
	uint32_t nr = 0;

	if (getifaddrs(&list))
		return -errno;
	for (i = list; i; i = i->ifa_next) {
		if (!i->ifa_addr || strncmp(i->ifa_name, ifname, IFNAMSIZ) ||
		    !to_stack_addr(i->ifa_addr, &addr))
			continue;
		if (nr < max)
			out[nr] = addr;
		nr++;
	}
	freeifaddrs(list);
	return (int)nr;
}

int netdev_has_address(const char *ifname, const struct stack_addr *addr)
{
	struct stack_addr have;
	struct ifaddrs *list, *i;
	int found = 0;

	if (getifaddrs(&list))
		return -errno;
	for (i = list; i && !found; i = i->ifa_next)
		found = i->ifa_addr && !strncmp(i->ifa_name, ifname, IFNAMSIZ) &&
			to_stack_addr(i->ifa_addr, &have) && have.family == addr->family &&
			!memcmp(have.ip, addr->ip, sizeof(have.ip));
	freeifaddrs(list);
	return found;
}
