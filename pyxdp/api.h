/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - every C call that Python makes.
 *
 * Plain declarations only: cffi reads this file as it is, and the C files
 * include it after the library headers, so a signature that drifts (ours, libbpf's
 * or libxdp's) does not compile. Calls named pyxdp_* are ours: they hide the option
 * structs, whose layout differs between library versions. All others are the
 * library's own.
 *
 * Return values, ours: >= 0, or a negative errno.
 */

/* ---- log.c: what libbpf and libxdp would have printed ---- */

void pyxdp_log_install(void);
/* Messages of the calling thread go to `buf` (the last size - 1 bytes of them) until pyxdp_log_end(). */
void pyxdp_log_begin(char *buf, size_t size);
void pyxdp_log_end(void);

/* ---- object.c, and libbpf's own: object, program, map ---- */

struct bpf_object;
struct bpf_program;
struct bpf_map;

int pyxdp_object_open(struct bpf_object **obj, const void *elf, size_t size, const char *name);
int bpf_object__load(struct bpf_object *obj);
void bpf_object__close(struct bpf_object *obj);
struct bpf_program *bpf_object__next_program(const struct bpf_object *obj,
					     struct bpf_program *prog);
struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);

const char *bpf_program__name(const struct bpf_program *prog);
const char *bpf_program__section_name(const struct bpf_program *prog);
bool bpf_program__autoload(const struct bpf_program *prog);
int bpf_program__set_autoload(struct bpf_program *prog, bool autoload);
int bpf_program__fd(const struct bpf_program *prog);
int pyxdp_program_has_frags(const struct bpf_program *prog);
/* Bytes of a loaded program: as verified and rewritten (8 or 16 an instruction), and as machine code. */
int pyxdp_program_size(int prog_fd, uint32_t *translated, uint32_t *jited);

const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__fd(const struct bpf_map *map);
int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);
int bpf_map__set_max_entries(struct bpf_map *map, uint32_t max_entries);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
uint32_t bpf_map__key_size(const struct bpf_map *map);
uint32_t bpf_map__value_size(const struct bpf_map *map);
uint32_t bpf_map__max_entries(const struct bpf_map *map);
int pyxdp_map_type(const struct bpf_map *map);
const char *pyxdp_map_type_name(int type);

int libbpf_num_possible_cpus(void);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value,
			unsigned long long flags); /* __u64 */
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);

struct pyxdp_test_run {
	/* in */
	const void *data_in;
	uint32_t data_size_in;
	void *data_out;
	const void *ctx_in; /* struct xdp_md, or NULL */
	uint32_t ctx_size_in;
	void *ctx_out;
	int repeat;
	uint32_t flags; /* BPF_F_TEST_* */
	uint32_t cpu;
	uint32_t batch_size;
	/* in: room, out: bytes written */
	uint32_t data_size_out;
	uint32_t ctx_size_out;
	/* out */
	uint32_t retval; /* XDP action */
	uint32_t duration; /* ns, mean of one repetition */
};

int pyxdp_test_run(int prog_fd, struct pyxdp_test_run *run);

/* ---- attach.c ---- */

int pyxdp_link_create(int prog_fd, int ifindex, uint32_t mode_flags);
struct bpf_link_update_opts;

int bpf_link_detach(int link_fd);
int bpf_link_update(int link_fd, int new_prog_fd, const struct bpf_link_update_opts *opts);
int pyxdp_netlink_attach(int ifindex, int prog_fd, uint32_t flags);
int pyxdp_netlink_detach(int ifindex, uint32_t mode_flags, int old_prog_fd);

struct pyxdp_attached {
	uint32_t native_id; /* program ids, 0: none */
	uint32_t generic_id;
	uint32_t offload_id;
};

int pyxdp_query(int ifindex, struct pyxdp_attached *attached);
/* Name of the program with this id; `name` has room for BPF_OBJ_NAME_LEN (16) bytes. */
int pyxdp_program_name(uint32_t id, char *name, size_t size);
/* Id of the bpf_link that has this program on this interface. -ENOENT: none has; -EPERM. */
int pyxdp_link_of(uint32_t prog_id, int ifindex, uint32_t *link_id);

/* ---- dispatcher.c: libxdp's multi-program dispatcher ---- */

struct xdp_program;

int pyxdp_freplace_probe(const void *elf, size_t size);
int pyxdp_dispatcher_attach(struct xdp_program **prog, struct bpf_object *obj, const char *name,
			    int ifindex, bool generic);
int pyxdp_dispatcher_detach(struct xdp_program *prog, int ifindex, bool generic);
void xdp_program__close(struct xdp_program *prog);

/* ---- xsk.c: UMEM, AF_XDP socket, rings ---- */

struct xsk_umem;
struct xsk_socket;
struct xsk_ring_prod;
struct xsk_ring_cons;

/* Fill and completion ring of one (interface, queue). */
struct pyxdp_queue_rings;

struct pyxdp_queue_rings *pyxdp_queue_rings_new(void);
void pyxdp_queue_rings_free(struct pyxdp_queue_rings *rings);
struct xsk_ring_prod *pyxdp_fill_ring(struct pyxdp_queue_rings *rings);
struct xsk_ring_cons *pyxdp_comp_ring(struct pyxdp_queue_rings *rings);

struct pyxdp_umem_config {
	uint32_t fill_size; /* descriptors */
	uint32_t comp_size;
	uint32_t frame_size; /* bytes */
	uint32_t headroom;
	bool unaligned;
};

int pyxdp_umem_create(struct xsk_umem **umem, uintptr_t area, uint64_t size,
		      struct pyxdp_queue_rings *rings, const struct pyxdp_umem_config *config);
int xsk_umem__fd(const struct xsk_umem *umem);
int xsk_umem__delete(struct xsk_umem *umem);

/* The receive and the transmit ring of one socket. */
struct pyxdp_socket_rings;

struct pyxdp_socket_rings *pyxdp_socket_rings_new(void);
void pyxdp_socket_rings_free(struct pyxdp_socket_rings *rings);
struct xsk_ring_cons *pyxdp_rx_ring(struct pyxdp_socket_rings *rings);
struct xsk_ring_prod *pyxdp_tx_ring(struct pyxdp_socket_rings *rings);

struct pyxdp_socket_config {
	uint32_t rx_size; /* descriptors, 0: no such ring */
	uint32_t tx_size;
	uint16_t bind_flags;
};

int pyxdp_socket_create(struct xsk_socket **xsk, const char *ifname, uint32_t queue,
			struct xsk_umem *umem, struct pyxdp_socket_rings *rings,
			struct pyxdp_queue_rings *queue_rings,
			const struct pyxdp_socket_config *config);
int xsk_socket__fd(const struct xsk_socket *xsk);
void xsk_socket__delete(struct xsk_socket *xsk);
int pyxdp_socket_kick(int fd);

struct pyxdp_statistics {
	uint64_t rx_dropped;
	uint64_t rx_invalid_descs;
	uint64_t tx_invalid_descs;
	uint64_t rx_ring_full;
	uint64_t rx_fill_ring_empty_descs;
	uint64_t tx_ring_empty_descs;
};

int pyxdp_socket_statistics(int fd, struct pyxdp_statistics *statistics);
/* XDP_OPTIONS_* of a bound socket. */
int pyxdp_socket_options(int fd);

/* Producer rings (fill, tx): reserve -> set -> submit. */
uint32_t pyxdp_prod_size(const struct xsk_ring_prod *ring);
uint32_t pyxdp_prod_free(struct xsk_ring_prod *ring);
/* All of `n` or none: returns n and the first index, or 0. */
uint32_t pyxdp_prod_reserve(struct xsk_ring_prod *ring, uint32_t n, uint32_t *index);
void pyxdp_prod_submit(struct xsk_ring_prod *ring, uint32_t n);
bool pyxdp_prod_needs_wakeup(const struct xsk_ring_prod *ring);
void pyxdp_fill_set(struct xsk_ring_prod *fill, uint32_t index, uint64_t addr);
void pyxdp_tx_set(struct xsk_ring_prod *tx, uint32_t index, uint64_t addr, uint32_t len,
		  uint32_t options);

/* Consumer rings (rx, completion): peek -> get -> release. */
uint32_t pyxdp_cons_size(const struct xsk_ring_cons *ring);
uint32_t pyxdp_cons_peek(struct xsk_ring_cons *ring, uint32_t n, uint32_t *index);
void pyxdp_cons_release(struct xsk_ring_cons *ring, uint32_t n);
uint64_t pyxdp_comp_get(const struct xsk_ring_cons *comp, uint32_t index);

struct pyxdp_desc {
	uint64_t addr; /* UMEM address */
	uint32_t len; /* bytes */
	uint32_t options; /* XDP_PKT_CONTD */
};

void pyxdp_rx_get(const struct xsk_ring_cons *rx, uint32_t index, struct pyxdp_desc *desc);
