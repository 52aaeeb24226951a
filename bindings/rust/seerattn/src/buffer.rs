//! Memory of the device.
use crate::context::Context;
use crate::error::{check, Result};
use crate::sys;
use crate::tensor::{Element, TensorMut, TensorRef};
use std::os::raw::c_void;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// Memory of a context's device, owned by the library. On the CPU backend it is host memory.
///
/// A clone is the same memory. Reading, writing and operations take effect in the order of the context's queue, so a
/// buffer may be shared between threads. It serves the context that made it and no other. What was never written is
/// unspecified. Tensors of a buffer, and work in flight, keep it alive.
#[derive(Clone, Debug)]
pub struct Buffer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    raw: NonNull<sys::seer_buffer>,
    size: u64,
    ctx: Context,
}

// SAFETY: the header: the handle is thread-safe. The contents are reached by queue-ordered calls of one context only
// (operations check it), or through `address`, whose use is unsafe.
unsafe impl Send for Inner {}
// SAFETY: likewise.
unsafe impl Sync for Inner {}

impl Buffer {
    /// Takes `size` bytes from the context's device.
    pub fn new(ctx: &Context, size: u64) -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: the context lives, `raw` may be written.
        check(unsafe { sys::seer_buffer_create(ctx.as_ptr(), size, 0, &mut raw) })?;
        let raw = NonNull::new(raw).expect("success gives a handle");
        Ok(Buffer(Arc::new(Inner { raw, size, ctx: ctx.clone() })))
    }

    /// Takes as much as `data` needs and writes it there. Blocks.
    pub fn from_slice<T: Element>(ctx: &Context, data: &[T]) -> Result<Self> {
        let buffer = Buffer::new(ctx, std::mem::size_of_val(data) as u64)?;
        buffer.write(0, data)?;
        Ok(buffer)
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// Writes `data` from byte `offset` on, after all work submitted so far. Blocks.
    pub fn write<T: Element>(&self, offset: u64, data: &[T]) -> Result<()> {
        let size = std::mem::size_of_val(data) as u64;
        // SAFETY: `data` has `size` bytes, read during the call; the library checks the range within the buffer.
        check(unsafe { sys::seer_buffer_write(self.as_ptr(), offset, data.as_ptr().cast(), size) })
    }

    /// Reads from byte `offset` on into `data`, after all work submitted so far. Blocks.
    pub fn read<T: Element>(&self, offset: u64, data: &mut [T]) -> Result<()> {
        let size = std::mem::size_of_val(data) as u64;
        // SAFETY: `data` has `size` bytes, written during the call, and every bit pattern is a value of an `Element`.
        check(unsafe { sys::seer_buffer_read(self.as_ptr(), offset, data.as_mut_ptr().cast(), size) })
    }

    /// Where it lies: on the CPU backend a host pointer, on CUDA a device pointer. It is valid as long as the buffer;
    /// whoever uses it sees to it that no submitted work does so at the same time.
    pub fn address(&self) -> Result<*mut c_void> {
        let mut address = ptr::null_mut();
        // SAFETY: the handle lives, `address` may be written.
        check(unsafe { sys::seer_buffer_address(self.as_ptr(), &mut address) })?;
        Ok(address)
    }

    /// A packed tensor over the buffer's start, as an input.
    pub fn tensor<T: Element>(&self, shape: &[usize]) -> TensorRef<'static> {
        TensorRef::from_buffer(self.clone(), T::DTYPE, shape)
    }

    /// A packed tensor over the buffer's start, as an output. Within one operation it may overlap no other tensor.
    pub fn tensor_mut<T: Element>(&self, shape: &[usize]) -> TensorMut<'static> {
        TensorMut::from_buffer(self.clone(), T::DTYPE, shape)
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::seer_buffer {
        self.0.raw.as_ptr()
    }

    pub(crate) fn belongs_to(&self, ctx: &Context) -> bool {
        self.0.ctx.as_ptr() == ctx.as_ptr()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // SAFETY: the reference that create gave. The library frees the memory after the last call that uses it.
        unsafe { sys::seer_buffer_release(self.raw.as_ptr()) }
    }
}
