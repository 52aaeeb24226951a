#!/usr/bin/env bash
# test: the C# binding's tests, on .NET and on Mono. usage: test.sh BUILD_DIR; 77: neither is installed
#
# The same tests run three times: the assembly for .NET on .NET, the one for netstandard2.0 on Mono, and one made by
# Mono's own compiler on Mono.
set -euo pipefail
build=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
here=bindings/csharp
# shellcheck source=bindings/csharp/environment.sh
. "$here/environment.sh"
out=$build/bindings/csharp
library=$(readlink -f "$build/libseerattn.so.0")

say() { echo "csharp: $*"; }
die() { say "$*" >&2; exit 1; }

[ -n "$dotnet$mono" ] || { say "neither a .NET SDK nor Mono is installed (bindings/csharp/toolchain.sh)"; exit 77; }
if grep -qE '__[at]san_init' "$library"; then say "a sanitizer's library cannot be loaded into .NET"; exit 77; fi
mkdir -p "$out"

# The tests, and the end of a process whose work is still in flight. Arguments: the command.
run_tests() {
  "$@" "$root" || die "tests failed: $*"
  timeout 60 "$@" "$root" --exit-in-flight || die "a process with work in flight did not end well: $*"
}

# A package and the files that it must hold.
expect_in() {
  local wanted
  python3 -m zipfile -l "$1" >"$out/listing"
  for wanted in "${@:2}"; do grep -q "^$wanted " "$out/listing" || die "$1 lacks $wanted"; done
}

if [ -n "$dotnet" ]; then
  say "building with the .NET SDK $("$dotnet" --version)"
  run_dotnet "$out" build "$here/tests/SeerAttn.Tests.csproj"
  tests=$(find "$out/bin/SeerAttn.Tests/Release" -path '*/net[c0-9]*/SeerAttn.Tests.dll' ! -path '*netstandard*')
  SEERATTN_LIB=$library run_tests "$dotnet" "$tests"

  say "finding the library"
  LD_LIBRARY_PATH=$build:${LD_LIBRARY_PATH:-} "$dotnet" "$tests" "$root" LibraryIsOfTheHeadersVersion >/dev/null ||
    die "libseerattn.so.0 is not found where the loader looks"
  lost() { SEERATTN_LIB=$out/no-such-library.so "$dotnet" "$tests" "$root" LibraryIsOfTheHeadersVersion; }
  if lost >"$out/missing.log" 2>&1 || ! grep -q no-such-library "$out/missing.log"; then
    cat "$out/missing.log"
    die "a library that was asked for and is not there must be an error that names it"
  fi

  say "packing, and building the example from the packages"
  "$here/build.sh" "$build"
  expect_in "$out"/packages/SeerAttn.[0-9]*.nupkg lib/netstandard2.0/SeerAttn.dll lib/netcoreapp3.1/SeerAttn.dll \
    lib/netstandard2.0/SeerAttn.xml build/net461/SeerAttn.targets build/net461/SeerAttn.dll.config README.md
  expect_in "$out"/packages/SeerAttn.Native.*.nupkg runtimes/linux-x64/native/libseerattn.so.0 \
    build/net461/SeerAttn.Native.linux-x64.targets
  case=tests/golden/llama-threshold
  SEER_BACKEND=cpu "$here/example.sh" "$build" "$case" "$case/case.safetensors" 1
fi

if [ -n "$mono" ]; then
  say "building with $(mcs --version)"
  mkdir -p "$out/mono"
  cp "$here/src/SeerAttn/SeerAttn.dll.config" "$out/mono/"
  compile=(mcs -nologo -unsafe -langversion:latest -warnaserror -debug)
  "${compile[@]}" -target:library -out:"$out/mono/SeerAttn.dll" $here/src/SeerAttn/*.cs $here/src/SeerAttn/Native/*.cs
  "${compile[@]}" -r:"$out/mono/SeerAttn.dll" -out:"$out/mono/SeerAttn.Tests.exe" $here/tests/*.cs
  # Mono reads no SEERATTN_LIB; its name for the library is found like any other.
  export LD_LIBRARY_PATH=$build:${LD_LIBRARY_PATH:-}
  run_tests "$mono" --debug "$out/mono/SeerAttn.Tests.exe"
  # What .NET Framework has and Mono's packages here lack: the names of netstandard2.0, forwarded to mscorlib's.
  sdk=$(dirname "$(readlink -f "${dotnet:-/nowhere}")")/sdk
  facades=$(find "$sdk" -path '*Microsoft.NET.Build.Extensions/net461/lib' 2>/dev/null | sort | tail -n 1)
  if [ -n "$facades" ]; then
    say "the assembly for netstandard2.0 on Mono"
    standard=$out/bin/SeerAttn.Tests/Release/netstandard2.0
    cp "$here/src/SeerAttn/SeerAttn.dll.config" "$facades"/{netstandard,System.Runtime}.dll "$standard/"
    run_tests "$mono" --debug "$standard/SeerAttn.Tests.dll"
  fi
fi
[ -n "$dotnet" ] || say "no .NET SDK: only Mono ran the tests"
[ -n "$mono" ] || say "no Mono: only .NET ran the tests"
