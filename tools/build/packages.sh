#!/bin/sh
# Makes sure that the Debian packages of the named sections of tools/build/packages are installed.
#   packages.sh SECTION...
# Touches the network only when something is missing. Installs as root, or with sudo; when neither works, says what to run.
set -eu

list="$(dirname "$0")/packages"
missing=
for section in "$@"; do
	for package in $(sed -n "/^\[$section\]/,/^\[/{/^[#[]/d;p;}" "$list"); do
		status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
		[ "$status" = installed ] || missing="$missing $package"
	done
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
	as_root=env
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	as_root='sudo -n env'
elif command -v sudo >/dev/null && [ -t 0 ]; then
	echo "Ordinal needs packages that are missing:$missing"
	echo "They will be installed with sudo, which may ask for your password."
	as_root='sudo env'
else
	as_root=
fi

give_up() {
	{
		echo "Ordinal needs packages that are missing here:"
		for package in $missing; do
			echo "    $package"
		done
		echo "$1 As root, run:"
		echo "    apt-get update && apt-get install --no-install-recommends$missing"
	} >&2
	exit 1
}

[ -n "$as_root" ] || give_up "They cannot be installed from here: this is not root, and sudo does not work."
echo "Installing:$missing"
apt="$as_root DEBIAN_FRONTEND=noninteractive apt-get -q"
$apt update || give_up "apt-get update failed."
# shellcheck disable=SC2086 # one argument a package
$apt install -y --no-install-recommends $missing || give_up "apt-get install failed."
