//! How blocks are chosen.
use crate::sys;
use crate::tensor::{saturate, saturate_i32};

/// What a row of blocks keeps.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum SelectMethod {
    /// As the model's `config.json` says.
    #[default]
    Model,
    /// Blocks whose probability is greater; 0 to 1, typically 5e-4 to 5e-3 at 32k to 128k tokens.
    Threshold(f64),
    /// A share `r` of the causal triangle: the best `max(1, floor((1 - sqrt(1 - r)) nK))` of each row; over 0, up to 1.
    Ratio(f64),
    /// Tokens per row: the best `max(1, n / block)`.
    Budget(usize),
    /// Every causal block: dense attention through the sparse path.
    All,
}

/// How blocks are chosen. A row that would keep nothing keeps its diagonal block.
///
/// ```
/// # use seerattn::Select;
/// let select = Select::threshold(2e-3).last_dense_rows(2).keep_first();
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Select {
    /// The rule.
    pub method: SelectMethod,
    /// Block rows at the end that keep everything; `None` is the model's number (2 without a model).
    pub last_dense_rows: Option<usize>,
    /// Also keep each row's own block.
    pub keep_diagonal: bool,
    /// Also keep the first key block, where attention sinks are.
    pub keep_first: bool,
}

impl From<SelectMethod> for Select {
    fn from(method: SelectMethod) -> Self {
        Select { method, ..Default::default() }
    }
}

impl Select {
    /// [`SelectMethod::Model`], the default.
    pub fn model() -> Self {
        SelectMethod::Model.into()
    }

    /// [`SelectMethod::Threshold`].
    pub fn threshold(threshold: f64) -> Self {
        SelectMethod::Threshold(threshold).into()
    }

    /// [`SelectMethod::Ratio`].
    pub fn ratio(ratio: f64) -> Self {
        SelectMethod::Ratio(ratio).into()
    }

    /// [`SelectMethod::Budget`].
    pub fn budget(tokens: usize) -> Self {
        SelectMethod::Budget(tokens).into()
    }

    /// [`SelectMethod::All`].
    pub fn all() -> Self {
        SelectMethod::All.into()
    }

    /// Block rows at the end that keep everything; 0 = none.
    pub fn last_dense_rows(mut self, rows: usize) -> Self {
        self.last_dense_rows = Some(rows);
        self
    }

    /// Also keeps each row's own block.
    pub fn keep_diagonal(mut self) -> Self {
        self.keep_diagonal = true;
        self
    }

    /// Also keeps the first key block.
    pub fn keep_first(mut self) -> Self {
        self.keep_first = true;
        self
    }

    pub(crate) fn to_raw(self) -> sys::seer_select_spec {
        let mut raw = sys::seer_select_spec::default();
        raw.method = match self.method {
            SelectMethod::Model => sys::SEER_SELECT_MODEL,
            SelectMethod::Threshold(threshold) => {
                raw.threshold = threshold;
                sys::SEER_SELECT_THRESHOLD
            }
            SelectMethod::Ratio(ratio) => {
                raw.ratio = ratio;
                sys::SEER_SELECT_RATIO
            }
            SelectMethod::Budget(tokens) => {
                raw.token_budget = saturate(tokens);
                sys::SEER_SELECT_BUDGET
            }
            SelectMethod::All => sys::SEER_SELECT_ALL,
        };
        raw.last_dense_rows = match self.last_dense_rows {
            None => 0,
            Some(0) => -1,
            Some(rows) => saturate_i32(rows),
        };
        if self.keep_diagonal {
            raw.flags |= sys::SEER_SELECT_KEEP_DIAGONAL;
        }
        if self.keep_first {
            raw.flags |= sys::SEER_SELECT_KEEP_FIRST;
        }
        raw
    }

    pub(crate) fn from_raw(raw: &sys::seer_select_spec) -> Self {
        Select {
            method: match raw.method {
                sys::SEER_SELECT_THRESHOLD => SelectMethod::Threshold(raw.threshold),
                sys::SEER_SELECT_RATIO => SelectMethod::Ratio(raw.ratio),
                sys::SEER_SELECT_BUDGET => SelectMethod::Budget(usize::try_from(raw.token_budget).unwrap_or(0)),
                sys::SEER_SELECT_ALL => SelectMethod::All,
                _ => SelectMethod::Model,
            },
            last_dense_rows: match raw.last_dense_rows {
                0 => None,
                rows => Some(usize::try_from(rows).unwrap_or(0)),
            },
            keep_diagonal: raw.flags & sys::SEER_SELECT_KEEP_DIAGONAL != 0,
            keep_first: raw.flags & sys::SEER_SELECT_KEEP_FIRST != 0,
        }
    }
}
