# SPDX-License-Identifier: Apache-2.0
"""The files of the box: Debian packages, and what makes of them a machine for Vagrant.

Vagrant wants a user `vagrant` who needs no password for sudo and lets its well-known key in, which
it replaces by a new one at the first `vagrant up`; an address by DHCP; and rsync.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from ..vm.apt import KEYRING, MIRROR, MIRROR_VARIABLE

SUITE = "trixie"
PYTHON = "3.13"
"""Of the suite."""

_SECURITY_MIRROR = "http://deb.debian.org/debian-security"

_KERNEL = ("linux-image-cloud-amd64", "initramfs-tools", "grub-common", "grub-pc-bin")
_SYSTEM = (
    *("systemd-sysv", "systemd-resolved", "systemd-timesyncd", "udev", "dbus", "libpam-systemd"),
    *("openssh-server", "sudo", "rsync", "python3", "ca-certificates"),
    *("iproute2", "iputils-ping", "kmod", "less", "procps"),
)

# https://github.com/hashicorp/vagrant/blob/main/keys/vagrant.pub; its private half is as public.
_INSECURE_KEY = (
    "ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGEF"
    "HzD8+v1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo9D"
    "8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0jMZ"
    "EnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc9c9W"
    "hQ== vagrant insecure public key\n"
)

_FILES = {
    "etc/hostname": "devmemtcp\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 devmemtcp\n::1 localhost ip6-localhost\n",
    # The lease is looked up by MAC address, as the libvirt provider does.
    "etc/systemd/network/80-dhcp.network": (
        "[Match]\nType=ether\nKind=!*\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nClientIdentifier=mac\n"
    ),
    # Each machine makes host keys of its own. Debian's unit checks them before it starts sshd.
    "etc/systemd/system/ssh.service.d/keys.conf": (
        "[Service]\nExecStartPre=\nExecStartPre=/usr/bin/ssh-keygen -A\n"
        "ExecStartPre=/usr/sbin/sshd -t\n"
    ),
    "etc/ssh/sshd_config.d/vagrant.conf": "UseDNS no\n",
    "etc/sudoers.d/vagrant": "vagrant ALL=(ALL) NOPASSWD: ALL\n",
    "home/vagrant/.ssh/authorized_keys": _INSECURE_KEY,
    # The kernel and its initramfs are found by the links that Debian's kernel packages keep. A
    # guest for tests keeps no secret from itself, and under emulation the mitigations cost much.
    "boot/grub/grub.cfg": (
        "set timeout=0\n"
        "menuentry Debian {\n"
        "  linux /vmlinuz root=UUID={uuid} ro mitigations=off net.ifnames=0"
        " console=tty0 console=ttyS0,115200\n"
        "  initrd /initrd.img\n"
        "}\n"
    ),
    "etc/fstab": "UUID={uuid} / ext4 errors=remount-ro 0 1\n",
}

WHEELS = "opt/wheels"
_PIP_CONF = f"[global]\nno-index = true\nfind-links = /{WHEELS}\n"

_IN_THE_ROOT = """
useradd --no-create-home --shell /bin/bash vagrant
cp --recursive --no-target-directory /etc/skel /home/vagrant
echo vagrant:vagrant | chpasswd
chown -R vagrant:vagrant /home/vagrant
chmod 700 /home/vagrant/.ssh
chmod 600 /home/vagrant/.ssh/authorized_keys
chmod 440 /etc/sudoers.d/vagrant
rm -f /etc/ssh/ssh_host_*
systemctl enable systemd-networkd systemd-resolved
systemctl mask systemd-networkd-wait-online
"""


def write_files(folder: Path, uuid: str, *, wheels: Path | None) -> None:
    """What is laid over the packages; `uuid` is that of the file system it will be in."""
    for name, text in _FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{uuid}", uuid))
    if wheels is not None:
        (folder / "etc/pip.conf").write_text(_PIP_CONF)
        (folder / WHEELS).parent.mkdir(parents=True)
        wheels.rename(folder / WHEELS)


def sources() -> list[str]:
    """Lines of a sources.list: the mirrors that this machine uses, where they are Debian's."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(LABEL)|$(REPO_URI)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    used = dict(line.split("|", 1) for line in reversed(listed.splitlines()))
    debian = os.environ.get(MIRROR_VARIABLE) or used.get("Debian", MIRROR)
    security = used.get("Debian-Security", _SECURITY_MIRROR)
    suites = ((debian, SUITE), (debian, f"{SUITE}-updates"), (security, f"{SUITE}-security"))
    return [f"deb [signed-by={KEYRING}] {mirror} {suite} main" for mirror, suite in suites]


def make_root(folder: Path, overlay: Path, packages: Iterable[str]) -> None:
    """Debian in a folder, by mmdebstrap. Raises CalledProcessError."""
    resolved = "../run/systemd/resolve/stub-resolv.conf"
    hooks = (
        # Before the packages: the kernel's asks how the root is mounted.
        f"--essential-hook=sync-in {overlay} /",
        f'--customize-hook=chroot "$1" sh -euc "{_IN_THE_ROOT}"',
        f'--customize-hook=ln --symbolic --force {resolved} "$1/etc/resolv.conf"',
    )
    include = ",".join([*_KERNEL, *_SYSTEM, *packages])
    subprocess.run(
        [
            *("mmdebstrap", "--mode=root", "--variant=minbase", f"--include={include}"),
            *(*hooks, SUITE, str(folder), *sources()),
        ],
        check=True,
    )
