#!/usr/bin/env python3
"""The attend kernels for all that the Hopper kernel does not take, on this machine's GPU: correctness, then speed.

    cuda_attend80.py test [--cases N] [--seed N]    random shapes and adversarial masks against an f32 reference
    cuda_attend80.py bench [--flex] [--peers]       tensor cores (cuda/attend_sm80.cu), beside flash-2 and FlexAttention
    cuda_attend80.py bench --dtype f32 [--peers]    cuda/attend_plain.cu, beside torch's f32 attention

Needs torch and nvcc (or --sm80 and --plain with cubins of this machine's chip).
"""
import argparse
import ctypes
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

DTYPE = {torch.bfloat16: "bf16", torch.float16: "f16", torch.float32: "f32"}
ROWS = 64  # kAttendRows of cuda/launch_attend80.h
TENSOR_DIMS, PLAIN_DIMS = [64, 96, 128, 256], [64, 128, 256]
TOLERANCE = {torch.bfloat16: 6e-3, torch.float16: 1e-3, torch.float32: 2e-5}


class Params(ctypes.Structure):  # AttendParams80 of cuda/launch_attend80.h
    _fields_ = ([(n, ctypes.c_void_p) for n in ("q", "k", "v", "out")]
                + [(f"{t}_{n}", ctypes.c_int64) for t in ("q", "k", "v", "out") for n in ("batch", "token", "head")]
                + [("lse", ctypes.c_void_p), ("lse_batch", ctypes.c_int64), ("lse_head", ctypes.c_int64),
                   ("lse_token", ctypes.c_int64), ("mask", ctypes.c_void_p), ("mask_batch", ctypes.c_int64),
                   ("mask_head", ctypes.c_int64), ("mask_row", ctypes.c_int64), ("block_log2", ctypes.c_int32),
                   ("scale_log2", ctypes.c_float), ("dim", ctypes.c_int32), ("heads", ctypes.c_int32),
                   ("group", ctypes.c_int32), ("items", ctypes.c_int32), ("sequences", ctypes.c_int32),
                   ("section", ctypes.c_int32), ("sequence", ctypes.c_void_p), ("only", cd.Sequence),
                   ("coarse", ctypes.c_void_p), ("fine", ctypes.c_void_p)])


class Module:
    def __init__(self, cubin):
        torch.zeros(1, device="cuda")
        self.module = ctypes.c_void_p()
        cd.check(cd.cuda.cuModuleLoad(ctypes.byref(self.module), cubin.encode()))
        self.kernels = {}

    def constant(self, name):
        at, size, value = ctypes.c_uint64(), ctypes.c_size_t(), ctypes.c_int32()
        cd.check(cd.cuda.cuModuleGetGlobal_v2(ctypes.byref(at), ctypes.byref(size), self.module, name.encode()))
        cd.check(cd.cuda.cuMemcpyDtoH_v2(ctypes.byref(value), at, ctypes.c_size_t(4)))
        return value.value

    def kernel(self, name):
        """(function, threads, shared)"""
        if name not in self.kernels:
            fn = ctypes.c_void_p()
            cd.check(cd.cuda.cuModuleGetFunction(ctypes.byref(fn), self.module, name.encode()))
            threads, shared = self.constant(name + "_threads"), self.constant(name + "_shared")
            cd.check(cd.cuda.cuFuncSetAttribute(fn, 8, shared))
            self.kernels[name] = (fn, threads, shared)
        return self.kernels[name]


class Kernels:
    """Both kernels' modules."""

    def __init__(self, sm80, plain):
        self.modules = {"sm80": Module(sm80) if sm80 else None, "plain": Module(plain) if plain else None}

    def plan(self, tier, q, k, v, out, lse=None, mask=None, block=64, scale=None, sequences=None, section=None,
             rope=None):
        """As cuda_driver.Attend.plan."""
        b, s, h, d = q.shape
        dims, stem = (TENSOR_DIMS, "attend_sm80") if tier == "sm80" else (PLAIN_DIMS, "attend_plain")
        name = f"{stem}_{DTYPE[q.dtype]}_{min(x for x in dims if x >= d)}"
        fn, threads, shared = self.modules[tier].kernel(name)
        if sequences is None:
            sequences = [(i, 0, s, 0, k.shape[1], 0) for i in range(b)]
        seqs, items = [], 0
        for (batch, qb, ql, kb, kl, mr) in sequences:
            n = h * -(-ql // ROWS)
            if n == 0:
                continue
            seqs.append(cd.Sequence(batch, qb, ql, kb, kl, mr, items, n))
            items += n
        p = Params()
        for t, x in (("q", q), ("k", k), ("v", v), ("out", out)):
            setattr(p, t, x.data_ptr())
            for n, stride in zip(("batch", "token", "head"), x.stride()):
                setattr(p, f"{t}_{n}", stride)
        if lse is not None:  # [batch, head, token]
            p.lse, p.lse_batch, p.lse_head, p.lse_token = lse.data_ptr(), *lse.stride()
        if mask is not None:
            p.mask, (p.mask_batch, p.mask_head, p.mask_row) = mask.data_ptr(), mask.stride()[:3]
        p.block_log2 = {32: 5, 64: 6, 128: 7}[block]
        p.scale_log2 = (d ** -0.5 if scale is None else scale) * cd.LOG2E
        p.dim, p.heads, p.group, p.items, p.sequences = d, h, h // k.shape[2], items, len(seqs)
        longest = max(x.k_len for x in seqs)
        p.section = section or max(1, min(k.shape[2], (34 << 20) // (longest * d * 2 * q.element_size())))
        p.only = seqs[0]
        keep = [q, k, v, out, lse, mask]
        if len(seqs) > 1:
            table = torch.frombuffer(bytearray(b"".join(bytes(x) for x in seqs)), dtype=torch.uint8).cuda()
            p.sequence = table.data_ptr()
            keep.append(table)
        if rope is not None:
            p.coarse, p.fine = rope.coarse.data_ptr(), rope.fine.data_ptr()
            keep.append(rope)
        args = (ctypes.c_void_p * 1)(ctypes.addressof(p))

        def launch():
            stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
            cd.check(cd.cuda.cuLaunchKernel(fn, items, 1, 1, threads, 1, 1, shared, stream, args, None))
        launch.keep = (keep, p)
        return launch


# --- Correctness

def draw(r, small, tiers, dims, dtypes):
    """A random problem."""
    c = dict(tier=r.choice(tiers), block=r.choice([32, 64, 64, 128]), hkv=r.choice([1, 1, 2, 3]),
             group=r.choice([1, 2, 3, 4, 5, 7, 8, 16]), kind=r.choice(KINDS + ["dense"]),
             layout=r.choice(["bshd", "bhsd"]), section=r.choice([None, 1, 2, 8]), lse=r.random() < .8,
             garbage=r.random() < .5, poison=r.random() < .3, rope=r.random() < .5, scale=r.choice([None, None, None, 0.05, 1.0, 0.0, -0.1]))
    if c["tier"] == "sm80":
        c["dtype"], c["dim"], c["pad"] = r.choice(dtypes[:2]), r.choice(dims), r.choice([0, 0, 8, 24])
        c["dim"] = -(-c["dim"] // 8) * 8
    else:
        c["dtype"], c["dim"] = r.choice(dtypes), r.choice(dims + [r.randint(1, 256)])
        c["pad"] = r.choice([0, 0, 1, 3, 8])
    longest = 300 if small else r.choice([200, 1500, 3000])
    offset = lambda: r.choice([0, 0, c["block"] * r.randint(0, longest // c["block"]), r.randint(0, longest)])
    c["batch"], c["sequences"] = draw_sequences(r, longest, offset, c["block"])
    return c


def tensor(c, tokens, heads, fill=None):
    """Rows of dim channels, `pad` channels of NaN between them."""
    width = c["dim"] + c["pad"]
    shape = (c["batch"], tokens, heads, width) if c["layout"] == "bshd" else (c["batch"], heads, tokens, width)
    t = torch.full(shape, math.nan if fill is None else fill, device="cuda", dtype=c["dtype"])
    if fill is None:
        t[..., :c["dim"]] = torch.randn(*shape[:3], c["dim"], device="cuda").to(c["dtype"])
    return (t if c["layout"] == "bshd" else t.transpose(1, 2))[..., :c["dim"]], t


def run_case(kernels, c, g):
    seqs, heads, block = c["sequences"], c["hkv"] * c["group"], c["block"]
    if all(s[2] == 0 for s in seqs):
        return 0.0
    q_tokens, k_tokens = max(s[1] + s[2] for s in seqs), max(s[3] + s[4] for s in seqs)
    q, _ = tensor(c, q_tokens, heads)
    k, _ = tensor(c, k_tokens + 70, c["hkv"])
    v, _ = tensor(c, k_tokens + 70, c["hkv"])
    k[:, k_tokens:] = math.nan  # what lies behind must not matter
    v[:, k_tokens:] = math.nan
    guard = 5
    view, whole = tensor(c, q_tokens + 2 * guard, heads, 777.0)
    out = view[:, guard:guard + q_tokens]
    lse = torch.full((c["batch"], heads, q_tokens), 777.0, device="cuda") if c["lse"] else None
    mask, words = draw_masks(c["kind"], c["batch"], heads, seqs, block, c["garbage"], g)
    if mask is not None:  # blocks that no row of a KV head keeps
        for (b, _, ql, kb, kl, mr) in seqs:
            n = -(-ql // block)
            for head in range(c["hkv"] if n else 0):
                kept = mask[b, head * c["group"]:(head + 1) * c["group"], mr:mr + n].any(0).any(0)
                for j in (~kept[:-(-kl // block)]).nonzero().flatten().tolist()[:8]:
                    k[b, kb + j * block:kb + min((j + 1) * block, kl), head] = math.inf
                    v[b, kb + j * block:kb + min((j + 1) * block, kl), head] = math.nan
    poisoned = None
    if c["poison"]:  # one token's K or V: only rows that attend to it may notice
        b, _, ql, kb, kl, _ = poisoned = seqs[torch.randint(0, len(seqs), (1,), generator=g).item()]
        if kl == 0:
            poisoned = None
        else:
            token, head = (torch.randint(0, n, (1,), generator=g).item() for n in (kl, c["hkv"]))
            if ql > 1 and token % 2:
                token = kl - ql + token % ql  # where the causal mask cuts
            for t in (k, v) if token % 3 else (v,):
                t[b, kb + token, head, token % c["dim"]] = (math.nan, math.inf, -math.inf)[token % 3]
    scale = c["dim"] ** -0.5 if c["scale"] is None else c["scale"]
    tables = None
    if c["rope"] and c["dim"] % 2 == 0:
        tables = cd.RopeTables(max(s[4] for s in seqs), c["dim"], scaling=1.25)
    launch = kernels.plan(c["tier"], q, k, v, out, lse, words, block, scale, seqs, c["section"], tables)
    launch()
    torch.cuda.synchronize()
    noticed = torch.zeros(c["batch"], q_tokens, heads, dtype=torch.bool, device="cuda")  # rows that attend to poison
    if poisoned is not None:
        b, qb, ql, _, kl, mr = poisoned
        i = torch.arange(ql, device="cuda")
        sees = (i + kl - ql >= token)[None].expand(heads, -1)
        if mask is not None:
            sees = sees & mask[b][:, mr + i // block, token // block]
        sees = sees & (torch.arange(heads, device="cuda") // c["group"] == head)[:, None]
        noticed[b, qb:qb + ql] = sees.T
    for (b, qb, ql, _, _, _) in seqs:
        finite = torch.isfinite(out[b, qb:qb + ql].float()).all(-1)
        assert (finite | noticed[b, qb:qb + ql]).all(), "not finite"
        assert not (finite & noticed[b, qb:qb + ql]).any(), "poison lost"
        out[b, qb:qb + ql][noticed[b, qb:qb + ql]] = 0
    first, first_lse = whole.clone(), None if lse is None else lse.clone()
    launch()
    torch.cuda.synchronize()
    out[noticed] = 0
    assert torch.equal(first.nan_to_num(), whole.nan_to_num()), "not repeatable"
    assert lse is None or torch.equal(first_lse.nan_to_num(1), lse.nan_to_num(1)), "lse not repeatable"
    view[:, guard:guard + q_tokens] = 777
    assert (whole == 777).all(), "wrote outside the output"
    out = first if c["layout"] == "bshd" else first.transpose(1, 2)
    out = out[:, guard:guard + q_tokens, :, :c["dim"]]
    if tables is not None:
        for (b, qb, ql, _, kl, _) in seqs:
            q[b, qb:qb + ql] = tables.rotate(q[b, qb:qb + ql], kl - ql + torch.arange(ql, device="cuda"))
    ref, ref_lse = cd.reference(q, k.nan_to_num(0, 0, 0), v.nan_to_num(0, 0, 0), mask, block, seqs, scale)
    worst = 0.0
    for (b, qb, ql, _, _, _) in seqs:
        for at in range(qb, qb + ql, 64):
            x, y = out[b, at:min(at + 64, qb + ql)].float(), ref[b, at:min(at + 64, qb + ql)]
            y = y.masked_fill(noticed[b, at:min(at + 64, qb + ql)][..., None], 0)
            error = (x - y).norm().item() / max(y.norm().item(), 1e-6)
            assert error < TOLERANCE[c["dtype"]], f"relative error {error:.2e} at token {at}"
            worst = max(worst, error / TOLERANCE[c["dtype"]])
        if lse is not None:
            x, y = (t[b, :, qb:qb + ql].masked_fill(noticed[b, qb:qb + ql].T, 0) for t in (lse, ref_lse))
            assert torch.equal(x == -math.inf, y == -math.inf), "lse of empty rows"
            d = torch.where(y == -math.inf, 0, x - y).abs()
            # A rotated q that lies between two numbers of its type may become the other one.
            flip = 10 * abs(scale) * torch.finfo(c["dtype"]).eps if tables is not None else 0
            assert (d <= 1e-4 + flip + 1e-5 * y.abs().nan_to_num(0, 0, 0)).all(), f"lse off by {d.max().item():.2e}"
    return worst


def test(kernels, args):
    torch.backends.cuda.matmul.allow_tf32 = False
    tiers = [t for t, m in kernels.modules.items() if m is not None]
    dims = [int(x) for x in args.dims.split(",")]
    dtypes = [{v: k for k, v in DTYPE.items()}[x] for x in args.dtypes.split(",")]
    ran, worst = run_cases(args, lambda r: draw(r, args.small, tiers, dims, dtypes),
                           lambda c, g: run_case(kernels, c, g))
    print(f"{ran} cases right and repeatable; largest relative error of a row block {worst:.2f} of what is allowed")


# --- Speed

def bench(kernels, args):
    from torch.nn.attention import SDPBackend
    heads, hkv, d, block = args.heads, max(1, args.heads // 4), args.dim, args.block
    dtype = {v: k for k, v in DTYPE.items()}[args.dtype]
    flex = Flex() if args.flex else None
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {args.dtype}, B 1, Hq {heads}, Hkv {hkv}, "
          f"D {d}, causal, block {block}; TFLOP/s of kept blocks, diagonal ones counted half (ms)")
    torch.manual_seed(0)
    for n_tokens in [int(x) for x in args.sizes.split(",")]:
        n = n_tokens // block
        q, k, v = (torch.randn(1, n_tokens, h, d, device="cuda", dtype=dtype) for h in (heads, hkv, hkv))
        out, lse = torch.empty_like(q), torch.empty(1, heads, n_tokens, device="cuda")
        qt, kt, vt = (x.transpose(1, 2) for x in (q, k, v))
        for family, density in [("full", 1.0)] + [(f, float(x)) for f in ("structured", "random")
                                                  for x in args.densities.split(",") if x]:
            if family == "full":
                m = torch.ones(heads, n, n, dtype=torch.bool, device="cuda").tril_()
            else:
                m = getattr(masks, family)(n, heads, density, device="cuda")
            flops = 4.0 * block * block * d * (m.sum().item() - 0.5 * m.diagonal(dim1=-2, dim2=-1).sum().item())
            words = None if family == "full" else cd.pack_mask(m)[None]
            tiers = ["sm80"] if dtype.itemsize == 2 and kernels.modules["sm80"] is not None else ["plain"]
            run = {t: kernels.plan(t, q, k, v, out, lse, words, block) for t in tiers}
            if args.peers and family == "full":
                if dtype.itemsize == 2:
                    run["flash"] = peer(SDPBackend.FLASH_ATTENTION, qt, kt, vt)
                else:  # of f32, the memory-efficient one; it has no GQA
                    kr, vr = (x.repeat_interleave(heads // hkv, 1) for x in (kt, vt))
                    run["efficient"] = peer(SDPBackend.EFFICIENT_ATTENTION, qt, kr, vr, gqa=False)
                    if n_tokens <= 4096:
                        run["math"] = peer(SDPBackend.MATH, qt, kr, vr, gqa=False)
            if flex is not None:
                run["flex"] = flex(m, block, qt, kt, vt)
            ms = timed(run, args.rounds, args.budget)
            print(f"S {n_tokens:6d}  {family:10s} {density:4.2f}  s {masks.sharing(m, 2):4.2f}  "
                  + "  ".join(f"{name} {flops / t * 1e-9:5.1f} ({t:.3f})" for name, t in ms.items()), flush=True)
            del m, words, run
            torch.cuda.empty_cache()


def build(folder, name):
    major, minor = torch.cuda.get_device_capability()
    path = os.path.join(folder, name + ".cubin")
    problem = compile_cubin("nvcc", f"compute_{major}{minor}", f"sm_{major}{minor}",
                            os.path.join(here, "..", "cuda", name + ".cu"), path)
    if problem:
        sys.exit(problem)
    return path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["test", "bench"])
    parser.add_argument("--sm80", help="cubin of cuda/attend_sm80.cu; '-': leave it out")
    parser.add_argument("--plain", help="cubin of cuda/attend_plain.cu; '-': leave it out")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="short sequences only, for compute-sanitizer")
    parser.add_argument("--dims", default="64,96,128,256,40,80,192")
    parser.add_argument("--dtypes", default="bf16,f16,f32")
    parser.add_argument("--sizes", default="8192,32768,131072")
    parser.add_argument("--densities", default="0.5,0.2,0.1,0.05")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--dtype", default="bf16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=40, help="milliseconds of a contestant and round")
    parser.add_argument("--peers", action="store_true", help="scaled_dot_product_attention")
    parser.add_argument("--flex", action="store_true", help="FlexAttention with the same masks")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cubins = [None if given == "-" else given or build(folder, name)
                  for given, name in ((args.sm80, "attend_sm80"), (args.plain, "attend_plain"))]
        kernels = Kernels(*cubins)
        {"test": test, "bench": bench}[args.what](kernels, args)


if __name__ == "__main__":
    main()
