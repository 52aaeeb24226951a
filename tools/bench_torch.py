#!/usr/bin/env python3
"""The CPU backend beside PyTorch's scaled_dot_product_attention: same process, same cores, same memory, taking turns.

Measures dense causal GQA attention in each dtype, block-sparse attention with random masks at each density, and a gate
(Qavg_Kmaxminavg, E = head dim, bf16 weights), and prints medians beside the project's targets:

    dense              no slower than PyTorch
    density d          at most (d + 0.08) x our dense time
    gate at 8k tokens  at most 3 % of our dense time there

    meson compile -C build && python tools/bench_torch.py --lib build/libseerattn.so

Wall time is what counts. On a shared machine it says little; `cpu` is processor time divided by threads, which does not
see the neighbours' share of the cores (but their share of caches and clock). Needs PyTorch.
"""
import argparse
import ctypes as c
import json
import math
import os
import statistics
import sys
import time

import torch

STATUS_OK, BACKEND_CPU, MEM_HOST = 0, 3, 1
F32, F16, BF16, B32 = 1, 2, 3, 7
SELECT_THRESHOLD, ROPE_THETA = 1, 2
POOL_AVG, POOL_ALL = 4, 7
DTYPES = {"f32": (torch.float32, F32), "f16": (torch.float16, F16), "bf16": (torch.bfloat16, BF16)}


class Tensor(c.Structure):
    _fields_ = [("mem", c.c_int32), ("dtype", c.c_int32), ("ndim", c.c_int32), ("reserved0", c.c_uint32),
                ("data", c.c_void_p), ("vk_buffer", c.c_uint64), ("buffer", c.c_void_p), ("offset", c.c_uint64),
                ("size", c.c_uint64), ("shape", c.c_int64 * 4), ("stride", c.c_int64 * 4), ("reserved1", c.c_uint64)]


class SelectSpec(c.Structure):
    _fields_ = [("method", c.c_int32), ("last_dense_rows", c.c_int32), ("threshold", c.c_double), ("ratio", c.c_double),
                ("token_budget", c.c_int64), ("flags", c.c_uint32), ("reserved", c.c_uint32)]


class Rope(c.Structure):
    _fields_ = [("kind", c.c_int32), ("inv_freq_count", c.c_uint32), ("theta", c.c_double),
                ("attention_scaling", c.c_double), ("inv_freq", c.c_void_p), ("reserved", c.c_uint64 * 2)]


class Sequences(c.Structure):
    _fields_ = [("q", c.c_void_p), ("k", c.c_void_p), ("count", c.c_int32), ("reserved", c.c_uint32)]


class Growable(c.Structure):
    """A struct that starts with its own size."""

    def __init__(self, **fields):
        super().__init__(struct_size=c.sizeof(self), **fields)


class ContextParams(Growable):
    _fields_ = [("struct_size", c.c_uint32), ("backend", c.c_int32), ("device", c.c_int32), ("threads", c.c_int32),
                ("flags", c.c_uint64), ("allocator", c.c_void_p), ("log", c.c_void_p), ("log_user", c.c_void_p),
                ("log_release", c.c_void_p), ("log_level", c.c_int32), ("reserved", c.c_uint32),
                ("workspace_limit", c.c_uint64)]


class DeviceInfo(Growable):
    _fields_ = [("struct_size", c.c_uint32), ("backend", c.c_int32), ("ordinal", c.c_int32), ("vendor_id", c.c_uint32),
                ("uuid", c.c_uint8 * 16), ("memory_bytes", c.c_uint64), ("dtype_bits", c.c_uint64),
                ("name", c.c_char * 256), ("detail", c.c_char * 256)]


class GateConfig(Growable):
    _fields_ = [("struct_size", c.c_uint32)] + [(name, c.c_int32) for name in (
        "layers", "q_heads", "kv_heads", "head_dim", "gate_dim", "block_size", "q_pool", "k_pool", "force_double",
        "first_layer")] + [("reserved", c.c_uint32), ("rope", Rope), ("gate_rope", Rope), ("select", SelectSpec)]


class GateWeights(Growable):
    _fields_ = [("struct_size", c.c_uint32), ("reserved", c.c_uint32), ("wq", Tensor), ("wk", Tensor)]


class GateDesc(Growable):
    _fields_ = [("struct_size", c.c_uint32), ("flags", c.c_uint32), ("q", Tensor), ("k", Tensor), ("scores", Tensor),
                ("mask", Tensor), ("sequences", Sequences), ("select", SelectSpec), ("rope", Rope),
                ("cache", c.c_void_p), ("total_len", c.c_int64)]


class AttentionDesc(Growable):
    _fields_ = [("struct_size", c.c_uint32), ("flags", c.c_uint32), ("q", Tensor), ("k", Tensor), ("v", Tensor),
                ("out", Tensor), ("lse", Tensor), ("mask", Tensor), ("sequences", Sequences), ("rope", Rope),
                ("softmax_scale", c.c_double), ("block_size", c.c_int32), ("reserved", c.c_uint32)]


class Seer:
    """The library, and a CPU context of it."""

    def __init__(self, path, threads):
        self.lib = c.CDLL(os.path.abspath(path))
        self.lib.seer_last_error.restype = c.c_char_p
        self.context = c.c_void_p()
        params = ContextParams(backend=BACKEND_CPU, threads=threads)
        self.call("seer_context_create", c.byref(params), c.byref(self.context))

    def call(self, name, *arguments):
        status = getattr(self.lib, name)(*arguments)
        if status != STATUS_OK:
            sys.exit(f"{name}: status {status}: {self.lib.seer_last_error().decode()}")

    def device(self):
        info = DeviceInfo()
        self.call("seer_context_info", self.context, c.byref(info))
        return f"{info.name.decode()}, {info.detail.decode()}"

    def attention(self, q, k, v, out, mask, block):
        desc = AttentionDesc(q=heads_last(q), k=heads_last(k), v=heads_last(v), out=heads_last(out), block_size=block)
        if mask is not None:
            desc.mask = tensor(mask, B32)
        self.call("seer_attention", self.context, c.byref(desc), None, None)

    def gate_model(self, q_heads, kv_heads, dim, block):
        weights = torch.randn(q_heads, 3 * dim, dim).mul_(dim**-0.5).bfloat16()
        config = GateConfig(layers=1, q_heads=q_heads, kv_heads=kv_heads, head_dim=dim, gate_dim=dim, block_size=block,
                            q_pool=POOL_AVG, k_pool=POOL_ALL, rope=Rope(kind=ROPE_THETA, theta=10000.0))
        layer = GateWeights(wk=tensor(weights, BF16))
        layers = (c.POINTER(GateWeights) * 1)(c.pointer(layer))
        model = c.c_void_p()
        self.call("seer_model_create", self.context, c.byref(config), layers, c.byref(model))
        return model

    def gate(self, model, q, k, mask):
        desc = GateDesc(q=heads_last(q), k=heads_last(k), mask=tensor(mask, B32),
                        select=SelectSpec(method=SELECT_THRESHOLD, threshold=2e-3))
        self.call("seer_gate", self.context, model, 0, c.byref(desc), None, None)


def tensor(t, dtype):
    size = (sum((n - 1) * s for n, s in zip(t.shape, t.stride())) + 1) * t.element_size()
    view = Tensor(mem=MEM_HOST, dtype=dtype, ndim=t.dim(), data=t.data_ptr(), size=size)
    view.shape[:t.dim()], view.stride[:t.dim()] = t.shape, t.stride()
    return view


def heads_last(t):
    """PyTorch's [B, H, S, D] as the library's [B, S, H, D], the same memory."""
    return tensor(t.transpose(1, 2), next(code for kind, code in DTYPES.values() if kind == t.dtype))


def random_mask(heads, blocks, density):
    """The diagonal, and as many random blocks of the causal triangle as the density asks for; packed bits."""
    causal = [(r, j) for r in range(blocks) for j in range(r)]
    want = max(0, round(density * (len(causal) + blocks)) - blocks)
    words = torch.zeros(1, heads, blocks, (blocks + 31) // 32, dtype=torch.int64)
    for h in range(heads):
        for n in torch.randperm(len(causal))[:want].tolist():
            r, j = causal[n]
            words[0, h, r, j // 32] |= 1 << (j % 32)
        for r in range(blocks):
            words[0, h, r, r // 32] |= 1 << (r % 32)
    return words.to(torch.int32), (want + blocks) / (len(causal) + blocks)


def measure(cases, repeat, threads):
    """Median wall and processor milliseconds of each case, the cases taking turns."""
    wall = {name: [] for name in cases}
    cpu = {name: [] for name in cases}
    for run in cases.values():
        run()
    for _ in range(repeat):
        for name, run in cases.items():
            time.sleep(0.005)  # threads of the case before stop spinning
            begin, begin_cpu = time.perf_counter(), time.process_time()
            run()
            wall[name].append((time.perf_counter() - begin) * 1e3)
            cpu[name].append((time.process_time() - begin_cpu) * 1e3 / threads)
    return {name: {"wall_ms": statistics.median(wall[name]), "wall_min_ms": min(wall[name]),
                   "wall_max_ms": max(wall[name]), "cpu_ms": statistics.median(cpu[name])} for name in cases}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--lib", default="build/libseerattn.so")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seq", type=int, default=4096)
    parser.add_argument("--gate-seq", type=int, default=8192, help="0: no gate")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--dtypes", default="f32,bf16", help="of f32, f16, bf16")
    parser.add_argument("--densities", default="0.5,0.2,0.1,0.05")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(options.threads)
    seer = Seer(options.lib, options.threads)
    print(f"{seer.device()}; PyTorch {torch.__version__}, {torch.get_num_threads()} threads")
    report = {"device": seer.device(), "torch": torch.__version__, "options": vars(options), "results": {}}
    print(f"{'':24}{'wall ms':>9}{'min':>9}{'max':>9}{'cpu ms':>9}  wall/cpu ratio, target")

    def line(name, figures, note=""):
        print(f"{name:24}{figures['wall_ms']:9.2f}{figures['wall_min_ms']:9.2f}{figures['wall_max_ms']:9.2f}"
              f"{figures['cpu_ms']:9.2f}  {note}")

    def ratio(figures, base, limit, label):
        wall, cpu = figures["wall_ms"] / base["wall_ms"], figures["cpu_ms"] / base["cpu_ms"]
        figures.update(ratio=wall, cpu_ratio=cpu, limit=limit)
        return f"{wall:.3f}/{cpu:.3f} of {label}, target {limit:.3f} {'ok' if wall <= limit else 'MISSED'}"

    def qkv(seq, kind):
        return (torch.randn(1, options.heads, seq, options.dim).to(kind),
                *(torch.randn(1, options.kv_heads, seq, options.dim).to(kind) for _ in range(2)))

    for dtype in options.dtypes.split(","):
        q, k, v = qkv(options.seq, DTYPES[dtype][0])
        out = torch.empty_like(q)

        def reference(q=q, k=k, v=v):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

        def ours(mask=None, q=q, k=k, v=v, out=out):
            seer.attention(q, k, v, out, mask, options.block)

        ours()
        expected = reference().double()
        error = ((out.double() - expected).norm() / expected.norm()).item()
        cases, densities = {"torch dense": reference, "dense": ours}, {}
        for density in (float(d) for d in options.densities.split(",") if d):
            mask, exact = random_mask(options.heads, math.ceil(options.seq / options.block), density)
            cases[f"density {density:g}"] = lambda mask=mask: ours(mask)
            densities[f"density {density:g}"] = exact
        results = measure(cases, options.repeat, options.threads)
        print(f"{dtype}, {options.seq} tokens; relative difference of the dense outputs {error:.1e}")
        line("torch dense", results["torch dense"])
        line("dense", results["dense"], ratio(results["dense"], results["torch dense"], 1.0, "torch"))
        for name, exact in densities.items():
            line(name, results[name], ratio(results[name], results["dense"], exact + 0.08, "dense"))
        report["results"][dtype] = results

        if options.gate_seq:
            q, k, v = qkv(options.gate_seq, DTYPES[dtype][0])
            out = torch.empty_like(q)
            blocks = math.ceil(options.gate_seq / options.block)
            mask = torch.zeros(1, options.heads, blocks, (blocks + 31) // 32, dtype=torch.int32)
            model = seer.gate_model(options.heads, options.kv_heads, options.dim, options.block)
            gate = measure({"dense": lambda: ours(None, q, k, v, out), "gate": lambda: seer.gate(model, q, k, mask)},
                           options.repeat, options.threads)
            print(f"{dtype}, {options.gate_seq} tokens")
            line("dense", gate["dense"])
            line("gate", gate["gate"], ratio(gate["gate"], gate["dense"], 0.03, "dense"))
            report["results"][f"{dtype} gate"] = gate
            seer.lib.seer_model_release(model)
    seer.lib.seer_context_release(seer.context)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
