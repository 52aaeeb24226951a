#!/usr/bin/env bash
# example.sh BUILD_DIR GATE_FOLDER TENSORS.safetensors [LAYER]: runs prefill.cpp, which the build has compiled.
exec "$1/docs/prefill-cpp" "${@:2}"
