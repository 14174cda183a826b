# SPDX-License-Identifier: Apache-2.0
"""What this process, this machine and this interface lack, found before anything is changed.

Each rule is here once. `*_refusals()` tell what does not hold, which `devmemtcp doctor` shows all
of; `check_*()` raise the first.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from shlex import quote

from devmemtcp.agent._loop import FORM, lib
from devmemtcp.agent.datapath_config import AttachMode, DatapathConfig, umem_layout, umem_size
from devmemtcp.agent.errors import ConfigError, Unsupported
from devmemtcp.agent.netdev import NetDev
from devmemtcp.agent.refusal import Refusal, raise_first
from devmemtcp.agent.region import PAGE_SIZE
from devmemtcp.agent.zerocopy import zero_copy_refusals
from devmemtcp.pyxdp import AttachedProgram, Mode
from devmemtcp.pyxdp.features import Features, features
from devmemtcp.xdp_prog import PROGRAM_FRAGS, PROGRAM_LINEAR

MIN_MTU, MAX_MTU = 576, 65535
LINEAR_MTU = 3498
"""Of a native program without xdp.frags: what fits a page beside XDP's headroom (veth, 4 KiB)."""

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_BPF": 39, "CAP_PERFMON": 38}
_CAP_SYS_ADMIN = 21
_IN_SYS_ADMIN = {"CAP_BPF", "CAP_PERFMON"}
_CAP_IPC_LOCK = 14
_CAP_SYS_RESOURCE = 24


def _effective_capabilities() -> int:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def locks_without_limit() -> bool:
    """Whether RLIMIT_MEMLOCK is no limit for this process (CAP_IPC_LOCK, or it is infinite)."""
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return limit == resource.RLIM_INFINITY or bool(_effective_capabilities() >> _CAP_IPC_LOCK & 1)


def capability_refusals() -> Iterator[Refusal]:
    """For a process that takes an interface; applications of an agent need no capability."""
    have = _effective_capabilities()
    missing = [name for name, bit in _CAPABILITIES.items() if not have >> bit & 1]
    if have >> _CAP_SYS_ADMIN & 1:
        missing = [name for name in missing if name not in _IN_SYS_ADMIN]
    if missing:
        yield Refusal(
            "capabilities",
            f"it needs {', '.join(missing)}",
            "every mode wants them; be root, or receive by an agent, which needs none (--agent)",
        )


def check_capabilities() -> None:
    """Raises PermissionError that names the capabilities this process lacks."""
    for refusal in capability_refusals():
        raise PermissionError(errno.EPERM, refusal.found)


def check_device_memory() -> None:
    """Raises ConfigError (EOPNOTSUPP) where regions cannot be bound, whatever they are."""
    raise_first(device_memory_refusals())


def device_memory_refusals() -> Iterator[Refusal]:
    """For a build that cannot have any."""
    if FORM == "off":
        yield Refusal(
            "device memory",
            "this build has no device memory (NET_DEVMEM=n)",
            "receive into host memory, or set DEVMEMTCP_NETMEM_CHECK to plain or static",
            kind=partial(ConfigError, errno=errno.EOPNOTSUPP),
        )


def feature_refusals(can: Features) -> Iterator[Refusal]:
    """For a kernel or a driver without what every mode needs."""
    for name, what in (("af_xdp", "AF_XDP"), ("unaligned_chunks", "unaligned UMEM chunks")):
        if getattr(can, name) is False:
            yield Refusal(
                what,
                f"{can.ifname} cannot have {what}",
                can.reasons.get(name, "no reason is known"),
                kind=Unsupported,
            )


def buffer_refusals(
    can: Features, mode: AttachMode | None, mtu: int, *, multi_buffer: bool
) -> Iterator[Refusal]:
    """For packets that are longer than a buffer, where a packet has but one.

    Generic mode sees what GRO has merged and, on a veth, what the peer has not cut. Which mode it
    will be is not known for None: `check_attached()`.
    """
    if mode == "zerocopy":
        yield from zero_copy_refusals(can, mtu)
        return
    if multi_buffer:
        return
    found = f"{can.ifname}: packets of more than one buffer need Linux 6.6 (XDP_USE_SG)"
    if mtu > LINEAR_MTU:
        means = f"without it only an MTU of at most {LINEAR_MTU} works"
        mend = f"ip link set {quote(can.ifname)} mtu {LINEAR_MTU}"
        yield Refusal("MTU", found, means, mend, kind=Unsupported)
    if mode == "generic" and can.driver == "veth":
        means = "without it only native mode works on a veth"
        yield Refusal("MTU", found, means, kind=Unsupported)
    elif mode == "generic" and can.gro:
        means = "without it generic mode loses what GRO merges"
        mend = f"ethtool -K {quote(can.ifname)} gro off"
        yield Refusal("GRO", found, means, mend, kind=Unsupported)


def check_attached(config: DatapathConfig, mode: str) -> None:
    """Whether it works in the mode that came out, where the driver had the choice.

    To be called in the interface's namespace. Raises Unsupported.
    """
    if config.mode is None and mode == "generic" and not config.multi_buffer:
        can = features(config.ifname)
        raise_first(buffer_refusals(can, "generic", config.mtu, multi_buffer=False))


def link_refusals(dev: NetDev, mtu: int, *, force: bool) -> Iterator[Refusal]:
    """For an interface that should not be taken or has nothing to take.

    `force`: even if the default route leaves by it.
    """
    name = dev.features.ifname
    if dev.default_route and not force:
        yield Refusal(
            "default route",
            f"the default route leaves by {name}",
            "taking it may cut this machine off; choose another interface, or insist (--force; "
            "force=True)",
        )
    if dev.loopback:
        yield Refusal(
            "link",
            f"{name} is the loopback device",
            "no packet of another host comes by it; choose a NIC, or one end of a veth pair as "
            "`devmemtcp demo` makes it",
        )
        return  # nothing that could be set makes it one
    if not dev.up:
        mend = f"ip link set {quote(name)} up"
        yield Refusal("link", f"{name} is down", "it receives nothing", mend)
    if not MIN_MTU <= mtu <= MAX_MTU:
        yield Refusal(
            "MTU",
            f"{name} has an MTU of {mtu}",
            f"{MIN_MTU} to {MAX_MTU} work",
            f"ip link set {quote(name)} mtu 1500",
        )


def queue_refusals(can: Features, queues: int) -> Iterator[Refusal]:
    """For an interface with more queues than a stack can have."""
    if queues > lib.STACK_MAX_QUEUES:
        kind = "combined" if can.combined_queues else "rx"
        yield Refusal(
            "queues",
            f"{can.ifname} has {queues} RX queues",
            f"{lib.STACK_MAX_QUEUES} are possible",
            f"ethtool -L {quote(can.ifname)} {kind} {lib.STACK_MAX_QUEUES}",
        )


def program_refusals(name: str, programs: Collection[AttachedProgram]) -> Iterator[Refusal]:
    """For an interface that has an XDP program already."""
    from devmemtcp.agent.holders import who_has_link  # rarely asked, and much to load

    for program in programs:
        where = "xdpgeneric" if program.mode is Mode.GENERIC else "xdpdrv"
        mend: str | None = f"ip link set {quote(name)} {where} off"
        if program.name in (PROGRAM_FRAGS, PROGRAM_LINEAR):
            means = "another agent or receiver has the interface; stop that, or take another one"
            mend = None
        elif program.link_id is not None:  # `ip` cannot take it off
            means = "an interface has one"
            mend = f"bpftool link detach id {program.link_id}"
        else:
            means = "an interface has one"
        by = "" if program.link_id is None else f", by {who_has_link(program.link_id)}"
        found = f"{name} has an XDP program already: {program}{by}"
        yield Refusal("XDP program", found, means, mend)


def memory_refusals(name: str, buffers: int, queues: int) -> Iterator[Refusal]:
    """For more buffers than one stack can count."""
    if buffers > lib.STACK_MAX_NIOVS:
        yield Refusal(
            "memory",
            f"{name}: {buffers * PAGE_SIZE >> 20} MiB to receive into, in device memory "
            f"and in host memory of {queues} queues",
            f"they are more than the {lib.STACK_MAX_NIOVS * PAGE_SIZE >> 20} MiB that one "
            "interface can have",
        )


def cpu_refusals(dev: NetDev, config: DatapathConfig) -> Iterator[Refusal]:
    """For CPUs that the loop or NAPI cannot be on."""
    name = config.ifname
    for cpu in (config.cpu, config.napi_cpu):
        if cpu is not None and cpu not in os.sched_getaffinity(0):
            yield Refusal(
                "CPU",
                f"{name}: CPU {cpu} is not among those this process may run on",
                f"those are {sorted(os.sched_getaffinity(0))}",
            )
    if config.napi_cpu is not None and (config.mode, dev.features.driver) != ("native", "veth"):
        yield Refusal(
            "CPU",
            f"NAPI of {name} cannot be moved to CPU {config.napi_cpu}",
            "that is for a veth in native mode; a NIC's follows its interrupts, see "
            "/proc/irq/*/smp_affinity",
        )


def check_interface(dev: NetDev, config: DatapathConfig, *, force: bool) -> None:
    """Whether the interface can be taken. `force`: even if the default route leaves by it.

    Raises ConfigError, Unsupported.
    """
    name, can = config.ifname, dev.features
    raise_first(link_refusals(dev, config.mtu, force=force))
    raise_first(cpu_refusals(dev, config))
    raise_first(memory_refusals(name, config.max_buffers, config.queues))
    raise_first(queue_refusals(can, config.queues))
    raise_first(program_refusals(name, can.programs))
    raise_first(feature_refusals(can))
    raise_first(buffer_refusals(can, config.mode, config.mtu, multi_buffer=config.multi_buffer))


def _mappings() -> tuple[int, int]:
    """How many this process may have, and how many of them are none of a region's."""
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    return limit, len(Path("/proc/self/maps").read_text().splitlines()) + 64


def most_buffers() -> int:
    """That a region may have here, for vm.max_map_count."""
    limit, others = _mappings()
    return (limit - others) // 2


def mapping_refusals(buffers: int, mode: AttachMode | None = None) -> Iterator[Refusal]:
    """Until it is sealed, each page of a region is a mapping, and its header page another."""
    limit, others = _mappings()
    needed = lib.mosaic_mappings(umem_layout(mode), buffers) + others
    if needed > limit:
        yield Refusal(
            "max_map_count",
            f"a region of {buffers * PAGE_SIZE} bytes needs {needed} mappings while it is "
            f"set up, vm.max_map_count allows {limit}",
            f"take at most {most_buffers() * PAGE_SIZE >> 20} MiB, or more mappings",
            f"sysctl -w vm.max_map_count={needed}",
        )


def check_mappings(buffers: int, mode: AttachMode | None = None) -> None:
    """Raises ConfigError when a region of so many buffers has too many mappings."""
    raise_first(mapping_refusals(buffers, mode))


def memlock_refusals(areas: list[int], mode: AttachMode | None = None) -> Iterator[Refusal]:
    """For more UMEM than this process may lock (xdp_umem_account_pages())."""
    if locks_without_limit():
        return
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    needed = sum(umem_size(buffers, mode) for buffers in areas)
    if needed > limit:
        yield Refusal(
            "memlock",
            f"{sum(areas) * PAGE_SIZE} bytes to receive into need {needed} bytes of locked "
            f"memory, the limit is {limit}",
            "raise it, or have CAP_IPC_LOCK, as root has",
            _raise_memlock(needed),
        )


def _raise_memlock(needed: int) -> str:
    """What this shell may do: up to the hard limit, or past it by privilege, its own or sudo's."""
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    if hard == resource.RLIM_INFINITY:
        return "ulimit -S -l unlimited"
    if needed > hard and not _effective_capabilities() >> _CAP_SYS_RESOURCE & 1:
        return f"sudo prlimit --pid $$ --memlock={needed}:{needed}"
    return f"ulimit {'-S ' if needed <= hard else ''}-l {-(-needed // 1024)}"


def check_memlock(areas: list[int], mode: AttachMode | None = None) -> None:
    """For areas of so many buffers each.

    Raises ConfigError for more UMEM than this process may lock.
    """
    raise_first(memlock_refusals(areas, mode))
