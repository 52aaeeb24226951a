//! Rotary position embedding.
use crate::sys;
use std::borrow::Cow;

/// Which rotary position embedding is applied; half-rotation layout.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Rope<'c> {
    /// The model's in [`Prefill`](crate::Prefill) and [`Gate`](crate::Gate), none in
    /// [`Attention`](crate::Attention).
    #[default]
    Default,
    /// `q` and `k` are used as they are.
    None,
    /// Plain RoPE.
    #[non_exhaustive]
    Theta {
        /// The base, e.g. 10000.
        theta: f64,
        /// Factor on cosine and sine; 0 = 1.
        attention_scaling: f64,
    },
    /// Inverse frequencies, which cover every scaling.
    #[non_exhaustive]
    InvFreq {
        /// One for every two channels that turn.
        inv_freq: Cow<'c, [f32]>,
        /// Factor on cosine and sine; 0 = 1.
        attention_scaling: f64,
    },
}

impl<'c> Rope<'c> {
    /// Plain RoPE of this base.
    pub fn theta(theta: f64) -> Self {
        Rope::Theta { theta, attention_scaling: 0.0 }
    }

    /// RoPE of these inverse frequencies, one for every two channels that turn.
    pub fn inv_freq(inv_freq: impl Into<Cow<'c, [f32]>>) -> Self {
        Rope::InvFreq { inv_freq: inv_freq.into(), attention_scaling: 0.0 }
    }

    /// With this factor on cosine and sine.
    pub fn scaled(mut self, factor: f64) -> Self {
        if let Rope::Theta { attention_scaling, .. } | Rope::InvFreq { attention_scaling, .. } = &mut self {
            *attention_scaling = factor;
        }
        self
    }

    /// A view of `self`, valid as long as `self` is borrowed.
    pub(crate) fn to_raw(&self) -> sys::seer_rope {
        let mut raw = sys::seer_rope::default();
        match self {
            Rope::Default => raw.kind = sys::SEER_ROPE_DEFAULT,
            Rope::None => raw.kind = sys::SEER_ROPE_NONE,
            Rope::Theta { theta, attention_scaling } => {
                raw.kind = sys::SEER_ROPE_THETA;
                raw.theta = *theta;
                raw.attention_scaling = *attention_scaling;
            }
            Rope::InvFreq { inv_freq, attention_scaling } => {
                raw.kind = sys::SEER_ROPE_INV_FREQ;
                raw.inv_freq = inv_freq.as_ptr();
                raw.inv_freq_count = u32::try_from(inv_freq.len()).unwrap_or(u32::MAX);
                raw.attention_scaling = *attention_scaling;
            }
        }
        raw
    }

    /// # Safety
    /// `inv_freq`, if it is not NULL, has `inv_freq_count` values.
    pub(crate) unsafe fn from_raw(raw: &sys::seer_rope) -> Rope<'static> {
        match raw.kind {
            sys::SEER_ROPE_NONE => Rope::None,
            sys::SEER_ROPE_THETA => Rope::Theta { theta: raw.theta, attention_scaling: raw.attention_scaling },
            sys::SEER_ROPE_INV_FREQ if !raw.inv_freq.is_null() => {
                // SAFETY: the caller's promise.
                let values = unsafe { std::slice::from_raw_parts(raw.inv_freq, raw.inv_freq_count as usize) };
                Rope::InvFreq { inv_freq: Cow::Owned(values.to_vec()), attention_scaling: raw.attention_scaling }
            }
            _ => Rope::Default,
        }
    }
}
