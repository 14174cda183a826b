# SPDX-License-Identifier: Apache-2.0
"""What the doctor must find, by driver and kernel: of running ones, and of those recorded."""

from __future__ import annotations

from typing import Any, NamedTuple

Release = tuple[int, int]


class Expected(NamedTuple):
    """Of one driver in one kernel."""

    native: bool
    zero_copy: bool
    auto: str
    usable: str
    """Modes, with blanks between them."""


TABLE = {
    ("veth", (6, 1)): Expected(True, False, "native", "native"),
    ("veth", (6, 12)): Expected(True, False, "generic", "native generic"),
    ("veth", (6, 18)): Expected(True, False, "generic", "native generic"),
    ("veth", (7, 3)): Expected(True, False, "generic", "native generic"),
    ("virtio_net", (6, 1)): Expected(True, False, "native", "native"),
    ("virtio_net", (6, 12)): Expected(True, False, "native", "native generic"),
    ("virtio_net", (7, 3)): Expected(True, True, "native", "native generic zerocopy"),
    ("igb", (6, 1)): Expected(True, False, "native", "native"),
    ("igb", (6, 12)): Expected(True, False, "native", "native generic"),
    ("igb", (7, 3)): Expected(True, True, "native", "native generic zerocopy"),
    ("vmxnet3", (6, 1)): Expected(False, False, "generic", ""),
    ("vmxnet3", (6, 12)): Expected(True, False, "native", "native generic"),
    ("vmxnet3", (7, 3)): Expected(True, False, "native", "native generic"),
}


def differences(said: dict[str, Any], release: Release) -> list[str] | None:
    """Between a report, as in its JSON document, and what is right; None: nobody has said."""
    checks = {check["name"]: check for check in said["checks"]}
    driver = checks["driver"]["found"]
    if (driver, release) not in TABLE:
        return None
    expected = TABLE[driver, release]
    usable = [mode["mode"] for mode in said["modes"] if mode["usable"]]
    pairs = {
        "native XDP": (checks["native XDP"]["state"] == "ok", expected.native),
        "zero-copy": (checks["zero-copy"]["mend"] is not None, expected.zero_copy),
        "auto": ([mode["mode"] for mode in said["modes"] if mode["chosen"]], [expected.auto]),
        "usable": (usable, expected.usable.split()),
        "ok": (bool(usable), bool(expected.usable)),
    }
    return [
        f"{driver} on Linux {release}: {name} is {found}, not {right}"
        for name, (found, right) in pairs.items()
        if found != right
    ]
