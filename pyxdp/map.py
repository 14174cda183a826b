# SPDX-License-Identifier: Apache-2.0
"""BPF maps: keys and values are bytes, as the program lays them out."""

from __future__ import annotations

import errno
import mmap
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from devmemtcp.pyxdp._xdp import ffi, lib
from devmemtcp.pyxdp.errors import check

if TYPE_CHECKING:
    from devmemtcp.pyxdp.socket import XskSocket

_BPF_MAP_TYPE_XSKMAP = 17


class Map:
    """A map of a loaded object. It lives as long as its :class:`BpfObject`.

    Sizes are checked before the kernel is asked: ``ValueError``. What the kernel refuses is
    :class:`XdpError`, for instance E2BIG for a full hash map, ENOENT for a missing key.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.name: str = ffi.string(lib.bpf_map__name(handle)).decode()
        #: Type as libbpf names it: "hash", "array", "percpu_array", "xskmap"...
        self.type: str = ffi.string(lib.pyxdp_map_type_name(lib.pyxdp_map_type(handle))).decode()
        self.key_size: int = lib.bpf_map__key_size(handle)  # bytes
        self.value_size: int = lib.bpf_map__value_size(handle)  # bytes, of one CPU
        self.max_entries: int = lib.bpf_map__max_entries(handle)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.type}>"

    @property
    def fd(self) -> int:
        """File descriptor; ``ValueError`` when the object is not loaded or was closed."""
        if self._handle is None:
            raise ValueError(f"map {self.name}: its object is closed")
        fd: int = lib.bpf_map__fd(self._handle)
        if fd < 0:
            raise ValueError(f"map {self.name}: its object is not loaded")
        return fd

    @property
    def per_cpu(self) -> bool:
        """True when every possible CPU has a value of its own: see :meth:`get_percpu`."""
        return "percpu" in self.type

    def get(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None when it is not there (bpf(2), BPF_MAP_LOOKUP_ELEM)."""
        if self.per_cpu:
            raise TypeError(f"map {self.name} has a value for each CPU: use get_percpu()")
        return self._lookup(key, self.value_size)

    def get_percpu(self, key: bytes) -> list[bytes] | None:
        """The value of ``key`` on every possible CPU, in CPU order, or None."""
        if not self.per_cpu:
            raise TypeError(f"map {self.name} ({self.type}) has one value for all CPUs: use get()")
        # The kernel gives each CPU a multiple of 8 bytes (bpf_percpu_array_copy()).
        step = (self.value_size + 7) // 8 * 8
        cpus = check(lib.libbpf_num_possible_cpus(), "cannot count the possible CPUs")
        values = self._lookup(key, step * cpus)
        if values is None:
            return None
        return [values[step * cpu :][: self.value_size] for cpu in range(cpus)]

    def set(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Set ``key`` to ``value``; ``flags``: BPF_ANY 0, BPF_NOEXIST 1, BPF_EXIST 2."""
        if self.per_cpu:
            raise TypeError(f"map {self.name} has a value for each CPU: it can only be read")
        self._check_size("value", value, self.value_size)
        self._check_size("key", key, self.key_size)
        check(lib.bpf_map_update_elem(self.fd, key, value, flags), f"cannot set {self._at(key)}")

    def set_initial(self, value: bytes) -> None:
        """Give a section of global variables (".data", ".rodata") its value before loading.

        What is in ".rodata" is known to the verifier, which removes the branches that it rules
        out. :class:`XdpError`: EBUSY once loaded, EINVAL for another map or size.
        """
        if self._handle is None:
            raise ValueError(f"map {self.name}: its object is closed")
        result = lib.bpf_map__set_initial_value(self._handle, value, len(value))
        check(result, f"cannot set the initial value of {self.name}")

    def resize(self, entries: int) -> None:
        """Have room for so many entries, before loading; :class:`XdpError` EBUSY once loaded."""
        if self._handle is None:
            raise ValueError(f"map {self.name}: its object is closed")
        result = lib.bpf_map__set_max_entries(self._handle, entries)
        check(result, f"cannot make room for {entries} entries in map {self.name}")
        self.max_entries = entries

    def mapped(self) -> mmap.mmap:
        """The values of a loaded BPF_F_MMAPABLE array, one behind the other, to be read only.

        Each takes a multiple of 8 bytes. The mapping outlives the map. Raises OSError, EPERM or
        ENOTSUPP for a map of another kind.
        """
        step = (self.value_size + 7) // 8 * 8
        return mmap.mmap(self.fd, self.max_entries * step, prot=mmap.PROT_READ)

    def delete(self, key: bytes) -> None:
        """Remove ``key``; :class:`XdpError` ENOENT when it is not there."""
        self._check_size("key", key, self.key_size)
        check(lib.bpf_map_delete_elem(self.fd, key), f"cannot delete {self._at(key)}")

    def keys(self) -> Iterator[bytes]:
        """All keys. Deleting the one just given restarts a hash map (BPF_MAP_GET_NEXT_KEY)."""
        current, following = ffi.NULL, ffi.new("char[]", self.key_size)
        while True:
            result = lib.bpf_map_get_next_key(self.fd, current, following)
            if result == -errno.ENOENT:
                return
            check(result, f"cannot list the keys of map {self.name}")
            yield bytes(ffi.buffer(following))
            current, following = following, ffi.new("char[]", self.key_size)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All pairs of key and value; a key that vanishes meanwhile is left out."""
        for key in self.keys():
            value = self.get(key)
            if value is not None:
                yield key, value

    def _lookup(self, key: bytes, size: int) -> bytes | None:
        self._check_size("key", key, self.key_size)
        value = ffi.new("char[]", size)
        result = lib.bpf_map_lookup_elem(self.fd, key, value)
        if result == -errno.ENOENT:
            return None
        check(result, f"cannot read {self._at(key)}")
        return bytes(ffi.buffer(value))

    def _check_size(self, what: str, given: bytes, size: int) -> None:
        if len(given) != size:
            raise ValueError(f"map {self.name}: a {what} has {size} bytes, not {len(given)}")

    def _at(self, key: bytes) -> str:
        return f"key {key.hex()} of map {self.name} ({self.type})"


class XskMap(Map):
    """Queue number -> AF_XDP socket: where ``bpf_redirect_map()`` sends packets.

    The kernel takes a socket out of the map when its descriptor is closed.
    """

    def set_socket(self, queue: int, socket: XskSocket | int) -> None:
        """Packets redirected to ``queue`` go to this socket (an :class:`XskSocket`, or a fd)."""
        fd = socket if isinstance(socket, int) else socket.fd
        self.set(self._key(queue), fd.to_bytes(4, sys.byteorder))

    def delete(self, key: bytes | int) -> None:
        """Packets for this queue are redirected no more; ``key`` may be the queue number."""
        super().delete(self._key(key) if isinstance(key, int) else key)

    def _key(self, queue: int) -> bytes:
        if not 0 <= queue < self.max_entries:
            last = self.max_entries - 1
            raise ValueError(f"map {self.name} has queues 0 to {last}, not {queue}")
        return queue.to_bytes(4, sys.byteorder)


def make_map(handle: Any) -> Map:
    """The Python object for a libbpf map, of the class that fits its type."""
    is_xskmap = lib.pyxdp_map_type(handle) == _BPF_MAP_TYPE_XSKMAP
    return XskMap(handle) if is_xskmap else Map(handle)
