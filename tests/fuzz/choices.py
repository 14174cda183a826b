# SPDX-License-Identifier: Apache-2.0
"""An input of the fuzzer as a source of choices, for what else asks a generator."""

from __future__ import annotations

from random import Random


class Choices(Random):
    """A `random.Random` whose numbers are the bytes of an input, and zeros behind its end.

    So a generator of messages that nearly make sense becomes a decoder of inputs: what the
    fuzzer changes in the input changes the message, and it learns which change was worth it.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        """Whether there is more of the input."""
        return self._at < len(self._data)

    def getrandbits(self, k: int) -> int:
        """The next k bits, from as many whole bytes as that takes."""
        size = (k + 7) // 8
        piece = self._data[self._at : self._at + size]
        self._at += size
        return int.from_bytes(piece, "little") & ((1 << k) - 1)

    def random(self) -> float:
        """From 0 to below 1, in steps of 1/256; 1 - 1/256 behind the end: nothing unlikely."""
        if not self:
            return 255 / 256
        return self.getrandbits(8) / 256

    def _randbelow(self, n: int) -> int:
        """What all others are made of; Random's own would go on until a number fits."""
        return self.getrandbits(max(8, n.bit_length())) % n
