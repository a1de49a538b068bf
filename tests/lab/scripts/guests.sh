#!/bin/bash
# Makes in the folder $OUT: root.initrd, which mounts a root file system; small.initrd, which is all
# of the small guest; bootable.img, a file system with a boot loader that boots the same on a PC;
# debian.img, the disk of the other guest.
# $BASE: the disk image of a host, from which kernel modules and busybox are taken.
# $GUEST: the folder with the sources. $RELEASE, $MIRROR, $APT_CONF and namespaces: as in base.sh.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

say() { echo "guests: $*"; }

work=$(mktemp -d -p "$OUT")
mkdir "$work/host" "$work/small" "$work/debian"
mount -o loop,ro,noload "$BASE" "$work/host"

say "the writer"
gcc -O2 -Wall -Wextra -Werror -static -o "$work/writer" "$GUEST/writer.c"

# Puts modules and all that they need into a tree, with the order in which they can be loaded.
add_modules() {
    local tree=$1 kernel path
    shift
    kernel=$(ls "$work/host/lib/modules")
    mkdir -p "$tree/modules"
    for module; do
        modprobe -d "$work/host" -S "$kernel" --show-depends --ignore-install "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r path; do
        case $path in
        *.xz) xz -dc "$path" >"$tree/modules/$(basename "$path" .xz)" ;;
        *) cp "$path" "$tree/modules/" ;;
        esac
        basename "$path" .xz
    done >"$tree/modules/order"
}

pack() { (cd "$1" && find . | cpio --quiet -o -H newc) >"$2"; }

say "what hosts and the Debian guest boot from"
boot=$work/boot
mkdir -p "$boot/bin" "$boot/sbin"
install -m 755 "$GUEST/boot" "$boot/init"
install -m 755 "$work/host/bin/busybox" "$boot/bin/"
add_modules "$boot" crc32c_generic ext4 virtio_pci virtio_blk virtio_net xen-blkfront xen-netfront
pack "$boot" "$OUT/root.initrd"

say "the small guest"
small=$work/small
mkdir -p "$small/bin" "$small/sbin"
install -m 755 "$GUEST/init" "$GUEST/stop" "$small/"
install -m 755 "$work/writer" "$work/host/bin/busybox" "$small/bin/"
add_modules "$small" crc32c_generic ext4 xen-blkfront xen-netfront
pack "$small" "$OUT/small.initrd"

say "the small guest as a PC boots it"
add_modules "$small" crc32c_generic ext4 xen-blkfront xen-netfront ata_piix ahci nvme sd_mod
pack "$small" "$work/pc.initrd"
truncate -s 64M "$OUT/bootable.img"
# The boot loader reads neither of these features.
mkfs.ext4 -q -m 0 -O ^64bit,^metadata_csum -E nodiscard "$OUT/bootable.img"
mkdir "$work/bootable"
mount -o loop,discard "$OUT/bootable.img" "$work/bootable"
cp "$work/pc.initrd" "$work/bootable/initrd"
cp "$work"/host/boot/vmlinuz-* "$work/bootable/vmlinuz"
extlinux --install "$work/bootable"
cat >"$work/bootable/extlinux.conf" <<-END
	DEFAULT linux
	LABEL linux
	  LINUX vmlinuz
	  INITRD initrd
	  APPEND console=hvc0 quiet mitigations=off net.ifnames=0
	LABEL emulated
	  LINUX vmlinuz
	  INITRD initrd
	  APPEND console=hvc0 quiet mitigations=off net.ifnames=0 xen_emul_unplug=never
END
umount "$work/bootable"

say "debootstrap of the Debian guest"
truncate -s 512M "$OUT/debian.img"
mkfs.ext4 -q -m 0 -E lazy_itable_init=1,nodiscard -L guest-root "$OUT/debian.img"
debian=$work/debian
mount -o loop,discard "$OUT/debian.img" "$debian"
mkdir -p "$debian/etc/dpkg/dpkg.cfg.d"
printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/locale/*' \
    'path-exclude=/usr/share/man/*' >"$debian/etc/dpkg/dpkg.cfg.d/lab"
# shellcheck disable=SC2086
debootstrap --variant=minbase --include=systemd-sysv,udev,kmod,iproute2 \
    "$RELEASE" "$debian" $MIRROR
mkdir -p "$debian/var/lib/writer"
install -m 755 "$work/writer" "$debian/usr/local/bin/writer"
install -m 644 "$GUEST/writer.service" "$debian/etc/systemd/system/"
systemctl --root="$debian" enable writer.service
# The console is the writer's: a getty that begins would hang up whoever has it open.
systemctl --root="$debian" mask apt-daily.timer apt-daily-upgrade.timer fstrim.timer \
    e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer getty@tty1.service \
    getty-static.service serial-getty@hvc0.service
echo debian >"$debian/etc/hostname"
echo '/dev/xvda / ext4 defaults,noatime 0 1' >"$debian/etc/fstab"
chroot "$debian" passwd -d root
rm -rf "$debian"/var/cache/apt/* "$debian"/var/lib/apt/lists/* "$debian"/usr/share/{doc,man,locale}
df -h "$debian" | tail -1
fstrim "$debian"
umount "$debian" "$work/host"
rm -rf "$work"
