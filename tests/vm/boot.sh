#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# boot.sh - the guest's first process, run by busybox from the initramfs.
#
# Makes the host's files the guest's root: they come by 9p, read-only, and below an
# overlay whatever is written stays in the guest's memory. Then guest.sh, out of these
# files, takes its place. /words/guest names it; it finds /words in /run/vm.

set -e

mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
for module in /modules/*; do
	insmod "$module"
done

# Nobody but the host changes these files, and while the guest runs nobody should.
mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro host /lower
mount -t tmpfs -o mode=755,size=75% upper /upper
mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work root /root

mount -t tmpfs -o mode=755 run /root/run
cp -r /words /root/run/vm
for place in dev proc sys; do
	mount --move "/$place" "/root/$place"
done
eval "set -- $(cat /words/guest)"
exec switch_root /root "$@"
