# SPDX-License-Identifier: Apache-2.0
"""Sets a NIC up for our flows, and puts it back: `devmemtcp nic plan|apply|undo`.

The files: ``device`` is a NIC as it can be read and written, ``setting`` has the kinds of settings,
``facts`` what a NIC's are now; ``planner`` makes a ``plan`` of them, ``transaction`` carries it
out and takes it back by its ``journal``, which ``returned`` finds again for a NIC that has come
back with another index, and ``lookup`` by the NIC's name; ``verbs`` is the command line.
"""
