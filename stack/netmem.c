/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netmem.c - the little of netmem that is not inline: warnings, and references
 * that a user takes on the memory's owner instead of on the pool.
 */
#include "list.h"
#include "memory_provider.h"
#include "netmem.h"
#include "stack.h"

struct netmem_warning netmem_warning;

#if NETMEM_CHECK == NETMEM_CHECK_STATIC
DEFINE_STATIC_KEY_FALSE(netmem_has_net_iovs);
#define CHANGE_KEY(change) static_branch_##change(&netmem_has_net_iovs)
#else
#define CHANGE_KEY(change) 0
#endif

int netmem_key_raise(void)
{
	return CHANGE_KEY(inc);
}

int netmem_key_lower(void)
{
	return CHANGE_KEY(dec);
}

void netmem_info(struct netmem_info *out)
{
	*out = (struct netmem_info){
		.check = NETMEM_CHECK,
		.warnings = netmem_warning.count,
		.hits = netmem_warning.hits,
	};
#if NETMEM_CHECK == NETMEM_CHECK_STATIC
	out->key = netmem_has_net_iovs.enabled;
	out->code_size = static_key_code(&netmem_has_net_iovs, &out->code);
#endif
}

/*
 * Cold and never inlined, so a check costs its caller one branch, and the return
 * address says which function that was. The counters are atomic although a stack
 * is not: they are the process's, which may run a stack in each of two threads.
 */
__attribute__((cold, noinline)) void netmem_warn(bool *warned, const char *file, unsigned int line)
{
	__atomic_fetch_add(&netmem_warning.hits, 1, __ATOMIC_RELAXED);
	if (__atomic_exchange_n(warned, true, __ATOMIC_RELAXED))
		return;
	netmem_warning.file = file;
	netmem_warning.line = line;
	netmem_warning.caller = __builtin_return_address(0);
	__atomic_fetch_add(&netmem_warning.count, 1, __ATOMIC_RELEASE);
}

static struct device_provider *net_devmem_provider(const struct net_iov *niov)
{
	return container_of(net_iov_owner(niov), struct device_provider, area);
}

void get_netmem(netmem_ref netmem)
{
	if (!netmem_is_net_iov(netmem))
		get_page(__netmem_to_page(netmem));
	else if (net_is_devmem_iov(netmem_to_net_iov(netmem)))
		memory_provider_get(&net_devmem_provider(netmem_to_net_iov(netmem))->mp);
}

void put_netmem(netmem_ref netmem)
{
	if (!netmem_is_net_iov(netmem))
		put_page(__netmem_to_page(netmem));
	else if (net_is_devmem_iov(netmem_to_net_iov(netmem)))
		device_provider_put(net_devmem_provider(netmem_to_net_iov(netmem)));
}
