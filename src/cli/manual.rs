//! `completions` and `man`: what a shell and a reader of manuals want, made from the same definitions as `--help`.

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::out;

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
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "plugtone", &mut script);
        out::text(&String::from_utf8(script)?);
        Ok(())
    }
}

impl Man {
    pub fn run(self) -> anyhow::Result<()> {
        match self.out {
            Some(folder) => clap_mangen::generate_to(super::Cli::command(), &folder)
                .with_context(|| format!("cannot write the pages into {}", folder.display()))?,
            None => {
                let mut page = Vec::new();
                clap_mangen::Man::new(super::Cli::command()).render(&mut page)?;
                out::text(&String::from_utf8(page)?);
            }
        }
        Ok(())
    }
}
