//! Tensors from ndarray.
#![cfg(feature = "ndarray")]
use crate::cpu;
use ndarray::{s, Array1, Array4};
use seerattn::{Attention, Status, TensorMut, TensorRef};

fn noise() -> Array4<f32> {
    Array4::from_shape_fn((1, 96, 2, 64), |(_, s, h, d)| ((s * 131 + h * 17 + d * 7) % 97) as f32 / 97.0 - 0.5)
}

#[test]
fn arrays_in_any_order_of_axes() {
    let (ctx, x) = (cpu(), noise());
    let mut want = Array4::<f32>::zeros(x.dim());
    ctx.run(Attention::new(&x, &x, &x, &mut want)).unwrap();

    // [B, H, S, D] memory, seen as [B, S, H, D].
    let by_head = x.view().permuted_axes([0, 2, 1, 3]).as_standard_layout().into_owned();
    let mut out = Array4::<f32>::zeros(by_head.dim());
    let view = || by_head.view().permuted_axes([0, 2, 1, 3]);
    ctx.run(Attention::new(view(), view(), view(), out.view_mut().permuted_axes([0, 2, 1, 3]))).unwrap();
    assert_eq!(out.permuted_axes([0, 2, 1, 3]), want);

    // Part of a wider array, as fused projections give it.
    let mut fused = Array4::<f32>::zeros((1, 96, 6, 64));
    for i in 0..3 {
        fused.slice_mut(s![.., .., 2 * i..2 * i + 2, ..]).assign(&x);
    }
    let mut out = Array4::<f32>::zeros(x.dim());
    let part = |i: usize| fused.slice(s![.., .., 2 * i..2 * i + 2, ..]);
    ctx.run(Attention::new(part(0), part(1), part(2), &mut out)).unwrap();
    assert_eq!(out, want);
}

#[test]
fn refused() {
    let (ctx, x) = (cpu(), noise());
    let mut out = Array4::<f32>::zeros(x.dim());
    let mut run = |q: TensorRef<'_>| ctx.run(Attention::new(q, &x, &x, &mut out)).unwrap_err().status();
    assert_eq!(run(x.slice(s![.., ..;-1, .., ..]).into()), Status::Stride);
    assert_eq!(run(x.slice(s![.., .., .., ..;-1]).into()), Status::Stride);
    assert_eq!(run(x.slice(s![.., .., .., ..;2]).into()), Status::Stride);
    assert_eq!(run((&Array1::from(vec![0f32; 64])).into()), Status::Shape);
    assert_eq!(run((&Array4::<i32>::zeros(x.dim())).into()), Status::Dtype);
    let one = Array4::<f32>::zeros((1, 1, 1, 1));
    assert!(run(one.broadcast((1, 96, 2, 64)).unwrap().into()).code() < 0);

    // The gaps of an output may be somebody else's.
    let mut wide = Array4::<f32>::zeros((1, 96, 4, 64));
    let output: TensorMut<'_> = wide.slice_mut(s![.., .., 1..3, ..]).into();
    let error = ctx.run(Attention::new(&x, &x, &x, output)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "SEER_ERROR_STRIDE: out: an array with gaps between its elements cannot be an output"
    );
}
