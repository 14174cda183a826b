# SPDX-License-Identifier: Apache-2.0
"""The short form of ./dev storm: an honest transfer in a storm, and books that balance."""

from __future__ import annotations

import pytest

from ..storm import storm

FRAMES = 60_000

pytestmark = pytest.mark.usefixtures("_clean_slate")  # skips without root

# Each has a cause among the kinds of frames that are sent.
VERDICTS = (
    *("redirect", "pass_not_unicast", "pass_other_host", "pass_not_ip", "pass_vlan"),
    *("pass_not_tcp", "pass_malformed", "pass_no_listener", "pass_ip_fragment"),
    *("pass_ipv6_routing", "pass_headers_too_long", "drop_ip_malformed", "drop_ip_csum"),
    *("drop_tcp_malformed", "drop_tcp_csum"),
)
DROPS = (
    *("NO_FLOW", "FLAGS", "OLD_SEQ", "OUT_OF_WINDOW", "OLD_ACK", "FUTURE_ACK", "PAWS"),
    *("NO_TIMESTAMP", "RST_OUT_OF_WINDOW", "CHALLENGE", "RESET"),
)


@pytest.mark.parametrize("mode", ["generic", "native"])
def test_every_frame_is_in_one_counter_and_the_transfer_is_exact(mode: str) -> None:
    done = storm.run(frames=FRAMES, mode=mode)
    assert done.broken() == []
    assert done.books is not None
    assert [kind for kind, sent in done.kinds.items() if not sent] == []
    assert [name for name in VERDICTS if not done.books.verdicts[name]] == []
    assert [name for name in DROPS if not done.books.drops[name]] == []
