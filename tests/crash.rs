//! What survives: the daemon dies at every named point, at random instants, and the power
//! goes; afterwards each file is its old or its new version (P7), what is detached is a
//! pointer or the truth (P6), and what was acknowledged as durable is there.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test that panics says where"
)]

#[path = "crash/durable.rs"]
mod durable;
mod harness;
#[path = "crash/kill.rs"]
mod kill;
#[path = "crash/meet.rs"]
mod meet;
#[path = "crash/sweep.rs"]
mod sweep;
