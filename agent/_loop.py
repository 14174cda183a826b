# SPDX-License-Identifier: Apache-2.0
"""The native half of the runtime in this process's form of the check, see stack/form.py.

The static form writes code when the first region is bound, so it is tried here, before there is
any loop. Where that is forbidden (MemoryDenyWriteExecute= of systemd, SELinux), the plain form
takes its place: every binding works, and the log and `netmem()` say what was done.

Raises ConfigError where DEVMEMTCP_NETMEM_CHECK names no form.
"""

import logging
import os

from devmemtcp.agent.errors import ConfigError
from devmemtcp.stack.form import load, wanted

try:
    FORM = wanted()
except ValueError as unknown:
    raise ConfigError(str(unknown)) from None
_module = load(__name__, FORM)
INSTEAD_OF = ""
if _error := _module.lib.netmem_key_raise() or _module.lib.netmem_key_lower():
    INSTEAD_OF, FORM = FORM, "plain"
    logging.getLogger(__name__).warning(
        "this process may not change its code (%s): the check of netmem is plain, not %s",
        os.strerror(-_error),
        INSTEAD_OF,
    )
    _module = load(__name__, FORM)
ffi = _module.ffi
lib = _module.lib
