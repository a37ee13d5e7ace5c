//! Control: how a person's command reaches the daemon that serves a path.
//!
//! Each daemon listens on `PID.sock`, mode 0600, in the runtime directory, and answers HTTP
//! with JSON. A command asks every live socket which mountpoints it serves and talks to the
//! one whose mountpoint is the longest prefix of the path. Long work streams one JSON object
//! a line; a client that goes away cancels it.
//!
//! - [`wire`]: what both sides say
//! - [`engine`]: what the daemon must be able to do
//! - [`server`]: HTTP in front of an engine
//! - [`client`]: the other end
//! - [`dial`]: connecting to a socket whose daemon may hang
//! - [`runtime`]: where sockets are, and which are stale
//! - [`filter`]: which files `find` means

pub mod client;
pub mod dial;
pub mod engine;
pub mod filter;
pub mod runtime;
pub mod server;
pub mod wire;
