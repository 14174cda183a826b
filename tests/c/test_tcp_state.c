/* SPDX-License-Identifier: Apache-2.0 */
/* Every (state, event) pair of the table against RFC 9293 figure 5, written out again. */
#include "check.h"
#include "tcp_state.h"

struct row {
	enum tcp_state from;
	enum tcp_event event;
	enum tcp_state to;
};

static const struct row possible[] = {
	{TCP_CLOSED, TCP_EV_OPEN, TCP_LISTEN},
	{TCP_LISTEN, TCP_EV_SYN, TCP_SYN_RECEIVED},
	{TCP_SYN_RECEIVED, TCP_EV_SYN_ACKED, TCP_ESTABLISHED},
	{TCP_ESTABLISHED, TCP_EV_FIN, TCP_CLOSE_WAIT},
	{TCP_ESTABLISHED, TCP_EV_CLOSE, TCP_FIN_WAIT_1},
	{TCP_FIN_WAIT_1, TCP_EV_FIN, TCP_CLOSING},
	{TCP_FIN_WAIT_1, TCP_EV_FIN_ACKED, TCP_FIN_WAIT_2},
	{TCP_FIN_WAIT_2, TCP_EV_FIN, TCP_TIME_WAIT},
	{TCP_CLOSE_WAIT, TCP_EV_CLOSE, TCP_LAST_ACK},
	{TCP_CLOSING, TCP_EV_FIN_ACKED, TCP_TIME_WAIT},
	{TCP_LAST_ACK, TCP_EV_FIN_ACKED, TCP_CLOSED},
};

/* What row says, or that every connection can be given up, and reset unless it is over. */
static uint32_t expected(uint32_t from, uint32_t event)
{
	for (size_t i = 0; i < sizeof(possible) / sizeof(*possible); i++)
		if (possible[i].from == from && possible[i].event == event)
			return possible[i].to;
	if (from == TCP_CLOSED || from == TCP_LISTEN)
		return TCP_STATES;
	if (event == TCP_EV_TIMEOUT || (event == TCP_EV_RESET && from != TCP_TIME_WAIT))
		return TCP_CLOSED;
	return TCP_STATES;
}

static void every_pair_is_as_the_figure_has_it(void)
{
	for (uint32_t from = 0; from < TCP_STATES; from++)
		for (uint32_t event = 0; event < TCP_EVENTS; event++)
			CHECK_EQ(tcp_next_state(from, event), expected(from, event));
	CHECK_EQ(tcp_next_state(TCP_STATES, 0), TCP_STATES);
	CHECK_EQ(tcp_next_state(0, TCP_EVENTS), TCP_STATES);
}

static void what_cannot_happen_changes_nothing(void)
{
	static struct flow f;

	CHECK(!tcp_state_move(&f, TCP_EV_FIN));
	CHECK_EQ(f.state, TCP_CLOSED);
}

int main(void)
{
	static const struct check_test tests[] = {CHECK_TEST(every_pair_is_as_the_figure_has_it),
						  CHECK_TEST(what_cannot_happen_changes_nothing)};

	return check_main(tests, 2);
}
