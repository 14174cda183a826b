# SPDX-License-Identifier: Apache-2.0
"""What meson makes of form_default.py.in."""

NETMEM_CHECK: str
