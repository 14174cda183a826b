// SPDX-License-Identifier: Apache-2.0
/* What cffi compiles: the declarations it was given. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "pool_api.h"
