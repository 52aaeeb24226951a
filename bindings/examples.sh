#!/usr/bin/env bash
# examples: the example of every language prints the same three lines, and the checksum that `seer prefill` prints.
# usage: bindings/examples.sh BUILD_DIR LANGUAGE...   bindings/LANGUAGE/example.sh runs one language's; 77: no toolchain
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
build=$1
shift
export SEER_BACKEND=cpu
ran=0 skipped=0 failed=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The lines without their time, which differs: it must be a number of milliseconds.
comparable() {
  grep -qxE 'time +[0-9]+\.[0-9]{2} ms' "$1" && sed -E 's/^(time +)[0-9.]+ ms$/\1/' "$1"
}

for case in llama-threshold llama-nz-ratio head-dim-64 double-gate; do
  folder=tests/golden/$case
  layer=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1])).get("layer", 0))' "$folder/case.json")
  "$build/tools/seer" prefill "$folder/case.safetensors" --model "$folder" --layer "$layer" --backend cpu --json \
    >"$work/seer.json"
  python3 - "$work/seer.json" >"$work/want" <<'END'
import json, sys
run = json.load(open(sys.argv[1]))
print(f"density  {100 * run['blocks_kept'] / run['blocks_causal']:.1f} %")
print("time     ")
print("checksum", run["checksum"]["crc32"])
END
  for language in "$@"; do
    status=0
    "bindings/$language/example.sh" "$build" "$folder" "$folder/case.safetensors" "$layer" >"$work/$language" || status=$?
    if [ "$status" = 77 ]; then
      skipped=$((skipped + 1))
      echo "SKIPPED $case, $language: its toolchain is missing"
    elif [ "$status" = 0 ] && comparable "$work/$language" >"$work/got" && diff -u "$work/want" "$work/got"; then
      ran=$((ran + 1))
      echo "ok $case, $language: $(tail -n 1 "$work/got")"
    else
      failed=$((failed + 1))
      echo "FAILED $case, $language (status $status):"
      cat "$work/$language"
    fi
  done
done
echo "$ran agree, $failed failed, $skipped skipped"
[ "$failed" = 0 ] || exit 1
[ "$ran" -gt 0 ] || exit 77
