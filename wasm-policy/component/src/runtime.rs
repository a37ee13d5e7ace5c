//! What a component without a standard library has to bring: memory, and an end.

#[global_allocator]
static MEMORY: dlmalloc::GlobalDlmalloc = dlmalloc::GlobalDlmalloc;

/// A panic traps. Its message is not formatted: that would be half of the component, and put the
/// builder's paths into it.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    core::arch::wasm32::unreachable()
}
