/* SPDX-License-Identifier: Apache-2.0 */
/* A build without device memory: nothing makes a net_iov (compile_fail.c: it does not compile),
 * and a page is had by a cast. */
#include <errno.h>
#include <stdlib.h>
#include "check.h"
#include "memory_provider.h"
#include "page_pool.h"

void nobody_defines_this(void);

static void there_is_no_provider_of_device_memory(void)
{
	struct device_provider *device = aligned_alloc(64, MEMORY_ALIGN(device_provider_size(4)));

	CHECK_EQ(device_provider_init(device, 4, 0, 0, NETMEM_PAGE_SIZE), -EOPNOTSUPP);
	free(device);
}

static void every_netmem_is_a_page(void)
{
	struct page page = {.virtual_address = &page, ._refcount = 1};
	netmem_ref netmem = page_to_netmem(&page);

	CHECK(!netmem_is_net_iov(netmem));
	CHECK(netmem_to_page(netmem) == &page);
	CHECK(netmem_to_nmdesc(netmem) == &page.desc);
	CHECK(netmem_address(netmem) == &page);
#ifdef __OPTIMIZE__
	/* What would handle a net_iov is not even in the build, or this would not link. */
	if (netmem_is_net_iov(netmem))
		nobody_defines_this();
#endif
}

static void pages_go_round(void)
{
	struct host_provider *host = aligned_alloc(64, MEMORY_ALIGN(host_provider_size(4)));
	uint8_t *pages = aligned_alloc(NETMEM_PAGE_SIZE, 4 * NETMEM_PAGE_SIZE);
	struct page_pool_params params = {.pool_size = 4, .nid = NUMA_NO_NODE};
	struct page_pool *pool;
	netmem_ref netmem;

	CHECK_EQ(host_provider_init(host, 4, pages, 0, NETMEM_PAGE_SIZE, 0), 0);
	params.mp = &host->mp;
	pool = aligned_alloc(64, page_pool_size(&params));
	CHECK_EQ(page_pool_init(pool, &params), 0);
	netmem = page_pool_alloc_netmem(pool);
	CHECK(page_address(netmem_to_page(netmem)) != NULL);
	page_pool_put_netmem(pool, netmem, true);
	CHECK(netmem_equal(page_pool_alloc_netmem(pool), netmem));
	page_pool_put_netmem(pool, netmem, false);
	CHECK_EQ(page_pool_destroy(pool), 0);
	free(pool);
	free(pages);
	free(host);
}

int main(void)
{
	static const struct check_test tests[] = {
		CHECK_TEST(there_is_no_provider_of_device_memory),
		CHECK_TEST(every_netmem_is_a_page),
		CHECK_TEST(pages_go_round),
	};

	return check_main(tests, sizeof(tests) / sizeof(tests[0]));
}
