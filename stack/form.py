# SPDX-License-Identifier: Apache-2.0
"""Which form of the check "page or net_iov?" a process uses: netmem.h has them.

The core is built in all of them, each an extension module of its own (`_stack_off`,
`_stack_plain`, `_stack_static`; `_memory_` and the agent's `_loop_` likewise). One process uses
one form: that of the environment variable DEVMEMTCP_NETMEM_CHECK, or else the build's.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from devmemtcp.stack.form_default import NETMEM_CHECK

FORMS = ("off", "plain", "static")
VARIABLE = "DEVMEMTCP_NETMEM_CHECK"


def wanted() -> str:
    """The form that was asked for. Raises ValueError when there is none by that name."""
    form = os.environ.get(VARIABLE, NETMEM_CHECK)
    if form not in FORMS:
        raise ValueError(f"{VARIABLE} must be one of {', '.join(FORMS)}, not {form!r}")
    return form


def load(module: str, form: str) -> ModuleType:
    """The extension `module` in a form."""
    return import_module(f"{module}_{form}")
