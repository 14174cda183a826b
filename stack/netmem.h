/* SPDX-License-Identifier: Apache-2.0 */
/*
 * netmem.h - memory that network data lies in: a host page, or a net_iov.
 *
 * A page has an address that this process may read. A net_iov stands for 4096
 * bytes of a device region that it may not: there is a descriptor, an offset
 * and a UMEM address, and nothing to dereference. `netmem_ref` is one word
 * for either, a descriptor's address with bit 0 telling which:
 *
 *      63                                   1 0
 *     +--------------------------------------+-+
 *     | address of a struct page             |0|   host page
 *     | address of a struct net_iov          |1|   device buffer
 *     +--------------------------------------+-+
 *     all zero: no memory
 *
 * The kernel has sparse see to it that a netmem_ref is neither a number nor a
 * pointer. Here it is a struct, so that the compiler does: what goes in and out
 * passes through the accessors below, and those know what to say to the wrong
 * kind. tests/c/compile_fail holds what must not compile.
 *
 * Names and behaviour are those of include/net/netmem.h of Linux 6.18; frags,
 * which are pieces of netmem, are in skb_frag.h. Left out for want of a counterpart
 * here: the DMA index in pp_magic and netmem_dma_unmap_addr_set(), since nothing
 * is ever mapped or unmapped for DMA; dma_addr holds the UMEM address instead.
 *
 * Counters are plain words, not atomics: one thread owns a stack and its memory.
 */
#ifndef DEVMEMTCP_NETMEM_H
#define DEVMEMTCP_NETMEM_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "static_key.h"

struct page_pool;
struct host_provider;
struct net_iov_area;

/*
 * The forms of the check "page or net_iov?", of which a build has one:
 *
 *   OFF     NET_DEVMEM=n: there are no net_iovs, so all that takes one for a page
 *           apart is a cast. Nothing makes one: net_iov_to_netmem() does not exist,
 *           and device_provider_init() says EOPNOTSUPP.
 *   PLAIN   a bit test and a branch
 *   STATIC  the same behind a static key, which is up while any device memory has a
 *           user, as page_pool_mem_providers: see device_provider.c
 */
#define NETMEM_CHECK_OFF 0
#define NETMEM_CHECK_PLAIN 1
#define NETMEM_CHECK_STATIC 2

#ifndef NETMEM_CHECK
#define NETMEM_CHECK NETMEM_CHECK_PLAIN
#endif

#define NETMEM_PAGE_SHIFT 12
#define NETMEM_PAGE_SIZE (1UL << NETMEM_PAGE_SHIFT)

#define NUMA_NO_NODE (-1)

/* ---- warnings ---- */

/*
 * Where the kernel logs, this library counts: it prints nothing (it may run
 * inside anybody's process, whose stderr is not ours), so the agent and the
 * tests read the last warning here. `caller` stands in for the stack trace.
 */
struct netmem_warning {
	uint64_t count; /* sites that warned: each counts once, as WARN_ON_ONCE logs once */
	uint64_t hits; /* times that any of them was passed with its condition true */
	const char *file; /* the last site that counted; NULL when none has */
	unsigned int line;
	const void *caller; /* return address in the function that hit it */
};

extern struct netmem_warning netmem_warning;

/* Count one hit; `warned` is the site's own memory of having counted already. */
void netmem_warn(bool *warned, const char *file, unsigned int line);

#define NETMEM_WARN_ON_ONCE(condition)                                                             \
	({                                                                                         \
		static bool warned_;                                                               \
		bool condition_ = !!(condition);                                                   \
		if (__builtin_expect(condition_, 0))                                               \
			netmem_warn(&warned_, __FILE__, __LINE__);                                 \
		condition_;                                                                        \
	})

/* As CONFIG_DEBUG_NET: in release builds the condition is not even evaluated. */
#ifdef NDEBUG
#define NETMEM_DEBUG_WARN_ON_ONCE(condition) ((void)sizeof(condition))
#else
#define NETMEM_DEBUG_WARN_ON_ONCE(condition) ((void)NETMEM_WARN_ON_ONCE(condition))
#endif

/* ---- the two descriptors ---- */

/*
 * What page_pool needs of either kind, at the same offsets in both, so that it
 * can be reached by clearing bit 0 without asking which kind it is.
 */
#define NETMEM_DESC_FIELDS                                                                         \
	unsigned long _flags;                                                                      \
	unsigned long pp_magic; /* PP_SIGNATURE while a pool owns it, else 0 */                    \
	struct page_pool *pp; /* that pool, else NULL */                                           \
	unsigned long _pp_mapping_pad;                                                             \
	unsigned long dma_addr; /* UMEM address of byte 0 */                                       \
	long pp_ref_count /* all references; 1 at rest */

struct netmem_desc {
	NETMEM_DESC_FIELDS;
};

/* Device memory of 4096 bytes: entry i of its area, bytes [4096 i, 4096 (i + 1)) of it. */
enum net_iov_type {
	NET_IOV_DMABUF, /* a region bound to the queue: ours are all of this type */
	NET_IOV_IOURING,
	NET_IOV_TYPE_MAX = ULONG_MAX, /* makes the enum a word wide, as the kernel's is */
};

struct net_iov {
	union {
		struct netmem_desc desc;
		struct {
			NETMEM_DESC_FIELDS;
		};
	};
	struct net_iov_area *owner;
	enum net_iov_type type;
};

struct net_iov_area {
	struct net_iov *niovs;
	size_t num_niovs;
	unsigned long base_virtual; /* offset of niovs[0] in the region, bytes */
};

/* Bits of _flags. In a page the upper half of the word is the NUMA node. */
#define PAGE_FLAG_PFMEMALLOC 0x1UL /* from the emergency reserves: must not be recycled */
#define NETMEM_FLAG_RESTING 0x2UL /* in cache or ring: page_pool.c's, debug builds only */
#define PAGE_NID_SHIFT 16

/* Descriptor of one 4096-byte host page. */
struct page {
	union {
		struct netmem_desc desc;
		struct {
			unsigned long flags; /* PAGE_FLAG_*, node << PAGE_NID_SHIFT */
			unsigned long pp_magic;
			struct page_pool *pp;
			struct host_provider *mapping; /* which provider it returns to */
			unsigned long dma_addr;
			long pp_ref_count;
		};
	};
	void *virtual_address;
	long _refcount; /* get_page/put_page; 1 while in a pool's care, 0 in its provider's */
};

#define NET_IOV_ASSERT_OFFSET(desc_field, iov_field)                                               \
	_Static_assert(offsetof(struct netmem_desc, desc_field) ==                                 \
			       offsetof(struct net_iov, iov_field),                                \
		       #desc_field " must be where struct net_iov has it")
#define PAGE_ASSERT_OFFSET(desc_field, page_field)                                                 \
	_Static_assert(offsetof(struct netmem_desc, desc_field) ==                                 \
			       offsetof(struct page, page_field),                                  \
		       #desc_field " must be where struct page has it")

NET_IOV_ASSERT_OFFSET(_flags, _flags);
NET_IOV_ASSERT_OFFSET(pp_magic, pp_magic);
NET_IOV_ASSERT_OFFSET(pp, pp);
NET_IOV_ASSERT_OFFSET(_pp_mapping_pad, _pp_mapping_pad);
NET_IOV_ASSERT_OFFSET(dma_addr, dma_addr);
NET_IOV_ASSERT_OFFSET(pp_ref_count, pp_ref_count);
PAGE_ASSERT_OFFSET(_flags, flags);
PAGE_ASSERT_OFFSET(pp_magic, pp_magic);
PAGE_ASSERT_OFFSET(pp, pp);
PAGE_ASSERT_OFFSET(_pp_mapping_pad, mapping);
PAGE_ASSERT_OFFSET(dma_addr, dma_addr);
PAGE_ASSERT_OFFSET(pp_ref_count, pp_ref_count);
#undef NET_IOV_ASSERT_OFFSET
#undef PAGE_ASSERT_OFFSET

#if __SIZEOF_POINTER__ == 8
/* The kernel's own numbers (BTF, x86-64): offsets a debugger's reader may know. */
_Static_assert(offsetof(struct net_iov, pp_magic) == 8, "net_iov layout");
_Static_assert(offsetof(struct net_iov, pp) == 16, "net_iov layout");
_Static_assert(offsetof(struct net_iov, dma_addr) == 32, "net_iov layout");
_Static_assert(offsetof(struct net_iov, pp_ref_count) == 40, "net_iov layout");
_Static_assert(offsetof(struct net_iov, owner) == 48, "net_iov layout");
_Static_assert(offsetof(struct net_iov, type) == 56, "net_iov layout");
_Static_assert(sizeof(struct net_iov) == 64, "net_iov: one cache line");
_Static_assert(sizeof(struct page) == 64, "page: one cache line");
_Static_assert(sizeof(struct net_iov_area) == 24, "net_iov_area layout");
#endif

/* net_iov */

static inline bool net_is_devmem_iov(const struct net_iov *niov)
{
	return niov->type == NET_IOV_DMABUF;
}

static inline struct net_iov_area *net_iov_owner(const struct net_iov *niov)
{
	return niov->owner;
}

static inline unsigned int net_iov_idx(const struct net_iov *niov)
{
	return niov - net_iov_owner(niov)->niovs;
}

/* Offset of its first byte in the region: what an application knows it by. */
static inline unsigned long net_iov_virtual_addr(const struct net_iov *niov)
{
	return net_iov_owner(niov)->base_virtual +
	       ((unsigned long)net_iov_idx(niov) << NETMEM_PAGE_SHIFT);
}

/* page */

static inline void *page_address(const struct page *page)
{
	return page->virtual_address;
}

static inline int page_to_nid(const struct page *page)
{
	return (int)(page->flags >> PAGE_NID_SHIFT);
}

static inline bool page_is_pfmemalloc(const struct page *page)
{
	return page->flags & PAGE_FLAG_PFMEMALLOC;
}

static inline void get_page(struct page *page)
{
	page->_refcount++;
}

/* The last reference gives the page back to its provider (host_provider.c). */
void put_page(struct page *page);

/* ---- netmem ---- */

typedef struct {
	unsigned long bits; /* only this file looks at it */
} netmem_ref;

#define NET_IOV 1UL

#define NETMEM_NONE ((netmem_ref){0})

static inline bool netmem_is_none(netmem_ref netmem)
{
	return netmem.bits == 0;
}

/* In place of ==, which a struct has not. */
static inline bool netmem_equal(netmem_ref a, netmem_ref b)
{
	return a.bits == b.bits;
}

#if NETMEM_CHECK == NETMEM_CHECK_STATIC
DECLARE_STATIC_KEY_FALSE(netmem_has_net_iovs);
#endif

/*
 * THE check: page or net_iov? Every accessor that must know asks here, and
 * nothing else in the tree tests the bit, so that a build may replace this one
 * function to measure what the check costs.
 */
static inline bool netmem_is_net_iov(netmem_ref netmem)
{
#if NETMEM_CHECK == NETMEM_CHECK_OFF
	return false;
#else
#if NETMEM_CHECK == NETMEM_CHECK_STATIC
	/* Then nobody holds one: net_iov_to_netmem() makes none, and who has one is a user of
	 * its provider, which keeps the key up. Debug builds look. */
	if (!static_branch_unlikely(netmem_has_net_iovs))
#ifdef NDEBUG
		return false;
#else
		return NETMEM_WARN_ON_ONCE(netmem.bits & NET_IOV);
#endif
#endif
	return netmem.bits & NET_IOV;
#endif
}

/* Unsafe: of a net_iov it makes a pointer one byte into its descriptor. Check first. */
static inline struct page *__netmem_to_page(netmem_ref netmem)
{
	return (struct page *)netmem.bits;
}

/* A caller who asks for the page of a net_iov has a bug: warns once, returns NULL. */
static inline struct page *netmem_to_page(netmem_ref netmem)
{
	if (NETMEM_WARN_ON_ONCE(netmem_is_net_iov(netmem)))
		return NULL;
	return __netmem_to_page(netmem);
}

/* Unsafe: for net_iovs only. */
static inline struct net_iov *__netmem_to_net_iov(netmem_ref netmem)
{
	return (struct net_iov *)(netmem.bits - NET_IOV);
}

/* NULL for a page; debug builds count a warning too. */
static inline struct net_iov *netmem_to_net_iov(netmem_ref netmem)
{
	if (netmem_is_net_iov(netmem))
		return __netmem_to_net_iov(netmem);
	NETMEM_DEBUG_WARN_ON_ONCE(true);
	return NULL;
}

#if NETMEM_CHECK != NETMEM_CHECK_OFF
/*
 * The one place that makes a net_iov of its descriptor. Whoever comes here while its
 * provider has no user gets none: under a lowered key it would pass for a page.
 */
static inline netmem_ref net_iov_to_netmem(struct net_iov *niov)
{
#if NETMEM_CHECK == NETMEM_CHECK_STATIC
	if (NETMEM_WARN_ON_ONCE(!static_branch_unlikely(netmem_has_net_iovs)))
		return NETMEM_NONE;
#endif
	return (netmem_ref){(unsigned long)niov | NET_IOV};
}
#endif

static inline netmem_ref page_to_netmem(struct page *page)
{
	return (netmem_ref){(unsigned long)page};
}

/* The fields common to both kinds. The unsafe one holds for pages only. */
static inline struct netmem_desc *__netmem_to_nmdesc(netmem_ref netmem)
{
	return (struct netmem_desc *)netmem.bits;
}

/* To clear a bit is cheaper than to ask whether it is set, be it of a static key. */
static inline struct netmem_desc *netmem_to_nmdesc(netmem_ref netmem)
{
#if NETMEM_CHECK == NETMEM_CHECK_OFF
	return __netmem_to_nmdesc(netmem);
#else
	return (struct netmem_desc *)(netmem.bits & ~NET_IOV);
#endif
}

/* Unsafe: for pages only. */
static inline struct page_pool *__netmem_get_pp(netmem_ref netmem)
{
	return __netmem_to_nmdesc(netmem)->pp;
}

static inline struct page_pool *netmem_get_pp(netmem_ref netmem)
{
	return netmem_to_nmdesc(netmem)->pp;
}

static inline void netmem_set_pp(netmem_ref netmem, struct page_pool *pool)
{
	netmem_to_nmdesc(netmem)->pp = pool;
}

static inline long *netmem_get_pp_ref_count_ref(netmem_ref netmem)
{
	return &netmem_to_nmdesc(netmem)->pp_ref_count;
}

static inline unsigned long netmem_get_dma_addr(netmem_ref netmem)
{
	return netmem_to_nmdesc(netmem)->dma_addr;
}

static inline void netmem_set_dma_addr(netmem_ref netmem, unsigned long dma_addr)
{
	netmem_to_nmdesc(netmem)->dma_addr = dma_addr;
}

static inline unsigned long netmem_get_pp_magic(netmem_ref netmem)
{
	return netmem_to_nmdesc(netmem)->pp_magic;
}

/* The kernel's, without its poison delta: a value no other use of the word takes. */
#define PP_SIGNATURE 0x40UL

static inline bool netmem_is_pp(netmem_ref netmem)
{
	return netmem_get_pp_magic(netmem) == PP_SIGNATURE;
}

/* Device memory counts one: its references are pp_ref_count's business. */
static inline long netmem_ref_count(netmem_ref netmem)
{
	if (netmem_is_net_iov(netmem))
		return 1;
	return __netmem_to_page(netmem)->_refcount;
}

/* Frame number for traces. Ours is virtual; a net_iov has none. */
static inline unsigned long netmem_pfn_trace(netmem_ref netmem)
{
	if (netmem_is_net_iov(netmem))
		return 0;
	return (unsigned long)page_address(__netmem_to_page(netmem)) >> NETMEM_PAGE_SHIFT;
}

/* Device memory sits where it sits: any node is as good. */
static inline bool netmem_is_pref_nid(netmem_ref netmem, int pref_nid)
{
	if (netmem_is_net_iov(netmem))
		return true;
	return page_to_nid(__netmem_to_page(netmem)) == pref_nid;
}

/* Every page here is of order 0 and thereby its own head; a net_iov always is. */
static inline netmem_ref netmem_compound_head(netmem_ref netmem)
{
	return netmem;
}

static inline bool netmem_is_pfmemalloc(netmem_ref netmem)
{
	if (netmem_is_net_iov(netmem))
		return false;
	return page_is_pfmemalloc(__netmem_to_page(netmem));
}

/* Unsafe: for pages only. */
static inline void *__netmem_address(netmem_ref netmem)
{
	return page_address(__netmem_to_page(netmem));
}

/* NULL for a net_iov: there is no address to give. */
static inline void *netmem_address(netmem_ref netmem)
{
	if (netmem_is_net_iov(netmem))
		return NULL;
	return __netmem_address(netmem);
}

/*
 * A reference of the memory's owner, not of the pool: for a page its own count;
 * for device memory that of the whole region, since a net_iov has none (it is
 * pp_ref_count that says who uses it); for NET_IOV_IOURING nothing at all.
 */
void get_netmem(netmem_ref netmem);
void put_netmem(netmem_ref netmem);

#endif
