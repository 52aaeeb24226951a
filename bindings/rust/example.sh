#!/usr/bin/env bash
# example: runs examples/prefill.rs with the library of a build folder. usage: example.sh BUILD_DIR GATES TENSORS
# [LAYER]
set -euo pipefail
build=$(cd "$1" && pwd)
shift
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if ! bash "$here/toolchain.sh" >&2; then exit 77; fi
export SEERATTN_DIR=$build CARGO_TARGET_DIR=$build/bindings/rust
exec cargo run --quiet --locked --offline --manifest-path "$here/Cargo.toml" --example prefill -- "$@"
