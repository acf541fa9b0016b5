#!/bin/sh
# Makes the Debian 12 tree that the service tests boot: service_tree.sh DIRECTORY DEB. It has systemd and what DEB depends on, and not DEB itself.
# Kept between runs; what the package depends on is added when that changes. Needs root and Debian's mirror.
set -eu
tree=$1 deb=$2
include=$(dpkg-deb -f "$deb" Depends | sed 's/([^)]*)//g; s/ //g'),systemd-sysv,dbus,init-system-helpers,procps,util-linux,python3-minimal,libpython3-stdlib
if [ -e "$tree/etc/ordinal-tests" ] && [ "$(cat "$tree/etc/ordinal-tests")" = "$include" ]; then
	exit 0
fi
[ "$(id -u)" = 0 ] || { echo "service_tree.sh: only root can make a Debian tree to boot" >&2; exit 1; }
if [ -e "$tree/etc/ordinal-tests" ]; then
	echo "Installing in $tree what the package depends on"
	cp /etc/resolv.conf "$tree/etc/resolv.conf"
	if chroot "$tree" apt-get -q update && echo "$include" | tr , '\n' | sed 's/|.*//' | DEBIAN_FRONTEND=noninteractive \
		xargs chroot "$tree" apt-get -q install -y --no-install-recommends; then
		chroot "$tree" apt-get clean
		echo "$include" > "$tree/etc/ordinal-tests"
		exit 0
	fi
	echo "That did not work; making the tree again"
fi
echo "Making a Debian 12 tree in $tree (about two minutes)"
rm -rf "$tree" "$tree.new"
mkdir -p "$(dirname "$tree")"
mmdebstrap --quiet --variant=minbase --include="$include" bookworm "$tree.new"
echo "$include" > "$tree.new/etc/ordinal-tests"
mv "$tree.new" "$tree"
