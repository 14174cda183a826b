# SPDX-License-Identifier: Apache-2.0
"""Names of attributes, as in the YAML specification, from a pyroute2 message's own tables."""

from __future__ import annotations

from typing import Any


def attribute_name(message: Any, offset: int) -> str | None:
    """Return the path of the attribute that begins at `offset` of an encoded message.

    ``queues/type`` is ``type`` in a nest ``queues``; None: none begins there.
    """
    for slot in message["attrs"]:
        name, attribute = slot.cell
        begin, end = attribute.offset, attribute.offset + attribute.length
        if offset == begin:
            return short_name(message, name)
        if begin < offset < end and "attrs" in attribute:
            inner = attribute_name(attribute, offset)
            return inner and f"{short_name(message, name)}/{inner}"
    return None


def missing_name(message: Any, number: int, nest: int | None) -> str | None:
    """Return the path of attribute `number` that a message, or its nest at a byte, lacks."""
    if nest is None:
        name = _names(message).get(number)
        return name and short_name(message, name)
    for slot in message["attrs"]:
        name, attribute = slot.cell
        if attribute.offset <= nest < attribute.offset + attribute.length:
            deeper = None if attribute.offset == nest else nest
            inner = missing_name(attribute, number, deeper)
            return inner and f"{short_name(message, name)}/{inner}"
    return None


def short_name(message: Any, name: str) -> str:
    """``NETDEV_A_QUEUE_NAPI_ID`` of a message with the prefix ``NETDEV_A_QUEUE_``: ``napi-id``."""
    return name.removeprefix(message.prefix or "").lower().replace("_", "-")


def _names(message: Any) -> dict[int, str]:
    """Number and name of what a message may hold; pyroute2 has two ways to write it down."""
    return {
        entry[0] if isinstance(entry[0], int) else number: next(
            part for part in entry if isinstance(part, str)
        )
        for number, entry in enumerate(message.nla_map)
    }
