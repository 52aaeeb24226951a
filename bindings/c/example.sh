#!/usr/bin/env bash
# example.sh BUILD_DIR GATE_FOLDER TENSORS.safetensors [LAYER]: runs prefill.c, which the build has compiled.
exec "$1/docs/prefill-c" "${@:2}"
