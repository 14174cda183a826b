# SPDX-License-Identifier: Apache-2.0
"""What this process, this machine and this interface lack, found before anything is changed."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

from devmemtcp.agent._loop import FORM, lib
from devmemtcp.agent.datapath_config import DatapathConfig, umem_size
from devmemtcp.agent.errors import ConfigError, Unsupported
from devmemtcp.agent.netdev import NetDev
from devmemtcp.agent.region import PAGE_SIZE
from devmemtcp.pyxdp.features import Features
from devmemtcp.xdp_prog import PROGRAM_FRAGS, PROGRAM_LINEAR

MIN_MTU, MAX_MTU = 576, 65535
LINEAR_MTU = 3498
"""Of a native program without xdp.frags: what fits a page beside XDP's headroom (veth, 4 KiB)."""

_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_BPF": 39, "CAP_PERFMON": 38}
_CAP_SYS_ADMIN = 21
_IN_SYS_ADMIN = {"CAP_BPF", "CAP_PERFMON"}
_CAP_IPC_LOCK = 14


def _effective_capabilities() -> int:
    for line in Path("/proc/thread-self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def check_capabilities() -> None:
    """Raises PermissionError that names the capabilities this process lacks."""
    have = _effective_capabilities()
    missing = [name for name, bit in _CAPABILITIES.items() if not have >> bit & 1]
    if have >> _CAP_SYS_ADMIN & 1:
        missing = [name for name in missing if name not in _IN_SYS_ADMIN]
    if missing:
        raise PermissionError(errno.EPERM, f"it needs {', '.join(missing)}")


def check_device_memory() -> None:
    """Raises ConfigError (EOPNOTSUPP) where regions cannot be bound, whatever they are."""
    if FORM == "off":
        raise ConfigError(
            "this build has no device memory (NET_DEVMEM=n): receive into host memory, or set "
            "DEVMEMTCP_NETMEM_CHECK to plain or static",
            errno.EOPNOTSUPP,
        )


def check_features(can: Features, config: DatapathConfig) -> None:
    """Raises Unsupported for what this kernel or driver cannot do and the configuration needs."""
    for name, what in (("af_xdp", "AF_XDP"), ("unaligned_chunks", "unaligned UMEM chunks")):
        if getattr(can, name) is False:
            raise Unsupported(f"{can.ifname} cannot have {what}: {can.reasons.get(name)}")
    if not config.multi_buffer and (config.mode == "generic" or config.mtu > LINEAR_MTU):
        raise Unsupported(
            f"{can.ifname}: packets of more than one buffer need Linux 6.6 (XDP_USE_SG); without "
            f"it only native mode with an MTU of at most {LINEAR_MTU} works"
        )


def check_interface(dev: NetDev, config: DatapathConfig, *, force: bool) -> None:
    """Whether the interface can be taken. `force`: even if the default route leaves by it.

    Raises ConfigError, Unsupported.
    """
    name = config.ifname
    if dev.default_route and not force:
        raise ConfigError(
            f"the default route leaves by {name}: taking it may cut this machine off; "
            "choose another interface, or insist (force=True, --force)"
        )
    if dev.loopback:
        raise ConfigError(
            f"{name} is the loopback device, which no packet of another host comes by; choose "
            "a NIC, or one end of a veth pair as `devmemtcp demo` makes it"
        )
    if not dev.up:
        raise ConfigError(f"{name} is down; `ip link set {name} up`")
    if not MIN_MTU <= config.mtu <= MAX_MTU:
        raise ConfigError(f"{name} has an MTU of {config.mtu}; {MIN_MTU} to {MAX_MTU} work")
    for cpu in (config.cpu, config.napi_cpu):
        if cpu is not None and cpu not in os.sched_getaffinity(0):
            raise ConfigError(f"{name}: CPU {cpu} is not among those this process may run on")
    if config.napi_cpu is not None and (config.mode, dev.features.driver) != ("native", "veth"):
        raise ConfigError(
            f"NAPI of {name} cannot be moved to CPU {config.napi_cpu}: that is for a veth in "
            "native mode; a NIC's follows its interrupts, see /proc/irq/*/smp_affinity"
        )
    if config.max_buffers > lib.STACK_MAX_NIOVS:
        raise ConfigError(
            f"{name}: {config.max_buffers * PAGE_SIZE >> 20} MiB to receive into, in device memory "
            f"and in host memory of {config.queues} queues, are more than the "
            f"{lib.STACK_MAX_NIOVS * PAGE_SIZE >> 20} MiB that one interface can have"
        )
    if config.queues > lib.STACK_MAX_QUEUES:
        raise ConfigError(
            f"{name} has {config.queues} RX queues, {lib.STACK_MAX_QUEUES} are possible; "
            f"see `ethtool -L {name}`"
        )
    if dev.features.programs:
        program = dev.features.programs[0]
        # Ours are held by a link, which `ip` cannot take off.
        what_to_do = (
            "another agent or receiver has the interface, `bpftool link show` tells its process"
            if program.name in (PROGRAM_FRAGS, PROGRAM_LINEAR)
            else f"`ip link set {name} xdp off` takes it off"
        )
        raise ConfigError(f"{name} has an XDP program already: {program}; {what_to_do}")
    check_features(dev.features, config)


def check_mappings(buffers: int) -> None:
    """Until it is sealed, each page of a region is a mapping, and its header page another.

    Raises ConfigError when there are too many.
    """
    limit = int(Path("/proc/sys/vm/max_map_count").read_text())
    others = len(Path("/proc/self/maps").read_text().splitlines()) + 64
    needed = lib.mosaic_mappings(buffers) + others
    if needed > limit:
        most = (limit - others) // 2 * PAGE_SIZE >> 20
        raise ConfigError(
            f"a region of {buffers * PAGE_SIZE} bytes needs {needed} mappings while it is "
            f"set up, vm.max_map_count allows {limit}: take at most {most} MiB, or "
            f"`sysctl -w vm.max_map_count={needed}`"
        )


def check_memlock(areas: list[int]) -> None:
    """For areas of so many buffers each.

    Raises ConfigError for more UMEM than this process may lock (xdp_umem_account_pages()).
    """
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit == resource.RLIM_INFINITY or _effective_capabilities() >> _CAP_IPC_LOCK & 1:
        return
    needed = sum(map(umem_size, areas))
    if needed > limit:
        raise ConfigError(
            f"{sum(areas) * PAGE_SIZE} bytes to receive into need {needed} bytes of locked "
            f"memory, the limit is {limit}: `ulimit -l unlimited`, or run it as root"
        )
