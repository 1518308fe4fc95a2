//! Makes bad messages of good ones: the same seed makes the same ones.

/// SplitMix64: small, and good enough to choose what to break.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 0 to `bound` - 1; 0 if there is nothing to choose.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// What numbers are replaced with: ends of ranges, and what is none.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1",
    "00",
    "255",
    "256",
    "65535",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "1e9",
    "0x10",
    "",
];
/// What is put in anywhere.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\r\n ",
    b"\n",
    b"\0",
    b"\"",
    b"\\",
    b"<",
    b">",
    b";",
    b",",
    b":",
    b"@",
    b"%",
    b"%00",
    b"[",
    b"]",
    b"=",
    b"?",
    b" ",
    b"\t",
    b"sip:",
    b"sips:",
    b"tel:",
    b";tag=",
    b";lr",
    b"z9hG4bK",
    b"SIP/2.0",
    b"\xff\xfe",
    "\u{1f4a9}".as_bytes(),
    b"Digest ",
    b"m=audio ",
    b"c=IN IP4 ",
    b"a=rtpmap:",
    b"Replaces: x;to-tag=a;from-tag=b\r\n",
    b"Require: x\r\n",
    b"Contact: *\r\n",
    b"Expires: 0\r\n",
    b"Content-Length: 9999999999\r\n",
];
const LONGEST: usize = 60_000;

/// One to four things of `message` go wrong; `other` is what is mixed in.
pub fn mutate(random: &mut Random, message: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    for _ in 0..=random.below(4) {
        once(random, &mut bytes, other);
        bytes.truncate(LONGEST);
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
    bytes
}

fn once(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len());
    let len = random.below(32).min(bytes.len() - at);
    match random.below(15) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => {
            let piece = *random.of(PIECES);
            bytes.splice(at..at, piece.iter().copied());
        }
        3 => {
            let piece = *random.of(PIECES);
            bytes.splice(at..at + len, piece.iter().copied());
        }
        4 => drop(bytes.drain(at..at + len)),
        5 => {
            let copy = bytes[at..at + len].to_vec();
            let times = 1 + random.below(64);
            bytes.splice(at..at, copy.repeat(times));
        }
        6 => bytes.truncate(at),
        7 => {
            let from = random.below(other.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other[from..]);
        }
        8 => {
            let from = random.below(other.len());
            let to = from + random.below(other.len() - from + 1);
            bytes.splice(at..at, other[from..to].iter().copied());
        }
        9 | 10 => number(random, bytes, at),
        _ => lines(random, bytes),
    }
}

/// The number at or after a place becomes another.
fn number(random: &mut Random, bytes: &mut Vec<u8>, at: usize) {
    let Some(first) = bytes[at..].iter().position(u8::is_ascii_digit).map(|n| at + n) else { return };
    let end = bytes[first..].iter().position(|b| !b.is_ascii_digit()).map_or(bytes.len(), |n| first + n);
    let number = random.of(NUMBERS).bytes();
    bytes.splice(first..end, number);
}

/// A line is lost, comes twice, changes places, is emptied, or goes on for very long.
fn lines(random: &mut Random, bytes: &mut Vec<u8>) {
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let (one, other) = (random.below(lines.len()), random.below(lines.len()));
    match random.below(6) {
        0 => drop(lines.remove(one)),
        1 => {
            let line = lines[one].clone();
            lines.insert(other, line);
        }
        2 => lines.swap(one, other),
        3 => {
            if let Some(colon) = lines[one].iter().position(|b| *b == b':') {
                lines[one].truncate(colon + 1);
                lines[one].extend_from_slice(b"\r\n");
            }
        }
        4 => {
            if let Some(colon) = lines[one].iter().position(|b| *b == b':') {
                let long = random.of(PIECES).repeat(1 + random.below(1000));
                lines[one].splice(colon + 1..colon + 1, long);
            }
        }
        _ => lines[one].make_ascii_lowercase(),
    }
    *bytes = lines.concat();
}
