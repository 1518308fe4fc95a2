//! The command line as people and scripts meet it: the real program as a child, its words, its JSON and its exit status.
//!
//! Servers listen on ports of the kernel's choice; what must have ports of its own runs in a network namespace.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::{FromRawFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use clap::CommandFactory;
use plugtone::phone::make::{Make, names};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    ldap::Slapd,
    netns::{Namespace, within},
};

const PLUGTONE: &str = env!("CARGO_BIN_EXE_plugtone");
const PATIENCE: Duration = Duration::from_secs(30);

pub fn shipped(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What a run printed, and how it ended.
#[derive(Debug)]
pub struct Run {
    pub status: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Run {
    pub fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        Self { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    #[track_caller]
    pub fn good(self) -> String {
        assert!(self.status == Some(0) && self.err.is_empty(), "{self:#?}");
        assert!(!self.out.contains('\x1b'), "colour in a pipe: {}", self.out);
        self.out
    }

    /// Standard output, which is one JSON value and nothing else.
    #[track_caller]
    pub fn json(self) -> Value {
        let out = self.good();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// The error's text, of a run that must fail with it.
    #[track_caller]
    pub fn bad(self) -> String {
        assert!(self.status == Some(1) && self.err.contains("plugtone: "), "{self:#?}");
        self.err
    }
}

/// One JSON value in each line.
#[track_caller]
pub fn json_lines(text: &str) -> Vec<Value> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    text.lines().map(read).collect()
}

/// The program in `folder`, with nothing of our environment but where programs are. `timeout` ends what hangs.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.args(["120", PLUGTONE]).args(arguments).current_dir(folder);
    command.env_clear().envs(["PATH", "HOME"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command
}

pub fn plugtone(folder: &Path, arguments: &[&str]) -> Run {
    Run::of(&mut command(folder, arguments))
}

/// A folder with these files in it.
pub fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
    folder
}

/// A configuration that leaves nothing of the machine's in use, with what a test adds.
pub fn office(more: &str) -> String {
    format!(
        "extensions: {{ range: 2041-2099 }}\n\
         dhcp:\n  listen: 127.0.0.1:0\n  loopback: true\n  conflict_check: false\n  subnets: [{{ cidr: 127.64.0.0/16, range: 127.64.8.10-127.64.8.250 }}]\n\
         tftp: {{ listen: ['127.0.0.1:0'] }}\nftp: {{ listen: ['127.0.0.1:0'] }}\nhttp: {{ listen: ['127.0.0.1:0'] }}\n\
         sip: {{ udp: ['127.0.0.1:0'], tcp: ['127.0.0.1:0'] }}\nmedia: {{ first_port: 0 }}\napi: {{ listen: '127.0.0.1:0' }}\n\
         store: {{ path: data/plugtone.db }}\n{more}"
    )
}

pub const USERS: &str = "directory: { file: { path: users.yaml } }\n";

// --- check

#[test]
fn check_notes_which_phones_find_us_beside_another_dhcp_server() {
    let beside = format!("extensions: {{ range: 2041-2099 }}\n{USERS}dhcp: {{ mode: beside, subnets: [{{ cidr: 10.0.0.0/24 }}] }}\n");
    let folder = folder(&[("f.yaml", &beside), ("users.yaml", &shipped("config/demo/users.yaml"))]);
    let out = plugtone(folder.path(), &["check", "--config", "f.yaml"]).good();
    for told in [
        "f.yaml: good",
        "  note: in 10.0.0.0/24 no address is leased",
        "yealink ask by DHCPINFORM",
        "get no files: switch `provisioning.url_tokens` on",
    ] {
        assert!(out.contains(told), "no {told} in {out}");
    }
    assert_eq!(plugtone(folder.path(), &["check", "--config", "f.yaml", "--json"]).json(), serde_json::json!([]), "notes are no faults");
}

#[test]
fn check_says_where_what_was_expected_and_what_was_probably_meant() {
    let source = "directory: { file: { path: users.yaml } }\n";
    for (story, text, told) in [
        (
            "a misspelt key",
            "dhcp:\n  lease_sec: 5\n",
            "f.yaml:2:3: there is no setting 'lease_sec' here\n      lease_sec: 5\n      ^\n    hint: did you mean 'lease_secs'?\n",
        ),
        (
            "a misspelt section",
            "dchp: {}\n",
            "f.yaml:1:1: there is no setting 'dchp' here\n    dchp: {}\n    ^\n    hint: did you mean 'dhcp'?\n",
        ),
        ("nothing like it", "zz: 1\n", "    hint: possible here: extensions, directory, dhcp,"),
        ("a misspelt value", "dhcp: { mode: besides }\n", "f.yaml:1:15: 'besides' is not possible here\n"),
        ("a word for a number", "dhcp:\n  lease_secs: soon\n", "f.yaml:2:15: expected a whole number, 0 or more\n      lease_secs: soon\n"),
        ("a word for a switch", "tftp: { enabled: maybe }\n", "f.yaml:1:18: expected true or false\n"),
        ("a list for a section", "dhcp: [1]\n", "f.yaml:1:7: expected settings as `name: value`"),
        ("no port", "sip:\n  udp: [0.0.0.0]\n", "f.yaml:2:9: expected an address and a port, as 0.0.0.0:5060\n"),
        ("a range that ends early", "extensions: { range: 2999-2000 }\n", "f.yaml:1:22: '2999-2000' is not a range of extensions: write"),
        ("twice the same", "log: {}\nlog: {}\n", "f.yaml:2:1: 'log' is there twice\n"),
        ("no end", "sip: { udp: [x\n", "f.yaml:1:13: unclosed bracket '['\n"),
        (
            "a level that is none",
            &format!("{source}log:\n  level: inof\n"),
            "f.yaml:3:3: `log.level`: there is no level 'inof'; did you mean 'info'?\n",
        ),
        ("what cannot work together", &format!("{source}calls:\n  codecs: []\n"), "f.yaml:3:3: `calls.codecs` is empty: list at least"),
        ("nobody who may sign in", "{}\n", "f.yaml: `directory` names no source: write `directory:"),
    ] {
        let folder = folder(&[("f.yaml", text), ("users.yaml", &shipped("config/demo/users.yaml"))]);
        let run = plugtone(folder.path(), &["check", "--config", "f.yaml"]);
        assert_eq!((run.status, &*run.out), (Some(1), ""), "{story}: {run:#?}");
        assert!(run.err.contains(told), "{story}: wanted\n{told}\ngot\n{}", run.err);

        let plain = run.err;
        let run = plugtone(folder.path(), &["check", "--json", "--config", "f.yaml"]);
        assert_eq!((run.status, &*run.err), (Some(1), "plugtone: 1 fault\n"), "{story}");
        let faults: Value = serde_json::from_str(&run.out).unwrap_or_else(|error| panic!("{story}: {error}: {}", run.out));
        let fault = &faults[0];
        assert!(fault["line"].is_u64() && fault["column"].is_u64() && fault["file"] == "f.yaml", "{story}: {fault}");
        let is_told = |part: &str| fault[part].as_str().is_some_and(|text| plain.contains(text));
        assert!(is_told("message") && (fault["hint"].is_null() || is_told("hint")), "{story}: {fault} is not {plain}");
    }
    let folder = folder(&[]);
    let told = plugtone(folder.path(), &["check", "--config", "nowhere.yaml"]).bad();
    assert!(told.starts_with("nowhere.yaml: cannot be read:") && told.contains("--config"), "{told}");
    // `serve` refuses the same, in the same words.
    fs::write(folder.path().join("f.yaml"), "dchp: {}\n").expect("written");
    let told = plugtone(folder.path(), &["serve", "--config", "f.yaml"]).bad();
    assert!(told.contains("f.yaml:1:1: there is no setting 'dchp' here") && told.contains("did you mean 'dhcp'?"), "{told}");
}

#[test]
fn check_says_the_same_of_templates_flows_prompts_and_users() {
    let template = shipped("templates/yealink/account.cfg.j2");
    let family = shipped("templates/yealink.yaml");
    let flow = shipped("ivr/flows/welcome.yaml");
    let users = shipped("config/demo/users.yaml");
    let config = office(&format!("{USERS}templates: {{ path: tpl }}\nivr: {{ path: ivr }}\n"));
    let line_of = |text: &str, word: &str| text.lines().position(|line| line.contains(word)).expect("it is there") + 1;
    for (story, file, text, told) in [
        (
            "a template's variable",
            "tpl/yealink/account.cfg.j2",
            template.replacen("line.auth_user", "line.auth_usr", 1),
            format!(
                "tpl/yealink/account.cfg.j2:{}:42: 'line.auth_usr' has no value\n    account.{{{{ line.number }}}}.auth_name = {{{{ line.auth_usr }}}}\n",
                line_of(&template, "line.auth_user")
            ) + "                                             ^\n    hint: did you mean 'auth_user'?\n",
        ),
        (
            "a template's syntax",
            "tpl/yealink/account.cfg.j2",
            template.replacen("{% for line in lines %}", "{% for line on lines %}", 1),
            "tpl/yealink/account.cfg.j2:2:".to_owned(),
        ),
        (
            "a family's key",
            "tpl/yealink.yaml",
            family.replacen("\nfiles:", "\nfils:", 1),
            format!("tpl/yealink.yaml:{}:1: there is no setting 'fils' here\n    fils:\n    ^\n    hint: did you mean 'files'?\n", line_of(&family, "files:")),
        ),
        (
            "an override",
            "tpl/overrides.yaml",
            "sites:\n  all:\n    variables:\n      langauge: de\n".to_owned(),
            "tpl/overrides.yaml:4:7: no template reads a variable 'langauge'\n          langauge: de\n          ^\n    hint: did you mean 'language'?\n"
                .to_owned(),
        ),
        (
            "a flow's prompt",
            "ivr/flows/welcome.yaml",
            flow.replacen("[ask-pin]", "[ask-pni]", 1),
            format!("ivr/flows/welcome.yaml:{}:16: there is no prompt 'ask-pni'\n", line_of(&flow, "[ask-pin]"))
                + "          prompt: [ask-pni]\n                   ^\n    hint: did you mean 'ask-pin'?\n",
        ),
        (
            "a flow's state",
            "ivr/flows/night.yaml",
            "start: by\nstates: { bye: { hang_up: night } }\n".to_owned(),
            "ivr/flows/night.yaml:1:8: there is no state 'by'\n    start: by\n           ^\n    hint: did you mean 'bye'?\n".to_owned(),
        ),
        (
            "a user's login",
            "users.yaml",
            users.replacen("login: \"1002\"", "login: \"10O2\"", 1),
            format!("users.yaml:{}:12: login '10O2' cannot be keyed in", line_of(&users, "login: \"1002\"")),
        ),
        (
            "an extension of two",
            "users.yaml",
            users.replacen("\"2042\"", "\"2041\"", 1),
            format!("users.yaml:{}:16: extension 2041 is taken", line_of(&users, "extension: \"2042\"")),
        ),
    ] {
        let folder = folder(&[("f.yaml", &config), ("users.yaml", &users), ("tpl/defaults.yaml", &shipped("templates/defaults.yaml"))]);
        let path = folder.path().join(file);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(&path, text).expect("written");
        let run = plugtone(folder.path(), &["check", "--config", "f.yaml"]);
        assert_eq!((run.status, &*run.out), (Some(1), ""), "{story}: {run:#?}");
        assert!(run.err.contains(&told) && run.err.ends_with("plugtone: 1 fault\n"), "{story}: wanted\n{told}\ngot\n{}", run.err);
    }
}

#[test]
fn check_looks_whether_the_mail_server_can_be_trusted() {
    let mail = "voicemail: { mail: { server: smtp.example.com, from: v@example.com, ca_file: ca.pem } }\n";
    let folder = folder(&[("f.yaml", &office(&format!("{USERS}{mail}"))), ("users.yaml", &shipped("config/demo/users.yaml"))]);
    let told = plugtone(folder.path(), &["check", "--config", "f.yaml"]).bad();
    assert!(told.contains("f.yaml: `voicemail.mail`: `ca_file`: ca.pem: No such file"), "{told}");
    fs::write(folder.path().join("ca.pem"), "no certificate\n").expect("written");
    let told = plugtone(folder.path(), &["check", "--config", "f.yaml"]).bad();
    assert!(told.contains("ca.pem: it holds no PEM certificate"), "{told}");
}

/// The configuration that README.md shows for an office.
fn five_lines() -> String {
    let readme = shipped("README.md");
    let block = readme.split("```yaml\n").nth(1).expect("a YAML block").split("```").next().expect("its end").to_owned();
    assert!(block.lines().count() <= 5, "{block}");
    block
}

#[test]
fn the_shipped_configuration_and_the_five_lines_of_the_readme_are_good() {
    let folder = folder(&[("five.yaml", &five_lines())]);
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/plugtone.yaml").display().to_string();
    for file in ["five.yaml", &shipped] {
        let good = format!("{file}: good; templates, flows, routes and users too\n");
        assert_eq!(plugtone(folder.path(), &["check", "--config", file]).good(), good);
        assert_eq!(plugtone(folder.path(), &["check", "-c", file, "--json"]).json(), serde_json::json!([]));
        let by_environment = Run::of(command(folder.path(), &["check"]).env("PLUGTONE_CONFIG", file));
        assert_eq!(by_environment.good(), good);
    }
}

// --- render

#[test]
fn render_shows_what_each_make_gets_before_anything_runs() {
    let folder = folder(&[("five.yaml", &five_lines().replace("extensions:", "store: { path: data/plugtone.db }\nextensions:"))]);
    // Some makers' prefixes are those of all that they make.
    let untold = ["cisco_7940", "cisco_79xx", "gigaset_n510", "gigaset_n720"];
    let told: Vec<_> = names().filter(|name| !untold.contains(name)).map(|name| Make::of(name).expect("a make")).collect();
    let alone = untold.map(|family| (vec![Make::of(family).expect("a make")], vec!["--family", family]));
    for (makes, as_family) in alone.into_iter().chain([(told, vec![])]) {
        let macs: Vec<_> = makes.iter().map(|make| make.mac(7).to_string()).collect();
        let all: Vec<_> = macs.iter().flat_map(|mac| ["--mac", mac]).collect();
        let render = |more: &[&str]| plugtone(folder.path(), &[&["render", "-c", "five.yaml"], &as_family[..], &all[..], more].concat());
        let of = |files: &[Value], mac: &str| -> Vec<Value> { files.iter().filter(|file| file["mac"] == mac).cloned().collect() };
        for (state, more, user) in
            [("as it is, which is new", &[][..], None), ("unbound", &["--unbound"], None), ("bound", &["--as", "2041"], Some("2041"))]
        {
            let shown = render(more).good();
            let files: Vec<Value> = serde_json::from_value(render(&[more, &["--json"]].concat()).json()).expect("a list");
            // One after the other, each under its name.
            let head = |file: &Value| {
                format!("──── {}  ({})\n", file["name"].as_str().expect("a name"), file["content_type"].as_str().expect("a type"))
            };
            let told: String = files.iter().map(|file| format!("{}{}\n", head(file), file["text"].as_str().expect("a text"))).collect();
            assert_eq!(shown, told, "{state}");
            for (make, mac) in makes.iter().zip(&macs) {
                let (family, new) = (make.family, format!("new{}", make.mac(7).bare()));
                let text: String = of(&files, mac).iter().map(|file| file["text"].as_str().expect("a text").to_owned()).collect();
                assert!(
                    text.contains(user.unwrap_or(&new)) && text.contains("••••••") && !text.contains("0.0.0.0"),
                    "{family} {state}: {text}"
                );
                // Further ports and handsets are nobody's still.
                assert!(user.is_none() || !text.replace(&format!("{new}-"), "").contains(&new), "{family}");
            }
        }
        let explained = render(&["--explain"]).good();
        let parts: Vec<_> = explained.split("──── ").skip(1).collect();
        assert_eq!(parts.len(), makes.len());
        for ((part, make), mac) in parts.iter().zip(&makes).zip(&macs) {
            assert!(part.starts_with(&format!("{mac}  ({})\n", make.family)), "{part}");
            let codecs = |line: &str| line.starts_with("codecs = ") && line.contains("# defaults, defaults.yaml");
            assert!(part.lines().any(codecs), "{}: {part}", make.family);
        }
    }
    let render = |more: &[&str]| plugtone(folder.path(), &[&["render", "-c", "five.yaml", "--mac", "00:15:65:00:00:07"], more].concat());
    assert!(render(&["--show-secrets"]).bad().contains("there are no secrets yet"));
    assert!(render(&["--family", "yaelink"]).bad().contains(
        "there is no family 'yaelink'; there are acrobits, algo, audiocodes, avaya_j, cisco_7940, cisco_79xx, cisco_mpp, cisco_spa, digium, fanvil, generic, gigaset, gigaset_n510, gigaset_n720, grandstream, groundwire, htek, linphone, microsip, mitel, panasonic, poly, snom, yealink, zoiper"
    ));
    assert_eq!(render(&["--as", "2041", "--unbound"]).status, Some(2), "one or the other");
    assert!(!folder.path().join("data").exists(), "looking leaves nothing behind");
}

#[test]
fn a_value_on_a_phone_says_where_it_was_written() {
    let own = "sites: { all: { subnets: [0.0.0.0/0, '::/0'], variables: { ntp_server: ntp.example.org, dot1x_identity: seven, dot1x_password: hush-hush } } }\n";
    let config = office(USERS) + "templates: { path: own }\n";
    let folder = folder(&[("f.yaml", &config), ("users.yaml", &shipped("config/demo/users.yaml")), ("own/overrides.yaml", own)]);
    let why = |key: &str| plugtone(folder.path(), &["template", "why", "00:15:65:aa:bb:cc", key, "-c", "f.yaml", "--as", "2041"]);
    let variable = why("ntp_server").good();
    let lines: Vec<_> = variable.lines().map(str::trim).collect();
    assert!(lines[0].starts_with("ntp_server = ntp.example.org    # site, ") && lines[0].ends_with("own/overrides.yaml:1"), "{variable}");
    assert!(lines[1].starts_with("instead of ") && lines[1].contains("# defaults, defaults.yaml (shipped):"), "{variable}");
    // By a value that stands in a file: the template's line, and what is in it.
    let value = why("ntp.example.org").good();
    assert!(value.contains("written by yealink/") && value.contains("ntp_server = ntp.example.org"), "{value}");
    // What people have set is masked as well as what is derived.
    let set = why("static.network.802_1x.md5_password").good();
    assert!(set.contains("••••••") && !set.contains("hush"), "{set}");
    let secret = why("account.1.password").good();
    assert!(secret.contains("account.1.password = ••••••") && secret.contains("lines: of the phone and the server"), "{secret}");
    let nothing = why("acount.1.password").bad();
    assert!(nothing.contains("is in no file of this yealink, and no variable"), "{nothing}");
}

// --- tokens and other things that need no server

#[test]
fn tokens_are_made_listed_and_revoked_with_the_configuration_named_anywhere() {
    let folder = folder(&[("f.yaml", &office(USERS)), ("users.yaml", &shipped("config/demo/users.yaml"))]);
    fs::create_dir(folder.path().join("data")).expect("made");
    let run = |arguments: &[&str]| plugtone(folder.path(), arguments);
    let empty = "no tokens; make one with `plugtone token create NAME`\n";
    for list in [&["token", "list", "--config", "f.yaml"][..], &["token", "--config", "f.yaml", "list"], &["token", "list", "-c", "f.yaml"]]
    {
        assert_eq!(run(list).good(), empty, "{list:?}");
    }
    for (name, arguments) in [
        ("after", &["token", "create", "after", "--config", "f.yaml"][..]),
        ("before", &["token", "--config", "f.yaml", "create", "before"]),
        ("between", &["token", "create", "-c", "f.yaml", "between", "--days", "3"]),
    ] {
        let token = run(arguments).good();
        assert!(token.starts_with("ptk_") && token.lines().count() == 1 && token.trim().len() == 36, "{name}: {token}");
    }
    assert_eq!(Run::of(command(folder.path(), &["token", "create", "environment"]).env("PLUGTONE_CONFIG", "f.yaml")).good().len(), 37);
    // Written twice, the nearer one counts.
    assert!(run(&["token", "--config", "nowhere.yaml", "list", "--config", "f.yaml"]).good().contains("between"));
    assert!(run(&["token", "create", "after", "--config", "f.yaml"]).bad().contains("there is a token 'after' already"));
    let names = |listed: &Value| -> Vec<String> {
        let names = listed.as_array().expect("tokens").iter().map(|token| token["name"].as_str().expect("a name").to_owned());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    };
    let listed = run(&["token", "list", "--json", "-c", "f.yaml"]).json();
    assert_eq!(names(&listed), ["after", "before", "between", "environment"]);
    let between = listed.as_array().expect("tokens").iter().find(|token| token["name"] == "between").expect("it is there");
    assert!(!between["expires"].is_null() && !between.to_string().contains("ptk_"), "{between}");
    assert_eq!(run(&["token", "revoke", "before", "-c", "f.yaml"]).good(), "'before' is revoked\n");
    assert!(run(&["token", "revoke", "before", "-c", "f.yaml"]).bad().contains("there is no token 'before'"));
    let table = run(&["token", "list", "-c", "f.yaml"]).good();
    assert!(table.starts_with("NAME ") && table.lines().count() == 4 && table.contains("never"), "{table}");
}

#[test]
fn flows_are_rehearsed_without_a_phone() {
    let night = "description: Nobody is here\nstart: bye\nstates: { bye: { say: [goodbye], then: end }, end: { hang_up: night } }\n";
    let folder = folder(&[("f.yaml", &office(&format!("{USERS}ivr: {{ path: ivr }}\n"))), ("ivr/flows/night.yaml", night)]);
    let run = |arguments: &[&str]| plugtone(folder.path(), arguments);
    assert_eq!(run(&["ivr", "list"]).good(), "welcome          A new phone asks whose it is\n");
    for list in [&["ivr", "list", "--json", "--config", "f.yaml"][..], &["ivr", "-c", "f.yaml", "list", "--json"]] {
        let flows = run(list).json();
        assert_eq!((flows.as_array().map(Vec::len), &flows[0]["name"]), (Some(2), &Value::from("night")), "{flows}");
    }
    let script = "directory accepted Ada Lovelace 2041; bind bound; listen; keys 1001#; listen; keys 1815#; listen; keys 1";
    let told = run(&["ivr", "test", "welcome", "--script", script]).good();
    let last = told.lines().last().expect("lines");
    assert!(told.contains("caller  keys 1815#") && last.ends_with("server  hangs up: bound"), "{told}");
    let lines = run(&["ivr", "test", "welcome", "--script", script, "--json"]).json();
    let end = lines.as_array().and_then(|lines| lines.last()).expect("lines");
    assert_eq!((&end["what"], &end["detail"]), (&Value::from("hangs_up"), &Value::from("bound")), "{lines}");
    assert!(lines.as_array().is_some_and(|lines| lines.is_sorted_by_key(|line| line["at_secs"].as_f64().map(f64::to_bits))), "{lines}");
    let told = run(&["ivr", "test", "night", "--script", "listen", "--config", "f.yaml"]).good();
    assert!(told.contains("Goodbye") && told.ends_with("hangs up: night\n"), "{told}");
    fs::write(folder.path().join("caller.txt"), "directory refused\nlissen\n").expect("written");
    let told = run(&["ivr", "test", "welcome", "--script-file", "caller.txt"]).bad();
    assert!(told.contains("caller.txt:2:1: 'lissen' is no step") && told.contains("did you mean 'listen'?"), "{told}");
    assert!(run(&["ivr", "test", "welcom", "--script", "listen"]).bad().contains("did you mean 'welcome'?"));
}

#[test]
fn a_pin_is_hashed_for_the_users_file() {
    let folder = folder(&[("f.yaml", &office(USERS))]);
    let mut child = command(folder.path(), &["pin", "hash"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    child.stdin.take().expect("a pipe").write_all(b"1815\n").expect("written");
    let hash = String::from_utf8(child.wait_with_output().expect("it ends").stdout).expect("UTF-8");
    let users = format!("users:\n- {{ login: '1', display_name: Ada, pin_hash: '{}' }}\n", hash.trim());
    fs::write(folder.path().join("users.yaml"), users).expect("written");
    assert!(hash.starts_with("$argon2id$"), "{hash}");
    plugtone(folder.path(), &["check", "-c", "f.yaml"]).good();
}

// --- help, manual, completions, colour

/// Every subcommand, nested ones too, as its words.
fn subcommands() -> Vec<Vec<String>> {
    fn add(command: &clap::Command, words: &[String], found: &mut Vec<Vec<String>>) {
        found.push(words.to_vec());
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            add(sub, &[words, &[sub.get_name().to_owned()]].concat(), found);
        }
    }
    let mut found = Vec::new();
    add(&plugtone::cli::Cli::command(), &[], &mut found);
    found
}

#[test]
fn every_subcommand_explains_itself_with_examples() {
    let folder = folder(&[]);
    let all = subcommands();
    assert!(all.len() > 30, "{}", all.len());
    for words in all {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let help = plugtone(folder.path(), &[&words, &["--help"][..]].concat()).good();
        let (usage, examples) = help.split_once("Examples:\n").unwrap_or_else(|| panic!("{words:?} has no examples: {help}"));
        assert!(usage.contains("Usage: plugtone"), "{words:?}: {help}");
        assert!(!usage.starts_with("Usage"), "{words:?} does not say what it does: {help}");
        // What is shown is of this subcommand.
        let this = [&["plugtone"], &words[..]].concat().join(" ");
        assert!(examples.lines().next().is_some_and(|line| line.contains(&this)), "{words:?}: {examples}");
        for line in usage.lines().filter(|line| line.trim_start().starts_with('<') || line.trim_start().starts_with("--")) {
            assert!(line.split_whitespace().count() > 1, "{words:?}: nothing explains{line}");
        }
    }
    assert!(plugtone(folder.path(), &["--version"]).good().starts_with(&format!("plugtone {}", env!("CARGO_PKG_VERSION"))));
    for wrong in [&["srve"][..], &["check", "--confg", "x"], &["bind", "00:15", "1001"], &["bind"]] {
        let run = plugtone(folder.path(), wrong);
        assert!(run.status == Some(2) && run.out.is_empty() && run.err.starts_with("error: "), "{run:#?}");
    }
}

#[test]
fn shells_complete_and_the_manual_is_written() {
    let folder = folder(&[]);
    let run = |arguments: &[&str]| plugtone(folder.path(), arguments);
    let bash = run(&["completions", "bash"]).good();
    fs::write(folder.path().join("plugtone.bash"), bash).expect("written");
    // What bash itself offers.
    for (words, offered) in [("plugtone tok", "token"), ("plugtone token cr", "create"), ("plugtone phone --family ye", "yealink")] {
        let (before, last) = words.rsplit_once(' ').expect("words");
        let script = format!(
            "source ./plugtone.bash && COMP_WORDS=({words}) COMP_CWORD={} && _plugtone plugtone {last} {} && echo \"${{COMPREPLY[@]}}\"",
            words.split(' ').count() - 1,
            before.rsplit(' ').next().expect("a word"),
        );
        assert_eq!(Run::of(Command::new("bash").args(["-euc", &script]).current_dir(folder.path())).good().trim(), offered, "{words}");
    }
    let zsh = run(&["completions", "zsh"]).good();
    let fish = run(&["completions", "fish"]).good();
    assert!(zsh.starts_with("#compdef plugtone\n"), "{zsh}");
    for sub in plugtone::cli::Cli::command().get_subcommands().map(clap::Command::get_name) {
        assert!(zsh.contains(&format!("({sub})")), "zsh does not know {sub}");
        assert!(fish.contains(&format!(" -a \"{sub}\" ")), "fish does not know {sub}");
    }

    let page = run(&["man"]).good();
    for part in [".TH plugtone 1 ", ".SH NAME", ".SH SYNOPSIS", "plugtone demo", "plugtone\\-serve(1)"] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    fs::create_dir(folder.path().join("man1")).expect("made");
    assert_eq!(run(&["man", "--out", "man1"]).good(), "");
    for words in subcommands() {
        let name = [vec!["plugtone".to_owned()], words].concat().join("-");
        let page =
            fs::read_to_string(folder.path().join("man1").join(format!("{name}.1"))).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(&format!(".TH {name} 1 ")) && page.contains("Examples:"), "{page}");
    }
    assert!(run(&["man", "--out", "nowhere/man1"]).bad().contains("cannot write the pages into nowhere/man1"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    for arguments in ["completions zsh", "man", "--help", "render --mac 00:15:65:00:00:07 -c five.yaml --explain"] {
        let folder = folder(&[("five.yaml", &five_lines())]);
        let script = format!("set -o pipefail; {PLUGTONE} {arguments} | head -n 1 >/dev/null");
        let run = Run::of(Command::new("bash").args(["-c", &script]).current_dir(folder.path()));
        assert_eq!((run.status, &*run.err), (Some(0), ""), "{arguments}: {run:#?}");
    }
}

/// Both ends of a terminal: what its owner reads, and what a program has as its output.
fn terminal() -> (File, OwnedFd) {
    let (mut owner, mut program) = (0, 0);
    // SAFETY: both descriptors are written by the call; no name and no settings are asked for.
    let opened = unsafe { libc::openpty(&mut owner, &mut program, std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut()) };
    assert_eq!(opened, 0, "openpty: {}", std::io::Error::last_os_error());
    // SAFETY: they were just opened, and nobody else has them.
    unsafe { (File::from_raw_fd(owner), OwnedFd::from_raw_fd(program)) }
}

/// What a program writes to a terminal, until `enough` or its end.
fn on_a_terminal(command: &mut Command, standard_error: bool, enough: impl Fn(&str) -> bool) -> (String, Child) {
    let (mut owner, program) = terminal();
    command.stdin(Stdio::null());
    if standard_error {
        command.stdout(Stdio::null()).stderr(program);
    } else {
        command.stdout(program).stderr(Stdio::null());
    }
    let child = command.spawn().expect("it runs");
    // The last of our copies of the program's end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    // EIO: nobody has the other end any more.
    while !enough(&text)
        && let Ok(read @ 1..) = owner.read(&mut bytes)
    {
        text += &String::from_utf8_lossy(&bytes[..read]);
    }
    (text, child)
}

#[test]
fn colour_is_for_terminals() {
    let folder = folder(&[("f.yaml", &office(USERS)), ("users.yaml", &shipped("config/demo/users.yaml"))]);
    fs::create_dir(folder.path().join("data")).expect("made");
    plugtone(folder.path(), &["token", "create", "crm", "-c", "f.yaml"]).good();
    let list = ["token", "list", "-c", "f.yaml"];
    assert!(plugtone(folder.path(), &list).good().starts_with("NAME"));
    for (no_colour, coloured) in [(None, true), (Some("1"), false), (Some(""), true)] {
        let mut command = command(folder.path(), &list);
        command.envs(no_colour.map(|no| ("NO_COLOR", no)));
        let (text, mut child) = on_a_terminal(&mut command, false, |_| false);
        assert!(child.wait().expect("it ends").success());
        assert_eq!((text.contains("\x1b[1mNAME"), text.contains("crm")), (coloured, true), "NO_COLOR={no_colour:?}: {text:?}");
    }

    // The log on a terminal; every other test here has it in a file.
    for (no_colour, coloured) in [(None, true), (Some("1"), false)] {
        let mut command = command(folder.path(), &["serve", "-c", "f.yaml"]);
        command.envs(no_colour.map(|no| ("NO_COLOR", no)));
        let (text, mut child) = on_a_terminal(&mut command, true, |text| text.contains("ready"));
        signal(&child, libc::SIGTERM);
        assert!(child.wait().expect("it ends").success(), "{text}");
        assert_eq!(text.contains('\x1b'), coloured, "NO_COLOR={no_colour:?}: {text:?}");
    }
}

// --- a server, and what is asked of it

fn signal(child: &Child, signal: i32) {
    // SAFETY: sends a signal to a child that was not waited for yet. `timeout` hands it on to the program.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// `plugtone serve` in a folder of its own. It tells its log when a test fails.
pub struct Server {
    child: Child,
    pub folder: TempDir,
    pub api: SocketAddr,
    pub dhcp: SocketAddr,
    pub http: SocketAddr,
    pub tftp: SocketAddr,
}

/// The server's own configuration, and the same with the ports that it got, for who asks it.
pub const ITS: &str = "plugtone.yaml";
const ASKED: &str = "asked.yaml";

impl Server {
    pub fn start(more: &str, environment: &[(&str, &str)]) -> Self {
        let folder = folder(&[(ITS, &office(more)), ("users.yaml", &shipped("config/demo/users.yaml"))]);
        fs::create_dir_all(folder.path().join("tpl")).expect("made");
        Self::start_in(folder, environment)
    }

    pub fn start_in(folder: TempDir, environment: &[(&str, &str)]) -> Self {
        let log = File::create(folder.path().join("log")).expect("a log");
        let mut command = Command::new(PLUGTONE);
        command.args(["serve", "--config", ITS]).current_dir(folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.env_clear().envs(environment.iter().copied());
        let child = command.spawn().expect("the server starts");
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut server = Self { child, folder, api: nowhere, dhcp: nowhere, http: nowhere, tftp: nowhere };
        let ready = server.until_logged("Addresses {");
        assert!(!ready.contains('\x1b'), "colour in a file: {ready}");
        let address = |name: &str| {
            let rest = ready.split_once(&format!("{name}: ")).expect("it says where it listens").1.trim_start_matches('[');
            let end = rest.find([',', ']', ' ']).expect("more");
            rest[..end].parse().expect("an address")
        };
        (server.api, server.dhcp, server.http, server.tftp) = (address("api"), address("dhcp"), address(" http"), address("tftp"));
        let asked = fs::read_to_string(server.path(ITS))
            .expect("read")
            .replace("api: { listen: '127.0.0.1:0' }", &format!("api: {{ listen: '{}' }}", server.api));
        fs::write(server.path(ASKED), asked).expect("written");
        server
    }

    /// SIGKILL, and the same program on the same database; on other ports.
    pub fn dies_and_starts_again(mut self) -> Self {
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        drop(self.child.kill());
        drop(self.child.wait());
        let log = fs::read_to_string(folder.path().join("log")).expect("the log");
        fs::write(folder.path().join("log.before"), log).expect("written");
        // Nothing is said of it: it is not this one that fails.
        fs::write(self.path("log"), "").expect("written");
        Self::start_in(folder, &[])
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).expect("the log")
    }

    /// The first line of the log with this in it.
    #[track_caller]
    pub fn until_logged(&self, what: &str) -> String {
        let mut found = None;
        within(PATIENCE, || {
            found = self.log().lines().find(|line| line.contains(what)).map(str::to_owned);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("the log never tells of '{what}'"))
    }

    /// A subcommand that finds the server by its configuration.
    pub fn ask(&self, arguments: &[&str]) -> Run {
        plugtone(self.folder.path(), &[arguments, &["--config", ASKED]].concat())
    }

    /// Asks until the answer is as wanted.
    #[track_caller]
    pub fn until(&self, arguments: &[&str], wanted: impl Fn(&Value) -> bool) -> Value {
        let mut answer = Value::Null;
        let good = within(PATIENCE, || {
            answer = self.ask(arguments).json();
            wanted(&answer)
        });
        assert!(good, "{arguments:?} never says what is wanted: {answer:#}");
        answer
    }

    /// Simulated phones plugged into it, until the guard is dropped.
    pub fn phones(&self, name: &str, arguments: &[&str]) -> Phones {
        let out = self.path(name);
        let dhcp = self.dhcp.to_string();
        let mut command = Command::new(PLUGTONE);
        command.args(["phone", "--dhcp", &dhcp, "--json"]).args(arguments).stdin(Stdio::null());
        command.stdout(File::create(&out).expect("a file")).env_clear();
        Phones { child: command.spawn().expect("the phones start"), out }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the server's last words\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

pub struct Phones {
    child: Child,
    out: PathBuf,
}

impl Phones {
    /// All that they told until now.
    pub fn news(&self) -> Vec<Value> {
        let text = fs::read_to_string(&self.out).expect("read");
        // The last line may be on its way.
        json_lines(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }

    /// Until `count` of them have told this of themselves.
    #[track_caller]
    pub fn until(&self, count: usize, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut told = Vec::new();
        let good = within(PATIENCE, || {
            told = self.news().into_iter().filter(|news| wanted(news)).collect();
            told.len() >= count
        });
        assert!(good, "{count} phones never told what is wanted: {:#?}", self.news());
        told
    }
}

impl Drop for Phones {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_reads_its_files_again_and_a_bad_one_changes_nothing() {
    let server = Server::start(&format!("{USERS}templates: {{ path: tpl }}\nivr: {{ path: ivr }}\n"), &[]);
    let logins = || server.ask(&["users", "--json"]).json().as_array().map(Vec::len);
    assert_eq!(logins(), Some(6));
    let good = fs::read_to_string(server.path(ITS)).expect("read");
    let users = shipped("config/demo/users.yaml");
    let one_more = format!("{users}  - login: \"1007\"\n    display_name: Ida Rhodes\n    pin_hash: {}\n", hash_of(&users));

    // By signal, as service managers do.
    server.write("users.yaml", &one_more);
    signal(&server.child, libc::SIGHUP);
    server.until_logged("read again");
    assert_eq!(logins(), Some(7));

    server.write(ITS, &format!("{good}dchp: {{}}\n"));
    let fault = format!("plugtone.yaml:{}:1: there is no setting 'dchp' here", good.lines().count() + 1);
    signal(&server.child, libc::SIGHUP);
    server.until_logged("nothing was changed, the last good configuration stays");
    let log = server.log();
    let told = log.split("nothing was changed").nth(1).expect("told");
    assert!(told.contains(&fault) && told.contains("did you mean 'dhcp'?"), "{told}");
    assert_eq!(logins(), Some(7), "it goes on");

    // By command, with the answer at hand.
    let told = server.ask(&["reload"]).bad();
    assert!(told.contains(&format!("the last good configuration stays: {fault}")), "{told}");
    server.write(ITS, &good);
    fs::create_dir_all(server.path("ivr/flows")).expect("made");
    for (file, text, fault) in [
        ("users.yaml", users.replace("login: \"1002\"", "login: \"10O2\""), "users.yaml:21:12: login '10O2' cannot be keyed in"),
        ("ivr/flows/welcome.yaml", "start: by\nstates: { bye: { hang_up: x } }\n".to_owned(), "did you mean 'bye'?"),
        (
            "tpl/overrides.yaml",
            "sites:\n  all:\n    variables:\n      langauge: de\n".to_owned(),
            "tpl/overrides.yaml:4:7: no template reads",
        ),
    ] {
        let before = fs::read_to_string(server.path(file)).ok();
        server.write(file, &text);
        for json in [&["reload"][..], &["reload", "--json"]] {
            let told = server.ask(json).bad();
            assert!(told.contains(fault), "{file}: {told}");
        }
        assert_eq!(logins(), Some(7), "{file}: it goes on with what it had");
        match before {
            Some(text) => server.write(file, &text),
            None => fs::remove_file(server.path(file)).expect("removed"),
        }
    }
    server.write("users.yaml", &users);
    assert!(server.ask(&["reload"]).good().starts_with("read again: templates, flows"));
    assert_eq!(logins(), Some(6), "a good change is live");
    // What a reload does not reach is named.
    server.write(ITS, &good.replace("2041-2099", "2041-2199"));
    let told = server.ask(&["reload", "--json"]).json();
    assert!(told["reloaded"].as_str().is_some_and(|what| what.ends_with("after a restart also: extensions")), "{told}");
}

/// Any hash of the file, for one more user.
fn hash_of(users: &str) -> &str {
    users.split("pin_hash: ").nth(1).and_then(|rest| rest.lines().next()).expect("a hash")
}

#[test]
fn lists_and_actions_work_against_a_running_server() {
    let server = Server::start(USERS, &[]);
    let tables = [
        (&["devices"][..], "no device was seen yet: plug one in\n"),
        (&["bindings"], "nobody has a phone yet\n"),
        (&["sip", "bans"], "nobody is banned\n"),
        (&["calls"], "nobody is in a call\n"),
        (&["calls", "records"], "nobody has called\n"),
    ];
    for (command, nothing) in tables {
        assert_eq!(server.ask(command).good(), nothing);
        assert_eq!(server.ask(&[command, &["--json"]].concat()).json(), serde_json::json!([]), "{command:?}");
    }
    let told = server.ask(&["sip", "pardon", "192.0.2.9"]).bad();
    assert!(told.contains("192.0.2.9 is not banned"), "{told}");

    let phones = server.phones("phones", &["--family", "yealink", "--count", "3", "--answer"]);
    let registered = phones.until(3, |news| news["type"] == "registered");
    let mut macs: Vec<String> = registered.iter().map(|news| news["mac"].as_str().expect("a MAC").to_owned()).collect();
    macs.sort();
    assert_eq!(macs, ["00:15:65:00:00:01", "00:15:65:00:00:02", "00:15:65:00:00:03"]);
    assert!(registered.iter().all(|news| news["at_secs"].is_f64() && news["user"].as_str().is_some_and(|user| user.starts_with("new"))));
    let devices = server.until(&["devices", "--json"], |devices| {
        devices.as_array().is_some_and(|all| all.len() == 3 && all.iter().all(|device| device["state"] == "provisional"))
    });
    assert_eq!(devices[0]["mac"], macs[0].as_str());
    let table = server.ask(&["devices"]).good();
    assert!(table.starts_with("MAC ") && table.lines().count() == 4 && table.contains("yealink T46S"), "{table}");
    let table = server.ask(&["users"]).good();
    assert!(table.starts_with("LOGIN  EXTENSION  NAME ") && table.contains("1001   2041       Ada Lovelace"), "{table}");

    // Two become somebody's.
    let table = server.ask(&["bind", &macs[0], "1001"]).good();
    assert!(table.contains("2041       Ada Lovelace  00:15:65:00:00:01"), "{table}");
    let bound = server.ask(&["bind", &macs[1], "1002", "--json"]).json();
    assert_eq!((&bound["extension"], &bound["mac"]), (&Value::from("2042"), &Value::from(&*macs[1])));
    for extension in ["2041", "2042"] {
        phones.until(1, |news| news["type"] == "registered" && news["user"] == extension);
    }
    assert!(server.ask(&["bind", &macs[0], "9999"]).bad().contains("nobody in the directory has the login '9999'"));
    assert!(server.ask(&["bindings"]).good().contains("2042       Alan Turing"));
    assert_eq!(server.ask(&["bindings", "--json"]).json().as_array().map(Vec::len), Some(2));
    let timeline = server.ask(&["devices", &macs[0]]).good();
    assert!(timeline.contains("in_service") && timeline.contains("is told to reload"), "{timeline}");
    let detail = server.ask(&["devices", &macs[0].replace(':', ""), "--json"]).json();
    assert!(detail["binding"]["extension"] == "2041" && detail["timeline"].as_array().is_some_and(|events| events.len() > 10), "{detail}");

    // What they wish of their telephones.
    assert_eq!(server.ask(&["wishes", "2041"]).good(), "2041 wishes nothing: calls ring\n");
    let shown = server.ask(&["wishes", "2041", "--busy", "2042", "--block", "0123", "--speed", "7=2042", "--call-waiting", "off"]).good();
    for line in ["2041: while busy, calls go to 2042", "2041: one call only", "2041: 0123 is blocked", "2041: speed dial 7 is 2042"] {
        assert!(shown.contains(line), "{shown}");
    }
    assert!(server.ask(&["wishes", "2041", "--always", "nobody"]).bad().contains("'nobody' cannot be dialled"));
    let wishes =
        server.ask(&["wishes", "2041", "--busy", "", "--unblock", "0123", "--speed", "7=", "--call-waiting", "on", "--json"]).json();
    assert!(wishes["busy"].is_null() && wishes["blocked"] == serde_json::json!([]) && wishes["one_call_only"] == false, "{wishes}");
    assert_eq!(server.ask(&["night"]).good(), "no night switches: the routes have no hours\n");
    assert!(server.ask(&["night", "turn", "office", "night"]).bad().contains("the routes have no hours 'office'"));

    // They talk: one watches, one sees the list, one ends it.
    let out = server.path("dial");
    let mut dial = command(server.folder.path(), &["dial", "2042", "--from", "2041", "--label", "ticket=4711", "--json", "-c", ASKED]);
    let mut dial = dial.stdin(Stdio::null()).stdout(File::create(&out).expect("a file")).spawn().expect("it runs");
    let calls = server.until(&["calls", "--json"], |calls| calls[0]["state"] == "talking");
    let id = calls[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(calls[0]["labels"]["ticket"], "4711");
    let table = server.ask(&["calls"]).good();
    assert!(table.starts_with("ID ") && table.contains(&id) && table.contains("talking"), "{table}");
    phones.until(2, |news| news["type"] == "answered");
    assert_eq!(server.ask(&["calls", "--hang-up", &id, "--json"]).json(), serde_json::json!({ "id": id, "ended": true }));
    assert!(dial.wait().expect("it ends").success(), "they talked");
    let told = json_lines(&fs::read_to_string(&out).expect("read"));
    assert_eq!(told[0]["id"], id.as_str());
    let types: Vec<&str> = told.iter().filter_map(|line| line["type"].as_str()).collect();
    assert!(types.starts_with(&["call_started"]) && types.ends_with(&["call_ended"]), "{types:?}");
    assert!(server.ask(&["calls", "--hang-up", &id]).bad().contains("is over, or never was"));

    let records = ["calls", "records", "--user", "2042", "--since", "1h"];
    let all = server.until(&[&records[..], &["--json"]].concat(), |all| all[1]["cause"] == "ended on request");
    assert!(all[0]["call"] == id.as_str() && all[0]["labels"]["ticket"] == "4711", "{all}");
    let table = server.ask(&records).good();
    assert!(table.starts_with("BEGAN ") && table.contains("2 out  2041  2042") && table.contains("ended on request"), "{table}");
    let csv = server.ask(&[&records[..], &["--csv"]].concat()).good();
    assert!(csv.starts_with("call,leg,") && csv.lines().count() == 3 && csv.contains("ticket=4711"), "{csv}");

    let placed = server.ask(&["dial", "2042", "--from", "2041", "--no-wait", "--json"]).json();
    let id = placed["id"].as_str().expect("an id");
    assert_eq!(server.ask(&["calls", "--hang-up", id]).good(), format!("call {id} has ended\n"));
    // A phone that nobody lifts: who waits for the call is told that it is over, in words and by the status.
    let silent = server.phones("silent", &["--family", "grandstream"]);
    let mac = silent.until(1, |news| news["type"] == "registered")[0]["mac"].as_str().expect("a MAC").to_owned();
    server.ask(&["bind", &mac, "1003"]).good();
    silent.until(1, |news| news["user"] == "2043" && news["type"] == "registered");
    let mut words = command(server.folder.path(), &["dial", "2042", "--from", "2043", "-c", ASKED]);
    let words = words.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it runs");
    let calls = server.until(&["calls", "--json"], |calls| calls[0]["state"] == "ringing_caller");
    server.ask(&["calls", "--hang-up", calls[0]["id"].as_str().expect("an id")]).good();
    let output = words.wait_with_output().expect("it ends");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.contains(": your phone rings\n") && out.contains("2043 calls 2042"), "{out}");
    assert!(output.status.code() == Some(1) && err.starts_with("plugtone: nobody talked: "), "{err}");
    server.ask(&["unbind", &mac]).good();
    assert!(server.ask(&["dial", "2042", "--from", "2045"]).bad().contains("2045 has no phone registered"));

    // What `render` shows is what the phone has.
    let shown = server.ask(&["render", "--mac", &macs[0], "--json"]).json().to_string();
    assert!(shown.contains("account.1.user_name = 2041") && shown.contains("Ada Lovelace") && shown.contains("••••••"), "{shown}");
    let secret = |text: &str| text.split("account.1.password = ").nth(1).map(|rest| rest[..24].to_owned()).expect("a password");
    let before = secret(&server.ask(&["render", "--mac", &macs[0], "--show-secrets"]).good());

    assert!(server.ask(&["unbind", &macs[0]]).good().contains("belongs to nobody now"));
    assert_eq!(server.ask(&["unbind", &macs[1], "--json"]).json()["bound"], false);
    assert!(server.ask(&["unbind", &macs[0]]).bad().contains("has no owner"));
    assert_ne!(secret(&server.ask(&["render", "--mac", &macs[0], "--show-secrets"]).good()), before, "another generation, another secret");
    phones.until(2, |news| news["type"] == "registered" && news["user"] == "new001565000001");
    assert_eq!(server.ask(&["bindings", "--json"]).json(), serde_json::json!([]));
}

#[test]
fn phones_that_are_played_say_in_the_end_whether_they_got_there() {
    let server = Server::start(USERS, &[]);
    let dhcp = server.dhcp.to_string();
    let play = |more: &[&str]| plugtone(server.folder.path(), &[&["phone", "--family", "generic", "--count", "3"], more].concat());
    let (news, told) = std::thread::scope(|scope| {
        let words = scope.spawn(|| play(&["--dhcp", &dhcp, "--mac", "02:70:67:00:01:00", "--seconds", "8"]).good());
        let news = json_lines(&play(&["--dhcp", &dhcp, "--seconds", "8", "--json"]).good());
        (news, words.join().expect("it is good"))
    });
    assert_eq!(news.iter().filter(|news| news["type"] == "registered").count(), 3, "{news:#?}");
    assert_eq!(told.lines().filter(|line| line.contains("  registered as new02706700010")).count(), 3, "{told}");
    // Nobody is there.
    let run = play(&["--dhcp", "127.0.0.1:9", "--seconds", "1", "--json"]);
    assert!(run.status == Some(1) && run.err.ends_with("plugtone: 3 of 3 phones did not get there\n"), "{run:#?}");
    json_lines(&run.out);
}

#[test]
fn a_phone_of_no_known_make_becomes_a_template() {
    let server = Server::start(USERS, &[]);
    let dhcp = server.dhcp.to_string();
    let play = ["phone", "--family", "generic", "--count", "1", "--dhcp", &dhcp, "--mac", "02:70:67:00:02:00", "--seconds", "6"];
    plugtone(server.folder.path(), &play).good();
    let stub = server.ask(&["template", "learn", "02:70:67:00:02:00"]).good();
    for word in ["ouis: [\"027067\"]", "It asked by DHCP for the options 1, ", "{ code: 66, ", "{mac}", "account: true"] {
        assert!(stub.contains(word), "{word}: {stub}");
    }
    // It loads as it is.
    let folder = folder(&[
        ("f.yaml", &(office(USERS) + "templates: { path: own }\n")),
        ("users.yaml", &shipped("config/demo/users.yaml")),
        ("own/acme.yaml", &stub),
    ]);
    plugtone(folder.path(), &["check", "-c", "f.yaml"]).good();
    let rendered = plugtone(folder.path(), &["render", "-c", "f.yaml", "--mac", "02:70:67:00:02:00", "--as", "2041"]).good();
    assert!(rendered.contains("2041"), "{rendered}");
    assert!(server.ask(&["template", "learn", "02:70:67:00:02:99"]).bad().contains("02:70:67:00:02:99"));
}

#[test]
fn a_server_elsewhere_is_asked_with_a_token() {
    let server = Server::start(USERS, &[]);
    let token = server.ask(&["token", "create", "elsewhere"]).good();
    let (url, elsewhere) = (format!("http://{}", server.api), folder(&[]));
    let ask = |token: &str| plugtone(elsewhere.path(), &["users", "--json", "--api", &url, "--token", token]);
    assert_eq!(ask(token.trim()).json().as_array().map(Vec::len), Some(6), "a token is good as soon as it is made");
    let mut by_environment = command(elsewhere.path(), &["users", "--json"]);
    by_environment.env("PLUGTONE_API", &url).env("PLUGTONE_TOKEN", token.trim());
    assert_eq!(Run::of(&mut by_environment).json().as_array().map(Vec::len), Some(6));
    assert!(ask("ptk_wrong").bad().contains("a valid token is needed"));
    server.ask(&["token", "revoke", "elsewhere"]).good();
    assert!(ask(token.trim()).bad().contains("a valid token is needed"), "and no longer than until it is revoked");
    assert_eq!(plugtone(elsewhere.path(), &["users", "--api", &url]).status, Some(2), "without a token");
    assert!(plugtone(elsewhere.path(), &["users", "--api", "ftp://x", "--token", "x"]).bad().contains("--api takes http://host:port"));
    // Nobody is there, or never was.
    assert!(plugtone(elsewhere.path(), &["users", "--api", "http://127.0.0.1:9", "--token", "x"]).bad().contains("is it running?"));
    fs::write(elsewhere.path().join("f.yaml"), office(USERS)).expect("written");
    assert!(plugtone(elsewhere.path(), &["users", "-c", "f.yaml"]).bad().contains("Plugtone is not running here"));
}

#[test]
fn secrets_come_from_a_file_or_the_environment_and_are_told_to_nobody() {
    let slapd = Slapd::start();
    let ldap = format!(
        "directory:\n  ldap: {{ servers: ['ldap://{}'], tls: none, base: 'ou=people,dc=example,dc=com', bind_dn: 'cn=service,dc=example,dc=com', bind_password_file: ldap.password }}\n\
         log: {{ level: trace, json: true }}\n",
        slapd.plain
    );
    let start = |file: &str, environment: &[(&str, &str)]| {
        let folder = folder(&[(ITS, &office(&ldap)), ("ldap.password", file)]);
        Server::start_in(folder, environment)
    };
    const VARIABLE: &str = "PLUGTONE_LDAP_BIND_PASSWORD";
    for (story, file, environment, good) in [
        ("from a file", "service secret\n", &[][..], true),
        ("from the environment, which wins", "wrong", &[(VARIABLE, "service secret")], true),
        ("a wrong one", "not the secret\n", &[], false),
    ] {
        let server = start(file, environment);
        let run = server.ask(&["users", "--json"]);
        match good {
            true => assert!(run.json().as_array().is_some_and(|users| users.len() >= 20), "{story}"),
            false => assert!(run.bad().contains("the directory did not answer"), "{story}"),
        }
        let log = server.log();
        json_lines(&log);
        for secret in ["service secret", "not the secret"] {
            assert!(!log.contains(secret), "{story}: the log holds the password");
        }
    }
    // Where it cannot be read, that is said before anything starts.
    let folder = folder(&[(ITS, &office(&ldap))]);
    let told = plugtone(folder.path(), &["check", "-c", ITS]).bad();
    assert!(told.starts_with("ldap.password: cannot be read:") && told.contains("`directory.ldap.bind_password_file` names it"), "{told}");
    let with_variable = Run::of(command(folder.path(), &["check", "-c", ITS]).env(VARIABLE, "x"));
    with_variable.good();
}

#[test]
fn a_server_ends_when_it_is_told_to_and_says_why_it_cannot_start() {
    // A port is taken by somebody else: it says which.
    let (datagrams, connections) = (UdpSocket::bind("127.0.0.1:0").expect("free"), TcpListener::bind("127.0.0.1:0").expect("free"));
    let (udp, tcp) = (datagrams.local_addr().expect("bound"), connections.local_addr().expect("bound"));
    for (free, taken, what) in [
        ("listen: 127.0.0.1:0", udp, "DHCP"),
        ("tftp: { listen: ['127.0.0.1:0'] }", udp, "TFTP"),
        ("\nftp: { listen: ['127.0.0.1:0'] }", tcp, "FTP"),
        ("http: { listen: ['127.0.0.1:0'] }", tcp, "HTTP"),
        ("udp: ['127.0.0.1:0']", udp, "SIP"),
        ("tcp: ['127.0.0.1:0']", tcp, "SIP"),
        ("api: { listen: '127.0.0.1:0' }", tcp, "API"),
    ] {
        let its = office(USERS);
        assert!(its.contains(free), "{free}");
        let its = its.replace(free, &free.replace("127.0.0.1:0", &taken.to_string()));
        let second = folder(&[(ITS, &its), ("users.yaml", &shipped("config/demo/users.yaml"))]);
        let run = plugtone(second.path(), &["serve", "-c", ITS]);
        let told = run.err.lines().find(|line| line.starts_with("plugtone: ")).unwrap_or_default();
        assert!(run.status == Some(1), "{free}: {run:#?}");
        assert!(told.contains(&taken.to_string()) && told.contains(what), "{free}: {told}");
    }
    let mut server = Server::start(USERS, &[]);
    for stop in [libc::SIGTERM, libc::SIGINT] {
        signal(&server.child, stop);
        let mut status = None;
        within(PATIENCE, || {
            status = server.child.try_wait().expect("a child");
            status.is_some()
        });
        assert!(status.is_some_and(|status| status.success()), "{stop}: {status:?}");
        assert!(server.log().contains("stopping"), "{}", server.log());
        server = Server::start(USERS, &[]);
    }
}

// --- the whole show

#[test]
fn the_demo_ends_well() {
    let namespace = Namespace::new("demo");
    let output = namespace.command("timeout").args(["200", PLUGTONE, "demo", "--once"]).output().expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(!out.contains('\x1b'), "{out}");
    let (_, table) = out.split_once("PHONE        NOW OWNED BY  AS    IN SERVICE AFTER").unwrap_or_else(|| panic!("no table in {out}"));
    for (family, who, extension, heard) in [
        ("yealink", "Ada Lovelace", "2041", "a tone of 660 Hz / a tone of 440 Hz"),
        ("poly", "Alan Turing", "2042", "a tone of 880 Hz / a tone of 660 Hz"),
        ("grandstream", "Grace Hopper", "2043", "a tone of 440 Hz / a tone of 880 Hz"),
    ] {
        let row = table.lines().find(|line| line.starts_with(family)).unwrap_or_else(|| panic!("no {family} in {table}"));
        assert!([who, extension, heard].iter().all(|part| row.contains(part)), "{row}");
    }
}

#[test]
fn the_bench_fetches_short_and_long_files() {
    let namespace = Namespace::new("bench");
    let out = namespace.run(PLUGTONE, &["bench", "tftp", "--count", "250"]);
    let rows: Vec<&str> = out.lines().filter(|line| line.starts_with("TFTP, ")).collect();
    assert_eq!(rows.len(), 5, "{out}");
    for (row, name, done, bytes) in [
        (rows[0], "TFTP, short, blocks of 512 ", "250 in ", "; 604 bytes each"),
        (rows[1], "TFTP, short, blocks of 1428 ", "250 in ", "; 604 bytes each"),
        (rows[2], "TFTP, 20 KB, blocks of 512 ", "100 in ", "; 20480 bytes each"),
        (rows[3], "TFTP, 20 KB, blocks of 1428 ", "100 in ", "; 20480 bytes each"),
        (rows[4], "TFTP, 20 KB, blocks of 512 ", "200 in ", "; 20480 bytes each, 200 at once"),
    ] {
        assert!(row.starts_with(name) && row.contains(done) && row.contains(bytes) && row.ends_with(", 0 failed"), "{row}");
    }
}

#[test]
fn the_server_waits_for_no_huge_page_to_be_cleared() {
    let server = Server::start(USERS, &[]);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).expect("it runs");
    assert!(status.contains("\nTHP_enabled:\t0\n"), "{status}");
}

/// It takes half an hour, so that nobody else would notice.
#[test]
fn the_benches_that_a_release_is_guided_by_exist() {
    let script = shipped("scripts/release");
    let list = script.split_once("\nwork=(\n").and_then(|(_, rest)| rest.split_once("\n)\n")).expect("a list").0;
    let benches: Vec<&str> = list.split('"').skip(1).step_by(2).collect();
    assert!(benches.len() >= 10, "{list}");
    let folder = folder(&[]);
    for bench in benches {
        let words: Vec<&str> = ["bench"].into_iter().chain(bench.split(' ')).chain(["--help"]).collect();
        // What comes before `--help` is read first, and refused if it is not known.
        let run = plugtone(folder.path(), &words);
        assert_eq!((run.status, run.err.as_str()), (Some(0), ""), "{bench}");
    }
    assert_ne!(plugtone(folder.path(), &["bench", "calls", "--rat", "300", "--help"]).status, Some(0));
}
