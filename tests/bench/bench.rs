//! `scripts/bench`: coldfs beside its peers on this machine, in one run.

#![allow(clippy::unwrap_used, reason = "a bench ends by panicking")]

use std::path::PathBuf;

use clap::{Parser, Subcommand};

mod bare;
mod cold;
mod counting;
mod engine;
mod files;
mod fleet;
mod hot;
mod null;
mod pair;
mod peers;
mod probe;
mod reader;
mod subject;
mod volume;

/// Measures coldfs beside its peers: paired, in turns, medians.
#[derive(Debug, Parser)]
#[command(name = "scripts/bench")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// Files that are local: data through the mount, and what metadata costs.
    ///
    /// Metrics: seq_read_1m, rand_read_4k, odirect_read_4k, mmap_read, seq_write_1m,
    /// rand_write_4k, create, unlink, open_read_close, stat, find, du, ls_lr, git_status, tar_x,
    /// cargo_build. Peers: native (the plain directory), null (a FUSE daemon that does nothing: the
    /// floor of what goes to a daemon and back), bare (a minimal fuser passthrough), bindfs.
    Hot(Options),
    /// Files whose bytes are in a store on loopback: latency, throughput, many small ones.
    ///
    /// Metrics: first_byte_4k, seq_read_1g, small_files_10k, bulk_recall_16k,
    /// reader_p99_in_storm. Peers: sdk (the bare AWS SDK), s3fs, rclone (its mount), s5cmd, alone
    /// (the same reader without a storm).
    Cold(Options),
    /// The probe that counts uses: what it costs who reads, and what taking its counts costs.
    ///
    /// Metrics: pread_one_file, pread_many_files, other_device, cargo_build, git_status, tar,
    /// fio_seq, drain_entries (and drain_entries_shared, with thousands of tenants), idle_drain,
    /// memory_1m_files. Peers: off (no probe), ring (the classic tracepoint into the kernel's ring
    /// buffer, a record an access), fanotify (FAN_ACCESS), atime_scan, one_tenant. In brackets the
    /// interval of the median.
    Probe(Options),
    /// A thousand tenants that are mounted and idle in one daemon; once, whatever the rounds.
    ///
    /// Metrics: attach_all_ms (all of them, from the start), attach_ms (one, with its command, beside
    /// all others), memory_per_tenant, threads_per_tenant, fds_per_tenant, idle_per_tenant. Peer: process
    /// (`coldfs mount`, a daemon a tenant).
    Fleet(Options),
    /// Reads, for `probe`.
    #[command(hide = true)]
    Reader { dir: PathBuf, files: usize },
    /// Reads a byte of many files, for `probe`.
    #[command(hide = true)]
    Touch { dir: PathBuf, step: usize },
}

/// What every bench takes.
#[derive(Debug, clap::Args)]
struct Options {
    /// Three rounds over less, within a minute
    #[arg(long)]
    quick: bool,
    /// One JSON object a line, metric and peer
    #[arg(long)]
    json: bool,
    /// Rounds that count, after one that does not
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Only these metrics, comma separated
    #[arg(long, value_delimiter = ',', value_name = "METRIC")]
    only: Vec<String>,
    /// Only these peers, comma separated
    #[arg(long, value_delimiter = ',', value_name = "PEER")]
    peers: Vec<String>,
    /// Where the files are put: the filesystem that is measured on
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
}

impl Options {
    fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 3 } else { 7 })
    }

    fn wants(&self, metric: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == metric)
    }
}

fn main() {
    // What `cargo bench` adds of its own.
    let arguments = std::env::args().filter(|argument| argument != "--bench");
    match Cli::parse_from(arguments).bench {
        Bench::Hot(options) => hot::run(&options),
        Bench::Cold(options) => cold::run(&options),
        Bench::Probe(options) => probe::run(&options),
        Bench::Fleet(options) => fleet::run(&options),
        Bench::Reader { dir, files } => reader::read_here(&dir, files),
        Bench::Touch { dir, step } => probe::touch_here(&dir, step),
    }
}
