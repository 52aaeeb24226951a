#!/usr/bin/env python3
"""The CUDA pool kernel on this machine's GPU: random problems against double precision, then bytes per second.

    cuda_pool.py [--cases N] [--seed N] [--cubins FOLDER]

Needs torch and nvcc (or --cubins).
"""
import argparse
import ctypes
import faulthandler
import math
import os
import random
import sys
import tempfile

import torch

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [here, os.path.join(here, "..", "cuda")]
import cuda_driver as cd  # noqa: E402
from compile import compile_cubin  # noqa: E402

MAX, MIN, AVG = 1, 2, 4
HEADS = 4  # kPoolHeads of cuda/launch.h


class Sequence(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int32) for n in
                ("batch", "begin", "length", "position", "first_block", "first_row", "first_item")]


class Params(ctypes.Structure):
    _fields_ = [("x", ctypes.c_void_p), ("x_batch", ctypes.c_int64), ("x_token", ctypes.c_int64),
                ("x_head", ctypes.c_int64), ("rotated", ctypes.c_void_p), ("rotated_batch", ctypes.c_int64),
                ("rotated_token", ctypes.c_int64), ("rotated_head", ctypes.c_int64), ("pooled", ctypes.c_void_p),
                ("bits", ctypes.c_uint32), ("block", ctypes.c_int32), ("heads", ctypes.c_int32),
                ("items", ctypes.c_int32), ("sequences", ctypes.c_int32), ("sequence", ctypes.c_void_p),
                ("only", Sequence), ("coarse", ctypes.c_void_p), ("fine", ctypes.c_void_p)]


def tables(positions, half, theta, scaling):
    """(coarse, fine): cos and sin of positions 64 i times `scaling`, and of 0 .. 63, [i][half][2], f32 from double."""
    inv_freq = (theta ** (-torch.arange(half, dtype=torch.float64) / half)).float().double()
    def table(at, factor):
        a = at.double()[:, None] * inv_freq
        return (torch.stack([a.cos(), a.sin()], -1) * factor).float().cuda()
    return table(torch.arange(-(-positions // 64)) * 64, scaling), table(torch.arange(64), 1.0), inv_freq.cuda()


class Pool:
    def __init__(self, *cubins):
        """Of pool.cu, and of pool_rotate.cu if anything is to be rotated."""
        torch.zeros(1, device="cuda")
        self.modules = [ctypes.c_void_p() for _ in cubins]
        for module, cubin in zip(self.modules, cubins):
            cd.check(cd.cuda.cuModuleLoad(ctypes.byref(module), cubin.encode()))

    def plan(self, x, pooled, bits, block, sequences, rotated=None, rope=None, early=False):
        """sequences: list of (batch, begin, length, position, first_block, first_row). rope: (coarse, fine).
        early: see cuda_driver.launcher."""
        fn = ctypes.c_void_p()
        name = f"pool_{'' if rotated is None else 'rotate_'}{cd.DTYPE[x.dtype][0]}_{x.shape[3]}"
        module = self.modules[0 if rotated is None else 1]
        cd.check(cd.cuda.cuModuleGetFunction(ctypes.byref(fn), module, name.encode()))
        p, rows, items = Params(), [], 0
        for s in sequences:
            n = -(-s[2] // block)
            if n:
                rows.append(Sequence(*s, items))
            items += n
        p.x, (p.x_batch, p.x_token, p.x_head) = x.data_ptr(), x.stride()[:3]
        keep = [x, pooled, rotated, rope]
        if rotated is not None:
            p.rotated, (p.rotated_batch, p.rotated_token, p.rotated_head) = rotated.data_ptr(), rotated.stride()[:3]
            p.coarse, p.fine = rope[0].data_ptr(), rope[1].data_ptr()
        if pooled is not None:
            p.pooled = pooled.data_ptr()
        p.bits, p.block, p.heads, p.items, p.sequences, p.only = bits, block, x.shape[2], items, len(rows), rows[0]
        if len(rows) > 1:
            table = torch.frombuffer(bytearray(b"".join(bytes(r) for r in rows)), dtype=torch.uint8).cuda()
            p.sequence = table.data_ptr()
            keep.append(table)
        shared = 3 * 16384 if rotated is None else block * x.shape[3] * 4
        cd.check(cd.cuda.cuFuncSetAttribute(fn, 8, shared))
        return cd.launcher(fn, (items * -(-x.shape[2] // HEADS), 1), 128, shared, p, keep, early)


def rotate(x, position, inv_freq, scaling):
    """x [tokens, heads, dim] in double."""
    a = (position + torch.arange(x.shape[0], device=x.device)).double()[:, None] * inv_freq
    c, s = a.cos()[:, None] * scaling, a.sin()[:, None] * scaling
    u, v = x.chunk(2, -1)
    return torch.cat([u * c - v * s, v * c + u * s], -1)


def case(pool, r):
    dtype, dim, heads = r.choice([torch.bfloat16, torch.float16]), r.choice([64, 128]), r.choice([1, 2, 5, 8])
    block, bits, batch = r.choice([32, 64, 128]), r.randint(1, 7), 1
    rotating, pooling = r.random() < .7, r.random() < .9
    if not (rotating or pooling):
        rotating = True
    scaling, theta = r.choice([1.0, 0.7]), r.choice([1e4, 5e5])
    sequences, at, row = [], 0, 0
    if r.random() < .5:
        for _ in range(r.randint(1, 4)):
            n = r.choice([0, 1, 63, 64, 65, r.randint(1, 900)])
            blocks = -(-n // block)
            cached = r.randint(0, blocks) if r.random() < .3 else 0
            sequences.append((0, at, n, r.choice([0, 64, r.randint(0, 100000)]), cached, row))
            at, row = at + n, row + blocks - cached
    else:
        batch, n = r.randint(1, 3), r.choice([1, 31, 64, r.randint(1, 900)])
        sequences = [(b, 0, n, r.choice([0, 1000]), 0, b * -(-n // block)) for b in range(batch)]
        at, row = n, batch * -(-n // block)
    if at == 0:
        return
    shape = (batch, at, heads, dim)
    x = torch.randn(shape, device="cuda").to(dtype)
    if r.random() < .5:
        x = torch.randn(batch, heads, at, dim, device="cuda").to(dtype).transpose(1, 2)
    if r.random() < .3:
        x[0, r.randrange(at), r.randrange(heads), r.randrange(dim)] = math.nan
    rope = tables(max(s[3] + s[2] for s in sequences), dim // 2, theta, scaling)
    rotated = torch.full(shape, 777.0, device="cuda", dtype=dtype) if rotating else None
    kinds = [k for k in (MAX, MIN, AVG) if bits & k]
    pooled = torch.full((row + 1, heads, len(kinds) * dim), 777.0, device="cuda") if pooling else None
    pool.plan(x, pooled, bits, block, sequences, rotated, rope)()
    torch.cuda.synchronize()
    tolerance = 1e-2 if dtype is torch.bfloat16 else 1.5e-3
    for (b, begin, n, position, cached, first_row) in sequences:
        part = x[b, begin:begin + n].double()
        if rotating and n:
            want = rotate(part, position, rope[2], scaling)
            got = rotated[b, begin:begin + n].double()
            assert torch.equal(want.isnan(), got.isnan()), "rotated: NaN elsewhere"
            assert ((got - want).nan_to_num().abs() <= tolerance * (0.5 + want.nan_to_num().abs())).all(), "rotated"
        for i in range(cached, -(-n // block)):
            if not pooling:
                break
            tokens = part[i * block:(i + 1) * block]
            nan = tokens.isnan().any(0)
            want = torch.cat([torch.where(nan, math.nan, {MAX: tokens.amax(0), MIN: tokens.amin(0),
                                                          AVG: tokens.mean(0)}[k]) for k in kinds], -1)
            got = pooled[first_row + i - cached].double()
            assert torch.equal(want.isnan(), got.isnan()), "pooled: NaN elsewhere"
            assert ((got - want).nan_to_num().abs() <= 1e-5).all(), "pooled"
    if pooling:
        assert (pooled[row] == 777).all(), "wrote behind the pooled rows"


def bench(pool):
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")

    def median(f):
        times = []
        for _ in range(20):
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flush.zero_()
            a.record()
            f()
            b.record()
            b.synchronize()
            times.append(a.elapsed_time(b))
        return sorted(times)[10]
    big = torch.empty(1 << 29, dtype=torch.int8, device="cuda")
    copy = median(lambda: big[:1 << 28].copy_(big[1 << 28:]))
    rate = 2 * (1 << 28) / copy * 1e-6
    print(f"{torch.cuda.get_device_name()}: copy {rate:.0f} GB/s, read and written; q of 32, k of 8 heads, D 128, bf16")
    for tokens in (8192, 32768, 131072):
        q, k = (torch.randn(1, tokens, h, 128, device="cuda", dtype=torch.bfloat16) for h in (32, 8))
        blocks, rope = tokens // 64, tables(tokens, 64, 5e5, 1.0)
        pq, pk = (torch.empty(blocks, h, n * 128, device="cuda") for h, n in ((32, 1), (8, 3)))
        seq = [(0, 0, tokens, 0, 0, 0)]
        for what, rq, rk in (("pool", None, None), ("pool and rotate", torch.empty_like(q), torch.empty_like(k))):
            fq = pool.plan(q, pq, AVG, 64, seq, rq, rope)
            fk = pool.plan(k, pk, MAX | MIN | AVG, 64, seq, rk, rope)
            ms = median(lambda: (fq(), fk()))
            size = (q.nbytes + k.nbytes) * (1 if rq is None else 2) + pq.nbytes + pk.nbytes
            got = size / ms * 1e-6
            print(f"S {tokens:6d}  {what:16s} {ms:.3f} ms  {got:5.0f} GB/s  {got / rate:.2f} of copy", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cubins")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-bench", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cubins = []
        for name in ("pool", "pool_rotate"):
            cubins.append(os.path.join(args.cubins or folder, f"{name}.cubin"))
            problem = None if args.cubins else compile_cubin("nvcc", "compute_90", "sm_90",
                                                             os.path.join(here, "..", "cuda", f"{name}.cu"), cubins[-1])
            if problem:
                sys.exit(problem)
        pool, r = Pool(*cubins), random.Random(args.seed)
        torch.manual_seed(args.seed)
        for i in range(args.cases):
            faulthandler.dump_traceback_later(60, exit=True)
            try:
                case(pool, r)
            except Exception:
                print(f"case {i} of seed {args.seed}")
                raise
        faulthandler.cancel_dump_traceback_later()
        print(f"{args.cases} cases right")
        if not args.no_bench:
            bench(pool)


if __name__ == "__main__":
    main()
