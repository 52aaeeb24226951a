#!/usr/bin/env python3
"""Packs the assemblies that netstandard2.0 is compiled against into a folder that NuGet restores from.

usage: offline_feed.py SDK FEED

The packages have the names and versions of those on nuget.org, so that SeerAttn.csproj need not know the difference,
and hold the same assemblies as far as compiling goes. They are for .toolchains/ only: nothing that is published holds
them.
"""
import pathlib
import sys
import zipfile

NUSPEC = """<?xml version="1.0" encoding="utf-8"?>
<package xmlns="http://schemas.microsoft.com/packaging/2012/06/nuspec.xsd">
  <metadata>
    <id>{name}</id>
    <version>{version}</version>
    <authors>Microsoft</authors>
    <description>The assemblies of this package as the .NET SDK has them.</description>
  </metadata>
</package>
"""

CONTENT_TYPES = """<?xml version="1.0" encoding="utf-8"?>
<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
  <Default Extension="nuspec" ContentType="application/octet" />
  <Default Extension="dll" ContentType="application/octet" />
</Types>
"""


def pack(feed, name, version, files):
    with zipfile.ZipFile(feed / f"{name}.{version}.nupkg", "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr(f"{name}.nuspec", NUSPEC.format(name=name, version=version))
        package.writestr("[Content_Types].xml", CONTENT_TYPES)
        for inside, file in files:
            package.write(file, f"{inside}/{file.name}")


def one(folder, pattern):
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        sys.exit(f"offline_feed.py: {len(found)} files {pattern} in {folder}; expected 1")
    return found[0]


def main():
    sdk, feed = map(pathlib.Path, sys.argv[1:])
    feed.mkdir(parents=True)
    tools = "sdk/*/Sdks/Microsoft.NET.Sdk.WindowsDesktop/tools/net472/"
    pack(feed, "NETStandard.Library", "2.0.3", [("ref/netstandard2.0", one(sdk, "sdk/*/ref/netstandard.dll"))])
    pack(feed, "System.Memory", "4.5.4", [
        ("lib/netstandard2.0", one(sdk, tools + name + ".dll"))
        for name in ("System.Memory", "System.Numerics.Vectors", "System.Runtime.CompilerServices.Unsafe")])


if __name__ == "__main__":
    main()
