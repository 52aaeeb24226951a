#!/bin/sh
# skip.sh PROBE COMMAND...: runs the command, or exits 77 where PROBE (cuda-gpu) does: there is no CUDA device.
probe=$1
shift
"$probe" --list-test-cases >/dev/null
case $? in
  0) exec "$@" ;;
  77) echo "SKIPPED: no CUDA device here" && exit 77 ;;
  *) echo "$probe failed" && exit 1 ;;
esac
