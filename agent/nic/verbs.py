# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp nic`: plan, apply, undo."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from devmemtcp.agent.options import Debug, Json, NicMode, NicModeChoice
from devmemtcp.agent.terminal import printable
from devmemtcp.agent.verb import finish, group

if TYPE_CHECKING:
    from devmemtcp.agent.nic.device import KernelNic
    from devmemtcp.agent.nic.facts import Attachment
    from devmemtcp.agent.nic.journal import Journal
    from devmemtcp.agent.nic.plan import Plan, StepReport
    from devmemtcp.agent.nic.planner import Wishes
    from devmemtcp.agent.nic.transaction import Undone
    from devmemtcp.netlink.link import Link

app = group("Set a NIC up for our flows, and put it back.")

Interface = Annotated[str, typer.Option("--interface", "-i", metavar="IF", help="The NIC.")]
Queues = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", help="RX queues for our flows alone, e.g. 2-3. Default: all, as they are."
    ),
]
Listen = Annotated[
    list[str] | None,
    typer.Option(
        metavar="ADDR:PORT",
        help="Where our flows go to: a flow rule leads them to --queues. Repeatable.",
    ),
]
Rss = Annotated[
    bool, typer.Option("--rss", help="Spread all flows over --queues, without flow rules.")
]
Count = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Number of channels. Default: as needed.")
]
Ring = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Descriptors of an RX ring. Default: as they are."),
]
MtuOption = Annotated[
    int | None,
    typer.Option("--mtu", metavar="BYTES", help="Default: as it is, if that fits the mode."),
]


@dataclass
class Report:
    """What a verb of these has found or done."""

    interface: str
    driver: str | None = None
    mode: str | None = None
    steps: list[StepReport] = field(default_factory=list)
    """Of plan what is to be done, of apply what has been done."""
    restored: list[dict[str, str]] = field(default_factory=list)
    left: list[dict[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@app.command()
def plan(
    interface: Interface,
    queues: Queues = None,
    listen: Listen = None,
    rss: Rss = False,
    channels: Count = None,
    rx_ring: Ring = None,
    mtu: MtuOption = None,
    mode: NicMode = NicModeChoice.AUTO,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what `apply` would change, why, and by which command; nothing is changed."""
    wishes = _wishes(queues, listen, rss, channels, rx_ring, mtu)
    with _nic(interface, mode) as (nic, attachment):
        made = _plan(nic, attachment, wishes)
    report = _report(interface, attachment, made)
    report.notes += [f"{risk}, or apply with --force" for risk in made.risks]
    finish(report, as_json, _under("to do" if made.steps else "nothing to do"))


@app.command()
def apply(
    interface: Interface,
    queues: Queues = None,
    listen: Listen = None,
    rss: Rss = False,
    channels: Count = None,
    rx_ring: Ring = None,
    mtu: MtuOption = None,
    mode: NicMode = NicModeChoice.AUTO,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Though the default route leaves by it, or a receiver is interrupted."
        ),
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Carry the plan out; `undo` puts back what was before the first `apply`.

    Each old value is written down first. If a step fails, all of them are taken back.
    """
    from dataclasses import replace

    from devmemtcp.agent.nic import transaction

    wishes = _wishes(queues, listen, rss, channels, rx_ring, mtu)
    with _nic(interface, mode) as (nic, attachment):
        first = _plan(nic, attachment, wishes)
        if not force:
            _refuse_risks(first)
        with _journal(nic, interface) as journal:
            if not journal.is_of(nic.identity):
                journal.begin_anew(nic.identity, nic.link().ifname)
            done = transaction.apply(nic, lambda: _plan(nic, attachment, wishes), journal)
    report = _report(interface, attachment, replace(first, steps=tuple(done)))
    finish(report, as_json, _under("done" if done else "nothing to do"))


@app.command()
def undo(
    interface: Interface,
    force: Annotated[
        bool,
        typer.Option("--force", help="Restore also what somebody else has changed since."),
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Restore nothing, and drop the journal.")
    ] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Put back what was before `apply`, also after a crash. Twice is once.

    A value that somebody else has changed since is left, and exit code 1 says so.
    """
    from devmemtcp.agent.namespaces import netns_cookie
    from devmemtcp.agent.nic import transaction
    from devmemtcp.agent.nic.device import KernelNic
    from devmemtcp.agent.nic.lookup import ifindex_to_undo

    report = Report(interface)
    ifindex = ifindex_to_undo(interface, netns_cookie(), _links(), report.notes, forget=forget)
    if ifindex is None:
        finish(report, as_json, _under("nothing restored" if forget else "nothing to undo"))
    with KernelNic(ifindex) as nic, _journal(nic, interface) as journal:
        name = nic.link().ifname
        if name != journal.ifname:
            report.notes.append(f"{journal.ifname} is called {name} by now")
        if forget:
            journal.drop()
            finish(report, as_json, _under("nothing restored"))
        if not journal.is_of(nic.identity):
            raise OSError(
                errno.ENODEV,
                f"{journal.ifname} ({journal.hardware[0]}) is not in this network namespace, "
                f"{name} is another one with its index; drop the journal (--forget)",
            )
        undone = transaction.undo(nic, journal, force=force)
    _take_undone(report, undone)
    head = "not all is as it was" if undone.left else "all is as it was"
    finish(report, as_json, _under(head), exit_code=1 if undone.left else 0)


def _take_undone(report: Report, undone: Undone) -> None:
    report.notes += undone.traces
    report.restored = [
        {"setting": entry.setting.key, "to": entry.setting.show(entry.was)}
        for entry in undone.restored
    ]
    report.left = [
        {
            "setting": entry.setting.key,
            "is": entry.setting.show(now),
            "was": entry.setting.show(entry.was),
        }
        for entry, now in undone.left
    ]


def _wishes(
    queues: str | None,
    listen: list[str] | None,
    rss: bool,
    channels: int | None,
    rx_ring: int | None,
    mtu: int | None,
) -> Wishes:
    from devmemtcp.agent.endpoint import parse_listen
    from devmemtcp.agent.errors import ConfigError
    from devmemtcp.agent.nic.planner import Wishes

    if rss and queues is None:
        raise ConfigError("--rss spreads flows over the queues of --queues; name some")
    return Wishes(
        queues=None if queues is None else parse_queues(queues),
        listen=tuple(parse_listen(text) for text in listen or ()),
        rss=rss,
        channels=channels,
        rx_ring=rx_ring,
        mtu=mtu,
    )


def parse_queues(text: str) -> tuple[int, ...]:
    """Queue numbers of a list such as `0,2-3`. Raises ConfigError."""
    from devmemtcp.agent.errors import ConfigError

    found = set[int]()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        numbers = (first, last) if dash else (first, first)
        if not all(n.isascii() and n.isdigit() and len(n) <= 5 for n in numbers):
            raise ConfigError(f"--queues {text!r}: write numbers and ranges, e.g. 1 or 0,2-3")
        low, high = map(int, numbers)
        if low > high:
            raise ConfigError(f"--queues {text!r}: the range {part} is empty")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


@contextmanager
def _nic(interface: str, mode: NicModeChoice) -> Iterator[tuple[KernelNic, Attachment]]:
    """The NIC, and how the program will be attached. Raises ConfigError for none such."""
    from devmemtcp.agent.errors import ConfigError
    from devmemtcp.agent.netdev import NetDev
    from devmemtcp.agent.nic.device import KernelNic
    from devmemtcp.agent.nic.facts import Attachment

    dev = NetDev.find(interface)
    if dev.loopback:
        raise ConfigError(f"{interface} is the loopback device; nothing has to be set on it")
    with KernelNic(dev.features.ifindex) as nic:
        yield nic, Attachment.of(dev, mode.value)


def _plan(nic: KernelNic, attachment: Attachment, wishes: Wishes) -> Plan:
    from devmemtcp.agent.nic.facts import Facts
    from devmemtcp.agent.nic.planner import make_plan

    return make_plan(Facts.of(nic, attachment), wishes)


def _refuse_risks(made: Plan) -> None:
    from devmemtcp.agent.errors import ConfigError

    if made.risks:
        raise ConfigError(f"{'; '.join(made.risks)}, or insist (--force)")


@contextmanager
def _journal(nic: KernelNic, interface: str) -> Iterator[Journal]:
    """The NIC's journal, locked. Raises ConfigError: not root, or somebody else is at it."""
    from devmemtcp.agent.errors import ConfigError
    from devmemtcp.agent.nic.journal import Journal
    from devmemtcp.agent.nic.returned import refile_returned

    try:
        refile_returned(nic.identity.netns, _links())
        journal = Journal(nic.identity, nic.link().ifname)
    except PermissionError as error:
        raise ConfigError(f"no permission to set {interface} up; run it as root") from error
    with journal:
        yield journal


def _links() -> list[Link]:
    from devmemtcp.netlink.link import Links

    with Links() as links:
        return links.dump()


def _report(interface: str, attachment: Attachment, made: Plan) -> Report:
    return Report(
        interface,
        attachment.driver,
        attachment.mode,
        steps=made.step_reports(),
        notes=list(made.notes),
    )


def _under(head: str) -> Callable[[Report], None]:
    """What prints a report for people, with these words after the NIC."""

    def show(report: Report) -> None:
        about = ", ".join(filter(None, (report.driver, report.mode and f"{report.mode} mode")))
        first = f"{report.interface}{f' ({about})' if about else ''}: {head}"
        for line in (first, *_lines(report)):
            print(printable(line))

    return show


def _lines(report: Report) -> Iterator[str]:
    """For people: each step with its reason and its command; what was put back; the notes."""
    for number, step in enumerate(report.steps, 1):
        yield f"{number:2}. {step.setting}: {step.now} -> {step.wanted}"
        yield f"      {step.why}"
        yield f"      {step.command}"
    for row in report.restored:
        yield f"    {row['setting']}: {row['to']} again"
    for row in report.left:
        yield (
            f"    {row['setting']}: {row['is']}, as somebody else or the driver has set it since; "
            f"it was {row['was']} (--force restores it, --forget drops the journal)"
        )
    for note in report.notes:
        yield f"  * {note}"
