//! `ivr`: lists the call flows, and rehearses one offline with a scripted caller.

use std::{path::PathBuf, time::Instant};

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::ivr::{
    loader,
    machine::Facts,
    settings::Settings,
    simulate::{Script, Stage, rehearse, transcript},
    speech::Utterance,
};

/// Lists the call flows, and rehearses one offline.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone ivr list
  plugtone ivr test welcome --script 'directory accepted Ada Lovelace 2041; bind bound; listen; keys 1001#; listen; keys 1815#; listen; keys 1'
  plugtone ivr test welcome --script-file wrong-pin.txt

A script has one step a line, or parted by semicolons:
  directory accepted NAME [EXTENSION] | refused | locked | unavailable | silent [after 3s]
  bind bound [EXTENSION] | refused | unavailable | silent
  listen | wait 5s | keys 1001# | hang up")]
pub struct Ivr {
    #[command(subcommand)]
    action: Action,
    /// The configuration, for flows and prompts of your own; without it the shipped ones.
    #[arg(long, short, value_name = "FILE", env = "PLUGTONE_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Action {
    /// Lists the flows, shipped and your own.
    List,
    /// Runs a flow with a scripted caller and prints what would be said, with times.
    Test {
        /// The flow's name, or a path to its YAML file.
        flow: String,
        /// What the caller and the directory do.
        #[arg(long, required_unless_present = "script_file", conflicts_with = "script_file")]
        script: Option<String>,
        /// The same from a file.
        #[arg(long, value_name = "FILE")]
        script_file: Option<PathBuf>,
        /// As if the phone had this extension already.
        #[arg(long)]
        bound: Option<crate::model::Extension>,
    },
}

impl Ivr {
    pub fn run(self) -> anyhow::Result<()> {
        let settings = match &self.config {
            Some(path) => super::ConfigArg { config: path.clone() }.load()?.ivr,
            None => Settings::default(),
        };
        match self.action {
            Action::List => {
                for flow in loader::load_all(&settings)? {
                    println!("{:<16} {}", flow.name, flow.description);
                }
                Ok(())
            }
            Action::Test { flow, script, script_file, bound } => {
                let (file, text) = match (script, script_file) {
                    (Some(text), _) => ("--script".to_owned(), text),
                    (None, Some(path)) => (path.display().to_string(), super::read(&path)?),
                    (None, None) => anyhow::bail!("give --script or --script-file"),
                };
                test(&settings, &flow, &file, &text, bound)
            }
        }
    }
}

fn test(settings: &Settings, flow: &str, file: &str, text: &str, bound: Option<crate::model::Extension>) -> anyhow::Result<()> {
    let prompts = loader::load_prompts(settings.path.as_deref(), &settings.language)?;
    let flow = loader::load_flow(settings.path.as_deref(), flow, &prompts)?;
    let script = Script::parse(file, text).context("the script cannot be read")?;
    let device_state = if bound.is_some() { "bound" } else { "provisional" };
    let facts = Facts { device_state: device_state.to_owned(), device_extension: bound };
    let words = |id: &str| prompts.text(id);
    let length = |utterance: &Utterance| prompts.length(utterance);
    let lines = rehearse(std::sync::Arc::new(flow), facts, &script, &Stage { text: &words, length: &length }, Instant::now());
    print!("{}", transcript(&lines));
    Ok(())
}
