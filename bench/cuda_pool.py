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
TERM_ROWS = 64  # kTermRows of cuda/launch_gate.h


class Sequence(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int32) for n in ("batch", "begin", "length", "position", "first_block", "first_row",
                                              "first_item", "gate_position")]


class Side(ctypes.Structure):
    _fields_ = [("x", ctypes.c_void_p), ("x_batch", ctypes.c_int64), ("x_token", ctypes.c_int64),
                ("x_head", ctypes.c_int64), ("rotated", ctypes.c_void_p), ("rotated_batch", ctypes.c_int64),
                ("rotated_token", ctypes.c_int64), ("rotated_head", ctypes.c_int64), ("pooled", ctypes.c_void_p),
                ("tiles", ctypes.c_int32), ("bits", ctypes.c_uint32), ("heads", ctypes.c_int32),
                ("items", ctypes.c_int32), ("sequences", ctypes.c_int32), ("sequence", ctypes.c_void_p),
                ("only", Sequence), ("coarse", ctypes.c_void_p), ("fine", ctypes.c_void_p),
                ("gate_coarse", ctypes.c_void_p), ("gate_fine", ctypes.c_void_p)]


class Params(ctypes.Structure):
    _fields_ = [("side", Side * 2), ("block", ctypes.c_int32), ("first", ctypes.c_int32)]


def tables(positions, half, theta, scaling):
    """(coarse, fine): cos and sin of positions 64 i times `scaling`, and of 0 .. 63, [i][half][2], f32 from double."""
    inv_freq = (theta ** (-torch.arange(half, dtype=torch.float64) / half)).float().double()
    def table(at, factor):
        a = at.double()[:, None] * inv_freq
        return (torch.stack([a.cos(), a.sin()], -1) * factor).float().cuda()
    return table(torch.arange(-(-positions // 64)) * 64, scaling), table(torch.arange(64), 1.0), inv_freq.cuda()


def kinds_of(bits):
    return [k for k in (MAX, MIN, AVG) if bits & k]


def new_terms(rows, heads, bits):
    """Memory for pooled vectors of 128 channels as terms of bf16 (cuda/launch_gate.h), poisoned."""
    tiles = -(-rows // TERM_ROWS)
    n = sum(3 if k == AVG else 1 for k in kinds_of(bits))
    return torch.full((heads, tiles, 2 * n, TERM_ROWS, 64), math.nan, dtype=torch.bfloat16, device="cuda")


def swizzle(t):
    """Sixteen bytes c of row r at place c ^ r % 8, and back."""
    row = torch.arange(TERM_ROWS, device="cuda")[:, None]
    place = (torch.arange(8, device="cuda")[None] ^ row % 8)[..., None].expand(-1, -1, 8)
    t = t.unflatten(-1, (8, 8))
    return t.gather(-2, place.expand(*t.shape[:3], -1, -1, -1)).flatten(-2)


def split_terms(pooled, bits):
    """What pool would leave of [row, heads, kinds * 128]; maxima and minima are rounded to bf16."""
    rows, heads, _ = pooled.shape
    terms, parts, at = new_terms(rows, heads, bits), [], 0
    for kind in kinds_of(bits):
        for half in range(2):
            left, own = pooled[:, :, at + 64 * half:at + 64 * half + 64], []
            for _ in range(3 if kind == AVG else 1):
                own.append(left.bfloat16())
                left = torch.where(own[-1].isfinite(), left - own[-1].float(), 0)
            parts += own[::-1]
        at += 128
    flat = torch.stack(parts, 2).permute(1, 0, 2, 3)  # [heads, row, part, 64]
    padded = torch.full((heads, terms.shape[1] * TERM_ROWS, *flat.shape[2:]), math.nan, dtype=flat.dtype, device="cuda")
    padded[:, :rows] = flat
    terms.copy_(swizzle(padded.unflatten(1, (-1, TERM_ROWS)).transpose(2, 3).contiguous()))
    return terms


def join_terms(terms, bits):
    """[row, heads, kinds * 128], in double, of what new_terms made."""
    t = swizzle(terms.double())
    out, at = [], 0
    for kind in kinds_of(bits):
        n = 3 if kind == AVG else 1
        halves = [t[:, :, at + half * n:at + (half + 1) * n].sum(2) for half in range(2)]
        out += halves
        at += 2 * n
    return torch.cat(out, -1).flatten(1, 2).transpose(0, 1)


class Job:
    """A side of PoolParams. sequences: list of (batch, begin, length, position, first_block, first_row[, position in
    blocks]). rope, gate_rope: (coarse, fine). pooled: f32, or what new_terms made."""

    def __init__(self, x, pooled, bits, block, sequences, rotated=None, rope=None, gate_rope=None):
        s, rows, items = Side(), [], 0
        for q in sequences:
            n = -(-q[2] // block)
            if n:
                rows.append(Sequence(*q[:6], items, q[6] if len(q) > 6 else 0))
            items += n
        s.x, (s.x_batch, s.x_token, s.x_head) = x.data_ptr(), x.stride()[:3]
        self.keep = [x, pooled, rotated, rope, gate_rope]
        if rotated is not None:
            s.rotated, (s.rotated_batch, s.rotated_token, s.rotated_head) = rotated.data_ptr(), rotated.stride()[:3]
            s.coarse, s.fine = rope[0].data_ptr(), rope[1].data_ptr()
        if gate_rope is not None:
            s.gate_coarse, s.gate_fine = gate_rope[0].data_ptr(), gate_rope[1].data_ptr()
        if pooled is not None:
            s.pooled = pooled.data_ptr()
            if pooled.dtype is torch.bfloat16:
                s.tiles = pooled.shape[1]
        s.bits, s.heads, s.items, s.sequences = bits, x.shape[2], items, len(rows)
        if rows:
            s.only = rows[0]
        if len(rows) > 1:
            table = torch.frombuffer(bytearray(b"".join(bytes(r) for r in rows)), dtype=torch.uint8).cuda()
            s.sequence = table.data_ptr()
            self.keep.append(table)
        self.side, self.block, self.rotates, self.dtype, self.dim = s, block, rotated is not None, x.dtype, x.shape[3]


class Pool:
    def __init__(self, *cubins):
        """Of pool.cu, and of pool_rotate.cu if anything is to be rotated."""
        torch.zeros(1, device="cuda")
        self.modules = [ctypes.c_void_p() for _ in cubins]
        for module, cubin in zip(self.modules, cubins):
            cd.check(cd.cuda.cuModuleLoad(ctypes.byref(module), cubin.encode()))

    def launch(self, *jobs, early=False):
        """One or two jobs of one type, dim and block in one launch. early: see cuda_driver.launcher."""
        fn, p = ctypes.c_void_p(), Params()
        rotates = any(j.rotates for j in jobs)
        name = f"pool_{'rotate_' if rotates else ''}{cd.DTYPE[jobs[0].dtype][0]}_{jobs[0].dim}"
        cd.check(cd.cuda.cuModuleGetFunction(ctypes.byref(fn), self.modules[int(rotates)], name.encode()))
        blocks = [j.side.items * j.side.heads for j in jobs]
        for i, j in enumerate(jobs):
            p.side[i] = j.side
        p.block, p.first = jobs[0].block, blocks[0]
        return cd.launcher(fn, (sum(blocks), 1), 128, 0, p, [j.keep for j in jobs], early)

    def plan(self, x, pooled, bits, block, sequences, rotated=None, rope=None, early=False):
        return self.launch(Job(x, pooled, bits, block, sequences, rotated, rope), early=early)


def rotate(x, position, inv_freq, scaling):
    """x [tokens, heads, dim] in double."""
    a = (position + torch.arange(x.shape[0], device=x.device)).double()[:, None] * inv_freq
    c, s = a.cos()[:, None] * scaling, a.sin()[:, None] * scaling
    u, v = x.chunk(2, -1)
    return torch.cat([u * c - v * s, v * c + u * s], -1)


def random_job(r, dtype, dim, block, side):
    """A job and a function that checks what it did; or None."""
    heads, bits, batch = r.choice([1, 2, 5, 8]), r.randint(1, 7), 1
    rotating, pooling = r.random() < .5, r.random() < .9
    if not (rotating or pooling):
        rotating = True
    scaling, theta = r.choice([1.0, 0.7]), r.choice([1e4, 5e5])
    sequences, at, row = [], 0, 0
    if r.random() < .5:
        for _ in range(r.randint(1, 4)):
            n = r.choice([0, 1, 63, 64, 65, r.randint(1, 900)])
            blocks = -(-n // block)
            cached = r.randint(0, blocks) if rotating and r.random() < .3 else 0
            sequences.append((0, at, n, r.choice([0, 64, r.randint(0, 100000)]), cached, row, r.randint(0, 1000)))
            at, row = at + n, row + blocks - cached
    else:
        batch, n = r.randint(1, 3), r.choice([1, 31, 64, r.randint(1, 900)])
        sequences = [(b, 0, n, r.choice([0, 1000]), 0, b * -(-n // block), 5) for b in range(batch)]
        at, row = n, batch * -(-n // block)
    if at == 0:
        return None
    shape = (batch, at, heads, dim)
    x = torch.randn(shape, device="cuda").to(dtype)
    if r.random() < .5:
        x = torch.randn(batch, heads, at, dim, device="cuda").to(dtype).transpose(1, 2)
    if r.random() < .3:
        x[0, r.randrange(at), r.randrange(heads), r.randrange(dim)] = math.nan
    rope = tables(max(s[3] + s[2] for s in sequences), dim // 2, theta, scaling)
    rotated = torch.full(shape, 777.0, device="cuda", dtype=dtype) if rotating else None
    kinds = kinds_of(bits)
    as_terms = pooling and dtype is torch.bfloat16 and dim == 128 and r.random() < .4
    turned = pooling and not as_terms and len(kinds) == 1 and r.random() < .5
    gate_rope = tables(2000, dim // 2, theta, scaling) if turned else None
    pooled = None
    if as_terms:
        pooled = new_terms(row, heads, bits)
    elif pooling:
        pooled = torch.full((row + 1, heads, len(kinds) * dim), 777.0, device="cuda")
    job = Job(x, pooled, bits, block, sequences, rotated, rope, gate_rope)
    if job.side.items == 0:
        return None
    tolerance = 1e-2 if dtype is torch.bfloat16 else 1.5e-3

    def check():
        result = join_terms(pooled, bits) if as_terms else pooled
        for (b, begin, n, position, cached, first_row, gate_position) in sequences:
            part = x[b, begin:begin + n].double()
            if rotating and n:
                want = rotate(part, position, rope[2], scaling)
                got = rotated[b, begin:begin + n].double()
                assert torch.equal(want.isnan(), got.isnan()), f"{side} rotated: NaN elsewhere"
                assert ((got - want).nan_to_num().abs() <= tolerance * (0.5 + want.nan_to_num().abs())).all(), \
                    f"{side} rotated"
            for i in range(cached, -(-n // block)):
                if not pooling:
                    break
                tokens = part[i * block:(i + 1) * block]
                nan = tokens.isnan().any(0)
                want = torch.cat([torch.where(nan, math.nan, {MAX: tokens.amax(0), MIN: tokens.amin(0),
                                                              AVG: tokens.mean(0)}[k]) for k in kinds], -1)
                if turned:
                    want = rotate(want[None], gate_position + i, gate_rope[2], scaling)[0]
                got = result[first_row + i - cached].double()
                assert torch.equal(want.isnan(), got.isnan()), f"{side} pooled: NaN elsewhere"
                assert ((got - want).nan_to_num().abs() <= 1e-5).all(), f"{side} pooled"
        if as_terms:
            assert result[row:].isnan().all(), f"{side}: wrote behind the pooled rows"
        elif pooling:
            assert (pooled[row] == 777).all(), f"{side}: wrote behind the pooled rows"
    return job, check


def case(pool, r):
    dtype, dim, block = r.choice([torch.bfloat16, torch.float16]), r.choice([64, 128]), r.choice([32, 64, 128])
    both = [random_job(r, dtype, dim, block, side) for side in r.choice([("one",), ("first", "second")])]
    both = [x for x in both if x is not None]
    if not both:
        return
    pool.launch(*(job for job, _ in both))()
    torch.cuda.synchronize()
    for _, check in both:
        check()


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
        pq, pk = torch.empty(blocks, 32, 128, device="cuda"), torch.empty(blocks, 8, 384, device="cuda")
        terms, gate_rope = new_terms(blocks, 8, 7), tables(blocks, 64, 5e5, 1.0)
        seq, rq, rk = [(0, 0, tokens, 0, 0, 0)], torch.empty_like(q), torch.empty_like(k)

        def show(what, f, size):
            ms = median(f)
            got = size / ms * 1e-6
            print(f"S {tokens:6d}  {what:32s} {ms:.4f} ms  {got:5.0f} GB/s  {got / rate:.2f} of copy", flush=True)
        read, made = q.nbytes + k.nbytes, pq.nbytes + pk.nbytes
        turned = Job(q, pq, AVG, 64, seq, gate_rope=gate_rope)
        fq, fk = pool.plan(q, pq, AVG, 64, seq), pool.plan(k, pk, 7, 64, seq)
        show("pool, two launches", lambda: (fq(), fk()), read + made)
        show("pool", pool.launch(Job(q, pq, AVG, 64, seq), Job(k, pk, 7, 64, seq)), read + made)
        show("pool: q turned, k as terms", pool.launch(turned, Job(k, terms, 7, 64, seq)),
             read + pq.nbytes + terms.nbytes)
        show("k pooled and rotated, q pooled", pool.launch(turned, Job(k, terms, 7, 64, seq, rk, rope)),
             read + rk.nbytes + pq.nbytes + terms.nbytes)
        show("both pooled and rotated",
             pool.launch(Job(q, pq, AVG, 64, seq, rq, rope), Job(k, pk, 7, 64, seq, rk, rope)), 2 * read + made)


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
