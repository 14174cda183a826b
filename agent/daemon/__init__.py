# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp agent`: serves interfaces to applications that have no privileges.

* ``agentd`` is its life: set-up, drop, serve, drain; ``config`` and ``option_values`` read what it
  was told, ``notify`` tells the service manager
* ``socket_file``, ``clients`` (control connections), ``peers`` (who may do what)
* ``family`` and ``family_messages`` (what applications ask), ``backend`` (what the netdev family
  asks)
* ``interface``: one that it serves, with its datapath
* ``confinement`` with ``capabilities``, ``landlock`` and ``seccomp``, C: what it gives up for good
"""
