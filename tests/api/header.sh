#!/bin/sh
# Compiles seerattn.h and seerattn_vulkan.h alone in every language standard that the compilers at hand know, with every warning that matters
# to a public header: no hidden padding, no implicit conversion. Then seerattn.hpp, with and without exceptions.
# Usage: header.sh INCLUDE_DIR
set -eu
flags="-Wall -Wextra -pedantic -Wshadow -Wconversion -Werror -fsyntax-only -I$1"
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
structs="seer_device_info seer_allocator seer_context_params seer_load_params seer_gate_config seer_gate_weights
  seer_gate_cache_params seer_prefill_desc seer_gate_desc seer_select_desc seer_attention_desc seer_submit seer_stats
  seer_vulkan_import seer_vulkan_plan_params seer_vulkan_plan_info seer_vulkan_recording
  seer_vulkan_external seer_vulkan_host_memory"

# Every growable struct with its initialiser; a struct that this list forgets is found below.
{
  echo '#include <seerattn/seerattn_vulkan.h>'
  for s in $structs; do echo "uint32_t size_of_$s(void); uint32_t size_of_$s(void) { $s x = SEER_INIT($s); return x.struct_size; }"; done
} > "$directory/header.c"
cp "$directory/header.c" "$directory/header.cpp"
growable=$(cat "$1/seerattn/seerattn.h" "$1/seerattn/seerattn_vulkan.h" | grep -c 'uint32_t struct_size;')
# shellcheck disable=SC2086
listed=$(echo $structs | wc -w)
[ "$growable" = "$listed" ] || { echo "the headers have $growable growable structs, this test lists $listed"; exit 1; }

checked=0
compile() { # COMPILER STANDARD FILE OPTIONS...
  command -v "$1" >/dev/null || return 0
  compiler=$1 standard=$2
  shift 2
  # shellcheck disable=SC2086
  "$compiler" -std="$standard" $flags "$@"
  checked=$((checked + 1))
}
for standard in c99 c11 c17; do
  compile gcc "$standard" "$directory/header.c" -Wpadded
  compile clang "$standard" "$directory/header.c" -Wpadded
done
for standard in c++98 c++11 c++14 c++17 c++20; do
  compile g++ "$standard" "$directory/header.cpp" -Wpadded
  compile clang++ "$standard" "$directory/header.cpp" -Wpadded
done

# Members of templates are only compiled where they are used.
cat > "$directory/used.cpp" <<'END'
#include <seerattn/seerattn.hpp>
using namespace seerattn;
Result<Stats> run(const Context &c) { return c.try_run(Prefill{}, SubmitOptions{}); }
Result<Ticket> submit(const Context &c) { return c.try_submit(Gate{}, {}); }
Stats select(const Context &c) { return c.run(Select{}); }
bool wait(const Context &c) { return c.submit(Attention{}).wait_for(std::chrono::hours(1)); }
void write(const Buffer &b, std::span<const float> x) { b.write(x); }
END
compile g++ c++20 "$directory/used.cpp"
compile g++ c++2b "$directory/used.cpp" -fno-exceptions
compile clang++ c++20 "$directory/used.cpp" -fno-exceptions -fno-rtti
compile clang++ c++2b "$directory/used.cpp"
echo "$checked compilations"
[ "$checked" -ge 10 ]
