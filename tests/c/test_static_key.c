/* SPDX-License-Identifier: Apache-2.0 */
/* A key's branches are no-ops or jumps, all of them, and code is never left writable. */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include "check.h"
#include "static_key.h"

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

DEFINE_STATIC_KEY_FALSE(test_key);
DEFINE_STATIC_KEY_FALSE(other_key);
DEFINE_STATIC_KEY_FALSE(key_without_sites);

#define NOINLINE __attribute__((noinline))

static NOINLINE int asks(void)
{
	return static_branch_unlikely(test_key) ? 1 : 0;
}

/* Twice in one function, and once in a loop, which the compiler may unroll. */
static NOINLINE int asks_often(int n)
{
	int sum = static_branch_unlikely(test_key) ? 100 : 0;

	for (int i = 0; i < n; i++)
		if (static_branch_unlikely(test_key))
			sum += i;
	return sum;
}

static NOINLINE int asks_other(void)
{
	return static_branch_unlikely(other_key) ? 1 : 0;
}

static void check_all(int raised, int other)
{
	CHECK_EQ(asks(), raised);
	CHECK_EQ(asks_often(5), raised ? 110 : 0);
	CHECK_EQ(asks_other(), other);
}

static void a_key_is_false_until_raised(void)
{
	check_all(0, 0);
	CHECK_EQ(static_branch_inc(&test_key), 0);
	check_all(1, 0);
	CHECK_EQ(static_branch_dec(&test_key), 0);
	check_all(0, 0);
}

static void a_key_counts_its_users(void)
{
	CHECK_EQ(static_branch_inc(&test_key), 0);
	CHECK_EQ(static_branch_inc(&test_key), 0);
	CHECK_EQ(static_branch_dec(&test_key), 0);
	check_all(1, 0);
	CHECK_EQ(static_branch_dec(&test_key), 0);
	check_all(0, 0);
	CHECK_EQ(static_branch_dec(&test_key), -EINVAL);
	CHECK_EQ(test_key.enabled, 0);
	check_all(0, 0);
}

static void keys_are_independent(void)
{
	CHECK_EQ(static_branch_inc(&other_key), 0);
	check_all(0, 1);
	CHECK_EQ(static_branch_inc(&test_key), 0);
	CHECK_EQ(static_branch_dec(&other_key), 0);
	check_all(1, 0);
	CHECK_EQ(static_branch_dec(&test_key), 0);
}

static void a_key_that_nobody_asks_for_may_be_raised(void)
{
	CHECK_EQ(static_branch_inc(&key_without_sites), 0);
	check_all(0, 0);
	CHECK_EQ(static_branch_dec(&key_without_sites), 0);
}

static void raising_a_thousand_times_leaves_nothing_behind(void)
{
	for (int i = 0; i < 1000; i++) {
		static_branch_inc(&test_key);
		check_all(1, 0);
		static_branch_dec(&test_key);
		check_all(0, 0);
	}
}

static void *comes_and_goes(void *unused)
{
	for (int i = 0; i < 100000; i++)
		if (static_branch_inc(&test_key) || static_branch_dec(&test_key))
			return &test_key;
	return NULL;
}

/* Neither the first nor the last: no code is written, and nobody need stand still. */
static void users_in_between_come_and_go_in_any_thread(void)
{
	pthread_t threads[2];
	void *failed;

	CHECK_EQ(static_branch_inc(&test_key), 0);
	for (int i = 0; i < 2; i++)
		CHECK_EQ(pthread_create(&threads[i], NULL, comes_and_goes, NULL), 0);
	check_all(1, 0);
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(pthread_join(threads[i], &failed), 0);
		CHECK(!failed);
	}
	CHECK_EQ(test_key.enabled, 1);
	CHECK_EQ(static_branch_dec(&test_key), 0);
	check_all(0, 0);
}

#if STATIC_KEY_PATCHES

/* The agent's filter of system calls lets just these pages be written to. */
static void the_pages_of_its_code_are_known(void)
{
	uint64_t start = 0, other = 0;
	size_t size = static_key_code(&test_key, &start);

	CHECK(size && size % 4096 == 0 && start % 4096 == 0);
	CHECK((uintptr_t)asks >= start && (uintptr_t)asks_often < start + size);
	CHECK(static_key_code(&other_key, &other) && other <= (uintptr_t)asks_other);
	CHECK_EQ(static_key_code(&key_without_sites, &other), 0);
}

static bool some_code_is_writable(void)
{
	FILE *maps = fopen("/proc/self/maps", "r");
	bool found = false;
	char line[512];

	if (!maps)
		return true;
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, " rwx"))
			found = true;
	fclose(maps);
	return found;
}

static void code_is_not_left_writable(void)
{
	CHECK(!some_code_is_writable());
	CHECK_EQ(static_branch_inc(&test_key), 0);
	CHECK(!some_code_is_writable());
	CHECK_EQ(static_branch_dec(&test_key), 0);
	CHECK(!some_code_is_writable());
}

/* In a child, since there is no way back. 0: as it should be, 1: not, 2: not to be had here. */
static int try_locked_down(bool raised)
{
	if (raised && static_branch_inc(&test_key))
		return 1;
	if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0))
		return 2;
	if (raised) { /* more users are no change of code */
		if (static_branch_inc(&test_key) || static_branch_dec(&test_key))
			return 1;
		return static_branch_dec(&test_key) == -EACCES && asks() == 1 ? 0 : 1;
	}
	return static_branch_inc(&test_key) == -EACCES && asks() == 0 && !test_key.enabled ? 0 : 1;
}

static void a_key_of_locked_down_code_stays_what_it_is(void)
{
	for (int raised = 0; raised <= 1; raised++) {
		pid_t pid = fork();
		int status;

		if (pid == 0)
			_exit(try_locked_down(raised));
		CHECK(waitpid(pid, &status, 0) == pid && WIFEXITED(status));
		if (WEXITSTATUS(status) == 2)
			printf("skip: this kernel has no PR_SET_MDWE\n");
		else
			CHECK_EQ(WEXITSTATUS(status), 0);
	}
}

#endif

int main(void)
{
	static const struct check_test tests[] = {
		CHECK_TEST(a_key_is_false_until_raised),
		CHECK_TEST(a_key_counts_its_users),
		CHECK_TEST(keys_are_independent),
		CHECK_TEST(a_key_that_nobody_asks_for_may_be_raised),
		CHECK_TEST(raising_a_thousand_times_leaves_nothing_behind),
		CHECK_TEST(users_in_between_come_and_go_in_any_thread),
#if STATIC_KEY_PATCHES
		CHECK_TEST(the_pages_of_its_code_are_known),
		CHECK_TEST(code_is_not_left_writable),
		CHECK_TEST(a_key_of_locked_down_code_stays_what_it_is),
#endif
	};

	return check_main(tests, sizeof(tests) / sizeof(tests[0]));
}
