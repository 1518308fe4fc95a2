//! Reads a peer's session description, as forgivingly as phones need and as bounded as the network demands.
//!
//! `sdp-types` does the grammar. Before it, lines that we never use and that phones get wrong are left out, text that is
//! not UTF-8 is taken as it can be, and an `m=` line with a broken port counts as refused. Not here: what to answer.

use std::net::{IpAddr, SocketAddr};

pub use sdp_types::Attribute;

use super::{Codec, Direction, Error};

/// No phone writes more; a fragment of ICE candidates and codecs is 4 KB.
pub const MAX_BYTES: usize = 16 * 1024;
/// Streams looked at; more are an attack or a mistake.
const MAX_STREAMS: usize = 16;
/// Attributes kept per stream.
const MAX_ATTRIBUTES: usize = 128;

/// What a peer wrote.
#[derive(Clone, Debug)]
pub struct Description {
    session: sdp_types::Session,
}

/// One payload type of a stream, as far as we can carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    Audio {
        codec: Codec,
        payload_type: u8,
    },
    /// `telephone-event` at 8000 Hz (RFC 4733).
    Events {
        payload_type: u8,
    },
}

impl Description {
    pub fn parse(body: &[u8]) -> Result<Self, Error> {
        if body.len() > MAX_BYTES {
            return Err(Error::TooLong { limit: MAX_BYTES });
        }
        let tidy = tidied(&String::from_utf8_lossy(body));
        let mut session = sdp_types::Session::parse(tidy.as_bytes()).map_err(|_| Error::NotSdp)?;
        if session.medias.is_empty() {
            return Err(Error::NotSdp);
        }
        // More streams than we look at cannot be answered line by line: refuse the whole.
        if session.medias.len() > MAX_STREAMS {
            return Err(Error::NothingInCommon);
        }
        session.attributes.truncate(MAX_ATTRIBUTES);
        session.medias.iter_mut().for_each(|media| media.attributes.truncate(MAX_ATTRIBUTES));
        Ok(Self { session })
    }

    /// The streams, in order; an answer has as many.
    pub fn streams(&self) -> impl Iterator<Item = Stream<'_>> {
        self.session.medias.iter().map(|media| Stream { session: &self.session, media })
    }

    pub fn stream(&self, index: usize) -> Option<Stream<'_>> {
        self.session.medias.get(index).map(|media| Stream { session: &self.session, media })
    }

    /// The first audio stream that we could carry, with its place.
    pub fn audio(&self) -> Option<(usize, Stream<'_>)> {
        self.streams().enumerate().find(|(_, stream)| stream.is_plain_audio() && stream.codecs().next().is_some())
    }

    /// Does the peer put us on hold (RFC 3264 §8.4, or the address 0.0.0.0 of RFC 2543 phones)?
    pub fn holds(&self) -> bool {
        self.audio().is_some_and(|(_, stream)| !stream.direction().receives())
    }
}

/// One `m=` line and what belongs to it.
#[derive(Clone, Copy)]
pub struct Stream<'a> {
    session: &'a sdp_types::Session,
    media: &'a sdp_types::Media,
}

impl<'a> Stream<'a> {
    pub fn line(&self) -> &'a sdp_types::Media {
        self.media
    }

    /// Audio over plain RTP that was not refused. SRTP and DTLS are other words in `proto`.
    pub fn is_plain_audio(&self) -> bool {
        self.media.media == "audio" && self.media.port != 0 && matches!(self.media.proto.as_str(), "RTP/AVP" | "RTP/AVPF")
    }

    /// Where the peer wants the packets. `None` when it wants none (0.0.0.0 or ::), or names a host instead of an address.
    pub fn address(&self) -> Option<SocketAddr> {
        let connection = self.media.connections.first().or(self.session.connection.as_ref())?;
        let ip: IpAddr = connection.connection_address.split('/').next()?.parse().ok()?;
        (!ip.is_unspecified() && self.media.port != 0).then(|| SocketAddr::new(ip, self.media.port))
    }

    /// As the peer sees it: `sendonly` means that the peer sends. The media's word counts before the session's.
    pub fn direction(&self) -> Direction {
        let word = |attributes: &[Attribute]| attributes.iter().rev().find_map(|a| Direction::from_word(&a.attribute));
        let said = word(&self.media.attributes).or_else(|| word(&self.session.attributes)).unwrap_or(Direction::SendRecv);
        match self.address() {
            Some(_) => said,
            None => said.and(Direction::SendOnly),
        }
    }

    /// Milliseconds of sound per packet that the peer asks for.
    pub fn ptime_ms(&self) -> Option<u8> {
        let asked = self.media.get_first_attribute_value("ptime")??;
        asked.trim().split('.').next()?.parse().ok()
    }

    /// What can be carried, in the peer's order of preference.
    pub fn payloads(&self) -> impl Iterator<Item = Payload> + use<'a> {
        let media = self.media;
        media.fmt.split_ascii_whitespace().take(MAX_ATTRIBUTES).filter_map(move |fmt| payload(media, fmt.parse().ok()?))
    }

    /// The codecs among them.
    pub fn codecs(&self) -> impl Iterator<Item = (Codec, u8)> + use<'a> {
        self.payloads().filter_map(|payload| match payload {
            Payload::Audio { codec, payload_type } => Some((codec, payload_type)),
            Payload::Events { .. } => None,
        })
    }

    /// The payload type for telephone-events that the peer wants.
    pub fn events(&self) -> Option<u8> {
        self.payloads().find_map(|payload| match payload {
            Payload::Events { payload_type } => Some(payload_type),
            Payload::Audio { .. } => None,
        })
    }

    /// Attributes that speak neither of addresses, nor of keys, nor of codecs: they go on to the other leg as they are.
    pub fn foreign(&self) -> impl Iterator<Item = &'a Attribute> + use<'a> {
        self.media.attributes.iter().filter(|a| is_foreign(&a.attribute))
    }
}

fn payload(media: &sdp_types::Media, payload_type: u8) -> Option<Payload> {
    if payload_type > 127 {
        return None;
    }
    let map = media.attributes.iter().filter(|a| a.attribute == "rtpmap").find_map(|a| {
        let (number, encoding) = a.value.as_deref()?.trim().split_once(char::is_whitespace)?;
        (number.parse() == Ok(payload_type)).then(|| encoding.trim())
    });
    // 0, 8 and 9 are known without a map (RFC 3551 §6).
    let Some(map) = map else {
        let codec = Codec::ALL.into_iter().find(|codec| codec.static_payload_type() == payload_type)?;
        return Some(Payload::Audio { codec, payload_type });
    };
    let mut parts = map.split('/');
    let (name, rate, channels) = (parts.next()?, parts.next()?, parts.next().unwrap_or("1"));
    if rate != "8000" || channels != "1" {
        return None;
    }
    if name.eq_ignore_ascii_case("telephone-event") {
        return Some(Payload::Events { payload_type });
    }
    let codec = Codec::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))?;
    Some(Payload::Audio { codec, payload_type })
}

/// Ours to say, or bound to the sender's address, keys and numbering.
fn is_foreign(name: &str) -> bool {
    const OURS: &[&str] = &[
        "rtpmap",
        "fmtp",
        "ptime",
        "maxptime",
        "sendrecv",
        "sendonly",
        "recvonly",
        "inactive",
        "rtcp",
        "candidate",
        "crypto",
        "fingerprint",
        "setup",
        "mid",
        "bundle-only",
        "ssrc",
        "ssrc-group",
        "msid",
        "extmap",
        "connection",
        "tls-id",
        "identity",
        "end-of-candidates",
        "remote-candidates",
        "silenceSupp",
        "encryption",
        "key-mgmt",
    ];
    !OURS.contains(&name) && !name.starts_with("ice-") && !name.starts_with("rtcp-") && Direction::from_word(name).is_none()
}

/// The lines that we use, each in a form that the parser takes.
fn tidied(text: &str) -> String {
    let mut tidy = String::with_capacity(text.len() + 8);
    tidy.push_str("v=0\r\n");
    let mut origin_seen = false;
    for line in text.split(['\r', '\n']).map(|line| line.trim_matches([' ', '\t', '\0'])) {
        let Some((key, value)) = line.split_once('=') else { continue };
        match key {
            "o" if !origin_seen && value.split_ascii_whitespace().count() == 6 && is_number(value.split_ascii_whitespace().nth(2)) => {
                origin_seen = true;
                push(&mut tidy, line);
            }
            "c" if value.split_ascii_whitespace().count() == 3 => push(&mut tidy, line),
            "a" if !value.is_empty() => push(&mut tidy, line),
            "m" => push(&mut tidy, &media_line(value)),
            // The rest is never used: a phone's slip there shall not cost the call.
            _ => {}
        }
    }
    tidy
}

fn is_number(text: Option<&str>) -> bool {
    text.is_some_and(|text| text.parse::<u64>().is_ok())
}

/// `audio 4000 RTP/AVP 0 8`; a stream whose port is no port is a refused one.
fn media_line(value: &str) -> String {
    let mut words = value.split_ascii_whitespace();
    let media = words.next().unwrap_or("unknown");
    let port = words.next().and_then(|port| port.split('/').next()?.parse::<u16>().ok()).unwrap_or(0);
    let proto = words.next().unwrap_or("unknown");
    let formats: Vec<_> = words.collect();
    let formats = if formats.is_empty() { "0".to_owned() } else { formats.join(" ") };
    format!("m={media} {port} {proto} {formats}")
}

fn push(tidy: &mut String, line: &str) {
    tidy.push_str(line);
    tidy.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(lines: &str) -> Description {
        Description::parse(format!("v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\n{lines}").as_bytes()).unwrap()
    }

    #[test]
    fn streams_are_read_as_phones_write_them() {
        for (story, lines, codecs, events, address) in [
            ("static types", "m=audio 4000 RTP/AVP 0 8\r\n", vec![(Codec::Pcmu, 0), (Codec::Pcma, 8)], None, Some("10.0.0.5:4000")),
            (
                "named types",
                "m=audio 4000 RTP/AVP 98 101\r\na=rtpmap:98 pcma/8000\r\na=rtpmap:101 telephone-event/8000\r\n",
                vec![(Codec::Pcma, 98)],
                Some(101),
                Some("10.0.0.5:4000"),
            ),
            (
                "an address of its own",
                "m=audio 4000 RTP/AVP 9\r\nc=IN IP4 10.0.0.9\r\n",
                vec![(Codec::G722, 9)],
                None,
                Some("10.0.0.9:4000"),
            ),
            (
                "events for a wide-band codec are not ours",
                "m=audio 4000 RTP/AVP 0 102\r\na=rtpmap:102 telephone-event/48000\r\n",
                vec![(Codec::Pcmu, 0)],
                None,
                Some("10.0.0.5:4000"),
            ),
            ("bare line feeds", "m=audio 4000 RTP/AVP 0\n", vec![(Codec::Pcmu, 0)], None, Some("10.0.0.5:4000")),
            ("nonsense between", "q=?\r\nb=x\r\nm=audio 4000 RTP/AVP 0\r\n\0\0", vec![(Codec::Pcmu, 0)], None, Some("10.0.0.5:4000")),
            ("held the old way", "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 0.0.0.0\r\n", vec![(Codec::Pcmu, 0)], None, None),
        ] {
            let description = offer(lines);
            let (_, stream) = description.audio().expect(story);
            assert_eq!(stream.codecs().collect::<Vec<_>>(), codecs, "{story}");
            assert_eq!(stream.events(), events, "{story}");
            assert_eq!(stream.address(), address.map(|a| a.parse().unwrap()), "{story}");
        }
    }

    #[test]
    fn holds_come_in_four_forms() {
        for (lines, holds) in [
            ("m=audio 4000 RTP/AVP 0\r\n", false),
            ("m=audio 4000 RTP/AVP 0\r\na=recvonly\r\n", false),
            ("m=audio 4000 RTP/AVP 0\r\na=sendonly\r\n", true),
            ("a=inactive\r\nm=audio 4000 RTP/AVP 0\r\n", true),
            ("a=inactive\r\nm=audio 4000 RTP/AVP 0\r\na=sendrecv\r\n", false),
            ("m=audio 4000 RTP/AVP 0\r\nc=IN IP4 0.0.0.0\r\na=sendrecv\r\n", true),
        ] {
            assert_eq!(offer(lines).holds(), holds, "{lines}");
        }
    }

    #[test]
    fn what_is_no_description_is_refused() {
        for (body, error) in [
            (&b""[..], Error::NotSdp),
            (b"\xff\xfe\x00", Error::NotSdp),
            (b"v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\n", Error::NotSdp),
            (&[b'a'; MAX_BYTES + 1], Error::TooLong { limit: MAX_BYTES }),
        ] {
            assert_eq!(Description::parse(body).map(|_| ()).unwrap_err(), error);
        }
        let many = "m=audio 4000 RTP/AVP 0\r\n".repeat(17);
        assert_eq!(Description::parse(many.as_bytes()).map(|_| ()).unwrap_err(), Error::NothingInCommon);
    }

    #[test]
    fn a_broken_port_is_a_refused_stream() {
        let description = offer("m=audio ninety RTP/AVP 0\r\nm=audio 4000 RTP/AVP 8\r\n");
        assert_eq!(description.audio().map(|(index, _)| index), Some(1));
        assert_eq!(description.streams().count(), 2);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..600)) {
            let _ = Description::parse(&body).map(|d| { d.audio().map(|(_, s)| (s.address(), s.events(), s.ptime_ms())); d.holds() });
        }

        #[test]
        fn no_mutation_of_an_offer_panics(at in 0usize..180, byte in proptest::num::u8::ANY) {
            let mut body = b"v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\na=sendonly\r\n".to_vec();
            if let Some(place) = body.get_mut(at) { *place = byte; }
            let _ = Description::parse(&body).map(|d| { d.audio().map(|(_, s)| (s.address(), s.events(), s.ptime_ms())); d.holds() });
        }
    }
}
