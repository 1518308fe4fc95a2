//! `completions` and `man`: what a shell and a reader of manuals want, made from the same definitions as `--help`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Prints a completion script for a shell.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone completions bash > /etc/bash_completion.d/plugtone
  plugtone completions zsh > ~/.zfunc/_plugtone")]
pub struct Completions {
    shell: Shell,
}

/// Prints the manual page, or writes one page per subcommand into a folder.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone man | man -l -
  plugtone man --out /usr/local/share/man/man1")]
pub struct Man {
    /// Write plugtone.1, plugtone-serve.1 … here.
    #[arg(long, value_name = "FOLDER")]
    out: Option<std::path::PathBuf>,
}

impl Completions {
    pub fn run(self) -> anyhow::Result<()> {
        clap_complete::generate(self.shell, &mut super::Cli::command(), "plugtone", &mut std::io::stdout());
        Ok(())
    }
}

impl Man {
    pub fn run(self) -> anyhow::Result<()> {
        match self.out {
            Some(folder) => clap_mangen::generate_to(super::Cli::command(), folder)?,
            None => clap_mangen::Man::new(super::Cli::command()).render(&mut std::io::stdout())?,
        }
        Ok(())
    }
}
