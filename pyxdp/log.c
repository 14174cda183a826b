/* SPDX-License-Identifier: Apache-2.0 */
/*
 * log.c - catch what libbpf and libxdp would print to stderr.
 *
 * Call order: pyxdp_log_install() once; then, around each library call whose words
 * matter, pyxdp_log_begin() and pyxdp_log_end() on the same thread.
 *
 * The print hook of both libraries is global to the process, so the destination is
 * thread-local: threads that load objects at the same time do not read each
 * other's verifier. Messages outside begin/end are dropped. The buffer stays the
 * caller's. When it is full the oldest bytes go, for a verifier log says what was
 * wrong at its end.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pyxdp.h"

static __thread struct {
	char *buf;
	size_t size;
	size_t used; /* without the final NUL */
} log_dest;

static void log_append(const char *text, size_t len)
{
	size_t room = log_dest.size - 1;

	if (len > room) {
		text += len - room;
		len = room;
	}
	if (log_dest.used + len > room) {
		size_t drop = log_dest.used + len - room;

		memmove(log_dest.buf, log_dest.buf + drop, log_dest.used - drop);
		log_dest.used -= drop;
	}
	memcpy(log_dest.buf + log_dest.used, text, len);
	log_dest.used += len;
	log_dest.buf[log_dest.used] = '\0';
}

static int log_vprintf(const char *format, va_list ap)
{
	char *text;
	int len;

	if (!log_dest.buf)
		return 0;
	len = vasprintf(&text, format, ap);
	if (len < 0)
		return 0;
	log_append(text, len);
	free(text);
	return len;
}

static int log_libbpf(enum libbpf_print_level level, const char *format, va_list ap)
{
	return level == LIBBPF_WARN ? log_vprintf(format, ap) : 0;
}

static int log_libxdp(enum libxdp_print_level level, const char *format, va_list ap)
{
	return level == LIBXDP_WARN ? log_vprintf(format, ap) : 0;
}

void pyxdp_log_install(void)
{
	libbpf_set_print(log_libbpf);
	libxdp_set_print(log_libxdp);
}

void pyxdp_log_begin(char *buf, size_t size)
{
	buf[0] = '\0';
	log_dest.buf = buf;
	log_dest.size = size;
	log_dest.used = 0;
}

void pyxdp_log_end(void)
{
	log_dest.buf = NULL;
}
