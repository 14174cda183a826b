# SPDX-License-Identifier: Apache-2.0
"""How slow this machine is: the one place that knows, for limits of time in tests.

An emulated CPU takes ten times as long for the same test. A limit is there to end what hangs,
so it is multiplied by this; what a test measures never is.
"""

from __future__ import annotations

import os

VARIABLE = "DEVMEMTCP_SLOWNESS"

SLOWNESS = float(os.environ.get(VARIABLE, "1"))
"""Times the seconds that a machine of today would need."""
EMULATED = 10.0
"""That of a guest without KVM (tests/vm)."""
