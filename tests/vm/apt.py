# SPDX-License-Identifier: Apache-2.0
"""A Debian suite, asked through an apt that shares nothing with the host's.

It has lists and a (void) package status of its own, so the host's sources and packages stay as
they are, any Debian derivative will do, and no root is needed: packages are unpacked, not
installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .failure import Failure

MIRROR = "http://deb.debian.org/debian"
MIRROR_VARIABLE = "DEVMEMTCP_DEBIAN_MIRROR"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

_CONFIGURATION = """\
APT::Architecture "amd64";
APT::Architectures {{ "amd64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "2";
Dir::State "{folder}";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
"""


@dataclass(frozen=True)
class Suite:
    """One suite's main section; apt's state for it is below ``folder``."""

    name: str
    folder: Path

    @cached_property
    def _environment(self) -> dict[str, str]:
        """For an apt that knows this suite alone; fetches its package lists."""
        missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
        if missing or not KEYRING.exists():
            raise Failure(
                f"cannot fetch packages of Debian without {missing[0] if missing else KEYRING}: "
                "install apt, dpkg and debian-archive-keyring"
            )
        for name in ("lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        mirror = os.environ.get(MIRROR_VARIABLE, MIRROR)
        (self.folder / "sources.list").write_text(
            f"deb [signed-by={KEYRING}] {mirror} {self.name} main\n"
        )
        configuration = self.folder / "apt.conf"
        configuration.write_text(_CONFIGURATION.format(folder=self.folder))
        environment = os.environ | {"APT_CONFIG": str(configuration), "LC_ALL": "C.UTF-8"}
        # Without --error-on apt-get takes a mirror that does not answer for a warning.
        self._run(environment, "apt-get", "-q", "--error-on=any", "update")
        return environment

    def _run(self, environment: dict[str, str], *command: str, where: Path | None = None) -> str:
        done = subprocess.run(
            command, env=environment, cwd=where, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")]
            reason = said[0][2:].strip() if said else f"exit status {done.returncode}"
            raise Failure(f"{' '.join(command[:3])} for Debian {self.name}: {reason}")
        return done.stdout

    def depends(self, package: str) -> list[str]:
        """Names of what the newest version of a package depends on."""
        shown = self._run(
            self._environment, "apt-cache", "--no-all-versions", "show", "--", package
        )
        line = re.search(r"^Depends: (.*)$", shown, re.MULTILINE)
        return re.findall(r"(?:^|,) *([a-z0-9][^ ,:]+)", line[1]) if line else []

    def download(self, packages: list[str], to: Path) -> None:
        """These packages, as .deb files."""
        self._run(self._environment, "apt-get", "-q", "download", *packages, where=to)

    def download_with_dependencies(self, packages: list[str], to: Path) -> None:
        """These packages and, since nothing counts as installed, all that they need."""
        archives = f"Dir::Cache::archives={to}"
        (to / "partial").mkdir()
        self._run(
            self._environment,
            *("apt-get", "-q", "-y", "-o", archives, "--download-only", "install", *packages),
        )


def unpack(debs: Path, root: Path) -> None:
    """The files of all packages in a folder, into one tree, and nothing of their scripts."""
    for deb in sorted(debs.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", deb, root], check=True)
