//! Two phones that are not ours, from the wall to their calls: baresip, set up by hand from the file that the server renders
//! for it, and SIPp. Each becomes somebody's by the voice menu; then one calls the other, and the API has them talk.

use plugtone::media::Sound;
use serde_json::Value;

use super::{Office, PATIENCE, SERVER, Stream, baresip::Baresip, fetch, sipp::Phone, tap::Tap};
use crate::{
    dhcp::Client,
    netns::{Running, need, within},
};

/// User `n` of the directory (`tests/ldap.rs`).
struct Person {
    login: &'static str,
    pin: &'static str,
    extension: &'static str,
}

const ONE: Person = Person { login: "1001", pin: "4001", extension: "2041" };
const TWO: Person = Person { login: "1002", pin: "4002", extension: "2042" };

const ONES_TONE: f32 = 440.0;
const TWOS_TONE: Sound = Sound::Tone { hz: 660.0 };

/// A box with a cable to the office, which has asked for an address.
struct Device {
    client: Client,
    mac: &'static str,
    address: String,
    _udhcpc: Running,
}

impl Device {
    fn plug_in(office: &Office, label: &str, mac: &'static str) -> Self {
        let client = Client::new(label, mac, &office.network);
        // Whoever asks for the name of a file server may be a phone.
        let udhcpc = client.udhcpc(&["-V", label, "-O", "66"]);
        let address = client.hears("bound")["ip"].clone();
        Self { client, mac, address, _udhcpc: udhcpc }
    }

    /// Its account, as the server renders it now.
    fn file(&self, ending: &str) -> String {
        let name = format!("{}{ending}", self.mac.replace(':', ""));
        let bytes = fetch(&self.client, "curl http 8080", &name).unwrap_or_else(|| panic!("{name} is not served"));
        String::from_utf8(bytes).expect("text")
    }

    fn is_of(&self, event: &Value) -> bool {
        event["mac"] == self.mac
    }
}

#[test]
fn two_phones_become_peoples_and_talk() {
    for (program, package) in
        [("baresip", "baresip"), ("sipp", "sip-tester"), ("tcpdump", "tcpdump"), ("curl", "curl"), ("udhcpc", "udhcpc")]
    {
        need(program, package);
    }
    let office = Office::open();
    let story = office.follow("story", "after=0");
    let ones = Device::plug_in(&office, "baresip", "02:70:67:00:00:01");
    let twos = Device::plug_in(&office, "sipp", "02:70:67:00:00:02");
    let (mut one, two) = std::thread::scope(|scope| {
        let two = scope.spawn(|| two_signs_in(&story, &twos));
        (one_signs_in(&story, &ones), two.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    one_calls_two(&story, &mut one, &two);
    the_api_has_one_call_two(&office, &mut one, &two);
    two_speaks_to_all(&story, &mut one, &two);
}

/// Sets baresip up as nobody's phone, signs in at the menu, and sets it up again as theirs.
fn one_signs_in<'a>(story: &Stream, device: &'a Device) -> Baresip<'a> {
    let nobodys = device.file("-baresip.txt");
    assert!(nobodys.contains("<sip:new027067000001@"), "{nobodys}");
    let mut baresip = Baresip::start(&device.client, &nobodys, ONES_TONE);
    story.until("registered", |event| device.is_of(event) && event["user"] == "new027067000001");
    assert!(!baresip.log().contains("codec not found"), "baresip does not understand its account: {}", baresip.log());

    let ear = Tap::at(&device.client);
    baresip.order("dial", "0");
    baresip.until("CALL_ESTABLISHED");
    ear.hears(Sound::Speech);
    baresip.press(&format!("{}#{}#", ONE.login, ONE.pin));
    story.until("ivr_prompt", |event| device.is_of(event) && event["text"].as_str().is_some_and(|text| text.contains("press one")));
    baresip.press("1");
    story.until("bound", |event| device.is_of(event) && event["extension"] == ONE.extension);
    baresip.until("CALL_CLOSED");
    baresip.has_recorded(Sound::Speech);

    // Baresip knows no check-sync, and says so; but it is told.
    let told = |log: &str| log.split("\nNOTIFY ").skip(1).any(|message| message.contains("\nEvent: check-sync"));
    assert!(within(PATIENCE, || told(&baresip.log().replace('\r', ""))), "no check-sync came to baresip");
    drop(baresip);
    let theirs = device.file("-baresip.txt");
    assert!(theirs.contains(&format!("<sip:{}@{SERVER}", ONE.extension)), "{theirs}");
    story.until("reload_taken", |event| device.is_of(event));
    let baresip = Baresip::start(&device.client, &theirs, ONES_TONE);
    story.until("reload_done", |event| device.is_of(event) && event["extension"] == ONE.extension);
    baresip
}

/// As above, by SIPp, which obeys the check-sync.
fn two_signs_in<'a>(story: &Stream, device: &'a Device) -> Phone<'a> {
    let phone = Phone::new(&device.client, &device.address, &device.file(".json"));
    assert_eq!(phone.user(), "new027067000002");
    phone.registers();
    let reloads = phone.waits("uas_check_sync.xml", &[]);
    phone.calls("uac_signs_in.xml", "0", &[("LOGIN", TWO.login), ("PIN", TWO.pin)]).succeeds();
    story.until("bound", |event| device.is_of(event) && event["extension"] == TWO.extension);
    reloads.succeeds();
    story.until("reload_answered", |event| device.is_of(event) && event["status"] == 200);
    let phone = Phone::new(&device.client, &device.address, &device.file(".json"));
    assert_eq!(phone.user(), TWO.extension);
    phone.registers();
    story.until("reload_done", |event| device.is_of(event) && event["extension"] == TWO.extension);
    phone
}

/// Waits until the tone of each has come to the other.
fn they_hear_each_other(one: &Tap, two: &Tap) {
    two.hears(Sound::Tone { hz: ONES_TONE });
    one.hears(TWOS_TONE);
}

fn one_calls_two(story: &Stream, one: &mut Baresip, two: &Phone) {
    let (at_one, at_two) = (Tap::at(one.client), Tap::at(two.client));
    let answers = two.waits("uas_talks.xml", &[("CALLER", ONE.extension), ("TONE", "tone.alaw")]);
    one.order("dial", TWO.extension);
    one.until("CALL_ESTABLISHED");
    they_hear_each_other(&at_one, &at_two);
    one.order("hangup", "");
    one.until("CALL_CLOSED");
    answers.succeeds();
    one.has_recorded(TWOS_TONE);
    let started = story.until("call_started", |event| event["from"] == ONE.extension && event["to"] == TWO.extension);
    let ended = story.until("call_ended", |event| event["call"] == started["call"]);
    assert_eq!(ended["cause"], "caller hung up");
}

fn the_api_has_one_call_two(office: &Office, one: &mut Baresip, two: &Phone) {
    let (at_one, at_two) = (Tap::at(one.client), Tap::at(two.client));
    let answers = two.waits("uas_talks.xml", &[("CALLER", ONE.extension), ("TONE", "tone.alaw")]);
    let wanted = format!(r#"{{"from": "{}", "to": "{}", "labels": {{"ticket": "7"}}}}"#, ONE.extension, TWO.extension);
    let place = || office.api("/calls", &["-H", "Content-Type: application/json", "-H", "Idempotency-Key: 4711", "-d", &wanted]);
    let placed = place();
    let call = placed["id"].as_str().unwrap_or_else(|| panic!("not placed: {placed}"));
    let story = office.follow("call", &format!("call={call}&after=0"));
    one.until("CALL_INCOMING");
    // Whoever repeats the request makes no second call.
    assert_eq!(place(), placed);
    let up = office.api("/calls", &[]);
    assert!(up.as_array().is_some_and(|up| up.len() == 1) && up[0]["id"] == call && up[0]["state"] == "ringing_caller", "{up}");
    story.until("call_started", |event| event["labels"] == serde_json::json!([["ticket", "7"]]));
    one.order("accept", "");
    one.until("CALL_ESTABLISHED");
    story.until("call_answered", |event| event["to"] == TWO.extension);
    they_hear_each_other(&at_one, &at_two);
    one.order("hangup", "");
    one.until("CALL_CLOSED");
    answers.succeeds();
    one.has_recorded(TWOS_TONE);
    story.until("call_ended", |_| true);
    let told: Vec<Value> = story.events().into_iter().map(|event| event["type"].clone()).collect();
    assert_eq!(told, ["call_started", "call_ringing", "call_answered", "call_ended"]);
}

/// Baresip takes the call by itself, lets it be heard, and says nothing.
fn two_speaks_to_all(story: &Stream, one: &mut Baresip, two: &Phone) {
    let (at_one, at_two) = (Tap::at(one.client), Tap::at(two.client));
    one.order("answermode", "auto");
    let tone = "<nop><action><exec rtp_stream=\"tone.alaw,-1,8\"/></action></nop><pause milliseconds=\"4000\"/>";
    let speaks = two.calls("uac_call.xml", "650", &[("<pause milliseconds=\"PAUSE\"/>", tone)]);
    one.until("CALL_ESTABLISHED");
    at_one.hears(TWOS_TONE);
    speaks.succeeds();
    one.until("CALL_CLOSED");
    let offered = one.log().replace('\r', "");
    let invite = offered.split("\nINVITE ").last().expect("an INVITE");
    assert!(invite.contains("answer-after=0") && invite.contains("a=sendonly") && invite.contains("a=recvonly"), "{invite}");
    assert!(!at_two.has_heard(Sound::Tone { hz: ONES_TONE }), "nobody of them is heard");
    let started = story.until("call_started", |event| event["from"] == TWO.extension && event["to"] == "650");
    story.until("call_ended", |event| event["call"] == started["call"] && event["cause"] == "caller hung up");
}
