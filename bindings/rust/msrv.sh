#!/usr/bin/env bash
# msrv: the library crates compile with the oldest Rust that they promise, 1.63, which is Debian 12's own. Its packages
# are unpacked into .toolchains/rust/1.63 and not installed. usage: msrv.sh    77: apt does not have that Rust
# Without its cargo, which would want a clone of crates.io's index: rustc alone, on the crates that cargo has fetched.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
here=$PWD
old=$(cd ../.. && pwd)/.toolchains/rust/1.63

if [ ! -x "$old/usr/bin/rustc" ]; then
  known=$(apt-cache show --no-all-versions rustc 2>/dev/null || true)
  [[ $known = *"Version: 1.63."* ]] || { echo "apt has no Rust 1.63"; exit 77; }
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  packages=(rustc libstd-rust-1.63 libstd-rust-dev libllvm14)
  (cd "$work" && apt-get -q -o APT::Sandbox::User=root download "${packages[@]}" >/dev/null)
  mkdir -p "$old.new"
  for package in "$work"/*.deb; do dpkg -x "$package" "$old.new"; done
  mv "$old.new" "$old"
fi

out=$(mktemp -d)
trap 'rm -rf "${work:-$out}" "$out"' EXIT
cargo fetch --locked --quiet
# crate NAME SOURCE OPTIONS...
crate() {
  local name=$1 source=$2
  shift 2
  echo "-- $name with $("$old/usr/bin/rustc" --version)"
  "$old/usr/bin/rustc" --edition 2021 --crate-name "$name" -L "$out" --out-dir "$out" "$@" "$source"
}
export LD_LIBRARY_PATH=$old/usr/lib/x86_64-linux-gnu
fetched() { find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -maxdepth 2 -name "$1" | head -n 1; }
metadata=(--crate-type lib --emit metadata)
crate half "$(fetched half-2.2.1)/src/lib.rs" "${metadata[@]}" --cap-lints allow
crate pkg_config "$(fetched 'pkg-config-*')/src/lib.rs" "${metadata[@]}" --cap-lints allow
crate build_script "$here/seerattn-sys/build.rs" --emit metadata --extern pkg_config
crate seerattn_sys "$here/seerattn-sys/src/lib.rs" "${metadata[@]}" -D warnings
crate seerattn "$here/seerattn/src/lib.rs" "${metadata[@]}" --cfg 'feature="half"' --extern half --extern seerattn_sys
