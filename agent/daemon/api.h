/* SPDX-License-Identifier: Apache-2.0 */
/*
 * api.h - what Python may call to give up, for good, what the agent needed to set up only.
 *
 * Plain declarations only: cffi reads this file, and the C files include it. All of it is of the
 * calling thread and those it starts, so it has to be done before there is any other; the system
 * call filter alone reaches every thread. Functions return 0 or -errno.
 */

/* ---- capabilities.c ---- */

/* Keep the capabilities whose bits are set, in the permitted and effective sets, and let nothing
 * bring another back: bounding, inheritable and ambient sets, no_new_privs, no core dump. */
int confine_capabilities(uint64_t keep);
/* Become another user for good; the permitted capabilities stay until the call above. */
int confine_user(uint32_t uid, uint32_t gid);

/* ---- landlock.c ---- */

/* From now on the file system can only be read, except that files directly below `removable` may
 * be removed. -EOPNOTSUPP or -ENOSYS: this kernel has no Landlock. */
int confine_files(const char *removable);

/* ---- seccomp.c ---- */

/* Refuse every system call that the table in seccomp.c does not allow, in all threads. The
 * `code_size` bytes of code from `code` on, whole pages, may still be made writable, and not
 * writable again; 0: none. */
int confine_system_calls(uint64_t code, uint64_t code_size);
