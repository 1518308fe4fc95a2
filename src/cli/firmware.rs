//! `firmware add|list|remove|pin|unpin`: the makers' firmware, which phones shall run what, and what they run.

use std::{fmt::Write as _, path::PathBuf};

use anyhow::{Context, ensure};
use clap::{Args, Subcommand};
use hyper::Method;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;

use super::{
    ServerArg,
    out::{self, say},
    table,
};
use crate::{
    api::firmware::{self as api, FirmwareFile, FirmwarePhone, FirmwarePin, FirmwarePinRequest, FirmwarePinned},
    model::{MacAddr, hex},
};

/// Keeps the makers' firmware, and says which phones shall run which version. A phone is told where its firmware is while it runs
/// another version than is pinned for it; what it runs it says itself.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone firmware add T46U-108.86.0.90.rom --make yealink --model 'T4*U' --version 108.86.0.90
  plugtone firmware pin --make yealink --model T46U --version 108.86.0.90 --dry-run
  plugtone firmware pin --make yealink --model T46U --version 108.86.0.90
  plugtone rollout start --canary 2             two phones first, more when they are back with it
  plugtone firmware list                        what there is, and which phones run what")]
pub struct Firmware {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Add(Add),
    List(List),
    Remove(Remove),
    Pin(Pin),
    Unpin(Unpin),
}

/// Copies a file into the server's folder. Its name has to be the one that phones ask for; a maker's version may have several files.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone firmware add T46U-108.86.0.90.rom --make yealink --model 'T4*U' --version 108.86.0.90
  plugtone firmware add grp2614fw.bin --make grandstream --model 'GRP2614*' --version 1.0.13.50
  plugtone firmware add *.sip.ld sip.ver --make poly --version 6.4.6.2494
  plugtone firmware add *.loads *.sbn --make cisco_79xx --model '794*' --version 9.4.2")]
#[command(disable_version_flag = true)]
struct Add {
    /// The maker's files, as they are called there.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The family of templates, as `plugtone devices` shows it.
    #[arg(long)]
    make: String,
    /// Only for this model; several times for several. `*` stands for anything. Without it: all models of the make.
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// As the phone says it in its User-Agent.
    #[arg(long)]
    version: String,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Lists the files, the pins, and which phones run what.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone firmware list
  plugtone firmware list --json | jq '.phones[] | select(.due)'    phones that get another by what is pinned")]
struct List {
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Takes a file away, unless it is pinned.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone firmware remove T46U-108.86.0.90.rom --make yealink --version 108.86.0.90")]
#[command(disable_version_flag = true)]
struct Remove {
    /// Its name, as listed.
    name: String,
    /// The family of templates.
    #[arg(long)]
    make: String,
    /// As listed.
    #[arg(long)]
    version: String,
    #[command(flatten)]
    server: ServerArg,
}

/// Says which version phones shall run: all of a make, of a model, of a group, or one. The closest pin wins. No phone is told by it:
/// `plugtone rollout start` brings it to some phones first, `plugtone reload` to whoever fetches its files.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone firmware pin --make yealink --model T46U --version 108.86.0.90 --dry-run
  plugtone firmware pin --make yealink --group it-department --version 108.86.0.95
  plugtone firmware pin --make yealink --device 00:15:65:aa:bb:cc --version 108.86.0.20")]
#[command(disable_version_flag = true)]
struct Pin {
    #[command(flatten)]
    pinning: Pinning,
    /// As the phone says it in its User-Agent.
    #[arg(long)]
    version: String,
}

/// Takes a pin away: its phones keep what they run, or follow the next closest pin.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone firmware unpin --make yealink --model T46U
  plugtone firmware unpin --make yealink --device 00:15:65:aa:bb:cc --dry-run")]
struct Unpin {
    #[command(flatten)]
    pinning: Pinning,
}

/// Whom it is about, and what is done.
#[derive(Args)]
struct Pinning {
    /// The family of templates.
    #[arg(long)]
    make: String,
    /// `*` stands for anything.
    #[arg(long)]
    model: Option<String>,
    /// A group of overrides.yaml or of the phones' table.
    #[arg(long)]
    group: Option<String>,
    /// Just this phone.
    #[arg(long, value_name = "MAC", conflicts_with_all = ["model", "group"])]
    device: Option<MacAddr>,
    /// Only show which phones would get another firmware.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

const PATH: &str = "/api/v1/firmware";

impl Firmware {
    pub async fn run(self) -> anyhow::Result<()> {
        match self.command {
            Command::Add(add) => add.run().await,
            Command::List(list) => list.run().await,
            Command::Remove(Remove { name, make, version, server }) => {
                server.client()?.delete(&format!("{PATH}/{}/{}/{}", encoded(&make), encoded(&version), encoded(&name))).await?;
                say!("{make} {version}: {name} is removed");
                Ok(())
            }
            Command::Pin(Pin { pinning, version }) => pinning.run(Some(version)).await,
            Command::Unpin(Unpin { pinning }) => pinning.run(None).await,
        }
    }
}

impl Add {
    async fn run(self) -> anyhow::Result<()> {
        let Self { files, make, models, version, server, json } = self;
        let client = server.client()?;
        let mut added = Vec::new();
        for path in &files {
            let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            let unreadable = || format!("cannot read {}", path.display());
            let (sha256, len) = sum(path).await.with_context(unreadable)?;
            ensure!(len > 0, "{} is empty", path.display());
            let query = format!("models={}&sha256={sha256}", encoded(&models.join(",")));
            let to = format!("{PATH}/{}/{}/{}?{query}", encoded(&make), encoded(&version), encoded(&name));
            let file = tokio::fs::File::open(path).await.with_context(unreadable)?;
            let file: FirmwareFile = client.send_file(Method::PUT, &to, file, len).await?;
            if !json {
                say!("{} {}: {}, {} bytes, SHA-256 {}", file.make, file.version, file.name, file.bytes, file.sha256);
            }
            added.push(file);
        }
        if json { out::json(&added) } else { Ok(()) }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<()> {
        let all: api::Firmware = self.server.client()?.get(PATH).await?;
        if self.json {
            return out::json(&all);
        }
        let file = |file: &FirmwareFile| {
            let FirmwareFile { make, version, name, models, sha256, bytes, sound, .. } = file;
            let models = if models.is_empty() { "all".to_owned() } else { models.join(", ") };
            let state = if *sound { String::new() } else { "DAMAGED: served to nobody; remove it and add it again".to_owned() };
            let sha256 = sha256.chars().take(16).collect();
            vec![make.clone(), version.clone(), name.clone(), models, bytes.to_string(), sha256, state]
        };
        let files: Vec<_> = all.files.iter().map(file).collect();
        table::print(
            &["MAKE", "VERSION", "FILE", "MODELS", "BYTES", "SHA-256", ""],
            &files,
            "no firmware: `plugtone firmware add` adds some",
        );
        let pins: Vec<_> = all.pins.iter().map(|pin| vec![whom(pin), pin.version.clone()]).collect();
        say!();
        table::print(&["PINNED FOR", "VERSION"], &pins, "nothing is pinned: every phone keeps what it runs");
        say!();
        table::print(&PHONE, &phones(&all.phones), "no phones");
        Ok(())
    }
}

const PHONE: [&str; 6] = ["PHONE", "MAKE", "MODEL", "RUNS", "PINNED", ""];

fn phones(all: &[FirmwarePhone]) -> Vec<Vec<String>> {
    let row = |phone: &FirmwarePhone| {
        let FirmwarePhone { mac, family, model, runs, pinned, due } = phone.clone();
        let what = match (&runs, &pinned) {
            _ if due => "gets it",
            (None, Some(_)) => "has not said what it runs: is left as it is",
            (Some(runs), Some(pinned)) if runs != pinned => "no file is for its model",
            _ => "",
        };
        let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        vec![mac, dash(family), dash(model), dash(runs), dash(pinned), what.to_owned()]
    };
    all.iter().map(row).collect()
}

impl Pinning {
    /// `None`: takes the pin away.
    async fn run(self, version: Option<String>) -> anyhow::Result<()> {
        let Self { make, model, group, device, dry_run, server, json } = self;
        let request = FirmwarePinRequest { make, model, group, device: device.map(|mac| mac.to_string()), version, dry_run };
        let pinned: FirmwarePinned = server.client()?.send_json(Method::POST, &format!("{PATH}/pins"), &request).await?;
        if json {
            return out::json(&pinned);
        }
        table::print(&PHONE, &phones(&pinned.phones), "no phone gets another firmware by it");
        if dry_run {
            say!("nothing was changed");
        } else if !pinned.phones.is_empty() {
            say!("no phone is told yet: `plugtone rollout start` brings it to some first, `plugtone reload` to whoever fetches its files");
        }
        Ok(())
    }
}

fn whom(pin: &FirmwarePin) -> String {
    let FirmwarePin { make, model, group, device, .. } = pin;
    let mut words = make.clone();
    match device {
        Some(device) => words += &format!(" {device}"),
        None => words += &format!(" {}", model.as_deref().unwrap_or("(all models)")),
    }
    if let Some(group) = group {
        let _ = write!(words, " of {group}");
    }
    words
}

/// SHA-256 and size, without having the file in memory.
async fn sum(path: &std::path::Path) -> std::io::Result<(String, u64)> {
    let (mut file, mut hash, mut len) = (tokio::fs::File::open(path).await?, Sha256::new(), 0);
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut piece).await?;
        if read == 0 {
            return Ok((hex(&hash.finalize()), len));
        }
        hash.update(&piece[..read]);
        len += read as u64;
    }
}

/// As a part of a URL.
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~*(),".contains(byte);
    text.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_parts_of_urls() {
        for (text, url) in [("T46U(T43U,T48U)-1.0.rom", "T46U(T43U,T48U)-1.0.rom"), ("X6U Pro", "X6U%20Pro"), ("a/../b?", "a%2F..%2Fb%3F")]
        {
            assert_eq!(encoded(text), url);
        }
    }

    #[test]
    fn what_becomes_of_a_phone_is_said() {
        let phone = |runs: Option<&str>, pinned: Option<&str>, due| FirmwarePhone {
            mac: "m".into(),
            family: None,
            model: None,
            runs: runs.map(str::to_owned),
            pinned: pinned.map(str::to_owned),
            due,
        };
        let said = |phone| phones(&[phone])[0].join(" ").trim_end().to_owned();
        assert_eq!(said(phone(Some("1"), Some("2"), true)), "m - - 1 2 gets it");
        assert_eq!(said(phone(Some("1"), Some("2"), false)), "m - - 1 2 no file is for its model");
        assert_eq!(said(phone(None, Some("2"), false)), "m - - - 2 has not said what it runs: is left as it is");
        assert_eq!(said(phone(Some("2"), Some("2"), false)), "m - - 2 2");
    }
}
