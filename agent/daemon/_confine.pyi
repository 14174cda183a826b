# SPDX-License-Identifier: Apache-2.0
"""What the agent gives up, natively; daemon/api.h declares it."""

from typing import Any

ffi: Any
lib: Any
