#!/usr/bin/env python3
"""GLSL to SPIR-V to C++. modules.txt lists the modules; spirv/ holds each one compiled by a glslang that knows every
extension they use, for builds whose own glslang does not.

  compile.py list GLSLANG|-                          for Meson: `NAME SOURCE compile|prebuilt`, a line each
  compile.py module GLSLANG NAME OUTPUT DEPFILE      one module into SPIR-V
  compile.py table OUTPUT NAME=SPIRV...              all of them into a C++ table (src/vulkan/shaders.h)
  compile.py update [NAME...]                        makes spirv/ again, by the glslang of toolchain.sh
  compile.py fresh                                   whether spirv/ was made from the sources as they are
  compile.py check                                   makes spirv/ again elsewhere and compares; validates every module
"""
import hashlib
import pathlib
import re
import struct
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
SPIRV = HERE / "spirv"
RECORD = SPIRV / "made_from.txt"
TOOLCHAIN = HERE.parent / ".toolchains" / "vulkan" / "run"

# What a module may need of glslang, and a kernel that uses it: an #extension line alone is accepted too easily.
COOPMAT = """#version 460
#extension GL_KHR_memory_scope_semantics : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#pragma use_vulkan_memory_model
layout(local_size_x = 32) in;
shared f16vec4 a[64];
"""
PROBES = {
    "subgroup": """#version 450
#extension GL_KHR_shader_subgroup_arithmetic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
layout(binding = 0) buffer B { uint b; };
void main() { b = subgroupAdd(1u) + subgroupBallotBitCount(subgroupBallot(true)) + subgroupShuffleXor(1u, 1u); }""",
    "coopmat": COOPMAT + """
void main() {
  coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> m;
  coopMatLoad(m, a, 0, 4, gl_CooperativeMatrixLayoutRowMajor);
  coopMatStore(m, a, 0, 4, gl_CooperativeMatrixLayoutRowMajor);
}""",
    "bfloat16": COOPMAT + """
#extension GL_EXT_bfloat16 : require
shared uvec2 b[64];
void main() {
  coopmat<bfloat16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> m;
  coopMatLoad(m, b, 0, 4, gl_CooperativeMatrixLayoutRowMajor);
  coopMatStore(m, b, 0, 4, gl_CooperativeMatrixLayoutRowMajor);
}""",
    "coopmat2": COOPMAT + """
#extension GL_NV_cooperative_matrix2 : require
float top(const in float x, const in float y) { return max(x, y); }
void main() {
  coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator> m, n;
  m = coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>(1.0);
  coopMatReduceNV(n, m, gl_CooperativeMatrixReduceRowNV, top);
  coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA> h =
      coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>(n);
  coopMatStore(h, a, 0, 4, gl_CooperativeMatrixLayoutRowMajor);
}""",
}
CAPABILITY_SHADER = 1


class Module:
    def __init__(self, line):
        self.name, self.source, self.environment, needs, *self.defines = line.split()
        self.needs = [] if needs == "-" else needs.split(",")
        unknown = set(self.needs) - set(PROBES)
        if unknown:
            raise SystemExit(f"modules.txt: {self.name} needs {', '.join(unknown)}, which no probe asks glslang for")

    def arguments(self, output):
        return ["-V", "--quiet", "-g0", "-S", "comp", "--target-env", self.environment, f"-I{HERE}",
                *(f"-D{define}" for define in self.defines), str(HERE / self.source), "-o", str(output)]

    def digest(self):
        """Of everything that SPIR-V depends on but the compiler; comments and spaces do not count."""
        seen, texts = set(), []

        def visit(path):
            if path in seen:
                return
            seen.add(path)
            text = path.read_text()
            for include in re.findall(r'^\s*#\s*include\s+"([^"]+)"', text, re.M):
                visit((path.parent / include).resolve())
            text = re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S)
            texts.append("\n".join(" ".join(line.split()) for line in text.splitlines() if line.strip()))

        visit(HERE / self.source)
        key = "\n".join([self.environment, *self.defines, *texts])
        return hashlib.sha256(key.encode()).hexdigest()[:16]


def modules():
    lines = (HERE / "modules.txt").read_text().splitlines()
    found = [Module(line) for line in lines if line.strip() and not line.startswith("#")]
    names = [module.name for module in found]
    assert len(set(names)) == len(names), "modules.txt names a module twice"
    return found


def run(command):
    done = subprocess.run([str(x) for x in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def compile_module(glslang, module, output, depfile=None):
    extra = ["--depfile", depfile] if depfile else []
    run([*glslang, *extra, *module.arguments(output)])


def knows(glslang, need):
    """Whether this glslang compiles the probe."""
    with tempfile.TemporaryDirectory() as folder:
        source = pathlib.Path(folder) / "probe.comp"
        source.write_text(PROBES[need])
        done = subprocess.run([glslang, "-V", "--target-env", "vulkan1.3", source, "-o", source.with_suffix(".spv")],
                              capture_output=True)
        return done.returncode == 0


def command_list(glslang):
    able = {need: glslang != "-" and knows(glslang, need) for need in PROBES}
    for module in modules():
        compiled = glslang != "-" and all(able[need] for need in module.needs)
        if not compiled and not (SPIRV / f"{module.name}.spv").exists():
            raise SystemExit(f"shader module {module.name}: this glslang cannot compile it and spirv/ lacks it; "
                             "run shaders/toolchain.sh && shaders/compile.py update")
        print(module.name, module.source, "compile" if compiled else "prebuilt")


def command_module(glslang, name, output, depfile):
    (module,) = [m for m in modules() if m.name == name]
    compile_module([glslang], module, output, depfile)


def words_of(path):
    data = pathlib.Path(path).read_bytes()
    words = struct.unpack(f"<{len(data) // 4}I", data)
    if len(data) % 4 or len(words) < 5 or words[0] != 0x07230203:
        raise SystemExit(f"{path} is no SPIR-V")
    return words


def command_table(output, *pairs):
    out = ["// Made by shaders/compile.py.", '#include "vulkan/shaders.h"', "", "namespace seer::vulkan {", "namespace {", ""]
    rows = []
    for name, path in sorted(pair.split("=", 1) for pair in pairs):
        words = words_of(path)
        out.append(f"constexpr uint32_t {name}_words[] = {{")
        out += [",".join(f"{w:#x}" for w in words[i:i + 12]) + "," for i in range(0, len(words), 12)]
        out.append("};")
        rows.append(f'    {{"{name}", {name}_words, {len(words)}}},')
    out += ["", "constexpr Shader table[] = {", *rows, "};", "", "}  // namespace", "",
            "std::span<const Shader> shaders() { return table; }", "", "}  // namespace seer::vulkan", ""]
    pathlib.Path(output).write_text("\n".join(out))


def toolchain(program):
    """The command for a program of toolchain.sh."""
    if not TOOLCHAIN.exists():
        raise SystemExit("run shaders/toolchain.sh first")
    return [TOOLCHAIN, program]


def version(glslang):
    return re.search(r"\d+:([\d.]+)", run([*glslang, "--version"])).group(1)


def recorded():
    """The glslang that made spirv/, and the digest of each module's sources then."""
    if not RECORD.exists():
        return "", {}
    first, *rest = RECORD.read_text().splitlines()
    return first.split()[1], dict(line.split() for line in rest)


def command_update(*names):
    glslang = toolchain("glslang")
    made_by, digests = recorded()
    everything = modules()
    # A module must not be left with another compiler's words.
    wanted = [m for m in everything if not names or m.name in names or version(glslang) != made_by]
    SPIRV.mkdir(exist_ok=True)
    for module in wanted:
        compile_module(glslang, module, SPIRV / f"{module.name}.spv")
        digests[module.name] = module.digest()
    for old in SPIRV.glob("*.spv"):
        if old.stem not in [m.name for m in everything]:
            old.unlink()
    lines = [f"{m.name} {digests[m.name]}" for m in sorted(everything, key=lambda m: m.name) if m.name in digests]
    RECORD.write_text("\n".join([f"glslang {version(glslang)}", *lines, ""]))


def command_fresh():
    _, digests = recorded()
    everything = modules()
    stale = [m.name for m in everything if digests.get(m.name) != m.digest() or not (SPIRV / f"{m.name}.spv").exists()]
    stale += sorted({p.stem for p in SPIRV.glob("*.spv")} - {m.name for m in everything})
    if stale:
        raise SystemExit(f"shaders/spirv is not made from the sources as they are ({', '.join(stale)}): run "
                         "shaders/toolchain.sh && shaders/compile.py update")
    print(f"{len(everything)} modules are up to date")


def capabilities(words):
    at = 5
    while at < len(words):
        count, code = words[at] >> 16, words[at] & 0xffff
        if count == 0:
            raise SystemExit("a SPIR-V instruction of no words")
        if code == 17:  # OpCapability
            yield words[at + 1]
        at += count


def command_check():
    command_fresh()
    if not TOOLCHAIN.exists():
        print("shaders/toolchain.sh was not run: nothing to compare with")
        sys.exit(77)
    glslang, validate = toolchain("glslang"), toolchain("spirv-val")
    made_by, _ = recorded()
    same_compiler = version(glslang) == made_by
    with tempfile.TemporaryDirectory() as folder:
        for module in modules():
            kept, made = SPIRV / f"{module.name}.spv", pathlib.Path(folder) / f"{module.name}.spv"
            compile_module(glslang, module, made)
            if same_compiler and kept.read_bytes() != made.read_bytes():
                raise SystemExit(f"{kept.name} is not what glslang {made_by} makes: run shaders/compile.py update")
            for path in (kept, made):
                run([*validate, "--target-env", module.environment, path])
            found = list(capabilities(words_of(kept)))
            if not module.needs and found != [CAPABILITY_SHADER]:
                raise SystemExit(f"{module.name} must need nothing but capability Shader, and declares {found}")
    compared = "same words" if same_compiler else f"made by glslang {made_by}, so only validated"
    print(f"{len(modules())} modules valid; {compared} as glslang {version(glslang)}")


COMMANDS = {"list": command_list, "module": command_module, "table": command_table, "update": command_update,
            "fresh": command_fresh, "check": command_check}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        sys.exit(__doc__)
    COMMANDS[sys.argv[1]](*sys.argv[2:])
