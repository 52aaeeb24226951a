//! The safe crate against the library: golden cases, every misuse that compiles, work in flight.
mod arrays;
mod case;
mod golden;
mod in_flight;
mod misuse;
mod models;

use seerattn::{Backend, Context};

fn cpu() -> Context {
    Context::new(Backend::Cpu).expect("the CPU backend always works")
}
