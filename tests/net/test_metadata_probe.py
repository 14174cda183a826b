# SPDX-License-Identifier: Apache-2.0
"""The header split needs 160 bytes of XDP metadata; kernels that give fewer are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from devmemtcp import xdp_prog
from devmemtcp.agent.datapath import require_metadata
from devmemtcp.agent.errors import Unsupported
from devmemtcp.pyxdp import BpfObject


@pytest.mark.usefixtures("_clean_slate")
def test_this_kernel_takes_the_metadata() -> None:
    with BpfObject.open(str(xdp_prog.object_path()), programs=[xdp_prog.PROGRAM_PROBE]) as program:
        program.load()
        require_metadata(program.programs[xdp_prog.PROGRAM_PROBE])


@pytest.mark.usefixtures("_clean_slate")
def test_a_kernel_that_does_not_is_named_as_the_reason(
    bpf_object: Callable[[str], Path],
) -> None:
    with BpfObject.open(str(bpf_object("no_metadata"))) as program:
        program.load()
        with pytest.raises(Unsupported, match=r"metadata.*Linux 6\.8"):
            require_metadata(program.programs[xdp_prog.PROGRAM_PROBE])
