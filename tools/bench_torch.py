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
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bindings" / "python" / "src"))
from seerattn import _abi as abi  # noqa: E402  # the C API itself: calls as short as they can be made
from seerattn._library import Library  # noqa: E402

DTYPES = {"f32": (torch.float32, abi.SEER_F32), "f16": (torch.float16, abi.SEER_F16), "bf16": (torch.bfloat16, abi.SEER_BF16)}


class Seer:
    """The library, and a CPU context of it."""

    def __init__(self, path, threads):
        self.lib = Library(os.path.abspath(path))
        self.context = c.c_void_p()
        params = abi.init(abi.seer_context_params)
        params.backend, params.threads = abi.SEER_BACKEND_CPU, threads
        self.lib.check(self.lib.seer_context_create(c.byref(params), c.byref(self.context)))

    def device(self):
        info = abi.init(abi.seer_device_info)
        self.lib.check(self.lib.seer_context_info(self.context, c.byref(info)))
        return f"{info.name.decode()}, {info.detail.decode()}"

    def attention(self, q, k, v, out, mask, block):
        desc = abi.init(abi.seer_attention_desc)
        desc.q, desc.k, desc.v, desc.out = heads_last(q), heads_last(k), heads_last(v), heads_last(out)
        desc.block_size = block
        if mask is not None:
            desc.mask = tensor(mask, abi.SEER_B32)
        self.lib.check(self.lib.seer_attention(self.context, c.byref(desc), None, None))

    def gate_model(self, q_heads, kv_heads, dim, block):
        weights = torch.randn(q_heads, 3 * dim, dim).mul_(dim**-0.5).bfloat16()
        config = abi.init(abi.seer_gate_config)
        config.layers, config.q_heads, config.kv_heads, config.block_size = 1, q_heads, kv_heads, block
        config.head_dim = config.gate_dim = dim
        config.q_pool = abi.SEER_POOL_AVG
        config.k_pool = abi.SEER_POOL_MAX | abi.SEER_POOL_MIN | abi.SEER_POOL_AVG
        config.rope.kind, config.rope.theta = abi.SEER_ROPE_THETA, 10000.0
        layer = abi.init(abi.seer_gate_weights)
        layer.wk = tensor(weights, abi.SEER_BF16)
        layers = (c.POINTER(abi.seer_gate_weights) * 1)(c.pointer(layer))
        model = c.c_void_p()
        self.lib.check(self.lib.seer_model_create(self.context, c.byref(config), layers, c.byref(model)))
        return model

    def gate(self, model, q, k, mask):
        desc = abi.init(abi.seer_gate_desc)
        desc.q, desc.k, desc.mask = heads_last(q), heads_last(k), tensor(mask, abi.SEER_B32)
        desc.select.method, desc.select.threshold = abi.SEER_SELECT_THRESHOLD, 2e-3
        self.lib.check(self.lib.seer_gate(self.context, model, 0, c.byref(desc), None, None))


def tensor(t, dtype):
    size = (sum((n - 1) * s for n, s in zip(t.shape, t.stride())) + 1) * t.element_size()
    view = abi.seer_tensor(mem=abi.SEER_MEM_HOST, dtype=dtype, ndim=t.dim(), data=t.data_ptr(), size=size)
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
