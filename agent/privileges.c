/* SPDX-License-Identifier: Apache-2.0 */
/*
 * privileges.c - what a process that runs the stack alone must not be able to do.
 *
 * Without a mapping and a descriptor of the region it would still be root, and root reads any
 * process's memory and descriptors by /proc/PID or ptrace(2). The kernel allows that between
 * processes of one user only if the reader has every capability of the other
 * (__ptrace_may_access(), cap_ptrace_access_check()): so it gives up those by which memory
 * that is not one's own can be read.
 *
 * This is against mistakes, not against malice: who runs the stack also rules the rings that
 * tell the kernel where payload goes, and the verifier wants CAP_PERFMON for our program,
 * which makes others possible that read the kernel's memory.
 */
#include <errno.h>
#include <linux/capability.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "stack.h"
#include "api.h"

static const int unwanted[] = {
	CAP_SYS_PTRACE, CAP_SYS_RAWIO, /* /dev/mem, /proc/kcore */
	CAP_SYS_MODULE, CAP_CHECKPOINT_RESTORE, /* /proc/PID/map_files */
	CAP_SYS_ADMIN, /* includes the one above */
};

struct capabilities {
	struct __user_cap_header_struct header;
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3];
};

static bool permitted(const struct capabilities *c, int cap)
{
	return c->sets[CAP_TO_INDEX(cap)].permitted & CAP_TO_MASK(cap);
}

static void give_up(struct capabilities *c, int cap)
{
	struct __user_cap_data_struct *set = &c->sets[CAP_TO_INDEX(cap)];

	set->effective &= ~CAP_TO_MASK(cap);
	set->permitted &= ~CAP_TO_MASK(cap);
	set->inheritable &= ~CAP_TO_MASK(cap);
}

int privileges_give_up(void)
{
	struct capabilities c = {.header.version = _LINUX_CAPABILITY_VERSION_3};
	bool bpf;

	if (syscall(SYS_capget, &c.header, c.sets))
		return -errno;
	bpf = permitted(&c, CAP_BPF) && permitted(&c, CAP_PERFMON);
	for (size_t i = 0; i < sizeof(unwanted) / sizeof(unwanted[0]); i++) {
		if (unwanted[i] == CAP_SYS_ADMIN && !bpf)
			continue; /* it stands in for them */
		/* Or a program that root executes would have it again. EPERM: no CAP_SETPCAP, so
		 * not root, and nothing comes back. */
		if (prctl(PR_CAPBSET_DROP, unwanted[i]) && errno != EPERM)
			return -errno;
		give_up(&c, unwanted[i]);
	}
	return syscall(SYS_capset, &c.header, c.sets) ? -errno : 0;
}
