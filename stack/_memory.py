# SPDX-License-Identifier: Apache-2.0
"""The extension of this process's form of the check, see form.py."""

from devmemtcp.stack.form import load, wanted

_module = load(__name__, wanted())
ffi = _module.ffi
lib = _module.lib
