#!/bin/sh
# Makes the Debian 12 tree that the service tests boot: service_tree.sh DIRECTORY DEB. It has systemd, and neither DEB nor what only DEB depends on:
# those packages lie in apt's cache in the tree, beside Debian's lists, so that `apt-get install ./DEB` there resolves and installs them, without a
# network. Kept between runs; fetched again when the dependencies change. Needs root and Debian's mirror.
set -eu
tree=$1 deb=$2
base=systemd-sysv,dbus,init-system-helpers,procps,util-linux,python3-minimal,libpython3-stdlib
depends=$(dpkg-deb -f "$deb" Depends | sed 's/([^)]*)//g; s/|[^,]*//g; s/ //g')
mark=$base:$depends
if [ -e "$tree/etc/ordinal-tests" ] && [ "$(cat "$tree/etc/ordinal-tests")" = "$mark" ]; then
	exit 0
fi
[ "$(id -u)" = 0 ] || { echo "service_tree.sh: only root can make a Debian tree to boot" >&2; exit 1; }

# Never through a mount: what is mounted in there is not ours to delete.
remove() {
	if grep -qF " $(realpath -m "$1")/" /proc/mounts; then
		echo "service_tree.sh: something is mounted below $1; unmount it first" >&2
		exit 1
	fi
	rm -rf --one-file-system "$1"
}

echo "Making a Debian 12 tree in $tree (about two minutes)"
remove "$tree"
remove "$tree.new"
mkdir -p "$(dirname "$tree")"
mmdebstrap --quiet --variant=minbase --skip=cleanup/apt --include="$base" bookworm "$tree.new"
cp /etc/resolv.conf "$tree.new/etc/resolv.conf"
in_tree() {
	DEBIAN_FRONTEND=noninteractive chroot "$tree.new" "$@"
}
in_tree apt-get -q=2 update
echo "$depends" | tr , '\n' | in_tree xargs apt-get -q=2 install -y --no-install-recommends --download-only
echo "$mark" > "$tree.new/etc/ordinal-tests"
mv "$tree.new" "$tree"
