#!/bin/sh
# on.sh DRIVER PROGRAM ARGUMENTS...: a program on a Vulkan driver that shaders/toolchain.sh all has fetched; exits 77
# where it was not run.
#   swiftshader     of Chromium: subgroups of 4; no arithmetic in f16 and no storage of 16 bits
#   lavapipe        of Debian sid, with cooperative matrices
#   coopmat, wide   the same with attend's kernels for matrices of any layout, or those without accumulators of f16
#   lavapipe-WIDTH  the same with vectors of WIDTH bits: subgroups of WIDTH / 32; its cooperative matrices crash there
#   races           lavapipe under GPU-assisted validation, which reports races in shared memory. It knows barriers of
#                   workgroups only: not for kernels whose subgroups exchange values through shared memory
here=$(cd "$(dirname "$0")/../.." && pwd)/.toolchains/vulkan
driver=$1
program=$2
shift 2
if [ ! -e "$here/swiftshader/icd.json" ] || [ ! -e "$here/env.sh" ]; then
  echo "SKIPPED: shaders/toolchain.sh all was not run" && exit 77
fi
# Pipelines of one width or under one layer are not to be found under another.
export SEER_VK_CACHE='' MESA_SHADER_CACHE_DISABLE=true
case $driver in
  swiftshader)
    export VK_DRIVER_FILES="$here/swiftshader/icd.json" VK_ICD_FILENAMES="$here/swiftshader/icd.json"
    exec "$program" "$@"
    ;;
  lavapipe)
    # shellcheck source=/dev/null
    . "$here/env.sh"
    # Heads of 64 channels take select's kernels for matrices, which no CPU takes by itself.
    export SEER_VK_TILE_SELECT_CPU=64
    ;;
  coopmat | wide)
    # shellcheck source=/dev/null
    . "$here/env.sh"
    export SEER_VK_TIER=coopmat
    [ "$driver" = coopmat ] || export SEER_VK_TILE_WIDE=1
    ;;
  lavapipe-*)
    # shellcheck source=/dev/null
    . "$here/env.sh"
    export LP_NATIVE_VECTOR_WIDTH="${driver#lavapipe-}" SEER_VK_COOPMAT=0
    ;;
  races)
    # shellcheck source=/dev/null
    . "$here/env.sh"
    # Checks of descriptors crash in the layer; core validation is another test's; the layer says on creation which
    # features it switches on for itself. Where twice the shared memory is not to be had it looks at nothing.
    export SEER_VK_VALIDATE=1 SEER_VK_SELFTEST=0 SEER_VK_COOPMAT=0 VK_LAYER_GPUAV_ENABLE=1 VK_LAYER_VALIDATE_CORE=0 \
      VK_LAYER_GPUAV_DESCRIPTOR_CHECKS=0 VK_LAYER_GPUAV_SHARED_MEMORY_DATA_RACE=1 \
      VK_LAYER_MESSAGE_ID_FILTER=WARNING-Setting-Limit-Adjusted SEER_VK_MAX_SHARED=16384
    ;;
  *) echo "on.sh: no driver $driver" && exit 1 ;;
esac
exec "$here/run" "$program" "$@"
