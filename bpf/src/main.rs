//! The probe: tells which files are read, from inside the kernel, on the filesystems below the
//! mounts. Page-cache hits, faults and direct I/O count, whoever asks and by whatever call.
//!
//! Four kinds of programs do the same; the daemon loads the first that this kernel allows.
//! Offsets of fields are globals that the daemon sets from the running kernel's own description
//! (BTF) when it loads: Rust has no relocations for them, and the verifier takes them as
//! constants.
//!
//! Never in user space, never an event each: a file's accesses are a number in a map, which the
//! daemon takes every few seconds. Time is the daemon's business.

#![no_std]
#![no_main]
// The BPF target has no atomic methods, though the machine has the instruction.
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "an addition to a counter, nothing else")]

mod fields;
#[allow(dead_code, reason = "shared with the daemon, each side uses its part")]
mod layout;
mod note;

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{btf_tracepoint, fentry, raw_tracepoint, tracepoint};
use aya_ebpf::programs::{BtfTracePointContext, FEntryContext, RawTracePointContext, TracePointContext};

use fields::{Checked, Plain};
use note::{Inode, note};

// tp_btf: typed arguments, plain loads. Linux 5.5; the direct I/O one from 6.6 or so.

#[btf_tracepoint(function = "mm_filemap_get_pages")]
pub fn btf_get_pages(ctx: BtfTracePointContext) -> i32 {
    note(&Plain::of_mapping(ctx.arg(0)), ctx.arg(1));
    0
}

#[btf_tracepoint(function = "mm_filemap_map_pages")]
pub fn btf_map_pages(ctx: BtfTracePointContext) -> i32 {
    note(&Plain::of_mapping(ctx.arg(0)), 0);
    0
}

#[btf_tracepoint(function = "mm_filemap_fault")]
pub fn btf_fault(ctx: BtfTracePointContext) -> i32 {
    note(&Plain::of_mapping(ctx.arg(0)), 0);
    0
}

#[btf_tracepoint(function = "iomap_dio_rw_begin")]
pub fn btf_direct(ctx: BtfTracePointContext) -> i32 {
    note(&Plain::of_iocb(ctx.arg(0)), 0);
    0
}

// fentry: on functions, where a kernel lacks the tracepoints.

#[fentry(function = "security_file_permission")]
pub fn entry_permission(ctx: FEntryContext) -> i32 {
    let inode = Plain::of_file(ctx.arg(0));
    // No page is told here: the daemon's test is known by its file.
    note(&inode, inode.number);
    0
}

#[fentry(function = "filemap_map_pages")]
pub fn entry_map_pages(ctx: FEntryContext) -> i32 {
    note(&Plain::of_fault(ctx.arg(0)), 0);
    0
}

#[fentry(function = "filemap_fault")]
pub fn entry_fault(ctx: FEntryContext) -> i32 {
    note(&Plain::of_fault(ctx.arg(0)), 0);
    0
}

// raw_tp: untyped arguments, checked loads.

#[raw_tracepoint(tracepoint = "mm_filemap_get_pages")]
pub fn raw_get_pages(ctx: RawTracePointContext) -> i32 {
    if let Some(inode) = Checked::of_mapping(ctx.arg(0)) {
        note(&inode, ctx.arg(1));
    }
    0
}

#[raw_tracepoint(tracepoint = "mm_filemap_map_pages")]
pub fn raw_map_pages(ctx: RawTracePointContext) -> i32 {
    if let Some(inode) = Checked::of_mapping(ctx.arg(0)) {
        note(&inode, 0);
    }
    0
}

#[raw_tracepoint(tracepoint = "mm_filemap_fault")]
pub fn raw_fault(ctx: RawTracePointContext) -> i32 {
    if let Some(inode) = Checked::of_mapping(ctx.arg(0)) {
        note(&inode, 0);
    }
    0
}

#[raw_tracepoint(tracepoint = "iomap_dio_rw_begin")]
pub fn raw_direct(ctx: RawTracePointContext) -> i32 {
    if let Some(inode) = Checked::of_iocb(ctx.arg(0)) {
        note(&inode, 0);
    }
    0
}

// Classic tracepoints: the record's fields, which need no BTF. They do not tell generations.

/// What a record says at these offsets, which the daemon has compared with the kernel's.
fn recorded(ctx: &TracePointContext, device: usize, number: usize) -> Inode {
    // SAFETY: within the tracepoint's record, whose length the verifier knows.
    unsafe {
        let base = ctx.as_ptr().cast::<u8>();
        let device = base.add(device).cast::<u32>().read();
        let number = base.add(number).cast::<u64>().read();
        Inode { device, generation: 0, number }
    }
}

fn index(ctx: &TracePointContext) -> u64 {
    // SAFETY: as above.
    unsafe { ctx.as_ptr().cast::<u8>().add(layout::PAGES_INDEX).cast::<u64>().read() }
}

#[tracepoint(category = "filemap", name = "mm_filemap_get_pages")]
pub fn classic_get_pages(ctx: TracePointContext) -> u32 {
    note(&recorded(&ctx, layout::FILEMAP_DEVICE, layout::FILEMAP_NUMBER), index(&ctx));
    0
}

#[tracepoint(category = "filemap", name = "mm_filemap_map_pages")]
pub fn classic_map_pages(ctx: TracePointContext) -> u32 {
    note(&recorded(&ctx, layout::FILEMAP_DEVICE, layout::FILEMAP_NUMBER), 0);
    0
}

#[tracepoint(category = "filemap", name = "mm_filemap_fault")]
pub fn classic_fault(ctx: TracePointContext) -> u32 {
    note(&recorded(&ctx, layout::FILEMAP_DEVICE, layout::FILEMAP_NUMBER), 0);
    0
}

#[tracepoint(category = "iomap", name = "iomap_dio_rw_begin")]
pub fn classic_direct(ctx: TracePointContext) -> u32 {
    note(&recorded(&ctx, layout::DIRECT_DEVICE, layout::DIRECT_NUMBER), 0);
    0
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
