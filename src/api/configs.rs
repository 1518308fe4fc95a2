//! `/devices/{mac}/configs`: every configuration that a phone was given, secrets masked, and how two of them differ.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Context, devices::mac_of, problem::Problem};
use crate::{model::MacAddr, provisioning::preview::unified, store::ServedConfig};

/// Letters of a hash that one must give at least.
const SHORTEST: usize = 4;

/// A file that a phone was given, from when to when.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Config {
    #[schema(example = "001565aabbcc.cfg")]
    pub file: String,
    /// BLAKE3 of the text with its secrets masked, hex; the events `file_served` name it too.
    pub hash: String,
    /// Of that text.
    pub bytes: u64,
    #[schema(example = "2026-11-21T08:30:00.000Z")]
    pub first_served: String,
    /// A minute behind, for what is served now.
    pub last_served: String,
    /// The phone was given no other since.
    pub latest: bool,
}

/// A configuration with its text.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigText {
    #[serde(flatten)]
    pub config: Config,
    /// Secrets are masked.
    pub text: String,
}

/// How two configurations differ.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ConfigDiff {
    pub from: Config,
    pub to: Config,
    /// As `diff -u` writes it, without its head; empty: they are the same.
    pub diff: String,
}

#[derive(Debug, Deserialize, IntoParams)]
pub struct OfFile {
    /// Only files with this in their name.
    pub file: Option<String>,
}

/// What the phone was given, the newest first. How far back is set by `store.config_history_mb`.
#[utoipa::path(get, path = "/devices/{mac}/configs", tag = "devices", params(("mac" = String, Path, description = "In any spelling"), OfFile),
    responses((status = 200, body = Vec<Config>), (status = 404, body = Problem)))]
pub async fn list(
    State(context): State<Context>,
    Path(mac): Path<String>,
    Query(wanted): Query<OfFile>,
) -> Result<Json<Vec<Config>>, Problem> {
    let wanted = wanted.file.unwrap_or_default().to_lowercase();
    let configs = history(&context, mac_of(&mac)?).await?;
    Ok(Json(configs.into_iter().filter(|config| config.file.to_lowercase().contains(&wanted)).collect()))
}

/// One of them, by the beginning of its hash.
#[utoipa::path(get, path = "/devices/{mac}/configs/{hash}", tag = "devices",
    params(("mac" = String, Path, description = "In any spelling"), ("hash" = String, Path, description = "Or its first letters, four at least")),
    responses((status = 200, body = ConfigText), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn show(State(context): State<Context>, Path((mac, hash)): Path<(String, String)>) -> Result<Json<ConfigText>, Problem> {
    let config = find(history(&context, mac_of(&mac)?).await?, &hash)?;
    let text = text(&context, &config).await?;
    Ok(Json(ConfigText { config, text }))
}

/// What has changed between two of them.
#[utoipa::path(get, path = "/devices/{mac}/configs/{hash}/diff/{other}", tag = "devices",
    params(("mac" = String, Path, description = "In any spelling"), ("hash" = String, Path, description = "The older"), ("other" = String, Path, description = "The newer")),
    responses((status = 200, body = ConfigDiff), (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn diff(
    State(context): State<Context>,
    Path((mac, hash, other)): Path<(String, String, String)>,
) -> Result<Json<ConfigDiff>, Problem> {
    let configs = history(&context, mac_of(&mac)?).await?;
    let (from, to) = (find(configs.clone(), &hash)?, find(configs, &other)?);
    let (old, new) = (text(&context, &from).await?, text(&context, &to).await?);
    Ok(Json(ConfigDiff { diff: unified(&old, &new, 1), from, to }))
}

async fn history(context: &Context, mac: MacAddr) -> Result<Vec<Config>, Problem> {
    let configs = context.store.configs(mac).await?;
    if configs.is_empty() {
        let detail = format!("{mac} was given no file yet, or nothing is kept (`store.config_history_mb`)");
        return Err(Problem::not_found("no history", detail));
    }
    let mut seen = std::collections::HashSet::new();
    let config = |config: ServedConfig| Config {
        latest: seen.insert(config.file.clone()),
        file: config.file,
        hash: config.hash,
        bytes: config.bytes,
        first_served: config.first.to_string(),
        last_served: config.last.to_string(),
    };
    Ok(configs.into_iter().map(config).collect())
}

fn find(configs: Vec<Config>, hash: &str) -> Result<Config, Problem> {
    let hash = hash.to_lowercase();
    if hash.len() < SHORTEST {
        return Err(Problem::bad_request(format!("'{hash}' is too short for a hash: give {SHORTEST} letters of it at least")));
    }
    let fits = |config: &&Config| config.hash.starts_with(&hash);
    let found = configs.iter().find(fits).cloned();
    let found =
        found.ok_or_else(|| Problem::not_found("no such configuration", format!("the phone was given none with the hash {hash}…")))?;
    if configs.iter().filter(fits).any(|config| config.hash != found.hash) {
        let detail = format!("several hashes begin with {hash}: give more of it");
        return Err(Problem::new(StatusCode::CONFLICT, "which configuration?", detail));
    }
    Ok(found)
}

async fn text(context: &Context, config: &Config) -> Result<String, Problem> {
    let text = context.store.config_text(&config.hash).await?;
    text.ok_or_else(|| Problem::not_found("no such configuration", "it was forgotten just now"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_named_by_as_much_of_its_hash_as_tells_it_apart() {
        let config = |hash: &str| Config {
            file: "a.cfg".into(),
            hash: hash.into(),
            bytes: 1,
            first_served: String::new(),
            last_served: String::new(),
            latest: false,
        };
        let all = || vec![config("abcd11"), config("abcd22"), config("ffff00"), config("abcd11")];
        for (hash, found) in [
            ("abcd1", Ok("abcd11")),
            ("FFFF", Ok("ffff00")),
            ("abcd", Err("which configuration?")),
            ("abc", Err("bad request")),
            ("eeee", Err("no such configuration")),
        ] {
            let got = find(all(), hash).map(|config| config.hash).map_err(|problem| problem.title);
            match found {
                Ok(wanted) => assert_eq!(got.as_deref().ok(), Some(wanted), "{hash}"),
                Err(title) => assert!(got.is_err_and(|got| got.to_lowercase().contains(title) || title == "bad request"), "{hash}"),
            }
        }
    }
}
