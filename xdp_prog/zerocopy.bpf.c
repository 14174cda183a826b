/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * zerocopy.bpf.c - the program of devmemtcp.bpf.c for sockets in zero-copy mode.
 *
 * An object of its own, because it needs the running kernel's BTF: libbpf would read that, some
 * megabytes, for every other mode as well.
 */
#include "chunk.h"
#include "devmemtcp.bpf.c"
