/* SPDX-License-Identifier: Apache-2.0 */
/*
 * static_key.c - raising and lowering keys: the code is patched here.
 *
 * All pages of a key's sites are made writable first, which is the only step that can fail;
 * then the sites are written; then the pages are executable and no more again. A page stays
 * executable meanwhile, since this file's own code may lie in it.
 *
 * Invariant: a key's sites are jumps if and only if key->enabled is not 0.
 */
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include "static_key.h"

#if STATIC_KEY_PATCHES

#include <sys/mman.h>
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

/* Of the one page, or both, that hold the site. */
static int protect_site(const struct static_key_site *site, int protection)
{
	uintptr_t mask = ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
	uintptr_t first = (uintptr_t)site_code(site) & mask;
	uintptr_t end = (uintptr_t)site_code(site) + STATIC_KEY_NOP_LEN;

	return mprotect((void *)first, end - first, protection) ? -errno : 0;
}

static int protect_sites(const struct static_key *key, int protection)
{
	const struct static_key_site *site;
	int err = 0;

	for (site = __start_static_key_sites; site < __stop_static_key_sites && !err; site++)
		if (site_is_of(site, key))
			err = protect_site(site, protection);
	return err;
}

static int write_sites(const struct static_key *key, bool jump)
{
	const struct static_key_site *site;
	int err = protect_sites(key, PROT_READ | PROT_WRITE | PROT_EXEC);

	for (site = __start_static_key_sites; site < __stop_static_key_sites && !err; site++)
		if (site_is_of(site, key))
			write_site(site, jump);
	/* To take a right away is never refused. */
	protect_sites(key, PROT_READ | PROT_EXEC);
	return err;
}

#else

static int write_sites(const struct static_key *key, bool jump)
{
	return 0;
}

#endif

int static_branch_inc(struct static_key *key)
{
	int err = key->enabled ? 0 : write_sites(key, true);

	if (!err)
		key->enabled++;
	return err;
}

int static_branch_dec(struct static_key *key)
{
	int err = 0;

	if (!key->enabled)
		return -EINVAL;
	if (key->enabled == 1)
		err = write_sites(key, false);
	if (!err)
		key->enabled--;
	return err;
}
