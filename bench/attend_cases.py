"""What the tests and benchmarks of the attend kernels share (cuda_attend.py, cuda_attend80.py): random sequences and
masks, the loop over cases, and what PyTorch offers beside."""
import faulthandler
import random
import sys

import torch

import cuda_driver as cd


# --- Correctness

def mask_of(kind, heads, rows, cols, first, g):
    """bool [heads, rows, cols]; row i may see columns 0 .. first(i)."""
    m = torch.zeros(heads, rows, cols, dtype=torch.bool)
    last = torch.tensor([first(i) for i in range(rows)])
    if kind == "full":
        m[:] = True
    elif kind == "empty":
        pass
    elif kind == "diagonal":
        m[:, torch.arange(rows), last] = True
    elif kind == "alternating":
        m[:, :, torch.randint(0, 2, (1,), generator=g).item()::2] = True
    elif kind == "one dense row":  # of three that share a ring, the others empty
        for h in range(heads):
            m[h, torch.randint(0, rows, (max(1, rows // 3),), generator=g)] = True
    elif kind == "far apart":  # two blocks, the whole sequence between them, beside dense rows
        m[:, :, 0] = True
        m[:, torch.arange(rows), last] = True
        m[:, 1::3] = True
    elif kind == "sink":
        m[:, :, 0] = True
    else:  # a density
        m = torch.rand(heads, rows, cols, generator=g) < float(kind)
    return m


KINDS = ["full", "empty", "diagonal", "alternating", "one dense row", "far apart", "sink", "0.5", "0.2", "0.1", "0.03"]


def draw_sequences(r, longest, offset, block):
    """Random lengths, packed or as a batch: (batch, [(batch, q_begin, q_len, k_begin, k_len, mask_row)]). offset() draws
    how many keys come before the first query."""
    length = lambda: r.choice([1, 63, 64, 65, r.randint(1, longest), r.randint(1, longest)])
    if r.random() < .5:  # packed
        seqs, q, k, row = [], 0, 0, 0
        for _ in range(r.randint(1, 5)):
            ql = r.choice([0, length(), length()])
            kl = ql + offset()
            seqs.append((0, q, ql, k, kl, row))
            q, k, row = q + ql, k + kl, row + -(-ql // block)
        return 1, seqs
    batch, ql = r.randint(1, 3), length()
    kl = ql + offset()
    return batch, [(b, 0, ql, 0, kl, 0) for b in range(batch)]


def draw_masks(kind, batch, heads, seqs, block, garbage, g):
    """(bool [batch, heads, rows, cols], the same in words) on the device; None, None if `kind` is dense. `garbage`: the
    words also have bits that no causal row may see."""
    if kind == "dense":
        return None, None
    rows = max(s[5] + -(-s[2] // block) for s in seqs)
    cols = max(-(-s[4] // block) for s in seqs)
    mask = torch.zeros(batch, heads, rows, cols, dtype=torch.bool)
    given = torch.zeros_like(mask)
    for (b, _, ql, _, kl, mr) in seqs:
        n = -(-ql // block)
        if n == 0:
            continue
        last = lambda i: (kl - ql + min((i + 1) * block, ql) - 1) // block
        mask[b, :, mr:mr + n] = given[b, :, mr:mr + n] = mask_of(kind, heads, n, cols, last, g)
        for i in range(n if garbage else 0):
            given[b, :, mr + i, last(i) + 1:] = True
    return mask.cuda(), cd.pack_mask(given.cuda())


def run_cases(args, draw, run_case):
    """args.cases problems of draw(r), each through run_case(c, g): (how many ran, the largest of what that returned)."""
    r, worst = random.Random(args.seed), 0.0
    torch.manual_seed(args.seed)
    g = torch.Generator().manual_seed(args.seed)
    for i in range(args.cases):
        c = draw(r)
        faulthandler.dump_traceback_later(120, exit=True)  # a kernel that hangs
        try:
            worst = max(worst, run_case(c, g))
        except Exception:
            print(f"case {i} of seed {args.seed}: {c}", flush=True)
            raise
    faulthandler.cancel_dump_traceback_later()
    if args.cases == 0:
        sys.exit("no case ran")
    return args.cases, worst


# --- Speed

def timed(functions, rounds=5, budget_ms=40):
    """Median milliseconds of each function, L2 flushed before each call, the functions taking turns in random order."""
    flush = torch.empty(256 << 20, dtype=torch.int8, device="cuda")
    times = {n: [] for n in functions}
    for f in functions.values():
        f()
    torch.cuda.synchronize()
    for _ in range(rounds):
        order = list(functions.items())
        random.shuffle(order)
        for name, f in order:
            spent = 0.0
            while spent < budget_ms or len(times[name]) < 3:
                a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                flush.zero_()
                a.record()
                f()
                b.record()
                b.synchronize()
                times[name].append(a.elapsed_time(b))
                spent += times[name][-1]
    return {n: sorted(t)[len(t) // 2] for n, t in times.items()}


def peer(backend, q, k, v, gqa=True):
    """Dense attention by one of PyTorch's backends; tensors [batch, head, token, dim]."""
    from torch.nn.attention import sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def run():
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=gqa)
    return run


class Flex:
    """FlexAttention over the kept blocks of a mask."""

    def __init__(self):
        from torch.nn.attention.flex_attention import flex_attention
        self.attend = torch.compile(flex_attention, dynamic=False)

    def __call__(self, mask, block, q, k, v):
        """mask: bool [heads, rows, cols], lower triangular; tensors as those of peer."""
        from torch.nn.attention.flex_attention import BlockMask
        diagonal = torch.eye(mask.shape[-1], dtype=torch.bool, device="cuda")
        parts = []
        for part in (mask & diagonal, mask & ~diagonal):
            order = torch.argsort(part.to(torch.int8), dim=-1, descending=True, stable=True)
            parts += [part.sum(-1).to(torch.int32)[None], order.to(torch.int32)[None]]
        blocks = BlockMask.from_kv_blocks(*parts, BLOCK_SIZE=block, mask_mod=lambda b, h, i, j: i >= j,
                                          seq_lengths=(q.shape[2], k.shape[2]), compute_q_blocks=False)
        return lambda: self.attend(q, k, v, block_mask=blocks, enable_gqa=True,
                                   kernel_options={"BLOCK_M": 64, "BLOCK_N": 64})
