/* SPDX-License-Identifier: Apache-2.0 */
/*
 * mutant.c - which mutant is switched on: the environment says it to a program, and a process
 * that has the library loaded already is told by mutant_set().
 */
#include <stdlib.h>

extern int mutant;
void mutant_set(int number);

int mutant;

__attribute__((visibility("default"))) void mutant_set(int number)
{
	mutant = number;
}

__attribute__((constructor)) static void ask_the_environment(void)
{
	const char *number = getenv("MUTANT");

	mutant = number ? atoi(number) : 0;
}
