//! What may go wrong between the box and the first call, and what people hear and read then.

use std::fs;

use plugtone::{
    directory::settings::{LdapSettings, Tls},
    media::listen::Sound,
    model::{Event, MacAddr, event::CheckOutcome},
    phone::desk::News,
};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use super::office::{Office, Somebody};

/// Somebody of config/demo/users.yaml.
struct Employee {
    login: &'static str,
    pin: &'static str,
    extension: &'static str,
}

const ADA: Employee = Employee { login: "1001", pin: "1815", extension: "2041" };
const ALAN: Employee = Employee { login: "1002", pin: "1912", extension: "2042" };

/// Calls the menu and keys in number and PIN when it begins to speak.
async fn keys_in(desk: &mut Somebody, login: &str, pin: &str) {
    desk.call("0").await.expect("the menu answers");
    desk.hear("the voice", |sound| sound == Sound::Speech).await.expect("the menu speaks");
    desk.press(&format!("{login}#{pin}#")).await;
}

fn checked(mac: MacAddr, wanted: CheckOutcome) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::DirectoryChecked { mac: Some(of), outcome, .. } if *of == mac && *outcome == wanted)
}

fn says(mac: MacAddr, words: &str) -> impl Fn(&Event) -> bool {
    move |event| matches!(event, Event::IvrPrompt { mac: Some(of), text, .. } if *of == mac && text.contains(words))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wrong_pin_three_times_locks_the_phone_out() {
    let office = Office::opens(|settings| {
        settings.bindings.attempts.per_device = 3;
        settings.bindings.attempts.pause_secs = 0;
    })
    .await;
    let mut desk = office.plugs_in("yealink", 0xb1);
    let mac = desk.phone.mac;
    let mut journal = office.journal();
    desk.until_registered().await.expect("registered");

    keys_in(&mut desk, ADA.login, "0000").await;
    journal.until("a refusal", checked(mac, CheckOutcome::Refused)).await;
    for _ in 0..2 {
        journal.until("the voice saying so", says(mac, "is not right. Please try again")).await;
        desk.press(&format!("{}#0000#", ADA.login)).await;
        journal.until("a refusal", checked(mac, CheckOutcome::Refused)).await;
    }
    desk.until_hung_up().await.expect("the menu hangs up");

    // Now even the right PIN is not looked at.
    keys_in(&mut desk, ADA.login, ADA.pin).await;
    journal.until("the lock-out", checked(mac, CheckOutcome::LockedOut)).await;
    journal.until("the voice saying so", says(mac, "too many wrong tries")).await;
    desk.until_hung_up().await.expect("the menu hangs up");
    assert_eq!(office.owner(mac), None);
    office.journal().until("the lock-out, to the administrator", |event| matches!(event, Event::LockedOut { .. })).await;
    office.node.stop().await;
}

/// Whoever looks people up at `server` hears that it cannot be reached, and the phone stays nobody's.
async fn the_directory_is_not_there(server: String) {
    let office = Office::opens(|settings| {
        settings.directory.file = None;
        settings.directory.ldap = Some(LdapSettings {
            servers: vec![server],
            tls: Tls::None,
            base: "dc=example,dc=com".into(),
            timeout_ms: 2000,
            server_timeout_ms: 1000,
            ..Default::default()
        });
    })
    .await;
    let mut desk = office.plugs_in("yealink", 0xb2);
    let mac = desk.phone.mac;
    let mut journal = office.journal();
    desk.until_registered().await.expect("a directory is not needed to register");
    keys_in(&mut desk, ADA.login, ADA.pin).await;
    journal.until("the check", checked(mac, CheckOutcome::Unavailable)).await;
    journal.until("the voice saying so", says(mac, "directory cannot be reached")).await;
    // On a slow machine the keys come so close together that "Enter your PIN" runs on into this.
    desk.hear_now_or_soon("the voice", |sound| sound == Sound::Speech).await.expect("it is spoken");
    desk.until_hung_up().await.expect("the menu hangs up");
    let ended = journal.until("the end", |event| matches!(event, Event::IvrEnded { mac: Some(of), .. } if *of == mac)).await;
    assert!(matches!(ended, Event::IvrEnded { outcome, .. } if outcome == "unavailable"));
    assert_eq!(office.owner(mac), None);
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_is_down_silent_or_mad_and_the_caller_hears_it() {
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mad = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = |listener: &TcpListener| format!("ldap://{}", listener.local_addr().expect("bound"));
    let (silent_at, mad_at) = (at(&silent), at(&mad));
    let madness = tokio::spawn(async move {
        while let Ok((mut connection, _)) = mad.accept().await {
            // Whoever hangs up on it has understood.
            let _ = connection.write_all(&[0xff; 512]).await;
        }
    });
    // Nobody listens at an address that only this test names.
    let down = "ldap://127.99.99.1:389".to_owned();
    tokio::join!(the_directory_is_not_there(down), the_directory_is_not_there(silent_at), the_directory_is_not_there(mad_at));
    drop(silent);
    madness.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_is_broken_and_phones_still_get_the_last_good_files() {
    let templates = tempfile::tempdir().expect("a temporary folder");
    let office = Office::opens(|settings| settings.templates.path = Some(templates.path().to_owned())).await;
    let broken = templates.path().join("yealink.yaml");
    fs::write(&broken, "family: yealink\nfiles: [what is this\n").expect("written");
    let faults = office.node.reload().await.expect_err("it is broken");
    assert!(faults.contains("yealink.yaml"), "{faults}");
    office.journal().until("the refusal", |event| matches!(event, Event::ConfigRejected { .. })).await;

    office.plugs_in("yealink", 0xb3).until_registered().await.expect("the last good files are served");
    fs::remove_file(&broken).expect("removed");
    office.node.reload().await.expect("all is well again");
    office.node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_is_left_and_the_administrator_is_told() {
    let office = Office::opens(|settings| {
        settings.dhcp.subnets[0].range = Some("127.64.9.9".parse().expect("a range"));
    })
    .await;
    let mut first = office.plugs_in("yealink", 0xb4);
    first.until_registered().await.expect("there is one address");
    let second = office.plugs_in("yealink", 0xb5);
    let mac = second.phone.mac;
    let mut journal = office.journal();
    journal.until("the empty pool", |event| matches!(event, Event::PoolExhausted { mac: of, .. } if *of == mac)).await;
    let told = office.events_of(mac).await;
    assert!(!told.iter().any(|event| matches!(event, Event::DhcpOffer { .. } | Event::LeaseGranted { .. })), "{told:#?}");
    office.node.stop().await;
}

/// Where the plug is pulled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Offered,
    Leased,
    FirstFile,
    Registered,
    InTheMenu,
    Bound,
    Reloading,
}

async fn pulls_the_plug(office: &Office, number: u32, step: Step) {
    let mut desk = office.plugs_in("yealink", number);
    let mac = desk.phone.mac;
    let mut journal = office.journal();
    let reached = |news: &News| match step {
        Step::Offered => matches!(news, News::Offered { .. }),
        Step::Leased => matches!(news, News::Leased { .. }),
        Step::FirstFile => matches!(news, News::Fetched { .. }),
        _ => matches!(news, News::Registered { .. }),
    };
    desk.wait("the step", |news| reached(news).then_some(Ok(()))).await.unwrap_or_else(|trouble| panic!("{step:?}: {trouble}"));
    if matches!(step, Step::InTheMenu | Step::Bound | Step::Reloading) {
        keys_in(&mut desk, ALAN.login, ALAN.pin).await;
        journal.until("the check", checked(mac, CheckOutcome::Accepted)).await;
    }
    if matches!(step, Step::Bound | Step::Reloading) {
        journal.until("the question", says(mac, "press one")).await;
        desk.press("1").await;
        journal.until("the binding", |event| matches!(event, Event::Bound { mac: of, .. } if *of == mac)).await;
    }
    if step == Step::Reloading {
        desk.wait("the reload", |news| matches!(news, News::Reloading { .. }).then_some(Ok(()))).await.expect("told to reload");
    }
    drop(desk);

    let mut desk = office.plugs_in("yealink", number);
    let user = desk.until_registered().await.unwrap_or_else(|trouble| panic!("{step:?}: {trouble}"));
    if user != ALAN.extension {
        assert!(!matches!(step, Step::Bound | Step::Reloading), "{step:?}: a binding outlives the plug");
        let signed_in = desk.sign_in_at_once("0", ALAN.login, ALAN.pin, ALAN.extension).await;
        signed_in.unwrap_or_else(|trouble| panic!("{step:?}: {trouble}"));
    }
    assert_eq!(office.owner(mac).expect("owned").as_str(), ALAN.extension, "{step:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plug_is_pulled_at_any_step_and_the_phone_comes_back() {
    let office = Office::opens(|settings| settings.bindings.devices_per_extension = 16).await;
    let steps = [Step::Offered, Step::Leased, Step::FirstFile, Step::Registered, Step::InTheMenu, Step::Bound, Step::Reloading];
    let stories = steps.into_iter().zip(0xc0..).map(|(step, number)| pulls_the_plug(&office, number, step));
    futures_util::future::join_all(stories).await;
    office.node.stop().await;
}
