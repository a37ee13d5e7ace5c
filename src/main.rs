//! The `coldfs` program; everything is in the library.

fn main() -> std::process::ExitCode {
    coldfs::cli::main(std::env::args_os())
}
