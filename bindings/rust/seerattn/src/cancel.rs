//! Cancel flags.
use crate::error::{check, Result};
use crate::sys;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// A flag that stops the work it was given to. Once triggered it stays so; one flag may serve many calls.
///
/// A clone is the same flag. Work in flight keeps its flag alive.
#[derive(Clone, Debug)]
pub struct Cancel(Arc<Flag>);

#[derive(Debug)]
struct Flag(NonNull<sys::seer_cancel>);

// SAFETY: the header: thread-safe.
unsafe impl Send for Flag {}
// SAFETY: likewise.
unsafe impl Sync for Flag {}

impl Cancel {
    /// A flag that is not triggered.
    pub fn new() -> Result<Self> {
        let mut raw = ptr::null_mut();
        // SAFETY: `raw` may be written; on success it is a reference of ours.
        check(unsafe { sys::seer_cancel_create(&mut raw) })?;
        Ok(Cancel(Arc::new(Flag(NonNull::new(raw).expect("success gives a handle")))))
    }

    /// Cancels the work that has this flag, in flight or to come. Works on any thread, in callbacks and in signal
    /// handlers.
    pub fn trigger(&self) {
        // SAFETY: the handle is alive as long as `self`.
        unsafe { sys::seer_cancel_trigger(self.as_ptr()) }
    }

    pub(crate) fn as_ptr(&self) -> *mut sys::seer_cancel {
        self.0 .0.as_ptr()
    }
}

impl Drop for Flag {
    fn drop(&mut self) {
        // SAFETY: the reference that create gave; submissions hold an `Arc` until their ticket is done.
        unsafe { sys::seer_cancel_release(self.0.as_ptr()) }
    }
}
