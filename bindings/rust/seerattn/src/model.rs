//! Gate weights.
use crate::callback::{Progress, ProgressFn};
use crate::cancel::Cancel;
use crate::context::Context;
use crate::error::{check, Error, Result, Status};
use crate::rope::Rope;
use crate::select::Select;
use crate::sys;
use crate::tensor::{refuse, saturate_i32, TensorRef, View};
use std::ffi::CString;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::ptr::{self, NonNull};

/// The gates of a model's layers. Immutable; a clone is the same model.
///
/// It may be shared between threads and serves every context of the device that it was loaded on.
#[derive(Debug)]
pub struct Model(NonNull<sys::seer_model>);

// SAFETY: the header: immutable and thread-safe.
unsafe impl Send for Model {}
// SAFETY: likewise.
unsafe impl Sync for Model {}

impl Model {
    /// Loads a folder in the style of Hugging Face: `config.json` with `attn_gate_weights.safetensors`, else `.pth`,
    /// else the gates inside the model's own `.safetensors`. [`LoadOptions`] can load a part.
    pub fn load(ctx: &Context, dir: impl AsRef<Path>) -> Result<Self> {
        LoadOptions::new().load(ctx, dir)
    }

    /// The same from memory: the text of `config.json` and a `.safetensors` or `.pth` image.
    pub fn from_bytes(ctx: &Context, config_json: &[u8], weights: &[u8]) -> Result<Self> {
        LoadOptions::new().load_bytes(ctx, config_json, weights)
    }

    /// From arrays, which are copied: one [`GateWeights`] for each of `config.layers`.
    pub fn from_weights(ctx: &Context, config: &GateConfig, layers: &[GateWeights<'_>]) -> Result<Self> {
        // C would read as many as `config` says.
        if config.layers != layers.len() {
            let text = format!("config.layers is {}, but the weights of {} were given", config.layers, layers.len());
            return Err(Error::new(Status::InvalidArgument, text));
        }
        let raw_config = config.to_raw();
        let mut weights = Vec::with_capacity(layers.len());
        for layer in layers {
            let mut raw = sys::seer_gate_weights { wk: layer.wk.view.raw, ..Default::default() };
            refuse_unseen("wk", &layer.wk.view)?;
            if let Some(wq) = &layer.wq {
                refuse_unseen("wq", &wq.view)?;
                raw.wq = wq.view.raw;
            }
            weights.push(raw);
        }
        let pointers: Vec<*const sys::seer_gate_weights> = weights.iter().map(|w| w as *const _).collect();
        let mut raw = ptr::null_mut();
        // SAFETY: `pointers` has `config.layers` valid ones; all of it is read during the call.
        check(unsafe { sys::seer_model_create(ctx.as_ptr(), &raw_config, pointers.as_ptr(), &mut raw) })?;
        Ok(Self::wrap(raw))
    }

    /// Writes `config.json` and `attn_gate_weights.safetensors` into a folder, which must exist. Each file is complete
    /// or absent, whatever happens.
    pub fn save(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = path(dir.as_ref())?;
        // SAFETY: the handle lives, `dir` ends with NUL.
        check(unsafe { sys::seer_model_save(self.as_ptr(), dir.as_ptr()) })
    }

    /// Sizes and settings.
    pub fn config(&self) -> Result<GateConfig> {
        let mut raw = sys::seer_gate_config::default();
        // SAFETY: the handle lives, `raw` may be written and says its size.
        check(unsafe { sys::seer_model_config(self.as_ptr(), &mut raw) })?;
        // SAFETY: the pointers in `raw` live as long as the model.
        Ok(unsafe { GateConfig::from_raw(&raw) })
    }

    fn wrap(raw: *mut sys::seer_model) -> Self {
        Model(NonNull::new(raw).expect("success gives a handle"))
    }

    pub(crate) fn as_ptr(&self) -> *const sys::seer_model {
        self.0.as_ptr()
    }
}

impl Clone for Model {
    fn clone(&self) -> Self {
        // SAFETY: the handle lives; the new reference is the clone's.
        unsafe { sys::seer_model_retain(self.0.as_ptr()) }
        Model(self.0)
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: this object's reference.
        unsafe { sys::seer_model_release(self.0.as_ptr()) }
    }
}

fn refuse_unseen(name: &str, view: &View) -> Result<()> {
    view.error.as_ref().map_or(Ok(()), |error| refuse(name, error))
}

/// Paths go to C as they are on Unix, where they need not be UTF-8; elsewhere they must be.
fn path(path: &Path) -> Result<CString> {
    #[cfg(unix)]
    let bytes = {
        use std::os::unix::ffi::OsStrExt;
        path.as_os_str().as_bytes()
    };
    #[cfg(not(unix))]
    let bytes = match path.to_str() {
        Some(text) => text.as_bytes(),
        None => return Err(Error::new(Status::InvalidArgument, format!("dir is {:?}, not UTF-8", path))),
    };
    CString::new(bytes).map_err(|_| Error::new(Status::InvalidArgument, format!("dir is {:?}, with a NUL in it", path)))
}

/// What of a folder is loaded, and how.
///
/// ```no_run
/// # use seerattn::{Backend, Context, LoadOptions};
/// # let ctx = Context::new(Backend::Auto)?;
/// let model = LoadOptions::new().layers(0..16).safetensors_only().load(&ctx, "path/to/gates")?;
/// # Ok::<(), seerattn::Error>(())
/// ```
#[derive(Default)]
#[must_use = "`load` loads the model"]
pub struct LoadOptions<'c> {
    params: sys::seer_load_params,
    cancel: Option<Cancel>,
    progress: Option<ProgressFn<'c>>,
    error: Option<Error>,
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions").field("params", &self.params).finish_non_exhaustive()
    }
}

impl<'c> LoadOptions<'c> {
    /// Everything, from any kind of file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Only these layers. They keep their numbers.
    pub fn layers(mut self, layers: Range<usize>) -> Self {
        self.refuse_empty("layers", &layers);
        self.params.first_layer = saturate_i32(layers.start);
        self.params.layer_count = saturate_i32(layers.len());
        self
    }

    /// Only these KV heads and their query heads: the share of one rank of tensor parallelism.
    pub fn kv_heads(mut self, heads: Range<usize>) -> Self {
        self.refuse_empty("kv_heads", &heads);
        self.params.first_kv_head = saturate_i32(heads.start);
        self.params.kv_head_count = saturate_i32(heads.len());
        self
    }

    /// A count of 0 means all in C.
    fn refuse_empty(&mut self, name: &str, range: &Range<usize>) {
        if range.is_empty() {
            self.error = Some(Error::new(Status::InvalidArgument, format!("{} is {:?}, which is empty", name, range)));
        }
    }

    /// The largest file that is read, in bytes; 0 = 16 GiB.
    pub fn max_file_bytes(mut self, bytes: u64) -> Self {
        self.params.max_file_bytes = bytes;
        self
    }

    /// Never opens a `.pth`.
    pub fn safetensors_only(mut self) -> Self {
        self.params.flags |= sys::SEER_LOAD_SAFETENSORS_ONLY;
        self
    }

    /// Stops when this flag is triggered.
    pub fn cancel(mut self, cancel: &Cancel) -> Self {
        self.cancel = Some(cancel.clone());
        self
    }

    /// Is told how many bytes of how many are read, on any thread; `Break` cancels. A panic in it cancels too, and goes
    /// on in the caller of `load`.
    pub fn progress(mut self, progress: impl Fn(u64, u64) -> ControlFlow<()> + Send + Sync + 'c) -> Self {
        self.progress = Some(Box::new(progress));
        self
    }

    /// Loads a folder, see [`Model::load`]. Blocks.
    pub fn load(self, ctx: &Context, dir: impl AsRef<Path>) -> Result<Model> {
        let dir = path(dir.as_ref())?;
        // SAFETY: the context lives, `dir` ends with NUL, `params` and `out` are good during the call.
        self.run(|params, out| unsafe { sys::seer_model_load_dir(ctx.as_ptr(), dir.as_ptr(), params, out) })
    }

    /// Loads from memory, see [`Model::from_bytes`]. Blocks.
    pub fn load_bytes(self, ctx: &Context, config_json: &[u8], weights: &[u8]) -> Result<Model> {
        // SAFETY: the context lives, the slices have these sizes, `params` and `out` are good during the call.
        self.run(|params, out| unsafe {
            sys::seer_model_load_memory(
                ctx.as_ptr(),
                config_json.as_ptr().cast(),
                config_json.len() as u64,
                weights.as_ptr().cast(),
                weights.len() as u64,
                params,
                out,
            )
        })
    }

    fn run(
        mut self,
        load: impl FnOnce(*const sys::seer_load_params, *mut *mut sys::seer_model) -> sys::seer_status,
    ) -> Result<Model> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let progress = self.progress.map(Progress::new);
        let (call, user) = Progress::raw(progress.as_ref());
        self.params.progress = call;
        self.params.progress_user = user;
        self.params.cancel = self.cancel.as_ref().map_or(ptr::null_mut(), Cancel::as_ptr);
        let mut raw = ptr::null_mut();
        let result = check(load(&self.params, &mut raw)).map(|()| Model::wrap(raw));
        if let Some(progress) = progress {
            progress.resume();
        }
        result
    }
}

/// Poolings of a gate, which are concatenated on the channel axis always in the order maximum, minimum, average.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// The maximum.
    pub max: bool,
    /// The minimum.
    pub min: bool,
    /// The average.
    pub avg: bool,
}

impl Pool {
    /// How many there are.
    pub fn count(self) -> usize {
        usize::from(self.max) + usize::from(self.min) + usize::from(self.avg)
    }

    fn to_raw(self) -> i32 {
        let bit = |set: bool, bit: i32| if set { bit } else { 0 };
        bit(self.max, sys::SEER_POOL_MAX) | bit(self.min, sys::SEER_POOL_MIN) | bit(self.avg, sys::SEER_POOL_AVG)
    }

    fn from_raw(bits: i32) -> Self {
        Pool {
            max: bits & sys::SEER_POOL_MAX != 0,
            min: bits & sys::SEER_POOL_MIN != 0,
            avg: bits & sys::SEER_POOL_AVG != 0,
        }
    }
}

/// Sizes and settings of a model's gates. For [`Model::from_weights`] start from the default and set what you have.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct GateConfig {
    /// How many; of a model loaded in part, those loaded.
    pub layers: usize,
    /// The number of the first one.
    pub first_layer: usize,
    /// Query heads.
    pub q_heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Channels of the gate, `E`.
    pub gate_dim: usize,
    /// Tokens of a block: 32, 64 or 128.
    pub block_size: usize,
    /// Of queries.
    pub q_pool: Pool,
    /// Of keys.
    pub k_pool: Pool,
    /// `mask_linear_q` exists even where the single form would do.
    pub force_double: bool,
    /// The model's, over `head_dim` channels.
    pub rope: Rope<'static>,
    /// The gate's, over `gate_dim` channels; the default is as `rope`.
    pub gate_rope: Rope<'static>,
    /// What [`Select::model`] means; the default here is a threshold of 0.
    pub select: Select,
}

impl GateConfig {
    fn to_raw(&self) -> sys::seer_gate_config {
        sys::seer_gate_config {
            layers: saturate_i32(self.layers),
            first_layer: saturate_i32(self.first_layer),
            q_heads: saturate_i32(self.q_heads),
            kv_heads: saturate_i32(self.kv_heads),
            head_dim: saturate_i32(self.head_dim),
            gate_dim: saturate_i32(self.gate_dim),
            block_size: saturate_i32(self.block_size),
            q_pool: self.q_pool.to_raw(),
            k_pool: self.k_pool.to_raw(),
            force_double: self.force_double.into(),
            rope: self.rope.to_raw(),
            gate_rope: self.gate_rope.to_raw(),
            select: self.select.to_raw(),
            ..Default::default()
        }
    }

    /// # Safety
    /// The pointers in `raw` are valid.
    unsafe fn from_raw(raw: &sys::seer_gate_config) -> Self {
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        GateConfig {
            layers: size(raw.layers),
            first_layer: size(raw.first_layer),
            q_heads: size(raw.q_heads),
            kv_heads: size(raw.kv_heads),
            head_dim: size(raw.head_dim),
            gate_dim: size(raw.gate_dim),
            block_size: size(raw.block_size),
            q_pool: Pool::from_raw(raw.q_pool),
            k_pool: Pool::from_raw(raw.k_pool),
            force_double: raw.force_double != 0,
            // SAFETY: the caller's promise.
            rope: unsafe { Rope::from_raw(&raw.rope) },
            // SAFETY: likewise.
            gate_rope: unsafe { Rope::from_raw(&raw.gate_rope) },
            select: Select::from_raw(&raw.select),
        }
    }
}

/// The weights of one layer: host tensors of f32, f16 or bf16.
#[derive(Clone, Debug)]
pub struct GateWeights<'a> {
    /// `[q_heads, head_dim * q_pool.count(), gate_dim]`; absent in the single form.
    pub wq: Option<TensorRef<'a>>,
    /// `[kv_heads, head_dim * k_pool.count(), gate_dim]`; in the single form `[q_heads, ...]`.
    pub wk: TensorRef<'a>,
}
