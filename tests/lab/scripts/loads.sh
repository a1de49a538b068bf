#!/bin/bash
# Makes $OUT/loads.img: the disk of a Debian in which PostgreSQL, fio and a file server work all the
# time, with nothing of this project in it.
# $GUEST: the folder with its units. $RELEASE, $MIRROR, $APT_CONF and namespaces: as in base.sh.
set -euo pipefail
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

root=$(mktemp -d -p "$OUT")
truncate -s 1200M "$OUT/loads.img"
mkfs.ext4 -q -m 0 -E lazy_itable_init=1,nodiscard -L loads-root "$OUT/loads.img"
mount -o loop,discard "$OUT/loads.img" "$root"
mkdir -p "$root/etc/dpkg/dpkg.cfg.d"
printf '%s\n' force-unsafe-io 'path-exclude=/usr/share/doc/*' 'path-exclude=/usr/share/locale/*' \
    'path-exclude=/usr/share/man/*' >"$root/etc/dpkg/dpkg.cfg.d/lab"
# shellcheck disable=SC2086
debootstrap --variant=minbase --include=ca-certificates,systemd-sysv,udev,kmod,iproute2 \
    "$RELEASE" "$root" $MIRROR
cp "$APT_CONF" "$root/etc/apt/apt.conf.d/90lab-build"
cp /etc/resolv.conf "$root/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
chroot "$root" apt-get -q update
chroot "$root" apt-get -qy install --no-install-recommends postgresql fio python3

settings=$(echo "$root"/etc/postgresql/*/main)
cat >>"$settings/postgresql.conf" <<-END
	listen_addresses = '*'
	shared_buffers = 16MB
	max_wal_size = 64MB
END
printf '%s\n' 'local all all trust' 'host all all 10.77.0.0/24 trust' >"$settings/pg_hba.conf"
ln -s "$(cd "$root" && echo usr/lib/postgresql/*/bin/pgbench | sed 's|^|/|')" "$root/usr/local/bin/pgbench"

cp "$GUEST"/*.service "$root/etc/systemd/system/"
install -m 755 "$GUEST/serve" "$root/usr/local/bin/serve"
dd if=/dev/urandom of="$root/srv/file" bs=1M count=32 status=none
systemctl --root="$root" enable address.service serve.service pgbench.service \
    fio@xvdb.service fio@xvdc.service
systemctl --root="$root" mask apt-daily.timer apt-daily-upgrade.timer fstrim.timer \
    e2scrub_all.timer e2scrub_reap.service dpkg-db-backup.timer getty@tty1.service \
    getty-static.service serial-getty@hvc0.service
echo loads >"$root/etc/hostname"
echo '/dev/xvda / ext4 defaults,noatime 0 1' >"$root/etc/fstab"
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root/usr/sbin/policy-rc.d" \
    "$root/etc/resolv.conf" "$root/etc/apt/apt.conf.d/90lab-build"
df -h "$root" | tail -1
umount -l "$root/dev"
umount "$root/proc"
fstrim "$root"
umount "$root"
rmdir "$root"
