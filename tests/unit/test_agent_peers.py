# SPDX-License-Identifier: Apache-2.0
"""Who may do what: the rules, and that two processes have to be allowed."""

from __future__ import annotations

import pytest

from devmemtcp.agent.daemon.config import parse_config
from devmemtcp.agent.daemon.peers import AgentPeer, Credentials, RuleBook, sender_of
from devmemtcp.agent.errors import ConfigError

ALICE, BOB, WORKERS = 1001, 1002, 50


def book(text: str) -> RuleBook:
    return RuleBook(parse_config(text, "x.toml").rules)


def who(uid: int, *groups: int) -> Credentials:
    return Credentials(77, uid, uid, frozenset((uid, *groups)))


RULES = book(
    """
    [[rule]]
    users = [1001]
    interfaces = ["eth1"]
    admin = true
    [[rule]]
    groups = [50]
    ports = [80, "5000-5999"]
    """
)


def test_rules_add_up() -> None:
    alice, worker = who(ALICE), who(BOB, WORKERS)
    assert RULES.may_use(alice, "eth1")
    assert not RULES.may_use(alice, "eth2")
    assert RULES.may_use(worker, "eth2")
    assert RULES.may_listen(alice, "eth1", 1024)
    assert not RULES.may_listen(alice, "eth1", 80)
    assert RULES.may_listen(who(ALICE, WORKERS), "eth1", 80)
    assert not RULES.may_listen(who(ALICE, WORKERS), "eth1", 81)
    assert [RULES.may_administer(each) for each in (alice, worker)] == [True, False]
    assert not RULES.may_administer(alice, "eth2")
    assert RULES.lowest_port() == 80


def test_a_port_of_the_agent_s_choice_needs_no_rule_of_its_own() -> None:
    assert RULES.may_listen(who(BOB, WORKERS), "eth1", 0)
    assert not RULES.may_listen(who(BOB), "eth1", 0)


def test_root_needs_no_rule_and_others_have_what_everybody_has() -> None:
    rules = book("")
    assert rules.may_administer(who(0), "eth1")
    assert rules.may_listen(who(0), "eth1", 1)
    assert rules.may_listen(who(ALICE), "eth1", 5000)
    assert not rules.may_listen(who(ALICE), "eth1", 80)
    assert not rules.may_administer(who(ALICE), "eth1")
    nobody = book("rule = []")
    assert not nobody.may_use(who(ALICE), "eth1")
    assert nobody.lowest_port() == 65536


def test_opener_and_sender_must_both_be_allowed() -> None:
    peer = AgentPeer(who(ALICE), lambda: RULES)
    assert peer.admin()
    assert peer.may_administer("eth1")
    peer.sender = who(BOB)
    assert not peer.admin()
    assert not peer.may_use("eth1")
    passed_to_root = AgentPeer(who(BOB), lambda: RULES)
    passed_to_root.sender = who(0)
    assert not passed_to_root.admin()


def test_a_sender_of_the_opener_s_user_has_its_groups() -> None:
    opener = who(BOB, WORKERS)
    same = sender_of(b"\x4d\0\0\0" + BOB.to_bytes(4, "little") * 2, opener)
    other = sender_of(b"\x4d\0\0\0" + ALICE.to_bytes(4, "little") * 2, opener)
    assert same.groups == opener.groups
    assert other.groups == {ALICE}


@pytest.mark.parametrize("kind", ["user", "group"])
def test_a_name_that_nobody_has(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"there is no {kind} 'no-such-{kind}'"):
        book(f'[[rule]]\n{kind}s = ["no-such-{kind}"]')
