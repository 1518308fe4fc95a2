//! Sample phones: every family is rendered for them before a set goes live, and benches render nothing else.

use super::family::Family;
use super::firmware::Due;
use super::subject::{Contacts, Line, Server, SipPorts, Subject};
use crate::model::{MacAddr, Secret};

pub(super) const MAC: MacAddr = MacAddr([0x02, 0x50, 0x4c, 0x55, 0x47, 0x01]);

/// A name with everything that a grammar may stumble over, and an attempt to write a line of its own.
pub(super) const NAME: &str = "O'Neil & <Söhne> \"x\" 100% \r\naccount.1.password = 1";

/// Unbound and bound, of no known model and of a model of each pattern; and bound with a further line to sign in at.
pub(super) fn subjects(family: &Family) -> Vec<Subject> {
    let mut models = vec![None];
    models.extend(family.sample_models().into_iter().map(Some));
    let pairs = models.into_iter().flat_map(|model| [false, true].map(|bound| (model.clone(), bound)));
    let mut subjects: Vec<_> = pairs.map(|(model, bound)| subject(&family.id, family.sample_mac(), model, bound)).collect();
    if family.capabilities.lines_max > 1 {
        let mut shared = subject(&family.id, family.sample_mac(), None, true);
        shared.lines.push(Line { number: 2, ..line(family.sample_mac(), false) });
        subjects.push(shared);
    }
    subjects
}

/// The same phone on a network of IPv6.
pub(super) fn by_ipv6(subject: &Subject) -> Subject {
    let mut subject = subject.clone();
    (subject.server.host, subject.server.url) = ("[2001:db8::1]".into(), "http://[2001:db8::1]:8080".into());
    subject
}

/// So many people, with two numbers each.
fn contacts(people: usize) -> Contacts {
    Contacts::new((0..people).map(|_| (NAME, vec![("work", "2041"), ("mobile", "+49171")])))
}

fn subject(family: &str, mac: MacAddr, model: Option<String>, bound: bool) -> Subject {
    // Once more than most makes have on a page; of each model that would take its time.
    let people = if model.is_none() { 20 } else { 1 };
    Subject {
        mac: Some(mac),
        model,
        bound,
        lines: vec![line(mac, bound)],
        server: Server {
            host: "192.0.2.1".into(),
            sip: SipPorts { udp: Some(5060), tcp: Some(5060), tls: Some(5061) },
            url: "http://192.0.2.1:8080".into(),
            secure_url: None,
            realm: "plugtone".into(), // Makes that have a place for it are tried with it.
            authority: bound.then(|| "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".into()),
        },
        address: None,
        user_id: bound.then(|| "uid=sample".into()),
        inventory: Default::default(),
        contacts: Some(contacts(people)),
        admin_password: Some(Secret::new("sample-ADMIN")),
        file_key: None,
        key_only: false,
        // Of the others each has none.
        firmware: (bound && people > 1).then(|| Due { make: family.to_owned(), version: "9.9.9".into(), files: vec!["sample.bin".into()] }),
    }
}

fn line(mac: MacAddr, bound: bool) -> Line {
    Line {
        number: 1,
        user: if bound { "2041".into() } else { format!("new{}", mac.bare()) },
        auth_user: format!("{}-1", mac.bare()),
        secret: Secret::new("sample-SECRET_of_24-letter"),
        display_name: if bound { NAME.into() } else { "Not signed in".into() },
        label: None,
        extension: bound.then(|| "2041".parse().ok()).flatten(),
    }
}
