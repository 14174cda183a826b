/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_state.h - the connection states of RFC 9293 3.3.2 as a table. No other file
 * assigns a state.
 */
#ifndef DEVMEMTCP_TCP_STATE_H
#define DEVMEMTCP_TCP_STATE_H

#include "stack.h"

enum tcp_event {
	TCP_EV_SYN, /* a SYN for a listener */
	TCP_EV_SYN_ACKED, /* the ACK of our SYN */
	TCP_EV_FIN, /* the peer's FIN, in order */
	TCP_EV_CLOSE, /* the application has no more to send */
	TCP_EV_FIN_ACKED, /* the ACK of our FIN */
	TCP_EV_TIMEOUT, /* 2 MSL are over, or the peer is given up */
	TCP_EV_RESET, /* RST received or sent */
	TCP_EVENTS,
};

/* The next state; TCP_STATES when the event cannot happen in this state. */
enum tcp_state tcp_next_state(enum tcp_state state, enum tcp_event event);

#endif
