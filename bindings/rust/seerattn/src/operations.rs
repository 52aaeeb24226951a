//! The four operations as builders.
use crate::callback::ProgressFn;
use crate::cancel::Cancel;
use crate::context::Context;
use crate::error::{check, Error, Result, Status};
use crate::gate_cache::GateCache;
use crate::model::Model;
use crate::rope::Rope;
use crate::select::Select;
use crate::sys;
use crate::tensor::{refuse, saturate, saturate_i32, Owner, TensorMut, TensorRef, View};
use std::fmt;
use std::ops::ControlFlow;
use std::ptr;

/// What [`Context::run`], [`Scope::submit`](crate::Scope::submit) and [`Context::submit`] take: [`Prefill`], [`Gate`],
/// [`SelectBlocks`] and [`Attention`]. What must live until the work is done lives for `'t`.
pub trait Operation<'t>: sealed::RawOperation<'t> {}

pub(crate) mod sealed {
    use super::*;

    /// What must live until the work is done, but for borrowed memory.
    #[allow(missing_debug_implementations)] // nobody outside can have one
    pub struct Extras<'t> {
        pub(crate) owners: Vec<Owner>,
        pub(crate) cancel: Option<Cancel>,
        pub(crate) progress: Option<ProgressFn<'t>>,
    }

    pub trait RawOperation<'t> {
        /// To be called once, before `call`. Fails with what the library could not see.
        fn take_extras(&mut self, ctx: &Context) -> Result<Extras<'t>>;

        /// # Safety
        /// Unless it blocks or fails: what the extras hold, and `'t`, outlive the work.
        unsafe fn call(
            &mut self,
            ctx: *mut sys::seer_context,
            submit: *const sys::seer_submit,
            ticket: *mut sys::seer_ticket,
        ) -> sys::seer_status;
    }
}
use sealed::{Extras, RawOperation};

/// What all operations have.
#[derive(Default)]
struct Common<'t, 'c> {
    owners: Vec<Owner>,
    cancel: Option<Cancel>,
    progress: Option<ProgressFn<'t>>,
    sequences: Option<(&'c [i32], Option<&'c [i32]>)>,
    error: Option<Error>,
}

impl fmt::Debug for Common<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Common").field("owners", &self.owners).field("cancel", &self.cancel).finish_non_exhaustive()
    }
}

impl<'t, 'c> Common<'t, 'c> {
    fn tensor(&mut self, name: &str, view: View) -> sys::seer_tensor {
        if let Some(error) = &view.error {
            self.error = refuse(name, error).err();
        }
        self.owners.extend(view.owner);
        view.raw
    }

    fn input(&mut self, name: &str, tensor: impl Into<TensorRef<'t>>) -> sys::seer_tensor {
        self.tensor(name, tensor.into().view)
    }

    fn output(&mut self, name: &str, tensor: impl Into<TensorMut<'t>>) -> sys::seer_tensor {
        self.tensor(name, tensor.into().view)
    }

    /// C gets one count for both lists and reads as many of each.
    fn set_sequences(&mut self, q: &'c [i32], k: Option<&'c [i32]>) {
        if let Some(k) = k.filter(|k| k.len() != q.len()) {
            let text = format!("sequences has {} offsets for q and {} for k", q.len(), k.len());
            self.error = Some(Error::new(Status::Shape, text));
        }
        self.sequences = Some((q, k));
    }

    fn raw_sequences(&self) -> sys::seer_sequences {
        self.sequences.map_or_else(Default::default, |(q, k)| sys::seer_sequences {
            q: q.as_ptr(),
            k: k.map_or(ptr::null(), <[i32]>::as_ptr),
            count: saturate_i32(q.len()) - 1, // the library refuses -1, and 0 where there are offsets
            ..Default::default()
        })
    }

    fn take(&mut self, ctx: &Context) -> Result<Extras<'t>> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        for owner in &self.owners {
            // Two queues on the same memory would race.
            if matches!(owner, Owner::Buffer(buffer) if !buffer.belongs_to(ctx)) {
                return Err(Error::new(Status::Handle, "a tensor's buffer belongs to another context"));
            }
        }
        let owners = std::mem::take(&mut self.owners);
        Ok(Extras { owners, cancel: self.cancel.take(), progress: self.progress.take() })
    }
}

/// Builder methods of all operations.
macro_rules! common_methods {
    () => {
        /// A packed batch: sequence `b` has the query tokens, and key tokens, from `offsets[b]` to `offsets[b + 1]`.
        /// The first offset is 0, the last the number of tokens. Tensors then have no batch dimension: `[T, H, D]`.
        pub fn sequences(mut self, offsets: &'c [i32]) -> Self {
            self.common.set_sequences(offsets, None);
            self
        }

        /// A packed batch whose sequences have more keys than queries: offsets of both, as many of each.
        pub fn sequences_qk(mut self, q: &'c [i32], k: &'c [i32]) -> Self {
            self.common.set_sequences(q, Some(k));
            self
        }

        /// Stops when this flag is triggered: the operation ends as [`Status::Cancelled`].
        pub fn cancel(mut self, cancel: &Cancel) -> Self {
            self.common.cancel = Some(cancel.clone());
            self
        }

        /// Is told how many units of work of how many are done, on any thread and on several at once; `Break` cancels.
        /// The library answers [`Status::Busy`] in it. A panic cancels too, and goes on in the thread that waits.
        pub fn progress(mut self, progress: impl Fn(u64, u64) -> ControlFlow<()> + Send + Sync + 't) -> Self {
            self.common.progress = Some(Box::new(progress));
            self
        }
    };
}

macro_rules! gated_methods {
    () => {
        /// How blocks are chosen; the model's way unless told.
        pub fn select(mut self, select: impl Into<Select>) -> Self {
            self.desc.select = select.into().to_raw();
            self
        }

        /// For chunks: the blocks that the cache covers are not pooled again, and new ones are added.
        pub fn cache(mut self, cache: &'c mut GateCache) -> Self {
            self.cache = Some(cache);
            self
        }

        /// For chunks: tokens of the whole prompt, for the ratio method and `last_dense_rows`. 0 = the keys are all
        /// there is.
        pub fn total_len(mut self, tokens: usize) -> Self {
            self.desc.total_len = saturate(tokens);
            self
        }
    };
}

/// All five stages: pool, project, score, select, attend.
///
/// Shapes, with `B` batch, `S` query tokens, `L` key tokens, `Hq` and `Hkv` heads, `D` channels, `P` tokens of a block,
/// `nQ = ceil(S / P)`, `nK = ceil(L / P)`: `q` and `out` are `[B, S, Hq, D]`, `k` and `v` `[B, L, Hkv, D]`; in a packed
/// batch without `B`. They share one type: f32, f16 or bf16. `q` and `k` are those after any q/k norm and **before
/// RoPE**. `'t` is the life of the tensors' memory, `'c` of what is read only while the operation is submitted.
#[derive(Debug)]
#[must_use = "an operation does nothing until a context runs it"]
pub struct Prefill<'t, 'c> {
    model: &'c Model,
    layer: i32,
    desc: sys::seer_prefill_desc,
    rope: Rope<'c>,
    cache: Option<&'c mut GateCache>,
    common: Common<'t, 'c>,
}

impl<'t, 'c> Prefill<'t, 'c> {
    /// Of one layer of the model.
    pub fn new(
        model: &'c Model,
        layer: usize,
        q: impl Into<TensorRef<'t>>,
        k: impl Into<TensorRef<'t>>,
        v: impl Into<TensorRef<'t>>,
        out: impl Into<TensorMut<'t>>,
    ) -> Self {
        let mut common = Common::default();
        let desc = sys::seer_prefill_desc {
            q: common.input("q", q),
            k: common.input("k", k),
            v: common.input("v", v),
            out: common.output("out", out),
            ..Default::default()
        };
        Prefill { model, layer: saturate_i32(layer), desc, rope: Rope::Default, cache: None, common }
    }

    /// Also gives the natural logarithms of the softmax denominators: f32 `[B, Hq, S]`.
    pub fn lse(mut self, lse: impl Into<TensorMut<'t>>) -> Self {
        self.desc.lse = self.common.output("lse", lse);
        self
    }

    /// Also gives the gate's probabilities (logits for ratio and budget): f32 `[B, Hq, nQ, nK]`.
    pub fn scores(mut self, scores: impl Into<TensorMut<'t>>) -> Self {
        self.desc.scores = self.common.output("scores", scores);
        self
    }

    /// Also gives the blocks attended to: `u8` `[B, Hq, nQ, nK]` or `u32` of 32 bits each,
    /// `[B, Hq, nQ, ceil(nK / 32)]`.
    pub fn mask(mut self, mask: impl Into<TensorMut<'t>>) -> Self {
        self.desc.mask = self.common.output("mask", mask);
        self
    }

    /// Overrides the model's and the gate's rotary embedding.
    pub fn rope(mut self, rope: Rope<'c>) -> Self {
        self.rope = rope;
        self
    }

    /// 0, the default, is `1 / sqrt(D)`.
    pub fn softmax_scale(mut self, scale: f64) -> Self {
        self.desc.softmax_scale = scale;
        self
    }

    gated_methods!();
    common_methods!();

    /// Bytes of workspace that this would take beyond its tensors. Computes nothing.
    pub fn workspace(&mut self, ctx: &Context) -> Result<u64> {
        if let Some(error) = &self.common.error {
            return Err(error.clone());
        }
        let desc = self.raw();
        let mut bytes = 0;
        // SAFETY: the handles live, `desc` is read during the call, `bytes` may be written.
        check(unsafe { sys::seer_prefill_workspace(ctx.as_ptr(), self.model.as_ptr(), &desc, &mut bytes) })?;
        Ok(bytes)
    }

    /// Valid as long as `self` is not changed or moved.
    fn raw(&mut self) -> sys::seer_prefill_desc {
        sys::seer_prefill_desc {
            sequences: self.common.raw_sequences(),
            rope: self.rope.to_raw(),
            cache: self.cache.as_mut().map_or(ptr::null_mut(), |cache| cache.as_mut_ptr()),
            ..self.desc
        }
    }
}

impl<'t> Operation<'t> for Prefill<'t, '_> {}
impl<'t> RawOperation<'t> for Prefill<'t, '_> {
    fn take_extras(&mut self, ctx: &Context) -> Result<Extras<'t>> {
        self.common.take(ctx)
    }

    unsafe fn call(
        &mut self,
        ctx: *mut sys::seer_context,
        submit: *const sys::seer_submit,
        ticket: *mut sys::seer_ticket,
    ) -> sys::seer_status {
        let desc = self.raw();
        // SAFETY: the caller's promise; the descriptor is read during the call.
        unsafe { sys::seer_prefill(ctx, self.model.as_ptr(), self.layer, &desc, submit, ticket) }
    }
}

/// The gate alone: pool, project, score and, if a mask is wanted, select. Shapes as in [`Prefill`].
#[derive(Debug)]
#[must_use = "an operation does nothing until a context runs it"]
pub struct Gate<'t, 'c> {
    model: &'c Model,
    layer: i32,
    desc: sys::seer_gate_desc,
    rope: Rope<'c>,
    cache: Option<&'c mut GateCache>,
    common: Common<'t, 'c>,
}

impl<'t, 'c> Gate<'t, 'c> {
    /// Of one layer of the model. At least one of `scores` and `mask` must follow.
    pub fn new(model: &'c Model, layer: usize, q: impl Into<TensorRef<'t>>, k: impl Into<TensorRef<'t>>) -> Self {
        let mut common = Common::default();
        let desc = sys::seer_gate_desc { q: common.input("q", q), k: common.input("k", k), ..Default::default() };
        Gate { model, layer: saturate_i32(layer), desc, rope: Rope::Default, cache: None, common }
    }

    /// Gives probabilities (logits for ratio and budget, or after `logits`): f32 `[B, Hq, nQ, nK]`.
    pub fn scores(mut self, scores: impl Into<TensorMut<'t>>) -> Self {
        self.desc.scores = self.common.output("scores", scores);
        self
    }

    /// Scores are logits, whatever the method.
    pub fn logits(mut self) -> Self {
        self.desc.flags |= sys::SEER_GATE_LOGITS;
        self
    }

    /// Gives the blocks chosen: `u8` `[B, Hq, nQ, nK]` or `u32` of 32 bits each, `[B, Hq, nQ, ceil(nK / 32)]`.
    pub fn mask(mut self, mask: impl Into<TensorMut<'t>>) -> Self {
        self.desc.mask = self.common.output("mask", mask);
        self
    }

    /// Overrides the gate's rotary embedding, over `gate_dim` channels.
    pub fn rope(mut self, rope: Rope<'c>) -> Self {
        self.rope = rope;
        self
    }

    gated_methods!();
    common_methods!();
}

impl<'t> Operation<'t> for Gate<'t, '_> {}
impl<'t> RawOperation<'t> for Gate<'t, '_> {
    fn take_extras(&mut self, ctx: &Context) -> Result<Extras<'t>> {
        self.common.take(ctx)
    }

    unsafe fn call(
        &mut self,
        ctx: *mut sys::seer_context,
        submit: *const sys::seer_submit,
        ticket: *mut sys::seer_ticket,
    ) -> sys::seer_status {
        let desc = sys::seer_gate_desc {
            sequences: self.common.raw_sequences(),
            rope: self.rope.to_raw(),
            cache: self.cache.as_mut().map_or(ptr::null_mut(), |cache| cache.as_mut_ptr()),
            ..self.desc
        };
        // SAFETY: the caller's promise; the descriptor is read during the call.
        unsafe { sys::seer_gate(ctx, self.model.as_ptr(), self.layer, &desc, submit, ticket) }
    }
}

/// Selection alone: scores to a mask. Shapes as in [`Prefill`].
#[derive(Debug)]
#[must_use = "an operation does nothing until a context runs it"]
pub struct SelectBlocks<'t, 'c> {
    desc: sys::seer_select_desc,
    common: Common<'t, 'c>,
}

impl<'t, 'c> SelectBlocks<'t, 'c> {
    /// `scores` are f32: probabilities for the threshold method, anything that ranks for the others. There is no model
    /// whose way could be meant.
    pub fn new(scores: impl Into<TensorRef<'t>>, mask: impl Into<TensorMut<'t>>, select: impl Into<Select>) -> Self {
        let mut common = Common::default();
        let desc = sys::seer_select_desc {
            scores: common.input("scores", scores),
            mask: common.output("mask", mask),
            select: select.into().to_raw(),
            ..Default::default()
        };
        SelectBlocks { desc, common }
    }

    /// Query and key tokens where they do not fill their blocks; 0 = they do. Not with `sequences`.
    pub fn tokens(mut self, queries: usize, keys: usize) -> Self {
        self.desc.q_len = saturate(queries);
        self.desc.k_len = saturate(keys);
        self
    }

    /// Tokens of a block: 32, 64 or 128; 64 unless told.
    pub fn block_size(mut self, tokens: usize) -> Self {
        self.desc.block_size = saturate_i32(tokens);
        self
    }

    /// For chunks: tokens of the whole prompt.
    pub fn total_len(mut self, tokens: usize) -> Self {
        self.desc.total_len = saturate(tokens);
        self
    }

    common_methods!();
}

impl<'t> Operation<'t> for SelectBlocks<'t, '_> {}
impl<'t> RawOperation<'t> for SelectBlocks<'t, '_> {
    fn take_extras(&mut self, ctx: &Context) -> Result<Extras<'t>> {
        self.common.take(ctx)
    }

    unsafe fn call(
        &mut self,
        ctx: *mut sys::seer_context,
        submit: *const sys::seer_submit,
        ticket: *mut sys::seer_ticket,
    ) -> sys::seer_status {
        let desc = sys::seer_select_desc { sequences: self.common.raw_sequences(), ..self.desc };
        // SAFETY: the caller's promise; the descriptor is read during the call.
        unsafe { sys::seer_select(ctx, &desc, submit, ticket) }
    }
}

/// Attention over the blocks of a mask of your own, or over all. Shapes as in [`Prefill`]. There is no RoPE unless
/// asked for.
#[derive(Debug)]
#[must_use = "an operation does nothing until a context runs it"]
pub struct Attention<'t, 'c> {
    desc: sys::seer_attention_desc,
    rope: Rope<'c>,
    common: Common<'t, 'c>,
}

impl<'t, 'c> Attention<'t, 'c> {
    /// Dense, until there is a mask.
    pub fn new(
        q: impl Into<TensorRef<'t>>,
        k: impl Into<TensorRef<'t>>,
        v: impl Into<TensorRef<'t>>,
        out: impl Into<TensorMut<'t>>,
    ) -> Self {
        let mut common = Common::default();
        let desc = sys::seer_attention_desc {
            q: common.input("q", q),
            k: common.input("k", k),
            v: common.input("v", v),
            out: common.output("out", out),
            ..Default::default()
        };
        Attention { desc, rope: Rope::Default, common }
    }

    /// The blocks to attend to; `u8` or `u32` as in [`Prefill::mask`]. A row without blocks gives 0 and an lse of -inf.
    pub fn mask(mut self, mask: impl Into<TensorRef<'t>>) -> Self {
        self.desc.mask = self.common.input("mask", mask);
        self
    }

    /// Also gives the natural logarithms of the softmax denominators: f32 `[B, Hq, S]`.
    pub fn lse(mut self, lse: impl Into<TensorMut<'t>>) -> Self {
        self.desc.lse = self.common.output("lse", lse);
        self
    }

    /// Rotary embedding on `q` and `k`.
    pub fn rope(mut self, rope: Rope<'c>) -> Self {
        self.rope = rope;
        self
    }

    /// 0, the default, is `1 / sqrt(D)`.
    pub fn softmax_scale(mut self, scale: f64) -> Self {
        self.desc.softmax_scale = scale;
        self
    }

    /// Tokens of a block: 32, 64 or 128; 64 unless told.
    pub fn block_size(mut self, tokens: usize) -> Self {
        self.desc.block_size = saturate_i32(tokens);
        self
    }

    common_methods!();
}

impl<'t> Operation<'t> for Attention<'t, '_> {}
impl<'t> RawOperation<'t> for Attention<'t, '_> {
    fn take_extras(&mut self, ctx: &Context) -> Result<Extras<'t>> {
        self.common.take(ctx)
    }

    unsafe fn call(
        &mut self,
        ctx: *mut sys::seer_context,
        submit: *const sys::seer_submit,
        ticket: *mut sys::seer_ticket,
    ) -> sys::seer_status {
        let desc =
            sys::seer_attention_desc { sequences: self.common.raw_sequences(), rope: self.rope.to_raw(), ..self.desc };
        // SAFETY: the caller's promise; the descriptor is read during the call.
        unsafe { sys::seer_attention(ctx, &desc, submit, ticket) }
    }
}
