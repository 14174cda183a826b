# SPDX-License-Identifier: Apache-2.0
"""`devmemtcp doctor`: what this machine and one interface can do, and what mends what they cannot.

It looks and tries, and changes nothing. Rules that a receiver is refused by are in
`agent/preflight.py`, and shown here; nothing is judged twice.

* ``record`` is a line, ``render`` prints lines, ``verb`` is the command
* ``examine`` asks all groups of checks in turn, ``look`` turns what cannot be asked into a line
* of the machine: ``host`` (kernel, configuration, memory), ``process`` (privileges, limits),
  ``program`` (BPF, really loaded), ``sockets`` (AF_XDP, really bound), ``families`` (of netlink),
  ``agents`` (is one running)
* of an interface: ``link``, ``driver`` (with ``matrix``, what is known of drivers), ``queues``,
  ``offloads``, ``taken`` (by whom), ``devmem`` (the kernel's own)
* ``modes`` draws the conclusion: which can be used, and what each promises
* ``floors`` is the table of docs/kernels.md: what needs which kernel, and the check that tries it
"""
