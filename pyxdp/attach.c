/* SPDX-License-Identifier: Apache-2.0 */
/*
 * attach.c - put a program on an interface, and ask what is there.
 *
 * Two ways: a bpf_link, which goes when its last file descriptor does, and netlink,
 * which stays until somebody removes it. Interfaces are looked up in the network
 * namespace of the calling thread.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <string.h>
#include <unistd.h>

#include "pyxdp.h"

int pyxdp_link_create(int prog_fd, int ifindex, uint32_t mode_flags)
{
	LIBBPF_OPTS(bpf_link_create_opts, opts, .flags = mode_flags);

	return bpf_link_create(prog_fd, ifindex, BPF_XDP, &opts);
}

int pyxdp_netlink_attach(int ifindex, int prog_fd, uint32_t flags)
{
	return bpf_xdp_attach(ifindex, prog_fd, flags | XDP_FLAGS_UPDATE_IF_NOEXIST, NULL);
}

int pyxdp_netlink_detach(int ifindex, uint32_t mode_flags, int old_prog_fd)
{
	LIBBPF_OPTS(bpf_xdp_attach_opts, opts, .old_prog_fd = old_prog_fd);

	return bpf_xdp_detach(ifindex, mode_flags, &opts);
}

int pyxdp_query(int ifindex, struct pyxdp_attached *attached)
{
	LIBBPF_OPTS(bpf_xdp_query_opts, opts);
	int err = bpf_xdp_query(ifindex, 0, &opts);

	if (err)
		return err;
	attached->native_id = opts.drv_prog_id;
	attached->generic_id = opts.skb_prog_id;
	attached->offload_id = opts.hw_prog_id;
	return 0;
}

int pyxdp_program_name(uint32_t id, char *name, size_t size)
{
	struct bpf_prog_info info = {};
	uint32_t len = sizeof(info);
	int fd = bpf_prog_get_fd_by_id(id);
	int err;

	if (fd < 0)
		return fd;
	err = bpf_obj_get_info_by_fd(fd, &info, &len);
	close(fd);
	if (err)
		return err;
	strncpy(name, info.name, size - 1);
	name[size - 1] = '\0';
	return 0;
}

static int link_info(uint32_t id, struct bpf_link_info *info)
{
	uint32_t len = sizeof(*info);
	int fd = bpf_link_get_fd_by_id(id);
	int err;

	if (fd < 0)
		return fd;
	memset(info, 0, sizeof(*info));
	err = bpf_obj_get_info_by_fd(fd, info, &len);
	close(fd);
	return err;
}

/* The link that holds a program on an interface. A link that ends meanwhile is none. */
int pyxdp_link_of(uint32_t prog_id, int ifindex, uint32_t *link_id)
{
	struct bpf_link_info info;
	uint32_t id = 0;
	int err;

	while (!(err = bpf_link_get_next_id(id, &id))) {
		if (link_info(id, &info) || info.type != BPF_LINK_TYPE_XDP)
			continue;
		if (info.prog_id == prog_id && info.xdp.ifindex == (uint32_t)ifindex) {
			*link_id = id;
			return 0;
		}
	}
	return err;
}
