//! `calls ladder` and `calls pcap`: the SIP messages of a call as a drawing in the terminal, or as a file for Wireshark.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::{ServerArg, out::say, table};
use crate::api::messages::{CapturedCall, Messages, SipMessage};

#[derive(Subcommand)]
pub enum Look {
    Records(super::records::Records),
    Ladder(Ladder),
    Pcap(Pcap),
}

/// Draws the SIP messages of a call: who sent what to whom, and when. Without an ID: lists what can be drawn.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone calls ladder                      what is kept, refused calls too
  plugtone calls ladder 00000000000004d2     by the number of the call, as in `plugtone calls` and in events
  plugtone calls ladder 1-4711@192.168.40.7  by the Call-ID of one side
Passwords, keyed digits and keys of encrypted sound are shown as asterisks.")]
pub struct Ladder {
    /// Which call.
    id: Option<String>,
    /// Columns to draw in, 60 to 300; those of the terminal if not given.
    #[arg(long, env = "COLUMNS", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    width: u16,
    #[command(flatten)]
    server: ServerArg,
    /// Print JSON, with the messages whole.
    #[arg(long)]
    json: bool,
}

/// Writes the SIP messages of a call as a pcap file, for Wireshark and tshark.
#[derive(Args)]
#[command(after_help = "Examples:
  plugtone calls pcap 00000000000004d2 -o call.pcap
  tshark -r call.pcap")]
pub struct Pcap {
    /// Which call, as for `calls ladder`.
    id: String,
    /// The file to write.
    #[arg(long, short)]
    output: PathBuf,
    #[command(flatten)]
    server: ServerArg,
}

impl Look {
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Records(command) => command.run().await,
            Self::Ladder(command) => command.run().await,
            Self::Pcap(command) => command.run().await,
        }
    }
}

impl Ladder {
    async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client()?;
        let Some(id) = self.id else {
            let calls: Vec<CapturedCall> = client.get("/api/v1/calls/captured").await?;
            if self.json {
                return super::out::json(&calls);
            }
            let row = |call: &CapturedCall| {
                let CapturedCall { id, sip_call_id, began, from, to, messages, last_status } = call.clone();
                let status = last_status.map_or_else(String::new, |status| status.to_string());
                vec![began, id.unwrap_or_default(), from, to, status, messages.to_string(), sip_call_id]
            };
            let titles = ["BEGAN", "ID", "FROM", "TO", "STATUS", "MESSAGES", "CALL-ID"];
            table::print(&titles, &calls.iter().map(row).collect::<Vec<_>>(), "no call has left messages to look at");
            return Ok(());
        };
        let messages: Messages = client.get(&format!("/api/v1/calls/{}/messages", escaped(&id))).await?;
        if self.json {
            return super::out::json(&messages);
        }
        super::out::text(&draw(&messages.messages, usize::from(self.width.clamp(60, 300))));
        Ok(())
    }
}

impl Pcap {
    async fn run(self) -> anyhow::Result<()> {
        let client = self.server.client()?;
        let path = format!("/api/v1/calls/{}/pcap", escaped(&self.id));
        let file = client.send(hyper::Method::GET, &path, None::<&()>, None).await?;
        std::fs::write(&self.output, &file).with_context(|| format!("cannot write {}", self.output.display()))?;
        say!("{} bytes are in {}", file.len(), self.output.display());
        Ok(())
    }
}

/// For a path (RFC 3986 §2.3): a Call-ID may hold nearly anything.
pub(super) fn escaped(id: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~' | b'@');
    id.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Room for the time on the left.
const MARGIN: usize = 10;
/// Columns narrower than this show nothing.
const NARROWEST: usize = 14;

/// The server stands second, so that caller and callee are at its sides. Peers beyond what fits share the last column.
fn draw(messages: &[SipMessage], width: usize) -> String {
    let Some(first) = messages.first() else { return "no messages are kept of it\n".to_owned() };
    let most = ((width - MARGIN) / NARROWEST).max(2);
    let mut peers: Vec<&str> = Vec::new();
    for message in messages {
        if !peers.contains(&message.peer.as_str()) {
            peers.push(&message.peer);
        }
    }
    let shown = peers.len().min(most - 1);
    let step = (width - MARGIN) / (shown + 1);
    let at = |column: usize| MARGIN + step * column + step / 2;
    const SERVER: usize = 1;
    let column_of = |peer: &str| {
        let place = peers.iter().position(|one| *one == peer).unwrap_or(0).min(shown - 1);
        if place < SERVER { place } else { place + 1 }
    };
    let rails = || {
        let mut line = vec![' '; width];
        (0..=shown).for_each(|column| line[at(column)] = '│');
        line
    };
    let mut out = String::new();
    let mut push = |line: Vec<char>| {
        out.push_str(line.into_iter().collect::<String>().trim_end());
        out.push('\n');
    };
    let mut head = vec![' '; width];
    write_centred(&mut head, at(SERVER), step, "plugtone");
    for (place, peer) in peers.iter().enumerate().take(shown) {
        let more = peers.len() - shown;
        let name = if place + 1 == shown && more > 0 { format!("{peer} +{more}") } else { (*peer).to_owned() };
        write_centred(&mut head, at(column_of(peer)), step, &name);
    }
    push(head);
    push(rails());
    for message in messages {
        let mut line = rails();
        let time = format!("{:>8.3}", message.at_us.saturating_sub(first.at_us) as f64 / 1e6);
        line.splice(..time.len(), time.chars());
        let (peer, server) = (at(column_of(&message.peer)), at(SERVER));
        let (left, right) = (peer.min(server) + 1, peer.max(server) - 1);
        line[left..=right].fill('─');
        let to_right = (message.way == "in") == (peer < server);
        let (head, sign) = if to_right { (right, '>') } else { (left, '<') };
        line[head] = sign;
        write_centred(&mut line, (left + right) / 2, right - left - 2, &format!(" {} ", message.label()));
        push(line);
    }
    out
}

fn write_centred(line: &mut [char], middle: usize, room: usize, text: &str) {
    let mut text: Vec<char> = text.chars().collect();
    if text.len() > room {
        text.truncate(room.saturating_sub(1));
        text.push('…');
    }
    let from = middle.saturating_sub(text.len() / 2).min(line.len().saturating_sub(text.len()));
    line.iter_mut().skip(from).zip(text).for_each(|(cell, c)| *cell = c);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(at_ms: u64, way: &str, peer: &str, text: &str) -> SipMessage {
        SipMessage::of(at_ms * 1000, way, "udp", "10.0.0.1:5060", peer, text.replace('\n', "\r\n").as_bytes())
    }

    fn call() -> Vec<SipMessage> {
        let (ada, bo) = ("10.0.0.5:5060", "10.0.0.6:5060");
        let invite = "INVITE sip:2042@pbx SIP/2.0\nCSeq: 1 INVITE\nContent-Type: application/sdp\nContent-Length: 3\n\nv=0";
        vec![
            message(0, "in", ada, invite),
            message(1, "out", ada, "SIP/2.0 100 Trying\nCSeq: 1 INVITE\n\n"),
            message(2, "out", bo, invite),
            message(250, "in", bo, "SIP/2.0 180 Ringing\nCSeq: 1 INVITE\n\n"),
            message(9_000, "in", ada, "BYE sip:2042@pbx SIP/2.0\nCSeq: 2 BYE\n\n"),
            message(9_001, "out", ada, "SIP/2.0 200 OK\nCSeq: 2 BYE\n\n"),
        ]
    }

    #[test]
    fn a_call_is_drawn_between_its_phones() {
        let drawn = draw(&call(), 80);
        let expected = "
               10.0.0.5:5060            plugtone             10.0.0.6:5060
                     │                      │                      │
   0.000             │─── INVITE (SDP) ────>│                      │
   0.001             │<─── 100 Trying ──────│                      │
   0.002             │                      │─── INVITE (SDP) ────>│
   0.250             │                      │<─── 180 Ringing ─────│
   9.000             │──────── BYE ────────>│                      │
   9.001             │<── 200 OK (BYE) ─────│                      │
";
        assert_eq!(drawn, expected.trim_start_matches('\n'));
    }

    #[test]
    fn it_fits_whatever_the_terminal_and_however_many_phones() {
        let mut messages = call();
        for phone in 0..12 {
            messages.push(message(1, "out", &format!("[2001:db8:0:0:0:0:0:{phone}]:5060"), "CANCEL sip:a@b SIP/2.0\nCSeq: 1 CANCEL\n\n"));
        }
        for width in [60, 80, 120, 300] {
            let drawn = draw(&messages, width);
            assert_eq!(drawn.lines().count(), 2 + messages.len());
            assert!(drawn.lines().all(|line| line.chars().count() <= width), "{width}\n{drawn}");
            assert!(drawn.contains('…') || width > 120, "{drawn}");
        }
        assert_eq!(draw(&[], 80), "no messages are kept of it\n");
    }

    #[test]
    fn a_call_id_of_any_kind_fits_into_a_path() {
        assert_eq!(escaped("1-2@10.0.0.1"), "1-2@10.0.0.1");
        assert_eq!(escaped("a/b?c%d"), "a%2Fb%3Fc%25d");
    }
}
