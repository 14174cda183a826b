/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mosaic.c - a UMEM of host and data pages in turn, and how the process that runs
 * the stack loses sight of data pages that are device memory.
 *
 * AF_XDP's copy mode writes a packet's metadata just before its data. With a host
 * page before each data page and the data starting at the data page, the headers
 * (which the XDP program has declared to be metadata) land in the host page and the
 * payload in the data page; mosaic.h draws it. Data pages are those of a region, or
 * host memory of the mosaic's own, which the stack may read.
 *
 * In zero-copy mode the driver writes whole frames, headers and all, so there are data pages alone;
 * the XDP program copies the headers elsewhere (heads.c).
 *
 * Call order: mosaic_open(), then once or (host memory) again and again mosaic_map(),
 * register [base, base + size) as a UMEM, mosaic_seal(); mosaic_close() when the
 * last of these UMEMs is gone. Files given to mosaic_map() may be closed after it.
 *
 * Why sealing may unmap: XDP_UMEM_REG pins the pages (pin_user_pages) and maps them
 * for the kernel (vmap); from then on it never looks at the process's page tables.
 * So nothing stays behind that a stray pointer could read, that mprotect() could
 * make readable again, or that /proc/self/mem could reach; and the two mappings a
 * buffer, of which vm.max_map_count allows 65,530 a process, are given back.
 * The address range stays reserved: a stale pointer into it must fault rather than
 * hit whatever is mapped there next. Guard pages (Linux 6.13) make reads by ptrace and
 * /proc/PID/mem fail too, which heed no PROT_NONE; without them those find zeros.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "stack.h"
#include "api.h"
#include "mosaic.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

#define HUGE_PAGE (2ul << 20) /* a file of these cannot be mapped at any other boundary */

size_t mosaic_size(enum mosaic_layout layout, uint32_t nr_niovs, uint32_t nr_pages)
{
	return mosaic_tx(layout, nr_niovs) + (size_t)nr_pages * MOSAIC_PAGE;
}

size_t mosaic_mappings(enum mosaic_layout layout, uint32_t nr_niovs)
{
	return (layout == MOSAIC_CHUNKS ? 1 : 2 * (size_t)nr_niovs) + 1;
}

static size_t pages(uint32_t n)
{
	return (size_t)n * MOSAIC_PAGE;
}

static void *reserve(void *at, size_t size)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0);

	return mmap(at, size, PROT_NONE, flags, -1, 0);
}

/* The same at an address that any file can be mapped at. */
static uint8_t *reserve_aligned(size_t size)
{
	uint8_t *p = reserve(NULL, size + HUGE_PAGE);
	size_t before;

	if (p == MAP_FAILED)
		return MAP_FAILED;
	before = -(uintptr_t)p % HUGE_PAGE;
	if (before)
		munmap(p, before);
	munmap(p + before + size, HUGE_PAGE - before);
	return p + before;
}

static int map_piece(uint8_t *at, size_t len, int fd, off_t offset)
{
	void *p = mmap(at, len, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, offset);

	return p == MAP_FAILED ? -errno : 0;
}

/* The file that is the mosaic's own: header pages, and behind them data pages if it has any. */
static int open_host_file(struct mosaic *m)
{
	m->host_fd = memfd_create("devmemtcp-host", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (m->host_fd < 0)
		return -errno;
	if (ftruncate(m->host_fd, m->host_size) ||
	    fcntl(m->host_fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		return -errno;
	return 0;
}

static int lay_out(struct mosaic *m)
{
	void *p;

	p = mmap(NULL, m->host_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->host_fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	m->headers = p;
	if (m->readable)
		m->data = m->headers + pages(m->nr_niovs);
	p = reserve_aligned(m->size);
	if (p == MAP_FAILED)
		return -errno;
	m->base = p;
	return 0;
}

int mosaic_open(struct mosaic *m, enum mosaic_layout layout, uint32_t nr_niovs, uint32_t nr_pages,
		int readable)
{
	int err;

	*m = (struct mosaic){
		.size = mosaic_size(layout, nr_niovs, nr_pages),
		.host_size = pages(nr_niovs) * (readable ? 2 : 1),
		.nr_niovs = nr_niovs,
		.nr_pages = nr_pages,
		.readable = readable,
		.layout = layout,
		.host_fd = -1,
	};
	if (!nr_niovs || !nr_pages)
		return -EINVAL;
	err = open_host_file(m);
	if (!err)
		err = lay_out(m);
	if (err)
		mosaic_close(m);
	return err;
}

static int map_pairs(struct mosaic *m, int data_fd, off_t data)
{
	for (uint32_t i = 0; i < m->nr_niovs; i++) {
		uint8_t *d = m->base + mosaic_device(m->layout, i);
		int err = map_piece(d - MOSAIC_PAGE, MOSAIC_PAGE, m->host_fd, pages(i));

		if (!err)
			err = map_piece(d, MOSAIC_PAGE, data_fd, data + (off_t)pages(i));
		if (err)
			return err;
	}
	return 0;
}

int mosaic_map(struct mosaic *m, int region_fd, int tx_fd)
{
	const int data_fd = m->readable ? m->host_fd : region_fd;
	const off_t data = m->readable ? pages(m->nr_niovs) : 0;
	uint8_t *tx = m->base + mosaic_tx(m->layout, m->nr_niovs);
	int err;

	if (m->layout == MOSAIC_CHUNKS)
		err = map_piece(m->base, pages(m->nr_niovs), data_fd, data);
	else
		err = map_pairs(m, data_fd, data);
	if (!err)
		err = map_piece(tx, pages(m->nr_pages), tx_fd, 0);
	if (err)
		mosaic_seal(m);
	return err;
}

int mosaic_seal(struct mosaic *m)
{
	/* One call replaces every piece: there is no moment at which the range is free. */
	if (reserve(m->base, m->size) == MAP_FAILED)
		return -errno;
	if (madvise(m->base, m->size, MADV_GUARD_INSTALL) && errno != EINVAL)
		return -errno; /* EINVAL: an older kernel, or a process that locks all its memory */
	return 0;
}

static void read_and_exit(const uint8_t *at)
{
	struct sigaction dfl = {.sa_handler = SIG_DFL};
	volatile uint8_t byte;

	sigaction(SIGSEGV, &dfl, NULL);
	sigaction(SIGBUS, &dfl, NULL);
	prctl(PR_SET_DUMPABLE, 0); /* the expected end is a signal: no core file */
	byte = *(const volatile uint8_t *)at;
	(void)byte;
	_exit(0);
}

int mosaic_read_probe(const struct mosaic *m, uint32_t niov)
{
	int status;
	pid_t pid;

	if (!m->base || niov >= m->nr_niovs)
		return -EINVAL;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (!pid)
		read_and_exit(m->base + mosaic_device(m->layout, niov));
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

void mosaic_close(struct mosaic *m)
{
	if (m->headers)
		munmap(m->headers, m->host_size);
	if (m->base)
		munmap(m->base, m->size);
	if (m->host_fd >= 0)
		close(m->host_fd);
	m->headers = m->data = m->base = NULL;
	m->host_fd = -1;
}
