# SPDX-License-Identifier: Apache-2.0
"""`./dev vm`: run a command under another kernel, with other NICs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..arguments import end_if_only_asked, positive
from . import kernels, machine, nics, qemu
from .command_line import Parser, environment, run_and_tell, say
from .failure import BadUsage

_LEAST_MEMORY = 256
"""MiB: a Debian kernel, its initramfs, and a little to write to."""


def parse(words: list[str]) -> argparse.Namespace:
    """Of the command line, refused in one line.

    Raises:
        BadUsage: what is wrong with it.
    """
    parser = Parser(
        prog="./dev vm",
        usage="%(prog)s [options] -- COMMAND [ARG ...]",
        description="Boots a packaged kernel under QEMU with this host's files as its root (read "
        "only, below an overlay), runs the command there as root, and gives its exit status. 125: "
        "no guest ran; 124: it took too long.",
        epilog="NETIF and NETPEER name the two NICs in the command's environment. They are down, "
        "and without addresses. docs/vm.md has more.",
        allow_abbrev=False,
    )
    default = "default: %(default)s"
    parser.add_argument(
        "--kernel", default="6.12", metavar="|".join(kernels.SUITES), help=f"a series; {default}"
    )
    parser.add_argument(
        "--nic",
        default="veth",
        metavar="|".join(nics.NAMES),
        help=f"what the guest has two of, back to back; veth: none, they can be made; {default}",
    )
    parser.add_argument("--cpus", type=positive, default=2, metavar="N", help=default)
    parser.add_argument("--memory", type=positive, default=2048, metavar="MIB", help=default)
    parser.add_argument(
        "--timeout",
        type=positive,
        default=1200,
        metavar="SECONDS",
        help=f"with the time to boot; {default}",
    )
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="a folder that the guest may write to"
    )
    parser.add_argument(
        "--console", type=Path, metavar="FILE", help="gets what the guest's kernel says"
    )
    parser.add_argument(
        "--update", action="store_true", help="fetch the kernel again: there may be a newer one"
    )
    parser.add_argument("command", nargs="*", metavar="COMMAND")
    options, unknown = parser.parse_known_args(words)
    if unknown:
        dashes = "; the command stands behind --" if options.command and "--" not in words else ""
        raise BadUsage(f"no option {unknown[0]}{dashes}; ./dev vm --help lists them")
    kernels.check(options.kernel)
    nics.check(options.nic)
    if not options.command:
        raise BadUsage("no command; ./dev vm [options] -- COMMAND")
    if options.memory < _LEAST_MEMORY:
        raise BadUsage(f"--memory {options.memory}: no kernel boots with less than {_LEAST_MEMORY}")
    if options.results and not options.results.is_dir():
        raise BadUsage(f"--results {options.results}: no such folder")
    if options.console and (options.console.is_dir() or not options.console.parent.is_dir()):
        raise BadUsage(f"--console {options.console}: no file can be there")
    end_if_only_asked()
    return options


def _boot() -> int:
    options = parse(sys.argv[1:])
    kernel = kernels.fetch(options.kernel, say, again=options.update)
    emulator = qemu.fetch(say)
    return machine.run(
        machine.Machine(kernel, options.nic, options.cpus, options.memory),
        emulator,
        machine.Task(
            options.command,
            Path.cwd(),
            environment(),
            options.timeout,
            options.results and options.results.resolve(),
            options.console and options.console.absolute(),
        ),
    )


if __name__ == "__main__":
    sys.exit(run_and_tell(_boot))
