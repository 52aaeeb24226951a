#!/bin/sh
# What abidiff says of the header's types and calls against a released version's. It knows nothing of constants and calls
# a field inserted in the middle possibly harmless (layout.py knows better), so this is the second check: what it calls
# incompatible fails; in a patch release any difference but a new call does; else its report is for people to read.
# Usage: abidiff.sh LIBRARY RELEASED_XML HEADER RELEASED_HEADER
set -eu
minor() { grep -E 'define SEER_VERSION_(MAJOR|MINOR) ' "$1"; }
status=0
abidiff --no-added-syms "$2" "$1" || status=$?
[ $((status & 1)) = 0 ] || { echo "abidiff itself failed"; exit 1; }
[ $((status & 8)) = 0 ] || { echo "incompatible with $2"; exit 1; }
if [ "$status" != 0 ] && [ "$(minor "$3")" = "$(minor "$4")" ]; then
  echo "changed against $2, in the same minor version"
  exit 1
fi
