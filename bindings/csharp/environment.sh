# shellcheck shell=bash disable=SC2034
# Sourced in the project's root by the scripts beside it. Sets `dotnet` to the .NET SDK's command or to nothing, `mono`
# likewise, and `feed` to the folder of toolchain.sh's stand-ins for nuget.org if the SDK is toolchain.sh's.
csharp_home=$PWD/.toolchains/csharp
dotnet='' mono='' feed=''

export DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_NOLOGO=1 DOTNET_SKIP_FIRST_TIME_EXPERIENCE=1
export DOTNET_GENERATE_ASPNET_CERTIFICATE=false MSBUILDDISABLENODEREUSE=1
if command -v dotnet >/dev/null && [ "$(dotnet --version 2>/dev/null | cut -d. -f1)" -ge 3 ] 2>/dev/null; then
  dotnet=$(command -v dotnet)
elif [ -x "$csharp_home/dotnet/dotnet" ]; then
  dotnet=$csharp_home/dotnet/dotnet
  feed=$csharp_home/feed
  export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 DOTNET_ROOT=$csharp_home/dotnet DOTNET_CLI_HOME=$csharp_home
  export DOTNET_MULTILEVEL_LOOKUP=0 NUGET_PACKAGES=$csharp_home/packages
  export LD_LIBRARY_PATH=$csharp_home/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
fi
if command -v mono >/dev/null && command -v mcs >/dev/null; then mono=$(command -v mono); fi

# run_dotnet OUT COMMAND PROJECT [OPTIONS of MSBuild]: without warnings, leaving no server behind, into OUT.
run_dotnet() {
  "$dotnet" "$2" "$3" -nologo -v quiet -clp:NoSummary -c Release -m:1 -warnaserror -p:SeerOutput="$1" \
    -p:UseSharedCompilation=false ${feed:+-p:RestoreSources="$feed"} "${@:4}"
}
