/* SPDX-License-Identifier: Apache-2.0 */
/*
 * check.h - all there is to a native test: CHECK() something, list the tests.
 *
 * A failed check prints where and what, and the test goes on; the program prints
 * one line a test and fails if any check did. Everything else (leaks, overruns,
 * undefined behaviour) is the sanitizers' to find.
 */
#ifndef DEVMEMTCP_CHECK_H
#define DEVMEMTCP_CHECK_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static unsigned long check_failures;

#define CHECK(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			check_failures++;                                                          \
			printf("%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);           \
		}                                                                                  \
	} while (0)

/* For numbers: says what they were. */
#define CHECK_EQ(actual, expected)                                                                 \
	do {                                                                                       \
		long long actual_ = (long long)(actual);                                           \
		long long expected_ = (long long)(expected);                                       \
		if (actual_ != expected_) {                                                        \
			check_failures++;                                                          \
			printf("%s:%d: %s is %lld, not %s (%lld)\n", __FILE__, __LINE__, #actual,  \
			       actual_, #expected, expected_);                                     \
		}                                                                                  \
	} while (0)

struct check_test {
	const char *name;
	void (*run)(void);
};

#define CHECK_TEST(function) {#function, function}

static inline int check_main(const struct check_test *tests, size_t nr_tests)
{
	for (size_t i = 0; i < nr_tests; i++) {
		unsigned long before = check_failures;

		tests[i].run();
		printf("%s %s\n", check_failures == before ? "ok  " : "FAIL", tests[i].name);
		fflush(stdout); /* a child that forks later must not print it again */
	}
	return check_failures ? EXIT_FAILURE : EXIT_SUCCESS;
}

#define CHECK_MAIN(...)                                                                            \
	int main(void)                                                                             \
	{                                                                                          \
		static const struct check_test tests[] = {__VA_ARGS__};                            \
                                                                                                   \
		return check_main(tests, sizeof(tests) / sizeof(tests[0]));                        \
	}

/*
 * Does run(arg) end in a failed assertion? Runs it in a child, so it may. The
 * message decides, not the signal: a sanitizer that finds something aborts too.
 */
static inline bool check_aborts(void (*run)(void *arg), void *arg)
{
	char message[512];
	ssize_t len;
	int status, fds[2];
	pid_t child;

	if (pipe(fds) || (child = fork()) < 0) {
		perror("pipe or fork");
		exit(EXIT_FAILURE);
	}
	if (child == 0) {
		dup2(fds[1], STDERR_FILENO);
		run(arg);
		_exit(EXIT_SUCCESS);
	}
	close(fds[1]);
	len = read(fds[0], message, sizeof(message) - 1);
	close(fds[0]);
	if (len < 0 || waitpid(child, &status, 0) != child) {
		perror("read or waitpid");
		exit(EXIT_FAILURE);
	}
	message[len] = '\0';
	if (len > 0 && !strstr(message, "Assertion"))
		printf("%s", message);
	return WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && strstr(message, "Assertion");
}

/* xorshift64*: the same sequence on every machine. */
static inline uint32_t check_random(uint64_t *state, uint32_t below)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (uint32_t)((*state * 0x2545f4914f6cdd1dULL) >> 32) % below;
}

#endif
