//! Accounts that go encrypted: curl as the phone that fetches, OpenSSL as the phone that reads.

use std::path::Path;

use crate::{
    call::free_port,
    doors::{curl, run, seen},
    https::Whole,
};

/// What OpenSSL reads in a file with this key, as Cisco's guides have it.
async fn opened(folder: &Path, file: &str, key: &str) -> Option<String> {
    let plain = folder.join("plain");
    let _ = std::fs::remove_file(&plain);
    let out = plain.display().to_string();
    let read = run("openssl", "openssl", &["enc", "-d", "-aes-256-cbc", "-md", "md5", "-k", key, "-in", file, "-out", &out]).await;
    // By chance a wrong key may leave an end that looks right, but no text.
    read.status.success().then(|| std::fs::read(&plain).ok().and_then(|bytes| String::from_utf8(bytes).ok())).flatten()
}

fn between<'a>(text: &'a str, begins: &str, ends: &str) -> &'a str {
    text.split_once(begins)
        .and_then(|(_, rest)| rest.split_once(ends))
        .map(|(found, _)| found)
        .unwrap_or_else(|| panic!("{begins}: {text}"))
}

const ENCRYPTED: &str = "sites: { here: { subnets: [127.0.0.0/8], variables: { file_encryption: true } } }\n";

/// A server whose templates have the accounts go encrypted.
struct Office {
    server: Whole,
    /// Where it speaks HTTP.
    plain: u16,
}

impl Office {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (plain, https, udp, api) = (free_port(), free_port(), free_port(), free_port());
        std::fs::create_dir(folder.path().join("templates")).expect("made");
        std::fs::write(folder.path().join("templates/overrides.yaml"), ENCRYPTED).expect("written");
        let text = format!(
            "extensions: {{ range: 2041-2099 }}\ndirectory: {{ file: {{ path: users.yaml }} }}\ndhcp: {{ mode: off }}\n\
             tftp: {{ enabled: false }}\nftp: {{ enabled: false }}\nhttp: {{ listen: ['127.0.0.1:{plain}'], tls: ['127.0.0.1:{https}'] }}\n\
             store: {{ path: plugtone.db }}\napi: {{ listen: '127.0.0.1:{api}' }}\n\
             provisioning: {{ open: {{ subnets: [127.0.0.0/8] }} }}\ntemplates: {{ path: templates }}\n\
             sip: {{ udp: ['127.0.0.1:{udp}'], tcp: [] }}\n"
        );
        Self { server: Whole::serve(folder, &text, format!("127.0.0.1:{https}")).await, plain }
    }

    /// Status and ETag, and where the file is. An address is one phone's.
    async fn fetch(&self, from: &str, name: &str, more: &[&str]) -> (String, String) {
        let (got, url) = (self.server.path("got"), format!("http://127.0.0.1:{}/{name}", self.plain));
        let _ = std::fs::remove_file(&got);
        let output = curl(&[&["--interface", from, "-o", &got, "-w", "%{http_code} %header{etag}", &url], more].concat()).await;
        (seen(&output), got)
    }

    async fn reads(&self, from: &str, name: &str) -> String {
        let (status, file) = self.fetch(from, name, &[]).await;
        std::fs::read_to_string(&file).unwrap_or_else(|_| panic!("{name}: {status}"))
    }

    /// What the phone with this key reads.
    async fn opens(&self, from: &str, name: &str, key: &str) -> String {
        let (status, file) = self.fetch(from, name, &[]).await;
        opened(self.server.folder.path(), &file, key).await.unwrap_or_else(|| panic!("{name}: {status}"))
    }

    async fn leaves_off(&self) {
        std::fs::write(self.server.path("templates/overrides.yaml"), ENCRYPTED.replace("true", "false")).expect("written");
        let said = self.server.says(&["reload"]).await;
        assert!(said.contains("templates"), "{said}");
    }
}

#[tokio::test]
async fn a_grandstream_shows_by_its_question_that_it_has_the_key() {
    const MAC: &str = "c074adaabbcc";
    const FROM: &str = "127.0.0.14";
    let office = Office::new().await;
    let (own, encrypted) = (format!("cfg{MAC}.xml"), format!("enc-cfg{MAC}.xml"));
    let value = |text: &str, name: &str| between(text, &format!("<{name}>"), &format!("</{name}>")).to_owned();

    // In clear: the key, what its files are called from now on, and what it starts again for.
    let clear = office.reads(FROM, &own).await;
    let (key, prefix) = (value(&clear, "P1359"), value(&clear, "P234"));
    assert!(key.len() == 32 && prefix == "enc-" && value(&clear, "P145") == "0", "{clear}");
    assert_eq!(value(&clear, "P237"), format!("127.0.0.1:{}", office.plain));
    assert!(!clear.contains("<P34>") && !clear.contains("<P2>"), "{clear}");
    // Encrypted: the account; and again for its owner, by the same key.
    let unowned = office.opens(FROM, &encrypted, &key).await;
    assert!(value(&unowned, "P35") == format!("new{MAC}") && value(&unowned, "P1359") == key, "{unowned}");
    let said = office.server.says(&["bind", MAC, "1001"]).await;
    let owned = office.opens(FROM, &encrypted, &key).await;
    assert!(value(&owned, "P35") == "2041" && value(&owned, "P34") != value(&unowned, "P34"), "{said}: {owned}");
    // One that was reset asks as a new one does, and is told again.
    assert_eq!(value(&office.reads(FROM, &own).await, "P1359"), key);
    // By HTTPS it gets both at once.
    let (status, whole) = office.server.asks(&own, &["--interface", FROM]).await;
    assert!(status == "200" && value(&whole, "P1359") == key && value(&whole, "P34") == value(&owned, "P34"), "{whole}");
    let shown = office.server.says(&["render", "--mac", MAC]).await;
    assert!(shown.contains("<P1359>••••••</P1359>") && !shown.contains(&key), "{shown}");

    // It is switched off: what the phone can still read sends it back to its plain file.
    office.leaves_off().await;
    let last = office.opens(FROM, &encrypted, &key).await;
    assert_eq!((value(&last, "P1359"), value(&last, "P234"), value(&last, "P145")), (String::new(), String::new(), "1".into()));
    assert_eq!(value(&office.reads(FROM, &own).await, "P35"), "2041");
}

#[tokio::test]
async fn an_account_goes_encrypted_and_who_has_the_key_can_still_read_the_next_owners() {
    let office = Office::new().await;
    let (server, plain) = (&office.server, office.plain);
    let at = server.folder.path();
    let fetch = async |from: &str, name: &str, more: &[&str]| office.fetch(from, name, more).await;
    for (family, mac, from, login) in
        [("cisco_mpp", "d0ec35aabbcc", "127.0.0.11", "1001"), ("cisco_spa", "503de5aabbcc", "127.0.0.12", "1002")]
    {
        // In clear: where to go, and with which key.
        let (status, file) = fetch(from, &format!("{mac}.xml"), &[]).await;
        let clear = std::fs::read_to_string(&file).unwrap_or_else(|_| panic!("{family}: {status}"));
        assert!(!clear.contains("Password") && !clear.contains("Auth_ID"), "{family}: {clear}");
        let rule = between(&clear, "<Profile_Rule>", "</Profile_Rule>").replace("&quot;", "\"");
        let key = between(&rule, "[--key \"", "\"] ").to_owned();
        assert!(rule.ends_with(&format!("] http://127.0.0.1:{plain}/$MA.enc")) && key.len() == 32, "{family}: {rule}");

        // Encrypted: the account.
        let (status, file) = fetch(from, &format!("{mac}.enc"), &[]).await;
        let bytes = std::fs::read(&file).expect("there");
        assert!(status.starts_with("200") && bytes.starts_with(b"Salted__"), "{family}: {status}");
        let account = opened(at, &file, &key).await.expect("OpenSSL reads it");
        let unowned = between(&account, "<Password_1_>", "</Password_1_>").to_owned();
        assert!(account.contains(&format!("<User_ID_1_>new{mac}</User_ID_1_>")), "{family}: {account}");
        assert_eq!(between(&account, "<Profile_Rule>", "</Profile_Rule>").replace("&quot;", "\""), rule, "{family}");
        assert!(opened(at, &file, "00112233445566778899aabbccddeeff").await.is_none_or(|text| !text.contains("flat-profile")));
        // The same file is the same bytes.
        let etag = status.split_once(' ').expect("a status and an ETag").1;
        assert_eq!(fetch(from, &format!("{mac}.enc"), &["-H", &format!("If-None-Match: {etag}")]).await.0.split(' ').next(), Some("304"));

        // By HTTPS all of it, as nobody listens there.
        let (status, whole) = server.asks(&format!("{mac}.xml"), &["--interface", from]).await;
        assert!(
            status == "200"
                && whole.contains(&unowned)
                && whole.replace("&quot;", "\"").contains(&rule.replace(&format!("http://127.0.0.1:{plain}"), "")[..20]),
            "{whole}"
        );

        // Somebody's: another secret, and the key that the phone has.
        let said = server.says(&["bind", mac, login]).await;
        let (_, file) = fetch(from, &format!("{mac}.enc"), &[]).await;
        let account = opened(at, &file, &key).await.unwrap_or_else(|| panic!("the phone can read on: {said}"));
        let owned = between(&account, "<Password_1_>", "</Password_1_>");
        assert!(owned != unowned && !account.contains(&format!("new{mac}")), "{said}: {account}");
        // Who looks at it is shown no key.
        let shown = server.says(&["render", "--mac", mac]).await;
        assert!(shown.contains("[--key") && !shown.contains(&key), "{shown}");
        assert!(shown.contains("<Admin_Passw") && shown.matches(">••••••</").count() >= 2, "nor the site's password: {shown}");
    }
    // A make that cannot is left as it is.
    let (status, file) = fetch("127.0.0.13", "001565aabbcc.cfg", &[]).await;
    let text = std::fs::read_to_string(&file).unwrap_or_else(|_| panic!("{status}"));
    assert!(text.contains("account.1.password = "), "{text}");

    // It is switched off: a phone that still asks for the encrypted file learns so from it.
    office.leaves_off().await;
    let text = office.reads("127.0.0.11", "d0ec35aabbcc.xml").await;
    assert!(text.contains("<Password_1_>") && !text.contains("--key"), "{text}");
    let (_, file) = fetch("127.0.0.11", "d0ec35aabbcc.enc", &[]).await;
    assert!(std::fs::read(&file).expect("there").starts_with(b"Salted__"));
}
