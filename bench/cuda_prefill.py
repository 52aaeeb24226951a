#!/usr/bin/env python3
"""Whole prefills through the library (gate included) on torch's tensors and stream, beside what a PyTorch user has.

    cuda_prefill.py [--sizes 8192,32768,131072] [--density 0.1] [--flex] [--scaling] [--capture] [--gate-mb 40,0]

Needs torch, the built library (SEERATTN_LIB) and the Python binding (PYTHONPATH=bindings/python/src). bf16, B 1, Hq 32,
Hkv 8, D 128, causal, block 64, RoPE included. The gate's weights and the inputs are made so that the masks it chooses
share as those of bench/masks.py's `structured` do (s near 1.8): columns that a KV group returns to, and noise. Medians;
contestants take turns in random order, L2 is flushed before each call, and the device is kept busy until the call is
recorded, so that times are the device's."""
import argparse
import math
import os
import random
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention as sdpa

import seerattn as sa

HEADS, KV_HEADS, DIM, BLOCK, THETA = 32, 8, 128, 64, 5e5
SHARING = 1.79  # of `structured` at 90 %
SPREAD = 100.0  # what logits are multiplied by, so that a row's probabilities differ as a trained gate's do


def make_model(context):
    """Gate K is the average of K; gate Q is that of Q: blocks are compared by their averages."""
    w = torch.zeros(HEADS, 3 * DIM, DIM)
    w[:, 2 * DIM:] = SPREAD * torch.eye(DIM)
    config = sa.GateConfig(layers=1, q_heads=HEADS, kv_heads=KV_HEADS, head_dim=DIM, gate_dim=DIM,
                           rope=sa.Rope.of_theta(THETA))
    return sa.Model.from_arrays(context, config, [w.numpy()])


def make_inputs(tokens, strength, seed=0):
    """q, k, v whose block averages make logits of columns (`strength` of them) and of noise (one)."""
    g = torch.Generator(device="cuda").manual_seed(seed)
    blocks = -(-tokens // BLOCK)
    q, k, v = (torch.randn(1, tokens, h, DIM, device="cuda", dtype=torch.bfloat16, generator=g)
               for h in (HEADS, KV_HEADS, KV_HEADS))
    # Averages of 64 tokens of noise give logits of a standard deviation of SPREAD / 64. Channels that RoPE hardly turns carry
    # the columns.
    slow = torch.zeros(DIM, device="cuda")
    slow[60:64] = slow[124:128] = 1.0
    hot = torch.randn(blocks, KV_HEADS, device="cuda", generator=g).repeat_interleave(BLOCK, 0)[:tokens]
    size = math.sqrt(strength / BLOCK * math.sqrt(DIM) / 8)
    for t in range(0, tokens, 16384):  # in place, in pieces
        q[0, t:t + 16384] += (size * slow).bfloat16()
        k[0, t:t + 16384] += (size * hot[t:t + 16384, :, None] * slow).bfloat16()
    return q, k, v


def unpack(words, n):
    bits = (words[0].long() & 0xffffffff)[..., None] >> torch.arange(32, device=words.device) & 1
    return bits.flatten(-2)[..., :n].bool()


def sharing(mask, rows=3):
    """Kept blocks per block loaded when `rows` rows of a head walk their union."""
    h, n, _ = mask.shape
    part = mask[:, :n // rows * rows].reshape(h, n // rows, rows, n)
    return part.sum().item() / part.any(2).sum().item()


class Prefill:
    """The library on one problem."""

    def __init__(self, context, model, tokens, density, last_dense, strength):
        self.context, self.model, self.n = context, model, -(-tokens // BLOCK)
        self.q, self.k, self.v = make_inputs(tokens, strength)
        self.out = torch.empty_like(self.q)
        self.mask = torch.zeros(1, HEADS, self.n, -(-self.n // 32), dtype=torch.int32, device="cuda")
        self.flags = dict(keep_first=True, keep_diagonal=True, last_dense_rows=last_dense)
        low, high = 0.0, 1.0
        for _ in range(18):  # the threshold of this density
            middle = math.sqrt(max(low, 1e-7) * high)
            self.select = sa.Select.threshold(middle, **self.flags)
            stats = self.gate().stats
            low, high = (middle, high) if stats.blocks_kept > density * stats.blocks_causal else (low, middle)
        self.stats = self.run().stats

    def run(self, wait=True):
        return self.context.prefill(self.model, 0, self.q, self.k, self.v, out=self.out, mask=self.mask,
                                    select=self.select, wait=wait)

    def gate(self, wait=True):
        return self.context.gate(self.model, 0, self.q, self.k, mask=self.mask, select=self.select, wait=wait)

    def attend(self, wait=True):
        """Over the chosen mask; without RoPE, which the gate's pass applies."""
        return self.context.attention(self.q, self.k, self.v, out=self.out, mask=self.mask, wait=wait)

    def kept(self):
        self.run()
        return unpack(self.mask, self.n)


def timed(contestants, budget_ms=20.0):
    """Median milliseconds of each."""
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    times = {name: [] for name in contestants}
    for name, f in contestants.items():
        f()
    torch.cuda.synchronize()
    for _ in range(9):  # turns are short: the card's clock follows the heat of what ran before
        order = list(contestants.items())
        random.shuffle(order)
        for name, f in order:
            spent, mine = 0.0, 0
            while mine < 1 or (spent < budget_ms and mine < 14):
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                flush.zero_()
                torch.cuda._sleep(1_500_000)  # longer than recording a call takes
                a.record()
                f()
                b.record()
                b.synchronize()
                times[name].append(a.elapsed_time(b))
                spent, mine = spent + times[name][-1], mine + 1
    return {n: sorted(t)[len(t) // 2] for n, t in times.items()}


def strength_for(context, model, tokens, density):
    """The strength of columns that gives the sharing of `structured`."""
    low, high = 0.1, 30.0
    for _ in range(6):
        middle = math.sqrt(low * high)
        s = sharing(Prefill(context, model, tokens, density, -1, middle).kept())
        low, high = (middle, high) if s < SHARING else (low, middle)
    return math.sqrt(low * high)


def flex_of(p, keep):
    from torch.nn.attention.flex_attention import BlockMask, flex_attention
    flex = torch.compile(flex_attention, dynamic=False)
    n, diagonal, parts = p.n, torch.eye(p.n, dtype=torch.bool, device="cuda"), []
    for part in (keep & diagonal, keep & ~diagonal):
        order = torch.argsort(part.to(torch.int8), dim=-1, descending=True, stable=True)
        parts += [part.sum(-1).to(torch.int32)[None], order.to(torch.int32)[None]]
    tokens = p.q.shape[1]
    mask = BlockMask.from_kv_blocks(*parts, BLOCK_SIZE=64, mask_mod=lambda b, h, i, j: i >= j,
                                    seq_lengths=(tokens, tokens), compute_q_blocks=False)
    qt, kt, vt = (x.transpose(1, 2) for x in (p.q, p.k, p.v))
    return lambda: flex(qt, kt, vt, block_mask=mask, enable_gqa=True, kernel_options={"BLOCK_M": 64, "BLOCK_N": 64})


def peer(p, backend):
    qt, kt, vt = (x.transpose(1, 2) for x in (p.q, p.k, p.v))

    def f():
        with sdpa_kernel(backend):
            return sdpa(qt, kt, vt, is_causal=True, enable_gqa=True)
    return f


def captured(p):
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        p.run(wait=False)
    return graph


def gate_passes(args, strength, tokens):
    """The gate and the prefill with other limits of its workspace (SEER_CUDA_GATE_MB), and the times of the stages."""
    run, problems = {}, []
    for mb in args.gate_mb.split(","):
        os.environ["SEER_CUDA_GATE_MB"] = mb
        context, lines = sa.Context("cuda"), []
        told = sa.Context("cuda", log=lambda level, text: lines.append(text), log_level=sa.LogLevel.DEBUG)
        p = Prefill(context, make_model(context), tokens, args.density, -1, strength)
        problems.append(p)
        run[f"gate {mb} MB"] = lambda p=p: p.gate(wait=False)
        run[f"prefill {mb} MB"] = lambda p=p: p.run(wait=False)
        q = Prefill.__new__(Prefill)
        q.__dict__.update(p.__dict__, context=told, model=make_model(told))
        for _ in range(3):
            q.run()
        print(f"gate limited to {mb} MB: workspace {p.stats.workspace_bytes / 2**20:.0f} MB;",
              [x for x in lines if x.startswith("stages")][-1])
        told.sync()
    del os.environ["SEER_CUDA_GATE_MB"]
    print(f"S {tokens:6d}  " + "  ".join(f"{k} {v:.3f}" for k, v in timed(run).items()), flush=True)
    for p in problems:
        p.context.sync()


def report(p, keep, ms, last_dense):
    n, tokens = p.n, p.q.shape[1]
    flops = 4.0 * BLOCK * BLOCK * DIM * (keep.sum().item() - 0.5 * keep.diagonal(dim1=-2, dim2=-1).sum().item())
    density = keep.sum().item() / (HEADS * n * (n + 1) / 2)
    gate_bytes = p.q.nbytes + p.k.nbytes
    print(f"S {tokens:6d}  density {density:.3f}  s {sharing(keep):.2f}  last rows dense {max(0, last_dense)}  "
          f"workspace {p.stats.workspace_bytes / 2**20:.0f} MB  " + "  ".join(f"{k} {v:.3f}" for k, v in ms.items()))
    if "attend" in ms:
        print(f"          attend {flops / ms['attend'] * 1e-9:.0f} TFLOP/s; gate reads q and k at "
              f"{gate_bytes / ms['gate'] * 1e-6:.0f} GB/s; prefill {flops / ms['prefill'] * 1e-9:.0f} TFLOP/s"
              + "".join(f"; {ms[x] / ms['prefill']:.1f} x {x}" for x in ("cudnn", "flash", "flex") if x in ms),
              flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", default="8192,32768,131072")
    parser.add_argument("--density", type=float, default=0.1)
    parser.add_argument("--flex", action="store_true")
    parser.add_argument("--scaling", action="store_true", help="8k to 256k at that density, against S^2")
    parser.add_argument("--gate-mb", help="also the largest size with these limits of the gate's workspace")
    parser.add_argument("--capture", action="store_true", help="also from a CUDA graph")
    args = parser.parse_args()
    context = sa.Context("cuda")
    model = make_model(context)
    print(f"{context.info.name} ({context.info.detail}), torch {torch.__version__}; ms")
    copy = torch.empty(1 << 29, dtype=torch.int8, device="cuda")
    ms = timed({"copy": lambda: copy[:1 << 28].copy_(copy[1 << 28:])})["copy"]
    print(f"device-to-device copy: {2 * (1 << 28) / ms * 1e-6:.0f} GB/s, read and written")
    del copy
    strength = strength_for(context, model, 32768, args.density)
    for tokens in [int(x) for x in args.sizes.split(",") if x]:
        for last_dense in ((-1, 2) if tokens <= 8192 else (-1,)):
            p = Prefill(context, model, tokens, args.density, last_dense, strength)
            keep = p.kept()
            run = {"prefill": lambda: p.run(wait=False), "gate": lambda: p.gate(wait=False),
                   "attend": lambda: p.attend(wait=False), "cudnn": peer(p, SDPBackend.CUDNN_ATTENTION),
                   "flash": peer(p, SDPBackend.FLASH_ATTENTION)}
            if args.flex:
                run["flex"] = flex_of(p, keep)
            if args.capture:
                graph = captured(p)
                run["graph"] = graph.replay
            report(p, keep, timed(run), last_dense)
            context.sync()
            del p, keep, run
            torch.cuda.empty_cache()
    if args.gate_mb:
        gate_passes(args, strength, max(int(x) for x in args.sizes.split(",")))
    if args.scaling:
        base = None
        for tokens in (8192, 16384, 32768, 65536, 131072, 262144):
            p = Prefill(context, model, tokens, args.density, -1, strength)
            ms = timed({"prefill": lambda: p.run(wait=False), "gate": lambda: p.gate(wait=False)})
            per = ms["prefill"] / tokens ** 2
            base = base or per
            density = p.stats.blocks_kept / p.stats.blocks_causal
            print(f"S {tokens:6d}  density {density:.3f}  prefill {ms['prefill']:.3f}  gate {ms['gate']:.3f}  "
                  f"ms / S^2 beside 8k's: {per / base:.2f}", flush=True)
            context.sync()
            del p
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
