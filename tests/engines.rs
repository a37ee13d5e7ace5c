//! Engines that lie, fail and change under a mount: what doctor says of each, and what a mount does
//! with it. The engine is `harness::liar`, in this process.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test that panics says where"
)]

#[path = "engines/doctor.rs"]
mod doctor;
#[path = "engines/dripping.rs"]
mod dripping;
mod harness;
#[path = "engines/mounting.rs"]
mod mounting;
#[path = "engines/reaching.rs"]
mod reaching;
#[path = "engines/running.rs"]
mod running;
