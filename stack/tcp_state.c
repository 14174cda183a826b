/* SPDX-License-Identifier: Apache-2.0 */
/*
 * tcp_state.c - [state][event] -> state, passive open only (no SYN-SENT).
 *
 *                LISTEN -SYN-> SYN-RECEIVED -ACK of SYN-> ESTABLISHED
 *
 *   ESTABLISHED -close-> FIN-WAIT-1 -ACK of FIN-> FIN-WAIT-2 -FIN-> TIME-WAIT
 *                            '------FIN-> CLOSING -ACK of FIN-> TIME-WAIT -2 MSL-> CLOSED
 *   ESTABLISHED -FIN-> CLOSE-WAIT -close-> LAST-ACK -ACK of FIN-> CLOSED
 */
#include "tcp_state.h"

#define NO TCP_STATES

static const uint8_t next_state[TCP_STATES][TCP_EVENTS] = {
	/* clang-format off */
	/*                      SYN               SYN_ACKED        FIN             CLOSE           FIN_ACKED       TIMEOUT     RESET */
	[TCP_CLOSED]        = { NO,               NO,              NO,             NO,             NO,             NO,         TCP_CLOSED },
	[TCP_LISTEN]        = { TCP_SYN_RECEIVED, NO,              NO,             NO,             NO,             NO,         NO },
	[TCP_SYN_RECEIVED]  = { NO,               TCP_ESTABLISHED, NO,             TCP_FIN_WAIT_1, NO,             TCP_CLOSED, TCP_CLOSED },
	[TCP_ESTABLISHED]   = { NO,               NO,              TCP_CLOSE_WAIT, TCP_FIN_WAIT_1, NO,             TCP_CLOSED, TCP_CLOSED },
	[TCP_FIN_WAIT_1]    = { NO,               NO,              TCP_CLOSING,    NO,             TCP_FIN_WAIT_2, TCP_CLOSED, TCP_CLOSED },
	[TCP_FIN_WAIT_2]    = { NO,               NO,              TCP_TIME_WAIT,  NO,             NO,             TCP_CLOSED, TCP_CLOSED },
	[TCP_CLOSE_WAIT]    = { NO,               NO,              NO,             TCP_LAST_ACK,   NO,             TCP_CLOSED, TCP_CLOSED },
	[TCP_CLOSING]       = { NO,               NO,              NO,             NO,             TCP_TIME_WAIT,  TCP_CLOSED, TCP_CLOSED },
	[TCP_LAST_ACK]      = { NO,               NO,              NO,             NO,             TCP_CLOSED,     TCP_CLOSED, TCP_CLOSED },
	[TCP_TIME_WAIT]     = { NO,               NO,              NO,             NO,             NO,             TCP_CLOSED, TCP_CLOSED },
	/* clang-format on */
};

enum tcp_state tcp_next_state(enum tcp_state state, enum tcp_event event)
{
	return (enum tcp_state)next_state[state][event];
}
