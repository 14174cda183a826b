/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dispatcher.c - share an interface with other programs through libxdp's dispatcher.
 *
 * The dispatcher is an XDP program with stubs that BPF_PROG_TYPE_EXT programs
 * replace (freplace). libxdp loads the program itself, as that type, so it must
 * come from an object that is not loaded yet; the caller gives it the maps of
 * the one that is (bpf_map__reuse_fd()).
 *
 * Ownership: the xdp_program holds no reference on the object; close it first.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <unistd.h>

#include "pyxdp.h"

/* Load the program `freplace` of an object that replaces function `stub` of program `host`. */
static int freplace_load(struct bpf_object *ext, int host_fd)
{
	struct bpf_program *prog = bpf_object__find_program_by_name(ext, "replacement");
	int err, link;

	if (!prog)
		return -ENOENT;
	bpf_program__set_autoload(bpf_object__find_program_by_name(ext, "host"), false);
	bpf_program__set_autoload(prog, true);
	err = bpf_program__set_attach_target(prog, host_fd, "stub");
	if (err)
		return err;
	err = bpf_object__load(ext);
	if (err)
		return err;
	link = bpf_raw_tracepoint_open(NULL, bpf_program__fd(prog));
	if (link < 0)
		return link;
	close(link);
	return 0;
}

int pyxdp_freplace_probe(const void *elf, size_t size)
{
	struct bpf_object *host = NULL, *ext = NULL;
	struct bpf_program *prog;
	int err;

	err = pyxdp_object_open(&host, elf, size, "freplace");
	if (err)
		goto out;
	prog = bpf_object__find_program_by_name(host, "host");
	err = bpf_object__load(host);
	if (err)
		goto out;
	err = pyxdp_object_open(&ext, elf, size, "freplace");
	if (err)
		goto out;
	err = freplace_load(ext, bpf_program__fd(prog));
out:
	bpf_object__close(ext);
	bpf_object__close(host);
	return err;
}

static enum xdp_attach_mode dispatcher_mode(bool generic)
{
	return generic ? XDP_MODE_SKB : XDP_MODE_NATIVE;
}

int pyxdp_dispatcher_attach(struct xdp_program **prog, struct bpf_object *obj, const char *name,
			    int ifindex, bool generic)
{
	DECLARE_LIBXDP_OPTS(xdp_program_opts, opts, .obj = obj, .prog_name = name);
	struct bpf_program *bpf = bpf_object__find_program_by_name(obj, name);
	int err;

	*prog = xdp_program__create(&opts);
	err = libxdp_get_error(*prog);
	if (err)
		return err;
	/* The dispatcher takes jumbo packets only if all its programs say that they do. */
	err = xdp_program__set_xdp_frags_support(*prog, pyxdp_program_has_frags(bpf));
	if (!err)
		err = xdp_program__attach(*prog, ifindex, dispatcher_mode(generic), 0);
	if (err)
		xdp_program__close(*prog);
	return err;
}

int pyxdp_dispatcher_detach(struct xdp_program *prog, int ifindex, bool generic)
{
	return xdp_program__detach(prog, ifindex, dispatcher_mode(generic), 0);
}
