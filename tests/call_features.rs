//! Star codes, forwards, groups, pick-up and park, with SIPp as the phones.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use plugtone::{
    features::{self, Change, book::When},
    ivr,
    media::{self, Clip, Media, SessionConfig},
    model::Event,
    store::{CallLegQuery, Store},
};
use tokio::{sync::mpsc, time::timeout};

use super::{
    call::{Bed, Sipp, free_port, is_bound_by_udp, named_port},
    call_transfer::named,
    voicemail::voice,
};

const RULES: &str = "
groups: [{number: '600', members: ['2042', '2043'], strategy: in_order}]
paging: [{number: '650', name: All, members: ['2042', '2043']}]
park: {number: '700', places: 701-702}
";

/// An office with groups and two park places, whose service speaks.
async fn office() -> Bed {
    let mut bed = Bed::start().await;
    speaks(&mut bed, &ivr::settings::Settings::default()).await;
    let features: features::Settings = serde_yaml::from_str(RULES).expect("good");
    bed.reload_with(|config| config.features = features.check().expect("sound").into()).await;
    bed
}

async fn speaks(bed: &mut Bed, settings: &ivr::settings::Settings) {
    let ivr = voice(bed, settings).await;
    let inbox = std::mem::replace(&mut bed.service, mpsc::channel(1).1);
    tokio::spawn(async move { ivr.serve(inbox).await });
}

async fn said(bed: &Bed, words: &str) {
    bed.tells(|event| matches!(event, Event::IvrPrompt { text, .. } if text == words)).await;
}

async fn diverted(bed: &Bed, by: &str, to: &str, reason: &str) {
    bed.tells(|event| matches!(event, Event::CallDiverted { by: b, to: t, reason: r, .. } if (b, t, r) == (&by.into(), &to.into(), &reason.into())))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_star_code_is_heard_to_be_done_and_outlives_the_server() {
    let bed = office().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    // The phone hears what is set and is hung up.
    let phones = Media::start(media::Config::default()).expect("media");
    let (told, mut hears) = mpsc::channel(64);
    let ear = phones.open(SessionConfig::new(Ipv4Addr::LOCALHOST.into(), told)).expect("a session");
    let port = ear.local.port();
    let dials = bed.phone(2, free_port(), "uac_called_off.xml", "*722043", &[("[media_port]", &port.to_string())]);
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, named_port(&dials, port).await));
    phones.command(ear.id, media::Command::SetRemote(media::Remote::new(server, media::Codec::Pcma)));
    phones.command(ear.id, media::Command::Listen(true));
    dials.succeeds().await;
    bed.ended("menu done").await;
    said(&bed, "All your calls are now forwarded to, 2 0 4 3").await;
    phones.command(ear.id, media::Command::Close);
    let mut sounds = Vec::new();
    while let Ok(event) = timeout(Duration::from_secs(5), hears.recv()).await.map(|event| event.expect("an event").1) {
        match event {
            media::MediaEvent::Heard(heard) => sounds.push(heard.sound),
            media::MediaEvent::Stats(_) => break,
            _ => {}
        }
    }
    assert!(sounds.iter().any(|sound| matches!(sound, media::Sound::Speech)), "{sounds:?}");
    let kept = bed.store.wishes().await.expect("read");
    assert!(kept.len() == 1 && kept[0].0 == "extension/2042" && kept[0].1.contains("\"always\":\"2043\""), "{kept:?}");
    bed.running.handle.stop().await;
    bed.running.task.await.expect("ended");
    bed.store.close().await;
    let mut bed = Bed::within(bed.folder, |_| {}).await;
    speaks(&mut bed, &ivr::settings::Settings::default()).await;
    assert_eq!(bed.running.handle.wishes("2042").await.always.as_deref(), Some("2043"));
    let _ = (one, other);
    let other = bed.registers(5).await;
    let takes = bed.phone(
        5,
        other,
        "uas_answer.xml",
        "x",
        &[("From: [^\\r\\n]*CALLER", "sip:2041@[^|]*Diversion: .sip:2042@[^;]*;reason=unconditional")],
    );
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]).succeeds().await;
    takes.succeeds().await;
    diverted(&bed, "2042", "2043", "unconditional").await;
    // And off again.
    bed.phone(2, free_port(), "uac_called_off.xml", "*73", &[]).succeeds().await;
    said(&bed, "All your calls are not forwarded.").await;
    assert!(bed.store.wishes().await.expect("read").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_own_prompts_lack_are_said_by_shipped_ones() {
    let mut bed = Bed::start().await;
    let own = bed.folder.path().join("ivr/prompts/en");
    std::fs::create_dir_all(&own).expect("a folder");
    // Prompts as somebody recorded them before there were confirmations.
    let shipped = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/ivr/prompts/en/prompts.yaml")).expect("prompts");
    let before: String = shipped.lines().filter(|line| !line.starts_with("set-")).map(|line| format!("{line}\n")).collect();
    std::fs::write(own.join("prompts.yaml"), before).expect("written");
    let settings = ivr::settings::Settings { path: Some(bed.folder.path().join("ivr")), ..Default::default() };
    speaks(&mut bed, &settings).await;
    bed.phone(2, free_port(), "uac_called_off.xml", "*78", &[]).succeeds().await;
    said(&bed, "Do not disturb is on. Your phone does not ring.").await;
    assert!(bed.running.handle.wishes("2042").await.do_not_disturb);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_phones_calls_go_where_its_user_wishes() {
    let bed = office().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    bed.running.handle.wish("2042", Change::Forward { when: When::Busy, to: Some("2043".into()) }).await.expect("kept");
    let busy = bed.phone(2, one, "uas_refuse.xml", "x", &[("STATUS", "486 Busy Here"), ("CALLER", "2041")]);
    let takes = bed.phone(5, other, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]).succeeds().await;
    busy.succeeds().await;
    takes.succeeds().await;
    diverted(&bed, "2042", "2043", "user-busy").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_want_to_be_disturbed_is_busy() {
    let bed = office().await;
    bed.registers(2).await;
    bed.phone(2, free_port(), "uac_called_off.xml", "*78", &[]).succeeds().await;
    bed.phone(1, free_port(), "uac_refused.xml", "2042", &[("EXPECTED", "486")]).succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_of_a_group_rings_when_the_first_declines() {
    let bed = office().await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    let declines = bed.phone(2, one, "uas_refuse.xml", "x", &[("STATUS", "603 Decline"), ("CALLER", "2041")]);
    let takes = bed.phone(5, other, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_call.xml", "600", &[("PAUSE", "200")]).succeeds().await;
    declines.succeeds().await;
    takes.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_colleague_picks_up_what_rings() {
    let bed = office().await;
    let one = bed.registers(2).await;
    let rings = bed.phone(2, one, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    let caller = bed.phone(1, free_port(), "uac_called_off.xml", "2042", &[]);
    bed.tells(|event| matches!(event, Event::CallRinging { .. })).await;
    bed.phone(5, free_port(), "uac_call.xml", "**2042", &[("PAUSE", "300")]).succeeds().await;
    rings.succeeds().await;
    caller.succeeds().await;
    bed.ended("callee hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_speaks_and_the_phones_of_many_let_it_be_heard() {
    let bed = office().await;
    // SIPp speaks SIP for the phones; their ears and mouths are media sessions of the test.
    let phones = Media::start(media::Config::default()).expect("media");
    let (told, _hears) = mpsc::channel(64);
    let open = || phones.open(SessionConfig::new(Ipv4Addr::LOCALHOST.into(), told.clone())).expect("a session");
    let (mouth, ears) = (open(), [open(), open()]);
    let ports = [bed.registers(2).await, bed.registers(5).await];
    let hear = |last: u8, port: u16, ear: u16, codec: &str| {
        let edits = [
            // It takes the call by itself, and only hears.
            ("From: [^\\r\\n]*CALLER", "sip:2041@[^|]*answer-after=0[^|]*a=sendonly"),
            ("a=sendrecv", "a=recvonly"),
            ("RTP/AVP 8 0 101", codec),
            ("[media_port]", &ear.to_string()),
        ];
        bed.phone(last, port, "uas_answer.xml", "x", &edits)
    };
    let one = hear(2, ports[0], ears[0].local.port(), "RTP/AVP 8 101");
    let other = hear(5, ports[1], ears[1].local.port(), "RTP/AVP 0 101");
    let speaks = bed.phone(1, free_port(), "uac_call.xml", "650", &[("PAUSE", "4000"), ("[media_port]", &mouth.local.port().to_string())]);
    bed.tells(|event| matches!(event, Event::CallAnswered { to, .. } if to == "650")).await;
    let wave: Vec<i16> = (0..8000).map(|i| (8000.0 * (i as f32 * 0.35).sin()) as i16).collect();
    let clip = Arc::new(Clip::new("tone", 8000, &wave));
    let silence = Arc::new(Clip::new("silence", 8000, &[0; 1600]));
    let codecs = [media::Codec::Pcma, media::Codec::Pcma, media::Codec::Pcmu];
    let said = [&clip, &silence, &silence];
    for (((session, sipp), codec), clip) in [mouth, ears[0], ears[1]].iter().zip([&speaks, &one, &other]).zip(codecs).zip(said) {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, named_port(sipp, session.local.port()).await));
        phones.command(session.id, media::Command::SetRemote(media::Remote::new(server, codec)));
        let play = media::Command::Play { playback: media::PlaybackId(1), clips: vec![clip.clone()], repeat: true };
        phones.command(session.id, play);
    }
    for ear in &ears {
        phones.command(ear.id, media::Command::Listen(true));
    }
    let heard = async |session: &media::Session| phones.stats(session.id).await.expect("figures");
    let until = Instant::now() + Duration::from_secs(3);
    for ear in &ears {
        // 0.35 radians a sample are 446 Hz.
        while !matches!(heard(ear).await.sound, Some(media::Sound::Tone { hz }) if (hz - 446.0).abs() < 3.0) {
            assert!(Instant::now() < until, "{:?}", heard(ear).await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(heard(ear).await.lost < 5, "one stream");
    }
    // Both hang up with who speaks; a record for each.
    speaks.succeeds().await;
    one.succeeds().await;
    other.succeeds().await;
    bed.ended("caller hung up").await;
    let records = async || bed.store.call_legs(CallLegQuery { limit: 10, ..CallLegQuery::default() }).await.expect("read");
    let until = Instant::now() + Duration::from_secs(5);
    while records().await.iter().filter(|leg| leg.ended.is_some() && leg.dialled == "650" && leg.answered.is_some()).count() < 3 {
        assert!(Instant::now() < until, "{:#?}", records().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_parked_seen_and_taken_elsewhere() {
    let bed = office().await;
    let one = bed.registers(2).await;
    let waits = bed.phone(2, one, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_park.xml", "2042", &[("TARGET", "700")]).succeeds().await;
    bed.tells(|event| matches!(event, Event::CallTransferred { by, to, .. } if by == "2041" && to == "701")).await;
    assert_eq!(bed.running.handle.list().await[0].state, plugtone::call::CallState::Parked);
    bed.phone(5, free_port(), "uac_call.xml", "701", &[("PAUSE", "300")]).succeeds().await;
    waits.succeeds().await;
    bed.ended("callee hung up").await;
    bed.phone(5, free_port(), "uac_refused.xml", "701", &[("EXPECTED", "404")]).succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_parked_where_its_owner_was_told() {
    let bed = office().await;
    let one = bed.registers(2).await;
    let asks = bed.phone(1, free_port(), "uac_called_off.xml", "700", &[]);
    said(&bed, "If you transfer the call here, it waits at, 7 0 1").await;
    let target = format!("700@[remote_ip]?Replaces={}", named(&asks).await);
    let waits = bed.phone(2, one, "uas_held.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_transfer_attended.xml", "2042", &[("TARGET", &target)]).succeeds().await;
    asks.succeeds().await;
    bed.tells(|event| matches!(event, Event::CallTransferred { by, to, .. } if by == "2041" && to == "701")).await;
    let states: Vec<_> = bed.running.handle.list().await.iter().map(|call| call.state).collect();
    assert_eq!(states, [plugtone::call::CallState::Parked]);
    let takes = bed.phone(5, free_port(), "uac_called_off.xml", "701", &[]);
    bed.tells(|event| matches!(event, Event::CallAnswered { to, .. } if to == "2043")).await;
    let calls = bed.running.handle.list().await;
    assert!(bed.running.handle.hangup(calls[0].call).await);
    takes.succeeds().await;
    waits.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dialled_and_wanted_outlives_the_server() {
    // Phones know where the server is: it comes back there.
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let mut bed = Bed::at(server, tempfile::tempdir().expect("a folder"), |_| {}).await;
    speaks(&mut bed, &ivr::settings::Settings::default()).await;
    let (one, other) = (bed.registers(2).await, bed.registers(5).await);
    // 2042 talks with 2041, and wants no second call.
    bed.running.handle.wish("2042", Change::OneCallOnly(true)).await.expect("kept");
    let talks = bed.phone(2, one, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    let calls = bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "20000")]);
    bed.tells(|event| matches!(event, Event::CallAnswered { to, .. } if to == "2042")).await;
    bed.phone(5, free_port(), "uac_refused.xml", "2042", &[("EXPECTED", "486")]).succeeds().await;
    bed.phone(5, free_port(), "uac_called_off.xml", "*37", &[]).succeeds().await;
    said(&bed, "You will be called when, 2 0 4 2 is free.").await;
    // The account is written behind.
    let until = Instant::now() + Duration::from_secs(5);
    let written =
        async || bed.store.call_legs(CallLegQuery { user: Some("2043".into()), limit: 10, ..Default::default() }).await.expect("read");
    while !written().await.iter().any(|leg| leg.to == "2042") {
        assert!(Instant::now() < until, "{:#?}", written().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The plug is pulled, of the server too.
    let until = Instant::now() + Duration::from_secs(5);
    [talks, calls].into_iter().for_each(Sipp::dies);
    let wanted = bed.phone(5, other, "uas_answer.xml", "x", &[("CALLER", "sip:2042@")]);
    let called = bed.phone(2, one, "uas_answer.xml", "x", &[("CALLER", "sip:2043@")]);
    bed.running.task.abort();
    let _ = bed.running.task.await;
    bed.store.close().await;
    while is_bound_by_udp(server.port()) {
        assert!(Instant::now() < until, "the port is not free again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let mut bed = Bed::at(server, bed.folder, |_| {}).await;
    speaks(&mut bed, &ivr::settings::Settings::default()).await;
    // Both are free: the phone of who wanted it rings and shows whom it is about, and then the other.
    bed.tells(|event| matches!(event, Event::CallAnswered { to, .. } if to == "2042")).await;
    let back = bed.running.handle.list().await;
    assert_eq!(back[0].labels, [("call-back".to_owned(), "2042".to_owned())]);
    assert!(bed.running.handle.hangup(back[0].call).await);
    wanted.succeeds().await;
    called.succeeds().await;
    let until = Instant::now() + Duration::from_secs(5);
    while bed.store.wishes().await.expect("read").iter().any(|(key, _)| key.starts_with("call-back/")) {
        assert!(Instant::now() < until, "it is done, and not forgotten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // And the number dialled last is known.
    let called = bed.phone(2, one, "uas_answer.xml", "x", &[("CALLER", "sip:2043@")]);
    bed.phone(5, free_port(), "uac_call.xml", "*66", &[("PAUSE", "200")]).succeeds().await;
    called.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_intercom_call_asks_the_phone_to_answer_by_itself() {
    let bed = office().await;
    let one = bed.registers(2).await;
    let answers = bed.phone(2, one, "uas_answer.xml", "x", &[("From: [^\\r\\n]*CALLER", "answer-after=0")]);
    bed.phone(1, free_port(), "uac_call.xml", "*802042", &[("PAUSE", "200")]).succeeds().await;
    answers.succeeds().await;
}
