//! minijinja as this product wants it: strict, fuelled, closed, and with the file's own grammar of escaping.
//!
//! - Strict: an undefined variable is an error and never an empty password.
//! - Closed: there is no loader. A template can include what is in its set and nothing else.
//! - Grammar: HTML's escaping also rewrites `/`, which simple phone parsers do not undo; so XML gets `& < > "` only, key=value
//!   files lose line ends out of values (else a display name could write a second setting), text is left as it is.

use std::io;

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior,
    syntax::SyntaxConfig,
    value::{Value, ValueKind},
};
use serde::{Deserialize, Serialize};

use super::timezone;

/// Instructions of one rendering. The biggest shipped file uses a few thousand.
const FUEL: u64 = 1_000_000;
/// Includes and macros in each other.
const RECURSION: usize = 40;
/// A phone's file; the biggest shipped one has 10 KB.
const OUTPUT_MAX: usize = 1 << 20;

/// How a file is written, and so what a value must not contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grammar {
    /// A setting per line.
    KeyValue,
    Xml,
    Text,
}

/// An environment for one grammar, without templates.
pub(super) fn environment(grammar: Grammar) -> Environment<'static> {
    let mut env = Environment::new();
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(RECURSION);
    env.set_debug(false);
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true).keep_trailing_newline(true);
    if let Ok(syntax) = syntax.build() {
        env.set_syntax(syntax);
    }
    // A custom name makes what `{% set %}` and macros capture count as escaped already.
    env.set_auto_escape_callback(move |_| match grammar {
        Grammar::Xml => AutoEscape::Custom("xml".into()),
        Grammar::KeyValue => AutoEscape::Custom("key_value".into()),
        Grammar::Text => AutoEscape::None,
    });
    env.set_formatter(move |out, _, value| {
        let failed = |_| Error::new(ErrorKind::WriteFailure, "the output is too long");
        match value.kind() {
            ValueKind::None => Err(Error::new(ErrorKind::InvalidOperation, "the value is null: give it a default")),
            ValueKind::Seq | ValueKind::Map | ValueKind::Iterable => {
                Err(Error::new(ErrorKind::InvalidOperation, "a list or a map cannot be written: name its parts, or join it"))
            }
            _ if value.is_safe() => out.write_str(&value.to_string()).map_err(failed),
            _ => out.write_str(&escape(grammar, &value.to_string())).map_err(failed),
        }
    });
    // HTML's own escaping and what shows the whole context do not belong into phones' files.
    for filter in ["escape", "e", "urlize", "pprint"] {
        env.remove_filter(filter);
    }
    env.remove_global("debug");
    env.add_filter("offset_hours", timezone::hours_text);
    env.add_filter("digits", |text: String| text.chars().filter(char::is_ascii_digit).collect::<String>());
    env.add_test("ipv4", |text: String| text.parse::<std::net::Ipv4Addr>().is_ok());
    env.add_test("ipv6", |text: String| text.parse::<std::net::Ipv6Addr>().is_ok());
    env
}

/// The value as it may stand in a file of this grammar.
pub(super) fn escape(grammar: Grammar, text: &str) -> String {
    let mut written = String::with_capacity(text.len());
    for c in text.chars() {
        match (grammar, c) {
            // Not even as a character reference: XML 1.0 §2.2 has no place for these.
            (Grammar::Xml | Grammar::KeyValue, '\r' | '\n' | '\t') => written.push(' '),
            (Grammar::Xml | Grammar::KeyValue, c) if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fffe}' | '\u{ffff}') => {}
            (Grammar::Xml, '&') => written += "&amp;",
            (Grammar::Xml, '<') => written += "&lt;",
            (Grammar::Xml, '>') => written += "&gt;",
            (Grammar::Xml, '"') => written += "&quot;",
            (_, c) => written.push(c),
        }
    }
    written
}

/// Renders a template of `env`.
pub(super) fn render(env: &Environment<'_>, name: &str, context: &Value) -> Result<Vec<u8>, Error> {
    let mut out = Bounded(Vec::with_capacity(4096));
    env.get_template(name)?.render_captured_to(context.clone(), &mut out)?;
    Ok(out.0)
}

/// Writes `empty` behind every `key =` that has nothing behind it.
pub(super) fn fill_empty(bytes: Vec<u8>, empty: &str) -> Vec<u8> {
    let Ok(text) = String::from_utf8(bytes) else { return Vec::new() };
    let mut filled = String::with_capacity(text.len() + 64);
    for line in text.split_inclusive('\n') {
        let content = line.trim_end_matches(['\r', '\n']);
        filled += content;
        if !content.starts_with('#') && content.trim_end().ends_with('=') && content.matches('=').count() == 1 {
            if !content.ends_with(' ') {
                filled.push(' ');
            }
            filled += empty;
        }
        filled += &line[content.len()..];
    }
    filled.into_bytes()
}

/// Stops a template that multiplies text.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_MAX {
            return Err(io::Error::other("the file is longer than 1 MiB"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(grammar: Grammar, source: &str, name: &str) -> Result<String, Error> {
        let mut env = environment(grammar);
        env.add_template("t", source)?;
        let context = Value::from_pairs([("name".to_owned(), Value::from(name))]);
        render(&env, "t", &context).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn values_cannot_leave_their_place() {
        let nasty = "O'Neil & <Söhne> \"x\"\r\naccount.1.password = 1\u{0}/%";
        for (grammar, result) in [
            (Grammar::KeyValue, "O'Neil & <Söhne> \"x\"  account.1.password = 1/%"),
            (Grammar::Xml, "O'Neil &amp; &lt;Söhne&gt; &quot;x&quot;  account.1.password = 1/%"),
            (Grammar::Text, nasty),
        ] {
            assert_eq!(rendered(grammar, "{{ name }}", nasty).unwrap(), result);
            assert_eq!(rendered(grammar, "{% set x %}{{ name }}{% endset %}{{ x }}", nasty).unwrap(), result, "captured: not twice");
        }
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        for source in ["{{ nmae }}", "{{ none }}", "{{ [1] }}", "{{ name|e }}", "{{ debug() }}", "{% include '/etc/passwd' %}"] {
            assert!(rendered(Grammar::Text, source, "x").is_err(), "{source}");
        }
    }

    #[test]
    fn endless_templates_end() {
        for source in [
            "{% for i in range(9999) %}{% for j in range(9999) %}{{ j }}{% endfor %}{% endfor %}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% for i in range(2000) %}{{ 'x' * 9999 }}{% endfor %}",
        ] {
            assert!(rendered(Grammar::Text, source, "x").is_err(), "{source}");
        }
    }

    #[test]
    fn nothing_is_written_as_the_make_writes_it() {
        let filled = fill_empty(b"a = 1\nb =\n# c =\nd = \n\ne = x=\n".to_vec(), "%NULL%");
        assert_eq!(String::from_utf8(filled).unwrap(), "a = 1\nb = %NULL%\n# c =\nd = %NULL%\n\ne = x=\n");
    }
}
