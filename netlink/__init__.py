# SPDX-License-Identifier: Apache-2.0
"""The control plane: the kernel's netdev family, its messages, policy and errors.

The client, from the socket to the methods:

* ``target`` opens a socket to the kernel or to the agent, ``connection`` sends requests over it
  and judges the answers (``acknowledgement``, ``naming``, ``errors``), ``genl`` finds a family
* ``messages`` describes netdev's messages, ``records`` is what they say; ``netdev`` asks and
  ``notifications`` listens, with ``agent_messages`` where an agent's socket needs them
* ``ethtool`` (with ``ethtool_messages``), ``flow_rules`` and ``rss_table`` (by ``ethtool_ioctl``),
  and ``link``: what else a host is set up with; ``xdp_diag``: who has AF_XDP sockets

The server, which the agent stands behind, from the bytes to the data path:

* ``server`` walks messages, ACKs, dumps and notifies; ``family`` has its nouns, ``policy``
  checks attributes (``attribute``), ``extack`` is what a refusal says
* ``controller`` tells which families there are, ``membership`` joins groups
* ``model`` puts the netdev family together: ``netdev_family`` answers, ``binding`` binds (with
  ``ids``), ``emulation`` is the NIC that ``ethtool_family`` sets up, ``devices`` finds them
* ``backend`` is what the model asks of the live data path

``constants`` has the numbers, for both sides.
"""
