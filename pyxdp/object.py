# SPDX-License-Identifier: Apache-2.0
"""BPF objects: an ELF file with programs and the maps they share."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from devmemtcp.pyxdp._xdp import ffi, lib
from devmemtcp.pyxdp.errors import XdpError, captured_log
from devmemtcp.pyxdp.map import Map, make_map
from devmemtcp.pyxdp.program import Program
from devmemtcp.pyxdp.resource import Resource

_NO_PERMISSION = "loading BPF needs CAP_BPF and CAP_NET_ADMIN (be root)"


class BpfObject(Resource):
    """An opened BPF object file; :meth:`load` puts it into the kernel.

    It owns its programs and maps: after :meth:`close` they answer ``ValueError``. What is
    attached stays attached, for the kernel holds a reference of its own.
    """

    def __init__(self, image: bytes, name: str) -> None:
        """Parse an ELF image; see :meth:`open`."""
        self.name = name
        self._image = image
        handle = ffi.new("struct bpf_object **")
        with captured_log() as log:
            result = lib.pyxdp_object_open(handle, image, len(image), name.encode())
        if result:
            why = "is not a BPF object" if result == -errno.ENOEXEC else "cannot be opened"
            raise XdpError(-result, f"{name} {why}", log.text)
        self._handle: Any = handle[0]
        self._loaded = False
        self._programs = {
            program.name: program
            for program in (
                Program(item, self) for item in self._each(lib.bpf_object__next_program)
            )
        }
        self._maps = {
            item.name: item for item in map(make_map, self._each(lib.bpf_object__next_map))
        }

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, programs: Collection[str] | None = None) -> Self:
        """Open an object file made by ``clang -target bpf``.

        Only the named ``programs`` will be loaded, by default those that the file does not mark
        as optional (a ``?`` before the section name). Raises ``ValueError`` for a name that is
        not in the file, ``OSError`` when it cannot be read, :class:`XdpError` when it is no BPF
        object.
        """
        file = Path(path)
        opened = cls(file.read_bytes(), file.name)
        if programs is not None:
            try:
                opened.select(programs)
            except ValueError:
                opened.close()
                raise
        return opened

    def __repr__(self) -> str:
        return f"<BpfObject {self.name!r}>"

    @property
    def closed(self) -> bool:
        """True after :meth:`close`."""
        return self._handle is None

    @property
    def loaded(self) -> bool:
        """True after :meth:`load`."""
        return self._loaded

    @property
    def programs(self) -> Mapping[str, Program]:
        """All programs by the name of their C function, also those not to be loaded."""
        return MappingProxyType(self._programs)

    @property
    def maps(self) -> Mapping[str, Map]:
        """All maps by name."""
        return MappingProxyType(self._maps)

    def select(self, programs: Collection[str]) -> None:
        """Load only these programs. To be called before :meth:`load`."""
        unknown = sorted(set(programs) - self._programs.keys())
        if unknown:
            known = ", ".join(self._programs)
            raise ValueError(f"{self.name} has no program {', '.join(unknown)}; it has {known}")
        for name, program in self._programs.items():
            lib.bpf_program__set_autoload(program._handle, name in programs)

    def load(self) -> Self:
        """Create the maps, verify and load the programs.

        Raises :class:`XdpError` with the verifier's log in ``log`` and in the message.
        """
        if self.closed or self._loaded:
            raise ValueError(f"{self.name} is {'closed' if self.closed else 'loaded already'}")
        with captured_log() as log:
            result = lib.bpf_object__load(self._handle)
        if result:
            hint = f" ({_NO_PERMISSION})" if result == -errno.EPERM else ""
            raise XdpError(-result, f"cannot load {self.name}{hint}", log.text)
        self._loaded = True
        return self

    def close(self) -> None:
        """Unload. Programs that are attached, and maps they use, live on in the kernel."""
        if self.closed:
            return
        for item in self._maps.values():
            item._handle = None
        lib.bpf_object__close(self._handle)
        self._handle = None

    def clone(self, program: str) -> BpfObject:
        """The same file opened again for one program only, on the maps of this loaded object."""
        copy = BpfObject(self._image, self.name)
        copy.select([program])
        for name, item in copy._maps.items():
            lib.bpf_map__reuse_fd(item._handle, self._maps[name].fd)
        return copy

    def _each(self, following: Any) -> Iterator[Any]:
        item = following(self._handle, ffi.NULL)
        while item != ffi.NULL:
            yield item
            item = following(self._handle, item)
