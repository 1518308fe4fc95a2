//! A line of the control connection becomes a command once, here (RFC 959 §4.1, RFC 2428, RFC 3659). Pure.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use crate::model::Secret;

/// Longer lines are nobody's file name.
pub const MAX_LINE: usize = 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    User(String),
    Pass(Secret),
    Quit,
    Noop,
    Syst,
    Feat,
    Help,
    Stat,
    OptsUtf8,
    /// `A`: lines end with CR LF on the wire. `I` and `L 8`: bytes as they are.
    Type {
        ascii: bool,
    },
    /// `MODE S` and `STRU F`, which say what is the case anyway.
    AsIs,
    Allo,
    Pwd,
    Cwd(String),
    Cdup,
    Pasv,
    Epsv,
    /// From now on EPSV only (RFC 2428 §4).
    EpsvAll,
    /// PORT or EPRT.
    Port(SocketAddr),
    Rest(u64),
    Retr(String),
    Stor(String),
    Size(String),
    Mdtm(String),
    /// LIST, NLST, MLSD.
    List,
    Abor,
    /// What would change files other than by STOR.
    Forbidden,
    /// Known, but not with these arguments.
    BadArgument,
    Unknown,
}

impl Command {
    /// Reads a line without its CR LF.
    pub fn parse(line: &[u8]) -> Self {
        // Telnet signals come before ABOR (RFC 959 §4.1.3): IAC IP IAC DM.
        let line = line.iter().position(|byte| byte.is_ascii_alphabetic()).and_then(|start| line.get(start..)).unwrap_or_default();
        let text = String::from_utf8_lossy(line);
        let (verb, argument) = text.split_once(' ').unwrap_or((&text, ""));
        let name = || if argument.is_empty() { None } else { Some(argument.to_owned()) };
        let words = || argument.split_whitespace();
        let command = match verb.trim_end().to_ascii_uppercase().as_str() {
            "USER" => name().map(Self::User),
            "PASS" => Some(Self::Pass(Secret::new(argument))),
            "QUIT" => Some(Self::Quit),
            "NOOP" => Some(Self::Noop),
            "SYST" => Some(Self::Syst),
            "FEAT" => Some(Self::Feat),
            "HELP" => Some(Self::Help),
            "STAT" => Some(Self::Stat),
            "OPTS" => words().next().filter(|word| word.eq_ignore_ascii_case("utf8")).map(|_| Self::OptsUtf8),
            "TYPE" => transfer_type(argument),
            "MODE" => argument.trim().eq_ignore_ascii_case("s").then_some(Self::AsIs),
            "STRU" => argument.trim().eq_ignore_ascii_case("f").then_some(Self::AsIs),
            "ALLO" | "ACCT" => Some(Self::Allo),
            "PWD" | "XPWD" => Some(Self::Pwd),
            "CWD" | "XCWD" => name().map(Self::Cwd),
            "CDUP" | "XCUP" => Some(Self::Cdup),
            "PASV" => Some(Self::Pasv),
            "EPSV" if argument.trim().eq_ignore_ascii_case("all") => Some(Self::EpsvAll),
            "EPSV" => Some(Self::Epsv),
            "PORT" => port(argument).map(Self::Port),
            "EPRT" => extended_port(argument).map(Self::Port),
            "REST" => argument.trim().parse().ok().map(Self::Rest),
            "RETR" => name().map(Self::Retr),
            "STOR" => name().map(Self::Stor),
            "SIZE" => name().map(Self::Size),
            "MDTM" => name().map(Self::Mdtm),
            "LIST" | "NLST" | "MLSD" => Some(Self::List),
            "ABOR" => Some(Self::Abor),
            "APPE" | "STOU" | "DELE" | "RNFR" | "RNTO" | "MKD" | "XMKD" | "RMD" | "XRMD" | "SITE" | "SMNT" | "MFMT" => {
                Some(Self::Forbidden)
            }
            _ => Some(Self::Unknown),
        };
        command.unwrap_or(Self::BadArgument)
    }
}

fn transfer_type(argument: &str) -> Option<Command> {
    let mut words = argument.split_whitespace().map(str::to_ascii_uppercase);
    match (words.next()?.as_str(), words.next().as_deref()) {
        ("A", None | Some("N")) => Some(Command::Type { ascii: true }),
        ("I", None) | ("L", Some("8")) => Some(Command::Type { ascii: false }),
        _ => None,
    }
}

/// `h1,h2,h3,h4,p1,p2` (RFC 959 §5.3.2).
fn port(argument: &str) -> Option<SocketAddr> {
    let numbers: Vec<u8> = argument.trim().split(',').map(|number| number.parse().ok()).collect::<Option<_>>()?;
    let [h1, h2, h3, h4, p1, p2] = *numbers.as_slice() else { return None };
    Some(SocketAddr::from((Ipv4Addr::new(h1, h2, h3, h4), u16::from_be_bytes([p1, p2]))))
}

/// `|1|132.235.1.2|6275|` or `|2|1080::8:800:200C:417A|5282|` (RFC 2428 §2).
fn extended_port(argument: &str) -> Option<SocketAddr> {
    let argument = argument.trim();
    let delimiter = argument.chars().next().filter(char::is_ascii_punctuation)?;
    let mut fields = argument.split(delimiter).skip(1);
    let family = fields.next()?;
    let address: IpAddr = fields.next()?.parse().ok()?;
    let port = fields.next()?.parse().ok()?;
    matches!((family, address), ("1", IpAddr::V4(_)) | ("2", IpAddr::V6(_))).then(|| SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_what_they_mean() {
        let at = |text: &str| Command::Port(text.parse().expect("address"));
        for (line, command) in [
            ("USER PlcmSpIp", Command::User("PlcmSpIp".into())),
            ("user x y", Command::User("x y".into())),
            ("USER", Command::BadArgument),
            ("PASS", Command::Pass(Secret::new(""))),
            ("PASS  a ", Command::Pass(Secret::new(" a "))),
            ("TYPE I", Command::Type { ascii: false }),
            ("TYPE L 8", Command::Type { ascii: false }),
            ("type a n", Command::Type { ascii: true }),
            ("TYPE E", Command::BadArgument),
            ("MODE B", Command::BadArgument),
            ("PORT 192,0,2,1,4,1", at("192.0.2.1:1025")),
            ("PORT 192,0,2,1,4", Command::BadArgument),
            ("PORT 192,0,2,256,4,1", Command::BadArgument),
            ("PORT 192,x,0,2,1,4,1", Command::BadArgument),
            ("EPRT |1|132.235.1.2|6275|", at("132.235.1.2:6275")),
            ("EPRT |2|1080::8:800:200C:417A|5282|", at("[1080::8:800:200c:417a]:5282")),
            ("EPRT |2|132.235.1.2|6275|", Command::BadArgument),
            ("EPRT ", Command::BadArgument),
            ("EPSV", Command::Epsv),
            ("EPSV ALL", Command::EpsvAll),
            ("RETR a b.cfg", Command::Retr("a b.cfg".into())),
            ("DELE x", Command::Forbidden),
            ("AUTH TLS", Command::Unknown),
            ("", Command::Unknown),
        ] {
            assert_eq!(Command::parse(line.as_bytes()), command, "{line:?}");
        }
        assert_eq!(Command::parse(b"\xff\xf4\xff\xf2ABOR"), Command::Abor);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = Command::parse(&bytes);
        }
    }
}
