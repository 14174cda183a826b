/* SPDX-License-Identifier: Apache-2.0 */
/*
 * static_key.c - raising and lowering keys: the code is patched here.
 *
 * The pages of a key's sites are made writable first: this and membarrier(2), which is tried
 * before, are all that can fail. Then the sites are written, then the pages are executable and
 * no more again. They stay executable meanwhile, since this file's own code may lie in them, and
 * other threads may be in functions that lie beside the branches.
 *
 * Invariant: a key's sites are jumps if and only if key->enabled is not 0.
 */
#include <errno.h>
#include <string.h>
#include "static_key.h"

#if STATIC_KEY_PATCHES

#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The linker's names for both ends of the section; weak, for there may be no site at all. */
extern const struct static_key_site __start_static_key_sites[]
	__attribute__((visibility("hidden"), weak));
extern const struct static_key_site __stop_static_key_sites[]
	__attribute__((visibility("hidden"), weak));

static uint8_t *site_code(const struct static_key_site *site)
{
	return (uint8_t *)&site->code + site->code;
}

static ptrdiff_t site_distance(const struct static_key_site *site)
{
	return ((uint8_t *)&site->target + site->target) - site_code(site);
}

static bool site_is_of(const struct static_key_site *site, const struct static_key *key)
{
	return (uint8_t *)&site->key + site->key == (uint8_t *)key;
}

static void write_site(const struct static_key_site *site, bool jump)
{
	uint8_t *code = site_code(site);
#if defined(__x86_64__)
	uint8_t insn[STATIC_KEY_NOP_LEN] = {0x0f, 0x1f, 0x44, 0x00, 0x00};
	int32_t relative = (int32_t)(site_distance(site) - STATIC_KEY_NOP_LEN);

	if (jump) {
		insn[0] = 0xe9; /* jmp rel32 */
		memcpy(&insn[1], &relative, sizeof(relative));
	}
	memcpy(code, insn, sizeof(insn));
#else
	uint32_t insn = 0xd503201f; /* nop */

	if (jump)
		insn = 0x14000000 | ((site_distance(site) >> 2) & 0x03ffffff); /* b */
	memcpy(code, &insn, sizeof(insn));
#endif
	__builtin___clear_cache((char *)code, (char *)code + STATIC_KEY_NOP_LEN);
}

size_t static_key_code(const struct static_key *key, uint64_t *start)
{
	const uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
	const struct static_key_site *site;
	uint64_t first = UINT64_MAX, end = 0;

	for (site = __start_static_key_sites; site < __stop_static_key_sites; site++) {
		const uint64_t code = (uintptr_t)site_code(site);

		if (!site_is_of(site, key))
			continue;
		first = code < first ? code : first;
		end = code + STATIC_KEY_NOP_LEN > end ? code + STATIC_KEY_NOP_LEN : end;
	}
	if (!end)
		return 0;
	*start = first & ~(page - 1);
	return ((end + page - 1) & ~(page - 1)) - *start;
}

/* A processor may have read ahead in code that another one writes. Returns when all threads of
 * this process have passed an instruction that makes theirs read again. */
static int synchronize_cores(void)
{
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED_SYNC_CORE, 0) ||
	    syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0))
		return -errno;
	return 0;
}

static int write_sites(const struct static_key *key, bool jump)
{
	const struct static_key_site *site;
	uint64_t start = 0;
	const size_t size = static_key_code(key, &start);
	int err = synchronize_cores();

	if (err || !size)
		return err;
	if (mprotect((void *)start, size, PROT_READ | PROT_WRITE | PROT_EXEC))
		return -errno;
	for (site = __start_static_key_sites; site < __stop_static_key_sites; site++)
		if (site_is_of(site, key))
			write_site(site, jump);
	/* To take a right away is never refused, nor what was granted a moment ago. */
	mprotect((void *)start, size, PROT_READ | PROT_EXEC);
	synchronize_cores();
	return 0;
}

#else

size_t static_key_code(const struct static_key *key, uint64_t *start)
{
	return 0;
}

static int write_sites(const struct static_key *key, bool jump)
{
	return 0;
}

#endif

/* One user more where there are some, and there will be: false if it is the first or the last. */
static bool add_user(struct static_key *key, long change)
{
	unsigned long users = __atomic_load_n(&key->enabled, __ATOMIC_RELAXED);

	do {
		if (users == 0 || users + change == 0)
			return false;
	} while (!__atomic_compare_exchange_n(&key->enabled, &users, users + change, false,
					      __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
	return true;
}

int static_branch_inc(struct static_key *key)
{
	int err;

	if (add_user(key, 1))
		return 0;
	err = write_sites(key, true);
	if (!err)
		key->enabled = 1;
	return err;
}

int static_branch_dec(struct static_key *key)
{
	int err;

	if (add_user(key, -1))
		return 0;
	if (!key->enabled)
		return -EINVAL;
	err = write_sites(key, false);
	if (!err)
		key->enabled = 0;
	return err;
}
