#!/usr/bin/env python3
"""The CUDA kernels of the gate on this machine's GPU: random problems against double precision, then times.

    cuda_gate.py [--cases N] [--seed N] [--cubins FOLDER]

Needs torch and nvcc (or --cubins with what nvcc made of cuda/*.cu).
"""
import argparse
import faulthandler
import math
import os
import random
import sys
import tempfile

import torch

here = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [here, os.path.join(here, "..", "cuda")]
import cuda_pool as cp  # noqa: E402
from compile import compile_cubin  # noqa: E402
from gate_kernels import (DIAGONAL, FIRST, Module, Project, ProjectTerms, Score, SelectRows)  # noqa: E402


def close(got, want, tolerance, what):
    got = got.double()
    assert torch.equal(want.isnan(), got.isnan()), f"{what}: NaN elsewhere"
    finite = want.isfinite()
    assert torch.equal(torch.where(finite, 0, want).nan_to_num(nan=7), torch.where(finite, 0, got).nan_to_num(nan=7)), \
        f"{what}: infinite elsewhere"
    error = torch.where(finite, (got - want).abs(), 0).max().item() if want.numel() else 0
    scale = torch.where(finite, want.abs(), 0).max().item() if want.numel() else 0
    assert error <= tolerance * scale + 1e-35, f"{what}: error {error:.2e} of {scale:.2e}"
    return error / max(scale, 1e-35)


def case_project(project, r, worst):
    weights = r.choice([torch.bfloat16, torch.float16, torch.float32, None])
    out = r.choice([64, 128, 128, 32, 80, 30])
    dim = r.choice([64, 128, out]) if weights is not None else out
    pools, group = (r.randint(1, 3), r.randint(1, 4)) if weights is not None else (1, 1)
    heads = r.randint(1, 3)
    n = r.choice([1, 2, 3])
    sequences, pr, gr = [], r.randint(0, 2), r.randint(0, 3)
    for _ in range(n):
        blocks = r.choice([0, 1, 31, 32, 33, r.randint(1, 200)])
        sequences.append((blocks, pr, gr, r.randint(0, 5)))
        pr, gr = pr + blocks, gr + blocks + r.randint(0, 2)
    if all(s[0] == 0 for s in sequences):
        return
    size = r.choice([1.0, 1.0, 1e-4, 300.0])
    pooled = torch.randn(pr, heads, pools * dim, device="cuda") * size
    if r.random() < .3:
        pooled[r.randrange(pr), 0, 0] = math.nan
    weight = None if weights is None else (torch.randn(heads * group, pools * dim, out, device="cuda") * .05).to(weights)
    gate = torch.full((gr + 1, heads * group, out), 777.0, device="cuda")
    rope = None
    if r.random() < .8:
        rope = cp.tables(300, out // 2, 1e4, 1.1)
    project.plan(pooled, weight, gate, sequences, rope)()
    torch.cuda.synchronize()
    want = torch.full(gate.shape, 777.0, device="cuda", dtype=torch.float64)
    for (blocks, prow, grow, position) in sequences:
        x = pooled[prow:prow + blocks].double().repeat_interleave(group, 1)
        y = x if weight is None else torch.einsum("rhi,hio->rho", x, weight.double())
        if rope is not None:
            y = cp.rotate(y, position, rope[2], 1.1)
        want[grow:grow + blocks] = y
    touched = torch.zeros(gate.shape[0], dtype=torch.bool, device="cuda")
    for (blocks, _, grow, _) in sequences:
        touched[grow:grow + blocks] = True
    assert (gate[~touched] == 777).all(), "wrote elsewhere"
    worst["project"] = max(worst.get("project", 0), close(gate[touched], want[touched], 2e-6, f"project {weights}"))


def case_project_terms(project, r, worst):
    bits, heads, group = r.randint(1, 7), r.randint(1, 3), r.randint(1, 4)
    kinds = cp.kinds_of(bits)
    sequences, pr, gr = [], r.choice([0, 0, 5, 64, 100]), r.randint(0, 3)
    for _ in range(r.choice([1, 1, 2, 4])):
        blocks = r.choice([0, 1, 63, 64, 65, 128, 129, r.randint(1, 700)])
        sequences.append((blocks, pr, gr, r.randint(0, 300)))
        pr, gr = pr + blocks, gr + blocks + r.randint(0, 2)
    if all(s[0] == 0 for s in sequences):
        return
    pooled = torch.randn(pr, heads, len(kinds) * 128, device="cuda") * r.choice([1.0, 1.0, 1e-4, 300.0])
    for i, kind in enumerate(kinds):
        if kind != cp.AVG:
            part = pooled[:, :, 128 * i:128 * i + 128]
            part.copy_(part.bfloat16().float())
    if r.random() < .3:
        pooled[r.randrange(pr), 0, 0] = r.choice([math.nan, math.inf, -math.inf])
    weight = (torch.randn(heads * group, len(kinds) * 128, 128, device="cuda") * .05).bfloat16()
    gate = torch.full((gr + 1, heads * group, 128), 777.0, device="cuda")
    rope = cp.tables(1100, 64, 1e4, 1.1) if r.random() < .8 else None
    rows = r.choice([None, 64, 128])
    project.plan(cp.split_terms(pooled, bits), bits, weight, gate, sequences, rope, rows=rows)()
    torch.cuda.synchronize()
    touched = torch.zeros(gate.shape[0], dtype=torch.bool, device="cuda")
    for (blocks, prow, grow, position) in sequences:
        x = pooled[prow:prow + blocks].double().repeat_interleave(group, 1)
        want = torch.einsum("rhi,hio->rho", x, weight.double())
        if rope is not None:
            want = cp.rotate(want, position, rope[2], 1.1)
        error = close(gate[grow:grow + blocks], want, 2e-6, f"project terms, {rows} rows")
        worst["project terms"] = max(worst.get("project terms", 0), error)
        touched[grow:grow + blocks] = True
    assert (gate[~touched] == 777).all(), "wrote elsewhere"


def make_batch(r, block):
    sequences, batch = [], 1
    q_row, k_row, mask_row = r.randint(0, 2), r.randint(0, 2), 0
    count = r.randint(1, 3)
    packed = r.random() < .6
    for i in range(count):
        q_len = r.choice([1, block - 1, block, block + 1, r.randint(1, 20 * block), r.randint(1, 150 * block)])
        offset = r.choice([0, 0, block, 7 * block, 40 * block])
        rows = -(-q_len // block)
        keys = -(-(q_len + offset) // block)
        dense = r.choice([rows, max(0, rows - 2), max(0, rows - 1), 0 if r.random() < .1 else rows])
        if packed:
            sequences.append((0, mask_row, q_len, offset, rows, 0, q_row, k_row, dense))
            mask_row += rows
        else:
            sequences.append((i, 0, q_len, offset, rows, 0, q_row, k_row, dense))
            mask_row = max(mask_row, rows)
        q_row, k_row = q_row + rows, k_row + keys + r.randint(0, 2)
    return sequences, 1 if packed else count, mask_row, q_row, k_row


def case_score(score, r, worst):
    block, dim = r.choice([32, 64, 128]), r.choice([128, 128, 64, 30, 80, 256, 132])
    sequences, batch, mask_rows, q_rows, k_rows = make_batch(r, block)
    k_heads, group = r.randint(1, 3), r.randint(1, 4)
    q_heads = k_heads * group
    size = r.choice([1.0, 1.0, 3.0, 1e-20, 1e3])
    q = torch.randn(q_rows, q_heads, dim, device="cuda") * size
    k = torch.randn(k_rows + 1, k_heads, dim, device="cuda") * r.choice([1.0, 2.0])
    if r.random() < .15:
        q[:], k[:] = 0.7, 0.7
    k[k_rows:] = math.nan
    if r.random() < .25:
        q[r.randrange(q_rows), 0] = math.nan
        k[r.randrange(k_rows), 0, 3] = math.inf
        k[r.randrange(k_rows), 0, 5] = math.nan
        q[r.randrange(q_rows), r.randrange(q_heads), 5] = math.inf
    longest = max(-(-(s[2] + s[3]) // block) for s in sequences)
    cols, words = longest + r.choice([0, 1, 70]), -(-longest // 32) + r.choice([0, 1, 5])
    method = r.choice(["score_logits", "score_probs", "select_threshold", "select_threshold"])
    col_tiles = r.choice([0, 1, 3])
    rows = r.choice({"score_logits": [32, 64], "score_probs": [32]}.get(method, [32, 64, 128]))
    if dim > 128 or dim % 4:
        rows = 32
    stash = r.choice([0, 1, 3, 5])
    hopper = score.sm90 is not None and dim in (64, 128) and method == "select_threshold" and r.random() < .7
    if hopper:
        rows, stash = r.choice([64, 128]), 0
    if rows == 128:
        stash = min(stash, 3)
    scores = torch.full((batch, q_heads, mask_rows, cols), 777.0, device="cuda") if "score" in method else None
    mask = torch.full((batch, q_heads, mask_rows, words), 0x55555555, dtype=torch.int32, device="cuda") \
        if "select" in method else None
    threshold = r.choice([0.0, 5e-3, 0.02, 0.15, 0.4, 1.0])
    flags, stats = r.choice([0, 0, FIRST, DIAGONAL, 3]), torch.tensor([5, 1 << 33, 7], device="cuda")
    before = stats.clone()
    words = -(-longest // 32)
    clusters = [c for c in (1, 2, 4, 8) if c * 8 >= words] if score.cluster is not None else []
    if hopper and clusters and r.random() < .7:
        score.plan_cluster(q, k, block, sequences, r.choice(clusters), r.randint(1, 30), mask=mask,
                           threshold=threshold, flags=flags, stats=stats)()
    elif hopper:
        score.plan_sm90(score.sm90, q, k, block, sequences, rows, mask=mask, threshold=threshold,
                        flags=flags, stats=stats)()
    else:
        score.plan(method, q, k, block, sequences, rows, stash, scores, mask, threshold, flags, stats,
                   col_tiles=col_tiles if method == "score_logits" else 0)()
    torch.cuda.synchronize()
    written = torch.zeros(batch, mask_rows, dtype=torch.bool, device="cuda")
    kept = causal_sum = fallback_low = fallback_high = 0
    for (b, mrow, q_len, offset, n, _, qr, kr, dense) in sequences:
        written[b, mrow:mrow + n] = True
        keys = -(-(q_len + offset) // block)
        i = torch.arange(n, device="cuda")
        causal = (offset + torch.clamp((i + 1) * block, max=q_len) + block - 1) // block
        inside = torch.arange(keys, device="cuda")[None] < causal[:, None]
        a = q[qr:qr + n].double().transpose(0, 1)
        c = k[kr:kr + keys].double().transpose(0, 1).repeat_interleave(group, 0)
        logits = a @ c.transpose(1, 2) * dim ** -0.5
        odd = ~logits.isfinite()
        if odd.any():  # what the matrix product makes of these is its affair; sum in order
            h, x, y = odd.nonzero(as_tuple=True)
            logits[h, x, y] = (a[h, x] * c[h, y]).sum(-1) * dim ** -0.5
        logits = torch.where(inside[None], logits, -math.inf)
        clean = torch.where(logits.isnan(), -math.inf, logits)
        top = clean.amax(-1, keepdim=True)
        e = torch.where(top == math.inf, (clean == math.inf).double(),
                        torch.exp(clean - torch.where(top == -math.inf, 0, top)))
        total = e.sum(-1, keepdim=True)
        probs = e / torch.where(total == 0, 1, total)
        if scores is not None:
            got = scores[b, :, mrow:mrow + n]
            outside = -math.inf if method == "score_logits" else 0
            assert (got[:, :, keys:] == outside).all(), "outside"
            want = logits if method == "score_logits" else probs
            biggest = clean.abs().nan_to_num(0, 0, 0).max().item()
            worst[method] = max(worst.get(method, 0), close(
                got[:, :, :keys], want, 2e-6 if method == "score_logits" else max(2e-6, 4e-7 * biggest), method))
        else:
            got = mask[b, :, mrow:mrow + n].long() & 0xffffffff
            bits = (got[..., None] >> torch.arange(32, device="cuda") & 1).bool().flatten(2)
            assert not bits[:, :, keys:].any(), "bits behind"
            bits = bits[:, :, :keys]
            assert not (bits & ~inside[None]).any(), "bits outside the triangle"
            biggest = clean.abs().nan_to_num(0, 0, 0).amax(-1, keepdim=True)
            eps = 1e-5 * (1 + biggest) * max(threshold, 1e-30) + 1e-36
            must, may = probs > threshold + eps, (probs > threshold - eps) & (probs > 2**-151)
            forced = torch.zeros_like(must)
            if flags & FIRST:
                forced[:, :, 0] = True
            if flags & DIAGONAL:
                forced[:, i, causal - 1] = True
            forced[:, dense:] |= inside[None, dense:]
            must, may = must | forced, may | forced
            count = bits.sum(-1)
            only_diagonal = (count == 1) & bits[:, i, causal - 1]
            fell = only_diagonal & ~must.any(-1)
            assert not (must & ~bits).any(), "missing"
            assert not (bits & ~may & ~fell[..., None]).any(), "wrong"
            assert (count > 0).all(), "empty"
            fallback_low += (~may.any(-1)).sum().item()
            fallback_high += (~must.any(-1)).sum().item()
            kept += count.sum().item()
            causal_sum += causal.sum().item() * q_heads
    if mask is not None:
        got = (stats - before).tolist()
        assert got[0] == kept and got[1] == causal_sum, f"stats {got}, {kept}, {causal_sum}"
        assert fallback_low <= got[2] <= fallback_high, f"fallback {fallback_low} {got[2]} {fallback_high}"
    x = scores if scores is not None else mask
    assert (x.transpose(1, 2)[~written] == (777 if scores is not None else 0x55555555)).all(), "wrote elsewhere"


def case_rows(select, r, worst):
    block = r.choice([32, 64, 128])
    sequences, batch, mask_rows, _, _ = make_batch(r, block)
    heads = r.randint(1, 3)
    longest = max(-(-(s[2] + s[3]) // block) for s in sequences)
    cols, words = longest + r.choice([0, 1]), -(-longest // 32) + r.choice([0, 1])
    scores = torch.randn(batch, heads, mask_rows, cols, device="cuda") * r.choice([1.0, 1e-30, 1e30])
    kind = r.choice(["normal", "normal", "equal", "few", "outlier", "odd"])
    if kind == "equal":
        scores[:] = 0.25
    if kind == "few":
        scores = (scores.sign() * torch.randint(0, 3, scores.shape, device="cuda")).float()
    if kind == "outlier":
        scores[..., 0] = 3e38
    if kind == "odd":
        scores[..., ::3] = -math.inf
        scores[..., 1::5] = math.nan
        scores[..., 2::50] = math.inf
    mask = torch.full((batch, heads, mask_rows, words), 0x55555555, dtype=torch.int32, device="cuda")
    best, threshold = r.choice([0, 1, 2, 5, 17, 40, 200]), r.choice([0.0, 0.5, -1.0, 100.0])
    dense_only = r.random() < .1
    if dense_only:
        sequences = [s[:8] + (0,) for s in sequences]
    flags, stats = r.choice([0, 0, FIRST, DIAGONAL, 3]), torch.tensor([5, 1 << 33, 7], device="cuda")
    before = stats.clone()
    select.plan(None if dense_only else scores, block, sequences, mask, threshold, best, flags, stats)()
    torch.cuda.synchronize()
    host, kept, causal_sum, fallback = scores.cpu(), 0, 0, 0
    got = ((mask.long() & 0xffffffff)[..., None] >> torch.arange(32, device="cuda") & 1).bool().flatten(3).cpu()
    for (b, mrow, q_len, offset, n, _, _, _, dense) in sequences:
        for h in range(heads):
            for i in range(n):
                causal = (offset + min((i + 1) * block, q_len) + block - 1) // block
                want = torch.zeros(words * 32, dtype=torch.bool)
                x = host[b, h, mrow + i, :causal]
                if i >= dense:
                    want[:causal] = True
                elif best:
                    clean = torch.where(x.isnan(), -math.inf, x)
                    order = torch.sort(clean, descending=True, stable=True).indices[:best]
                    want[order[clean[order] > -math.inf]] = True
                else:
                    want[:causal] = x > threshold
                want[0] |= bool(flags & FIRST)
                want[causal - 1] |= bool(flags & DIAGONAL)
                if not want.any():
                    want[causal - 1] = True
                    fallback += 1
                kept, causal_sum = kept + int(want.sum()), causal_sum + causal
                assert torch.equal(want, got[b, h, mrow + i]), f"row {i} {kind} best {best}"
    assert (stats - before).tolist() == [kept, causal_sum, fallback], "stats"


def bench(modules, args):
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")

    def median(f, n=15):
        for _ in range(3):
            f()
        times = []
        for _ in range(n):
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            flush.zero_()
            a.record()
            f()
            b.record()
            b.synchronize()
            times.append(a.elapsed_time(b))
        return sorted(times)[n // 2]
    if args.profile:
        for tokens, rows in ((32768, 32), (32768, 64), (131072, 128)):
            n = tokens // 64
            gq, gk = (torch.randn(n, 32, 128, device="cuda") for _ in range(2))
            pk, w = torch.randn(n, 8, 384, device="cuda"), torch.randn(32, 384, 128, device="cuda").bfloat16()
            mask = torch.empty(1, 32, n, -(-n // 32), dtype=torch.int32, device="cuda")
            stats = torch.zeros(3, dtype=torch.int64, device="cuda")
            Project(modules["project"]).plan(pk, w, gk, [(n, 0, 0, 0)], cp.tables(n, 64, 1e4, 1.0))()
            Score(modules["score"]).plan("select_threshold", gq, gk, 64, [(0, 0, tokens, 0, n, 0, 0, 0, n - 2)], rows,
                                         mask=mask, threshold=2.5 / n, stats=stats)()
        torch.cuda.synchronize()
        return
    project, pool = Project(modules["project"]), cp.Pool.__new__(cp.Pool)
    project_terms = ProjectTerms(modules["project_sm90"])
    score = Score(modules["score"], modules["select_sm90"], modules["select_cluster"])
    pool.modules = [modules["pool"].module]
    big = torch.empty(1 << 29, dtype=torch.int8, device="cuda")
    copy = median(lambda: big[:1 << 28].copy_(big[1 << 28:]))
    rate = 2 * (1 << 28) / copy * 1e-6
    print(f"{torch.cuda.get_device_name()}: copy {rate:.0f} GB/s, read and written")
    for tokens in (8192, 32768, 131072, 262144):
        q, k = (torch.randn(1, tokens, h, 128, device="cuda", dtype=torch.bfloat16) for h in (32, 8))
        n = tokens // 64
        pq, pk = torch.empty(n, 32, 128, device="cuda"), torch.empty(n, 8, 384, device="cuda")
        gq, gk = torch.empty(n, 32, 128, device="cuda"), torch.empty(n, 32, 128, device="cuda")
        w = (torch.randn(32, 384, 128, device="cuda") * .1).bfloat16()
        rope = cp.tables(n, 64, 5e5, 1.0)
        mask = torch.empty(1, 32, n, -(-n // 32), dtype=torch.int32, device="cuda")
        stats = torch.zeros(3, dtype=torch.int64, device="cuda")
        all_tokens, terms = [(0, 0, tokens, 0, 0, 0)], cp.new_terms(n, 8, 7)

        def vectors(q, k, gq, gk, terms, w, early):
            """What the library launches: pool of both, q turned, and k projected."""
            turned = cp.Job(q, gq, cp.AVG, 64, all_tokens, gate_rope=rope)
            return [pool.launch(turned, cp.Job(k, terms, 7, 64, all_tokens), early=early),
                    project_terms.plan(terms, 7, w, gk, [(n, 0, 0, 0)], rope, early=early)]
        both, jt = vectors(q, k, gq, gk, terms, w, False)
        early = vectors(q, k, gq, gk, terms, w, True)
        jq = project.plan(pq, None, gq, [(n, 0, 0, 0)], rope)
        jk = project.plan(pk, w, gk, [(n, 0, 0, 0)], rope)
        floor = (q.nbytes + k.nbytes) / rate * 1e-6
        line = f"S {tokens:6d}  floor {floor:.3f}  pool {median(both):.4f}  project {median(jt):.4f}  " \
               f"pool and project {median(lambda: (both(), jt())):.4f} " \
               f"early {median(lambda: [f() for f in early]):.4f}  project f32: q {median(jq):.4f}  k {median(jk):.4f}"
        gq.normal_(), gk.normal_()
        for rows, stash in ((32, min(8, -(-n // 64))), (128, 0)):
            s = score.plan("select_threshold", gq, gk, 64, [(0, 0, tokens, 0, n, 0, 0, 0, n - 2)], rows,
                           min(stash, -(-n // 64)), mask=mask, threshold=2.5 / n, stats=stats)
            line += f"  select {rows},{stash} {median(s):.4f}"
        for rows in (64, 128):
            s = score.plan_sm90(modules["select_sm90"], gq, gk, 64, [(0, 0, tokens, 0, n, 0, 0, 0, n - 2)], rows,
                                mask=mask, threshold=2.5 / n, stats=stats)
            line += f"  sm90 {rows} {median(s):.4f}"
        if n <= 2048:
            s = score.plan_cluster(gq, gk, 64, [(0, 0, tokens, 0, n, 0, 0, 0, n - 2)], mask=mask, threshold=2.5 / n,
                                   stats=stats)
            line += f"  cluster {median(s):.4f}"
        stats.zero_()
        s()
        line += f"  density {stats[0].item() / stats[1].item():.3f}"
        print(line, flush=True)
        line = f"S {tokens:6d}  pool, project, select by passes of KV heads:"
        want = None

        def select(*what, **rest):
            return score.plan_cluster(*what, **rest) if n <= 2048 else \
                score.plan_sm90(modules["select_sm90"], *what, 128, **rest)
        for heads, early in ((8, False), (8, True), (4, True), (2, True)):
            steps = []
            for first in range(0, 8, heads):
                o, c = slice(4 * first, 4 * (first + heads)), slice(first, first + heads)
                a, b = (t.flatten()[:n * 4 * heads * 128].view(n, 4 * heads, 128) for t in (gq, gk))
                steps += vectors(q[:, :, o], k[:, :, c], a, b, terms[:heads], w[o], early)
                steps += [select(a, b, 64, [(0, 0, tokens, 0, n, 0, 0, 0, n - 2)], mask=mask[:, o], threshold=2.5 / n,
                                 stats=stats, early=early)]

            def whole():
                for f in steps:
                    f()
            for t in (terms, gq, gk):
                t.fill_(math.nan)
            mask.fill_(0x55555555)
            whole()
            want = mask.clone() if want is None else want
            assert torch.equal(mask, want), "passes that overlap select something else"
            g = torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                whole()
                stream.synchronize()
                with torch.cuda.graph(g, stream=stream):
                    whole()
            line += f"  {heads}{' early' if early else ''} {median(whole):.3f} graph {median(g.replay):.3f}"
            assert torch.equal(mask, want), "passes that overlap select something else"
        print(line, flush=True)
        rows = [(0, 0, tokens, 0, n, 0, 0, 0, n - 2)]
        if n <= 512:  # ratio and budget from logits, all in one band
            logits = torch.empty(1, 32, n, n, device="cuda")
            a = score.plan("score_logits", gq, gk, 64, rows, 64, scores=logits, col_tiles=4, early=True)
            b = SelectRows(modules["select"]).plan(logits, 64, rows, mask, 0.0, n // 10, 0, stats, early=True)
            print(f"S {tokens:6d}  logits {median(a):.4f}  best of them {median(b):.4f}  both {median(lambda: (a(), b())):.4f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cubins")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-bench", action="store_true")
    parser.add_argument("--profile", action="store_true", help="launch a few kernels once, for a profiler")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        modules = {}
        for name, arch in (("pool", "90"), ("project", "90"), ("project_sm90", "90a"), ("score", "90"), ("select", "90"),
                           ("select_sm90", "90a"), ("select_cluster", "90a")):
            cubin = os.path.join(args.cubins or folder, f"{name}.cubin")
            problem = None if args.cubins else compile_cubin("nvcc", "compute_" + arch, "sm_" + arch,
                                                             os.path.join(here, "..", "cuda", f"{name}.cu"), cubin)
            if problem:
                sys.exit(problem)
            modules[name] = Module(cubin)
    project, score, worst = Project(modules["project"]), Score(
        modules["score"], modules["select_sm90"], modules["select_cluster"]), {}
    select = SelectRows(modules["select"])
    r = random.Random(args.seed)
    torch.manual_seed(args.seed)
    failures = 0
    terms = ProjectTerms(modules["project_sm90"])
    for what, f, subject in (("project", case_project, project), ("project terms", case_project_terms, terms),
                             ("score", case_score, score), ("select", case_rows, select)):
        failed = 0
        for i in range(args.cases):
            faulthandler.dump_traceback_later(60, exit=True)
            state = r.getstate()
            try:
                f(subject, r, worst)
            except AssertionError as e:
                print(f"{what}: case {i} of seed {args.seed}: {e}", flush=True)
                failed += 1
                if failed > 8:
                    break
        print(f"{what}: {args.cases} cases, {failed} failed; largest errors {worst}", flush=True)
        failures += failed
    faulthandler.cancel_dump_traceback_later()
    if not args.no_bench:
        bench(modules, args)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
