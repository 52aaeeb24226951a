#!/usr/bin/env python3
"""compile.py NVCC ARCH CODE SOURCE OUTPUT: a .cu file into a cubin. Fails also where ptxas spilled registers or gave up
keeping wgmma asynchronous (C7510 and its kin): either costs most of a kernel's speed and is easy to miss."""
import subprocess
import sys


def compile_cubin(nvcc, arch, code, source, output):
    """None, or what is wrong."""
    done = subprocess.run([nvcc, f"-gencode=arch={arch},code={code}", "-O3", "-std=c++20", "-lineinfo", "-cubin",
                           "-Xptxas", "-v", source, "-o", output], capture_output=True, text=True)
    if done.returncode != 0:
        return done.stdout + done.stderr
    lines = done.stderr.splitlines()
    bad = [x for x in lines if "(C75" in x or ("spill" in x and "0 bytes spill stores, 0 bytes spill loads" not in x)]
    if not any("Compiling entry function" in x for x in lines):
        bad.append("ptxas reported no kernel: its output changed, or nothing was compiled")
    return "\n".join(bad) or None


if __name__ == "__main__":
    sys.exit(compile_cubin(*sys.argv[1:]))
