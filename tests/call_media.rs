//! What is heard beside the talk itself: before the answer, on hold, and what a phone is told when another took the call.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use plugtone::media::{self, Clip, Media, SessionConfig};
use tokio::sync::mpsc;

use super::call::{Bed, free_port, named_port};

#[tokio::test(flavor = "multi_thread")]
async fn the_far_end_is_heard_before_it_answers() {
    let bed = Bed::start().await;
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_early.xml", "x", &[("CALLER", "2041")]);
    bed.phone(1, free_port(), "uac_early.xml", "2042", &[]).succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_rang_in_vain_is_told_that_the_call_was_taken_elsewhere() {
    let bed = Bed::start().await;
    let (one, other) = (bed.registers(2).await, bed.registers(3).await);
    let rings = bed.phone(2, one, "uas_cancelled.xml", "x", &[("CALLER", "2041")]);
    let takes = bed.phone(3, other, "uas_answer.xml", "x", &[("CALLER", "2041")]);
    let caller = bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "1500")]);
    bed.tells(|event| matches!(event, plugtone::model::Event::CallAnswered { .. })).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let log = rings.log();
    let cancel = log.split("\nCANCEL ").nth(1).expect("a CANCEL");
    assert!(cancel.contains("Reason: SIP;cause=200;text=\"Call completed elsewhere\""), "{cancel}");
    caller.succeeds().await;
    takes.succeeds().await;
    rings.succeeds().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_on_hold_hears_music() {
    let bed = Bed::start().await;
    let phones = Media::start(media::Config::default()).expect("media");
    let (told, _hears) = mpsc::channel(64);
    let ear = phones.open(SessionConfig::new(Ipv4Addr::LOCALHOST.into(), told)).expect("a session");
    let port = bed.registers(2).await;
    let callee = bed.phone(2, port, "uas_held.xml", "x", &[("CALLER", "2041"), ("[media_port]", &ear.local.port().to_string())]);
    let caller = bed.phone(1, free_port(), "uac_hold.xml", "2042", &[("milliseconds=\"500\"", "milliseconds=\"2000\"")]);
    bed.tells(|event| matches!(event, plugtone::model::Event::CallAnswered { .. })).await;
    let server = (Ipv4Addr::LOCALHOST, named_port(&callee, ear.local.port()).await).into();
    phones.command(ear.id, media::Command::SetRemote(media::Remote::new(server, media::Codec::Pcma)));
    // SIPp sends no sound of its own: what comes is the music.
    let silence = Arc::new(Clip::new("silence", 8000, &[0; 1600]));
    phones.command(ear.id, media::Command::Play { playback: media::PlaybackId(1), clips: vec![silence], repeat: true });
    let mut loudest = f32::MIN;
    for _ in 0..30 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        loudest = phones.stats(ear.id).await.ok().and_then(|stats| stats.rms_dbfs).map_or(loudest, |rms| loudest.max(rms));
    }
    assert!((-45.0..-15.0).contains(&loudest), "{loudest} dB");
    caller.succeeds().await;
    callee.succeeds().await;
}
