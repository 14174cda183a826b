/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_state.h - the one way from state to state. flow.state is const everywhere, so that no
 * other file can assign one.
 */
#ifndef DEVMEMTCP_TCP_STATE_H
#define DEVMEMTCP_TCP_STATE_H

#include "flow.h"

/* False, and the state as it was, when the event cannot happen in it. */
bool tcp_state_move(struct flow *f, enum tcp_event event);

#endif
