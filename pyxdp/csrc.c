/* SPDX-License-Identifier: Apache-2.0 */
/* What the generated module sees before its wrappers: the libraries, then our list of calls. */
#include "pyxdp.h"
