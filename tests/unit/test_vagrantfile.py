# SPDX-License-Identifier: Apache-2.0
"""The Vagrantfile: that Vagrant takes it, and what its environment variables do.

The second needs Ruby alone: the file is run with a recorder in Vagrant's place.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VAGRANTFILE = ROOT / "Vagrantfile"

RECORDER = r"""
require "json"
class Recorder
  def initialize(path, log) = (@path, @log = path, log)
  def method_missing(name, *arguments, **options)
    path = [@path, name.to_s].compact.join(".")
    if name.to_s.end_with?("=")
      @log[path.chomp("=")] = arguments.first
    elsif block_given?
      yield Recorder.new([path, arguments.first].join("."), @log)
    elsif arguments.empty?
      Recorder.new(path, @log)
    else
      @log[[path, arguments.first].join(".")] = options
    end
  end
  def respond_to_missing?(*) = true
end
module Vagrant
  def self.configure(_version)
    log = {}
    yield Recorder.new(nil, log)
    puts JSON.generate(log)
  end
end
load ARGV.first
"""


def environment(**chosen: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DEVMEMTCP_")}
    return {**kept, "VAGRANT_CHECKPOINT_DISABLE": "1", **chosen}


def run_vagrantfile(**chosen: str) -> subprocess.CompletedProcess[str]:
    ruby = shutil.which("ruby")
    if ruby is None:
        pytest.skip("ruby is not installed")
    return subprocess.run(
        [ruby, "-e", RECORDER, str(VAGRANTFILE)],
        env=environment(**chosen),
        capture_output=True,
        text=True,
        check=False,
    )


def settings(**chosen: str) -> dict[str, object]:
    done = run_vagrantfile(**chosen)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def test_vagrant_takes_it(tmp_path: Path) -> None:
    vagrant = shutil.which("vagrant")
    if vagrant is None:
        pytest.skip("vagrant is not installed")
    shutil.copy(VAGRANTFILE, tmp_path)
    done = subprocess.run(
        [vagrant, "validate"],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "Vagrantfile validated successfully.\n"), (
        done.stderr
    )


def test_both_providers_get_the_size_that_was_asked_for() -> None:
    told = settings(DEVMEMTCP_CPUS="3", DEVMEMTCP_MEMORY="1500")
    for provider in ("libvirt", "virtualbox"):
        assert told[f"vm.provider.{provider}.cpus"] == 3
        assert told[f"vm.provider.{provider}.memory"] == 1500


def test_the_box_is_debian_13_or_the_one_that_was_asked_for() -> None:
    assert settings()["vm.box"] == "cloud-image/debian-13"
    assert settings(DEVMEMTCP_BOX="mine")["vm.box"] == "mine"


def test_the_driver_is_kvm_only_where_the_processor_can() -> None:
    able = bool(re.search(r"^flags\b.* (vmx|svm)\b", Path("/proc/cpuinfo").read_text(), re.M))
    kvm = able and os.access("/dev/kvm", os.R_OK | os.W_OK)
    assert settings()["vm.provider.libvirt.driver"] == ("kvm" if kvm else "qemu")
    assert settings(DEVMEMTCP_DRIVER="kvm")["vm.provider.libvirt.driver"] == "kvm"


def test_links_stay_links_and_what_is_built_here_stays_here() -> None:
    folder = settings()["vm.synced_folder.."]
    assert isinstance(folder, dict)
    assert folder["type"] == "rsync"
    assert not [word for word in folder["rsync__args"] if "copy-links" in word]
    assert {".venv/", "build/"} <= set(folder["rsync__exclude"])


def test_a_number_that_is_none_is_one_line() -> None:
    done = run_vagrantfile(DEVMEMTCP_CPUS="two")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "DEVMEMTCP_CPUS has to be a number, not 'two'\n"


def test_the_variables_are_those_that_its_head_and_the_guide_explain() -> None:
    text = VAGRANTFILE.read_text()
    head = set(re.findall(r"^#   (DEVMEMTCP_\w+)", text, re.MULTILINE))
    assert head == set(re.findall(r'"(DEVMEMTCP_\w+)"', text))
    guide = (ROOT / "docs/vagrant.md").read_text()
    assert head == set(re.findall(r"^\| `(DEVMEMTCP_\w+)`", guide, re.MULTILINE))
