//! The SIP messages of each call, kept for a while so that one can look at them when a phone misbehaves. No I/O, no clock.
//!
//! Every message that comes or leaves is shown to [`Capture::note`]; those of calls are kept, by Call-ID, as the bytes they
//! are: a reference to what is in memory anyhow. Which Call-IDs make up a call is told by [`Capture::attach`], that it
//! is over by [`Capture::finish`]. A Call-ID that no call is known for (refused, or nobody's) counts as over from the start.
//!
//! Bounded three ways: bytes per Call-ID (the oldest go), bytes in all (what is over goes first, the oldest of it), time after
//! the end. Not here: hiding secrets (`mask.rs`: it is done when messages leave the process), files (`pcap.rs`), sound.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::transport::Flow;
use crate::model::{CallId, NumberHash};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one Call-ID: one side of a call.
    pub per_side: usize,
    /// Bytes in all; 0 keeps nothing.
    pub total: usize,
    /// How long messages are kept after the end.
    pub keep: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_side: 128 << 10, total: 64 << 20, keep: Duration::from_secs(3600) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    In,
    Out,
}

#[derive(Clone, Debug)]
pub struct Captured {
    pub at: Instant,
    pub way: Way,
    pub flow: Flow,
    pub bytes: Bytes,
}

/// One thing to look at, for lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// `None`: refused before it was a call.
    pub call: Option<CallId>,
    pub sip_call_id: String,
    pub began: Instant,
    pub messages: usize,
}

/// What a message costs beside its bytes.
const OVERHEAD: usize = 160;
/// Messages of the side of a plain call that has most of them: the caller's, who signs in.
const MESSAGES: usize = 10;
/// Longest Call-ID that is kept for.
const LONGEST_ID: usize = 256;

struct Log {
    id: Arc<str>,
    call: Option<CallId>,
    began: Instant,
    messages: VecDeque<Captured>,
    bytes: usize,
    ended: Option<Instant>,
}

pub struct Capture {
    limits: Limits,
    next: u64,
    ids: HashMap<Arc<str>, u64>,
    logs: HashMap<u64, Box<Log>, NumberHash>,
    /// The same, over or not, then by age: the first is the first to go.
    order: BTreeSet<(Life, u64)>,
    calls: HashMap<CallId, Vec<u64>, NumberHash>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Life {
    Over,
    Up,
}

impl Capture {
    pub fn new(limits: Limits) -> Self {
        Self { limits, next: 0, ids: HashMap::new(), logs: HashMap::default(), order: BTreeSet::new(), calls: HashMap::default(), bytes: 0 }
    }

    /// New limits; what is kept stays until the next message comes.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A message came or leaves.
    pub fn note(&mut self, now: Instant, way: Way, flow: Flow, bytes: &Bytes) {
        if self.limits.total == 0 {
            return;
        }
        let Some(id) = call_id(bytes) else { return };
        let known = self.ids.get(id).copied();
        // Only an INVITE begins one; what belongs to none is of no call.
        let number = match known {
            Some(number) => number,
            None if bytes.starts_with(b"INVITE ") && id.len() <= LONGEST_ID => self.begin(now, id),
            None => return,
        };
        let per_side = self.limits.per_side;
        let Some(log) = self.logs.get_mut(&number) else { return };
        let before = log.bytes;
        log.bytes += bytes.len() + OVERHEAD;
        // A message cut from a stream holds the whole buffer that it was cut from.
        let kept = if way == Way::In && flow.transport.is_reliable() { Bytes::copy_from_slice(bytes) } else { bytes.clone() };
        log.messages.push_back(Captured { at: now, way, flow, bytes: kept });
        while log.bytes > per_side
            && let Some(gone) = log.messages.pop_front()
        {
            log.bytes -= gone.bytes.len() + OVERHEAD;
        }
        self.bytes = self.bytes + log.bytes - before;
        while self.bytes > self.limits.total
            && let Some(key) = self.order.first().copied()
        {
            self.remove(key);
        }
    }

    /// This Call-ID is a side of that call.
    pub fn attach(&mut self, now: Instant, call: CallId, id: &str) {
        if self.limits.total == 0 || id.len() > LONGEST_ID {
            return;
        }
        let number = self.ids.get(id).copied().unwrap_or_else(|| self.begin(now, id));
        let numbers = self.calls.entry(call).or_default();
        if numbers.contains(&number) {
            return;
        }
        numbers.push(number);
        if let Some(log) = self.logs.get_mut(&number).filter(|log| log.ended.is_some()) {
            (log.call, log.ended) = (Some(call), None);
            self.order.remove(&(Life::Over, number));
            self.order.insert((Life::Up, number));
        }
    }

    /// The call is over: it is kept for a while, and is the first to go when room is needed.
    pub fn finish(&mut self, now: Instant, call: CallId) {
        for number in self.calls.get(&call).into_iter().flatten() {
            if let Some(log) = self.logs.get_mut(number).filter(|log| log.ended.is_none()) {
                log.ended = Some(now);
                self.order.remove(&(Life::Up, *number));
                self.order.insert((Life::Over, *number));
            }
        }
        self.expire(now);
    }

    /// The messages of a call in the order in which they came and left. `None`: nothing is kept of it.
    pub fn of_call(&mut self, now: Instant, call: CallId) -> Option<Vec<Captured>> {
        self.expire(now);
        let numbers = self.calls.get(&call)?.clone();
        let mut all: Vec<_> =
            numbers.into_iter().filter_map(|number| self.logs.get(&number)).flat_map(|log| log.messages.iter().cloned()).collect();
        all.sort_by_key(|message| message.at);
        Some(all)
    }

    /// The same by the Call-ID of one side.
    pub fn of_call_id(&mut self, now: Instant, id: &str) -> Option<Vec<Captured>> {
        self.expire(now);
        let number = self.ids.get(id)?;
        self.logs.get(number).map(|log| log.messages.iter().cloned().collect())
    }

    /// What there is to look at, the newest first.
    pub fn list(&mut self, now: Instant) -> Vec<Kept> {
        self.expire(now);
        let kept = |log: &Log| Kept { call: log.call, sip_call_id: log.id.to_string(), began: log.began, messages: log.messages.len() };
        let mut all: Vec<_> = self.logs.iter().map(|(number, log)| (*number, kept(log))).collect();
        all.sort_by_key(|(number, _)| std::cmp::Reverse(*number));
        all.into_iter().map(|(_, kept)| kept).collect()
    }

    fn begin(&mut self, now: Instant, id: &str) -> u64 {
        self.next += 1;
        let id: Arc<str> = id.into();
        let log = Log { id: id.clone(), call: None, began: now, messages: VecDeque::with_capacity(MESSAGES), bytes: 0, ended: Some(now) };
        self.ids.insert(id, self.next);
        self.logs.insert(self.next, Box::new(log));
        self.order.insert((Life::Over, self.next));
        self.next
    }

    /// Those that ended long ago go. They ended in about the order of their age, so that the first are looked at.
    fn expire(&mut self, now: Instant) {
        while let Some(key) = self.order.first().copied()
            && let Some(log) = self.logs.get(&key.1)
            && log.ended.is_some_and(|ended| now.saturating_duration_since(ended) > self.limits.keep)
        {
            self.remove(key);
        }
    }

    fn remove(&mut self, key: (Life, u64)) {
        self.order.remove(&key);
        let Some(log) = self.logs.remove(&key.1) else { return };
        self.bytes -= log.bytes;
        self.ids.remove(&log.id);
        if let Some(call) = log.call
            && let Some(numbers) = self.calls.get_mut(&call)
        {
            numbers.retain(|number| *number != key.1);
            if numbers.is_empty() {
                self.calls.remove(&call);
            }
        }
    }
}

/// The Call-ID, found without parsing the rest: this is asked of every message.
fn call_id(bytes: &[u8]) -> Option<&str> {
    let mut rest = bytes;
    while let Some(end) = memchr::memchr(b'\n', rest) {
        let line = rest.get(..end)?.trim_ascii_end();
        rest = rest.get(end + 1..)?;
        let value = match line {
            [b'C' | b'c', b'a' | b'A', b'l' | b'L', b'l' | b'L', b'-', b'I' | b'i', b'D' | b'd', value @ ..] => value,
            [b'i' | b'I', value @ ..] if value.trim_ascii_start().first() == Some(&b':') => value,
            _ => continue,
        };
        if let Some(value) = value.trim_ascii_start().strip_prefix(b":") {
            return std::str::from_utf8(value.trim_ascii()).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        Flow::udp("10.0.0.1:5060".parse().unwrap(), "10.0.0.5:5060".parse().unwrap())
    }

    fn message(method: &str, id: &str, fill: usize) -> Bytes {
        format!("{method} sip:a@b SIP/2.0\r\nVia: x\r\nCall-ID: {id}\r\n\r\n{}", "x".repeat(fill)).into()
    }

    fn first_lines(messages: Option<Vec<Captured>>) -> Vec<String> {
        let word = |message: &Captured| String::from_utf8_lossy(&message.bytes).split(' ').next().unwrap_or_default().to_owned();
        messages.unwrap_or_default().iter().map(word).collect()
    }

    #[test]
    fn call_ids_are_found_as_phones_write_them() {
        for (text, id) in [
            ("SIP/2.0 200 OK\r\ncall-id : a@b \r\n\r\n", Some("a@b")),
            ("BYE sip:i@x SIP/2.0\r\nIn-Reply-To: z\r\ni: short\r\n\r\n", Some("short")),
            ("BYE sip:x SIP/2.0\nCall-ID:bare\n\n", Some("bare")),
            ("no message", None),
        ] {
            assert_eq!(call_id(text.as_bytes()), id, "{text}");
        }
    }

    #[test]
    fn both_sides_of_a_call_are_one_story_and_other_messages_none() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut capture = Capture::new(Limits::default());
        for (secs, method, id) in
            [(0, "INVITE", "near"), (1, "REGISTER", "phone"), (2, "INVITE", "far"), (3, "ACK", "near"), (4, "BYE", "far")]
        {
            capture.note(at(secs), Way::In, flow(), &message(method, id, 0));
        }
        assert_eq!(first_lines(capture.of_call(at(4), CallId(1))), [""; 0]);
        capture.attach(at(4), CallId(1), "near");
        capture.attach(at(4), CallId(1), "far");
        capture.attach(at(4), CallId(1), "far");
        assert_eq!(first_lines(capture.of_call(at(4), CallId(1))), ["INVITE", "INVITE", "ACK", "BYE"]);
        assert_eq!(first_lines(capture.of_call_id(at(4), "far")), ["INVITE", "BYE"]);
        assert!(capture.of_call_id(at(4), "phone").is_none());
        capture.finish(at(5), CallId(1));
        assert!(capture.of_call(at(3605), CallId(1)).is_some());
        assert!(capture.of_call(at(3606), CallId(1)).is_none(), "kept for an hour");
        assert_eq!((capture.bytes, capture.ids.len(), capture.calls.len(), capture.logs.len(), capture.order.len()), (0, 0, 0, 0, 0));
    }

    #[test]
    fn memory_is_bounded_and_what_is_over_goes_first() {
        let now = Instant::now();
        let mut capture = Capture::new(Limits { per_side: 3_000, total: 10_000, keep: Duration::from_secs(60) });
        capture.note(now, Way::In, flow(), &message("INVITE", "up", 100));
        capture.attach(now, CallId(1), "up");
        for _ in 0..20 {
            capture.note(now, Way::Out, flow(), &message("INFO", "up", 100));
        }
        assert!((2_000..=3_000).contains(&capture.bytes), "{}", capture.bytes);
        // A flood of calls that come to nothing pushes out itself.
        for number in 0..1_000 {
            capture.note(now, Way::In, flow(), &message("INVITE", &format!("flood{number}"), 500));
            assert!(capture.bytes <= 10_000);
        }
        assert!(capture.of_call(now, CallId(1)).is_some());
        assert!(capture.of_call_id(now, "flood999").is_some() && capture.of_call_id(now, "flood0").is_none());
        assert_eq!(capture.list(now)[0].sip_call_id, "flood999");
        let mut off = Capture::new(Limits { total: 0, ..Limits::default() });
        off.note(now, Way::In, flow(), &message("INVITE", "x", 0));
        assert!(off.list(now).is_empty());
    }
}
