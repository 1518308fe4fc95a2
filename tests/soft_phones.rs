//! A soft phone by a link: a real Linphone fetches its settings and registers, and nobody can use the link again.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use plugtone::model::Event;
use serde_json::{Value, json};

use super::story::office::Office;

/// Linphone for the command line, with an empty home and the address of its settings. Ended when dropped.
struct Linphone(Child);

impl Linphone {
    fn starts(home: &Path, settings: &str) -> Self {
        // It does not make the folder of its database.
        fs::create_dir_all(home.join(".local/share/linphone")).expect("a folder");
        let rc = home.join("linphonerc");
        // Ports that the system chooses.
        fs::write(&rc, format!("[misc]\nconfig-uri={settings}\n[sip]\nsip_port=-1\nsip_tcp_port=-1\nsip_tls_port=-1\n")).expect("written");
        let mut command = Command::new("linphonec");
        command.arg("-c").arg(&rc).env("HOME", home).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("cannot run linphonec: install the Debian package linphone-cli"))
    }
}

impl Drop for Linphone {
    fn drop(&mut self) {
        let told = self.0.stdin.as_mut().map(|stdin| stdin.write_all(b"quit\n"));
        // It writes down its settings before it goes.
        for _ in 0..200 {
            match self.0.try_wait() {
                Ok(None) if matches!(told, Some(Ok(()))) => std::thread::sleep(Duration::from_millis(50)),
                _ => break,
            }
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the command line says of a running office.
async fn plugtone(office: &Office, arguments: &[&str]) -> String {
    let output = run(office, arguments).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

async fn run(office: &Office, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_plugtone"));
    command.args(arguments).env("PLUGTONE_API", format!("http://{}", office.node.addresses.api));
    command.env("PLUGTONE_TOKEN", office.node.local_token.expose()).output().await.expect("it runs")
}

async fn status_of(url: &str) -> u16 {
    status_of_with(url, &[]).await
}

async fn status_of_with(url: &str, more: &[&str]) -> u16 {
    let output = tokio::process::Command::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", url]).args(more).output().await;
    String::from_utf8(output.expect("curl").stdout).expect("text").parse().expect("a status")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_gives_a_linphone_its_account_and_is_dead_then() {
    let office = Office::opens(|_| {}).await;
    let link: Value = serde_json::from_str(&plugtone(&office, &["phones", "link", "1001", "--json"]).await).expect("JSON");
    let url = link["url"].as_str().expect("a URL");
    let mac = link["mac"].as_str().and_then(|mac| mac.parse().ok()).expect("a MAC");
    assert_eq!(link["display_name"], json!("Ada Lovelace"));
    assert_eq!(office.owner(mac), None, "nothing is anybody's until it is used");
    // Whoever guesses learns nothing, and uses up nothing.
    assert_eq!(status_of(&format!("{url}A")).await, 404);
    // Nor does a chat that shows what the link is.
    let mut journal = office.journal();
    for look in [&["--head"][..], &["--user-agent", "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)"]] {
        assert_eq!(status_of_with(url, look).await, 404);
        let refused = journal.until("the look", |event| matches!(event, Event::FileRefused { mac: Some(of), .. } if *of == mac)).await;
        assert!(matches!(&refused, Event::FileRefused { reason, .. } if reason.contains("as good as before")), "{refused:?}");
    }
    assert_eq!(office.owner(mac), None);

    let home = tempfile::tempdir().expect("a home");
    let linphone = Linphone::starts(home.path(), url);
    let registered = journal.until("the registration", |event| matches!(event, Event::Registered { mac: of, .. } if *of == mac)).await;
    assert!(matches!(&registered, Event::Registered { user, .. } if user == "2041"), "{registered:?}");
    assert_eq!(office.owner(mac).map(|extension| extension.to_string()).as_deref(), Some("2041"));

    assert_eq!(status_of(url).await, 404, "once");
    let refused = journal.until("the refusal", |event| matches!(event, Event::FileRefused { mac: Some(of), .. } if *of == mac)).await;
    assert!(matches!(&refused, Event::FileRefused { path, reason, .. } if path == "l/…" && reason.contains("was used")), "{refused:?}");
    drop(linphone);
    let kept = fs::read_to_string(home.path().join("linphonerc")).expect("its settings");
    assert!(!kept.contains("config-uri") && kept.contains("Ada Lovelace"), "it knows whose it is, and keeps no link: {kept}");
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_is_shown_as_a_picture_and_reaches_any_app_as_text() {
    let office = Office::opens(|_| {}).await;
    let shown = plugtone(&office, &["phones", "link", "1002", "--app", "generic", "--hours", "1"]).await;
    assert!(shown.lines().filter(|line| line.contains('█')).count() > 15, "{shown}");
    assert!(shown.contains("for Alan Turing, once, until "), "{shown}");
    let url = shown.lines().find(|line| line.starts_with("http://")).expect("the link as text");
    let output = tokio::process::Command::new("curl").args(["-sf", url]).output().await.expect("curl");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(text.contains("sip_user=2042\n"), "{text}");
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn makers_who_have_pages_of_their_own_get_the_link_in_their_words() {
    let templates = tempfile::tempdir().expect("a folder");
    let site = "sites: { here: { subnets: [0.0.0.0/0], variables: { acrobits_cloud_id: PLUGGED*, zoiper_provider_id: 4fab2ee7179e } } }\n";
    fs::write(templates.path().join("overrides.yaml"), site).expect("written");
    let office = Office::opens(|settings| settings.templates.path = Some(templates.path().into())).await;
    let files = format!("http://{}/l/", office.node.addresses.http.first().expect("a door"));
    let page = "https://oem.zoiper.com/qr-howto.php?provider_id=4fab2ee7179e&u=&p=&a=&t=";
    for (app, login, extension, before, behind, agent) in [
        ("acrobits", "1001", "2041", "csc:1001:", "@PLUGGED*", "CloudSoftphone/1.5.6"),
        ("groundwire", "1003", "2043", &*files.replace("http://", "provlinkb://"), "", "Groundwire/25.1"),
        ("zoiper", "1002", "2042", page, "", "Zoiper rv2.10"),
    ] {
        let link: Value = serde_json::from_str(&plugtone(&office, &["phones", "link", login, "--app", app, "--json"]).await).expect("JSON");
        let told = link["url"].as_str().expect("a link");
        let token = told.strip_prefix(before).and_then(|rest| rest.strip_suffix(behind)).unwrap_or_else(|| panic!("{told}"));
        // It stands in a URL and in a code as it is.
        assert!(token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)), "{token}");
        let mac = link["mac"].as_str().and_then(|mac| mac.parse().ok()).expect("a MAC");
        assert_eq!(office.owner(mac), None);
        // The maker's app puts the token behind the address that its page says.
        let url = format!("{files}{token}");
        let output = tokio::process::Command::new("curl").args(["-sf", "--user-agent", agent, &url]).output().await.expect("curl");
        let text = String::from_utf8(output.stdout).expect("text");
        let read = roxmltree::Document::parse(&text).unwrap_or_else(|error| panic!("{app}: {error}: {text}"));
        let of = |name: &str| read.descendants().find(|node| node.has_tag_name(name)).and_then(|node| node.text()).unwrap_or_default();
        assert_eq!(of("username"), extension, "{app}: {text}");
        assert_eq!(of("password").len(), 24, "{app}: {text}");
        assert_eq!(office.owner(mac).map(|extension| extension.to_string()).as_deref(), Some(extension));
        assert_eq!(status_of(&url).await, 404, "once");
    }
    office.node.stop().await;

    // Who has no account with the maker is told what is missing.
    let office = Office::opens(|_| {}).await;
    let output = run(&office, &["phones", "link", "1001", "--app", "acrobits"]).await;
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("the top of templates/acrobits.yaml names it"), "{told}");
    office.node.stop().await;
}
