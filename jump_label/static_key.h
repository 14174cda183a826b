/* SPDX-License-Identifier: Apache-2.0 */
/*
 * static_key.h - branches that cost a no-op until they are needed.
 *
 * The kernel's jump labels (include/linux/jump_label.h), for a library. Where the
 * question is asked, the compiler leaves a no-op as long as a jump, and notes in a
 * section of the object where it is and where the jump would go:
 *
 *        nop                     jmp yes
 *        ... no ...      <->     ... no ...
 *   yes: ... out of line         yes: ...
 *
 * static_branch_inc() raises the key; the first time it turns the no-ops into
 * jumps. static_branch_dec() lowers it; the last time it turns them back.
 *
 * The first and the last user write code, while it is mapped executable: other
 * functions, which other threads may be in, share its pages. So
 *   - no other thread may be in code that asks for this key meanwhile; afterwards
 *     every thread has the new code (membarrier);
 *   - it takes the right to make these pages writable for a moment. What takes that
 *     right away (PR_SET_MDWE, seccomp, SELinux's execmod) makes the call fail with
 *     nothing changed. Users in between, neither first nor last, need nothing of this,
 *     and may come and go in any thread.
 *
 * Counterparts of a key in other copies of the library, one in each extension
 * module, are other keys.
 *
 * x86-64 and arm64. Elsewhere, and with STATIC_KEY_PLAIN defined, a key is a word in memory
 * and the question a load and a branch.
 */
#ifndef DEVMEMTCP_STATIC_KEY_H
#define DEVMEMTCP_STATIC_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if !defined(STATIC_KEY_PLAIN) && (defined(__x86_64__) || defined(__aarch64__))
#define STATIC_KEY_PATCHES 1
#else
#define STATIC_KEY_PATCHES 0
#endif

struct static_key {
	unsigned long enabled; /* users */
};

/* Hidden, so that the distance to it is known at link time; used, because only asm names it. */
#define DECLARE_STATIC_KEY_FALSE(name)                                                             \
	extern struct static_key name __attribute__((visibility("hidden")))
#define DEFINE_STATIC_KEY_FALSE(name)                                                              \
	struct static_key name __attribute__((visibility("hidden"), used))

/*
 * Add one user, or take one away. 0, or the negative errno of mprotect(2) or membarrier(2), and
 * then the key and all branches are what they were. static_branch_dec() of a key at 0: -EINVAL.
 */
int static_branch_inc(struct static_key *key);
int static_branch_dec(struct static_key *key);
/* The whole pages that hold all code of the key's branches: their bytes, from `*start` on. */
size_t static_key_code(const struct static_key *key, uint64_t *start);

#if STATIC_KEY_PATCHES

#if defined(__x86_64__)
#define STATIC_KEY_NOP ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00" /* nopl 0x0(%rax,%rax,1): 5 bytes */
#define STATIC_KEY_NOP_LEN 5
#else
#define STATIC_KEY_NOP "nop"
#define STATIC_KEY_NOP_LEN 4
#endif

/* All distances are from the field itself, so the table is constant and needs no relocation. */
struct static_key_site {
	int32_t code;
	int32_t target;
	int64_t key;
};

/* The name of the key, not its address: in position independent code no asm operand is one. */
#define static_branch_unlikely(name)                                                               \
	({                                                                                         \
		__label__ yes_, done_;                                                             \
		bool raised_ = false;                                                              \
		__asm__ goto("1: " STATIC_KEY_NOP "\n"                                             \
			     ".pushsection static_key_sites, \"a\"\n"                              \
			     ".balign 8\n"                                                         \
			     ".long 1b - ., %l[yes_] - .\n"                                        \
			     ".quad " #name " - .\n"                                               \
			     ".popsection"                                                         \
			     :                                                                     \
			     :                                                                     \
			     :                                                                     \
			     : yes_);                                                              \
		goto done_;                                                                        \
	yes_:                                                                                      \
		raised_ = true;                                                                    \
	done_:                                                                                     \
		raised_;                                                                           \
	})

#else

#define static_branch_unlikely(name) __builtin_expect((name).enabled != 0, 0)

#endif
#endif
