//! The default policy of coldfs: what is archived, released, recalled and kept, decided purely.
//!
//! [`settings`] reads what a person wrote into a [`rulebook::Rulebook`]; a [`pass::Pass`] asks it
//! about candidates, coldest first, until enough is freed; [`explain`] says why and until when;
//! [`admit`] decides whether a file that is read while released comes home. Nothing here does I/O,
//! reads a clock or draws a random number: same inputs, same decisions.
//!
//! `component/` puts the contract (`wit/policy.wit`) around it. docs/policy.md is for users.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

// Words, without rules in them.
pub mod facts;
pub mod units;
// What a person writes.
pub mod glob;
pub mod parse;
pub mod rule;
pub mod settings;
// Judgement.
pub mod admit;
pub mod economy;
pub mod explain;
pub mod pass;
pub mod rulebook;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod samples;
