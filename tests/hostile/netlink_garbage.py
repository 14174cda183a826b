# SPDX-License-Identifier: Apache-2.0
"""Netlink requests that nearly make sense.

Random bytes alone never get past the first header. So messages are built from the policies of
the families they are meant for, with values at and beyond each limit, and only then damaged:
bytes changed, lengths that lie, ends cut off, pieces repeated.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from random import Random

from devmemtcp.netlink.constants import MsgFlag, NlaFlag, PolicyType
from devmemtcp.netlink.family import Family, Op
from devmemtcp.netlink.policy import Policy, Rule

_NLMSGHDR = struct.Struct("=IHHII")
_NLAHDR = struct.Struct("=HH")

_FLAGS = (
    MsgFlag.REQUEST,
    MsgFlag.REQUEST | MsgFlag.ACK,
    MsgFlag.REQUEST | MsgFlag.DUMP,
    MsgFlag.REQUEST | MsgFlag.DUMP | MsgFlag.ACK,
)
_SIZES = {PolicyType.U8: 1, PolicyType.U16: 2, PolicyType.U32: 4, PolicyType.U64: 8}
_EDGES = (0, 1, 2, 3, 7, 8, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)
_DEPTH = 12  # nests within nests: more than the ten that a policy may have


class NetlinkGarbage:
    """A source of datagrams for a server with these families; the same seed, the same ones.

    ``seen`` are numbers worth trying where a number is asked for: interface indices, the ids
    of other people's bindings, descriptors. Add to it what the server gives away.
    """

    def __init__(
        self, random: Random, families: Mapping[int, Family], favourite: tuple[str, int]
    ) -> None:
        """``favourite``: a family, and the command that most requests to it shall be."""
        self._random = random
        self._families = families
        self._favourite = favourite
        self._old = [b""]
        self._faults = True
        self.seen = [0, 1, 2, 3]

    def datagram(self) -> bytes:
        """One to four messages, or what is left of them."""
        random = self._random
        self._faults = random.random() < 0.7
        if self._one_in(50):
            return random.randbytes(random.choice((0, 1, 15, 16, 17, 20, 200)))
        messages = [self.message() for _ in range(random.choice((1, 1, 1, 2, 4)))]
        data = b"".join(messages)
        for _ in range(random.choice((0, 0, 1, 3)) if self._faults else 0):
            data = self._damaged(data)
        self._old = [*self._old[-20:], data[:4096]]
        return data

    def _one_in(self, n: int) -> bool:
        """Whether to do something wrong now. Some datagrams have no fault at all."""
        return self._faults and self._random.random() * n < 1

    def message(self) -> bytes:
        """A request of one of the families, from its policy if it has that command."""
        random = self._random
        family_id, family = random.choice(list(self._families.items()))
        ops: Mapping[int, Op] = family.ops
        if family.name == self._favourite[0]:
            ops = {self._favourite[1]: ops[self._favourite[1]]} if random.random() < 0.8 else ops
        cmd = random.randrange(256) if not ops or self._one_in(20) else random.choice(list(ops))
        flags = random.choice(_FLAGS)
        policy = None
        if cmd in ops:
            dump = flags & MsgFlag.DUMP
            policy = ops[cmd].dump_policy if dump else ops[cmd].do_policy
        if self._one_in(30):
            flags = MsgFlag(random.randrange(0x10000))
        body = struct.pack("=BBH", cmd, family.version, self._one_in(30))
        body += self._attributes(policy, 0)
        kind = random.choice((0, 1, 2, 3, 15, 17, 0xFFFF)) if self._one_in(30) else family_id
        header = _NLMSGHDR.pack(16 + len(body), kind, flags, random.randrange(1, 1 << 32), 0)
        return header + body

    def _attributes(self, policy: Policy | None, depth: int) -> bytes:
        random = self._random
        if policy is None:
            return self._attribute(random.randrange(20), None, 0) if self._one_in(2) else b""
        kinds = [kind for kind in policy.rules if random.random() < (0.7 if self._faults else 0.95)]
        if self._one_in(10):
            kinds += random.choices([*policy.rules, 0, policy.maxtype + 1, 0x3FFF], k=3)
        if self._one_in(10):
            random.shuffle(kinds)
        return b"".join(self._attribute(k, policy.rules.get(k), depth) for k in kinds)

    def _attribute(self, kind: int, rule: Rule | None, depth: int) -> bytes:
        random = self._random
        nested = rule is not None and rule.type is PolicyType.NESTED
        if nested != self._one_in(50):
            kind |= NlaFlag.NESTED
        data = self._value(rule, depth) if rule is not None else random.randbytes(4)
        if self._one_in(30):
            data = random.randbytes(random.choice((0, 1, 3, 4, 5, 8, 300)))
        length = random.randrange(0x10000) if self._one_in(50) else 4 + len(data)
        return _NLAHDR.pack(length, kind) + data + bytes(-len(data) % 4)

    def _value(self, rule: Rule, depth: int) -> bytes:
        random = self._random
        if rule.type is PolicyType.NESTED:
            inside = rule.nested if depth < _DEPTH else None
            return self._attributes(inside, depth + 1)
        if rule.type in (PolicyType.STRING, PolicyType.NUL_STRING):
            names = [family.name.encode() for family in self._families.values()]
            text = random.choice([*names, b"", b"lo", b"%s%n", b"\xff" * 300, b"a" * rule.length])
            return text + b"\0" * (not self._one_in(10))
        if rule.type is PolicyType.UINT:
            size = random.choice((4, 8))
        elif rule.type in _SIZES:
            size = _SIZES[rule.type]
        else:
            return random.randbytes(random.choice((0, 1, 4, 16)))
        number = random.choice(_EDGES if self._one_in(3) else self.seen)
        if rule.mask is not None and not self._one_in(5):
            number &= rule.mask
        if rule.mask is None and not self._one_in(5):
            low, high = rule.bounds()
            number = low + (number - low) % (high - low + 1)
        return (number & ((1 << 8 * size) - 1)).to_bytes(size, "little")

    def _damaged(self, data: bytes) -> bytes:
        random = self._random
        if not data:
            return random.choice(self._old)
        at = random.randrange(len(data))
        match random.randrange(6):
            case 0:
                return data[:at]
            case 1:
                return data[:at] + random.randbytes(1) + data[at + 1 :]
            case 2:
                word = random.choice(_EDGES) & 0xFFFFFFFF
                return data[: at & ~3] + word.to_bytes(4, "little") + data[(at & ~3) + 4 :]
            case 3:
                return data + data[at:]
            case 4:
                return data[:at] + random.choice(self._old)[:256] + data[at:]
            case _:
                return data + random.randbytes(random.randrange(20))
