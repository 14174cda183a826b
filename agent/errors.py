# SPDX-License-Identifier: Apache-2.0
"""Whose fault it is.

* `ConfigError`: the caller's. One clear line: what is wrong and what to do about it.
* `OSError` and its subclasses: the kernel's, with errno.
* `Unsupported`: the machine lacks a capability (a test may skip on this one, and on no other).
"""

from devmemtcp.pyxdp import Unsupported, XdpError

__all__ = ["ConfigError", "Unsupported", "XdpError"]


class ConfigError(ValueError):
    """What was asked for cannot work, and nothing was changed."""
