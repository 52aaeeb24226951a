#!/usr/bin/env python3
"""Device code for the library.

    compile.py fatbin NVCC SOURCE OUTPUT TARGET...   TARGET: 80, 90a (machine code), ptx90 (for later chips)
    compile.py cubin NVCC ARCH CODE SOURCE OUTPUT
    compile.py table OUTPUT NAME=FATBIN...           C++ with the fat binaries as arrays (src/cuda/images.h)

Compiling fails also where ptxas spilled registers or gave up keeping wgmma asynchronous (C7510 and its kin), and where
it did not see that branches of a kernel in UNIFORM are: each costs speed and is easy to miss. The last is looked for
in the machine code, with cuobjdump and nvdisasm; where they are missing that is said, and the kernel is built.

Several build folders compile the same kernels, so results are kept by content in $SEER_CUDA_CACHE, else in
$XDG_CACHE_HOME/seerattn/cuda (~/.cache without it); SEER_CUDA_CACHE= (empty) keeps none."""
import glob
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile

KEPT = 256  # files in the cache, the newest
# Kernels in which all lanes of a warp must visibly take the same branches (run() of attend_sm90.cu says why): one
# WARPSYNC.ALL, that of the roles' split.
UNIFORM = ["attend_sm90.cu"]


def cuobjdump_of(nvcc):
    """cuobjdump beside nvcc or on PATH; None: there is none, or no nvdisasm for it."""
    nvcc = shutil.which(nvcc) or nvcc
    for folder in (os.path.dirname(nvcc), os.path.dirname(os.path.realpath(nvcc)), None):  # None: PATH
        found = shutil.which("cuobjdump", path=folder)
        if found and (shutil.which("nvdisasm", path=os.path.dirname(found)) or shutil.which("nvdisasm")):
            return found
    return None


def not_uniform(sass):
    """Names of the kernels in a disassembly in which ptxas did not see that branches are uniform."""
    return [x.split()[0] for x in sass.split("Function : ")[1:] if x.count("WARPSYNC.ALL") > 1]


def look_for_uniform(nvcc, source, output):
    """None, or what is wrong."""
    cuobjdump = cuobjdump_of(nvcc)
    name = os.path.basename(source)
    if cuobjdump is None:
        print(f"compile.py: {name}: no cuobjdump with nvdisasm (cuda/toolchain.sh installs them): it was not looked at "
              "whether the kernels' branches are uniform", file=sys.stderr)
        return None
    done = subprocess.run([cuobjdump, "-sass", output], capture_output=True, text=True)
    if done.returncode != 0 or "Function : " not in done.stdout:
        return f"{cuobjdump} does not disassemble {name}:\n{done.stdout}{done.stderr}"
    if slow := not_uniform(done.stdout):
        return f"{name}: ptxas did not see that branches are uniform in {', '.join(slow)}"
    return None


def run_nvcc(nvcc, flags, kind, source, output):
    """None, or what is wrong."""
    done = subprocess.run([nvcc, *flags, "-O3", "-std=c++20", kind, "-Xptxas", "-v", source, "-o", output],
                          capture_output=True, text=True)
    if done.returncode != 0:
        return done.stdout + done.stderr
    lines = done.stderr.splitlines()
    bad = [x for x in lines if "(C75" in x or "warning" in x.lower() or
           ("spill" in x and "0 bytes spill stores, 0 bytes spill loads" not in x)]
    if not any("Compiling entry function" in x for x in lines):
        bad.append("ptxas reported no kernel: its output changed, or nothing was compiled")
    if not bad and os.path.basename(source) in UNIFORM:
        return look_for_uniform(nvcc, source, output)
    return "\n".join(bad) or None


def compile_cubin(nvcc, arch, code, source, output):
    """None, or what is wrong."""
    return run_nvcc(nvcc, [f"-gencode=arch={arch},code={code}", "-lineinfo"], "-cubin", source, output)


def target_flag(target):
    if target.startswith("ptx"):
        return f"-gencode=arch=compute_{target[3:]},code=compute_{target[3:]}"
    return f"-gencode=arch=compute_{target},code=sm_{target}"


def cache_folder():
    folder = os.environ.get("SEER_CUDA_CACHE")
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(base, "seerattn", "cuda")
    return folder or None


def sources(source):
    """The file and what it includes from its folder."""
    found, queue = {}, [os.path.abspath(source)]
    while queue:
        path = queue.pop()
        if path in found or not os.path.exists(path):
            continue
        with open(path, "rb") as file:
            found[path] = file.read()
        for name in re.findall(rb'^\s*#\s*include\s*"([^"]+)"', found[path], re.M):
            queue.append(os.path.normpath(os.path.join(os.path.dirname(path), name.decode())))
    return found


def key_of(nvcc, source, targets):
    digest = hashlib.sha256()
    version = subprocess.run([nvcc, "--version"], capture_output=True, check=True).stdout
    with open(__file__, "rb") as file:
        own = file.read()
    # What was made where nobody could look at its machine code is looked at once somebody can.
    looked = os.path.basename(source) in UNIFORM and cuobjdump_of(nvcc) is not None
    texts = [version, own, " ".join(targets).encode(), str(looked).encode()]
    for path, text in sorted(sources(source).items(), key=lambda item: os.path.basename(item[0])):
        texts += [os.path.basename(path).encode(), text]
    for text in texts:
        digest.update(str(len(text)).encode() + b":" + text)
    return digest.hexdigest()


def keep(folder, path, output):
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            with open(output, "rb") as made:
                shutil.copyfileobj(made, file)
        os.replace(file.name, path)
        age = {x: os.stat(x).st_mtime for x in glob.glob(os.path.join(folder, "*.fatbin"))}
        for old in sorted(age, key=age.get)[:-KEPT]:
            os.remove(old)
    except OSError:
        pass  # a cache that cannot be written is none


def fatbin(nvcc, source, output, *targets):
    folder = cache_folder()
    kept = folder and os.path.join(folder, key_of(nvcc, source, targets) + ".fatbin")
    if kept and os.path.exists(kept):
        try:
            shutil.copyfile(kept, output)
            os.utime(kept)
            return None
        except OSError:
            pass
    # Without line numbers and compressed it is a thirtieth of the size; the driver unpacks it in milliseconds.
    flags = ["-Xfatbin", "-compress-all", *map(target_flag, targets)]
    problem = run_nvcc(nvcc, flags, "-fatbin", source, output)
    if problem:
        if os.path.exists(output):
            os.remove(output)
        return problem
    if kept:
        keep(folder, kept, output)
    return None


def table(output, *pairs):
    arrays, rows = [], []
    for i, pair in enumerate(pairs):
        name, path = pair.split("=", 1)
        with open(path, "rb") as file:
            data = file.read()
        padded = data + bytes(-len(data) % 8)
        words = [f"0x{int.from_bytes(padded[at:at + 8], 'little'):x}" for at in range(0, len(padded), 8)]
        lines = [",".join(words[at:at + 8]) for at in range(0, len(words), 8)]
        arrays.append(f"alignas(64) const uint64_t image{i}[] = {{\n" + ",\n".join(lines) + "};\n")
        rows.append(f'    {{"{name}", image{i}, {len(data)}}},\n')
    with open(output, "w") as file:
        file.write("// Made by cuda/compile.py.\n#include \"cuda/images.h\"\n\nnamespace seer::cuda {\nnamespace {\n\n" +
                   "\n".join(arrays) + "\nconst Image all[] = {\n" + "".join(rows) +
                   "};\n\n}  // namespace\n\nstd::span<const Image> images() { return all; }\n\n"
                   "}  // namespace seer::cuda\n")


if __name__ == "__main__":
    sys.exit({"fatbin": fatbin, "cubin": compile_cubin, "table": table}[sys.argv[1]](*sys.argv[2:]))
