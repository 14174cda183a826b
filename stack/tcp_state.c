/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_state.c - the connection states of RFC 9293 3.3.2: [state][event] -> state. The diagram in
 * docs/tcp.md is drawn from this table.
 *
 * Passive open only, so there is no SYN-SENT. A flow is in LISTEN for as long as it takes to look
 * at the SYN that it is made for: the listener itself is no connection. What the RFC has of
 * SYN-RECEIVED and is not here cannot happen: the application does not know of a connection that
 * is not established, so it cannot close it, and a FIN is looked at behind the ACK of the SYN
 * that comes with it.
 */
#include "tcp_state.h"

#define NO TCP_STATES

static const uint8_t next_state[TCP_STATES][TCP_EVENTS] = {
	/* clang-format off */
	/*                      OPEN        SYN               SYN_ACKED        FIN             CLOSE           FIN_ACKED       TIMEOUT     RESET */
	[TCP_CLOSED]        = { TCP_LISTEN, NO,               NO,              NO,             NO,             NO,             NO,         NO },
	[TCP_LISTEN]        = { NO,         TCP_SYN_RECEIVED, NO,              NO,             NO,             NO,             NO,         NO },
	[TCP_SYN_RECEIVED]  = { NO,         NO,               TCP_ESTABLISHED, NO,             NO,             NO,             TCP_CLOSED, TCP_CLOSED },
	[TCP_ESTABLISHED]   = { NO,         NO,               NO,              TCP_CLOSE_WAIT, TCP_FIN_WAIT_1, NO,             TCP_CLOSED, TCP_CLOSED },
	[TCP_FIN_WAIT_1]    = { NO,         NO,               NO,              TCP_CLOSING,    NO,             TCP_FIN_WAIT_2, TCP_CLOSED, TCP_CLOSED },
	[TCP_FIN_WAIT_2]    = { NO,         NO,               NO,              TCP_TIME_WAIT,  NO,             NO,             TCP_CLOSED, TCP_CLOSED },
	[TCP_CLOSE_WAIT]    = { NO,         NO,               NO,              NO,             TCP_LAST_ACK,   NO,             TCP_CLOSED, TCP_CLOSED },
	[TCP_CLOSING]       = { NO,         NO,               NO,              NO,             NO,             TCP_TIME_WAIT,  TCP_CLOSED, TCP_CLOSED },
	[TCP_LAST_ACK]      = { NO,         NO,               NO,              NO,             NO,             TCP_CLOSED,     TCP_CLOSED, TCP_CLOSED },
	[TCP_TIME_WAIT]     = { NO,         NO,               NO,              NO,             NO,             NO,             TCP_CLOSED, NO },
	/* clang-format on */
};

uint32_t tcp_next_state(uint32_t state, uint32_t event)
{
	return state < TCP_STATES && event < TCP_EVENTS ? next_state[state][event] : NO;
}

bool tcp_state_move(struct flow *f, enum tcp_event event)
{
	const uint8_t to = (uint8_t)tcp_next_state(f->state, event);

	if (to == NO)
		return false;
	/* Flows lie in memory that the caller brought: none is defined const. */
	*(uint8_t *)(uintptr_t)&f->state = to;
	return true;
}
