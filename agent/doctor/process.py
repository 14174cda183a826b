# SPDX-License-Identifier: Apache-2.0
"""What this process may do: capabilities, locked memory, mappings."""

from __future__ import annotations

import resource
from collections.abc import Iterator

from devmemtcp.agent import preflight
from devmemtcp.agent.doctor.record import Check, ok
from devmemtcp.agent.region import PAGE_SIZE


def checks(region_size: int, host_buffers: int) -> Iterator[Check]:
    """For a region of so many bytes; `host_buffers`: 4096 bytes each, of queues without one."""
    yield _capabilities()
    yield _memlock([region_size // PAGE_SIZE, host_buffers])
    yield _mappings(region_size // PAGE_SIZE)


def _capabilities() -> Check:
    for refusal in preflight.capability_refusals():
        return Check.of(refusal)
    return ok("capabilities", "all that are needed", "this process may take an interface")


def _memlock(areas: list[int]) -> Check:
    for refusal in preflight.memlock_refusals(areas):
        return Check.of(refusal)
    if preflight.locks_without_limit():
        return ok("memlock", "no limit", "regions are limited by the machine's memory")
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    return ok("memlock", f"{limit} bytes", f"enough for {sum(areas) * PAGE_SIZE} bytes")


def _mappings(buffers: int) -> Check:
    for refusal in preflight.mapping_refusals(buffers):
        return Check.of(refusal)
    most = preflight.most_buffers() * PAGE_SIZE >> 20
    return ok("max_map_count", f"regions of up to {most} MiB", "the largest one binding can have")
