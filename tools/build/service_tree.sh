#!/bin/sh
# Makes the Debian 12 tree that the service tests boot: service_tree.sh DIRECTORY DEB. It has systemd and what DEB depends on, and not DEB itself.
# Kept between runs; made again when the dependencies change. Needs root and Debian's mirror.
set -eu
tree=$1 deb=$2
include=$(dpkg-deb -f "$deb" Depends | sed 's/([^)]*)//g; s/ //g'),systemd-sysv,dbus,init-system-helpers,procps,util-linux,python3-minimal,libpython3-stdlib
if [ -e "$tree/etc/ordinal-tests" ] && [ "$(cat "$tree/etc/ordinal-tests")" = "$include" ]; then
	exit 0
fi
[ "$(id -u)" = 0 ] || { echo "service_tree.sh: only root can make a Debian tree to boot" >&2; exit 1; }
echo "Making a Debian 12 tree in $tree (about two minutes)"
rm -rf "$tree" "$tree.new"
mkdir -p "$(dirname "$tree")"
mmdebstrap --quiet --variant=minbase --include="$include" bookworm "$tree.new"
echo "$include" > "$tree.new/etc/ordinal-tests"
mv "$tree.new" "$tree"
