# SPDX-License-Identifier: Apache-2.0
"""The command of each benchmark: its options, and what it prints."""
