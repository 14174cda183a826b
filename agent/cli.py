# SPDX-License-Identifier: Apache-2.0
"""The command line."""


def main() -> None:
    """Entry point of `devmemtcp`."""
    raise SystemExit(2)
