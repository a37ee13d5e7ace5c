//! Segments from the first byte pushed to the last byte read, on a store in memory.

mod content;
mod damage;
mod layout;
pub(crate) mod support;
mod turns;
mod whole;
