# SPDX-License-Identifier: Apache-2.0
"""The documents say what is true of the checkout: commands, files, functions, versions."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SECURITY = (ROOT / "SECURITY.md").read_text()
DOCUMENTS = [
    *("README.md", "CONTRIBUTING.md", "SECURITY.md"),
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))),
]


def dev_verbs() -> set[str]:
    usage = subprocess.run([ROOT / "dev", "help"], check=True, capture_output=True, text=True)
    return set(re.findall(r"^  (\w+)", usage.stdout, re.MULTILINE))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_documents_are_verbs_of_dev(document: str) -> None:
    mentioned = set(re.findall(r"\./dev (\w+)", (ROOT / document).read_text()))
    assert mentioned - dev_verbs() == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_benchmarks_in_documents_are_verbs_of_bench(document: str) -> None:
    code = "".join(path.read_text() for path in (ROOT / "agent/bench/verbs").glob("*.py"))
    for name in re.findall(r"\bbench ([a-z-]+[a-z])`", (ROOT / document).read_text()):
        assert re.search(rf"def {name.replace('-', '_')}(_rx)?\(", code), name


def test_the_readme_shows_its_two_commands_on_the_first_screen() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:45])
    assert "./dev demo" in first_screen
    assert "./dev test" in first_screen


def test_tests_that_documents_name_exist() -> None:
    defined = set[str]()
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined |= set(re.findall(r"\bdef (test_\w+)", path.read_text()))
    for document in DOCUMENTS:
        named = set(re.findall(r"`(test_\w+)`", (ROOT / document).read_text()))
        assert named - defined == set(), document


def test_every_promise_of_security_names_a_test() -> None:
    rows = [
        line
        for table in re.findall(r"^\|.* \| shown by \|\n((?:\|.*\n)+)", SECURITY, re.MULTILINE)
        for line in table.splitlines()[1:]
    ]
    assert len(rows) > 20
    assert [row for row in rows if not re.search(r"`test_\w+`", row.split("|")[-2])] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document: str) -> None:
    path = ROOT / document
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_architecture_fits_its_page() -> None:
    text = (ROOT / "docs/ARCHITECTURE.md").read_text()
    assert len(text.splitlines()) <= 120


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_and_functions_that_documents_name_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    for file, function in re.findall(r"`([\w/.]+\.(?:c|h|py)):(\w+)`", text):
        defined = rf"\bdef {function}\(" if file.endswith(".py") else rf"\b{function}\("
        assert re.search(defined, (ROOT / file).read_text()), f"{file}:{function}"
    for file in re.findall(r"`((?:agent|netlink|pyxdp|stack|tests|xdp_prog)/[\w/.]+\.\w+)`", text):
        assert (ROOT / file).is_file(), file


def test_the_lock_file_pins_everything_within_its_range() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    version = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}
    wanted = [*PYPROJECT["project"]["dependencies"]]
    for group in PYPROJECT["dependency-groups"].values():
        wanted += group
    for requirement in map(Requirement, wanted):
        pinned = version.get(canonicalize_name(requirement.name))
        assert pinned is not None, f"{requirement.name} is not in requirements.lock"
        assert requirement.specifier.contains(pinned), f"{requirement} but {pinned} is locked"


def test_the_changelog_has_the_version() -> None:
    heading = rf"^## \[{re.escape(PYPROJECT['project']['version'])}\]"
    assert re.search(heading, (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_the_version_is_one_in_all_places() -> None:
    version = PYPROJECT["project"]["version"]
    assert f'__version__ = "{version}"' in (ROOT / "src/devmemtcp/__init__.py").read_text()
    assert f"version: '{version}'" in (ROOT / "meson.build").read_text()
