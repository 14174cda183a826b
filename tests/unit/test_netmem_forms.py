# SPDX-License-Identifier: Apache-2.0
"""Which form of the check a process uses, and that each does what its tests say.

One process has one form, so the tests of the memory, the stack and the loop run once more in a
process for each of the forms that the rest of this suite does not run in.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from devmemtcp.stack.form import FORMS, VARIABLE, wanted

from ..slowness import SLOWNESS

HERE = Path(__file__).parent
# Where there is no device memory, connections into host memory have to do.
WITHOUT_DEVICE_MEMORY = ("test_tcp_ack.py", "test_tcp_closing.py", "test_tcp_retransmit.py")
WITH_IT = (
    *("test_netmem_key.py", "test_stack_memory.py", "test_tcp_areas.py"),
    *("test_tcp_kinds.py", "test_tcp_receive.py"),
)
TESTS = {"off": WITHOUT_DEVICE_MEMORY, "plain": WITH_IT, "static": WITH_IT}


def in_form(form: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        env=os.environ | {VARIABLE: form},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110 * SLOWNESS,
    )


@pytest.mark.parametrize("form", [form for form in FORMS if form != wanted()])
def test_what_holds_in_one_form_holds_in_the_others(form: str) -> None:
    files = [str(HERE / name) for name in TESTS[form]]
    done = in_form(form, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize("form", FORMS)
def test_the_environment_says_which_form(form: str) -> None:
    code = (
        "from devmemtcp.agent import _loop\n"
        "from devmemtcp.stack import _memory, _stack\n"
        "info = _loop.ffi.new('struct netmem_info *')\n"
        "_loop.lib.netmem_info(info)\n"
        "print(_loop.FORM, info.check, info.key, _loop.INSTEAD_OF or 'itself')\n"
        "print(*(module.lib for module in (_loop, _memory, _stack)))"
    )
    first, modules = in_form(form, "-c", code).stdout.splitlines()
    assert first == f"{form} {FORMS.index(form)} 0 itself"
    assert modules.count(f"_{form}'") == 3


def test_another_form_is_a_mistake_of_the_caller_s() -> None:
    said = in_form("fast", "-c", "from devmemtcp.agent import _loop").stdout.splitlines()[-1]
    assert said == (
        "devmemtcp.agent.errors.ConfigError: "
        "DEVMEMTCP_NETMEM_CHECK must be one of off, plain, static, not 'fast'"
    )
