#!/bin/bash
# Makes the disk image $OUT of a Xen host: Debian, Xen, QEMU, LVM, ZFS. Nothing of this project is in it.
# Runs as root in mount and pid namespaces of its own, so whatever it mounts ends with it.
# $RELEASE: the release of Debian, $XEN: the version of its Xen. $MIRROR: where Debian comes from,
# may be empty. $APT_CONF: a file with settings of apt.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

packages=(
    systemd-sysv udev kmod procps iproute2 iputils-ping openssh-server less vim-tiny
    linux-image-amd64 initramfs-tools busybox-static e2fsprogs
    "xen-hypervisor-$XEN-amd64" "xen-utils-$XEN" xen-utils-common xenstore-utils
    qemu-system-xen qemu-utils libnbd0 seabios
    lvm2 thin-provisioning-tools zfsutils-linux
    python3 python3-venv make
)
# To build the ZFS module; removed again.
builders=(zfs-dkms dkms linux-headers-amd64 gcc libc6-dev)

say() { echo "base: $*"; }

root=$(mktemp -d -p "$(dirname "$OUT")")
truncate -s 6G "$OUT"
mkfs.ext4 -q -E lazy_itable_init=1,nodiscard -L lab-root "$OUT"
mount -o loop,discard "$OUT" "$root"

say "debootstrap"
# shellcheck disable=SC2086
debootstrap --variant=minbase --components=main,contrib --include=ca-certificates \
    "$RELEASE" "$root" $MIRROR
mount -t proc proc "$root/proc"
mount -t sysfs sys "$root/sys"
mount --rbind /dev "$root/dev"
cp "$APT_CONF" "$root/etc/apt/apt.conf.d/90lab-build"
cp /etc/resolv.conf "$root/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
cat >"$root/etc/dpkg/dpkg.cfg.d/lab" <<-END
	force-unsafe-io
	path-exclude=/usr/share/doc/*
	path-exclude=/usr/share/locale/*
	path-exclude=/usr/share/info/*
END
# Nobody boots from it (guests.sh makes what is used): the least that it can be.
mkdir -p "$root/etc/initramfs-tools/conf.d"
echo 'MODULES=list' >"$root/etc/initramfs-tools/conf.d/lab"

say "packages"
chroot "$root" apt-get -q update
chroot "$root" apt-get -qy install --no-install-recommends "${packages[@]}"

say "the ZFS module"
chroot "$root" apt-get -qy install --no-install-recommends "${builders[@]}"
kernel=$(ls "$root/lib/modules")
chroot "$root" dkms autoinstall -k "$kernel"
mkdir "$root/lib/modules/$kernel/zfs"
cp "$root/lib/modules/$kernel/updates/dkms"/*.ko* "$root/lib/modules/$kernel/zfs/"
chroot "$root" apt-get -qy purge "${builders[@]}"
chroot "$root" apt-get -qy autoremove --purge
chroot "$root" depmod "$kernel"
chroot "$root" modinfo -k "$kernel" zfs >/dev/null

chroot "$root" apt-get clean
rm -rf "$root"/var/lib/apt/lists/* "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf" \
    "$root/etc/apt/apt.conf.d/90lab-build" "$root"/var/log/*.log "$root"/var/log/apt
umount -l "$root/dev"
umount "$root/proc" "$root/sys"
fstrim "$root"
df -h "$root" | tail -1
umount "$root"
rmdir "$root"
