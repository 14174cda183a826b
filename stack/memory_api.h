/* SPDX-License-Identifier: Apache-2.0 */
/*
 * memory_api.h - the memory of a stack by itself, for tests and for looking at it
 * from Python: both providers, a page_pool each, and the frag tracker.
 *
 * Plain declarations, read by cffi. Buffers go by number, as in frag_tracker.h:
 * net_iovs 0 ... nr_niovs - 1, then host pages. `kind` is an enum frag_kind,
 * `state` an enum frag_state of api.h. The calls are as trusting as those they
 * wrap: release builds do not check that a put or a move is legal.
 */

struct memory;

/*
 * Device pages and host pages, and pools with rings of `ring` entries (0: the
 * default). `region_base` is the offset of net_iov 0 in its region. NULL when the
 * sizes are not valid or there is no memory.
 */
struct memory *memory_new(uint32_t nr_niovs, uint32_t nr_pages, uint32_t ring,
			  uint64_t region_base);
void memory_free(struct memory *m);

/* ---- page_pool ---- */

/* Number of a buffer of this kind, with one reference; or -ENOMEM when there is none. */
int memory_alloc(struct memory *m, uint32_t kind);
void memory_put(struct memory *m, uint32_t buffer, bool direct);
void memory_ref(struct memory *m, uint32_t buffer);
void memory_fragment(struct memory *m, uint32_t buffer, int32_t nr);

uint32_t memory_available(const struct memory *m, uint32_t kind);
int32_t memory_inflight(const struct memory *m, uint32_t kind);
/* page_pool_destroy(): how many are still in use. */
int32_t memory_destroy_pool(struct memory *m, uint32_t kind);

struct memory_pool_stats {
	uint64_t fast; /* as struct page_pool_alloc_stats */
	uint64_t slow;
	uint64_t empty;
	uint64_t refill;
	uint64_t waive;
	uint64_t cached; /* as struct page_pool_recycle_stats */
	uint64_t cache_full;
	uint64_t ring;
	uint64_t ring_full;
	uint64_t released_refcnt;
	uint32_t in_cache; /* where they are now */
	uint32_t in_ring;
	uint32_t in_provider;
};

void memory_pool_stats(const struct memory *m, uint32_t kind, struct memory_pool_stats *out);

/* What page_pool_init() says to these parameters, for device memory. */
int memory_try_pool(struct memory *m, uint32_t flags, uint32_t order, uint32_t pool_size,
		    uint32_t dma_dir, uint32_t max_len);

/* ---- netmem ---- */

/* What the accessors of netmem.h say of a buffer. */
struct memory_netmem {
	bool is_net_iov;
	bool has_page; /* skb_frag_page() */
	bool has_address; /* netmem_address() */
	bool is_pp;
	bool is_pfmemalloc;
	int64_t ref_count; /* netmem_ref_count() */
	int64_t pp_ref_count;
	uint64_t dma_addr;
};

void memory_netmem(const struct memory *m, uint32_t buffer, struct memory_netmem *out);
/* Does netmem_to_page() answer for it? A net_iov's answer is no, and a warning. */
bool memory_to_page(const struct memory *m, uint32_t buffer);
/* netmem_warning: sites that warned, and how often any was hit. Of the process. */
uint64_t memory_warning_count(void);
uint64_t memory_warning_hits(void);

/* ---- frag tracker ---- */

bool memory_may_move(uint32_t kind, uint32_t from, uint32_t to);
void memory_track(struct memory *m, uint32_t buffer, uint32_t to, uint32_t owner);
void memory_move(struct memory *m, uint32_t buffer, uint32_t from, uint32_t to);
void memory_split(struct memory *m, uint32_t buffer, uint32_t state);
uint32_t memory_count(const struct memory *m, uint32_t kind, uint32_t state);
uint32_t memory_parts(const struct memory *m, uint32_t buffer);

struct memory_record { /* as struct frag_record */
	uint32_t kind;
	uint32_t index;
	uint32_t state;
	uint32_t owner;
	uint32_t refs;
	uint64_t offset;
};

int memory_record(const struct memory *m, uint32_t buffer, struct memory_record *out);
int memory_check(const struct memory *m);
