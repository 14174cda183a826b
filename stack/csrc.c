/* SPDX-License-Identifier: Apache-2.0 */
/*
 * csrc.c - the data plane as the Python extension devmemtcp.stack._stack.
 *
 * cffi reads the declarations from api.h and compiles against the same header, so a
 * signature that drifts does not build. Calls release the GIL; a stack belongs to
 * whoever holds its memory and is used by one thread at a time.
 */
#include "stack.h"
