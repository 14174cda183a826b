/* SPDX-License-Identifier: Apache-2.0 */
/*
 * object.c - the calls on BPF objects, programs and maps that need an option struct or an enum.
 *
 * Call order: pyxdp_object_open(), bpf_object__load(), then anything on its programs
 * and maps, bpf_object__close(). Programs and maps belong to their object.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>

#include "pyxdp.h"

/* libbpf has errors of its own, which are no errno: what it says of a file is that it is no good. */
static int as_errno(int err)
{
	return err == EINVAL || err >= __LIBBPF_ERRNO__START ? ENOEXEC : err;
}

int pyxdp_object_open(struct bpf_object **obj, const void *elf, size_t size, const char *name)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = name);

	*obj = bpf_object__open_mem(elf, size, &opts);
	return *obj ? 0 : -as_errno(errno);
}

int pyxdp_program_has_frags(const struct bpf_program *prog)
{
	const char *section = bpf_program__section_name(prog);

	/* libbpf 1.1 turns the section's name into the flag at load time, and does not show it. */
	return (bpf_program__flags(prog) & BPF_F_XDP_HAS_FRAGS) ||
	       !strncmp(section, "xdp.frags", strlen("xdp.frags"));
}

int pyxdp_program_size(int prog_fd, uint32_t *translated, uint32_t *jited)
{
	struct bpf_prog_info info = {};
	uint32_t len = sizeof(info);
	int err = bpf_obj_get_info_by_fd(prog_fd, &info, &len);

	*translated = info.xlated_prog_len;
	*jited = info.jited_prog_len;
	return err;
}

int pyxdp_map_type(const struct bpf_map *map)
{
	return bpf_map__type(map);
}

const char *pyxdp_map_type_name(int type)
{
	return libbpf_bpf_map_type_str(type);
}

int pyxdp_test_run(int prog_fd, struct pyxdp_test_run *run)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = run->data_in,
		    .data_size_in = run->data_size_in, .data_out = run->data_out,
		    .data_size_out = run->data_size_out, .ctx_in = run->ctx_in,
		    .ctx_size_in = run->ctx_size_in, .ctx_out = run->ctx_out,
		    .ctx_size_out = run->ctx_size_out, .repeat = run->repeat, .flags = run->flags,
		    .cpu = run->cpu, .batch_size = run->batch_size);
	int err = bpf_prog_test_run_opts(prog_fd, &opts);

	run->data_size_out = opts.data_size_out;
	run->ctx_size_out = opts.ctx_size_out;
	run->retval = opts.retval;
	run->duration = opts.duration;
	return err;
}
