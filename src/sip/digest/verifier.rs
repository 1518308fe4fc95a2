//! Challenges requests and checks the answers.
//!
//! A nonce is its own proof: number and time under a keyed MAC, so that challenges cost no memory and one that we never made
//! is told at sight. Only nonces in use are remembered, for their counts: each `nc` counts once. The table is bounded; what
//! is pushed out becomes stale, never replayable. An unknown user costs what a known one costs and gets the same answer.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use crate::sip::{
    build::Response,
    header::{Auth, quote, unquote},
    message::Message,
    name::Name,
    uri::Uri,
};

use super::{Account, Accounts, Algorithm, Proof};

#[derive(Clone, Debug)]
pub struct Config {
    pub realm: String,
    /// Offered in this order. MD5 alone unless told otherwise: phones that know one only take the first that they see, or
    /// give up at the sight of another (baresip 1.0). With secrets of 144 random bits its weakness gives nothing away.
    pub algorithms: Vec<Algorithm>,
    /// How long a nonce may be used.
    pub nonce_life: Duration,
    /// Most nonces whose counts are remembered.
    pub max_nonces: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { realm: "plugtone".into(), algorithms: vec![Algorithm::Md5], nonce_life: Duration::from_secs(300), max_nonces: 100_000 }
    }
}

/// Why a request was not let in. All are answered by a challenge, and look alike from outside but for `stale`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no credentials for this realm")]
    Missing,
    #[error("a nonce that has expired, or that this server did not make")]
    Stale,
    #[error("a nonce count that was used before")]
    Replayed,
    #[error("credentials for another URI than the request's")]
    OtherUri,
    #[error("wrong user name or password of '{user}'")]
    Wrong { user: String },
}

/// What the credentials say, each parameter without its quotes. Nothing of it is checked.
#[derive(Default)]
pub struct Claims<'a> {
    username: Option<Cow<'a, str>>,
    nonce: Option<Cow<'a, str>>,
    uri: Option<Cow<'a, str>>,
    response: Option<Cow<'a, str>>,
    algorithm: Option<Cow<'a, str>>,
    qop: Option<Cow<'a, str>>,
    nc: Option<Cow<'a, str>>,
    cnonce: Option<Cow<'a, str>>,
}

impl<'a> Claims<'a> {
    /// In one pass: the header is read for every request. `None`: of another realm. The first of each name counts.
    fn of(auth: &Auth<'a>, realm: &str) -> Option<Self> {
        let mut claims = Self::default();
        let mut ours = None;
        for (name, value) in auth.iter() {
            let place = match name.len() {
                2 if name.eq_ignore_ascii_case("nc") => &mut claims.nc,
                3 if name.eq_ignore_ascii_case("uri") => &mut claims.uri,
                3 if name.eq_ignore_ascii_case("qop") => &mut claims.qop,
                5 if name.eq_ignore_ascii_case("nonce") => &mut claims.nonce,
                5 if name.eq_ignore_ascii_case("realm") => {
                    ours = ours.or(Some(unquote(value) == realm));
                    continue;
                }
                6 if name.eq_ignore_ascii_case("cnonce") => &mut claims.cnonce,
                8 if name.eq_ignore_ascii_case("username") => &mut claims.username,
                8 if name.eq_ignore_ascii_case("response") => &mut claims.response,
                9 if name.eq_ignore_ascii_case("algorithm") => &mut claims.algorithm,
                _ => continue,
            };
            if place.is_none() {
                *place = Some(unquote(value));
            }
        }
        (ours == Some(true)).then_some(claims)
    }

    /// Who they say it is.
    pub fn user(&self) -> Option<&str> {
        self.username.as_deref()
    }
}

/// What a nonce in use has seen: the highest count, and which of the 64 up to it.
struct Counts {
    highest: u32,
    seen: u64,
}

impl Counts {
    /// Notes a count; false if it was there before or is too old to tell.
    fn take(&mut self, nc: u32) -> bool {
        if nc > self.highest {
            let ahead = nc - self.highest;
            self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = nc;
            return true;
        }
        let behind = self.highest - nc;
        let bit = 1u64.checked_shl(behind).unwrap_or(0);
        let fresh = bit != 0 && self.seen & bit == 0;
        self.seen |= bit;
        fresh
    }
}

pub struct Verifier {
    config: Config,
    key: [u8; 32],
    /// Stands in for the secret of users that do not exist.
    decoy: String,
    epoch: Instant,
    next: u64,
    /// By number, which is also the order in which they were made.
    used: BTreeMap<u64, Counts>,
    /// Numbers up to here are stale: they were pushed out of `used`.
    floor: u64,
}

/// number (8), milliseconds since the epoch (8), MAC (16)
const NONCE_LEN: usize = 32;

impl Verifier {
    /// `key`: unguessable, of this process alone.
    pub fn new(config: Config, key: [u8; 32], now: Instant) -> Self {
        let decoy = blake3::keyed_hash(&key, b"decoy").to_hex().as_str().chars().take(24).collect();
        Self { config, key, decoy, epoch: now, next: 0, used: BTreeMap::new(), floor: 0 }
    }

    /// Whose request it is.
    pub fn verify(&mut self, now: Instant, request: &Message, accounts: &dyn Accounts) -> Result<Account, Refusal> {
        self.verify_claims(now, request, self.claims(request).as_ref(), accounts)
    }

    /// The same for who has looked at the claims of the request before.
    pub fn verify_claims(
        &mut self,
        now: Instant,
        request: &Message,
        claims: Option<&Claims<'_>>,
        accounts: &dyn Accounts,
    ) -> Result<Account, Refusal> {
        let Claims { username, nonce, uri, response, algorithm, qop, nc, cnonce } = claims.ok_or(Refusal::Missing)?;
        let algorithm = Algorithm::of(algorithm.as_deref()).ok_or(Refusal::Missing)?;
        if !self.config.algorithms.contains(&algorithm) {
            return Err(Refusal::Missing);
        }
        let all = (username, nonce, uri, response);
        let (Some(user), Some(nonce), Some(uri), Some(response)) = all else { return Err(Refusal::Missing) };
        let number = self.open_nonce(now, nonce).ok_or(Refusal::Stale)?;
        if !is_for(uri, request) {
            return Err(Refusal::OtherUri);
        }
        let qop = match (qop.as_deref(), nc, cnonce) {
            (None, ..) => None,
            (Some(qop), Some(nc), Some(cnonce)) if qop.eq_ignore_ascii_case("auth") => Some((nc.as_ref(), cnonce.as_ref())),
            _ => return Err(Refusal::Missing),
        };
        // Known or not: one hash with some secret, one comparison.
        let account = accounts.account(user);
        let expected = Proof {
            algorithm,
            username: user,
            realm: &self.config.realm,
            secret: account.as_ref().map_or(self.decoy.as_str(), |account| account.secret.expose()),
            method: request.method().map_or("", |method| method.as_str()),
            uri,
            nonce,
            qop,
        }
        .response();
        let matches: bool = expected.as_bytes().ct_eq(response.to_ascii_lowercase().as_bytes()).into();
        let Some(account) = account.filter(|_| matches) else {
            return Err(Refusal::Wrong { user: user.chars().take(64).collect() });
        };
        // Without qop there is no count: such a nonce is good for one request.
        let count = match qop {
            Some((nc, _)) => u32::from_str_radix(nc, 16).map_err(|_| Refusal::Missing)?,
            None => 1,
        };
        if self.take(number, count) { Ok(account) } else { Err(Refusal::Replayed) }
    }

    /// The digest credentials for our realm: a request may carry several (RFC 3261 §22.3).
    pub fn claims<'a>(&self, request: &'a Message) -> Option<Claims<'a>> {
        let mut digests = request.auths(Name::Authorization).filter(Auth::is_digest);
        digests.find_map(|auth| Claims::of(&auth, &self.config.realm))
    }

    /// The 401 that goes with a refusal.
    pub fn challenge(&mut self, now: Instant, request: &Message, refusal: &Refusal) -> Response {
        // What was only too old is stale: the phone then tries again without bothering its user.
        let stale = if matches!(refusal, Refusal::Stale | Refusal::Replayed) { ", stale=true" } else { "" };
        let nonce = self.make_nonce(now);
        let realm = quote(&self.config.realm);
        self.config.algorithms.iter().fold(Response::to(request, 401), |response, algorithm| {
            let value = format_args!("Digest realm={realm}, nonce=\"{nonce}\", algorithm={algorithm}, qop=\"auth\"{stale}");
            response.header(Name::WwwAuthenticate, value)
        })
    }

    /// Nonces whose counts are remembered.
    pub fn nonces_in_use(&self) -> usize {
        self.used.len()
    }

    fn make_nonce(&mut self, now: Instant) -> String {
        self.next += 1;
        let mut nonce = [0u8; NONCE_LEN];
        let millis = now.saturating_duration_since(self.epoch).as_millis() as u64;
        let head = [self.next.to_be_bytes(), millis.to_be_bytes()].concat();
        let mac = blake3::keyed_hash(&self.key, &head);
        for (to, from) in nonce.iter_mut().zip(head.iter().chain(mac.as_bytes())) {
            *to = *from;
        }
        URL_SAFE_NO_PAD.encode(nonce)
    }

    /// The nonce's number, if we made it and it may still be used.
    fn open_nonce(&self, now: Instant, nonce: &str) -> Option<u64> {
        let mut bytes = [0u8; NONCE_LEN + 2];
        let len = URL_SAFE_NO_PAD.decode_slice(nonce, &mut bytes).ok()?;
        let (head, mac) = bytes.get(..len)?.split_at_checked(16)?;
        let expected = blake3::keyed_hash(&self.key, head);
        let genuine: bool = expected.as_bytes().get(..16)?.ct_eq(mac).into();
        if !genuine {
            return None;
        }
        let (number, millis) = head.split_at_checked(8)?;
        let number = u64::from_be_bytes(number.try_into().ok()?);
        let made = self.epoch + Duration::from_millis(u64::from_be_bytes(millis.try_into().ok()?));
        (number > self.floor && now.saturating_duration_since(made) <= self.config.nonce_life).then_some(number)
    }

    fn take(&mut self, number: u64, count: u32) -> bool {
        let fresh = self.used.entry(number).or_insert(Counts { highest: 0, seen: 0 }).take(count);
        while self.used.len() > self.config.max_nonces {
            if let Some((oldest, _)) = self.used.pop_first() {
                self.floor = self.floor.max(oldest);
            }
        }
        fresh
    }
}

/// Whether credentials made for `uri` were made for this request. Phones leave ports and parameters out of the one or the other.
fn is_for(uri: &str, request: &Message) -> bool {
    if uri.as_bytes() == request.raw_uri() {
        return true;
    }
    match (Uri::parse(uri), request.uri()) {
        (Ok(a), Ok(b)) => a.scheme == b.scheme && a.user() == b.user() && a.host().eq_ignore_ascii_case(b.host()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{MacAddr, Secret},
        sip::digest::{Credentials, Login, login::LoginError},
    };

    struct One;

    impl Accounts for One {
        fn account(&self, auth_user: &str) -> Option<Account> {
            (auth_user == "001565aabbcc-1").then(|| Account {
                user: "2041".into(),
                mac: MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]),
                line: 1,
                generation: 2,
                provisional: false,
                display_name: "Ada".into(),
                secret: Secret::new("opensesame"),
            })
        }
    }

    struct Bed {
        now: Instant,
        verifier: Verifier,
    }

    impl Bed {
        fn new(config: Config) -> Self {
            let now = Instant::now();
            Self { now, verifier: Verifier::new(config, [7; 32], now) }
        }

        fn check(&mut self, authorization: &str) -> Result<String, Refusal> {
            let request = register("sip:pbx", authorization);
            self.verifier.verify(self.now, &request, &One).map(|account| account.user)
        }

        /// A 401 as the phone gets it.
        fn challenge(&mut self, refusal: &Refusal) -> Message {
            let request = register("sip:pbx", "");
            let response = self.verifier.challenge(self.now, &request, refusal);
            Message::parse(response.encode()).unwrap()
        }

        fn login(&mut self, user: &str, secret: &str) -> Login {
            let mut login = Login::new(Credentials { username: user.into(), secret: Secret::new(secret) });
            login.handle_challenge(&self.challenge(&Refusal::Missing)).unwrap();
            login
        }
    }

    fn register(uri: &str, authorization: &str) -> Message {
        let text = format!(
            "REGISTER {uri} SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\n\
             Call-ID: 1\r\nCSeq: 1 REGISTER\r\n{}\r\n",
            if authorization.is_empty() { String::new() } else { format!("Authorization: {authorization}\r\n") }
        );
        Message::parse(text.into()).unwrap()
    }

    #[test]
    fn a_phone_logs_in_and_stays_so_with_rising_counts() {
        let all = [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512Of256];
        for algorithms in [&all[..1], &all[1..2], &all[2..], &all[..2], &all[..]].map(<[_]>::to_vec) {
            let mut bed = Bed::new(Config { algorithms, ..Config::default() });
            assert_eq!(bed.check(""), Err(Refusal::Missing));
            let mut login = bed.login("001565aabbcc-1", "opensesame");
            for _ in 0..3 {
                let (_, value) = login.authorize("REGISTER", "sip:pbx", "cnonce").unwrap();
                assert_eq!(bed.check(&value), Ok("2041".into()));
                assert_eq!(bed.check(&value), Err(Refusal::Replayed));
            }
        }
    }

    #[test]
    fn wrong_passwords_and_unknown_users_get_the_same_answer() {
        let mut bed = Bed::new(Config::default());
        let mut answers = Vec::new();
        for (user, secret) in [("001565aabbcc-1", "wrong"), ("nobody", "opensesame")] {
            let mut login = bed.login(user, secret);
            let (_, value) = login.authorize("REGISTER", "sip:pbx", "c").unwrap();
            let refusal = bed.check(&value).unwrap_err();
            assert_eq!(refusal, Refusal::Wrong { user: user.into() });
            let answer = bed.challenge(&refusal);
            assert_eq!(login.handle_challenge(&answer), Err(LoginError::Refused));
            let challenge = answer.auths(Name::WwwAuthenticate).next().unwrap();
            answers.push((answer.status(), challenge.get("stale").map(|s| s.into_owned()), answer.bytes().len()));
        }
        assert_eq!(answers[0], answers[1]);
    }

    /// Not by the clock, which a busy machine makes lie: by what is asked and hashed.
    #[test]
    fn an_unknown_user_costs_what_a_known_one_costs() {
        struct Counting(std::sync::atomic::AtomicUsize);
        impl Accounts for Counting {
            fn account(&self, auth_user: &str) -> Option<Account> {
                self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                // As long as the secrets that phones are given.
                One.account(auth_user).map(|account| Account { secret: Secret::new("x".repeat(24)), ..account })
            }
        }
        let mut bed = Bed::new(Config::default());
        let mut work = Vec::new();
        for user in ["001565aabbcc-1", "001565aabbcd-1", "a"] {
            let (_, value) = bed.login(user, "wrong").authorize("REGISTER", "sip:pbx", "c").unwrap();
            let (request, counting) = (register("sip:pbx", &value), Counting(0.into()));
            let hashed = super::super::hashed_bytes(|| {
                let refusal = bed.verifier.verify(bed.now, &request, &counting).unwrap_err();
                assert_eq!(refusal, Refusal::Wrong { user: user.into() });
            });
            // The name itself is hashed; all else must be the same: secret, method, URI, nonce, counts.
            work.push((counting.0.into_inner(), hashed - user.len()));
        }
        assert!(work.iter().all(|done| done == &work[0]), "{work:?}");
        assert!(work[0].1 > 100, "the hash was made");
    }

    #[test]
    fn nonces_expire_and_cannot_be_made_up() {
        let mut bed = Bed::new(Config::default());
        let mut login = bed.login("001565aabbcc-1", "opensesame");
        bed.now += Duration::from_secs(301);
        let (_, value) = login.authorize("REGISTER", "sip:pbx", "c").unwrap();
        assert_eq!(bed.check(&value), Err(Refusal::Stale));
        let again = bed.challenge(&Refusal::Stale);
        assert_eq!(login.handle_challenge(&again), Ok(()), "stale: try again");
        let (_, value) = login.authorize("REGISTER", "sip:pbx", "c").unwrap();
        assert_eq!(bed.check(&value), Ok("2041".into()));
        for nonce in ["", "x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &"A".repeat(5000)] {
            let proof = Proof {
                algorithm: Algorithm::Md5,
                username: "001565aabbcc-1",
                realm: "plugtone",
                secret: "opensesame",
                method: "REGISTER",
                uri: "sip:pbx",
                nonce,
                qop: None,
            };
            let value = format!(
                "Digest username=\"001565aabbcc-1\",realm=\"plugtone\",uri=\"sip:pbx\",nonce=\"{nonce}\",response=\"{}\"",
                proof.response().as_str()
            );
            assert_eq!(bed.check(&value), Err(Refusal::Stale), "{nonce:.50}");
        }
    }

    #[test]
    fn credentials_are_for_one_realm_method_and_uri() {
        let mut bed = Bed::new(Config::default());
        let mut login = bed.login("001565aabbcc-1", "opensesame");
        let (_, value) = login.authorize("REGISTER", "sip:other", "c").unwrap();
        assert_eq!(bed.check(&value), Err(Refusal::OtherUri));
        let (_, value) = login.authorize("INVITE", "sip:pbx", "c").unwrap();
        assert!(matches!(bed.check(&value), Err(Refusal::Wrong { .. })));
        let (_, value) = login.authorize("REGISTER", "sip:pbx", "c").unwrap();
        assert_eq!(bed.check(&value.replace("realm=\"plugtone\"", "realm=\"x\"")), Err(Refusal::Missing));
        assert_eq!(bed.check(&value.replace("qop=auth", "qop=auth-int")), Err(Refusal::Missing));
        assert_eq!(bed.check("Basic dXNlcjpwdw=="), Err(Refusal::Missing));
        assert_eq!(bed.check("Digest"), Err(Refusal::Missing));
        // The port is left out by some phones.
        let (_, value) = login.authorize("REGISTER", "sip:pbx:5060", "c").unwrap();
        assert_eq!(bed.check(&value), Ok("2041".into()));
    }

    #[test]
    fn a_phone_of_rfc_2069_may_use_a_nonce_once() {
        let mut bed = Bed::new(Config::default());
        let challenge = bed.challenge(&Refusal::Missing);
        let nonce = challenge.auths(Name::WwwAuthenticate).next().unwrap().get("nonce").unwrap().into_owned();
        let proof = Proof {
            algorithm: Algorithm::Md5,
            username: "001565aabbcc-1",
            realm: "plugtone",
            secret: "opensesame",
            method: "REGISTER",
            uri: "sip:pbx",
            nonce: &nonce,
            qop: None,
        };
        let value = format!(
            "Digest username=\"001565aabbcc-1\",realm=\"plugtone\",uri=\"sip:pbx\",nonce=\"{nonce}\",response=\"{}\"",
            proof.response().as_str()
        );
        assert_eq!(bed.check(&value), Ok("2041".into()));
        assert_eq!(bed.check(&value), Err(Refusal::Replayed));
    }

    #[test]
    fn a_full_table_makes_old_nonces_stale_not_replayable() {
        let mut bed = Bed::new(Config { max_nonces: 2, ..Config::default() });
        let values: Vec<_> =
            (0..4).map(|_| bed.login("001565aabbcc-1", "opensesame").authorize("REGISTER", "sip:pbx", "c").unwrap().1).collect();
        for value in &values {
            assert_eq!(bed.check(value), Ok("2041".into()));
        }
        assert_eq!(bed.verifier.nonces_in_use(), 2);
        for (value, refusal) in values.iter().zip([Refusal::Stale, Refusal::Stale, Refusal::Replayed, Refusal::Replayed]) {
            assert_eq!(bed.check(value), Err(refusal));
        }
    }

    #[test]
    fn counts_may_come_out_of_order_but_only_once() {
        let mut counts = Counts { highest: 0, seen: 0 };
        for (nc, fresh) in
            [(1, true), (3, true), (2, true), (2, false), (3, false), (100, true), (36, false), (37, true), (37, false), (0, false)]
        {
            assert_eq!(counts.take(nc), fresh, "{nc}");
        }
    }
}
