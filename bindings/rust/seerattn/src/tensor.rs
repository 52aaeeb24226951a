//! Views of memory.
use crate::buffer::Buffer;
use crate::error::{Error, Result, Status};
use crate::sys;
use std::fmt;
use std::marker::PhantomData;
use std::os::raw::c_void;
use std::sync::Arc;

/// A `usize` for the C API; what is too large for it is too large for every check there.
pub(crate) fn saturate(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(crate) fn saturate_i32(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    Bf16,
    /// 32-bit integers.
    I32,
    /// 64-bit integers.
    I64,
    /// Bytes; of masks, 0 or 1.
    U8,
    /// 32 mask bits in a `u32`: bit `c` of word `w` is key block `32 w + c`.
    B32,
}

impl Dtype {
    pub(crate) fn code(self) -> sys::seer_dtype {
        match self {
            Dtype::F32 => sys::SEER_F32,
            Dtype::F16 => sys::SEER_F16,
            Dtype::Bf16 => sys::SEER_BF16,
            Dtype::I32 => sys::SEER_I32,
            Dtype::I64 => sys::SEER_I64,
            Dtype::U8 => sys::SEER_U8,
            Dtype::B32 => sys::SEER_B32,
        }
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A type that tensors and buffers have as elements: plain data, of which every bit pattern is a value.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// Its name in the library.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($type:ty => $dtype:ident,)*) => {$(
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$dtype;
        }
    )*};
}
elements! { f32 => F32, i32 => I32, i64 => I64, u8 => U8, u32 => B32, }
#[cfg(feature = "half")]
elements! { half::f16 => F16, half::bf16 => Bf16, }

/// What keeps a tensor's memory alive where that is not a borrow.
#[derive(Clone)]
pub(crate) enum Owner {
    Buffer(Buffer),
    Host { _memory: Arc<dyn Send + Sync> },
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Buffer(buffer) => buffer.fmt(f),
            Owner::Host { .. } => f.write_str("Host"),
        }
    }
}

/// A descriptor and what it needs; the common part of [`TensorRef`] and [`TensorMut`].
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub raw: sys::seer_tensor,
    pub owner: Option<Owner>,
    /// Why it is no tensor, where the library could not see that; the operation that gets it fails with this.
    pub error: Option<Error>,
}

impl View {
    fn new(raw: sys::seer_tensor) -> Self {
        View { raw, owner: None, error: None }
    }

    /// `size` bytes of host memory.
    pub fn host(data: *const c_void, size: usize, dtype: Dtype, shape: &[usize]) -> Self {
        let mut raw = sys::seer_tensor {
            mem: sys::SEER_MEM_HOST,
            dtype: dtype.code(),
            data: data as *mut c_void, // inputs are never written
            size: size as u64,
            ..Default::default()
        };
        set_shape(&mut raw, shape);
        View::new(raw)
    }

    fn buffer(buffer: Buffer, dtype: Dtype, shape: &[usize]) -> Self {
        let mut raw = sys::seer_tensor {
            mem: sys::SEER_MEM_BUFFER,
            dtype: dtype.code(),
            buffer: buffer.as_ptr(),
            size: buffer.size(),
            ..Default::default()
        };
        set_shape(&mut raw, shape);
        View { owner: Some(Owner::Buffer(buffer)), ..View::new(raw) }
    }

    fn set_strides(&mut self, strides: &[usize]) {
        if strides.len() != self.raw.ndim as usize {
            let text = format!("{} strides were given for {} dimensions", strides.len(), self.raw.ndim);
            self.error = Some(Error::new(Status::Stride, text));
        }
        for (to, &from) in self.raw.stride.iter_mut().zip(strides) {
            *to = saturate(from);
        }
    }
}

/// More than four dimensions are told to the library as such, which refuses them.
fn set_shape(raw: &mut sys::seer_tensor, shape: &[usize]) {
    raw.ndim = saturate_i32(shape.len());
    for (to, &from) in raw.shape.iter_mut().zip(shape) {
        *to = saturate(from);
    }
}

macro_rules! layout_methods {
    () => {
        /// With these strides, in elements, instead of packed ones. The last one must be 1 (unless its extent is 1),
        /// the others are free: memory laid out as `[B, H, S, D]` is a `[B, S, H, D]` tensor with two strides swapped.
        pub fn with_strides(mut self, strides: &[usize]) -> Self {
            self.view.set_strides(strides);
            self
        }

        /// With its first element this many bytes after the start of the memory.
        pub fn with_offset(mut self, bytes: u64) -> Self {
            self.view.raw.offset = bytes;
            self
        }
    };
}

/// An input: a view of memory that lives for `'a` and is only read.
///
/// Making one checks nothing: the operation that gets it refuses what does not fit, e.g. a shape that exceeds its
/// memory ([`Status::OutOfBounds`]).
#[derive(Clone, Debug)]
pub struct TensorRef<'a> {
    pub(crate) view: View,
    life: PhantomData<&'a [u8]>,
}

/// An output: a view of memory that lives for `'a` and is borrowed by nobody else.
///
/// Outputs are written only by the operation that gets them; what it leaves in them when it fails is unspecified.
#[derive(Debug)]
pub struct TensorMut<'a> {
    pub(crate) view: View,
    life: PhantomData<&'a mut [u8]>,
}

// SAFETY: like `&[T]` and `&mut [T]` of plain data, which they stand for; `Buffer` and the owners are `Send + Sync`.
// What comes by `from_raw` has its caller's promise.
unsafe impl Send for TensorRef<'_> {}
// SAFETY: as above.
unsafe impl Sync for TensorRef<'_> {}
// SAFETY: as above.
unsafe impl Send for TensorMut<'_> {}
// SAFETY: as above; a shared `TensorMut` gives no access to its memory.
unsafe impl Sync for TensorMut<'_> {}

impl<'a> TensorRef<'a> {
    /// A packed tensor over the start of `data`, the last dimension fastest.
    pub fn new<T: Element>(data: &'a [T], shape: &[usize]) -> Self {
        Self::wrap(View::host(data.as_ptr().cast(), std::mem::size_of_val(data), T::DTYPE, shape))
    }

    /// Likewise over bytes, e.g. of a file, which must begin at a multiple of the element's size.
    pub fn from_bytes(data: &'a [u8], dtype: Dtype, shape: &[usize]) -> Self {
        Self::wrap(View::host(data.as_ptr().cast(), data.len(), dtype, shape))
    }

    /// Any memory that the C API can describe: CUDA, Vulkan, host.
    ///
    /// # Safety
    /// What `raw` describes is memory of that kind and size; until `'a` ends, or the operation that gets the tensor is
    /// done, it stays alive and is not written by others.
    pub unsafe fn from_raw(raw: sys::seer_tensor) -> Self {
        Self::wrap(View::new(raw))
    }

    pub(crate) fn wrap(view: View) -> Self {
        TensorRef { view, life: PhantomData }
    }

    layout_methods!();
}

impl TensorRef<'static> {
    /// A packed tensor over shared memory, which it keeps alive: for [`Context::submit`](crate::Context::submit).
    ///
    /// ```
    /// # use seerattn::TensorRef;
    /// # use std::sync::Arc;
    /// let q = Arc::new(vec![0f32; 64 * 128]);
    /// let tensor = TensorRef::shared::<f32, _>(q.clone(), &[1, 64, 1, 128]);
    /// ```
    pub fn shared<T: Element, A: AsRef<[T]> + Send + Sync + 'static>(data: Arc<A>, shape: &[usize]) -> Self {
        let slice: &[T] = (*data).as_ref();
        let mut view = View::host(slice.as_ptr().cast(), std::mem::size_of_val(slice), T::DTYPE, shape);
        // A borrow of what the `Arc` holds is good as long as an `Arc` exists: exclusive access needs to be the only
        // one.
        view.owner = Some(Owner::Host { _memory: data });
        Self::wrap(view)
    }

    pub(crate) fn from_buffer(buffer: Buffer, dtype: Dtype, shape: &[usize]) -> Self {
        Self::wrap(View::buffer(buffer, dtype, shape))
    }
}

impl<'a> TensorMut<'a> {
    /// A packed tensor over the start of `data`, the last dimension fastest.
    pub fn new<T: Element>(data: &'a mut [T], shape: &[usize]) -> Self {
        Self::wrap(View::host(data.as_mut_ptr().cast::<c_void>(), std::mem::size_of_val(data), T::DTYPE, shape))
    }

    /// Likewise over bytes, which must begin at a multiple of the element's size.
    pub fn from_bytes(data: &'a mut [u8], dtype: Dtype, shape: &[usize]) -> Self {
        Self::wrap(View::host(data.as_mut_ptr().cast::<c_void>(), data.len(), dtype, shape))
    }

    /// Any memory that the C API can describe: CUDA, Vulkan, host.
    ///
    /// # Safety
    /// What `raw` describes is memory of that kind and size; until `'a` ends, or the operation that gets the tensor is
    /// done, it stays alive and is neither read nor written by others.
    pub unsafe fn from_raw(raw: sys::seer_tensor) -> Self {
        Self::wrap(View::new(raw))
    }

    pub(crate) fn wrap(view: View) -> Self {
        TensorMut { view, life: PhantomData }
    }

    layout_methods!();
}

impl TensorMut<'static> {
    pub(crate) fn from_buffer(buffer: Buffer, dtype: Dtype, shape: &[usize]) -> Self {
        Self::wrap(View::buffer(buffer, dtype, shape))
    }
}

/// Of a view that an operation was given as `name`.
pub(crate) fn refuse(name: &str, error: &Error) -> Result<()> {
    Err(Error::new(error.status(), format!("{}: {}", name, error.detail())))
}
