"""The two families of block masks that every benchmark of sparse attention uses, so that numbers compare.

random(n, heads, density):      every causal block of every head and row drawn on its own: the worst case for sharing.
structured(n, heads, density):  what learned gates look like: block 0, the diagonal, two blocks before it, columns that
                                a head (and, less so, its GQA group) returns to from every row, and a quarter noise.
Both keep the diagonal and fill row i with k = max(1, round(density * (i + 1))) blocks (random: on average).
sharing(mask, rows, order) gives s: kept tiles per block loaded when `rows` 64-row tiles walk the union of their lists.
Masks are bool [heads, n, n] on `device`, lower triangular. Deterministic for a seed on one device type.
"""
import torch


def random(n, heads, density, seed=0, device="cpu"):
    g = torch.Generator(device=device).manual_seed(seed)
    m = torch.empty(heads, n, n, dtype=torch.bool, device=device)
    for h in range(heads):
        keep = torch.rand(n, n, generator=g, device=device) < density
        keep.fill_diagonal_(True)
        m[h] = keep.tril_()
    return m


def structured(n, heads, density, group=4, seed=0, device="cpu", noise=0.25, group_weight=0.6):
    g = torch.Generator(device=device).manual_seed(seed)
    i = torch.arange(n, device=device)
    dist = i[:, None] - i[None, :]                     # row - column
    causal = dist >= 0
    always = causal & ((dist <= 2) | (i[None, :] == 0))
    budget = torch.clamp((density * (i + 1)).round().long(), min=1)
    m = torch.empty(heads, n, n, dtype=torch.bool, device=device)
    group_score = None
    for h in range(heads):
        if h % group == 0:
            group_score = torch.rand(n, generator=g, device=device)
        hot = group_weight * group_score + (1 - group_weight) * torch.rand(n, generator=g, device=device)
        rank = hot.argsort().argsort().float() / n     # uniform, so that `noise` is the share of kept blocks it names
        # order of preference of each row: forced blocks, then the head's columns, a share of them replaced by noise
        drawn = torch.rand(n, n, generator=g, device=device)
        swap = torch.rand(n, n, generator=g, device=device) < noise
        pref = torch.where(swap, drawn, rank[None, :].expand(n, n)).clone()
        pref[always] = -1.0
        pref[~causal] = 2.0
        kth = torch.sort(pref, dim=-1).values.gather(1, (torch.minimum(budget, i + 1) - 1)[:, None])
        keep = (pref <= kth) & causal
        keep.fill_diagonal_(True)
        m[h] = keep
    return m


def density(mask):
    n = mask.shape[-1]
    return mask.sum().item() / (mask.shape[0] * n * (n + 1) / 2)


def sharing(mask, rows, order="rows", group=4):
    """s for `rows` consecutive row blocks of one head (order 'rows') or heads of one KV group at one row ('heads')."""
    h, n, _ = mask.shape
    if order == "rows":
        t = mask[:, : n // rows * rows].reshape(h, n // rows, rows, n)
        union, kept = t.any(2), t.sum()
    else:
        r = min(rows, group)
        t = mask.reshape(h // group, group, n, n)[:, :r]
        union, kept = t.any(1), t.sum()
    return kept.item() / union.sum().item()


if __name__ == "__main__":
    for n in (128, 512):
        for d in (0.5, 0.2, 0.1, 0.05):
            for name, m in (("random", random(n, 8, d)), ("structured", structured(n, 8, d))):
                print(f"{name:10s} n {n:4d} density {density(m):.3f}  s: " + "  ".join(
                    f"{o}{r} {sharing(m, r, o):.2f}" for o in ("rows", "heads") for r in (2, 3, 4)))
