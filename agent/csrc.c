/* SPDX-License-Identifier: Apache-2.0 */
/* What cffi's generated wrappers need to see; the functions are in the files of api.h's headings. */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "stack.h"
#include "channel.h"
#include "api.h"
