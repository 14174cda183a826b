/* SPDX-License-Identifier: Apache-2.0 */
/*
 * pyxdp.h - the headers that api.h, which is plain declarations, takes for granted.
 *
 * Including the libraries first makes the compiler compare their prototypes with
 * the copies in api.h.
 */
#ifndef PYXDP_H
#define PYXDP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <xdp/libxdp.h>
#include <xdp/xsk.h>

#include "api.h"

#endif
