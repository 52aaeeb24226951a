#!/usr/bin/env bash
# test: builds and tests bindings/rust with the library of a build folder. usage: test.sh BUILD_DIR    77: no toolchain
set -euo pipefail
build=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")"
if ! bash ./toolchain.sh; then exit 77; fi

export SEERATTN_DIR=$build CARGO_TARGET_DIR=$build/bindings/rust
export CARGO_NET_OFFLINE=true CARGO_TERM_COLOR=never
mkdir -p "$CARGO_TARGET_DIR"
step() { echo "-- $*"; "$@"; }

step cargo fmt --all --check
step cargo clippy --locked --quiet --workspace --all-targets --all-features -- -D warnings
step cargo clippy --locked --quiet --package seerattn --no-default-features -- -D warnings
step cargo test --locked --workspace --all-features --lib --bins --tests --examples
# The error codes of tests that must not compile are looked at by nightly versions only, or by ones that think so.
printf '#!/bin/sh\nRUSTC_BOOTSTRAP=1 exec rustdoc "$@"\n' >"$CARGO_TARGET_DIR/rustdoc"
chmod +x "$CARGO_TARGET_DIR/rustdoc"
RUSTDOC=$CARGO_TARGET_DIR/rustdoc step cargo test --locked --workspace --all-features --doc
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --quiet --workspace --all-features --no-deps

# A second opinion on the declarations, where it can be had; the layout test needs no bindgen.
if command -v bindgen >/dev/null; then
  theirs=$CARGO_TARGET_DIR/bindgen.rs
  bindgen --no-layout-tests --no-doc-comments --default-enum-style consts --allowlist-type 'seer_.*' \
    --allowlist-function 'seer_.*' --allowlist-var 'SEER_.*' ../../capi/include/seerattn/seerattn.h \
    -- -I"$(cc -print-file-name=include)" >"$theirs"
  step ./compare_bindgen.py seerattn-sys/src/lib.rs "$theirs"
else
  echo "-- bindgen is not installed: the declarations are compared with tests/abi/layout.json only"
fi
