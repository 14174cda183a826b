/* SPDX-License-Identifier: Apache-2.0 */
/*
 * refuse.c - calls into the C library that fail because a test says so.
 *
 * Loaded by LD_PRELOAD, it stands between a process and its C library. While it is armed, it
 * counts the calls below, and the chosen ones return an error and are not carried out. What
 * there is to be chosen from, a first and untroubled run has recorded.
 *
 * Call order: refuse_record(), what is to be tested, refuse_stop(), refuse_call() for each;
 * then refuse_one() or refuse_often(), the same again, refuse_stop().
 *
 * Invariants:
 * - What is recorded, and refused once, are calls of the thread that has armed the shim: they
 *   come in the same order next time. How many of a kind a library makes may depend on the time
 *   (a queue that is not free yet), so a call is told by its like, not by its number among all.
 * - An allocation counts when our code or a library below it (libbpf, libxdp, libelf) makes it:
 *   a MemoryError of the interpreter is Python's affair. A mapping likewise.
 * - Nothing here allocates, or makes a call that counts.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_RECORDED 65536
#define MOST_RANGES 1024

/* ---- who calls ---- */

enum whose { OTHERS, OURS, BELOW_OURS, INTERPRETER, LIBC };

static struct range {
	uintptr_t start, end;
	enum whose whose;
} ranges[MOST_RANGES];
static size_t nr_ranges;

static const struct {
	const char *part;
	enum whose whose;
} objects[] = {
	{"/_loop_", OURS},
	{"/_xdp.", OURS},
	{"/libbpf", BELOW_OURS},
	{"/libxdp", BELOW_OURS},
	{"/libelf", BELOW_OURS},
	{"/libpython", INTERPRETER},
	{"/bin/python", INTERPRETER},
	{"/libc.so", LIBC},
	{"/ld-linux", LIBC},
};

static enum whose whose_object(const char *path)
{
	if (!*path) /* the program itself */
		return INTERPRETER;
	for (size_t i = 0; i < sizeof(objects) / sizeof(*objects); i++) {
		if (strstr(path, objects[i].part))
			return objects[i].whose;
	}
	return OTHERS;
}

static int note_object(struct dl_phdr_info *info, size_t size, void *arg)
{
	(void)size;
	(void)arg;
	for (int i = 0; i < info->dlpi_phnum && nr_ranges < MOST_RANGES; i++) {
		const ElfW(Phdr) *header = &info->dlpi_phdr[i];
		const uintptr_t start = info->dlpi_addr + header->p_vaddr;

		if (header->p_type == PT_LOAD && header->p_flags & PF_X)
			ranges[nr_ranges++] = (struct range){start, start + header->p_memsz,
							     whose_object(info->dlpi_name)};
	}
	return 0;
}

static enum whose whose_code(const void *at)
{
	for (size_t i = 0; i < nr_ranges; i++) {
		if ((uintptr_t)at >= ranges[i].start && (uintptr_t)at < ranges[i].end)
			return ranges[i].whose;
	}
	return OTHERS;
}

/* ---- which calls fail ---- */

enum kind { ALLOCATION, MAPPING, CALL };

static struct {
	enum { IDLE, RECORD, ONE, OFTEN } mode;
	pid_t thread;
	_Atomic uint64_t seen, refused;
	const char *name;
	uint64_t detail, whose; /* ONE: what else it is to be like, and how many such come first */
	uint64_t before;
	uint64_t every, most; /* OFTEN: each `every`-th, `most` of them at most */
	int error;
} plan;

static struct {
	const char *name;
	uint64_t detail;
	enum whose whose;
} recorded[MOST_RECORDED];

static bool counts(enum kind kind, enum whose whose)
{
	if (kind == ALLOCATION)
		return whose == OURS || whose == BELOW_OURS;
	if (kind == MAPPING && whose == INTERPRETER)
		return false;
	return whose != LIBC;
}

/* Only there a write may lack memory: an eventfd is a number. */
static bool is_pipe(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISFIFO(st.st_mode);
}

static bool wanted(enum kind kind, const char *name, uint64_t detail, enum whose whose)
{
	if (plan.mode == OFTEN)
		return whose == OURS && !strcmp(name, plan.name) &&
		       (strcmp(name, "eventfd_write") || is_pipe(detail));
	if (gettid() != plan.thread || !counts(kind, whose))
		return false;
	return plan.mode == RECORD ||
	       (detail == plan.detail && whose == plan.whose && !strcmp(name, plan.name));
}

/* Whether the call fails, and errno is why. `detail`: what tells it from others of its name. */
static bool refused(enum kind kind, const char *name, uint64_t detail, const void *from)
{
	const enum whose whose = plan.mode == IDLE ? OTHERS : whose_code(from);
	uint64_t number;

	if (plan.mode == IDLE || !wanted(kind, name, detail, whose))
		return false;
	number = plan.seen++;
	if (plan.mode == RECORD && number < MOST_RECORDED) {
		recorded[number].name = name;
		recorded[number].detail = detail;
		recorded[number].whose = whose;
	}
	if (plan.mode == RECORD || (plan.mode == ONE && number != plan.before) ||
	    (plan.mode == OFTEN && (number % plan.every || plan.refused >= plan.most)))
		return false;
	plan.refused++;
	errno = plan.error;
	return true;
}

/* ---- for the test ---- */

static void arm(int mode)
{
	plan.mode = IDLE;
	nr_ranges = 0;
	dl_iterate_phdr(note_object, NULL);
	plan.thread = gettid();
	plan.seen = plan.refused = 0;
	plan.mode = mode;
}

void refuse_record(void)
{
	arm(RECORD);
}

/* The call that comes after `before` others like it, in this thread. */
void refuse_one(const char *name, uint64_t detail, uint64_t whose, uint64_t before, int error)
{
	plan.name = name;
	plan.detail = detail;
	plan.whose = whose;
	plan.before = before;
	plan.error = error;
	arm(ONE);
}

/* Each `every`-th call of that name by our own code, in any thread, `most` of them at most. */
void refuse_often(const char *name, uint64_t every, uint64_t most, int error)
{
	plan.name = name;
	plan.every = every;
	plan.most = most;
	plan.error = error;
	arm(OFTEN);
}

/* Returns how many calls there were, and how many of them were refused. */
uint64_t refuse_stop(uint64_t *how_many)
{
	plan.mode = IDLE;
	*how_many = plan.refused;
	return plan.seen;
}

/* One that was recorded: its name, what tells it from others of that name, who made it. */
const char *refuse_call(uint64_t number, uint64_t *detail, uint64_t *whose)
{
	*detail = recorded[number].detail;
	*whose = recorded[number].whose;
	return recorded[number].name;
}

/* ---- the calls ---- */

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

#define REFUSED(kind, name, detail) refused(kind, name, detail, __builtin_return_address(0))

/* dlsym() allocates, so these are found without it. */
void *malloc(size_t size)
{
	return REFUSED(ALLOCATION, "malloc", size) ? NULL : __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
	return REFUSED(ALLOCATION, "calloc", n * size) ? NULL : __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
	return REFUSED(ALLOCATION, "realloc", size) ? NULL : __libc_realloc(p, size);
}

#define REAL(name)                                                                                 \
	static __typeof__(name) *real;                                                             \
	if (!real)                                                                                 \
	real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

#define PASS(kind, result, name, params, args, detail, failure)                                    \
	result name params                                                                         \
	{                                                                                          \
		REAL(name);                                                                        \
		return REFUSED(kind, #name, detail) ? failure : real args;                         \
	}

#define OPTION ((uint64_t)level << 32 | (uint32_t)option)

/* clang-format off */
PASS(ALLOCATION, char *, strdup, (const char *s), (s), strlen(s), NULL)
PASS(MAPPING, void *, mmap, (void *at, size_t size, int prot, int flags, int fd, off_t from),
     (at, size, prot, flags, fd, from), size, MAP_FAILED)
PASS(MAPPING, void *, mmap64, (void *at, size_t size, int prot, int flags, int fd, off64_t from),
     (at, size, prot, flags, fd, from), size, MAP_FAILED)
PASS(MAPPING, int, mprotect, (void *at, size_t size, int prot), (at, size, prot), size, -1)
PASS(CALL, int, memfd_create, (const char *name, unsigned int flags), (name, flags), flags, -1)
PASS(CALL, int, ftruncate, (int fd, off_t size), (fd, size), size, -1)
PASS(CALL, int, ftruncate64, (int fd, off64_t size), (fd, size), size, -1)
PASS(CALL, int, socket, (int family, int type, int protocol), (family, type, protocol), family, -1)
PASS(CALL, int, socketpair, (int family, int type, int protocol, int fds[2]),
     (family, type, protocol, fds), family, -1)
PASS(CALL, int, bind, (int fd, const struct sockaddr *at, socklen_t len), (fd, at, len),
     at->sa_family, -1)
PASS(CALL, int, listen, (int fd, int backlog), (fd, backlog), backlog, -1)
PASS(CALL, int, getsockname, (int fd, struct sockaddr *at, socklen_t *len), (fd, at, len), 0, -1)
PASS(CALL, int, setsockopt, (int fd, int level, int option, const void *value, socklen_t len),
     (fd, level, option, value, len), OPTION, -1)
PASS(CALL, int, getsockopt, (int fd, int level, int option, void *value, socklen_t *len),
     (fd, level, option, value, len), OPTION, -1)
PASS(CALL, int, eventfd, (unsigned int count, int flags), (count, flags), flags, -1)
PASS(CALL, int, eventfd_write, (int fd, uint64_t count), (fd, count), fd, -1)
PASS(CALL, int, epoll_create1, (int flags), (flags), flags, -1)
PASS(CALL, int, epoll_ctl, (int set, int op, int fd, struct epoll_event *event),
     (set, op, fd, event), op, -1)
PASS(CALL, int, epoll_wait, (int set, struct epoll_event *events, int most, int timeout),
     (set, events, most, timeout), most, -1)
PASS(CALL, int, pipe2, (int fds[2], int flags), (fds, flags), flags, -1)
PASS(CALL, int, setns, (int fd, int kind), (fd, kind), kind, -1)
PASS(CALL, int, sched_setscheduler, (pid_t pid, int policy, const struct sched_param *param),
     (pid, policy, param), policy, -1)
PASS(CALL, ssize_t, send, (int fd, const void *data, size_t len, int flags),
     (fd, data, len, flags), flags, -1)
PASS(CALL, ssize_t, sendto, (int fd, const void *data, size_t len, int flags,
     const struct sockaddr *to, socklen_t to_len), (fd, data, len, flags, to, to_len), flags, -1)
PASS(CALL, ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags),
     (fd, message, flags), flags, -1)
PASS(CALL, ssize_t, recv, (int fd, void *data, size_t len, int flags), (fd, data, len, flags),
     flags, -1)
PASS(CALL, ssize_t, recvfrom, (int fd, void *data, size_t len, int flags, struct sockaddr *from,
     socklen_t *from_len), (fd, data, len, flags, from, from_len), flags, -1)
PASS(CALL, ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags),
     flags, -1)
PASS(CALL, ssize_t, read, (int fd, void *data, size_t len), (fd, data, len),
     is_pipe(fd), -1)
PASS(CALL, ssize_t, write, (int fd, const void *data, size_t len), (fd, data, len), 0, -1)
PASS(CALL, int, poll, (struct pollfd *fds, nfds_t n, int timeout), (fds, n, timeout), n, -1)
PASS(CALL, int, ppoll, (struct pollfd *fds, nfds_t n, const struct timespec *timeout,
     const sigset_t *mask), (fds, n, timeout, mask), n, -1)

/* Those that take what they please. */
#define PASS_ANY(result, name, params, args, last, detail)                                         \
	result name params                                                                         \
	{                                                                                          \
		REAL(name);                                                                        \
		va_list rest;                                                                      \
		unsigned long argument;                                                            \
		va_start(rest, last);                                                              \
		argument = va_arg(rest, unsigned long);                                            \
		va_end(rest);                                                                      \
		return REFUSED(CALL, #name, detail) ? -1 : real args;                              \
	}

PASS_ANY(int, fcntl, (int fd, int op, ...), (fd, op, argument), op, op)
PASS_ANY(int, fcntl64, (int fd, int op, ...), (fd, op, argument), op, op)
PASS_ANY(int, ioctl, (int fd, unsigned long op, ...), (fd, op, argument), op, op)
PASS_ANY(int, open, (const char *path, int flags, ...), (path, flags, argument), flags, flags)
PASS_ANY(int, open64, (const char *path, int flags, ...), (path, flags, argument), flags, flags)
PASS_ANY(int, openat, (int at, const char *path, int flags, ...), (at, path, flags, argument),
	 flags, flags)
/* clang-format on */

long syscall(long number, ...)
{
	unsigned long a[6];
	va_list rest;

	REAL(syscall);
	va_start(rest, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(rest, unsigned long);
	va_end(rest);
	if (REFUSED(CALL, "syscall", number))
		return -1;
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *),
		   void *argument)
{
	REAL(pthread_create);
	if (REFUSED(CALL, "pthread_create", 0))
		return errno;
	return real(thread, attributes, run, argument);
}
