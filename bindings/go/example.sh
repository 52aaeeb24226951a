#!/usr/bin/env bash
# example.sh BUILD_DIR GATE_FOLDER TENSORS.safetensors [LAYER]: builds the example, if need be, and runs it.
set -euo pipefail
caller=$PWD
# shellcheck source=bindings/go/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh" "${1:?usage: example.sh BUILD_DIR GATE_FOLDER TENSORS [LAYER]}"
shift
"$go" build -o "$out/prefill" ./examples/prefill
cd "$caller"
"$out/prefill" "$@"
