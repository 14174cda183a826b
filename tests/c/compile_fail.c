/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must not compile: a netmem_ref is neither a number nor a pointer.
 * compile_fail.sh builds this once for each SNIPPET_ below, and once with none.
 */
#include "netmem.h"

void control(netmem_ref netmem, struct page *page, struct net_iov *niov);
void control(netmem_ref netmem, struct page *page, struct net_iov *niov)
{
	netmem_ref other = page_to_netmem(page);

	other = netmem;
	(void)netmem_equal(other, net_iov_to_netmem(niov));

#if defined(SNIPPET_INTEGER_TO_NETMEM)
	netmem_ref made = 4096UL;
#elif defined(SNIPPET_INTEGER_CAST_TO_NETMEM)
	(void)(netmem_ref)4096UL;
#elif defined(SNIPPET_POINTER_TO_NETMEM)
	netmem = page;
#elif defined(SNIPPET_NET_IOV_TO_NETMEM)
	netmem = niov;
#elif defined(SNIPPET_NULL_TO_NETMEM)
	netmem = NULL;
#elif defined(SNIPPET_NETMEM_TO_PAGE)
	page = netmem;
#elif defined(SNIPPET_NETMEM_TO_NET_IOV)
	niov = netmem;
#elif defined(SNIPPET_NETMEM_CAST_TO_PAGE)
	page = (struct page *)netmem;
#elif defined(SNIPPET_NETMEM_TO_INTEGER)
	unsigned long bits = netmem;
#elif defined(SNIPPET_NETMEM_CAST_TO_INTEGER)
	(void)(unsigned long)netmem;
#elif defined(SNIPPET_PAGE_FOR_NETMEM_ARGUMENT)
	(void)netmem_is_net_iov(page);
#elif defined(SNIPPET_NETMEM_FOR_PAGE_ARGUMENT)
	(void)page_address(netmem);
#elif defined(SNIPPET_COMPARE)
	(void)(netmem == other);
#elif defined(SNIPPET_COMPARE_WITH_ZERO)
	(void)(netmem == 0);
#elif defined(SNIPPET_TRUTH)
	if (netmem)
		return;
#elif defined(SNIPPET_NOT)
	(void)!netmem;
#elif defined(SNIPPET_ADD)
	(void)(netmem + 1);
#elif defined(SNIPPET_TAG)
	netmem |= NET_IOV;
#elif defined(SNIPPET_DEREFERENCE)
	(void)*netmem;
#elif defined(SNIPPET_MEMBER_OF_PAGE)
	(void)netmem->pp_ref_count;
#elif defined(SNIPPET_INDEX)
	(void)netmem[0];
#endif
}
