//! Whatever compiles and is wrong gives the library's error and no undefined behaviour.
use crate::case::{Case, Values};
use crate::cpu;
use seerattn::{
    Attention, Backend, Buffer, Cancel, Context, Dtype, Error, Gate, GateCache, Model, Prefill, Rope, Select,
    SelectBlocks, Status, TensorMut, TensorRef,
};
use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const SHAPE: [usize; 4] = [1, 128, 1, 64];
const COUNT: usize = 128 * 64;

/// Dense attention on one shape but for what a test changes.
fn attention(change: impl FnOnce(&mut [Vec<f32>; 4], &mut [usize; 4])) -> Result<seerattn::Stats, Error> {
    let mut data = [vec![0.5; COUNT], vec![0.5; COUNT], vec![0.5; COUNT], vec![0.5; COUNT]];
    let mut shape = SHAPE;
    change(&mut data, &mut shape);
    let [q, k, v, out] = &mut data;
    let input = |x| TensorRef::new::<f32>(x, &shape);
    cpu().run(Attention::new(input(q), input(k), input(v), TensorMut::new(&mut out[..], &shape)))
}

fn status<T: std::fmt::Debug>(result: Result<T, Error>) -> Status {
    let error = result.unwrap_err();
    assert!(!error.detail().is_empty() && error.to_string().starts_with(error.status().name()), "{error:?}");
    error.status()
}

#[test]
fn slices_too_short() {
    attention(|_, _| {}).unwrap();
    for which in 0..4 {
        assert_eq!(status(attention(|data, _| data[which].truncate(COUNT - 1))), Status::OutOfBounds);
        assert_eq!(status(attention(|data, _| data[which].clear())), Status::OutOfBounds);
    }
    let error = attention(|data, _| data[0].truncate(100)).unwrap_err();
    assert!(error.detail().starts_with('q') && error.detail().contains("400"), "{error}");
    assert_eq!(Status::OutOfBounds.name(), "SEER_ERROR_OUT_OF_BOUNDS");
}

#[test]
fn shapes() {
    assert_eq!(status(attention(|_, shape| shape[3] = 0)), Status::Shape);
    assert!(attention(|_, shape| shape[1] = 0).is_ok()); // no tokens, no work
    for huge in [usize::MAX, usize::MAX / 2, 1 << 32, i64::MAX as usize] {
        for axis in 0..4 {
            let result = attention(|_, shape| shape[axis] = huge);
            assert!(matches!(status(result), Status::Shape | Status::OutOfBounds), "{huge} at {axis}");
        }
    }
    let (ctx, data) = (cpu(), vec![0f32; COUNT]);
    for shape in [&[][..], &[COUNT], &[1, 1, 128, 1, 64], &[1; 100]] {
        let mut out = data.clone();
        let input = || TensorRef::new(&data, shape);
        let result = ctx.run(Attention::new(input(), input(), input(), TensorMut::new(&mut out, shape)));
        assert_eq!(status(result), Status::Shape, "{shape:?}");
    }
}

#[test]
fn types() {
    let (ctx, x, mut out) = (cpu(), vec![0f32; COUNT], vec![0f32; COUNT]);
    let half = vec![half::f16::ZERO; COUNT];
    let integers = vec![0i32; COUNT];
    let input = || TensorRef::new(&x, &SHAPE);
    let mut run = |q| ctx.run(Attention::new(q, input(), input(), TensorMut::new(&mut out, &SHAPE)));
    assert_eq!(status(run(TensorRef::new(&half, &SHAPE))), Status::Dtype);
    assert_eq!(status(run(TensorRef::new(&integers, &SHAPE))), Status::Dtype);
    run(input()).unwrap();

    // Bytes at an odd address are no floats.
    let bytes = vec![0u8; COUNT * 4 + 1];
    assert_eq!(status(run(TensorRef::from_bytes(&bytes[1..], Dtype::F32, &SHAPE))), Status::Stride);
}

#[test]
fn strides_and_offsets() {
    let (ctx, x, mut out) = (cpu(), vec![0f32; COUNT], vec![0f32; COUNT]);
    let input = || TensorRef::new(&x, &SHAPE);
    let mut run = |q| ctx.run(Attention::new(q, input(), input(), TensorMut::new(&mut out, &SHAPE)));
    assert_eq!(status(run(input().with_strides(&[COUNT, 64, 64, 2]))), Status::Stride);
    assert_eq!(status(run(input().with_strides(&[COUNT, 65, 64, 1]))), Status::OutOfBounds);
    assert!(matches!(status(run(input().with_strides(&[usize::MAX; 4]))), Status::Stride | Status::OutOfBounds));
    assert_eq!(status(run(input().with_strides(&[64, 1]))), Status::Stride);
    assert_eq!(status(run(input().with_strides(&[1; 5]))), Status::Stride);
    assert_eq!(status(run(input().with_offset(4))), Status::OutOfBounds);
    assert_eq!(status(run(input().with_offset(3))), Status::Stride);
    assert!(matches!(status(run(input().with_offset(u64::MAX - 3))), Status::OutOfBounds | Status::Stride));

    // An output onto itself.
    let mut narrow = vec![0f32; COUNT];
    let folded = TensorMut::new(&mut narrow, &SHAPE).with_strides(&[COUNT, 32, 64, 1]);
    assert_eq!(status(ctx.run(Attention::new(input(), input(), input(), folded))), Status::Stride);
}

#[test]
fn sequences() {
    let (ctx, x, mut out) = (cpu(), vec![0f32; COUNT], vec![0f32; COUNT]);
    let shape = &SHAPE[1..];
    let mut run = |q: &[i32], k: Option<&[i32]>| {
        let input = || TensorRef::new(&x, shape);
        let operation = Attention::new(input(), input(), input(), TensorMut::new(&mut out, shape));
        ctx.run(match k {
            Some(k) => operation.sequences_qk(q, k),
            None => operation.sequences(q),
        })
    };
    run(&[0, 64, 128], None).unwrap();
    // C has one count for both lists.
    let error = run(&[0, 64, 128], Some(&[0, 128])).unwrap_err();
    assert_eq!((error.status(), error.detail()), (Status::Shape, "sequences has 3 offsets for q and 2 for k"));
    assert_eq!(status(run(&[], None)), Status::InvalidArgument);
    assert_eq!(status(run(&[], Some(&[]))), Status::InvalidArgument);
    for wrong in
        [&[0][..], &[0, 127], &[0, 129], &[1, 128], &[0, 100, 90, 128], &[-5, 128], &[0, i32::MAX], &[i32::MIN, 128]]
    {
        let _ = status(run(wrong, None));
    }
}

/// In C no sequences would mean that the batch is not packed, and a dense batch would run.
#[test]
fn no_sequences() {
    let (ctx, x, mut out) = (cpu(), vec![0f32; COUNT], vec![0f32; COUNT]);
    let input = || TensorRef::new(&x, &SHAPE);
    let operation = Attention::new(input(), input(), input(), TensorMut::new(&mut out, &SHAPE));
    assert!(ctx.run(operation.sequences(&[0])).is_err());
}

#[test]
fn models_and_caches() {
    let (ctx, case) = (cpu(), Case::named("head-dim-64"));
    let model = Model::load(&ctx, &case.dir).unwrap();
    let (q, k) = (case.get("q"), case.get("k"));
    let mut scores = Values::zeros(&case.get("gate_probs").shape);
    assert_eq!(status(ctx.run(Gate::new(&model, 0, q.tensor(), k.tensor()))), Status::InvalidArgument);
    for layer in [99, usize::MAX] {
        let gate = Gate::new(&model, layer, q.tensor(), k.tensor()).scores(scores.tensor_mut());
        assert_eq!(status(ctx.run(gate)), Status::InvalidArgument);
    }
    let gate = Gate::new(&model, 0, q.tensor(), k.tensor()).scores(scores.tensor_mut());
    assert_eq!(status(ctx.run(gate.select(Select::threshold(f64::NAN)))), Status::InvalidArgument);
    let mut mask = vec![0u8; scores.data.len()];
    let select = SelectBlocks::new(scores.tensor(), TensorMut::new(&mut mask, &scores.shape), Select::model());
    assert_eq!(status(ctx.run(select)), Status::InvalidArgument);
    let empty: [f32; 0] = [];
    let gate = Gate::new(&model, 0, q.tensor(), k.tensor()).scores(scores.tensor_mut());
    assert_eq!(status(ctx.run(gate.rope(Rope::inv_freq(&empty[..])))), Status::Shape);

    assert!(GateCache::new(&ctx, &model, usize::MAX, 64).is_err());
    assert!(GateCache::new(&ctx, &model, 1, usize::MAX).is_err());
    let mut cache = GateCache::new(&ctx, &model, 1, 128).unwrap();
    assert_eq!(cache.tokens(0, 0).unwrap(), 0);
    assert!(cache.tokens(99, 0).is_err() && cache.tokens(0, 1).is_err() && cache.tokens(0, usize::MAX).is_err());
    assert!(cache.truncate(Some(7), 0).is_err());
    let gate = Gate::new(&model, 0, q.tensor(), k.tensor()).scores(scores.tensor_mut());
    assert_eq!(status(ctx.run(gate.cache(&mut cache))), Status::CacheState); // too long for it
    let other = Model::load(&ctx, &case.dir).unwrap();
    let gate = Gate::new(&other, 0, q.tensor(), k.tensor()).scores(scores.tensor_mut());
    assert!(ctx.run(gate.cache(&mut cache)).is_err());
}

#[test]
fn buffers() {
    let ctx = cpu();
    for size in [u64::MAX, u64::MAX - 63, 1 << 63, 1 << 50] {
        assert_eq!(status(Buffer::new(&ctx, size)), Status::OutOfMemory);
    }
    let buffer = Buffer::from_slice(&ctx, &[1f32, 2.0, 3.0]).unwrap();
    let mut back = [0f32; 4];
    assert_eq!(status(buffer.read(0, &mut back)), Status::OutOfBounds);
    assert_eq!(status(buffer.write(u64::MAX, &back)), Status::OutOfBounds);
    buffer.read(4, &mut back[..2]).unwrap();
    assert_eq!(back, [2.0, 3.0, 0.0, 0.0]);
    assert!(!buffer.address().unwrap().is_null());

    let big = Buffer::new(&ctx, 4 * COUNT as u64).unwrap();
    let x = vec![0f32; COUNT];
    let input = || TensorRef::new(&x, &SHAPE);
    let onto_itself = Attention::new(big.tensor::<f32>(&SHAPE), input(), input(), big.tensor_mut::<f32>(&SHAPE));
    assert_eq!(status(ctx.run(onto_itself)), Status::Stride);
    let small = Attention::new(buffer.tensor::<f32>(&SHAPE), input(), input(), big.tensor_mut::<f32>(&SHAPE));
    assert_eq!(status(ctx.run(small)), Status::OutOfBounds);
    let fine = || Attention::new(input(), input(), input(), big.tensor_mut::<f32>(&SHAPE));
    ctx.run(fine()).unwrap();
    ctx.clone().run(fine()).unwrap(); // a clone is the same context
    assert_eq!(status(cpu().run(fine())), Status::Handle); // another queue would race
}

#[test]
fn handles_outlive_what_made_them() {
    let (ctx, case) = (cpu(), Case::named("one-block"));
    let model = Model::load(&ctx, &case.dir).unwrap();
    let cache = GateCache::new(&ctx, &model, 1, 64).unwrap();
    let buffer = Buffer::new(&ctx, 64).unwrap();
    let tensor = buffer.tensor::<u8>(&[64]);
    drop((ctx, buffer));
    assert_eq!(model.clone().config().unwrap().layers, 1);
    drop(model);
    assert_eq!(cache.tokens(0, 0).unwrap(), 0);
    drop((cache, tensor));
}

#[test]
fn contexts() {
    assert_eq!(status("gpu".parse::<Backend>()), Status::InvalidArgument);
    assert_eq!("cpu".parse::<Backend>().unwrap(), Backend::Cpu);
    assert!(Context::builder().backend(Backend::Cpu).device(99).build().is_err());
    assert!(Context::builder().backend(Backend::Cpu).threads(usize::MAX).build().is_err());
    let ctx = Context::builder().backend(Backend::Cpu).threads(1).workspace_limit(64).build().unwrap();
    let info = ctx.info().unwrap();
    assert_eq!(info.backend, Backend::Cpu);
    assert!(info.computes(Dtype::Bf16) && !info.computes(Dtype::I64) && !info.name.is_empty());
    assert_eq!(seerattn::devices(Backend::Cpu).unwrap()[0].name, info.name);

    let case = Case::named("one-block");
    let model = Model::load(&ctx, &case.dir).unwrap();
    let (q, k, v) = (case.get("q"), case.get("k"), case.get("v"));
    let mut out = Values::zeros(&q.shape);
    let mut prefill = Prefill::new(&model, 0, q.tensor(), k.tensor(), v.tensor(), out.tensor_mut());
    assert!(prefill.workspace(&ctx).unwrap() > 64);
    assert_eq!(status(ctx.run(prefill)), Status::OutOfMemory);
    assert_eq!(seerattn::version().0, 0);
}

/// The closure lives as long as the context, on success and on failure; its panics stay inside.
#[test]
fn logging() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let drops = Arc::new(AtomicUsize::new(0));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let build = |backend, device| {
        let (guard, lines) = (Dropped(drops.clone()), lines.clone());
        let log = move |level: seerattn::LogLevel, message: &str| {
            let _ = &guard;
            lines.lock().unwrap().push((level, message.to_owned()));
            resume_unwind(Box::new("not beyond this closure")); // a panic that says nothing
        };
        Context::builder().backend(backend).device(device).log(log).log_level(seerattn::LogLevel::Debug).build()
    };
    assert!(build(Backend::Cpu, 99).is_err());
    assert_eq!(drops.load(Ordering::SeqCst), 1);
    let ctx = build(Backend::Cpu, 0).unwrap();
    let _ = Model::load(&ctx, Case::named("one-block").dir);
    drop(ctx);
    assert!(!lines.lock().unwrap().is_empty());
    assert_eq!(drops.load(Ordering::SeqCst), 2);
}

#[test]
fn callbacks_may_not_call_back() {
    let (ctx, case) = (cpu(), Case::named("head-dim-64"));
    let model = Model::load(&ctx, &case.dir).unwrap();
    let (q, k, v) = (case.get("q"), case.get("k"), case.get("v"));
    let mut out = Values::zeros(&q.shape);
    let statuses = Mutex::new(Vec::new());
    let inside = ctx.clone();
    let prefill = Prefill::new(&model, 0, q.tensor(), k.tensor(), v.tensor(), out.tensor_mut()).progress(|_, _| {
        let _clone = inside.clone(); // this is allowed
        statuses.lock().unwrap().push(inside.wait_all().unwrap_err().status());
        statuses.lock().unwrap().push(inside.info().unwrap_err().status());
        ControlFlow::Continue(())
    });
    ctx.run(prefill).unwrap();
    let statuses = statuses.into_inner().unwrap();
    assert!(!statuses.is_empty() && statuses.iter().all(|&s| s == Status::Busy), "{statuses:?}");
}

#[test]
fn cancelled() {
    let ctx = cpu();
    let cancel = Cancel::new().unwrap();
    let x = vec![0f32; COUNT];
    let mut out = vec![0f32; COUNT];
    let input = || TensorRef::new(&x, &SHAPE);
    cancel.clone().trigger();
    let operation = Attention::new(input(), input(), input(), TensorMut::new(&mut out, &SHAPE));
    assert_eq!(status(ctx.run(operation.cancel(&cancel))), Status::Cancelled);
    let operation = Attention::new(input(), input(), input(), TensorMut::new(&mut out, &SHAPE));
    assert_eq!(status(ctx.run(operation.progress(|_, _| ControlFlow::Break(())))), Status::Cancelled);
}
