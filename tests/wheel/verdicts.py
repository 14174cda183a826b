# SPDX-License-Identifier: Apache-2.0
"""What other people's tools say of the wheel. They have an environment of their own."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

from .broken import Broken, run

# Of the metadata on stdin: the fields by the specification's own library, and the words that an
# index takes.
_METADATA = """
import sys
from packaging.metadata import Metadata
from trove_classifiers import classifiers
found = Metadata.from_email(sys.stdin.buffer.read(), validate=True)
unknown = set(found.classifiers) - classifiers
assert not unknown, f"no such classifiers: {unknown}"
assert found.description_content_type == "text/markdown" and found.description
print(found.metadata_version, found.license_expression, found.requires_python, sep=", ")
"""


def platform(tools: Path, wheel: Path) -> str:
    """What auditwheel says: no more than Linux, for the libraries are the system's."""
    said = " ".join(run([tools / "bin/auditwheel", "show", wheel]).split())
    tag = re.search(r'following platform tag: "(\w+)"', said)
    if not tag or not tag[1].startswith("linux_"):
        raise Broken(f"auditwheel expected another platform: {said[:200]}")
    return f"{tag[1]}, as its libraries are the system's"


def stable_abi(tools: Path, wheel: Path) -> str:
    """What abi3audit says of the extensions, which are for any CPython from 3.11 on."""
    if "-cp311-abi3-" not in wheel.name:
        raise Broken(f"{wheel.name} is not for the stable ABI of 3.11")
    said = json.loads(run([tools / "bin/abi3audit", "--strict", "--report", wheel]))
    (judged,) = said["specs"].values()
    return f"{len(judged['wheel'])} extensions keep to it"


def metadata(tools: Path, text: bytes) -> str:
    """Whether an index would take it."""
    command: list[str | Path] = [tools / "bin/python", "-I", "-c", _METADATA]
    done = subprocess.run(list(map(str, command)), input=text, capture_output=True, check=False)
    if done.returncode:
        raise Broken(done.stderr.decode().strip().splitlines()[-1])
    return done.stdout.decode().strip()
