//! What the original code computed in float64.
use crate::case::{Case, Values};
use crate::cpu;
use seerattn::{Attention, Context, Gate, GateCache, Model, Prefill, Rope, SelectBlocks, Stats, TensorMut, TensorRef};

struct Results {
    out: Values,
    lse: Values,
    scores: Values,
    mask: Vec<u8>,
    stats: Stats,
}

fn prefill(ctx: &Context, model: &Model, case: &Case) -> Results {
    let (q, k, v) = (case.get("q"), case.get("k"), case.get("v"));
    let grid = case.get("gate_probs").shape;
    let mut r = Results {
        out: Values::zeros(&q.shape),
        lse: Values::zeros(&case.get("lse").shape),
        scores: Values::zeros(&grid),
        mask: vec![7u8; grid.iter().product()],
        stats: Stats::default(),
    };
    let operation = Prefill::new(model, case.layer, q.tensor(), k.tensor(), v.tensor(), r.out.tensor_mut())
        .lse(r.lse.tensor_mut())
        .scores(r.scores.tensor_mut())
        .mask(TensorMut::new(&mut r.mask, &grid));
    r.stats = ctx.run(operation).unwrap();
    r
}

#[test]
fn every_case() {
    let ctx = cpu();
    let cases = Case::all();
    assert!(cases.len() >= 10);
    for case in &cases {
        let name = case.dir.file_name().unwrap().to_string_lossy();
        let model = Model::load(&ctx, &case.dir).unwrap();
        let config = model.config().unwrap();
        let r = prefill(&ctx, &model, case);

        // Scores as close as f32 sums are; masks equal but where a score is as close to the cut.
        let method = config.select.method;
        let ranked = matches!(method, seerattn::SelectMethod::Ratio(_));
        let want = case.get(if ranked { "gate_logits" } else { "gate_probs" });
        for (got, want) in r.scores.data.iter().zip(&want.data).filter(|(got, _)| got.is_finite()) {
            assert!((got - want).abs() < 1e-3 * (1.0 + want.abs()), "{name}: score {got}, expected {want}");
        }
        let blocks = want.shape[3];
        let expected = case.get("block_mask");
        let same_row: Vec<bool> = r
            .mask
            .chunks(blocks)
            .zip(expected.data.chunks(blocks))
            .map(|(got, want)| got.iter().zip(want).all(|(&g, &w)| f32::from(g) == w))
            .collect();
        let same = same_row.iter().filter(|&&s| s).count();
        let fallback = r.stats.fallback_rows as usize;
        assert!(same + fallback >= same_row.len() * 19 / 20, "{name}: {same} of {} rows of the mask", same_row.len());
        let kept = r.mask.iter().map(|&m| u64::from(m)).sum::<u64>();
        assert_eq!(r.stats.blocks_kept, kept, "{name}");
        assert!(r.stats.density() > 0.0 && r.stats.density() <= 1.0);

        // Outputs where the mask is the same; NaN where the original divides by zero.
        let (rows, out, lse) = (case.get("out_rows"), case.get("out"), case.get("lse"));
        let &[batch, tokens, heads, dim] = &r.out.shape[..] else { panic!() };
        let mut compared = 0;
        for b in 0..batch {
            for (i, row) in rows.data.iter().map(|&row| row as usize).enumerate() {
                for h in 0..heads {
                    let block_row = (b * heads + h) * want.shape[2] + row / config.block_size;
                    let at = (((b * rows.data.len()) + i) * heads + h) * dim;
                    let (expected, got) = (&out.data[at..at + dim], ((b * tokens + row) * heads + h) * dim);
                    if !same_row[block_row] || expected[0].is_nan() {
                        continue;
                    }
                    compared += 1;
                    for (got, want) in r.out.data[got..got + dim].iter().zip(expected) {
                        assert!((got - want).abs() < 5e-4 * (1.0 + want.abs()), "{name}: out {got}, expected {want}");
                    }
                    let at = (b * heads + h) * tokens + row;
                    assert!((r.lse.data[at] - lse.data[at]).abs() < 1e-3, "{name}: lse");
                }
            }
        }
        assert!(compared * 2 > batch * rows.data.len() * heads, "{name}: {compared} rows compared");
    }
}

/// The gate alone, selection alone and attention alone give what a prefill gives.
#[test]
fn stages() {
    let (ctx, case) = (cpu(), Case::named("llama-threshold"));
    let model = Model::load(&ctx, &case.dir).unwrap();
    let config = model.config().unwrap();
    let whole = prefill(&ctx, &model, &case);
    let (q, k, v) = (case.get("q"), case.get("k"), case.get("v"));

    let mut scores = Values::zeros(&whole.scores.shape);
    let mut mask = vec![7u8; whole.mask.len()];
    let gate = Gate::new(&model, case.layer, q.tensor(), k.tensor())
        .scores(scores.tensor_mut())
        .mask(TensorMut::new(&mut mask, &whole.scores.shape));
    assert_eq!(ctx.run(gate).unwrap().blocks_kept, whole.stats.blocks_kept);
    assert_eq!((&scores.data, &mask), (&whole.scores.data, &whole.mask));

    let mut selected = vec![7u8; mask.len()];
    let output = TensorMut::new(&mut selected, &scores.shape);
    let select = SelectBlocks::new(scores.tensor(), output, config.select).block_size(config.block_size);
    ctx.run(select).unwrap();
    assert_eq!(selected, mask);

    let mut out = Values::zeros(&q.shape);
    let rope = match &config.rope {
        Rope::Theta { theta, .. } => Rope::theta(*theta),
        Rope::InvFreq { inv_freq, attention_scaling, .. } => Rope::inv_freq(&inv_freq[..]).scaled(*attention_scaling),
        other => panic!("{other:?}"),
    };
    let attention = Attention::new(q.tensor(), k.tensor(), v.tensor(), out.tensor_mut())
        .mask(TensorRef::new(&mask, &scores.shape))
        .block_size(config.block_size)
        .rope(rope);
    let stats = ctx.run(attention).unwrap();
    assert_eq!((stats.blocks_kept, stats.density()), (0, 0.0));
    for (got, want) in out.data.iter().zip(&whole.out.data) {
        assert!((got - want).abs() < 1e-5 * (1.0 + want.abs()), "{got}, expected {want}");
    }
}

/// Two chunks through a cache give what one call gives; so does a packed batch of one sequence.
#[test]
fn chunks_and_sequences() {
    let (ctx, case) = (cpu(), Case::named("llama-threshold"));
    let model = Model::load(&ctx, &case.dir).unwrap();
    let (q, k, v) = (case.get("q"), case.get("k"), case.get("v"));
    let &[_, tokens, q_heads, dim] = &q.shape[..] else { panic!() };
    let kv_heads = k.shape[2];
    let first = 512;
    let select = model.config().unwrap().select.last_dense_rows(2);

    let mut whole = Values::zeros(&q.shape);
    ctx.run(Prefill::new(&model, case.layer, q.tensor(), k.tensor(), v.tensor(), whole.tensor_mut()).select(select))
        .unwrap();

    let mut cache = GateCache::new(&ctx, &model, 1, tokens).unwrap();
    let mut out = Values::zeros(&q.shape);
    let (head, tail) = out.data.split_at_mut(first * q_heads * dim);
    for (range, out) in [(0..first, head), (first..tokens, tail)] {
        let rows = [1, range.len(), q_heads, dim];
        let keys = [1, range.end, kv_heads, dim];
        let queries = &q.data[range.start * q_heads * dim..];
        let operation = Prefill::new(
            &model,
            case.layer,
            TensorRef::new(queries, &rows),
            TensorRef::new(&k.data, &keys),
            TensorRef::new(&v.data, &keys),
            TensorMut::new(out, &rows),
        );
        ctx.run(operation.select(select).cache(&mut cache).total_len(tokens)).unwrap();
        assert_eq!(cache.tokens(case.layer, 0).unwrap(), range.end);
    }
    let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5 * (1.0 + b.abs()));
    assert!(close(&out.data, &whole.data));
    cache.truncate(None, first).unwrap();
    assert_eq!(cache.tokens(case.layer, 0).unwrap(), first);

    let mut packed = Values::zeros(&q.shape);
    let offsets = [0, tokens as i32];
    let operation = Prefill::new(
        &model,
        case.layer,
        TensorRef::new(&q.data, &q.shape[1..]),
        TensorRef::new(&k.data, &k.shape[1..]),
        TensorRef::new(&v.data, &v.shape[1..]),
        TensorMut::new(&mut packed.data, &q.shape[1..]),
    );
    ctx.run(operation.select(select).sequences(&offsets)).unwrap();
    assert!(close(&packed.data, &whole.data));
}

/// bf16 in the file's own bytes, `[B, H, S, D]` memory by strides, and buffers give what packed slices give.
#[test]
fn views() {
    let (ctx, case) = (cpu(), Case::named("head-dim-64"));
    let model = Model::load(&ctx, &case.dir).unwrap();
    let (q, k, v) = (case.get("q"), case.get("k"), case.get("v"));
    let (qh, kh, vh) = (q.bf16(), k.bf16(), v.bf16());
    let input = |data, values: &Values| TensorRef::new::<half::bf16>(data, &values.shape);
    let mut want = qh.clone();
    let out = TensorMut::new(&mut want, &q.shape);
    ctx.run(Prefill::new(&model, 0, input(&qh, &q), input(&kh, &k), input(&vh, &v), out)).unwrap();
    assert_ne!(want, qh);

    // The same numbers in f32 and f16: what bf16 and f16 round away is all that differs.
    let mut exact = Values::zeros(&q.shape);
    ctx.run(Prefill::new(&model, 0, q.tensor(), k.tensor(), v.tensor(), exact.tensor_mut())).unwrap();
    let f16 = |values: &Values| values.data.iter().map(|&x| half::f16::from_f32(x)).collect::<Vec<_>>();
    let (qf, kf, vf) = (f16(&q), f16(&k), f16(&v));
    let mut outf = qf.clone();
    let (qf, kf) = (TensorRef::new(&qf, &q.shape), TensorRef::new(&kf, &k.shape));
    ctx.run(Prefill::new(&model, 0, qf, kf, TensorRef::new(&vf, &v.shape), TensorMut::new(&mut outf, &q.shape)))
        .unwrap();
    let mean = |of: &dyn Fn(usize) -> f32| {
        let sum: f32 = exact.data.iter().enumerate().map(|(i, x)| (of(i) - x).abs()).sum();
        sum / exact.data.len() as f32
    };
    assert!(mean(&|i| want[i].to_f32()) < 1e-2 && mean(&|i| outf[i].to_f32()) < 1e-2);

    let &[_, s, h, d] = &q.shape[..] else { panic!() };
    let mut by_head = qh.clone();
    for (i, row) in qh.chunks(d).enumerate() {
        let (token, head) = (i / h, i % h);
        by_head[(head * s + token) * d..][..d].copy_from_slice(row);
    }
    let strides = [s * h * d, d, s * d, 1];
    let mut got = qh.clone();
    let operation = Prefill::new(
        &model,
        0,
        TensorRef::new(&by_head, &q.shape).with_strides(&strides),
        input(&kh, &k),
        input(&vh, &v),
        TensorMut::new(&mut got, &q.shape),
    );
    ctx.run(operation).unwrap();
    assert_eq!(got, want);

    // q and out in one buffer, k and v in another.
    let bytes = (qh.len() * 2) as u64;
    let ours = seerattn::Buffer::new(&ctx, 2 * bytes).unwrap();
    ours.write(0, &qh).unwrap();
    let theirs = seerattn::Buffer::from_slice(&ctx, &[&kh[..], &vh[..]].concat()).unwrap();
    let operation = Prefill::new(
        &model,
        0,
        ours.tensor::<half::bf16>(&q.shape),
        theirs.tensor::<half::bf16>(&k.shape),
        theirs.tensor::<half::bf16>(&v.shape).with_offset((kh.len() * 2) as u64),
        ours.tensor_mut::<half::bf16>(&q.shape).with_offset(bytes),
    );
    ctx.run(operation).unwrap();
    ours.read(bytes, &mut got).unwrap();
    assert_eq!(got, want);
}
