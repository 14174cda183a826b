/* SPDX-License-Identifier: Apache-2.0 */
/*
 * capabilities.c - giving up all privilege but what is named, with no way back.
 *
 * Call order: confine_user(), if the agent is to be somebody else, then confine_capabilities().
 * The bounding set needs CAP_SETPCAP to be changed; without it no_new_privs is what keeps a
 * program that root executes from having everything again.
 */
#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "api.h"

#define WORD_BITS 32

int confine_user(uint32_t uid, uint32_t gid)
{
	/* Without it the kernel clears the permitted set when the last uid 0 goes. */
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0))
		return -errno;
	if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
		return -errno;
	return 0;
}

static int shrink_bounding_set(uint64_t keep)
{
	for (unsigned int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) && errno != EPERM)
			return -errno;
	return 0;
}

int confine_capabilities(uint64_t keep)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {0};
	const struct rlimit none = {0, 0};
	int err = shrink_bounding_set(keep);

	if (err)
		return err;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		return -errno;
	for (unsigned int i = 0; i < _LINUX_CAPABILITY_U32S_3; i++) {
		sets[i].permitted = (uint32_t)(keep >> (WORD_BITS * i));
		sets[i].effective = sets[i].permitted;
	}
	if (syscall(SYS_capset, &header, sets))
		return -errno;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -errno;
	/* Nor may another process of this user look inside, or a core dump show it. */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) || setrlimit(RLIMIT_CORE, &none))
		return -errno;
	return 0;
}
