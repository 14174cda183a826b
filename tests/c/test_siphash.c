/* SPDX-License-Identifier: Apache-2.0 */
/* SipHash-2-4 against the vectors of its authors: key 00..0f, message 00, 01, 02, ... */
#include "check.h"
#include "siphash.h"

static void agrees_with_the_published_vectors(void)
{
	static const struct {
		size_t len;
		uint64_t hash;
	} rows[] = {
		{0, 0x726fdb47dd0e0e31ULL},
		{8, 0x93f5f5799a932462ULL},
		{16, 0x3f2acc7f57c29bdbULL},
		{24, 0xb8ad50c6f649af94ULL},
	};
	uint8_t key[16], message[64];

	for (uint8_t i = 0; i < 16; i++)
		key[i] = i;
	for (uint8_t i = 0; i < 64; i++)
		message[i] = i;
	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++)
		CHECK(siphash(message, rows[i].len, key) == rows[i].hash);
}

int main(void)
{
	static const struct check_test tests[] = {CHECK_TEST(agrees_with_the_published_vectors)};

	return check_main(tests, 1);
}
