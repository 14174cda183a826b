/* SPDX-License-Identifier: Apache-2.0 */
#include "api.h"

int pyxdp_placeholder(void)
{
	return 0;
}
