//! A family of templates: what a make is known by, its files, options and templates, and how they are compiled and rendered. Which families
//! there are, and what a phone's variables are, is `set.rs`'s affair.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use minijinja::{Environment, Error, ErrorKind, Value, value::ValueKind};
use regex::Regex;
use serde_yaml::{Location, Spanned};

use super::fault::{Fault, Suggest, fault};
use super::layers::{Layer, LayerMap, check_names, layer, put};
use super::options::{self, DhcpOption};
use super::pattern::{Captured, FilePattern};
use super::recognise::{Marks, Signs};
use super::render::{Grammar, environment, fill_empty, render};
use super::sample;
use super::schema::{
    Capabilities, Dhcp6Entry, DhcpEntry, FamilyFile, FileEntry, Option6Kind, OptionKind, Readers, Reload, Send, UploadEntry,
};
use super::search::SearchKeys;
use super::set::{Rendered, Source};
use super::subject::{Line, Subject};
use super::trace;
use super::worker::{Apart, End, Job};
use crate::model::{FamilyName, MacAddr};

/// One make's templates.
pub struct Family {
    pub id: FamilyName,
    /// For people.
    pub title: String,
    pub reload: Reload,
    pub capabilities: Capabilities,
    pub(super) marks: Marks,
    pub(super) model_codes: BTreeMap<u32, Vec<String>>,
    pub(super) files: Vec<File>,
    pub(super) uploads: Vec<Upload>,
    pub(super) dhcp: Vec<OptionTemplate>,
    pub(super) dhcp6: Vec<Option6Template>,
    /// The template's name.
    pub(super) pnp: Option<String>,
    /// The same.
    pub(super) link: Option<String>,
    /// Defaults and the family's own.
    pub(super) base: LayerMap,
    pub(super) models: Vec<(Regex, LayerMap)>,
    pub(super) model_names: Vec<String>,
    pub(super) environments: BTreeMap<Grammar, Environment<'static>>,
    /// Every template by its name.
    pub(super) places: BTreeMap<String, Place>,
    /// Where its templates are rendered, if not in this process.
    pub(super) apart: Option<Arc<Apart>>,
}

pub(super) struct File {
    pub(super) pattern: FilePattern,
    /// Its name when it is encrypted.
    pub(super) encrypted: Option<FilePattern>,
    pub(super) content_type: String,
    pub(super) grammar: Grammar,
    pub(super) readers: Readers,
    pub(super) account: bool,
    pub(super) phone_book: bool,
    pub(super) search: Option<Arc<SearchKeys>>,
    pub(super) empty: Option<String>,
    pub(super) template: String,
}

impl File {
    /// Whether it may be asked for by this name, plain or encrypted.
    pub(super) fn is_called(&self, path: &str) -> bool {
        let is = |pattern: &FilePattern| pattern.captures(path).is_some();
        is(&self.pattern) || self.encrypted.as_ref().is_some_and(is)
    }
}

pub(super) struct Upload {
    pub(super) pattern: FilePattern,
    pub(super) max_bytes: usize,
    pub(super) serve_back: bool,
}

pub(super) struct OptionTemplate {
    pub(super) code: u8,
    pub(super) kind: OptionKind,
    pub(super) send: Send,
    /// (nested code, template's name); one with code 0 for plain kinds.
    pub(super) templates: Vec<(u8, String)>,
}

pub(super) struct Option6Template {
    pub(super) enterprise: u32,
    pub(super) code: u16,
    pub(super) kind: Option6Kind,
    pub(super) send: Send,
    pub(super) template: String,
}

/// A template as it is written, and where its first line stands, to name the right line in a fault.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) origin: Arc<str>,
    pub(super) first_line: u32,
    /// The template itself.
    pub(super) text: Arc<str>,
}

/// A file of a family that a name led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileRef {
    pub family: FamilyName,
    pub readers: Readers,
    /// Carries the account.
    pub account: bool,
    /// Has another name by which it is given encrypted.
    pub encrypts: bool,
    /// It was asked for by that name.
    pub encrypted: bool,
    /// Has the phone book in it.
    pub phone_book: bool,
    /// By which words it is searched.
    pub search: Option<Arc<SearchKeys>>,
    /// From the name, where it has one: from 1.
    pub(super) page: Option<u32>,
    /// From the name.
    pub mac: Option<MacAddr>,
    /// From the name, or from the model's code in it.
    pub model: Option<String>,
    pub(super) index: usize,
}

impl Family {
    /// What a DHCP server that is not ours can tell this make by.
    pub fn signs(&self) -> Signs<'_> {
        self.marks.signs()
    }

    pub(super) fn new(
        id: &str,
        source: &Source,
        written: FamilyFile,
        defaults: &LayerMap,
        sources: &[Source],
        faults: &mut Vec<Fault>,
    ) -> Self {
        let origin: Arc<str> = Arc::from(&*source.origin);
        let own = layer(Layer::Family, &origin, written.variables);
        let mut base = defaults.clone();
        put(&mut base, &own);
        let known: Vec<&str> = base.keys().map(|name| &**name).collect();
        let model_names = written.models.iter().map(|entry| entry.model.clone()).collect();
        let models = written.models.into_iter().filter_map(|entry| {
            let variables = layer(Layer::Model, &origin, entry.variables);
            check_names(&variables, &known, faults);
            Some((glob(&entry.model)?, variables))
        });
        let models = models.collect();
        let mut family = Self {
            id: id.to_owned(),
            title: written.name,
            reload: written.reload,
            capabilities: written.capabilities,
            marks: Marks::new(&source.origin, &written.recognise, faults),
            model_codes: written.model_codes,
            files: Vec::new(),
            uploads: Vec::new(),
            dhcp: Vec::new(),
            dhcp6: Vec::new(),
            pnp: None,
            link: None,
            base,
            models,
            model_names,
            environments: [Grammar::KeyValue, Grammar::Xml, Grammar::Text].map(|grammar| (grammar, environment(grammar))).into(),
            places: BTreeMap::new(),
            apart: None,
        };
        family.add_siblings(sources);
        for entry in written.files {
            family.add_file(source, entry.value, entry.referenced.line() as u32, faults);
        }
        for entry in written.uploads {
            family.add_upload(source, entry.value, entry.referenced.line() as u32, faults);
        }
        let mut add_own = |what: &str, text: Option<Spanned<String>>| {
            let (name, text) = (format!("{}#{what}", source.name), text?);
            family.add_template(&name, &text.value, source, text.referenced.line() as u32);
            Some(name)
        };
        (family.pnp, family.link) = (add_own("pnp", written.pnp), add_own("link", written.link));
        for entry in written.dhcp {
            family.add_option(source, entry.value, entry.referenced.line() as u32);
        }
        for entry in written.dhcp6 {
            let Dhcp6Entry { enterprise, code, kind, value, send } = entry.value;
            let template = format!("{}#vendor option {enterprise}.{code}", source.name);
            family.add_template(&template, &value, source, entry.referenced.line() as u32);
            family.dhcp6.push(Option6Template { enterprise, code, kind, send, template });
        }
        family
    }

    /// `<family>/*.j2` and those at the root, for `template:` and `{% include %}`.
    fn add_siblings(&mut self, sources: &[Source]) {
        for source in sources.iter().filter(|source| source.name.ends_with(".j2")) {
            if source.name.split_once('/').is_none_or(|(folder, _)| folder == self.id) {
                self.add_template(&source.name, &source.text, source, 1);
            }
        }
    }

    pub(super) fn add_template(&mut self, name: &str, text: &str, source: &Source, first_line: u32) {
        self.places.insert(name.to_owned(), Place { origin: Arc::from(&*source.origin), first_line, text: Arc::from(text) });
    }

    /// Each template's name is told to `at` before.
    pub(super) fn compile(&mut self, mut at: impl FnMut(&str), faults: &mut Vec<Fault>) {
        for (name, place) in &self.places {
            at(name);
            let compiled = self.environments.values_mut().map(|env| env.add_template_owned(name.clone(), place.text.to_string()));
            if let Some(error) = compiled.filter_map(Result::err).last() {
                faults.push(self.explain(&error, name, &Value::UNDEFINED));
            }
        }
    }

    fn add_file(&mut self, source: &Source, entry: FileEntry, line: u32, faults: &mut Vec<Fault>) {
        let mut wrong = |message: String| faults.push(fault(&source.origin, line, 0, message));
        let pattern = match FilePattern::parse(&entry.name) {
            Ok(pattern) => pattern,
            Err(message) => return wrong(message),
        };
        if self.files.iter().any(|file| file.pattern.text.eq_ignore_ascii_case(&pattern.text)) {
            return wrong(format!("'{}' is there twice", pattern.text));
        }
        if entry.readers == Readers::Anyone && (pattern.names_mac || entry.account) {
            return wrong(format!("'{}' is one phone's file: it cannot be read by anyone", pattern.text));
        }
        let encrypted = match entry.encrypted_name.as_deref().map(FilePattern::parse).transpose() {
            Ok(encrypted) => encrypted,
            Err(message) => return wrong(message),
        };
        if encrypted.as_ref().is_some_and(|encrypted| !encrypted.names_mac || !entry.account) {
            return wrong(format!(
                "only a phone's account can be encrypted: '{}' must have `account: true`, and a MAC in `encrypted_name`",
                pattern.text
            ));
        }
        let template = match (entry.body, entry.template) {
            (Some(body), None) => {
                let name = format!("{}#{}", source.name, entry.name);
                self.add_template(&name, &body.value, source, first_line(&source.text, body.referenced));
                name
            }
            (None, Some(name)) if self.places.contains_key(&name.value) => name.value,
            (None, Some(name)) => {
                let siblings = self.places.keys().map(String::as_str).filter(|name| name.ends_with(".j2"));
                let (line, column) = (name.referenced.line() as u32, name.referenced.column() as u32);
                let missing = fault(&source.origin, line, column, format!("there is no template file '{}'", name.value));
                faults.push(missing.suggest(&name.value, siblings, ""));
                return;
            }
            _ => return wrong(format!("'{}' needs either a body or a template", pattern.text)),
        };
        let FileEntry { content_type, grammar, readers, account, phone_book, empty, search, .. } = entry;
        let search = search.map(Arc::new);
        self.files.push(File { pattern, encrypted, content_type, grammar, readers, account, phone_book, search, empty, template });
    }

    fn add_upload(&mut self, source: &Source, entry: UploadEntry, line: u32, faults: &mut Vec<Fault>) {
        match FilePattern::parse(&entry.name) {
            Ok(pattern) if pattern.names_mac => {
                self.uploads.push(Upload { pattern, max_bytes: entry.max_bytes, serve_back: entry.serve_back });
            }
            Ok(_) => {
                let message = format!("'{}' does not name the phone: an upload's name has {{mac}} in it", entry.name);
                faults.push(fault(&source.origin, line, 0, message));
            }
            Err(message) => faults.push(fault(&source.origin, line, 0, message)),
        }
    }

    fn add_option(&mut self, source: &Source, entry: DhcpEntry, line: u32) {
        let parts = match entry.kind {
            OptionKind::Nested => entry.nested.into_iter().collect(),
            _ => vec![(0, entry.value)],
        };
        let mut templates = Vec::new();
        for (code, text) in parts {
            let name = format!("{}#option {}.{code}", source.name, entry.code);
            self.add_template(&name, &text, source, line);
            templates.push((code, name));
        }
        self.dhcp.push(OptionTemplate { code: entry.code, kind: entry.kind, send: entry.send, templates });
    }

    /// Whether phones of this make are told where their settings are when they ask by multicast.
    pub fn answers_pnp(&self) -> bool {
        self.pnp.is_some()
    }

    /// The number that stands for this model in file names.
    pub fn code_of(&self, model: &str) -> Option<u32> {
        // The User-Agent says `T46S` or `SIP-T46S`.
        let is = |name: &String| name.eq_ignore_ascii_case(model) || model.to_ascii_uppercase().ends_with(&format!("-{name}"));
        self.model_codes.iter().find(|(_, names)| names.iter().any(is)).map(|(code, _)| *code)
    }

    pub(super) fn refer(&self, index: usize, file: &File, captured: Captured) -> FileRef {
        let by_code = || self.model_codes.get(&captured.model_code?)?.first().cloned();
        FileRef {
            family: self.id.clone(),
            readers: file.readers,
            account: file.account,
            encrypts: file.encrypted.is_some(),
            encrypted: false,
            phone_book: file.phone_book,
            search: file.search.clone(),
            page: captured.page,
            mac: captured.mac,
            model: captured.model.clone().or_else(by_code),
            index,
        }
    }

    pub(super) fn name_of(&self, file: &File, subject: &Subject) -> Option<String> {
        let code = subject.model.as_deref().and_then(|model| self.code_of(model));
        file.pattern.expand(subject.mac, subject.model.as_deref(), code)
    }

    /// An address of this family, for samples.
    pub(super) fn sample_mac(&self) -> MacAddr {
        self.marks.sample_mac().unwrap_or(sample::MAC)
    }

    /// A model for each of the family's patterns, and one with a code.
    pub(super) fn sample_models(&self) -> Vec<String> {
        let coded = self.model_codes.values().flatten().next().cloned();
        // Those that get the same variables get the same files.
        let mut tried = BTreeSet::new();
        let named = self.model_names.iter().map(|pattern| pattern.replace('*', "1"));
        coded.into_iter().chain(named.filter(|model| tried.insert(self.variables_of(model)))).collect()
    }

    /// What its `models` say of this one, as text.
    fn variables_of(&self, model: &str) -> BTreeMap<&str, String> {
        let fitting = self.models.iter().filter(|(pattern, _)| pattern.is_match(model));
        fitting.flat_map(|(_, layer)| layer.iter().map(|(name, layered)| (&**name, layered.value.to_string()))).collect()
    }

    /// How a file is made: its grammar, its template, and for whom.
    pub(super) fn how(&self, file: &FileRef) -> Option<(Grammar, &str, Readers)> {
        self.files.get(file.index).map(|file| (file.grammar, &*file.template, file.readers))
    }

    /// Every template by its name.
    pub(super) fn templates(&self) -> &BTreeMap<String, Place> {
        &self.places
    }

    pub(super) fn place(&self, template: &str) -> Place {
        self.places.get(template).cloned().unwrap_or(Place { origin: Arc::from(template), first_line: 0, text: Arc::from("") })
    }

    pub(super) fn run(&self, grammar: Grammar, template: &str, context: &Value) -> Result<Vec<u8>, Fault> {
        self.run_job(&Job {
            family: Cow::Borrowed(&self.id),
            grammar,
            template: Cow::Borrowed(template),
            marked: false,
            context: Cow::Borrowed(context),
        })
    }

    /// Here, or where its templates are rendered.
    pub(super) fn run_job(&self, job: &Job<'_>) -> Result<Vec<u8>, Fault> {
        let Some(apart) = &self.apart else { return self.run_here(job) };
        apart.run(job).unwrap_or_else(|end| Err(self.fault_in(&job.template, end.to_string())))
    }

    pub(super) fn run_here(&self, job: &Job<'_>) -> Result<Vec<u8>, Fault> {
        let Some(plain) = self.environments.get(&job.grammar) else { return Ok(Vec::new()) };
        let marked = job.marked.then(|| trace::marked(self.templates(), job.grammar)).transpose();
        let marked = marked.map_err(|error| self.fault_in(&job.template, error.to_string()))?;
        let env = marked.as_ref().unwrap_or(plain);
        render(env, &job.template, &job.context).map_err(|error| self.explain(&error, error.name().unwrap_or(&job.template), &job.context))
    }

    /// The file, the line in it, the words that were wrong, and those of `context` that may have been meant.
    fn explain(&self, error: &Error, name: &str, context: &Value) -> Fault {
        let place = self.place(name);
        let line = place.first_line + error.line().unwrap_or(1).saturating_sub(1) as u32;
        let cut = error.range().and_then(|range| place.text.get(range)).unwrap_or_default().trim();
        let deepest = std::iter::successors(std::error::Error::source(error), |e| e.source()).last().map(ToString::to_string);
        let message = match error.kind() {
            ErrorKind::UndefinedError if !cut.is_empty() => format!("'{cut}' has no value"),
            ErrorKind::OutOfFuel => End::TooLong.to_string(),
            kind => {
                let detail = error.detail().map(str::to_owned).or(deepest);
                format!("{kind}{}", detail.map(|detail| format!(": {detail}")).unwrap_or_default())
            }
        };
        let fault = fault(&place.origin, line, 0, message);
        if error.kind() != ErrorKind::UndefinedError {
            return fault;
        }
        // `lines[0].nmae`: the part that is not known is somewhere in it.
        let mut words = cut.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        let word = words.next().unwrap_or_default();
        let known = parts(context);
        let is_known = known.iter().any(|name| name == word);
        let own = ["mac", "MAC", "lines", "bound", "admin_password", "model_code", "keys", "side_car_keys", "firmware"];
        if own.contains(&word) && !is_known {
            return fault.hint(format!("only files with `readers: own` have '{word}'"));
        }
        if let Some(part) = words.next_back() {
            let of = |name: &String| context.get_attr(name).map(|value| parts(&value)).unwrap_or_default();
            // A name that the context does not have is the template's own, as in `for line in lines`.
            let parts: Vec<String> = known.iter().filter(|name| !is_known || *name == word).flat_map(of).collect();
            let otherwise = if is_known { format!("'{word}' is there, but not that part of it") } else { String::new() };
            return fault.suggest(part, parts.iter().map(String::as_str), &otherwise);
        }
        fault.suggest(word, known.iter().map(String::as_str), "")
    }

    /// The file, as a template that sees `context` makes it.
    pub(super) fn file(&self, entry: &File, page: Option<u32>, subject: &Subject, mut context: Value) -> Result<Rendered, Fault> {
        if let Some(page) = page {
            context = minijinja::context! { page => page, ..context };
        }
        let bytes = self.run(entry.grammar, &entry.template, &context)?;
        let bytes = match &entry.empty {
            Some(empty) => fill_empty(bytes, empty),
            None => bytes,
        };
        Ok(Rendered {
            name: self.name_of(entry, subject).unwrap_or_else(|| entry.pattern.text.clone()),
            bytes,
            content_type: entry.content_type.clone(),
            readers: entry.readers,
        })
    }

    pub(super) fn dhcp_options(&self, context: &Value) -> Result<Vec<DhcpOption>, Fault> {
        let mut options = Vec::new();
        for option in &self.dhcp {
            let mut parts = Vec::new();
            for (code, template) in &option.templates {
                let text = String::from_utf8(self.run(Grammar::KeyValue, template, context)?).unwrap_or_default();
                parts.push((*code, text));
            }
            let value = match (option.kind, parts.first()) {
                (OptionKind::Nested, _) => options::nested(&parts),
                (kind, Some((_, text))) => options::value(kind, text),
                (_, None) => Ok(None),
            };
            let template = option.templates.first().map_or("", |(_, name)| name);
            let value = value.map_err(|message| self.fault_in(template, format!("option {}: {message}", option.code)))?;
            options.extend(value.map(|value| DhcpOption { code: option.code, value, when: option.send.into() }));
        }
        Ok(options)
    }

    /// What a template made is of no use; with the place of the template.
    pub(super) fn fault_in(&self, template: &str, message: String) -> Fault {
        let (origin, line) = self.places.get(template).map_or((&*self.id, 0), |place| (&*place.origin, place.first_line));
        fault(origin, line, 0, message)
    }

    pub(super) fn pnp_url(&self, context: &Value) -> Result<Option<String>, Fault> {
        self.pnp.as_ref().map_or(Ok(None), |template| self.line(template, context))
    }

    pub(super) fn link(&self, context: &Value, url: &str, token: &str, login: &str) -> Result<Option<String>, Fault> {
        let link = minijinja::context! { url, token, login };
        let context = minijinja::context! { link, ..context.clone() };
        self.link.as_ref().map_or(Ok(None), |template| self.line(template, &context))
    }

    /// What a template makes that makes one line. `None`: it is empty.
    pub(super) fn line(&self, template: &str, context: &Value) -> Result<Option<String>, Fault> {
        let line = String::from_utf8(self.run(Grammar::KeyValue, template, context)?).unwrap_or_default();
        Ok(Some(line.trim().to_owned()).filter(|line| !line.is_empty()))
    }

    /// What a phone would not be able to read.
    pub(super) fn check_sample(&self, file: &FileRef, rendered: &Rendered, subject: &Subject) -> Result<(), Fault> {
        let Some(entry) = self.files.get(file.index) else { return Ok(()) };
        let place = self.places.get(&entry.template);
        let (origin, line) = place.map_or((&*self.id, 0), |place| (&*place.origin, place.first_line));
        let state = if subject.bound { "bound" } else { "unbound" };
        let wrong = |message: String| fault(origin, line, 0, format!("{} of a sample phone ({state}): {message}", rendered.name));
        let text = str::from_utf8(&rendered.bytes).map_err(|_| wrong("not UTF-8".into()))?;
        match entry.grammar {
            Grammar::Xml => {
                if let Err(error) = roxmltree::Document::parse(text) {
                    let at = text.lines().nth((error.pos().row as usize).saturating_sub(1)).unwrap_or_default().trim();
                    let at: String = at.chars().take(80).collect();
                    return Err(wrong(format!("is not well-formed XML: {error}: {at}")));
                }
            }
            Grammar::KeyValue => {
                // Avaya's are orders: `SET NAME value`, `GET file`.
                let order = |line: &str| line.starts_with("SET ") || line.starts_with("GET ");
                let setting = |line: &str| line.starts_with(['#', '[']) || line.contains(['=', ':']) || order(line);
                let stray = |line: &&str| !line.trim().is_empty() && !setting(line);
                if let Some(line) = text.lines().find(stray) {
                    return Err(wrong(format!("this line has no `key = value`: {line}")));
                }
            }
            Grammar::Text => {}
        }
        let missing = |line: &&Line| entry.account && !text.contains(line.secret.expose());
        if subject.lines.iter().find(missing).is_some() {
            return Err(wrong("is said to carry the account, but the line's secret is not in it".into()));
        }
        Ok(())
    }
}

/// The names of a value's parts; for a list, of its items' parts.
fn parts(value: &Value) -> Vec<String> {
    let keys = |value: &Value| -> Vec<String> {
        let named = (value.kind() == ValueKind::Map).then(|| value.try_iter().ok()).flatten();
        named.into_iter().flatten().map(|key| key.to_string()).collect()
    };
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => value.try_iter().into_iter().flatten().flat_map(|item| keys(&item)).collect(),
        _ => keys(value),
    }
}

/// `T4*S` as an expression, without case.
fn glob(pattern: &str) -> Option<Regex> {
    Regex::new(&format!("(?i)^(?:SIP-)?{}$", regex::escape(pattern).replace(r"\*", ".*"))).ok()
}

/// The line on which a body's text begins: below its `|`, if the place is that of the `|`.
fn first_line(yaml: &str, at: Location) -> u32 {
    let (line, column) = (at.line() as usize, at.column() as usize);
    let mark = yaml.lines().nth(line.saturating_sub(1)).and_then(|text| text.chars().nth(column.saturating_sub(1)));
    line as u32 + u32::from(matches!(mark, Some('|' | '>')))
}
