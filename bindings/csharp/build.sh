#!/usr/bin/env bash
# build: packs the binding and the library in BUILD_DIR, and builds the example from the packages as a user's program
# would be. usage: build.sh BUILD_DIR; everything goes to BUILD_DIR/bindings/csharp
set -euo pipefail
build=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# shellcheck source=bindings/csharp/environment.sh
. bindings/csharp/environment.sh
[ -n "$dotnet" ] || exit 77
out=$build/bindings/csharp
library=$(readlink -f "$build/libseerattn.so.0")

# Packages of the same version but other contents must not come from NuGet's cache.
rm -rf "$out/packages" "$out/nuget" "$out/obj/Prefill"
run_dotnet "$out" pack bindings/csharp/src/SeerAttn/SeerAttn.csproj
run_dotnet "$out" pack bindings/csharp/src/SeerAttn.Native/SeerAttn.Native.csproj -p:SeerLibrary="$library"
NUGET_PACKAGES=$out/nuget run_dotnet "$out" build bindings/csharp/examples/Prefill/Prefill.csproj \
  -p:RestoreSources="$out/packages${feed:+;$feed}"
