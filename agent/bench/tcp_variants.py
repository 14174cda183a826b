# SPDX-License-Identifier: Apache-2.0
"""What is measured side by side in `bench tcp-rx`: receivers, and one factor of each at a time.

Names are `WHO-MODE/FACTOR`: `devmem-generic` is ours with everything as it comes, in generic
mode, and `devmem-generic/ack-8` differs from it by one thing alone. Among the kernel's,
`kernel-plain` has no segmentation offloads, and `kernel-pass-MODE` an XDP program that passes
everything on, attached as ours is. `copies/...` are there for their differences, see copies.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from devmemtcp.agent.datapath_config import ACK_SEGMENTS, XdpMode, attach_mode
from devmemtcp.agent.header_path import HeaderPath

Attached = Literal["native", "generic"]


@dataclass(frozen=True)
class Variant:
    """A way to receive."""

    name: str
    receiver: Literal["devmem", "kernel"]
    family: str
    """The name of the variant whose cores it has."""
    mode: Attached | None = None
    """Of the XDP program; None: there is none."""
    segmentation: bool = True
    """TSO, GSO and GRO as the veth has them; else off, on both ends."""
    tx_checksum: bool = True
    """Checksums left unfinished, as over a veth nothing can damage them."""
    discard: bool = False
    """The kernel's: take bytes off the socket without a copy (MSG_TRUNC)."""
    check: str | None = None
    """Ours: the form of the check "page or net_iov?"; None: the build's."""
    host: bool = False
    """Ours: into host memory, from where the stack copies what comes."""
    ack_segments: int = ACK_SEGMENTS
    spin_us: int = 0
    busy_poll: bool = False
    copy: bool = False
    """Ours: copy every byte out of the region."""
    headers: HeaderPath | None = None
    """Ours: how headers reach the stack; None: as the kernel has room for."""

    @property
    def base(self) -> bool:
        """Nothing is varied."""
        return self.name == self.family


@dataclass(frozen=True)
class Factors:
    """What is varied, each alone."""

    modes: tuple[XdpMode, ...]
    build: str
    """The form of the check that the base has."""
    checks: tuple[str, ...] = ()
    acks: tuple[int, ...] = ()
    spins: tuple[int, ...] = ()
    busy_poll: bool = False
    copy: bool = False
    slots: bool = False


def attached(mode: XdpMode) -> Attached:
    """How `mode` attaches on a veth."""
    found = attach_mode(mode, "veth")
    assert found is not None  # a veth is never left to be tried
    return found


def ours(mode: XdpMode) -> str:
    """Name of our base variant."""
    return f"devmem-{attached(mode)}"


def passing(mode: XdpMode) -> str:
    """Name of the kernel's with an XDP program."""
    return f"kernel-pass-{attached(mode)}"


KERNEL, PLAIN = "kernel", "kernel-plain"
COPIES = "copies"
RECV, DISCARD, DISCARD_XDP = "copies/recv", "copies/discard", "copies/discard-xdp"
HOST_OFF = "host-off"
PLAIN_SUM = "kernel-plain-sum"


def catalogue(factors: Factors, *, brief: bool = False) -> list[Variant]:
    """All variants, in the order in which they are reported.

    `brief`: what the aims and the bound need, and factors in the first mode only.
    """
    modes: list[XdpMode] = list({attached(mode): None for mode in factors.modes})
    found: list[Variant] = []
    for mode in modes:
        ours_here = _devmem(mode, factors)
        found += [each for each in ours_here if each.base or mode == modes[0] or not brief]
    found += [
        Variant(KERNEL, "kernel", KERNEL),
        Variant(PLAIN, "kernel", PLAIN, segmentation=False),
        Variant(PLAIN_SUM, "kernel", PLAIN, segmentation=False, tx_checksum=False),
    ]
    for mode in modes:
        name = passing(mode)
        found.append(Variant(name, "kernel", name, mode=attached(mode)))
    found += [
        Variant(RECV, "kernel", COPIES),
        Variant(DISCARD, "kernel", COPIES, discard=True),
        Variant(DISCARD_XDP, "kernel", COPIES, discard=True, mode="generic"),
    ]
    return [each for each in found if not (brief and each.name == PLAIN_SUM)]


def _devmem(mode: XdpMode, factors: Factors) -> Iterator[Variant]:
    name = ours(mode)
    base = Variant(name, "devmem", name, mode=attached(mode))
    yield base
    for check in factors.checks:
        if check not in ("off", factors.build):  # off has no device memory, the build's is the base
            yield replace(base, name=f"{name}/device-{check}", check=check)
        yield replace(base, name=f"{name}/host-{check}", check=check, host=True)
    for every in factors.acks:
        yield replace(base, name=f"{name}/ack-{every}", ack_segments=every)
    for spin in factors.spins:
        yield replace(base, name=f"{name}/spin-{spin}us", spin_us=spin)
    if factors.busy_poll:
        yield replace(base, name=f"{name}/busy-poll", busy_poll=True)
    if factors.copy:
        yield replace(base, name=f"{name}/copy", copy=True)
    if factors.slots:
        yield replace(base, name=f"{name}/slots", headers="slot")


def contrasts(variants: Iterable[Variant]) -> Iterator[tuple[str, str]]:
    """(variant, against what it is held): a factor against none, ours against the kernel's.

    Host memory is held against host memory, and its build without a check.
    """
    everyone = {variant.name: variant for variant in variants}
    for name, variant in everyone.items():
        host_off = f"{variant.family}/{HOST_OFF}"
        if variant.host and name != host_off:
            against = [host_off]
        elif not variant.base:
            against = [variant.family]
        elif variant.receiver == "devmem":
            against = [KERNEL, PLAIN, f"kernel-pass-{variant.mode}"]
        else:
            against = []
        yield from ((name, each) for each in against if each in everyone)
