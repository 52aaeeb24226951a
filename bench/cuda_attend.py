#!/usr/bin/env python3
"""The Hopper attend kernel on this machine's GPU: correctness, then speed beside what a PyTorch user has.

    cuda_attend.py test [--cases N] [--seed N]      random shapes and adversarial masks against an f32 reference
    cuda_attend.py bench [--sizes 8192,32768] [--dim 64] [--last-dense 2] [--heads 8:2 --split 8] [--rope]
                   [--flex] [--peers]

Needs torch and nvcc (or --cubin). The kernel runs through cuda_driver.py, without the library.
"""
import argparse
import math
import os
import sys
import tempfile

import torch

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [here, os.path.join(here, "..", "cuda")]
import cuda_driver as cd  # noqa: E402
import masks  # noqa: E402
from attend_cases import KINDS, Flex, draw_masks, draw_sequences, peer, run_cases, timed  # noqa: E402
from compile import compile_cubin  # noqa: E402

GROUPS = 3  # row groups of a work item
PEAK_PER_CLOCK = 4096  # bf16 FLOP per clock and SM


def build(path):
    problem = compile_cubin("nvcc", "compute_90a", "sm_90a", os.path.join(here, "..", "cuda", "attend_sm90.cu"), path)
    if problem:
        sys.exit(problem)
    return path


class Kernels:
    def __init__(self, cubin):
        self.cubin, self.made = cubin, {}

    def __call__(self, dtype, dim):
        name = f"attend_{cd.DTYPE[dtype][0]}_{dim}"
        if name not in self.made:
            self.made[name] = cd.Attend(self.cubin, name, GROUPS)
        return self.made[name]


# --- Correctness

def draw(r, small):
    """A random problem."""
    c = dict(dtype=r.choice([torch.bfloat16, torch.float16]), dim=r.choice([64, 128]), block=r.choice([64, 64, 128]),
             hkv=r.choice([1, 1, 2, 3]), group=r.choice([1, 2, 3, 4, 5, 7, 8, 16]), kind=r.choice(KINDS + ["dense"]),
             layout=r.choice(["bshd", "bhsd"]), heads_first=r.random() < .4, section=r.choice([None, 1, 2, 8]),
             lse=r.random() < .8, garbage=r.random() < .5, scale=r.choice([None, None, 0.05, 1.0, 0.0]),
             rope=r.random() < .5, poison=r.random() < .3, split=r.choice([1, 1, 2, 3, 7, 16]))
    longest = 300 if small else r.choice([200, 1500, 3000])
    offset = lambda: r.choice([0, 0, 64 * r.randint(0, longest // 64), r.randint(0, longest)])
    if c["block"] == 128:
        offset = lambda: r.choice([0, 128 * r.randint(0, longest // 128)])
    c["batch"], c["sequences"] = draw_sequences(r, longest, offset, c["block"])
    return c


def tensor(batch, tokens, heads, dim, dtype, layout, fill=None):
    shape = (batch, tokens, heads, dim) if layout == "bshd" else (batch, heads, tokens, dim)
    if fill is None:
        t = torch.randn(shape, device="cuda").to(dtype)
    else:
        t = torch.full(shape, fill, device="cuda", dtype=dtype)
    return t if layout == "bshd" else t.transpose(1, 2)


def run_case(kernels, c, g):
    seqs, heads, block = c["sequences"], c["hkv"] * c["group"], c["block"]
    if all(s[2] == 0 for s in seqs):
        return 0.0
    q_tokens, k_tokens = max(s[1] + s[2] for s in seqs), max(s[3] + s[4] for s in seqs)
    q = tensor(c["batch"], q_tokens, heads, c["dim"], c["dtype"], c["layout"])
    k = tensor(c["batch"], k_tokens + 70, c["hkv"], c["dim"], c["dtype"], c["layout"])
    v = tensor(c["batch"], k_tokens + 70, c["hkv"], c["dim"], c["dtype"], c["layout"])
    k[:, k_tokens:] = math.nan  # what lies behind must not matter
    v[:, k_tokens:] = math.nan
    if c["poison"]:  # what rows do not see must not reach them, and what they see must
        for x, values in ((v, (math.nan, math.inf, -math.inf)), (k, (math.nan,))):
            for value in values:
                at = torch.rand(4, generator=g) * torch.tensor([c["batch"], k_tokens, c["hkv"], c["dim"]])
                x[tuple(at.long().tolist())] = value
    guard = 5
    whole = tensor(c["batch"], q_tokens + 2 * guard, heads, c["dim"], c["dtype"], c["layout"], 777.0)
    out = whole[:, guard:guard + q_tokens]
    lse = torch.full((c["batch"], heads, q_tokens), 777.0, device="cuda") if c["lse"] else None
    mask, words = draw_masks(c["kind"], c["batch"], heads, seqs, block, c["garbage"], g)
    kernel = kernels(c["dtype"], c["dim"])
    scale = c["dim"] ** -0.5 if c["scale"] is None else c["scale"]
    tables = cd.RopeTables(max(s[4] for s in seqs), c["dim"], scaling=1.25) if c["rope"] else None
    launch = kernel.plan(q, k, v, out, lse, words, block, scale, seqs, c["heads_first"], c["section"], tables,
                         c["split"])
    launch()
    torch.cuda.synchronize()
    first, first_lse = out.clone(), None if lse is None else lse.clone()
    launch()
    torch.cuda.synchronize()
    assert torch.equal(first.view(torch.int16), out.view(torch.int16)), "not repeatable"
    assert lse is None or torch.equal(first_lse.view(torch.int32), lse.view(torch.int32)), "lse not repeatable"
    assert (whole[:, :guard] == 777).all() and (whole[:, guard + q_tokens:] == 777).all(), "wrote outside the output"
    if c["rope"]:
        for (b, qb, ql, _, kl, _) in seqs:
            q[b, qb:qb + ql] = tables.rotate(q[b, qb:qb + ql], kl - ql + torch.arange(ql, device="cuda"))
    ref, ref_lse = cd.reference(q, k, v, mask, block, seqs, scale)
    worst = 0.0
    for (b, qb, ql, _, _, _) in seqs:
        for at in range(qb, qb + ql, 64):
            x, y = out[b, at:min(at + 64, qb + ql)].float(), ref[b, at:min(at + 64, qb + ql)]
            assert torch.equal(torch.isfinite(x), torch.isfinite(y)), f"what is not finite at token {at}"
            x, y = x.nan_to_num(0, 0, 0), y.nan_to_num(0, 0, 0)
            error = (x - y).norm().item() / max(y.norm().item(), 1e-6)
            assert error < (6e-3 if c["dtype"] is torch.bfloat16 else 1e-3), f"relative error {error:.2e} at token {at}"
            worst = max(worst, error)
        if lse is not None:
            x, y = lse[b, :, qb:qb + ql], ref_lse[b, :, qb:qb + ql]
            assert torch.equal(x == -math.inf, y == -math.inf), "lse of empty rows"
            assert torch.equal(x.isnan(), y.isnan()), "lse of rows that saw NaN"
            d = torch.where(y == -math.inf, 0, x - y).abs().nan_to_num(0)
            # A rotated q that lies between two numbers of its type may become the other one.
            flip = 10 * scale * torch.finfo(c["dtype"]).eps if c["rope"] else 0
            assert (d <= 1e-4 + flip + 1e-5 * y.abs().nan_to_num(0, 0, 0)).all(), f"lse off by {d.max().item():.2e}"
    return worst


def test(kernels, args):
    ran, worst = run_cases(args, lambda r: draw(r, args.small), lambda c, g: run_case(kernels, c, g))
    print(f"{ran} cases right and repeatable; largest relative error of a row block {worst:.1e}")


# --- Speed

def bench(kernels, args):
    from torch.nn.attention import SDPBackend
    heads, hkv = (int(x) for x in args.heads.split(":"))
    d, dtype = args.dim, torch.bfloat16
    kernel = kernels(dtype, d)
    flex = Flex() if args.flex else None
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; bf16, B 1, Hq {heads}, Hkv {hkv}, D {d}, causal")
    print("TFLOP/s of kept 64x64 blocks, diagonal ones counted half (ms); s = blocks kept per block loaded by 3 rows of"
          " a head; e = share of the tensor cores' rate")
    torch.manual_seed(0)
    for n_tokens in [int(x) for x in args.sizes.split(",")]:
        n = n_tokens // 64
        q, k, v = (torch.randn(1, n_tokens, h, d, device="cuda", dtype=dtype) for h in (heads, hkv, hkv))
        out, lse = torch.empty_like(q), torch.empty(1, heads, n_tokens, device="cuda")
        qt, kt, vt = (x.transpose(1, 2) for x in (q, k, v))
        densities = [float(x) for x in args.densities.split(",")]
        for family, density in [("full", 1.0)] + [(f, x) for f in ("structured", "random") for x in densities]:
            if family == "full":
                m = torch.ones(heads, n, n, dtype=torch.bool, device="cuda").tril_()
            else:
                m = getattr(masks, family)(n, heads, density, device="cuda")
                m[:, n - args.last_dense:] = True
                m.tril_()
            flops = 4.0 * 64 * 64 * d * (m.sum().item() - 0.5 * m.diagonal(dim1=-2, dim2=-1).sum().item())
            words = None if family == "full" else cd.pack_mask(m)[None]
            run = {"ours": kernel.plan(q, k, v, out, lse, words)}
            if args.split > 1:
                run["split"] = kernel.plan(q, k, v, out, lse, words, split=args.split)
            if args.rope:
                run["with RoPE of q"] = kernel.plan(q, k, v, out, lse, words, rope=cd.RopeTables(n_tokens, d))
            if args.peers and family == "full":
                run["cudnn"] = peer(SDPBackend.CUDNN_ATTENTION, qt, kt, vt)
                run["flash"] = peer(SDPBackend.FLASH_ATTENTION, qt, kt, vt)
            if flex is not None:
                run["flex"] = flex(m, 64, qt, kt, vt)
            kernel.clocks.zero_()
            ms = timed(run, args.rounds)
            s = masks.sharing(m, 3)
            # Share of the tensor cores' time at the clock that was measured.
            e = flops / (ms["ours"] * 1e-3) / (PEAK_PER_CLOCK * kernel.sms * kernel.ghz() * 1e9)
            print(f"S {n_tokens:6d}  {family:10s} {density:4.2f}  s {s:4.2f}  {kernel.ghz():.2f} GHz  e {e:.2f}  "
                  + "  ".join(f"{name} {flops / t * 1e-9:4.0f} ({t:.3f})" for name, t in ms.items()), flush=True)
            del m, words, run
            torch.cuda.empty_cache()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["test", "bench"])
    parser.add_argument("--cubin")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="short sequences only, for compute-sanitizer")
    parser.add_argument("--sizes", default="8192,32768,131072")
    parser.add_argument("--densities", default="0.5,0.2,0.1,0.05")
    parser.add_argument("--dim", type=int, default=128, choices=[64, 128])
    parser.add_argument("--last-dense", type=int, default=0, metavar="N", help="the last N rows of blocks keep all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="scaled_dot_product_attention with cuDNN and with flash")
    parser.add_argument("--heads", default="32:8")
    parser.add_argument("--split", type=int, default=1, help="also with the last rows of each head in so many parts")
    parser.add_argument("--rope", action="store_true", help="also with RoPE applied to q on its way")
    parser.add_argument("--flex", action="store_true", help="FlexAttention with the same masks")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kernels = Kernels(args.cubin or build(os.path.join(folder, "attend.cubin")))
        {"test": test, "bench": bench}[args.what](kernels, args)


if __name__ == "__main__":
    main()
