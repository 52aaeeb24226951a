#!/bin/sh
# The version, read from the public header: its only source.
header=$(dirname "$0")/../capi/include/seerattn/seerattn.h
part() { sed -n "s/^#define SEER_VERSION_$1 \([0-9]*\)$/\1/p" "$header"; }
echo "$(part MAJOR).$(part MINOR).$(part PATCH)"
