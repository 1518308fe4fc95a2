//! `pin`: makes the hash of a PIN for a users file.

use std::io::{IsTerminal, Read};

use clap::{Args, Subcommand};

use super::out::say;
use crate::{directory, model::Keys};

/// Makes the hash of a PIN for a users file.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone pin hash            asks for the PIN
  plugtone pin hash < pin.txt")]
pub struct Pin {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Reads a PIN from standard input and prints its argon2id hash.
    #[command(after_help = "Examples:
  plugtone pin hash            asks for the PIN
  plugtone pin hash < pin.txt")]
    Hash,
}

impl Pin {
    pub fn run(self) -> anyhow::Result<()> {
        let Action::Hash = self.action;
        let mut text = String::new();
        if std::io::stdin().is_terminal() {
            eprint!("PIN: ");
            std::io::stdin().read_line(&mut text)?;
        } else {
            std::io::stdin().read_to_string(&mut text)?;
        }
        say!("{}", directory::files::hash_pin(&Keys::from(text.trim()))?);
        Ok(())
    }
}
