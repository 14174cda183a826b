/* SPDX-License-Identifier: Apache-2.0 */
/*
 * seccomp.c - the system calls that a set-up agent still makes.
 *
 * One table says all of it: a call that is in `allowed`, with arguments that fit, is made; one that
 * is in `hostile` ends the process; any other fails with EPERM. Why EPERM and not death: an
 * interpreter and its libraries ask for things they can do without (a terminal's size, a byte-code
 * cache), which ones changes with their versions, and a dead agent is the loss of everybody's
 * connections. Why death for some: nothing but code that was smuggled in makes those calls, and
 * it must not get a second try.
 *
 * A rule can look at an argument's value but not at what it points to. So calls that carry their
 * flags in memory (clone3, openat2) are answered as by a kernel that has not got them, whereupon
 * libc takes the older ones, whose flags can be seen.
 *
 * The filter is of all threads (SECCOMP_FILTER_FLAG_TSYNC), and cannot be taken off.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/membarrier.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "api.h"

#ifndef AF_XDP
#define AF_XDP 44
#endif

#define MAX_ARGS 2

struct rule {
	int call;
	unsigned int nr_args;
	struct scmp_arg_cmp args[MAX_ARGS];
};

#define CALL(name)                                                                                 \
	{                                                                                          \
		SCMP_SYS(name), 0,                                                                 \
		{{0}}                                                                              \
	}
/* Argument n has this value, or has none of these bits. */
#define CALL_IF(name, n, value)                                                                    \
	{                                                                                          \
		SCMP_SYS(name), 1,                                                                 \
		{                                                                                  \
			SCMP_CMP64(n, SCMP_CMP_EQ, value)                                          \
		}                                                                                  \
	}
#define CALL_UNLESS(name, n, bits)                                                                 \
	{                                                                                          \
		SCMP_SYS(name), 1,                                                                 \
		{                                                                                  \
			SCMP_CMP64(n, SCMP_CMP_MASKED_EQ, bits, 0)                                 \
		}                                                                                  \
	}

/* Of one kind, and with any of the flags that come with it: no raw sockets. */
#define SOCK_TYPE 0xf
#define SOCKET(domain, type)                                                                       \
	{                                                                                          \
		SCMP_SYS(socket), 2,                                                               \
		{                                                                                  \
			SCMP_CMP64(0, SCMP_CMP_EQ, domain),                                        \
				SCMP_CMP64(1, SCMP_CMP_MASKED_EQ, SOCK_TYPE, type)                 \
		}                                                                                  \
	}

#define FOR_WRITING (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC | O_APPEND)
#define NEW_THREAD (CLONE_VM | CLONE_THREAD | CLONE_SIGHAND)
#define NEW_NAMESPACE                                                                              \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |             \
	 CLONE_NEWPID | CLONE_NEWNET)

static const struct rule allowed[] = {
	/* Memory, but none that both was written and can be executed: no module is loaded and no
	 * code made after set-up (but see add_code()). Bindings and channels are mapped and unmapped while we run. */
	CALL_UNLESS(mmap, 2, PROT_EXEC),
	CALL_UNLESS(mprotect, 2, PROT_EXEC),
	CALL(brk),
	CALL(munmap),
	CALL(mremap),
	CALL(madvise),
	CALL(msync),

	/* Files, to read: /proc and /sys, and the tables of names that libc opens when asked. */
	CALL_UNLESS(open, 1, FOR_WRITING),
	CALL_UNLESS(openat, 2, FOR_WRITING),
	CALL(access),
	CALL(faccessat),
	CALL(faccessat2),
	CALL(fstat),
	CALL(getcwd),
	CALL(getdents64),
	CALL(lseek),
	CALL(newfstatat),
	CALL(pread64),
	CALL(read),
	CALL(readlink),
	CALL(readlinkat),
	CALL(readv),
	CALL(stat),
	CALL(lstat),
	CALL(statx),
	/* The socket's file goes with us; Landlock, where there is one, sees to it that no other
	 * does. */
	CALL(unlink),
	CALL(unlinkat),

	/* Descriptors that are ours: the log, eventfds, memfds of channels and host pages. */
	CALL(close),
	CALL(close_range),
	CALL(dup),
	CALL(dup2),
	CALL(dup3),
	CALL(eventfd2),
	CALL(fcntl),
	CALL(ftruncate),
	CALL(memfd_create),
	CALL(pipe2),
	CALL(write),
	CALL(writev),

	/* Sockets: of queues, of control, of reserved ports, of link changes. There is no
	 * connect(): what we have to tell others goes back on what they have opened. */
	CALL_IF(socket, 0, AF_XDP),
	CALL_IF(socket, 0, AF_UNIX),
	SOCKET(AF_INET, SOCK_STREAM),
	SOCKET(AF_INET, SOCK_DGRAM),
	SOCKET(AF_INET6, SOCK_STREAM),
	SOCKET(AF_INET6, SOCK_DGRAM),
	CALL_IF(socket, 0, AF_NETLINK),
	CALL(accept),
	CALL(accept4),
	CALL(bind),
	CALL(getpeername),
	CALL(getsockname),
	CALL(getsockopt),
	CALL(listen),
	CALL(recvfrom),
	CALL(recvmsg),
	CALL(sendmsg),
	CALL(sendto),
	CALL(setsockopt),
	CALL(shutdown),

	/* What an interface is like, and FIONBIO. SIOCETHTOOL also sets things, for those who have
	 * CAP_NET_ADMIN. */
	CALL_IF(ioctl, 1, FIONBIO),
	CALL_IF(ioctl, 1, FIOCLEX),
	CALL_IF(ioctl, 1, SIOCETHTOOL),
	CALL_IF(ioctl, 1, SIOCGIFFLAGS),
	CALL_IF(ioctl, 1, SIOCGIFHWADDR),
	CALL_IF(ioctl, 1, SIOCGIFINDEX),
	CALL_IF(ioctl, 1, SIOCGIFMTU),
	CALL_IF(ioctl, 1, SIOCGIFNAME),

	/* The entries of maps whose descriptors we hold, and letting go of the program. No map and
	 * no program is made any more, and none is found by its number. */
	CALL_IF(bpf, 0, BPF_MAP_LOOKUP_ELEM),
	CALL_IF(bpf, 0, BPF_MAP_UPDATE_ELEM),
	CALL_IF(bpf, 0, BPF_MAP_DELETE_ELEM),
	CALL_IF(bpf, 0, BPF_MAP_GET_NEXT_KEY),
	CALL_IF(bpf, 0, BPF_OBJ_GET_INFO_BY_FD),
	CALL_IF(bpf, 0, BPF_LINK_DETACH),

	/* Waiting. */
	CALL(epoll_create1),
	CALL(epoll_ctl),
	CALL(epoll_pwait),
	CALL(epoll_wait),
	CALL(poll),
	CALL(ppoll),
	CALL(pselect6),
	CALL(select),
	CALL(clock_nanosleep),
	CALL(nanosleep),

	/* Threads of this process, their locks and where they run. A process of its own, or a
	 * namespace, is nothing that clone() can give them. */
	{SCMP_SYS(clone),
	 1,
	 {SCMP_CMP64(0, SCMP_CMP_MASKED_EQ, NEW_THREAD | NEW_NAMESPACE, NEW_THREAD)}},
	CALL(exit),
	CALL(exit_group),
	CALL(futex),
	CALL(get_robust_list),
	CALL(gettid),
	CALL_IF(prctl, 0, PR_SET_NAME),
	CALL(rseq),
	CALL(sched_getaffinity),
	CALL(sched_getparam),
	CALL(sched_getscheduler),
	CALL(sched_setaffinity),
	CALL(sched_setscheduler),
	CALL(sched_yield),
	CALL(set_robust_list),
	CALL(set_tid_address),

	/* Signals: to handle them, and to end by one (abort). */
	CALL(restart_syscall),
	CALL(rt_sigaction),
	CALL(rt_sigprocmask),
	CALL(rt_sigreturn),
	CALL(sigaltstack),
	CALL(tgkill),

	/* The time, chance, and who and where we are. */
	CALL(clock_getres),
	CALL(clock_gettime),
	CALL(getegid),
	CALL(geteuid),
	CALL(getgid),
	CALL(getpid),
	CALL(getppid),
	CALL(getrandom),
	CALL(getrusage),
	CALL(gettimeofday),
	CALL(getuid),
	CALL_IF(prlimit64, 2, 0), /* to ask, not to set */
	CALL(sysinfo),
	CALL(time),
	CALL(uname),
};

static const int unknown[] = {SCMP_SYS(clone3), SCMP_SYS(openat2)};

/* Other programs, the memory of others, the kernel's own, namespaces, and being somebody else. */
static const int hostile[] = {
	SCMP_SYS(execve),
	SCMP_SYS(execveat),
	SCMP_SYS(ptrace),
	SCMP_SYS(process_vm_readv),
	SCMP_SYS(process_vm_writev),
	SCMP_SYS(pidfd_getfd),
	SCMP_SYS(kcmp),
	SCMP_SYS(perf_event_open),
	SCMP_SYS(userfaultfd),
	SCMP_SYS(init_module),
	SCMP_SYS(finit_module),
	SCMP_SYS(delete_module),
	SCMP_SYS(kexec_load),
	SCMP_SYS(kexec_file_load),
	SCMP_SYS(iopl),
	SCMP_SYS(ioperm),
	SCMP_SYS(mount),
	SCMP_SYS(umount2),
	SCMP_SYS(pivot_root),
	SCMP_SYS(chroot),
	SCMP_SYS(open_by_handle_at),
	SCMP_SYS(unshare),
	SCMP_SYS(setns),
	SCMP_SYS(capset),
	SCMP_SYS(setuid),
	SCMP_SYS(setreuid),
	SCMP_SYS(setresuid),
	SCMP_SYS(setgid),
	SCMP_SYS(setregid),
	SCMP_SYS(setresgid),
	SCMP_SYS(setgroups),
	SCMP_SYS(add_key),
	SCMP_SYS(keyctl),
	SCMP_SYS(request_key),
	SCMP_SYS(reboot),
	SCMP_SYS(swapon),
};

#define COUNT(table) (sizeof(table) / sizeof((table)[0]))

static int add_rules(scmp_filter_ctx filter)
{
	int err = 0;

	for (size_t i = 0; i < COUNT(allowed) && !err; i++)
		err = seccomp_rule_add_array(filter, SCMP_ACT_ALLOW, allowed[i].call,
					     allowed[i].nr_args, allowed[i].args);
	for (size_t i = 0; i < COUNT(unknown) && !err; i++)
		err = seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), unknown[i], 0);
	for (size_t i = 0; i < COUNT(hostile) && !err; i++)
		err = seccomp_rule_add(filter, SCMP_ACT_KILL_PROCESS, hostile[i], 0);
	return err;
}

/* A static key's code (jump_label/static_key.h): these pages alone, with these rights alone, and what
 * makes all threads notice. Whoever can choose what mprotect() gets could put code there: that is
 * the price of this form of the check, and no other form pays it. */
static int add_code(scmp_filter_ctx filter, uint64_t code, uint64_t size)
{
	static const int rights[] = {PROT_READ | PROT_WRITE | PROT_EXEC, PROT_READ | PROT_EXEC};
	static const int commands[] = {MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE,
				       MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE};
	int err = 0;

	for (size_t i = 0; i < COUNT(rights) && !err; i++)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 3,
				       SCMP_A0_64(SCMP_CMP_EQ, code), SCMP_A1_64(SCMP_CMP_EQ, size),
				       SCMP_A2_64(SCMP_CMP_EQ, rights[i]));
	for (size_t i = 0; i < COUNT(commands) && !err; i++)
		err = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(membarrier), 1,
				       SCMP_A0_64(SCMP_CMP_EQ, commands[i]));
	return err;
}

int confine_system_calls(uint64_t code, uint64_t code_size)
{
	scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(EPERM));
	int err;

	if (!filter)
		return -ENOMEM;
	err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
	/* A binary tree instead of a list: poll() and sendto() are made for each batch of packets. */
	if (!err)
		err = seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (!err)
		err = add_rules(filter);
	if (!err && code_size)
		err = add_code(filter, code, code_size);
	if (!err)
		err = seccomp_load(filter);
	seccomp_release(filter);
	return err;
}
