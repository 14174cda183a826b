/* SPDX-License-Identifier: Apache-2.0 */
/*
 * frags.c - reading a batch of fragments through mappings of the region and the data blocks.
 *
 * Each call checks every fragment against the size of the mapping it is given: the batch
 * may come from a runtime on another region. -EFAULT then.
 */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/uio.h>

#include "channel.h"
#include "stack.h"
#include "api.h"

#define TILE 4096u
#define MAX_PERIOD 256u
#define MAX_PIECES 1024u /* IOV_MAX */

static inline bool inside(const struct app_frag *f, uint64_t size)
{
	return f->len <= size && f->offset <= size - f->len;
}

/* NULL: not in either mapping. */
static inline const uint8_t *bytes_of(const struct frags_view *v, const struct app_frag *f)
{
	const bool device = f->kind == RX_DEVICE;

	if (!inside(f, device ? v->region_size : v->data_size))
		return NULL;
	return (device ? v->region : v->data) + f->offset;
}

int64_t frags_bytes(const struct app_frag *frags, uint32_t n)
{
	int64_t sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += frags[i].len;
	return sum;
}

int64_t frags_inside(const struct app_frag *frags, uint32_t n, uint64_t size)
{
	int64_t sum = 0;

	for (uint32_t i = 0; i < n; i++)
		sum += frags[i].kind == RX_DEVICE && inside(&frags[i], size) ? frags[i].len : 0;
	return sum;
}

static int64_t count_different(const uint8_t *a, const uint8_t *b, uint32_t len)
{
	int64_t n = 0;

	if (!memcmp(a, b, len))
		return 0;
	for (uint32_t i = 0; i < len; i++)
		n += a[i] != b[i];
	return n;
}

/* The pattern of ncdevmem's validation: position i of the period holds i + 1, the last '\n'. */
int64_t frags_check(const struct frags_view *view, const struct app_frag *frags, uint32_t n,
		    uint32_t period, uint32_t *phase)
{
	uint8_t tile[TILE + MAX_PERIOD];
	int64_t errors = 0;

	if (period < 2 || period > MAX_PERIOD || *phase >= period)
		return -EINVAL;
	for (uint32_t i = 0; i < sizeof(tile); i++)
		tile[i] = i % period == period - 1 ? '\n' : i % period + 1;
	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *bytes = bytes_of(view, &frags[i]);

		if (!bytes)
			return -EFAULT;
		for (uint32_t at = 0; at < frags[i].len;) {
			uint32_t len = frags[i].len - at < TILE ? frags[i].len - at : TILE;

			errors += count_different(bytes + at, tile + *phase, len);
			*phase = (*phase + len) % period;
			at += len;
		}
	}
	return errors;
}

int64_t frags_write(const struct frags_view *view, const struct app_frag *frags, uint32_t n,
		    uint64_t skip, int fd)
{
	struct iovec pieces[MAX_PIECES];
	uint32_t used = 0;
	ssize_t written;

	for (uint32_t i = 0; i < n && used < MAX_PIECES; i++) {
		const uint8_t *bytes = bytes_of(view, &frags[i]);

		if (!bytes)
			return -EFAULT;
		if (skip >= frags[i].len) {
			skip -= frags[i].len;
			continue;
		}
		pieces[used++] = (struct iovec){
			.iov_base = (uint8_t *)bytes + skip,
			.iov_len = frags[i].len - skip,
		};
		skip = 0;
	}
	if (!used)
		return 0;
	written = writev(fd, pieces, used);
	return written < 0 ? -errno : written;
}

int64_t frags_copy(const struct frags_view *view, const struct app_frag *frags, uint32_t n,
		   uint8_t *out, uint64_t room)
{
	uint64_t done = 0;

	for (uint32_t i = 0; i < n; i++) {
		const uint8_t *bytes = bytes_of(view, &frags[i]);

		if (!bytes)
			return -EFAULT;
		if (frags[i].len > room - done)
			return -ENOSPC;
		memcpy(out + done, bytes, frags[i].len);
		done += frags[i].len;
	}
	return done;
}
