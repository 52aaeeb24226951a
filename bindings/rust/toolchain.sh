#!/usr/bin/env bash
# toolchain: Rust for bindings/rust: a cargo of 1.85 or later with clippy and rustfmt, and the crates of Cargo.lock.
# What is on PATH is used, rustup's or the system's. Debian 12 has a current Rust as the packages named here, beside its
# rustc 1.63, which they replace where it is installed. The crates come from crates.io, once.
# apt: cargo-web|cargo rustc-web|rustc rust-web-clippy|rust-clippy rustfmt-web|rustfmt
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

wanted=1.85
at_least() { [ "$(printf '%s\n%s\n' "$wanted" "$1" | sort -V | head -n 1)" = "$wanted" ]; }

for tool in cargo rustc cargo-clippy rustfmt; do
  command -v "$tool" >/dev/null || { echo "rust: $tool is missing; Rust $wanted or later is needed"; exit 1; }
done
for tool in cargo rustc; do
  found=$("$tool" --version | cut -d ' ' -f 2)
  at_least "$found" || { echo "rust: $tool is $found; the tests need $wanted or later"; exit 1; }
done
cargo fetch --locked --offline --quiet 2>/dev/null || cargo fetch --locked --quiet || {
  echo "rust: the crates named in bindings/rust/Cargo.lock could not be fetched"
  exit 1
}
