#!/bin/sh
# What the shared library exports is what the header declares, no more and no less. Usage: exports.sh HEADER LIBRARY
set -eu
declared=$(sed -n 's/^SEER_API .*SEER_CALL \(seer_[a-z0-9_]*\)(.*/\1/p' "$1" | sort)
exported=$(nm -D --defined-only "$2" | awk '$2 != "A" { sub(/@.*/, "", $3); print $3 }' | sort)
[ "$(echo "$declared" | wc -l)" -ge 30 ] || { echo "found too few declarations in $1"; exit 1; }
if [ "$declared" != "$exported" ]; then
  directory=$(mktemp -d)
  trap 'rm -rf "$directory"' EXIT
  echo "$declared" > "$directory/declared"
  echo "$exported" > "$directory/exported"
  diff "$directory/declared" "$directory/exported" || true
  exit 1
fi
