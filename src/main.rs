//! The command line's entrance; everything else is in the library.

use std::{path::Path, process::ExitCode};

use clap::Parser;
use plugtone::template::worker;

/// A message of SIP makes and frees some fifty small pieces of memory, on the one thread of the engine; see ARCHITECTURE.md, libraries.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator asks the system for huge pages. The system clears one, up to 10 ms long on a virtual machine, when the thread of the
    // engine touches it first: no phone is answered then. Where the system cannot be told, it is as slow as that.
    let _ = nix::sys::prctl::set_thp_disable(true);
    // The program as it runs, also when its file was replaced meanwhile.
    worker::start_as(Path::new("/proc/self/exe"));
    if std::env::args_os().nth(1).is_some_and(|argument| argument == worker::ARGUMENT) {
        // Who started it sees it end, and starts another.
        return worker::serve().map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
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
