//! One control connection: who has logged in, where they stand, what a command leads to. Sans-I/O.
//!
//! ```text
//!  WantUser ─ USER ─► WantPassword ─ PASS right ─► LoggedIn
//!      ▲                   │ wrong: 530 after a pause; the third time 421 and closed
//!      └───────────────────┘
//! ```
//! Driven with [`Session::handle`]; the [`Step`] says what the socket does. The folder is a fiction: any may be entered,
//! none leads out.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::command::{Command, MAX_LINE};
use crate::model::Secret;

/// After a wrong password, so that guessing is slow.
const PENALTY: Duration = Duration::from_secs(1);
const MAX_FAILURES: u32 = 3;
/// Below are servers, not clients that wait for a file (RFC 2577 §3).
const LEAST_CLIENT_PORT: u16 = 1024;

/// What the socket has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Reply(&'static str),
    /// With text that depends.
    Say(String),
    /// Wait first: a wrong password.
    SlowReply(Duration, &'static str),
    Close(&'static str),
    /// Listen for the data connection and say where. `extended`: EPSV's form.
    Listen {
        extended: bool,
    },
    /// Connect to the client for data when it comes to it.
    Active(SocketAddr),
    Retrieve {
        path: String,
        offset: u64,
        ascii: bool,
    },
    Store {
        path: String,
        ascii: bool,
    },
    Size {
        path: String,
    },
    ModifiedAt {
        path: String,
    },
    List,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    WantUser,
    WantPassword { user: String },
    LoggedIn,
}

pub struct Session {
    user: String,
    password: Secret,
    peer: IpAddr,
    state: State,
    failures: u32,
    /// With a leading slash, without a trailing one; empty for the root.
    folder: String,
    ascii: bool,
    /// From REST, for the very next RETR.
    offset: u64,
    extended_only: bool,
}

impl Session {
    pub fn new(user: &str, password: &Secret, peer: IpAddr) -> Self {
        Self {
            user: user.to_owned(),
            password: password.clone(),
            peer: peer.to_canonical(),
            state: State::WantUser,
            failures: 0,
            folder: String::new(),
            ascii: true,
            offset: 0,
            extended_only: false,
        }
    }

    pub fn is_logged_in(&self) -> bool {
        self.state == State::LoggedIn
    }

    /// Takes one command; what it leads to.
    pub fn handle(&mut self, command: Command) -> Step {
        // REST holds for the command after it only (RFC 3659 §5.3); SIZE and the data port may come between.
        let between = matches!(
            command,
            Command::Pasv | Command::Epsv | Command::Port(_) | Command::Size(_) | Command::Mdtm(_) | Command::Type { .. } | Command::Noop
        );
        let offset = if between { 0 } else { std::mem::take(&mut self.offset) };
        match command {
            Command::User(name) => {
                self.state = State::WantPassword { user: name };
                Step::Reply("331 Password, please")
            }
            Command::Pass(password) => self.log_in(&password),
            Command::Quit => Step::Close("221 Goodbye"),
            Command::Noop => Step::Reply("200 OK"),
            Command::Syst => Step::Reply("215 UNIX Type: L8"),
            Command::Feat => Step::Reply("211-Features:\r\n EPRT\r\n EPSV\r\n MDTM\r\n PASV\r\n REST STREAM\r\n SIZE\r\n UTF8\r\n211 End"),
            Command::Help => Step::Reply("214 Files for telephones: USER PASS TYPE PASV EPSV PORT EPRT RETR STOR SIZE MDTM REST QUIT"),
            Command::OptsUtf8 => Step::Reply("200 Names are UTF-8"),
            Command::Unknown => Step::Reply("502 Not implemented"),
            Command::BadArgument => Step::Reply("501 Not with this argument"),
            _ if !self.is_logged_in() => Step::Reply("530 Log in first"),
            command => self.handle_logged_in(command, offset),
        }
    }

    fn log_in(&mut self, password: &Secret) -> Step {
        let State::WantPassword { user } = std::mem::replace(&mut self.state, State::WantUser) else {
            return Step::Reply("503 USER comes first");
        };
        // Both are compared in any case: which of them was wrong is not to be told by time either.
        let right_password = *password == self.password;
        if (user == self.user) & right_password {
            self.state = State::LoggedIn;
            return Step::Reply("230 Logged in");
        }
        self.failures += 1;
        if self.failures >= MAX_FAILURES {
            return Step::Close("421 Too many wrong passwords");
        }
        Step::SlowReply(PENALTY, "530 Wrong user or password")
    }

    fn handle_logged_in(&mut self, command: Command, offset: u64) -> Step {
        match command {
            Command::Type { ascii } => {
                self.ascii = ascii;
                Step::Reply(if ascii { "200 Type A" } else { "200 Type I" })
            }
            Command::AsIs => Step::Reply("200 OK"),
            Command::Allo => Step::Reply("202 Not needed"),
            Command::Stat => Step::Reply("211 All is well"),
            Command::Pwd => Step::Say(format!("257 \"{}\"", self.shown_folder().replace('"', "\"\""))),
            Command::Cwd(folder) => self.enter(&folder),
            Command::Cdup => self.enter(".."),
            Command::Pasv if !self.extended_only => Step::Listen { extended: false },
            Command::Epsv => Step::Listen { extended: true },
            Command::EpsvAll => {
                self.extended_only = true;
                Step::Reply("200 EPSV only, then")
            }
            Command::Port(at) if !self.extended_only => self.active(at),
            Command::Pasv | Command::Port(_) => Step::Reply("501 You said EPSV ALL"),
            Command::Rest(offset) => {
                self.offset = offset;
                Step::Say(format!("350 From byte {offset}"))
            }
            // A byte offset into text whose line ends change has no meaning that both sides share.
            Command::Retr(_) if offset > 0 && self.ascii => Step::Reply("550 REST needs TYPE I"),
            Command::Retr(name) => Step::Retrieve { path: self.resolve(&name), offset, ascii: self.ascii },
            Command::Stor(_) if offset > 0 => Step::Reply("550 Uploads begin at the beginning"),
            Command::Stor(name) => Step::Store { path: self.resolve(&name), ascii: self.ascii },
            // RFC 3659 §4: the size is that of the transfer, which in TYPE A depends on line ends.
            Command::Size(_) if self.ascii => Step::Reply("550 SIZE needs TYPE I"),
            Command::Size(name) => Step::Size { path: self.resolve(&name) },
            Command::Mdtm(name) => Step::ModifiedAt { path: self.resolve(&name) },
            Command::List => Step::List,
            Command::Abor => Step::Reply("226 Nothing to abort"),
            _ => Step::Reply("550 Not allowed"),
        }
    }

    /// Only to the client itself: a server that connects elsewhere on request is a port scanner for strangers (RFC 2577).
    fn active(&self, at: SocketAddr) -> Step {
        if at.ip().to_canonical() != self.peer || at.port() < LEAST_CLIENT_PORT {
            return Step::Reply("504 Only to your own address, port 1024 or above");
        }
        Step::Active(at)
    }

    fn enter(&mut self, folder: &str) -> Step {
        let mut parts = Vec::new();
        let path = self.resolve(folder);
        for part in path.split(['/', '\\']) {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let entered: String = parts.iter().flat_map(|part| ["/", part]).collect();
        if entered.len() > MAX_LINE || entered.chars().any(char::is_control) {
            return Step::Reply("550 No such folder");
        }
        self.folder = entered;
        Step::Reply("250 OK")
    }

    fn shown_folder(&self) -> &str {
        if self.folder.is_empty() { "/" } else { &self.folder }
    }

    /// The name as from the root. `..` stays: the pipeline refuses it, and tells.
    fn resolve(&self, name: &str) -> String {
        if name.starts_with(['/', '\\']) { name.to_owned() } else { format!("{}/{name}", self.folder) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::new("PlcmSpIp", &Secret::new("PlcmSpIp"), IpAddr::from([192, 0, 2, 7]))
    }

    fn logged_in() -> Session {
        let mut session = session();
        session.handle(Command::parse(b"USER PlcmSpIp"));
        assert_eq!(session.handle(Command::parse(b"PASS PlcmSpIp")), Step::Reply("230 Logged in"));
        session
    }

    #[test]
    fn logging_in() {
        let mut s = session();
        assert_eq!(s.handle(Command::parse(b"RETR x")), Step::Reply("530 Log in first"));
        assert_eq!(s.handle(Command::parse(b"PASV")), Step::Reply("530 Log in first"));
        assert_eq!(s.handle(Command::parse(b"PORT 192,0,2,7,4,1")), Step::Reply("530 Log in first"));
        assert_eq!(s.handle(Command::parse(b"PASS PlcmSpIp")), Step::Reply("503 USER comes first"));
        for (user, password) in [("PlcmSpIp", "plcmspip"), ("root", "PlcmSpIp")] {
            s.handle(Command::User(user.into()));
            let wrong = s.handle(Command::Pass(Secret::new(password)));
            assert!(matches!(wrong, Step::SlowReply(_, "530 Wrong user or password")), "{user}: {wrong:?}");
        }
        s.handle(Command::User("PlcmSpIp".into()));
        assert!(matches!(s.handle(Command::Pass(Secret::new(""))), Step::Close(_)));
    }

    #[test]
    fn only_the_clients_own_address_is_connected_to() {
        let mut s = logged_in();
        let own = "192.0.2.7:1025".parse().expect("address");
        assert_eq!(s.handle(Command::parse(b"PORT 192,0,2,7,4,1")), Step::Active(own));
        assert_eq!(s.handle(Command::parse(b"EPRT |1|192.0.2.7|1025|")), Step::Active(own));
        for bounce in ["PORT 192,0,2,8,4,1", "PORT 127,0,0,1,4,1", "PORT 192,0,2,7,0,25", "EPRT |1|10.0.0.1|2000|", "EPRT |2|::1|2000|"] {
            let refused = Step::Reply("504 Only to your own address, port 1024 or above");
            assert_eq!(s.handle(Command::parse(bounce.as_bytes())), refused, "{bounce}");
        }
        s.handle(Command::EpsvAll);
        assert_eq!(s.handle(Command::parse(b"PASV")), Step::Reply("501 You said EPSV ALL"));
        assert_eq!(s.handle(Command::parse(b"EPSV")), Step::Listen { extended: true });
    }

    #[test]
    fn folders_are_a_fiction_that_nothing_leads_out_of() {
        let mut s = logged_in();
        let retr = |s: &mut Session, name: &str| match s.handle(Command::Retr(name.into())) {
            Step::Retrieve { path, .. } => path,
            other => panic!("{other:?}"),
        };
        assert_eq!(retr(&mut s, "a.cfg"), "/a.cfg");
        s.handle(Command::Cwd("one/two".into()));
        assert_eq!(s.handle(Command::Pwd), Step::Say("257 \"/one/two\"".into()));
        assert_eq!(retr(&mut s, "a.cfg"), "/one/two/a.cfg");
        assert_eq!(retr(&mut s, "/b.cfg"), "/b.cfg");
        assert_eq!(retr(&mut s, "../../../etc/passwd"), "/one/two/../../../etc/passwd");
        s.handle(Command::Cwd("../../../..".into()));
        assert_eq!(s.handle(Command::Pwd), Step::Say("257 \"/\"".into()));
        s.handle(Command::Cdup);
        assert_eq!(retr(&mut s, "a.cfg"), "/a.cfg");
        for _ in 0..50 {
            s.handle(Command::Cwd("x".repeat(100)));
        }
        assert!(s.folder.len() <= MAX_LINE);
    }

    #[test]
    fn an_offset_is_for_the_next_download_only() {
        let mut s = logged_in();
        s.handle(Command::parse(b"TYPE I"));
        s.handle(Command::parse(b"REST 100"));
        s.handle(Command::parse(b"EPSV"));
        assert!(matches!(s.handle(Command::parse(b"RETR x")), Step::Retrieve { offset: 100, ascii: false, .. }));
        assert!(matches!(s.handle(Command::parse(b"RETR x")), Step::Retrieve { offset: 0, .. }));
        s.handle(Command::parse(b"REST 100"));
        assert_eq!(s.handle(Command::parse(b"STOR x")), Step::Reply("550 Uploads begin at the beginning"));
    }
}
