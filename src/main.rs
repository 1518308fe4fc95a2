//! The command line's entrance; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;

/// A message of SIP makes and frees some fifty small pieces of memory, on the one thread of the engine; see ARCHITECTURE.md, libraries.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("plugtone: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(plugtone::cli::Cli::parse().run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("plugtone: {error:#}");
            ExitCode::FAILURE
        }
    }
}
