#!/bin/sh
# skip.sh PROBE COMMAND...: runs the command, or exits 77 where PROBE (vulkan-tests) does: there is no Vulkan device, or
# SEER_VK_VALIDATE is set and the validation layer is missing.
probe=$1
shift
"$probe" --list-test-cases >/dev/null
case $? in
  0) exec "$@" ;;
  77) echo "SKIPPED: no Vulkan device, or no validation layer, here" && exit 77 ;;
  *) echo "$probe failed" && exit 1 ;;
esac
