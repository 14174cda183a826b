# SPDX-License-Identifier: Apache-2.0
"""The native half of the runtime; stack/api.h and agent/api.h declare it."""

from typing import Any

FORM: str
"""Of the check "page or net_iov?": off, plain or static."""
INSTEAD_OF: str
"""The form that was asked for and is not to be had; empty: FORM is what was asked for."""

ffi: Any  # cffi's stubs do not know the fields of records
lib: Any
