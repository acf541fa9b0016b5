#!/bin/sh
# The date that manual pages carry, the same whenever this source is built: $SOURCE_DATE_EPOCH, else the day of the newest entry in Debian's changelog.
set -eu
changelog="$(dirname "$0")/../deb/changelog"
if [ -n "${SOURCE_DATE_EPOCH:-}" ]; then
	LC_ALL=C date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%d
else
	LC_ALL=C date -u -d "$(sed -n 's/^ -- .*>  //p' "$changelog" | head -n 1)" +%Y-%m-%d
fi
