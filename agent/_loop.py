# SPDX-License-Identifier: Apache-2.0
"""The native half of the runtime in this process's form of the check, see stack/form.py.

Raises ConfigError where DEVMEMTCP_NETMEM_CHECK names no form.
"""

from devmemtcp.agent.errors import ConfigError
from devmemtcp.stack.form import load, wanted

try:
    FORM = wanted()
except ValueError as unknown:
    raise ConfigError(str(unknown)) from None
_module = load(__name__, FORM)
ffi = _module.ffi
lib = _module.lib
