/* SPDX-License-Identifier: Apache-2.0 */
#ifndef DEVMEMTCP_STACK_H
#define DEVMEMTCP_STACK_H

#include <stddef.h>
#include <stdint.h>
#include "api.h"

#endif
