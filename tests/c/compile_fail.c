/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What must not compile: a netmem_ref is neither a number nor a pointer, a build without
 * device memory makes no net_iov, and no file but tcp_state.c assigns a state. compile_fail.sh
 * builds this in each form of the check, once for each SNIPPET_ below, and once with none; those
 * that begin with a form's name are for it.
 */
#include "skb_frag.h"
#include "tcp_state.h"

void control(netmem_ref netmem, struct page *page, struct net_iov *niov, struct flow *flow);
void control(netmem_ref netmem, struct page *page, struct net_iov *niov, struct flow *flow)
{
	netmem_ref other = page_to_netmem(page);

	other = netmem;
	(void)netmem_equal(other, NETMEM_NONE);
#if NETMEM_CHECK != NETMEM_CHECK_OFF
	other = net_iov_to_netmem(niov);
#endif

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
#elif defined(SNIPPET_PAGE_AS_FRAG)
	skb_frag_t frag = {.netmem = page};
#elif defined(SNIPPET_INTEGER_AS_FRAG)
	skb_frag_t frag = {.netmem = 4096UL};
#elif defined(SNIPPET_INTEGERS_AS_ARRAY)
	netmem_ref many[2] = {4096UL, 8192UL};
#elif defined(SNIPPET_PAGE_OF_PAGE)
	(void)netmem_to_page(page);
#elif defined(SNIPPET_PUT_POINTER)
	put_netmem(niov);
#elif defined(SNIPPET_OFF_MAKE_NET_IOV)
	other = net_iov_to_netmem(niov);
#elif defined(SNIPPET_STATE_ASSIGNED)
	flow->state = TCP_LISTEN;
#elif defined(SNIPPET_STATE_COUNTED_ON)
	flow->state++;
#elif defined(SNIPPET_FLOW_ASSIGNED)
	*flow = (struct flow){.id = 1};
#else
	(void)tcp_state_move(flow, TCP_EV_OPEN);
#endif
}
