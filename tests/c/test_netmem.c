/* SPDX-License-Identifier: Apache-2.0 */
/* Every row of the helper table, for a page and for a net_iov; and the providers. */
#include <errno.h>
#include "memory_fixture.h"
#include "skb_frag.h"
#include "stack.h"

static struct memory_fixture f;
static struct page *page;
static struct net_iov *niov;
static netmem_ref page_ref, niov_ref;

static void fixture_up(void)
{
	f = memory_fixture(4, 4, 4);
	page = host_provider_page(f.host, 2);
	niov = device_provider_niov(f.device, 2);
	page_ref = page_to_netmem(page);
	niov_ref = net_iov_to_netmem(niov);
}

static void fixture_down(void)
{
	memory_fixture_free(&f);
}

/* Hits of warnings during `expression`. */
#define WARNINGS_OF(expression)                                                                    \
	({                                                                                         \
		uint64_t before_ = netmem_warning.hits;                                            \
		(void)(expression);                                                                \
		netmem_warning.hits - before_;                                                     \
	})

#ifdef NDEBUG
#define DEBUG_WARNINGS 0
#else
#define DEBUG_WARNINGS 1
#endif

static void no_memory_is_all_zeroes(void)
{
	netmem_ref zero;

	memset(&zero, 0, sizeof(zero));
	CHECK(netmem_is_none(zero));
	CHECK(netmem_is_none(NETMEM_NONE));
	CHECK(netmem_equal(zero, NETMEM_NONE));
	CHECK(!netmem_is_net_iov(NETMEM_NONE));
	CHECK(netmem_to_page(NETMEM_NONE) == NULL);
	CHECK(netmem_is_none(page_to_netmem(NULL)));
}

static void a_reference_tells_its_kind(void)
{
	fixture_up();
	CHECK(!netmem_is_net_iov(page_ref));
	CHECK(netmem_is_net_iov(niov_ref));
	CHECK(!netmem_is_none(page_ref));
	CHECK(!netmem_is_none(niov_ref));
	CHECK(netmem_equal(page_ref, page_to_netmem(page)));
	CHECK(!netmem_equal(page_ref, niov_ref));
	/* Bit 0 of the descriptor's address, and no other, is the tag. */
	CHECK_EQ(page_ref.bits, (unsigned long)page);
	CHECK_EQ(niov_ref.bits, (unsigned long)niov | 1);
	fixture_down();
}

static void the_right_kind_converts_without_a_warning(void)
{
	fixture_up();
	CHECK_EQ(WARNINGS_OF(netmem_to_page(page_ref)), 0);
	CHECK(netmem_to_page(page_ref) == page);
	CHECK(__netmem_to_page(page_ref) == page);
	CHECK_EQ(WARNINGS_OF(netmem_to_net_iov(niov_ref)), 0);
	CHECK(netmem_to_net_iov(niov_ref) == niov);
	fixture_down();
}

static struct page *ask_for_page(netmem_ref netmem)
{
	return netmem_to_page(netmem);
}

static void a_net_iov_has_no_page_and_says_so_once(void)
{
	uint64_t count = netmem_warning.count;

	fixture_up();
	CHECK(ask_for_page(niov_ref) == NULL);
	CHECK_EQ(netmem_warning.count, count + 1);
	CHECK(netmem_warning.file && strstr(netmem_warning.file, "netmem.h"));
	CHECK(netmem_warning.line > 0);
	CHECK(netmem_warning.caller != NULL);
	CHECK_EQ(WARNINGS_OF(ask_for_page(niov_ref)), 1);
	CHECK(ask_for_page(niov_ref) == NULL);
	CHECK_EQ(netmem_warning.count, count + 1);
	fixture_down();
}

static void a_page_is_no_net_iov(void)
{
	fixture_up();
	CHECK_EQ(WARNINGS_OF(netmem_to_net_iov(page_ref)), DEBUG_WARNINGS);
	CHECK(netmem_to_net_iov(page_ref) == NULL);
	fixture_down();
}

static void only_a_page_has_an_address(void)
{
	fixture_up();
	CHECK(netmem_address(page_ref) == f.pages + 2 * NETMEM_PAGE_SIZE);
	CHECK(__netmem_address(page_ref) == f.pages + 2 * NETMEM_PAGE_SIZE);
	CHECK(page_address(page) == netmem_address(page_ref));
	CHECK(netmem_address(niov_ref) == NULL);
	CHECK_EQ(WARNINGS_OF(netmem_address(niov_ref)), 0);
	CHECK_EQ(netmem_pfn_trace(page_ref), (unsigned long)f.pages / NETMEM_PAGE_SIZE + 2);
	CHECK_EQ(netmem_pfn_trace(niov_ref), 0);
	fixture_down();
}

static void an_address_leads_back_to_its_page(void)
{
	fixture_up();
	CHECK(virt_to_page(f.host, f.pages + 2 * NETMEM_PAGE_SIZE) == page);
	CHECK(virt_to_page(f.host, f.pages + 3 * NETMEM_PAGE_SIZE - 1) == page);
	CHECK(virt_to_page(f.host, f.pages + 4 * NETMEM_PAGE_SIZE) == NULL);
	CHECK(virt_to_page(f.host, f.pages - 1) == NULL);
	CHECK(netmem_equal(virt_to_netmem(f.host, f.pages + 2 * NETMEM_PAGE_SIZE), page_ref));
	CHECK(netmem_is_none(virt_to_netmem(f.host, &f)));
	fixture_down();
}

static void common_fields_are_reached_through_either_kind(void)
{
	fixture_up();
	for (int i = 0; i < 2; i++) {
		netmem_ref netmem = i ? niov_ref : page_ref;

		netmem_set_pp(netmem, f.device_pool);
		CHECK(netmem_get_pp(netmem) == f.device_pool);
		netmem_set_dma_addr(netmem, 0x1234000);
		CHECK_EQ(netmem_get_dma_addr(netmem), 0x1234000);
		*netmem_get_pp_ref_count_ref(netmem) = 7;
		CHECK(!netmem_is_pp(netmem));
		CHECK_EQ(netmem_get_pp_magic(netmem), 0);
		netmem_to_nmdesc(netmem)->pp_magic = PP_SIGNATURE;
		CHECK(netmem_is_pp(netmem));
	}
	CHECK(page->pp == f.device_pool && niov->pp == f.device_pool);
	CHECK_EQ(page->dma_addr, 0x1234000);
	CHECK_EQ(niov->dma_addr, 0x1234000);
	CHECK_EQ(page->pp_ref_count, 7);
	CHECK_EQ(niov->pp_ref_count, 7);
	CHECK(__netmem_get_pp(page_ref) == f.device_pool);
	CHECK(__netmem_to_nmdesc(page_ref) == &page->desc);
	CHECK(netmem_to_nmdesc(niov_ref) == &niov->desc);
	fixture_down();
}

static void counts_and_flags_of_a_net_iov_are_constant(void)
{
	fixture_up();
	page->_refcount = 3;
	niov->pp_ref_count = 3;
	CHECK_EQ(netmem_ref_count(page_ref), 3);
	CHECK_EQ(netmem_ref_count(niov_ref), 1);

	page->flags = PAGE_FLAG_PFMEMALLOC | 5UL << PAGE_NID_SHIFT;
	niov->_flags = ~0UL; /* whichever bit is looked at: it is not to be */
	CHECK(netmem_is_pfmemalloc(page_ref));
	CHECK(!netmem_is_pfmemalloc(niov_ref));
	CHECK(netmem_is_pref_nid(page_ref, 5));
	CHECK(!netmem_is_pref_nid(page_ref, 4));
	CHECK(netmem_is_pref_nid(niov_ref, 5));
	CHECK(netmem_is_pref_nid(niov_ref, 4));

	CHECK(netmem_equal(netmem_compound_head(page_ref), page_ref));
	CHECK(netmem_equal(netmem_compound_head(niov_ref), niov_ref));
	fixture_down();
}

static void a_net_iov_knows_its_place(void)
{
	fixture_up();
	for (uint32_t i = 0; i < 4; i++) {
		struct net_iov *n = device_provider_niov(f.device, i);

		CHECK_EQ(net_iov_index(n), i);
		CHECK(net_iov_owner(n) == &f.device->area);
		CHECK_EQ(net_iov_virtual_addr(n), FIXTURE_REGION_BASE + i * 4096);
		CHECK_EQ(n->dma_addr, FIXTURE_DMA + i * 8192);
		CHECK_EQ(page_index(host_provider_page(f.host, i)), i);
		CHECK_EQ(host_provider_page(f.host, i)->dma_addr, FIXTURE_HOST_DMA + i * 4096);
	}
	CHECK(net_is_devmem_iov(niov));
	niov->type = NET_IOV_IOURING;
	CHECK(!net_is_devmem_iov(niov));
	fixture_down();
}

static void references_go_to_the_memorys_owner(void)
{
	fixture_up();
	page->_refcount = 1;
	get_netmem(page_ref);
	CHECK_EQ(page->_refcount, 2);
	put_netmem(page_ref);
	CHECK_EQ(page->_refcount, 1);

	niov->pp_ref_count = 1;
	CHECK_EQ(f.device->mp.refs, 2); /* its maker and its pool */
	get_netmem(niov_ref);
	CHECK_EQ(f.device->mp.refs, 3);
	CHECK_EQ(niov->pp_ref_count, 1);
	put_netmem(niov_ref);
	CHECK_EQ(f.device->mp.refs, 2);

	niov->type = NET_IOV_IOURING;
	get_netmem(niov_ref);
	put_netmem(niov_ref);
	CHECK_EQ(f.device->mp.refs, 2);
	CHECK_EQ(niov->pp_ref_count, 1);
	fixture_down();
}

static void a_page_put_too_often_warns_and_is_not_freed_twice(void)
{
	netmem_ref netmem;

	fixture_up();
	CHECK_EQ(WARNINGS_OF(put_page(page)), 1);
	CHECK_EQ(f.host->mp.nr_free, 4);
	f.device->mp.refs = 0;
	CHECK_EQ(WARNINGS_OF(put_netmem(niov_ref)), 1);
	CHECK_EQ(f.device->mp.refs, 0);
	f.device->mp.refs = 2;

	/* Shared beyond its pool, it comes home with the last put_page(). */
	netmem = page_pool_alloc_netmem(f.host_pool);
	get_netmem(netmem);
	page_pool_put_netmem(f.host_pool, netmem, true);
	CHECK_EQ(f.host->mp.nr_free, 0); /* the other three rest in the cache */
	CHECK(!netmem_is_pp(netmem));
	put_netmem(netmem);
	CHECK_EQ(f.host->mp.nr_free, 1);
	fixture_down();
}

static void frags_answer_for_their_memory(void)
{
	skb_frag_t of_page, of_niov;

	fixture_up();
	of_page = (skb_frag_t){.netmem = page_ref, .len = 100, .offset = 24};
	of_niov = (skb_frag_t){.netmem = niov_ref, .len = 200, .offset = 48};

	CHECK(!skb_frag_is_net_iov(&of_page));
	CHECK(skb_frag_is_net_iov(&of_niov));
	CHECK(skb_frag_net_iov(&of_page) == NULL);
	CHECK_EQ(WARNINGS_OF(skb_frag_net_iov(&of_page)), 0);
	CHECK(skb_frag_net_iov(&of_niov) == niov);
	CHECK(skb_frag_page(&of_page) == page);
	CHECK(skb_frag_page(&of_niov) == NULL);
	CHECK_EQ(WARNINGS_OF(skb_frag_page(&of_niov)), 0);
	CHECK(netmem_equal(skb_frag_netmem(&of_page), page_ref));
	CHECK(netmem_equal(skb_frag_netmem(&of_niov), niov_ref));
	CHECK(skb_frag_address(&of_page) == f.pages + 2 * NETMEM_PAGE_SIZE + 24);
	CHECK(skb_frag_address(&of_niov) == NULL);
	CHECK_EQ(WARNINGS_OF(skb_frag_address(&of_niov)), 0);
	CHECK(skb_frag_address_safe(&of_page) == skb_frag_address(&of_page));
	CHECK(skb_frag_address_safe(&of_niov) == NULL);
	CHECK_EQ(skb_frag_dma_map(&of_page, 6), FIXTURE_HOST_DMA + 2 * 4096 + 24 + 6);
	CHECK_EQ(skb_frag_dma_map(&of_niov, 6), FIXTURE_DMA + 2 * 8192 + 48 + 6);
	CHECK_EQ(skb_frag_size(&of_niov), 200);
	CHECK_EQ(skb_frag_off(&of_niov), 48);

	page->virtual_address = NULL; /* a page that is not mapped */
	CHECK(skb_frag_address_safe(&of_page) == NULL);
	fixture_down();
}

static void providers_refuse_what_they_cannot_describe(void)
{
	uint8_t *mem = fixture_block(device_provider_size(1) + host_provider_size(1));

	CHECK_EQ(device_provider_init((void *)mem, 0, 0, 0, 8192), -EINVAL);
	CHECK_EQ(device_provider_init((void *)mem, 1, 4095, 0, 8192), -EINVAL);
	CHECK_EQ(host_provider_init((void *)mem, 0, (uint8_t *)4096, 0, 4096, 0), -EINVAL);
	CHECK_EQ(host_provider_init((void *)mem, 1, NULL, 0, 4096, 0), -EINVAL);
	CHECK_EQ(host_provider_init((void *)mem, 1, (uint8_t *)4097, 0, 4096, 0), -EINVAL);
	free(mem);
}

static uint64_t key_users(void)
{
	struct netmem_info info;

	netmem_info(&info);
	return info.key;
}

/* In the static form: else there is no key, and it never has users. */
#define IF_STATIC(value) (NETMEM_CHECK == NETMEM_CHECK_STATIC ? (value) : 0u)

static void whoever_holds_a_net_iov_holds_the_key(void)
{
	netmem_ref netmem;

	CHECK_EQ(key_users(), 0);
	fixture_up();
	CHECK_EQ(key_users(), IF_STATIC(1)); /* a provider with users is one, however many */
	netmem = page_pool_alloc_netmem(f.device_pool);
	get_netmem(netmem);
	page_pool_put_netmem(f.device_pool, netmem, true);
	CHECK_EQ(page_pool_destroy(f.device_pool), 0);
	CHECK_EQ(key_users(), IF_STATIC(1));
	CHECK(netmem_is_net_iov(netmem));
	put_netmem(netmem);
	CHECK_EQ(key_users(), 0);
	fixture_down();
	CHECK_EQ(key_users(), 0);
}

static void who_leaves_with_all_it_has_leaves_the_key_too(void)
{
	fixture_up();
	get_netmem(page_pool_alloc_netmem(f.device_pool));
	device_provider_abandon(f.device);
	CHECK_EQ(key_users(), 0);
	device_provider_abandon(f.device);
	CHECK_EQ(key_users(), 0);
	fixture_down();
}

#if NETMEM_CHECK == NETMEM_CHECK_STATIC
/* It would pass for a page. */
static void a_net_iov_of_a_provider_without_users_is_none(void)
{
	fixture_up();
	CHECK_EQ(page_pool_destroy(f.device_pool), 0);
	CHECK_EQ(WARNINGS_OF(net_iov_to_netmem(niov)), 1);
	CHECK(netmem_is_none(net_iov_to_netmem(niov)));
	CHECK(netmem_to_page(net_iov_to_netmem(niov)) == NULL);
	CHECK_EQ(netmem_key_raise(), 0);
	CHECK(netmem_is_net_iov(net_iov_to_netmem(niov)));
	CHECK_EQ(WARNINGS_OF(netmem_to_page(net_iov_to_netmem(niov))), 1);
	CHECK(netmem_to_page(net_iov_to_netmem(niov)) == NULL);
	CHECK_EQ(netmem_key_lower(), 0);
	CHECK_EQ(netmem_key_lower(), -EINVAL);
	fixture_down();
}
#endif

CHECK_MAIN(CHECK_TEST(no_memory_is_all_zeroes), CHECK_TEST(a_reference_tells_its_kind),
	   CHECK_TEST(the_right_kind_converts_without_a_warning),
	   CHECK_TEST(a_net_iov_has_no_page_and_says_so_once), CHECK_TEST(a_page_is_no_net_iov),
	   CHECK_TEST(only_a_page_has_an_address), CHECK_TEST(an_address_leads_back_to_its_page),
	   CHECK_TEST(common_fields_are_reached_through_either_kind),
	   CHECK_TEST(counts_and_flags_of_a_net_iov_are_constant),
	   CHECK_TEST(a_net_iov_knows_its_place), CHECK_TEST(references_go_to_the_memorys_owner),
	   CHECK_TEST(a_page_put_too_often_warns_and_is_not_freed_twice),
	   CHECK_TEST(frags_answer_for_their_memory),
#if NETMEM_CHECK == NETMEM_CHECK_STATIC
	   CHECK_TEST(a_net_iov_of_a_provider_without_users_is_none),
#endif
	   CHECK_TEST(whoever_holds_a_net_iov_holds_the_key),
	   CHECK_TEST(who_leaves_with_all_it_has_leaves_the_key_too),
	   CHECK_TEST(providers_refuse_what_they_cannot_describe))
