# SPDX-License-Identifier: Apache-2.0
"""The calls of pool_api.h, through cffi."""

from typing import Any

ffi: Any
lib: Any
