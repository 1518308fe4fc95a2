//! `labels users`, `labels phones`: sheets to print and cut, as HTML with rules for paper. Asks the API, decides nothing.

use std::{collections::HashMap, path::PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, syntax::SyntaxConfig, value::Serde};
use serde::Serialize;

use super::{ServerArg, ladder::escaped, out};
use crate::api::devices::{Binding, Device, Person};

const SHEET: &str = include_str!("labels.html.j2");

/// Writes a sheet to print and cut: a card for each user on how to get a phone, or a label for each phone.
#[derive(Args)]
#[command(after_help = "A browser prints it; without one in sight: chromium --headless --print-to-pdf=cards.pdf cards.html

Examples:
  plugtone labels users > cards.html
  plugtone labels phones --search berlin > labels.html")]
pub struct Labels {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Users(Users),
    Phones(Phones),
}

/// Writes a card for each user: number, what to dial, what to key in, and where their PIN is, but never the PIN.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone labels users > cards.html
  plugtone labels users --only 1001 --only 1002 --pin 'in your letter of welcome' --output cards.html
  plugtone labels users --template ours.html.j2 > cards.html")]
struct Users {
    /// Only for this login or extension. Repeat for more.
    #[arg(long, value_name = "NUMBER")]
    only: Vec<String>,
    /// What reaches the voice menu from a new phone.
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    dial: String,
    /// Where users find their PIN.
    #[arg(long, value_name = "WORDS", default_value = "ask IT for it")]
    pin: String,
    #[command(flatten)]
    sheet: Sheet,
}

/// Writes a label for each phone: what it is called, where it belongs, its MAC address, and whose it is.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone labels phones > labels.html
  plugtone labels phones --search 'berlin t46' --output labels.html")]
struct Phones {
    /// Only those in which every one of these words is found, as in `plugtone devices`.
    #[arg(long, short, value_name = "WORDS", default_value = "")]
    search: String,
    #[command(flatten)]
    sheet: Sheet,
}

#[derive(Args)]
struct Sheet {
    /// What stands above the cards, as the office's name.
    #[arg(long, default_value = "Plugtone")]
    title: String,
    /// A minijinja template of your own; the shipped one is `src/cli/labels.html.j2`.
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// The file to write; without it: standard output.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    #[command(flatten)]
    server: ServerArg,
}

/// What a template sees.
#[derive(Serialize)]
struct Values<'a> {
    kind: &'a str,
    title: &'a str,
    dial: &'a str,
    pin: &'a str,
    cards: Vec<UserCard>,
    labels: Vec<PhoneLabel>,
}

/// What a card of a user says.
#[derive(Serialize)]
struct UserCard {
    name: String,
    login: String,
    /// Empty: one is given when they sign in.
    extension: String,
}

/// What a label of a phone says.
#[derive(Serialize)]
struct PhoneLabel {
    label: String,
    mac: String,
    make: String,
    place: String,
    owner: String,
}

impl Labels {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Users(command) => command.run().await,
            What::Phones(command) => command.run().await,
        }
    }
}

impl Users {
    async fn run(self) -> anyhow::Result<()> {
        let client = self.sheet.server.client()?;
        let people: Vec<Person> = client.get("/api/v1/users?limit=10000").await?;
        let bindings: Vec<Binding> = client.get("/api/v1/bindings").await?;
        let given: HashMap<&str, &str> = bindings.iter().map(|binding| (&*binding.user_id, &*binding.extension)).collect();
        let card = |person: &Person| {
            let extension = person.extension.as_deref().or(given.get(&*person.id).copied()).unwrap_or_default();
            UserCard { name: person.display_name.clone(), login: person.login.clone(), extension: extension.to_owned() }
        };
        let wanted = |card: &UserCard| self.only.is_empty() || self.only.contains(&card.login) || self.only.contains(&card.extension);
        let mut cards: Vec<UserCard> = people.iter().map(card).filter(wanted).collect();
        cards.sort_by_cached_key(|card| (card.name.to_lowercase(), card.login.clone()));
        self.sheet.write(&Values { kind: "users", title: &self.sheet.title, dial: &self.dial, pin: &self.pin, cards, labels: Vec::new() })
    }
}

impl Phones {
    async fn run(self) -> anyhow::Result<()> {
        let path = format!("/api/v1/devices?limit=10000&q={}", escaped(&self.search));
        let devices: Vec<Device> = self.sheet.server.client()?.get(&path).await?;
        let label = |device: Device| PhoneLabel {
            label: device.label.unwrap_or_default(),
            mac: device.mac,
            make: [device.family, device.model].into_iter().flatten().collect::<Vec<_>>().join(" "),
            place: device.location.or(device.port).or(device.site).unwrap_or_default(),
            owner: device.binding.map(|owner| format!("{} {}", owner.extension, owner.display_name)).unwrap_or_default(),
        };
        let labels: Vec<PhoneLabel> = devices.into_iter().map(label).collect();
        self.sheet.write(&Values { kind: "phones", title: &self.sheet.title, dial: "", pin: "", cards: Vec::new(), labels })
    }
}

impl Sheet {
    fn write(&self, values: &Values<'_>) -> anyhow::Result<()> {
        let (name, text) = match &self.template {
            Some(path) => (path.display().to_string(), super::read(path)?),
            None => ("labels.html.j2".to_owned(), SHEET.to_owned()),
        };
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        let mut syntax = SyntaxConfig::builder();
        syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
        environment.set_syntax(syntax.build()?);
        environment.add_template_owned(name.clone(), text).with_context(|| format!("{name} is no template"))?;
        let sheet = environment.get_template(&name)?.render(Serde(values)).with_context(|| format!("{name} cannot be rendered"))?;
        match &self.output {
            Some(path) => std::fs::write(path, &sheet).with_context(|| format!("cannot write {}", path.display())),
            None => {
                out::text(&sheet);
                Ok(())
            }
        }
    }
}
