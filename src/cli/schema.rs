//! `schema`: JSON Schemas of all YAML files that people edit, for their editors. Names, words and descriptions are those of the types
//! that read the files, so that they cannot tell anything else.

use std::{fs, path::PathBuf};

use anyhow::{Context, bail};
use clap::Args;
use schemars::{JsonSchema, Schema, SchemaGenerator, transform};

use super::out::say;
use crate::{config, directory, ivr, routing, template, yaml};

/// JSON Schemas of the YAML files: with them an editor completes names, explains them and points at faults.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone schema                              which there are, and of which files
  plugtone schema plugtone > plugtone.json     one
  plugtone schema --into /etc/plugtone/schemas all, with the line that an editor reads

The line `# yaml-language-server: $schema=PATH` at the top of a file names its schema, to VS Code, Neovim, Emacs, Helix and others
with the YAML language server. The shipped files have it; PATH is seen from the file.")]
pub struct Schemas {
    /// Prints the schema of this kind of file.
    kind: Option<String>,
    /// Writes all into this folder, which is made if it is not there.
    #[arg(long, conflicts_with = "kind", value_name = "FOLDER")]
    into: Option<PathBuf>,
}

impl Schemas {
    pub fn run(self) -> anyhow::Result<()> {
        let all = all();
        let text = |kind: &Kind| serde_json::to_string_pretty(&kind.schema).map(|text| text + "\n");
        if let Some(name) = self.kind {
            let Some(kind) = all.iter().find(|kind| kind.name == name) else {
                let names: Vec<_> = all.iter().map(|kind| kind.name).collect();
                match yaml::closest(&name, names.iter().copied()) {
                    Some(meant) => bail!("there is no schema '{name}'; did you mean '{meant}'?"),
                    None => bail!("there is no schema '{name}', but {}", names.join(", ")),
                }
            };
            say!("{}", text(kind)?.trim_end());
            return Ok(());
        }
        let Some(folder) = self.into else {
            all.iter().for_each(|kind| say!("{:<10} {}", kind.name, kind.files));
            return Ok(());
        };
        fs::create_dir_all(&folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        for kind in &all {
            let path = folder.join(format!("{}.json", kind.name));
            fs::write(&path, text(kind)?).with_context(|| format!("cannot write {}", path.display()))?;
        }
        say!("{} schemas are in {}. The first line that makes an editor find them:\n", all.len(), folder.display());
        for kind in &all {
            say!("{}\n    {}", kind.files, first_line(&format!("{}/{}.json", folder.display(), kind.name)));
        }
        Ok(())
    }
}

/// The schema of one kind of file.
struct Kind {
    /// The stem of the schema's own file, as `plugtone` of `plugtone.json`.
    name: &'static str,
    /// Which files are of this kind.
    files: &'static str,
    schema: Schema,
}

/// Every kind of YAML file that we read.
fn all() -> Vec<Kind> {
    let kind = |name, files, schema| Kind { name, files, schema: finished(schema, files) };
    vec![
        kind("plugtone", "plugtone.yaml", of::<config::Settings>()),
        kind("routes", "the file that calls.routes names", of::<routing::settings::Settings>()),
        kind("users", "the file that directory.file names", directory::files::schema()),
        kind("family", "templates/<family>.yaml", template::schema::family()),
        kind("defaults", "templates/defaults.yaml", template::schema::defaults()),
        kind("overrides", "templates/overrides.yaml", template::schema::overrides()),
        kind("firmware", "firmware.yaml in the folder of provisioning.firmware", template::schema::firmware()),
        kind("timezones", "templates/timezones.yaml", template::schema::timezones()),
        kind("flow", "ivr/flows/<name>.yaml", ivr::flow::schema()),
        kind("prompts", "ivr/prompts/<language>/prompts.yaml", ivr::prompts::schema()),
    ]
}

/// What an editor needs as a file's first line, where `at` is the way from the file to its schema.
fn first_line(at: &str) -> String {
    format!("# yaml-language-server: $schema={at}")
}

/// The schema of a type, as its fields are named and described.
fn of<T: JsonSchema>() -> Schema {
    SchemaGenerator::default().into_root_schema_for::<T>()
}

fn finished(mut schema: Schema, files: &str) -> Schema {
    transform::transform_subschemas(&mut widen, &mut schema);
    schema.insert("title".to_owned(), files.into());
    schema.remove("description");
    schema
}

/// What our reader takes is no fault to point at: a text may be written as a number, as in `extension: 2041`, and a section may be empty.
fn widen(schema: &mut Schema) {
    transform::transform_subschemas(&mut widen, schema);
    if schema.get("enum").is_some() || schema.get("const").is_some() {
        return;
    }
    match schema.get_mut("type") {
        Some(kind) if kind == "string" => *kind = serde_json::json!(["string", "number"]),
        Some(kind) if kind == "object" => *kind = serde_json::json!(["object", "null"]),
        Some(serde_json::Value::Array(kinds)) if kinds.contains(&"string".into()) && !kinds.contains(&"number".into()) => {
            kinds.push("number".into());
        }
        _ => {}
    }
}
