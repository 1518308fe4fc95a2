//! One leg's side of offer and answer (RFC 3264): what we offer, what we answer, and what holds after that.
//!
//! A [`Session`] is ours for the life of a leg: [`Session::offer`] and [`Session::accept`] when we ask,
//! [`Session::answer`] when we are asked; each agreement comes out as [`MediaParams`] for `media`. One audio stream is
//! carried; every other `m=` line is answered with port 0 and kept in its place. One codec is answered, so that a peer
//! does not change it in mid-stream. Not here: SRTP, ICE, video, early-media preconditions.

use std::{fmt::Write, net::SocketAddr};

use bytes::Bytes;

use super::{Attribute, Description, Error};

/// Sound that we can carry. All have an RTP clock of 8000 Hz (G.722 too, by the slip that RFC 3551 §4.5.2 keeps).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    Pcmu,
    Pcma,
    G722,
}

impl Codec {
    pub const ALL: [Self; 3] = [Self::Pcma, Self::Pcmu, Self::G722];

    /// RFC 3551 §6.
    pub fn static_payload_type(self) -> u8 {
        match self {
            Self::Pcmu => 0,
            Self::Pcma => 8,
            Self::G722 => 9,
        }
    }

    /// The encoding name of `a=rtpmap`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pcmu => "PCMU",
            Self::Pcma => "PCMA",
            Self::G722 => "G722",
        }
    }
}

/// Who sends, seen from the side that says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "sendrecv" => Self::SendRecv,
            "sendonly" => Self::SendOnly,
            "recvonly" => Self::RecvOnly,
            "inactive" => Self::Inactive,
            _ => return None,
        })
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    /// The same, seen from the other side.
    pub fn reversed(self) -> Self {
        Self::of(self.receives(), self.sends())
    }

    /// What both allow.
    pub fn and(self, other: Self) -> Self {
        Self::of(self.sends() && other.sends(), self.receives() && other.receives())
    }

    fn of(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Self::SendRecv,
            (true, false) => Self::SendOnly,
            (false, true) => Self::RecvOnly,
            (false, false) => Self::Inactive,
        }
    }
}

/// What was agreed, as `media` needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaParams {
    /// Where to send. `None`: the peer wants nothing now.
    pub remote: Option<SocketAddr>,
    pub codec: Codec,
    /// To send sound with.
    pub payload_type: u8,
    /// To send telephone-events with. `None`: the peer does not take them.
    pub dtmf_payload_type: Option<u8>,
    /// That the peer was told to send telephone-events with.
    pub dtmf_receive_payload_type: Option<u8>,
    /// Milliseconds of sound per packet that the peer wants; a multiple of 10, 10 to 60.
    pub ptime_ms: u8,
    /// Ours.
    pub direction: Direction,
}

/// What the other half of the call allows, for [`Session::answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Widest direction that we may answer.
    pub direction: Direction,
    /// Taken when it is offered, so that both legs of a bridge carry the same; else the offerer's first that we have.
    pub prefer: Option<Codec>,
}

impl Default for Terms {
    fn default() -> Self {
        Self { direction: Direction::SendRecv, prefer: None }
    }
}

/// One leg's descriptions: its `o=` line, its address, the agreed streams.
#[derive(Clone, Debug)]
pub struct Session {
    local: SocketAddr,
    codecs: Vec<Codec>,
    /// We speak for somebody else, who takes this and no other sound.
    only: Option<Codec>,
    /// `o=` session id; any number that is new (RFC 4566 §5.2).
    id: u64,
    version: u64,
    /// What followed the `o=` line when we spoke last: the version counts up when it changes (RFC 3264 §8).
    last: String,
    /// The `m=` lines in use, ours among them; empty before the first exchange.
    lines: Vec<Line>,
    agreed: Option<MediaParams>,
}

/// Payload type that we offer for telephone-events; everybody's choice.
const EVENTS: u8 = 101;
/// What we send and like to get: 20 ms, the tick of `media`.
const PTIME_MS: u8 = 20;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Line {
    Ours {
        proto: String,
        payload_types: Vec<(Codec, u8)>,
        events: Option<u8>,
    },
    /// Refused with port 0: media, proto, formats as the peer wrote them.
    Refused {
        media: String,
        proto: String,
        formats: String,
    },
}

impl Session {
    /// For a leg whose packets arrive at `local`. `codecs` are what we may use, best first.
    pub fn new(id: u64, local: SocketAddr, codecs: &[Codec]) -> Self {
        Self { local, codecs: codecs.to_vec(), only: None, id: id >> 1, version: 0, last: String::new(), lines: Vec::new(), agreed: None }
    }

    /// From now on packets go to the other end of the call, of which this was agreed, past us: what is said next is its address,
    /// its codec, its telephone-events.
    pub fn stand_for(&mut self, other: &MediaParams) {
        let Some(remote) = other.remote else { return };
        (self.local, self.only) = (remote, Some(other.codec));
        if let Some(Line::Ours { events, .. }) = self.lines.iter_mut().find(|line| matches!(line, Line::Ours { .. })) {
            *events = other.dtmf_payload_type;
        }
    }

    /// From now on packets arrive here, at our own port.
    pub fn stand_at(&mut self, local: SocketAddr) {
        (self.local, self.only) = (local, None);
    }

    /// Where packets are said to arrive, by what is said next.
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// What holds now.
    pub fn agreed(&self) -> Option<&MediaParams> {
        self.agreed.as_ref()
    }

    /// An offer: the first one, or a new one in a running leg (same lines, what was agreed first).
    /// `prefer` is put first; `foreign` goes along as it is.
    pub fn offer(&mut self, direction: Direction, prefer: Option<Codec>, foreign: &[Attribute]) -> Bytes {
        let mut codecs = self.codecs.clone();
        let first = prefer.or(self.agreed.map(|agreed| agreed.codec));
        codecs.sort_by_key(|codec| Some(*codec) != first);
        codecs.retain(|codec| self.only.is_none_or(|only| only == *codec));
        let known: Vec<(Codec, u8)> = match self.ours() {
            Some((_, Line::Ours { payload_types, .. })) => payload_types.clone(),
            _ => Vec::new(),
        };
        let number = |codec: Codec| known.iter().find(|(c, _)| *c == codec).map_or(codec.static_payload_type(), |(_, number)| *number);
        let payload_types: Vec<_> = codecs.iter().map(|codec| (*codec, number(*codec))).collect();
        match self.lines.iter_mut().find(|line| matches!(line, Line::Ours { .. })) {
            Some(Line::Ours { payload_types: now, events, .. }) => {
                *now = payload_types;
                events.get_or_insert(EVENTS);
            }
            _ => self.lines.push(Line::Ours { proto: "RTP/AVP".to_owned(), payload_types, events: Some(EVENTS) }),
        }
        self.write(direction, foreign)
    }

    /// Answers an offer of the peer.
    pub fn answer(&mut self, offer: &Description, terms: Terms) -> Result<(Bytes, MediaParams), Error> {
        let (index, stream, codec, payload_type) = self.choose(offer, terms.prefer).ok_or(Error::NothingInCommon)?;
        let direction = stream.direction().reversed().and(terms.direction);
        let events = stream.events();
        self.lines = offer
            .streams()
            .enumerate()
            .map(|(place, other)| match place == index {
                true => Line::Ours { proto: other.line().proto.clone(), payload_types: vec![(codec, payload_type)], events },
                false => Line::refused(other.line()),
            })
            .collect();
        let agreed = MediaParams {
            remote: stream.address(),
            codec,
            payload_type,
            dtmf_payload_type: events,
            dtmf_receive_payload_type: events,
            ptime_ms: ptime_ms(stream.ptime_ms()),
            direction,
        };
        self.agreed = Some(agreed);
        Ok((self.write(direction, &[]), agreed))
    }

    /// Takes the peer's answer to our last offer. `direction` is what we offered.
    pub fn accept(&mut self, answer: &Description, direction: Direction) -> Result<MediaParams, Error> {
        let (index, ours) = self.ours().ok_or(Error::BadAnswer)?;
        let Line::Ours { payload_types, events, .. } = ours else { return Err(Error::BadAnswer) };
        let stream = answer.stream(index).filter(|stream| stream.line().media == "audio").ok_or(Error::BadAnswer)?;
        if !stream.is_plain_audio() {
            return Err(Error::NothingInCommon);
        }
        let (codec, payload_type) =
            stream.codecs().find(|(codec, _)| payload_types.iter().any(|(offered, _)| offered == codec)).ok_or(Error::NothingInCommon)?;
        let agreed = MediaParams {
            remote: stream.address(),
            codec,
            payload_type,
            dtmf_payload_type: stream.events(),
            dtmf_receive_payload_type: stream.events().and(*events),
            ptime_ms: ptime_ms(stream.ptime_ms()),
            direction: stream.direction().reversed().and(direction),
        };
        self.agreed = Some(agreed);
        Ok(agreed)
    }

    fn ours(&self) -> Option<(usize, &Line)> {
        self.lines.iter().enumerate().find(|(_, line)| matches!(line, Line::Ours { .. }))
    }

    /// The stream that carries our sound and the codec for it.
    fn choose<'a>(&self, offer: &'a Description, prefer: Option<Codec>) -> Option<(usize, super::parse::Stream<'a>, Codec, u8)> {
        offer.streams().enumerate().filter(|(_, stream)| stream.is_plain_audio()).find_map(|(index, stream)| {
            let usable = || stream.codecs().filter(|(codec, _)| self.codecs.contains(codec) && self.only.is_none_or(|only| only == *codec));
            let (codec, payload_type) = usable().find(|(codec, _)| Some(*codec) == prefer).or_else(|| usable().next())?;
            Some((index, stream, codec, payload_type))
        })
    }

    fn write(&mut self, direction: Direction, foreign: &[Attribute]) -> Bytes {
        let mut text = String::with_capacity(400);
        let family = if self.local.is_ipv4() { "IP4" } else { "IP6" };
        let _ = write!(text, "s=-\r\nc=IN {family} {}\r\nt=0 0\r\n", self.local.ip());
        for line in &self.lines {
            line.write(&mut text, self.local.port(), direction, foreign);
        }
        if text != self.last {
            self.version += 1;
            self.last = text;
        }
        Bytes::from(format!("v=0\r\no=- {} {} IN {family} {}\r\n{}", self.id, self.version, self.local.ip(), self.last))
    }
}

impl Line {
    fn refused(line: &sdp_types::Media) -> Self {
        Self::Refused { media: line.media.clone(), proto: line.proto.clone(), formats: line.fmt.clone() }
    }

    fn write(&self, text: &mut String, port: u16, direction: Direction, foreign: &[Attribute]) {
        match self {
            Self::Refused { media, proto, formats } => {
                let _ = write!(text, "m={media} 0 {proto} {formats}\r\n");
            }
            Self::Ours { proto, payload_types, events } => {
                let _ = write!(text, "m=audio {port} {proto}");
                for number in payload_types.iter().map(|(_, number)| number).chain(events) {
                    let _ = write!(text, " {number}");
                }
                text.push_str("\r\n");
                for (codec, number) in payload_types {
                    let _ = write!(text, "a=rtpmap:{number} {}/8000\r\n", codec.name());
                }
                if let Some(events) = events {
                    let _ = write!(text, "a=rtpmap:{events} telephone-event/8000\r\na=fmtp:{events} 0-15\r\n");
                }
                let _ = write!(text, "a=ptime:{PTIME_MS}\r\na={}\r\n", direction.word());
                for attribute in foreign {
                    let _ = match &attribute.value {
                        Some(value) => write!(text, "a={}:{value}\r\n", attribute.attribute),
                        None => write!(text, "a={}\r\n", attribute.attribute),
                    };
                }
            }
        }
    }
}

fn ptime_ms(asked: Option<u8>) -> u8 {
    match asked {
        Some(asked) if (10..=60).contains(&asked) => asked / 10 * 10,
        _ => PTIME_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "v=0\r\no=- 1 1 IN IP4 10.0.0.5\r\ns=-\r\nc=IN IP4 10.0.0.5\r\nt=0 0\r\n";

    fn read(lines: &str) -> Description {
        Description::parse(format!("{HEAD}{lines}").as_bytes()).unwrap()
    }

    fn session() -> Session {
        Session::new(77, "192.0.2.1:5000".parse().unwrap(), &[Codec::Pcma, Codec::Pcmu])
    }

    fn text(bytes: &Bytes) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn an_answer_takes_one_codec_and_refuses_what_it_does_not_know() {
        let offer = read(
            "m=video 4002 RTP/AVP 99\r\nm=audio 4000 RTP/AVP 9 0 8 96\r\na=rtpmap:96 telephone-event/8000\r\na=ptime:30\r\nm=image 4004 udptl t38\r\n",
        );
        let (answer, agreed) = session().answer(&offer, Terms::default()).unwrap();
        assert_eq!(
            text(&answer),
            "v=0\r\no=- 38 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=video 0 RTP/AVP 99\r\nm=audio 5000 RTP/AVP 0 96\r\n\
             a=rtpmap:0 PCMU/8000\r\na=rtpmap:96 telephone-event/8000\r\na=fmtp:96 0-15\r\na=ptime:20\r\na=sendrecv\r\nm=image 0 udptl t38\r\n"
        );
        assert_eq!(
            agreed,
            MediaParams {
                remote: Some("10.0.0.5:4000".parse().unwrap()),
                codec: Codec::Pcmu,
                payload_type: 0,
                dtmf_payload_type: Some(96),
                dtmf_receive_payload_type: Some(96),
                ptime_ms: 30,
                direction: Direction::SendRecv,
            }
        );
    }

    #[test]
    fn the_other_legs_codec_is_preferred() {
        let offer = read("m=audio 4000 RTP/AVP 0 8\r\n");
        let terms = Terms { prefer: Some(Codec::Pcma), ..Terms::default() };
        assert_eq!(session().answer(&offer, terms).unwrap().1.codec, Codec::Pcma);
        let terms = Terms { prefer: Some(Codec::G722), ..Terms::default() };
        assert_eq!(session().answer(&offer, terms).unwrap().1.codec, Codec::Pcmu);
    }

    #[test]
    fn holds_are_answered_in_kind() {
        for (said, ours, remote) in [
            ("a=sendonly\r\n", Direction::RecvOnly, true),
            ("a=inactive\r\n", Direction::Inactive, true),
            ("a=recvonly\r\n", Direction::SendOnly, true),
            ("c=IN IP4 0.0.0.0\r\n", Direction::RecvOnly, false),
        ] {
            let (_, agreed) = session().answer(&read(&format!("m=audio 4000 RTP/AVP 0\r\n{said}")), Terms::default()).unwrap();
            assert_eq!((agreed.direction, agreed.remote.is_some()), (ours, remote), "{said}");
        }
    }

    #[test]
    fn nothing_in_common_is_488() {
        for lines in ["m=audio 4000 RTP/SAVP 0\r\n", "m=audio 4000 RTP/AVP 18\r\n", "m=audio 0 RTP/AVP 0\r\n", "m=audio 4000 RTP/AVP 9\r\n"]
        {
            let refused = session().answer(&read(lines), Terms::default()).unwrap_err();
            assert_eq!(refused.status(), 488, "{lines}");
        }
    }

    #[test]
    fn our_offer_and_its_answer() {
        let mut session = session();
        let foreign = [Attribute::with_value("label", "7")];
        let offer = session.offer(Direction::SendRecv, Some(Codec::Pcmu), &foreign);
        assert_eq!(
            text(&offer),
            "v=0\r\no=- 38 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0 8 101\r\n\
             a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\n\
             a=sendrecv\r\na=label:7\r\n"
        );
        let answer = read("m=audio 4000 RTP/AVP 8 96\r\na=rtpmap:96 telephone-event/8000\r\n");
        let agreed = session.accept(&answer, Direction::SendRecv).unwrap();
        assert_eq!((agreed.codec, agreed.dtmf_payload_type, agreed.dtmf_receive_payload_type), (Codec::Pcma, Some(96), Some(101)));
        // Offered again unchanged: what was agreed comes first, the version counts only changes.
        let again = session.offer(Direction::SendRecv, None, &foreign);
        assert!(text(&again).contains("o=- 38 2 ") && text(&again).contains("RTP/AVP 8 0 101"));
        let same = session.offer(Direction::SendRecv, None, &foreign);
        assert_eq!(same, again);
        let hold = session.offer(Direction::SendOnly, None, &foreign);
        assert!(text(&hold).contains("o=- 38 3 ") && text(&hold).contains("a=sendonly"));
    }

    #[test]
    fn answers_that_do_not_fit_are_refused() {
        for (lines, error) in [
            ("m=audio 0 RTP/AVP 0\r\n", Error::NothingInCommon),
            ("m=audio 4000 RTP/AVP 9\r\n", Error::NothingInCommon),
            ("m=video 4000 RTP/AVP 0\r\n", Error::BadAnswer),
        ] {
            let mut session = session();
            session.offer(Direction::SendRecv, None, &[]);
            assert_eq!(session.accept(&read(lines), Direction::SendRecv).unwrap_err(), error, "{lines}");
        }
    }

    #[test]
    fn two_sessions_agree() {
        let mut a = session();
        let mut b = Session::new(1, "[2001:db8::2]:6000".parse().unwrap(), &[Codec::G722, Codec::Pcmu]);
        let offer = Description::parse(&a.offer(Direction::SendOnly, None, &[])).unwrap();
        let (answer, b_params) = b.answer(&offer, Terms::default()).unwrap();
        let a_params = a.accept(&Description::parse(&answer).unwrap(), Direction::SendOnly).unwrap();
        assert_eq!((a_params.codec, b_params.codec), (Codec::Pcmu, Codec::Pcmu));
        assert_eq!((a_params.direction, b_params.direction), (Direction::SendOnly, Direction::RecvOnly));
        assert_eq!(a_params.remote, Some("[2001:db8::2]:6000".parse().unwrap()));
        assert_eq!(b_params.remote, Some("192.0.2.1:5000".parse().unwrap()));
    }
}
