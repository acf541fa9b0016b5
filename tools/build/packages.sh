#!/bin/sh
# Makes sure that the Debian packages of the named sections of tools/build/packages are installed.
#   packages.sh SECTION...
# Touches the network only when something is missing, and reads the lists of packages anew only when those that are here do not do. Installs as root, or with
# sudo; when neither works, says what to run. Another program may hold apt's locks, as unattended upgrades do after a boot: it is waited for, by name.
set -eu

LOCK_S=1800 # how long
NETWORK_TRIES=3
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

said=$(mktemp)
trap 'rm -f "$said"' EXIT

# apt-get, when its locks are free. At first it fails at once, so that we can say who holds one; then it waits by itself for the one that it can wait for.
apt() {
	began=$(date +%s)
	wait_s=0
	while :; do
		status=0
		$as_root LC_ALL=C DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout="$wait_s" -o Acquire::Retries="$NETWORK_TRIES" "$@" \
			2>"$said" || status=$?
		if [ "$status" = 0 ] || ! grep -q 'Could not get lock' "$said" || [ $(($(date +%s) - began)) -ge "$LOCK_S" ]; then
			cat "$said" >&2
			return "$status"
		fi
		holder=$(sed -n 's/.*held by process \([0-9]* ([^)]*)\).*/\1/p' "$said" | head -n 1)
		echo "Waiting for apt's lock, which process ${holder:-(unknown)} holds; $LOCK_S s at most" >&2
		wait_s=30
		sleep 3
	done
}

# Reading the lists, with patience for a network that is just coming up.
update() {
	tries=1
	until apt update; do
		[ "$tries" -lt "$NETWORK_TRIES" ] || return 1
		tries=$((tries + 1))
		sleep 5
	done
}

# Whether the lists that are here have all of them.
are_known() {
	for package in $missing; do
		apt-cache show --no-all-versions "$package" >/dev/null 2>&1 || return 1
	done
}

[ -n "$as_root" ] || give_up "They cannot be installed from here: this is not root, and sudo does not work."
echo "Installing:$missing"
# shellcheck disable=SC2086 # one argument a package
if are_known && apt install -y --no-install-recommends $missing; then
	exit 0
fi
update || give_up "apt-get update failed."
# shellcheck disable=SC2086
apt install -y --no-install-recommends $missing || give_up "apt-get install failed."
