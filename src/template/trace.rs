//! Where a line of a phone's file comes from: the template's line, and the variables in it with every layer that sets them.
//!
//! minijinja does not tell. So each line of the templates gets a mark at its end, which no phone's file has, and the marked templates
//! are rendered once more: what follows from it is exact, also through loops and includes. If a mark changes what is rendered (a
//! template that compares captured text), the place is left out and all else is told.

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use minijinja::{Environment, Error};

use super::{
    family::{Family, Place},
    fault::Fault,
    layers::Layered,
    render::{Grammar, environment},
    set::TemplateSet,
    subject::Subject,
    worker::Job,
};

/// A line of a file that a phone gets.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The file's name.
    pub file: String,
    /// From 1.
    pub line: usize,
    pub text: String,
    /// The template's file and line. `None`: it cannot be told.
    pub place: Option<(Arc<str>, u32)>,
    /// What is in that line, or decides about it.
    pub variables: Vec<Variable>,
}

#[derive(Clone, Debug)]
pub struct Variable {
    pub name: Arc<str>,
    /// From the lowest layer up: the last one counts. Empty: not of the layers, but of the phone or of the server.
    pub set: Vec<Layered>,
}

/// What templates see beside the variables of the layers.
const BUILT_IN: &[&str] = &["lines", "server", "tz", "mac", "MAC", "model", "family", "bound", "model_code", "keys", "firmware"];
/// Brackets of a mark; of no use to any phone (Unicode's private use).
const MARK: [char; 2] = ['\u{e000}', '\u{e001}'];

impl TemplateSet {
    /// Every line of the phone's files in which `key` stands as a word.
    ///
    /// # Errors
    /// A file that cannot be rendered.
    pub fn trace(&self, family: &str, subject: &Subject, key: &str) -> Result<Vec<Trace>, Fault> {
        let mut traces = Vec::new();
        let Some(known) = self.family(family) else { return Ok(traces) };
        for file in self.files(family, subject) {
            let rendered = self.render(&file, subject)?;
            let text = String::from_utf8_lossy(&rendered.bytes).into_owned();
            let marked = self.marked(known, &file, subject);
            for (at, line) in text.lines().enumerate().filter(|(_, line)| has_word(line, key)) {
                let source = marked.as_ref().and_then(|marked| marked.place(text.lines().count(), at, line));
                let names = source.map(|(source, line)| source.words(line)).unwrap_or_default();
                traces.push(Trace {
                    file: rendered.name.clone(),
                    line: at + 1,
                    text: line.to_owned(),
                    place: source.map(|(source, line)| (source.place.origin.clone(), source.place.first_line + line - 1)),
                    variables: names.into_iter().filter_map(|name| self.variable(known, subject, &name)).collect(),
                });
            }
        }
        Ok(traces)
    }

    /// A variable with every layer that sets it for this phone. `None`: there is none of that name.
    pub fn variable(&self, family: &Family, subject: &Subject, name: &str) -> Option<Variable> {
        let mut set: Vec<_> = self.layers_of(family, subject).into_iter().filter_map(|layer| layer.get_key_value(name)).collect();
        // What a family does not set itself it has from the defaults.
        set.dedup_by(|(_, a), (_, b)| a.origin == b.origin);
        let name: Arc<str> = match set.first() {
            Some((name, _)) => (*name).clone(),
            None if BUILT_IN.contains(&name) => Arc::from(name),
            None => return None,
        };
        Some(Variable { name, set: set.into_iter().map(|(_, layered)| layered.clone()).collect() })
    }

    fn marked(&self, family: &Family, file: &super::FileRef, subject: &Subject) -> Option<Marked> {
        let (grammar, template, readers) = family.how(file)?;
        let context = self.context(family, subject, readers, false).ok()?;
        let texts = family.templates().values().enumerate();
        let sources = texts.map(|(number, place)| Source { place: place.clone(), expressions: mark(&place.text, number).1 }).collect();
        let (family, template) = (Cow::Borrowed(&*file.family), Cow::Borrowed(template));
        let job = Job { family, grammar, template, marked: true, context: Cow::Owned(context) };
        let text = String::from_utf8(self.family(&job.family)?.run_job(&job).ok()?).ok()?;
        let lines = text.lines().map(unmarked).collect();
        Some(Marked { sources, lines })
    }
}

/// A template's text taken apart.
struct Source {
    place: Place,
    /// By line, from 1 at index 0: the expressions in it, and those of the blocks around it.
    expressions: Vec<Vec<String>>,
}

impl Source {
    fn words(&self, line: u32) -> Vec<String> {
        let expressions = self.expressions.get(line as usize - 1).into_iter().flatten();
        let mut words: Vec<_> = expressions.flat_map(|expression| words(expression)).collect();
        words.sort();
        words.dedup();
        words
    }
}

struct Marked {
    sources: Vec<Source>,
    /// Rendered lines without their marks, and where they come from.
    lines: Vec<(String, Option<(usize, u32)>)>,
}

impl Marked {
    /// Where the line `at` comes from, which must be the same line with and without marks.
    fn place(&self, lines: usize, at: usize, text: &str) -> Option<(&Source, u32)> {
        let (same, place) = self.lines.get(at).filter(|_| self.lines.len() == lines)?;
        let (source, line) = (*place)?;
        // What stands for nothing is put behind it afterwards.
        text.starts_with(same.as_str()).then(|| self.sources.get(source).map(|source| (source, line)))?
    }
}

/// The templates with a mark at the end of each line, numbered in their order.
pub(super) fn marked(templates: &BTreeMap<String, Place>, grammar: Grammar) -> Result<Environment<'static>, Error> {
    let mut env = environment(grammar);
    for (number, (name, place)) in templates.iter().enumerate() {
        env.add_template_owned(name.clone(), mark(&place.text, number).0)?;
    }
    Ok(env)
}

/// The template with a mark at the end of each line that leaves a line end, and its lines' expressions.
fn mark(text: &str, number: usize) -> (String, Vec<Vec<String>>) {
    let mut made = String::with_capacity(text.len() * 2);
    let mut expressions = vec![Vec::new()];
    let mut around: Vec<String> = Vec::new();
    let mut rest = text;
    // A line end behind the end of a block is not written (`trim_blocks`), but behind `+%}`.
    let mut behind_block = false;
    while !rest.is_empty() {
        let tag = rest.match_indices('{').find(|(at, _)| matches!(rest.as_bytes().get(at + 1), Some(b'{' | b'%' | b'#'))).map(|(at, _)| at);
        let (plain, tagged) = rest.split_at(tag.unwrap_or(rest.len()));
        for piece in plain.split_inclusive('\n') {
            let Some(content) = piece.strip_suffix('\n') else {
                made += piece;
                behind_block &= piece.is_empty();
                continue;
            };
            // What Panasonic wants at the end of a line stays together.
            let (content, end) = content.strip_suffix('\r').map_or((content, "\n"), |content| (content, "\r\n"));
            let line = expressions.len();
            made += content;
            if !(behind_block && content.is_empty()) {
                made += &format!("{}{number}:{line}{}", MARK[0], MARK[1]);
            }
            made += end;
            if let Some(here) = expressions.last_mut() {
                here.extend(around.iter().cloned());
            }
            expressions.push(Vec::new());
            behind_block = false;
        }
        let closes = match tagged.as_bytes().get(1) {
            Some(b'{') => "}}",
            Some(b'%') => "%}",
            _ => "#}",
        };
        let length = tagged.find(closes).map_or(tagged.len(), |at| at + closes.len());
        let (tag, after) = tagged.split_at(length);
        made += tag;
        if !tag.is_empty() {
            let inner = tag.get(2..tag.len().saturating_sub(2)).unwrap_or_default().trim_matches(['-', '+']).trim();
            if closes != "#}"
                && let Some(here) = expressions.last_mut()
            {
                here.push(inner.to_owned());
            }
            if closes == "%}" {
                match inner.split_whitespace().next() {
                    Some("if" | "for") => around.push(inner.to_owned()),
                    Some("elif") => {
                        if let Some(last) = around.last_mut() {
                            *last = format!("{last} {inner}");
                        }
                    }
                    Some("endif" | "endfor") => drop(around.pop()),
                    _ => {}
                }
            }
            expressions.extend(std::iter::repeat_n(Vec::new(), tag.matches('\n').count()));
            behind_block = closes != "}}" && !tag.ends_with("+%}");
        }
        rest = after;
    }
    (made, expressions)
}

/// The line without marks, and what the last of them says.
fn unmarked(line: &str) -> (String, Option<(usize, u32)>) {
    let (mut plain, mut place, mut rest) = (String::new(), None, line);
    while let Some((before, found)) = rest.split_once(MARK[0]) {
        let (mark, after) = found.split_once(MARK[1]).unwrap_or((found, ""));
        place = mark.split_once(':').and_then(|(source, line)| Some((source.parse().ok()?, line.parse().ok()?)));
        plain += before;
        rest = after;
    }
    (plain + rest, place)
}

/// Names in an expression: not what stands in quotes, behind a dot or behind a bar.
fn words(expression: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut before) = (String::new(), None, ' ');
    for c in expression.chars().chain([' ']) {
        if quoted.is_some() {
            quoted = quoted.filter(|quote| *quote != c);
        } else if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        } else {
            if !word.is_empty() && !matches!(before, '.' | '|') && !word.starts_with(|c: char| c.is_ascii_digit()) {
                words.push(std::mem::take(&mut word));
            }
            word.clear();
            if matches!(c, '"' | '\'') {
                quoted = Some(c);
            }
            if !c.is_whitespace() || !matches!(before, '.' | '|') {
                before = c;
            }
        }
    }
    words
}

fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(word).any(|(at, _)| {
        let (before, after) = (line.get(..at).unwrap_or_default(), line.get(at + word.len()..).unwrap_or_default());
        !is_part(before.chars().next_back()) && !is_part(after.chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::{Layer, Source as File, shipped};

    fn set(own: &[(&str, &str)]) -> TemplateSet {
        let mut sources = shipped();
        for (name, text) in own {
            sources.retain(|source| source.name != *name);
            sources.push(File { name: (*name).into(), origin: format!("own/{name}"), text: (*text).into() });
        }
        TemplateSet::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    #[test]
    fn marks_stand_where_a_line_ends_and_change_nothing_else() {
        let source = "a = {{ x }}\n{% if y.z %}\n  b\n{# no #}\n{% for l in list|sort %}\nc = {{ l }}, {{ \"q\" ~ w }}\n{% endfor %}\n{% endif %}\nend";
        let (marked, expressions) = mark(source, 7);
        assert_eq!(
            marked,
            "a = {{ x }}\u{e000}7:1\u{e001}\n{% if y.z %}\n  b\u{e000}7:3\u{e001}\n{# no #}\n{% for l in list|sort %}\nc = {{ l }}, {{ \"q\" ~ w }}\u{e000}7:6\u{e001}\n\
             {% endfor %}\n{% endif %}\nend"
        );
        let names = |line: usize| expressions[line - 1].iter().flat_map(|one| words(one)).collect::<Vec<_>>();
        assert_eq!(names(1), ["x"]);
        assert_eq!(names(3), ["if", "y"]);
        assert_eq!(names(6), ["l", "w", "if", "y", "for", "l", "in", "list"]);
        assert_eq!(unmarked("c = 1\u{e000}7:6\u{e001}"), ("c = 1".to_owned(), Some((7, 6))));
    }

    #[test]
    fn every_line_of_every_family_is_found_in_its_template() {
        let set = set(&[]);
        let mut lines = 0;
        for family in set.families() {
            for subject in crate::template::sample::subjects(family) {
                for file in set.files(&family.id, &subject) {
                    let rendered = set.render(&file, &subject).unwrap();
                    let text = String::from_utf8(rendered.bytes).unwrap();
                    let marked = set.marked(family, &file, &subject).unwrap();
                    // A last line without an end has no mark.
                    for (at, line) in text.lines().enumerate().filter(|(at, _)| text.ends_with('\n') || at + 1 < text.lines().count()) {
                        assert!(marked.place(text.lines().count(), at, line).is_some(), "{} {}: {line}", family.id, rendered.name);
                        lines += 1;
                    }
                }
            }
        }
        assert!(lines > 500, "{lines}");
    }

    #[test]
    fn a_value_says_which_layers_set_it() {
        let set = set(&[(
            "overrides.yaml",
            "sites: { all: { subnets: [0.0.0.0/0], variables: { ntp_server: ntp.site.example } } }\ndevices:\n  '00:15:65:aa:bb:cc':\n    variables:\n      ntp_server: ntp.own.example\n",
        )]);
        let family = set.family("yealink").unwrap();
        let mut subject = crate::template::sample::subjects(family).remove(0);
        subject.mac = Some("00:15:65:aa:bb:cc".parse().unwrap());
        subject.address = Some([10, 0, 0, 9].into());
        let traces = set.trace("yealink", &subject, "ntp.own.example").unwrap();
        let trace = traces.first().unwrap_or_else(|| panic!("{traces:?}"));
        let (file, _) = trace.place.clone().unwrap();
        assert!(file.starts_with("yealink"), "{file}");
        let variable = trace.variables.iter().find(|variable| &*variable.name == "ntp_server").unwrap();
        let layers: Vec<_> = variable.set.iter().map(|layered| layered.origin.layer).collect();
        assert_eq!(layers.last(), Some(&Layer::Device));
        assert!(layers.contains(&Layer::Site) && layers.contains(&Layer::Defaults), "{layers:?}");
        assert_eq!(variable.set.last().unwrap().origin.line, 5);
        assert!(set.trace("yealink", &subject, "no such word").unwrap().is_empty());
        assert!(set.variable(family, &subject, "langauge").is_none());
    }
}
