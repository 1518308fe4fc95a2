//! From what was written to a plan: every name is known, every pattern is one, and each fault has its line.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use jiff::tz::TimeZone;
use serde_yaml::{Location as Place, Spanned};

use super::{
    hours::{Holidays, Hours},
    number::{self, Site},
    pattern::Pattern,
    plan::{Base, CallerId, Emergency, Location, Placed, Plan, Rule, Target, Test, TestTarget, When, plain},
    rehearsal::Rehearsal,
    settings::{self, CallerIdForm, HoursSettings, Settings, TrunkSettings},
    trunk::{Account, Trunk},
};
use crate::{
    model::{Extension, Secret},
    yaml::{self, Fault},
};

/// What the files of a trunk hold.
#[derive(Default)]
pub struct Files {
    pub password: Option<Secret>,
    /// In PEM.
    pub authorities: Option<String>,
}

/// Makes a plan of a file's `text`; `files` are those of the trunks, by name.
///
/// The rules are checked, and then the file's own tests are run.
pub fn check(file: &str, text: &str, base: Base, files: &BTreeMap<String, Files>) -> Result<Plan, Vec<Fault>> {
    let settings: Settings = yaml::read(file, text).map_err(|fault| vec![fault])?;
    let mut checker = Checker { file, text, faults: Vec::new() };
    let plan = checker.plan(settings, base, files);
    if !checker.faults.is_empty() {
        checker.faults.sort_by_key(|fault| (fault.line, fault.column));
        return Err(checker.faults);
    }
    let failed: Vec<_> =
        plan.rehearsals.iter().filter_map(|rehearsal| rehearsal.run(&plan).err().map(|why| rehearsal.fault(file, text, why))).collect();
    if failed.is_empty() { Ok(plan) } else { Err(failed) }
}

struct Checker<'a> {
    file: &'a str,
    text: &'a str,
    faults: Vec<Fault>,
}

impl Checker<'_> {
    fn plan(&mut self, settings: Settings, base: Base, files: &BTreeMap<String, Files>) -> Plan {
        let site = self.site(&settings);
        let zone = self.zone(settings.time_zone.as_ref());
        let trunks: BTreeMap<Arc<str>, Arc<Trunk>> =
            settings.trunks.iter().map(|(name, trunk)| (Arc::from(&**name), Arc::new(self.trunk(name, trunk, files.get(name))))).collect();
        let known: BTreeSet<&str> = trunks.keys().map(|name| &**name).collect();
        let holidays = settings.holidays.iter().map(|(name, days)| (name.clone(), self.holidays(days))).collect();
        let hours = settings.hours.iter().map(|(name, hours)| (name.clone(), self.hours(&hours.value, &holidays))).collect();
        let times = Times { hours: &hours, holidays: &holidays };
        let everybody = settings.permissions.default.iter().copied().collect();
        let by_group = settings.permissions.groups.iter().map(|(group, all)| (group.clone(), all.iter().copied().collect())).collect();
        let classes = settings.classes.iter().flat_map(|(class, numbers)| numbers.iter().map(move |number| (*class, number)));
        let classes = classes.filter_map(|(class, number)| Some((class, self.pattern(number)?))).collect();
        let blocked_outgoing = self.placed(&settings.blocked.outgoing);
        let blocked_incoming = self.placed(&settings.blocked.incoming);
        let main_number = settings.main_number.as_ref().and_then(|number| self.number(number, site.as_ref()));
        let outside_line = settings.outside_line.as_ref().map(|line| self.keys(line, 3)).unwrap_or_default();
        let emergency = self.emergency(&settings.emergency, site.as_ref(), &known, &base);
        let dial = settings.dial.iter().enumerate().map(|(at, rule)| self.dial(at, rule, &times)).collect();
        let inbound = settings.inbound.iter().enumerate().map(|(at, rule)| self.inbound(at, rule, &times, &known)).collect();
        let outbound =
            settings.outbound.iter().enumerate().map(|(at, rule)| self.outbound(at, rule, &times, &known, site.as_ref())).collect();
        let rehearsals = settings.tests.iter().filter_map(|test| self.rehearsal(test, &known)).collect();
        Plan {
            file: self.file.to_owned(),
            base,
            site,
            zone,
            outside_line,
            main_number,
            hours,
            holidays,
            everybody,
            by_group,
            classes,
            blocked_outgoing,
            blocked_incoming,
            no_anonymous: settings.blocked.anonymous,
            emergency,
            trunks,
            dial,
            inbound,
            outbound,
            rehearsals,
        }
    }

    fn fault(&mut self, place: &Place, message: impl Into<String>) {
        let fault = Fault::at(self.file, self.text, place.line(), place.column(), message);
        self.faults.push(fault);
    }

    fn hinted(&mut self, place: &Place, message: impl Into<String>, hint: Option<String>) {
        let fault = Fault::at(self.file, self.text, place.line(), place.column(), message);
        self.faults.push(Fault { hint, ..fault });
    }

    /// A name that must be one of those known; `what` as "trunk".
    fn known<'k>(&mut self, name: &Spanned<String>, what: &str, known: impl IntoIterator<Item = &'k str> + Clone) -> bool {
        if known.clone().into_iter().any(|one| one == name.value) {
            return true;
        }
        let hint = match yaml::closest(&name.value, known.clone()) {
            Some(close) => format!("did you mean '{close}'?"),
            None => match known.into_iter().collect::<Vec<_>>() {
                all if all.is_empty() => format!("no {what} is described here yet"),
                all => format!("possible here: {}", all.join(", ")),
            },
        };
        self.hinted(&name.referenced, format!("there is no {what} '{}'", name.value), Some(hint));
        false
    }

    fn site(&mut self, settings: &Settings) -> Option<Site> {
        let Some(country) = &settings.country else {
            if let Some(first) =
                settings.outbound.first().map(|rule| &rule.referenced).or(settings.inbound.first().map(|rule| &rule.referenced))
            {
                self.hinted(
                    first,
                    "calls outside need to know how people here dial",
                    Some("write the country's two letters at the top, as `country: DE`".into()),
                );
            }
            return None;
        };
        let area = settings.area_code.as_ref();
        match Site::new(&country.value, area.map_or("", |area| area.value.as_str())) {
            Ok(site) => Some(site),
            Err(error) => {
                let place = match error {
                    number::Error::Country(_) => &country.referenced,
                    number::Error::AreaCode(_) => area.map_or(&country.referenced, |area| &area.referenced),
                };
                self.fault(place, error.to_string());
                None
            }
        }
    }

    fn zone(&mut self, name: Option<&Spanned<String>>) -> TimeZone {
        let Some(name) = name else { return TimeZone::system() };
        TimeZone::get(&name.value).unwrap_or_else(|_| {
            self.fault(&name.referenced, format!("'{}' is no time zone: write its IANA name, as Europe/Berlin", name.value));
            TimeZone::UTC
        })
    }

    fn pattern(&mut self, written: &Spanned<String>) -> Option<Pattern> {
        Pattern::parse(&written.value).map_err(|error| self.fault(&written.referenced, error.to_string())).ok()
    }

    fn patterns(&mut self, written: &[Spanned<String>]) -> Vec<Pattern> {
        written.iter().filter_map(|one| self.pattern(one)).collect()
    }

    fn placed(&mut self, written: &[Spanned<String>]) -> Vec<Placed<Pattern>> {
        written.iter().filter_map(|one| Some(Placed { line: one.referenced.line(), what: self.pattern(one)? })).collect()
    }

    /// Keys that a phone has.
    fn keys(&mut self, written: &Spanned<String>, most: usize) -> String {
        let keys = plain(&written.value);
        let fits = (1..=most).contains(&keys.len()) && keys.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'*' | b'#'));
        if !fits {
            self.fault(&written.referenced, format!("'{}' cannot be dialled: write 1 to {most} of 0-9 * #", written.value));
        }
        keys
    }

    /// A number of ours, in its international form.
    fn number(&mut self, written: &Spanned<String>, site: Option<&Site>) -> Option<String> {
        let number = site.and_then(|site| site.international(&plain(&written.value)));
        if number.is_none() && site.is_some() {
            self.fault(
                &written.referenced,
                format!("'{}' is no telephone number: write it with its country code, as +49 30 1234567", written.value),
            );
        }
        number
    }

    fn holidays(&mut self, written: &[Spanned<String>]) -> Holidays {
        let mut holidays = Holidays::default();
        for day in written {
            if let Err(why) = holidays.add(day.value.trim()) {
                self.fault(&day.referenced, why);
            }
        }
        holidays
    }

    fn hours(&mut self, written: &HoursSettings, holidays: &BTreeMap<String, Holidays>) -> Hours {
        let mut hours = Hours::default();
        for (days, spans) in &written.open {
            if let Err(why) = hours.add(days, &spans.value) {
                self.fault(&spans.referenced, why);
            }
        }
        for list in &written.closed_on {
            if self.known(list, "list of holidays", holidays.keys().map(String::as_str).collect::<Vec<_>>()) {
                hours.closed_on.push(list.value.clone());
            }
        }
        hours
    }

    fn when(&mut self, written: &settings::When, times: &Times<'_>) -> When {
        let hours: Vec<_> = times.hours.keys().map(String::as_str).collect();
        let lists: Vec<_> = times.holidays.keys().map(String::as_str).collect();
        let mut name = |name: &Option<Spanned<String>>, what: &str, known: &[&str]| {
            let name = name.as_ref()?;
            self.known(name, what, known.iter().copied()).then(|| name.value.clone())
        };
        When {
            open: name(&written.open, "set of hours", &hours),
            closed: name(&written.closed, "set of hours", &hours),
            holiday: name(&written.holiday, "list of holidays", &lists),
        }
    }

    fn trunk_names(&mut self, written: &[Spanned<String>], known: &BTreeSet<&str>) -> Vec<Arc<str>> {
        written.iter().filter(|name| self.known(name, "trunk", known.iter().copied())).map(|name| Arc::from(&*name.value)).collect()
    }

    fn emergency(&mut self, written: &settings::Emergency, site: Option<&Site>, trunks: &BTreeSet<&str>, base: &Base) -> Emergency {
        let mut numbers = Vec::new();
        for number in &written.numbers {
            let keys = self.keys(number, 6);
            if base.emergency.contains_key(&keys) {
                self.fault(&number.referenced, format!("{keys} is in `calls.emergency` too: keep it in one place, best here"));
            }
            if keys == base.ivr_number {
                self.fault(&number.referenced, format!("{keys} is `calls.ivr_number`: choose another number for the voice menu"));
            }
            numbers.push(keys);
        }
        let by = self.trunk_names(&written.trunks, trunks);
        if let Some(first) = written.numbers.first()
            && by.is_empty()
            && written.extensions.is_empty()
        {
            self.fault(&first.referenced, "emergency calls go nowhere: name `trunks`, or `extensions` that ring");
        }
        let mut locations = Vec::new();
        for rule in &written.locations {
            let rule = &rule.value;
            locations.push(Location {
                device: rule.device.value.clone(),
                name: if rule.name.is_empty() { rule.device.value.clone() } else { rule.name.clone() },
                caller_id: rule.caller_id.as_ref().and_then(|number| self.number(number, site)),
                geolocation: rule.geolocation.as_ref().map(|uri| self.uri(uri)),
            });
        }
        let test = written.test.as_ref().map(|test| self.emergency_test(test, &numbers, by.is_empty()));
        Emergency {
            line: written.numbers.first().map_or(0, |number| number.referenced.line()),
            numbers,
            trunks: by,
            extensions: written.extensions.clone(),
            caller_id: written.caller_id.as_ref().and_then(|number| self.number(number, site)),
            locations,
            test,
        }
    }

    fn emergency_test(&mut self, written: &Spanned<settings::EmergencyTest>, real: &[String], no_trunks: bool) -> Test {
        let test = &written.value;
        let mut numbers = Vec::new();
        for number in &test.numbers {
            let keys = self.keys(number, 15);
            if real.contains(&keys) {
                self.fault(&number.referenced, format!("{keys} is a real emergency number: choose another, as *{keys}"));
            }
            numbers.push(keys);
        }
        if numbers.is_empty() && !test.instead {
            self.fault(&written.referenced, "nobody can try it: name `numbers` that are dialled for it, as *112");
        }
        let to = match &test.to {
            settings::TestTarget::Extension(extension) => TestTarget::Extension(extension.clone()),
            settings::TestTarget::Number(number) => {
                let keys = self.keys(number, 15);
                if real.contains(&keys) {
                    self.fault(&number.referenced, format!("{keys} is a real emergency number: a test never reaches it"));
                }
                if no_trunks {
                    self.fault(&number.referenced, "a number is reached by `emergency.trunks`, and there are none: name an `extension`");
                }
                TestTarget::Number(keys)
            }
        };
        Test { numbers, to, instead: test.instead }
    }

    /// Goes into a header between < and >.
    fn uri(&mut self, written: &Spanned<String>) -> String {
        let uri = written.value.trim();
        if !uri.contains(':') || !uri.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b'"')) {
            self.fault(&written.referenced, format!("'{uri}' is no URI: write it as https://lis.example.com/floor2"));
        }
        uri.to_owned()
    }

    fn extensions_of(&mut self, place: &Place, all: &[Extension]) -> Vec<Extension> {
        if all.is_empty() {
            self.fault(place, "name at least one extension");
        }
        all.to_vec()
    }

    fn target(&mut self, place: &Place, written: &settings::Target) -> Target {
        match written {
            settings::Target::Extension(extension) => Target::Extensions(vec![extension.clone()]),
            settings::Target::Extensions(all) => Target::Extensions(self.extensions_of(place, all)),
            settings::Target::LastDigits(count) => {
                if !(1..=15).contains(count) {
                    self.fault(place, format!("`last_digits` is {count}: write 1 to 15"));
                }
                Target::LastDigits(usize::from(*count))
            }
            settings::Target::Number(number) => {
                let plain = plain(&number.value);
                let keys = plain.strip_prefix('+').unwrap_or(&plain);
                if keys.is_empty() || !keys.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'*' | b'#')) {
                    self.fault(&number.referenced, format!("'{}' cannot be dialled", number.value));
                }
                Target::Number(plain)
            }
            settings::Target::Menu => Target::Menu,
            settings::Target::Reject(how) => Target::Reject(*how),
        }
    }

    fn dial(&mut self, at: usize, written: &Spanned<settings::DialRule>, times: &Times<'_>) -> Rule {
        let rule = &written.value;
        if rule.numbers.is_empty() {
            self.fault(&written.referenced, "this rule names no `numbers`");
        }
        Rule {
            numbers: self.patterns(&rule.numbers),
            when: self.when(&rule.when, times),
            to: self.target(&written.referenced, &rule.to),
            ..blank("dial", at, written.referenced.line(), rule.name.as_deref())
        }
    }

    fn inbound(&mut self, at: usize, written: &Spanned<settings::InboundRule>, times: &Times<'_>, trunks: &BTreeSet<&str>) -> Rule {
        let rule = &written.value;
        match &rule.to {
            settings::Target::Menu => {
                self.fault(&written.referenced, "the voice menu gives phones to their users: callers from outside have no business there");
            }
            settings::Target::Number(number) if plain(&number.value).parse::<Extension>().is_err() => {
                self.fault(&number.referenced, "calls from outside do not go out again: name an extension");
            }
            _ => {}
        }
        Rule {
            numbers: self.patterns(&rule.numbers),
            callers: self.patterns(&rule.callers),
            trunks: self.trunk_names(&rule.trunks, trunks),
            when: self.when(&rule.when, times),
            to: self.target(&written.referenced, &rule.to),
            ..blank("inbound", at, written.referenced.line(), rule.name.as_deref())
        }
    }

    fn outbound(
        &mut self,
        at: usize,
        written: &Spanned<settings::OutboundRule>,
        times: &Times<'_>,
        trunks: &BTreeSet<&str>,
        site: Option<&Site>,
    ) -> Rule {
        let rule = &written.value;
        if rule.trunks.is_empty() {
            self.fault(&written.referenced, "this rule names no `trunks`");
        }
        let caller_id = match &rule.caller_id {
            None => CallerId::User,
            Some(who) => match who.value.as_str() {
                "user" => CallerId::User,
                "main" => CallerId::Main,
                "withheld" => CallerId::Withheld,
                _ => match site.and_then(|site| site.international(&plain(&who.value))) {
                    Some(number) => CallerId::Number(number),
                    None => {
                        self.fault(
                            &who.referenced,
                            format!("'{}' is no caller: write user, main, withheld, or a number with its country code", who.value),
                        );
                        CallerId::User
                    }
                },
            },
        };
        Rule {
            numbers: self.patterns(&rule.numbers),
            classes: rule.classes.clone(),
            groups: rule.groups.clone(),
            when: self.when(&rule.when, times),
            to: Target::Trunks(self.trunk_names(&rule.trunks, trunks), caller_id),
            ..blank("outbound", at, written.referenced.line(), rule.name.as_deref())
        }
    }

    fn trunk(&mut self, name: &str, written: &Spanned<TrunkSettings>, files: Option<&Files>) -> Trunk {
        let trunk = &written.value;
        let password = files.and_then(|files| files.password.as_ref());
        let authorities = files.and_then(|files| files.authorities.as_deref()).map(Arc::<str>::from);
        let (host, port) = self.host(&trunk.host);
        let user = trunk.user.as_ref().map(|user| self.word(user));
        let login = trunk.login.as_ref().map(|login| self.word(login));
        let account = user.map(|user| Account {
            login: login.unwrap_or_else(|| user.clone()),
            user,
            password: password.cloned().unwrap_or_else(|| Secret::new("")),
        });
        match (&account, password) {
            (Some(_), None) => self.fault(
                &written.referenced,
                format!("the account of '{name}' has no password: name the file that holds it with `password_file`"),
            ),
            (None, _) if trunk.register => {
                self.fault(&written.referenced, format!("'{name}' cannot register without `user` and `password_file`"))
            }
            (None, _) if trunk.caller_id == CallerIdForm::Account => {
                self.fault(&written.referenced, format!("'{name}' has no account to show: name its `user`, or choose another `caller_id`"));
            }
            _ => {}
        }
        if authorities.is_some() && trunk.transport != settings::Transport::Tls {
            self.fault(&written.referenced, format!("the `ca_file` of '{name}' is for certificates: write `transport: tls`"));
        } else if authorities.as_ref().is_some_and(|pem| !pem.contains("-----BEGIN CERTIFICATE-----")) {
            self.fault(&written.referenced, format!("the `ca_file` of '{name}' holds no certificate in PEM"));
        }
        if !(60..=86_400).contains(&trunk.expires_secs) {
            self.fault(&written.referenced, format!("`expires_secs` is {}: write 60 to 86400", trunk.expires_secs));
        }
        if trunk.options_secs != 0 && !(5..=3600).contains(&trunk.options_secs) {
            self.fault(&written.referenced, format!("`options_secs` is {}: write 5 to 3600, or 0 for never", trunk.options_secs));
        }
        if !(1..=32).contains(&trunk.silence_secs) {
            self.fault(&written.referenced, format!("`silence_secs` is {}: write 1 to 32", trunk.silence_secs));
        }
        let mut accept_from = Vec::new();
        for net in &trunk.accept_from {
            let parsed = net.value.parse().or_else(|_| net.value.parse::<std::net::IpAddr>().map(ipnet::IpNet::from));
            match parsed {
                Ok(net) => accept_from.push(net),
                Err(_) => self.fault(&net.referenced, format!("'{}' is no network: write 203.0.113.0/24, or an address", net.value)),
            }
        }
        Trunk {
            name: Arc::from(name),
            domain: trunk.domain.as_ref().map_or_else(|| host.clone(), |domain| self.word(domain)),
            host,
            port,
            transport: trunk.transport,
            authorities,
            register_secs: trunk.register.then_some(trunk.expires_secs),
            account,
            accept_from,
            form: trunk.numbers,
            caller_id: trunk.caller_id,
            diverted_shows: trunk.diverted_shows,
            direct_media: trunk.direct_media,
            max_calls: trunk.max_calls,
            calls_per_second: trunk.calls_per_second,
            options_secs: trunk.options_secs,
            silence_secs: trunk.silence_secs,
        }
    }

    fn host(&mut self, written: &Spanned<String>) -> (String, Option<u16>) {
        if let Ok(address) = written.value.parse::<std::net::SocketAddr>() {
            return (address.ip().to_string(), Some(address.port()));
        }
        let (host, port) = match written.value.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') => (host, port.parse().ok().map(Some)),
            _ => (written.value.as_str(), Some(None)),
        };
        let name = host.parse::<std::net::IpAddr>().is_ok()
            || (!host.is_empty() && host.len() < 254 && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')));
        match port.filter(|port| name && *port != Some(0)) {
            Some(port) => (host.to_owned(), port),
            None => {
                self.fault(&written.referenced, format!("'{}' is no host: write sip.example.com, or 203.0.113.5:5061", written.value));
                (host.to_owned(), None)
            }
        }
    }

    /// Goes into a URI as it is.
    fn word(&mut self, written: &Spanned<String>) -> String {
        let fits =
            !written.value.is_empty() && written.value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.!~*'&=+$,;?/%:".contains(&b));
        if !fits {
            self.fault(&written.referenced, format!("'{}' holds signs that a SIP address does not", written.value));
        }
        written.value.clone()
    }

    fn rehearsal(&mut self, written: &Spanned<settings::Test>, trunks: &BTreeSet<&str>) -> Option<Rehearsal> {
        if let Some(trunk) = &written.value.trunk {
            self.known(trunk, "trunk", trunks.iter().copied()).then_some(())?;
        }
        Rehearsal::new(&written.value, written.referenced.line(), written.referenced.column())
            .map_err(|(place, why)| self.fault(&place.unwrap_or(written.referenced), why))
            .ok()
    }
}

struct Times<'a> {
    hours: &'a BTreeMap<String, Hours>,
    holidays: &'a BTreeMap<String, Holidays>,
}

fn blank(kind: &str, at: usize, line: u64, name: Option<&str>) -> Rule {
    Rule {
        line,
        name: name.map_or_else(|| format!("{kind} {}", at + 1).into(), Arc::from),
        numbers: Vec::new(),
        callers: Vec::new(),
        trunks: Vec::new(),
        classes: Vec::new(),
        groups: Vec::new(),
        when: When::default(),
        to: Target::Menu,
    }
}
