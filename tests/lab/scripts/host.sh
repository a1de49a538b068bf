#!/bin/bash
# Turns $OUT, a copy of the base image, into the image of a lab host: settings, what guests boot
# from, and the program's package. Namespaces: as in base.sh.
# $HOSTFS: files of the host. $BOOT: files for its /boot. $PACKAGE: of the program, for this release.
# $TESTS: packages that tests need which run on the host. $PUBLIC_KEY: who may log in.
set -euo pipefail
export LC_ALL=C

root=$(mktemp -d -p "$(dirname "$OUT")")
mount -o loop,discard "$OUT" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs run "$root/run"
mount -t tmpfs tmp "$root/tmp"

cp -r --no-preserve=ownership "$HOSTFS/." "$root/"
cp --sparse=always "$BOOT"/* "$root/boot/"
install -D -m 600 "$PUBLIC_KEY" "$root/root/.ssh/authorized_keys"
chmod 700 "$root/root/.ssh"
mkdir -p "$root/var/log/journal" "$root/var/log/xen/console" "$root/srv/xen/images"

# What only makes an emulated host slower.
off=(getty-static.service getty@tty1.service serial-getty@hvc0.service systemd-pstore.service
    e2scrub_reap.service e2scrub_all.timer fstrim.timer apt-daily.timer apt-daily-upgrade.timer
    dpkg-db-backup.timer hwclock.service systemd-binfmt.service systemd-udev-settle.service
    proc-sys-fs-binfmt_misc.automount modprobe@efi_pstore.service modprobe@drm.service
    modprobe@fuse.service systemd-update-utmp.service systemd-update-utmp-runlevel.service)
systemctl --quiet --root="$root" mask "${off[@]}"
systemctl --quiet --root="$root" enable systemd-networkd.service

cp "$PACKAGE" "$root/tmp/xenmoved.deb"
chroot "$root" dpkg --install /tmp/xenmoved.deb
# It has no configuration yet, nor pools.
systemctl --quiet --root="$root" disable xenmoved.service
# For test_storage.py and loads.py, beside the program rather than in its environment.
cp -r --no-preserve=ownership "$TESTS" "$root/opt/tests"

fstrim "$root"
umount -l "$root/dev"
umount "$root/proc" "$root/run" "$root/tmp" "$root"
rmdir "$root"
