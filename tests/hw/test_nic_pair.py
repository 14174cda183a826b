# SPDX-License-Identifier: Apache-2.0
"""The essential tests of tests/net, as they stand, over the NICs that conftest.py tells of.

What is left out is about a veth itself, about our code alone, or takes the interface away.
"""
# ruff: noqa: F401 - pytest collects what is imported

from __future__ import annotations

from ..net.test_agent import (
    agent,
    folder,
    test_a_killed_agent_leaves_nothing_and_another_starts_at_once,
    test_a_socket_works_by_the_agent,
    test_an_application_killed_under_load_harms_nobody,
    test_nobody_receives_into_device_memory,
    test_the_netdev_family_answers_from_the_live_data_path,
)
from ..net.test_bindings import (
    test_a_connection_lives_through_bind_and_unbind,
    test_bytes_that_the_split_leaves_with_the_headers,
    test_tokens_held_across_unbind_stay_readable_and_drain_later,
    test_two_regions_on_different_queues_of_one_interface,
    test_without_a_region_bytes_arrive_in_host_memory,
)
from ..net.test_closed_ports import (
    runtime,
    test_a_port_is_closed_when_its_last_listener_is_gone,
)
from ..net.test_doctor_table import test_the_doctor_is_right_about_this_kernel_and_driver
from ..net.test_impaired import test_streams_over_a_bad_road_are_exact
from ..net.test_leftovers import test_what_a_runtime_has_is_found_and_gone_when_it_is_closed
from ..net.test_linkwatch import test_addresses_may_come_and_go
from ..net.test_recv import (
    start,
    test_200_connections_at_once_into_files,
    test_a_killed_run_leaves_the_interface_usable,
    test_ipv6,
    test_stopping_in_the_middle_resets_and_says_so,
)
from ..net.test_runtime_e2e import (
    test_a_runtime_can_follow_another_on_the_same_interface_and_region,
    test_a_stream_arrives_whole_and_an_answer_goes_back,
    test_closing_gives_outstanding_tokens_back,
    test_header_and_payload_pages_are_where_they_should_be,
    test_nothing_is_left_open_or_mapped,
    test_only_an_isolated_stack_cannot_read,
    test_replies_larger_than_the_channel_flow_with_the_acknowledgements,
    test_the_window_closes_and_opens_with_the_free_buffers,
    test_tokens_come_back_in_any_order_and_by_number,
    test_what_is_not_ours_passes_to_the_kernel,
)
from ..net.test_unreadable import (
    test_a_process_of_the_stack_s_own_user_finds_nothing_at_device_pages,
)
