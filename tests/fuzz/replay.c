/* SPDX-License-Identifier: Apache-2.0 */
/*
 * replay.c - the fuzz targets without a fuzzer: tries the inputs that are given, files or
 * folders of them, and ends. For whoever wants to know what they reach, or whether they notice.
 */
#include <dirent.h>
#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static unsigned long inputs;

/* Nothing is mutated here. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size)
{
	return size;
}

static void try_file(const char *path)
{
	FILE *file = fopen(path, "rb");
	uint8_t *data;
	long size;

	if (!file || fseek(file, 0, SEEK_END) || (size = ftell(file)) < 0) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	rewind(file);
	data = malloc((size_t)size); /* exactly as long: one byte more is a sanitizer's find */
	if (fread(data, 1, (size_t)size, file) != (size_t)size) {
		perror(path);
		exit(EXIT_FAILURE);
	}
	fclose(file);
	LLVMFuzzerTestOneInput(data, (size_t)size);
	free(data);
	inputs++;
}

static void try_folder(const char *path)
{
	DIR *folder = opendir(path);
	const struct dirent *entry;
	char name[PATH_MAX];

	if (!folder) {
		try_file(path);
		return;
	}
	while ((entry = readdir(folder))) {
		if (entry->d_name[0] == '.')
			continue;
		snprintf(name, sizeof(name), "%s/%s", path, entry->d_name);
		try_file(name);
	}
	closedir(folder);
}

int main(int argc, char **argv)
{
	for (int i = 1; i < argc; i++)
		try_folder(argv[i]);
	printf("%lu inputs\n", inputs);
	return EXIT_SUCCESS;
}
