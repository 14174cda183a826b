#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# guest.sh - what boot.sh becomes: the guest's init, with the host's files as its root.
#
# Sets up what a service manager would, runs one command (/run/vm/command, in the folder
# and with the variables of /run/vm/environment), and ends the machine. The machine's
# virtio ports are: 1 the command's output, 2 its errors, 3 its status and nothing else.

words() { cat "/run/vm/$1"; }
port() { echo /dev/vport*p"$1"; }

# The machine ends without a status, which is a failure; its console's last words say why: by way
# of the kernel's log, for what is still on its way to a terminal then is lost.
must() {
	said=$("$@" 2>&1) && return
	echo "<3>guest.sh: $*: $said" >/dev/kmsg
	echo b >/proc/sysrq-trigger
}

mkdir -p /dev/pts /dev/shm
ln -s /proc/self/fd /dev/fd
for stream in stdin:0 stdout:1 stderr:2; do
	ln -s "/proc/self/fd/${stream#*:}" "/dev/${stream%:*}"
done
must mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
must mount -t tmpfs -o mode=1777 shm /dev/shm
must mount -t bpf bpf /sys/fs/bpf
must mount -t tracefs tracefs /sys/kernel/tracing
must mount -t cgroup2 cgroup /sys/fs/cgroup
mkdir -p /run/home /run/lock /run/netns /lib/modules

eval "set -- $(words modules)"
ln -sfn "$1/lib/modules/$2" "/lib/modules/$2"
# Where tools look for it that find none in /proc; packages of 7.3 have it with the modules.
for config in "$1/boot/config-$2" "$1/lib/modules/$2/config"; do
	[ ! -e "$config" ] || ln -sf "$config" "/boot/config-$2"
done
shift 2
for module; do
	must modprobe "$module"
done

# As systemd has it: init's own 4096 would be the most that anybody could ask for.
must prlimit --pid $$ --nofile=1024:524288

must ip link set lo up
hostname guest
if [ -s /run/vm/results ]; then
	eval "set -- $(words results)"
	must mkdir -p "$1"
	must mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=none results "$1"
fi

# A port opens once, but a program may want to open its /dev/stdout again: so pipes.
must mkfifo /run/vm/1 /run/vm/2
cat /run/vm/1 >"$(port 1)" &
output=$!
cat /run/vm/2 >"$(port 2)" &
errors=$!
(
	eval "set -- $(words environment)"
	cd "$1" || exit 125
	shift
	eval "exec env -i \"\$@\" $(words command)"
) </dev/null >/run/vm/1 2>/run/vm/2
status=$?

# What the command has left running would hold the pipes open.
for process in /proc/[0-9]*; do
	case ${process#/proc/} in
	"$$" | "$output" | "$errors") ;;
	*) kill -9 "${process#/proc/}" 2>/dev/null ;;
	esac
done
wait "$output" "$errors"
echo "$status" >"$(port 3)"
sync
echo b >/proc/sysrq-trigger
