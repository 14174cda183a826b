# SPDX-License-Identifier: Apache-2.0
"""Linux devmem TCP without the special NIC."""

__version__ = "0.1.0"
