//! The command line's entrance; everything else is in the library.

use std::process::ExitCode;

use clap::Parser;

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
