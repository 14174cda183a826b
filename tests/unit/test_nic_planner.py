# SPDX-License-Identifier: Apache-2.0
"""What is planned for a NIC: only what has to be, in an order that works, with its command."""

from __future__ import annotations

from dataclasses import replace

import pytest

from devmemtcp.agent.endpoint import Endpoint
from devmemtcp.agent.errors import ConfigError
from devmemtcp.agent.nic.facts import Attachment, Facts
from devmemtcp.agent.nic.plan import Plan
from devmemtcp.agent.nic.planner import Wishes, make_plan
from devmemtcp.agent.nic.setting import RssSpread, parse, spread
from devmemtcp.agent.nic.verbs import parse_queues
from devmemtcp.netlink.constants import TcpDataSplit
from devmemtcp.netlink.ethtool import Channels, Feature, Rings
from devmemtcp.netlink.flow_rules import FlowRule
from devmemtcp.netlink.link import Link

ON, OFF = Feature(True, True, True), Feature(False, False, True)
FIXED_ON, FIXED_OFF = Feature(True, True, False), Feature(False, False, False)
HTTP = Endpoint("192.0.2.1", 80)

# A NIC with everything (mlx5), and what igb and virtio-net are in a guest of QEMU.
MLX5 = Facts(
    Attachment("mlx5_core", "native", multi_buffer=True),
    Link(3, "eth1", 1500, 68, 9978, "52:54:00:12:34:56", True, True, False, None, 64, 64, None),
    Channels(combined_max=8, combined_count=2),
    Rings(rx=1024, rx_max=8192, tcp_data_split=TcpDataSplit.DISABLED, hds_thresh=0),
    {"rx-lro": OFF, "rx-gro": ON, "rx-gro-hw": OFF, "rx-vlan-hw-parse": ON}
    | {"rx-ntuple-filter": OFF, "rx-checksum": ON},
    (0, 1) * 4,
    {},
)
IGB = replace(
    MLX5,
    attachment=Attachment("igb", "native", multi_buffer=False),
    channels=Channels(combined_max=2, combined_count=2),
    rings=Rings(rx=256, rx_max=4096),
    features=dict(MLX5.features) | {"rx-lro": FIXED_OFF, "rx-ntuple-filter": FIXED_OFF},
    rss=(0,) * 4 + (1,) * 4,
)
VIRTIO = replace(
    IGB,
    attachment=Attachment("virtio_net", "native", multi_buffer=False),
    channels=Channels(combined_max=1, combined_count=1),
    features={"rx-gro": ON, "rx-gro-hw": ON, "rx-lro": FIXED_OFF, "rx-vlan-hw-parse": FIXED_OFF},
    rss=None,
)
DOWN = replace(IGB, link=replace(IGB.link, up=False, carrier=False))


def commands(plan: Plan) -> list[str]:
    return [step.command for step in plan.step_reports()]


def test_nothing_to_do_is_an_empty_plan() -> None:
    done = replace(MLX5, features=dict(MLX5.features) | {"rx-vlan-hw-parse": OFF})
    assert make_plan(done, Wishes()).steps == ()


def test_all_of_it_in_an_order_that_works() -> None:
    facts = replace(MLX5, features=dict(MLX5.features) | {"rx-lro": ON, "rx-gro-hw": ON})
    plan = make_plan(facts, Wishes(queues=(2,), listen=(HTTP, Endpoint("", 5201)), mtu=9000))
    assert commands(plan) == [
        "ethtool -L eth1 combined 3",
        "ethtool -X eth1 equal 2",
        "ethtool -K eth1 rx-lro off",
        "ethtool -K eth1 rx-gro-hw off",
        "ethtool -K eth1 rx-vlan-hw-parse off",
        "ethtool -K eth1 rx-ntuple-filter on",
        "ethtool -N eth1 flow-type tcp4 dst-ip 192.0.2.1 dst-port 80 queue 2",
        "ethtool -N eth1 flow-type tcp4 dst-port 5201 queue 2",
        "ethtool -N eth1 flow-type tcp6 dst-port 5201 queue 2",
        "ip link set eth1 mtu 9000",
    ]
    assert all(step.why for step in plan.steps)
    assert any("tcp-data-split disabled, hds-thresh 0: left" in note for note in plan.notes)


def test_one_queue_is_left_for_others() -> None:
    steps = make_plan(MLX5, Wishes(queues=(0, 1), listen=(HTTP,))).step_reports()
    assert [step.command for step in steps[:2]] == [
        "ethtool -L eth1 combined 3",
        "ethtool -X eth1 start 2 equal 1",
    ]
    assert [step.now for step in steps[:2]] == ["2", "queues 0, 1"]


def test_a_table_that_keeps_off_our_queues_is_a_users_to_weigh() -> None:
    facts = replace(MLX5, channels=Channels(combined_max=8, combined_count=4), rss=(0, 0, 0, 1))
    plan = make_plan(facts, Wishes(queues=(2, 3), listen=(HTTP,)))
    assert not any(step.setting == RssSpread() for step in plan.steps)


def test_queues_that_are_to_go_are_emptied_first() -> None:
    facts = replace(MLX5, channels=Channels(combined_max=8, combined_count=4), rss=(0, 1, 2, 3))
    plan = make_plan(facts, Wishes(queues=(1,), listen=(HTTP,), channels=2))
    assert commands(plan)[:2] == ["ethtool -X eth1 equal 1", "ethtool -L eth1 combined 2"]


def test_a_rule_that_is_there_is_not_inserted_again() -> None:
    rules = {5: FlowRule(4, 1, dst_port=5201), 6: None}
    facts = replace(MLX5, rules=rules, features=dict(MLX5.features) | {"rx-ntuple-filter": ON})
    plan = make_plan(facts, Wishes(queues=(1,), listen=(Endpoint("0.0.0.0", 5201),)))
    assert not any("-N" in command or "ntuple" in command for command in commands(plan))


def test_listeners_take_turns_with_the_queues() -> None:
    listen = tuple(Endpoint("192.0.2.1", port) for port in (1, 2, 3))
    plan = make_plan(MLX5, Wishes(queues=(2, 3), listen=listen))
    assert [line[-1] for line in commands(plan) if "-N" in line] == ["2", "3", "2"]
    few = make_plan(MLX5, Wishes(queues=(2, 3), listen=(HTTP,)))
    assert any("some stay idle" in note for note in few.notes)


def test_rss_in_place_of_rules() -> None:
    plan = make_plan(MLX5, Wishes(queues=(0, 1, 3), rss=True))
    assert commands(plan)[:2] == ["ethtool -L eth1 combined 4", "ethtool -X eth1 weight 1 1 0 1"]
    assert not any("ntuple" in command for command in commands(plan))


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        (Wishes(listen=(HTTP,)), "all queues are ours"),
        (Wishes(queues=tuple(range(8)), listen=(HTTP,)), "all queues are ours"),
        (Wishes(queues=(1,), listen=(HTTP,), rss=True), "--rss leads"),
    ],
)
def test_addresses_that_need_no_rules_are_told_so(wishes: Wishes, why: str) -> None:
    plan = make_plan(MLX5, wishes)
    assert not any("-N" in command for command in commands(plan))
    (note,) = [note for note in plan.notes if note.startswith("flow rules: not needed")]
    assert why in note


def test_without_flow_rules_rss_leads_to_our_queues() -> None:
    plan = make_plan(IGB, Wishes(queues=(1,), listen=(HTTP,)))
    assert commands(plan) == [
        "ethtool -X eth1 start 1 equal 1",
        "ethtool -K eth1 rx-vlan-hw-parse off",
    ]
    assert "hands on those of others" in plan.steps[0].why
    assert [note for note in plan.notes if note.startswith("flow rules: igb has none")]


def test_without_a_table_what_comes_elsewhere_is_copied() -> None:
    facts = replace(VIRTIO, channels=Channels(combined_max=2, combined_count=2))
    plan = make_plan(facts, Wishes(queues=(1,), listen=(HTTP,)))
    assert commands(plan) == ["ethtool -K eth1 rx-gro-hw off"]
    assert any("no RSS table" in note and "host memory" in note for note in plan.notes)


def test_of_a_veth_that_needs_nothing_nothing_is_said() -> None:
    veth = Attachment("veth", "generic", multi_buffer=True)
    plan = make_plan(replace(MLX5, attachment=veth, rings=None), Wishes())
    assert (plan.steps, plan.notes, plan.risks) == ((), (), ())


def test_generic_mode_without_multi_buffer_wants_no_gro() -> None:
    linear = replace(VIRTIO, attachment=Attachment("virtio_net", "generic", multi_buffer=False))
    assert "ethtool -K eth1 rx-gro off" in commands(make_plan(linear, Wishes()))
    frags = replace(VIRTIO, attachment=Attachment("virtio_net", "generic", multi_buffer=True))
    assert "ethtool -K eth1 rx-gro off" not in commands(make_plan(frags, Wishes()))


def test_a_receiver_is_interrupted_by_all_but_its_steering() -> None:
    busy = replace(MLX5.attachment, programs=("steer_frags (id 5, native)",))
    wanted = dict(MLX5.features) | {"rx-ntuple-filter": ON, "rx-vlan-hw-parse": OFF}
    four = replace(
        MLX5, attachment=busy, features=wanted, channels=Channels(combined_max=8, combined_count=4)
    )
    led = make_plan(four, Wishes(queues=(1,), listen=(HTTP,)))
    assert [command[:10] for command in commands(led)] == ["ethtool -X", "ethtool -N"]
    assert led.risks == ()
    for wishes, what in ((Wishes(channels=5), "channels combined"), (Wishes(mtu=1400), "mtu")):
        (risk,) = make_plan(four, wishes).risks
        assert f"steer_frags (id 5, native), whose receiver would be interrupted by {what}" in risk
        assert make_plan(replace(four, attachment=MLX5.attachment), wishes).risks == ()


def test_the_default_route_is_at_risk_where_something_is_to_do() -> None:
    home = replace(MLX5, attachment=replace(MLX5.attachment, default_route=True))
    (risk,) = make_plan(home, Wishes()).risks
    assert "the default route leaves by eth1" in risk
    done = replace(home, features=dict(MLX5.features) | {"rx-vlan-hw-parse": OFF})
    assert make_plan(done, Wishes()).risks == ()


def test_what_could_not_be_tried_is_said() -> None:
    untried = Attachment("virtio_net", "generic", multi_buffer=False, untried="it needs root")
    plan = make_plan(replace(VIRTIO, attachment=untried), Wishes())
    assert "ethtool -K eth1 rx-gro off" in commands(plan)
    (note,) = [note for note in plan.notes if "may be another plan" in note]
    assert "could not be tried (it needs root): planned as if not" in note


def test_what_is_fixed_the_wrong_way_is_said() -> None:
    facts = replace(IGB, features=dict(IGB.features) | {"rx-vlan-hw-parse": FIXED_ON})
    plan = make_plan(facts, Wishes())
    assert plan.steps == ()
    assert any(note.startswith("rx-vlan-hw-parse cannot be turned off: ") for note in plan.notes)


@pytest.mark.parametrize(
    ("attachment", "says"),
    [
        (
            Attachment("virtio_net", "native", multi_buffer=True),
            "can be used all the same: --mode auto takes generic",
        ),
        (
            Attachment("virtio_net", "generic", multi_buffer=True),
            "the NIC can be used: generic mode takes merged",
        ),
        (Attachment("virtio_net", "generic", multi_buffer=False), "generic mode loses merged"),
    ],
)
def test_whether_a_nic_that_merges_for_good_can_be_used(attachment: Attachment, says: str) -> None:
    fixed = dict(VIRTIO.features) | {"rx-gro-hw": FIXED_ON}
    plan = make_plan(replace(VIRTIO, attachment=attachment, features=fixed), Wishes())
    (note,) = [note for note in plan.notes if note.startswith("rx-gro-hw cannot be turned off: ")]
    assert says in note


def test_the_mtu_fits_one_buffer_where_a_packet_has_one() -> None:
    jumbo = replace(IGB.link, mtu=9000)
    plan = make_plan(replace(IGB, link=jumbo), Wishes())
    assert commands(plan)[-1] == "ip link set eth1 mtu 3498"
    zero_copy = replace(MLX5.attachment, mode="zerocopy", multi_buffer=False)
    plan = make_plan(replace(MLX5, link=jumbo, attachment=zero_copy), Wishes())
    assert commands(plan)[-1] == "ip link set eth1 mtu 3822"
    assert commands(make_plan(replace(MLX5, link=jumbo), Wishes())) == [
        "ethtool -K eth1 rx-vlan-hw-parse off"
    ]


def test_an_mtu_that_is_small_already_stays() -> None:
    small = replace(IGB, link=replace(IGB.link, mtu=576))
    assert not any("mtu" in command for command in commands(make_plan(small, Wishes())))


def test_more_queues_than_a_stack_has_are_too_many() -> None:
    facts = replace(MLX5, channels=Channels(combined_max=1024, combined_count=1024))
    plan = make_plan(facts, Wishes())
    assert commands(plan)[0].startswith("ethtool -L eth1 combined ")
    assert "at most" in plan.steps[0].why


@pytest.mark.parametrize(
    ("facts", "wishes", "complaint"),
    [
        (MLX5, Wishes(queues=(2,)), "say which are ours"),
        (DOWN, Wishes(), "eth1 is down: .*; `ip link set eth1 up` first"),
        (MLX5, Wishes(queues=(8,), rss=True), "eth1 would need 9 RX queues, and 8 are possible"),
        (MLX5, Wishes(queues=(3,), rss=True, channels=2), "would need 4 RX queues, and 2"),
        (MLX5, Wishes(channels=9), "would need 9 RX queues, and 8 are possible"),
        (replace(MLX5, channels=None), Wishes(channels=65), "cannot change the number"),
        (MLX5, Wishes(rx_ring=8193), "an RX ring has 1 to 8192 descriptors"),
        (replace(MLX5, rings=None), Wishes(rx_ring=64), "no RX ring whose size can be set"),
        (MLX5, Wishes(mtu=9979), "an MTU of 1280 to 9978 is possible"),
        (IGB, Wishes(mtu=9000), "an MTU of 1280 to 3498 is possible"),
        (MLX5, Wishes(mtu=1279), "an MTU of 1280 to 9978 is possible"),
    ],
)
def test_what_cannot_be_is_one_line(facts: Facts, wishes: Wishes, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        make_plan(facts, wishes)


def test_a_zone_is_in_no_flow_rule() -> None:
    with pytest.raises(ConfigError, match="a flow rule knows no zone; leave out %eth1"):
        make_plan(MLX5, Wishes(queues=(1,), listen=(Endpoint("fe80::1%eth1", 80),)))


def test_channels_of_two_kinds_at_once() -> None:
    """As ice has them: only the one kind is changed, and only its own count noted."""
    both = Channels(combined_max=8, combined_count=4, rx_max=8, rx_count=2)
    facts = replace(MLX5, channels=both, rss=(0, 1, 2, 3, 4, 5, 0, 1))
    assert (facts.queues, facts.max_queues) == (6, 10)
    step = make_plan(facts, Wishes(queues=(6,), listen=(HTTP,))).steps[0]
    assert (step.setting.key, step.now, step.wanted) == ("channels combined", 4, 5)
    with pytest.raises(ConfigError, match="would need 3 RX queues"):
        make_plan(facts, Wishes(channels=2))


@pytest.mark.parametrize(
    ("text", "queues"), [("1", (1,)), ("2-3", (2, 3)), ("0,2-4,2", (0, 2, 3, 4))]
)
def test_a_list_of_queues(text: str, queues: tuple[int, ...]) -> None:
    assert parse_queues(text) == queues


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-2", "1,,2", "1 ", "\u0661", "123456"])
def test_no_list_of_queues(text: str) -> None:
    with pytest.raises(ConfigError, match="--queues"):
        parse_queues(text)


@pytest.mark.parametrize(
    ("size", "queues", "table"),
    [
        (4, (0, 1), (0, 1, 0, 1)),
        (4, (2, 3), (2, 3, 2, 3)),
        (8, (0, 2, 3), (0, 0, 2, 2, 2, 3, 3, 3)),  # `ethtool -X eth1 weight 1 0 1 1`
    ],
)
def test_a_table_is_filled_as_ethtool_fills_it(
    size: int, queues: tuple[int, ...], table: tuple[int, ...]
) -> None:
    assert spread(size, queues) == table


@pytest.mark.parametrize(
    "key",
    [
        "",
        "rss ",
        "channels tx",
        "feature ",
        "feature rx-lro off; reboot",
        "feature " + "x" * 32,
        "rule tcp4 dst-port 80 queue 1 ",
        "rule tcp4 dst-port 080 queue 1",
        "rule tcp4 dst-port 65536 queue 1",
        "rule tcp5 dst-port 80 queue 1",
        "rule tcp4 dst-ip ::1 dst-port 80 queue 1",
        "rule tcp6 dst-ip 0::1 dst-port 80 queue 1",
        "rule tcp4 dst-ip 1.2.3 dst-port 80 queue 1",
    ],
)
def test_a_key_that_no_setting_has(key: str) -> None:
    with pytest.raises(ValueError, match=r"there is no setting|a (flow )?rule|does not appear"):
        parse(key)
