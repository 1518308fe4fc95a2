//! `ivr`: lists the call flows, and rehearses one offline with a scripted caller.

use std::{path::PathBuf, time::Instant};

use anyhow::Context;
use clap::{Args, Subcommand};

use super::out::{self, say};
use crate::{
    ivr::{
        loader,
        machine::Facts,
        settings::Settings,
        simulate::{Line, Script, Stage, rehearse, transcript},
        speech::Utterance,
    },
    model::Extension,
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
    #[arg(long, short, value_name = "FILE", global = true, env = "PLUGTONE_CONFIG")]
    config: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Action {
    /// Lists the flows, shipped and your own.
    #[command(after_help = "Examples:
  plugtone ivr list
  plugtone ivr list --json --config plugtone.yaml")]
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Runs a flow with a scripted caller and prints what would be said, with times.
    #[command(after_help = "Examples:
  plugtone ivr test welcome --script 'directory refused; listen; keys 1001#; listen; keys 0000#; wait 5s; hang up'
  plugtone ivr test ivr/flows/night.yaml --script-file caller.txt --bound 2041

`plugtone ivr --help` explains scripts.")]
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
        bound: Option<Extension>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Ivr {
    pub fn run(self) -> anyhow::Result<()> {
        let settings = match &self.config {
            Some(path) => super::ConfigArg { config: path.clone() }.load()?.ivr,
            None => Settings::default(),
        };
        match self.action {
            Action::List { json } => {
                let flows = loader::load_all(&settings)?;
                if json {
                    let shown = flows.iter().map(|flow| serde_json::json!({ "name": flow.name, "description": flow.description }));
                    return out::json(&shown.collect::<Vec<_>>());
                }
                for flow in flows {
                    say!("{:<16} {}", flow.name, flow.description);
                }
                Ok(())
            }
            Action::Test { flow, script, script_file, bound, json } => {
                let (file, text) = match (script, script_file) {
                    (Some(text), _) => ("--script".to_owned(), text),
                    (None, Some(path)) => (path.display().to_string(), super::read(&path)?),
                    (None, None) => anyhow::bail!("give --script or --script-file"),
                };
                let lines = test(&settings, &flow, &file, &text, bound)?;
                if json {
                    return out::json(&lines);
                }
                out::text(&transcript(&lines));
                Ok(())
            }
        }
    }
}

fn test(settings: &Settings, flow: &str, file: &str, text: &str, bound: Option<Extension>) -> anyhow::Result<Vec<Line>> {
    let prompts = loader::load_prompts(settings.path.as_deref(), &settings.language)?;
    let flow = loader::load_flow(settings.path.as_deref(), flow, &prompts)?;
    let script = Script::parse(file, text).context("the script cannot be read")?;
    let device_state = if bound.is_some() { "bound" } else { "provisional" };
    let facts = Facts { device_state: device_state.to_owned(), device_extension: bound };
    let words = |id: &str| prompts.text(id);
    let length = |utterance: &Utterance| prompts.length(utterance);
    Ok(rehearse(std::sync::Arc::new(flow), facts, &script, &Stage { text: &words, length: &length }, Instant::now()))
}
