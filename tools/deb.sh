#!/usr/bin/env bash
# deb: Debian packages of this tree: libseerattn0, libseerattn-dev and seerattn-tools.
# usage: tools/deb.sh [OUT_DIR]     (default: build-deb). Built in build-deb/; needs what ./dev build needs, and dpkg-dev
# DEBFULLNAME and DEBEMAIL name the maintainer. For other distributions: meson install, see the README.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(realpath -m "${1:-build-deb}")
build="build-deb"
die() { printf 'deb: %s\n' "$*" >&2; exit 1; }
command -v dpkg-shlibdeps >/dev/null || die "dpkg-shlibdeps is missing: apt-get install dpkg-dev"

version=$(tools/version.sh)-1
architecture=$(dpkg --print-architecture)
multiarch=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
maintainer="${DEBFULLNAME:-seerattn} <${DEBEMAIL:-root@localhost}>"
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH

options=(--prefix=/usr --libdir="lib/$multiarch" --mandir=share/man -Dtests=disabled -Dtools=enabled -Ddefault_library=both)
if [ -f "$build/build.ninja" ]; then meson setup --reconfigure "$build" "${options[@]}"; else meson setup "$build" "${options[@]}"; fi
ninja -C "$build"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
meson install -C "$build" --no-rebuild --quiet --strip --destdir "$work/all"

# move PACKAGE PATH...: from the installed tree to the package's.
move() {
  local package=$1 path
  shift
  for path in "$@"; do
    mkdir -p "$work/$package/$(dirname "$path")"
    mv "$work/all/$path" "$work/$package/$path"
  done
}
lib=usr/lib/$multiarch
move libseerattn0 "$lib/libseerattn.so.0" "$lib/libseerattn.so.$(tools/version.sh)"
move libseerattn-dev usr/include "$lib/libseerattn.so" "$lib/libseerattn.a" "$lib/pkgconfig" "$lib/cmake"
move seerattn-tools usr/bin usr/share
mv "$work/seerattn-tools/usr/share/zsh/site-functions" "$work/seerattn-tools/usr/share/zsh/vendor-completions"  # Debian's
gzip -9n "$work/seerattn-tools/usr/share/man/man1/seer.1"
left=$(find "$work/all" ! -type d)
[ -z "$left" ] || die "installed, but in no package: $left"

# depends FILE: what dpkg knows the file to need.
mkdir -p "$work/shlibs/debian"
printf 'Source: seerattn\n\nPackage: seerattn\nArchitecture: any\n' >"$work/shlibs/debian/control"
depends() { (cd "$work/shlibs" && dpkg-shlibdeps -O -e "$1" 2>/dev/null | sed -n 's/^shlibs:Depends=//p'); }
# What programs that link libseerattn.a need: its Libs.private.
static_depends="libhwy-dev, zlib1g-dev"

# pack PACKAGE SECTION DEPENDS SUMMARY, the description's text on stdin
pack() {
  local package=$1 section=$2 depends=$3 summary=$4 root=$work/$1
  [ -n "$depends" ] || die "no dependencies found for $package"
  mkdir -p "$root/DEBIAN" "$root/usr/share/doc/$package"
  {
    printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\nUpstream-Name: seerattn\n\nFiles: *\n'
    printf 'Copyright: %s\nLicense: MIT\n' "$(sed -n 's/^Copyright (c) //p' LICENSE)"
    sed '1,/^Copyright/d; s/^$/./; s/^/ /' LICENSE | sed '1{/^ \.$/d}'
  } >"$root/usr/share/doc/$package/copyright"
  {
    printf 'seerattn (%s) unstable; urgency=medium\n\n  * See the upstream changelog.\n\n' "$version"
    printf ' -- %s  %s\n' "$maintainer" "$(date -uRd "@$SOURCE_DATE_EPOCH")"
  } | gzip -9n >"$root/usr/share/doc/$package/changelog.Debian.gz"
  {
    printf 'Package: %s\nSource: seerattn\nVersion: %s\nArchitecture: %s\n' "$package" "$version" "$architecture"
    printf 'Maintainer: %s\nSection: %s\nPriority: optional\n' "$maintainer" "$section"
    [ "$package" = seerattn-tools ] || printf 'Multi-Arch: same\n'
    printf 'Installed-Size: %s\nDepends: %s\n' "$(du -k --apparent-size -s "$root/usr" | cut -f1)" "$depends"
    printf 'Description: %s\n' "$summary"
    sed 's/^/ /'
  } >"$root/DEBIAN/control"
  (cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"
  find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
  chmod -R u=rwX,go=rX "$root"
  mkdir -p "$out"
  dpkg-deb --root-owner-group --build "$root" "$out/${package}_${version}_$architecture.deb"
}

mkdir -p "$work/libseerattn0/DEBIAN"
echo "libseerattn 0 libseerattn0 (>= ${version%-*})" >"$work/libseerattn0/DEBIAN/shlibs"
echo "activate-noawait ldconfig" >"$work/libseerattn0/DEBIAN/triggers"
pack libseerattn0 libs "$(depends "$work/libseerattn0/$lib/libseerattn.so.0")" \
  "learned block-sparse attention (shared library)" <<'END2'
SeerAttention trains a small gate beside each attention layer of a language
model that predicts which blocks of the attention matrix matter. This library
runs such gates and the block-sparse attention behind them.
END2
pack libseerattn-dev libdevel "libseerattn0 (= $version), $static_depends" \
  "learned block-sparse attention (development files)" <<'END2'
Headers for C and C++, the static library, and what pkg-config and CMake need
to find libseerattn.
END2
pack seerattn-tools science "$(depends "$work/seerattn-tools/usr/bin/seer")" \
  "learned block-sparse attention (the seer command)" <<'END2'
Runs gates and block-sparse attention on tensors from files, compares it with
dense attention, checks results, converts gates and times kernels.
END2
