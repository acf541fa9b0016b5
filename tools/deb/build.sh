#!/bin/sh
# Makes the Debian package from an installed tree: build.sh STAGE VERSION OUTDIR. STAGE is `make install DESTDIR=STAGE PREFIX=/usr SYSCONFDIR=/etc`.
set -eu
stage=$1 version=$2 out=$3
here=$(dirname "$0")
arch=$(dpkg --print-architecture)
doc=$stage/usr/share/doc/ordinal

install -d -m 755 "$doc" "$stage/DEBIAN"
install -m 644 "$here/copyright" "$doc/copyright"
gzip -9n < "$here/changelog" > "$doc/changelog.gz"
find "$stage/usr/share/man" -type f -exec gzip -9n {} +
find "$stage" -type d -exec chmod 755 {} +
strip --strip-unneeded --remove-section=.comment --remove-section=.note "$stage/usr/bin/ordinal" "$stage/usr/sbin/ordinald"

# Shared libraries, as dpkg-shlibdeps reads them from the programs.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debian"
printf 'Source: ordinal\n\nPackage: ordinal\nArchitecture: any\n' > "$work/debian/control"
root=$(cd "$stage" && pwd)
depends=$(cd "$work" && dpkg-shlibdeps -O "$root/usr/bin/ordinal" "$root/usr/sbin/ordinald" 2> "$work/warnings" | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ] || { cat "$work/warnings" >&2; echo "build.sh: no dependencies found" >&2; exit 1; }

size=$(du -sk --exclude=DEBIAN "$stage" | cut -f1)
sed "s/@VERSION@/$version/; s/@ARCH@/$arch/; s/@SIZE@/$size/; s/@DEPENDS@/$depends/" "$here/control.in" > "$stage/DEBIAN/control"
(cd "$stage" && find etc -type f | sed 's,^,/,' | sort) > "$stage/DEBIAN/conffiles"
(cd "$stage" && find . -path ./DEBIAN -prune -o -path ./etc -prune -o -type f -print | sed 's,^\./,,' | sort | xargs md5sum) > "$stage/DEBIAN/md5sums"
chmod 644 "$stage/DEBIAN/"*
install -m 755 "$here/postinst" "$here/prerm" "$here/postrm" "$stage/DEBIAN/"

mkdir -p "$out"
deb=$out/ordinal_${version}_$arch.deb
dpkg-deb --root-owner-group --build "$stage" "$deb" > /dev/null
echo "$deb"
