//! The compressed keys of a chunked prefill.
use crate::context::Context;
use crate::error::{check, Result};
use crate::model::Model;
use crate::sys;
use crate::tensor::{saturate, saturate_i32};
use std::ptr::{self, NonNull};

/// Per layer and sequence, the gate's vector of each complete key block, so that a chunk pools only what is new.
///
/// An operation of the same context and model that names the cache adds the blocks that the cache lacks. The keys
/// themselves stay with the caller: each call passes all of them so far. Work that fails or is cancelled leaves the
/// cache as it was.
///
/// One thread at a time: it may move to another thread but not be shared.
///
/// ```compile_fail,E0277
/// fn shared<T: Sync>() {}
/// shared::<seerattn::GateCache>();
/// ```
#[derive(Debug)]
pub struct GateCache(NonNull<sys::seer_gate_cache>);

// SAFETY: the header: one thread at a time, whichever.
unsafe impl Send for GateCache {}

impl GateCache {
    /// For `sequences` sequences (the batch of the calls it will serve) of at most `max_tokens` tokens each.
    pub fn new(ctx: &Context, model: &Model, sequences: usize, max_tokens: usize) -> Result<Self> {
        let params = sys::seer_gate_cache_params {
            sequences: saturate_i32(sequences),
            max_tokens: saturate(max_tokens),
            ..Default::default()
        };
        let mut raw = ptr::null_mut();
        // SAFETY: the handles live, `params` is read during the call, `raw` may be written.
        check(unsafe { sys::seer_gate_cache_create(ctx.as_ptr(), model.as_ptr(), &params, &mut raw) })?;
        Ok(GateCache(NonNull::new(raw).expect("success gives a handle")))
    }

    /// Tokens covered, a multiple of the block size; submitted work is included.
    pub fn tokens(&self, layer: usize, sequence: usize) -> Result<usize> {
        let mut tokens = 0;
        let (layer, sequence) = (saturate_i32(layer), saturate_i32(sequence));
        // SAFETY: the handle lives, `tokens` may be written.
        check(unsafe { sys::seer_gate_cache_length(self.0.as_ptr(), layer, sequence, &mut tokens) })?;
        Ok(usize::try_from(tokens).unwrap_or(0))
    }

    /// Forgets what lies beyond `tokens` (rounded down to blocks) of one sequence or, with `None`, of all, in all
    /// layers.
    pub fn truncate(&mut self, sequence: Option<usize>, tokens: usize) -> Result<()> {
        let sequence = sequence.map_or(-1, saturate_i32);
        // SAFETY: the handle lives and is ours alone.
        check(unsafe { sys::seer_gate_cache_truncate(self.0.as_ptr(), sequence, saturate(tokens)) })
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut sys::seer_gate_cache {
        self.0.as_ptr()
    }
}

impl Drop for GateCache {
    fn drop(&mut self) {
        // SAFETY: the reference that create gave; work in flight has its own.
        unsafe { sys::seer_gate_cache_release(self.0.as_ptr()) }
    }
}
