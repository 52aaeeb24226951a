//! Tensors from the arrays of the crate `ndarray`, strides included.
use crate::error::{Error, Status};
use crate::tensor::{Element, TensorMut, TensorRef, View};
use ndarray::{ArrayBase, ArrayView, ArrayViewMut, Data, DataMut, Dimension};

/// Strides that are negative are told to the library as such, which refuses them; `bytes` then counts what lies above
/// the first element, so that the view says nothing untrue.
fn view<T: Element>(first: *const T, shape: &[usize], strides: &[isize]) -> View {
    let mut reach = 0usize; // index of the last element
    for (&extent, &stride) in shape.iter().zip(strides) {
        reach = reach.saturating_add(extent.saturating_sub(1).saturating_mul(usize::try_from(stride).unwrap_or(0)));
    }
    let elements = if shape.contains(&0) { 0 } else { reach.saturating_add(1) };
    let mut view = View::host(first.cast(), elements.saturating_mul(std::mem::size_of::<T>()), T::DTYPE, shape);
    for ((to, &stride), &extent) in view.raw.stride.iter_mut().zip(strides).zip(shape) {
        *to = if extent <= 1 { (stride as i64).max(0) } else { stride as i64 };
    }
    view
}

/// Any strides but negative ones; the last must be 1.
impl<'a, T: Element, D: Dimension> From<ArrayView<'a, T, D>> for TensorRef<'a> {
    fn from(array: ArrayView<'a, T, D>) -> Self {
        TensorRef::wrap(view(array.as_ptr(), array.shape(), array.strides()))
    }
}

/// Any strides but negative ones; the last must be 1.
impl<'a, T: Element, S: Data<Elem = T>, D: Dimension> From<&'a ArrayBase<S, D>> for TensorRef<'a> {
    fn from(array: &'a ArrayBase<S, D>) -> Self {
        array.view().into()
    }
}

/// Axes in any order, the last with a stride of 1, without gaps between the elements: what lies in a gap may be
/// borrowed by somebody else.
impl<'a, T: Element, D: Dimension> From<ArrayViewMut<'a, T, D>> for TensorMut<'a> {
    fn from(mut array: ArrayViewMut<'a, T, D>) -> Self {
        let mut view = view(array.as_mut_ptr() as *const T, array.shape(), array.strides());
        if view.raw.size > (array.len() * std::mem::size_of::<T>()) as u64 {
            let text = "an array with gaps between its elements cannot be an output";
            view.error = Some(Error::new(Status::Stride, text));
        }
        TensorMut::wrap(view)
    }
}

/// Axes in any order, the last with a stride of 1, without gaps between the elements.
impl<'a, T: Element, S: DataMut<Elem = T>, D: Dimension> From<&'a mut ArrayBase<S, D>> for TensorMut<'a> {
    fn from(array: &'a mut ArrayBase<S, D>) -> Self {
        array.view_mut().into()
    }
}
