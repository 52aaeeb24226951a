#!/bin/sh
# What the shared library exports is what the headers declare and what the version script names, no more and no less; a
# released version's symbols are all there, in the same version node; the soname is the one that programs record.
# Usage: exports.sh VERSION_SCRIPT RELEASED_VERSION_SCRIPT LIBRARY SONAME HEADER...
set -eu
script=$1 released=$2 library=$3 soname=$4
shift 4
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
failed=0

# name@@NODE of every symbol that a version script names.
named() { awk '/^[A-Z]/ { node = $1 } /^ *seer_[a-z0-9_]*;/ { sub(/;.*/, ""); print $1 "@@" node }' "$1" | sort; }

# same WHAT FILE FILE
same() {
  if ! diff "$2" "$3" >"$directory/diff"; then
    echo "$1:"
    cat "$directory/diff"
    failed=1
  fi
}

sed -n 's/^SEER_API .*SEER_CALL \(seer_[a-z0-9_]*\)(.*/\1/p' "$@" | sort >"$directory/declared"
named "$script" >"$directory/named"
sed 's/@@.*//' "$directory/named" >"$directory/names"
nm -D --defined-only --with-symbol-versions "$library" | awk '$2 != "A" { print $3 }' | sort >"$directory/exported"
named "$released" >"$directory/released"

[ "$(wc -l <"$directory/declared")" -ge 30 ] || { echo "found too few declarations in $*"; exit 1; }
[ "$(wc -l <"$directory/released")" -ge 30 ] || { echo "found too few names in $released"; exit 1; }
if grep -n 'seer_[a-z0-9_]*\*' "$script"; then echo "$script: a pattern, not a name"; failed=1; fi
same "declared in the headers (<) and named in the version script (>)" "$directory/declared" "$directory/names"
same "named in the version script (<) and exported (>)" "$directory/named" "$directory/exported"
comm -23 "$directory/released" "$directory/exported" >"$directory/gone"
if [ -s "$directory/gone" ]; then echo "released, and no longer exported:"; cat "$directory/gone"; failed=1; fi

found=$(readelf -d "$library" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
[ "$found" = "$soname" ] || { echo "soname: expected $soname, found $found"; failed=1; }
# The library must not be unloaded under its own threads: a released context finishes its work in the background.
readelf -d "$library" | grep -q NODELETE || { echo "the library is not marked as not to be unloaded (-z nodelete)"; failed=1; }
exit "$failed"
