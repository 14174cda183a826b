# SPDX-License-Identifier: Apache-2.0
"""The control plane: the kernel's netdev family, its messages, policy and errors."""
