//! The certificate that a TLS door shows, as phones of many ages read it.
//!
//! Phones are pickier than browsers: they do not fetch what the chain lacks, and old ones know neither SHA-1 being wrong nor small keys, nor
//! elliptic curves. Whether the authority is one that a phone trusts only the phone knows. Not here: the handshake (`worker/tls.rs`).

use std::net::{IpAddr, SocketAddr};

use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer, public_key::PublicKey};

use super::{Area, Finding, Server, listed};

/// Told so long before the end, or when a quarter of a shorter life is left.
const SOON_SECS: i64 = 14 * 86_400;

/// What a handshake brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// In DER, the server's own first.
    Chain(Vec<Vec<u8>>),
    Refused,
    Silent,
    /// No handshake came about.
    Failed(String),
}

/// `now` in seconds since 1970, by the clock of this machine. `key` sets the port; `sure`: the configuration says that TLS is on there.
pub fn findings(at: SocketAddr, shown: &Shown, now: i64, server: &Server, (key, sure): (&str, bool)) -> Vec<Finding> {
    let area = Area::Tls;
    match shown {
        Shown::Refused if !sure => Vec::new(),
        Shown::Refused => {
            let remedy = format!("is `plugtone serve` running there, and `{key}` this port?");
            vec![area.wrong(format!("nobody listens at {at} for TLS"), remedy)]
        }
        Shown::Silent if !sure => Vec::new(),
        Shown::Silent => vec![area.wrong(
            format!("TLS at {at} does not answer: blocked by a firewall"),
            format!("open TCP {} from the phones' network to the server", at.port()),
        )],
        Shown::Failed(said) => {
            vec![area.wrong(
                format!("no TLS handshake comes about at {at}: {said}"),
                "is it TLS that listens there? Does a firewall inspect it?",
            )]
        }
        Shown::Chain(chain) => of_chain(at, chain, now, server),
    }
}

fn of_chain(at: SocketAddr, chain: &[Vec<u8>], now: i64, server: &Server) -> Vec<Finding> {
    let area = Area::Tls;
    let read: Vec<_> = chain.iter().filter_map(|der| X509Certificate::from_der(der).ok().map(|(_, certificate)| certificate)).collect();
    let Some(own) = read.first().filter(|_| read.len() == chain.len()) else {
        return vec![area.wrong(format!("the certificate at {at} cannot be read"), "make it anew, as X.509 version 3")];
    };
    const RENEW: &str = "replace the files of `tls.certificate` and `tls.key` and run `plugtone reload`; calls go on. Certificates of our \
        own, and of `tls.acme`, are renewed by themselves: then the server's clock is wrong, or its log says why not";
    let mut found = Vec::new();
    let day = |time: x509_parser::time::ASN1Time| {
        jiff::Timestamp::from_second(time.timestamp()).map(|at| at.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default()
    };
    for (index, one) in read.iter().enumerate() {
        let whose =
            if index == 0 { format!("the certificate at {at}") } else { format!("the authority '{}' in the chain at {at}", one.subject()) };
        let validity = one.validity();
        let whole_secs = validity.not_after.timestamp() - validity.not_before.timestamp();
        if validity.not_after.timestamp() < now {
            found.push(area.wrong(format!("{whose} expired on {}: phones refuse it", day(validity.not_after)), RENEW));
        } else if validity.not_before.timestamp() > now {
            found.push(area.wrong(
                format!("{whose} is not valid before {}: phones refuse it until then", day(validity.not_before)),
                "is the clock of the machine right on which it was made, and of this one?",
            ));
        } else if validity.not_after.timestamp() - now < SOON_SECS.min(whole_secs / 4) {
            found.push(area.note(format!("{whose} expires on {}", day(validity.not_after)), RENEW));
        }
        // Who is trusted is trusted by its key: how an authority signed itself does not count.
        if is_sha1(one) && one.subject() != one.issuer() {
            found.push(area.wrong(format!("{whose} is signed with SHA-1, which newer firmware refuses"), "have it signed with SHA-256"));
        }
        match one.public_key().parsed() {
            Ok(PublicKey::RSA(key)) if key.key_size() < 2048 => found.push(area.wrong(
                format!("{whose} has an RSA key of {} bits, which phones refuse", key.key_size()),
                "make a key of 2048 bits; 4096 are slow on old phones",
            )),
            Ok(PublicKey::EC(key)) if key.key_size() > 384 => found.push(area.wrong(
                format!("{whose} has a key on a curve of {} bits, which few phones know", key.key_size()),
                "make a key of P-256, or of RSA with 2048 bits",
            )),
            Ok(PublicKey::EC(_)) if index == 0 => found.push(area.note(
                format!("{whose} has an elliptic key: phones of the time before about 2013 (SPA, old SoundPoint, Aastra 67xx) refuse it"),
                "where there are such, have a certificate with an RSA key of 2048 bits and name it in `tls.certificate`",
            )),
            _ => {}
        }
    }
    if !names(own).iter().any(|name| is_ours(name, server)) {
        found.push(area.wrong(
            format!("the certificate at {at} is for {}, and not for {}", said(names(own)), listed(server.addresses.iter().take(1))),
            "phones must be told one of the names that it has (`provisioning.sip_host`, `sip.external`), or it must have the address that they are told",
        ));
    }
    if own.issuer() != own.subject() && read.len() == 1 {
        found.push(area.wrong(
            format!("the chain at {at} ends with the server's certificate: phones that know only the root of '{}' refuse it", own.issuer()),
            "put the certificates of the intermediate authorities behind the server's in the file of `tls.certificate`",
        ));
    }
    if found.iter().all(|finding| finding.severity < super::Severity::Wrong) {
        found.insert(
            0,
            area.good(format!(
                "TLS at {at} shows a certificate for {}, signed by '{}', valid until {}",
                said(names(own)),
                own.issuer(),
                day(own.validity().not_after)
            )),
        );
    }
    found
}

fn said(names: Vec<String>) -> String {
    if names.is_empty() { "nobody (it has no alternative names)".into() } else { listed(names) }
}

fn is_sha1(certificate: &X509Certificate<'_>) -> bool {
    let oid = certificate.signature_algorithm.algorithm.to_id_string();
    // sha1WithRSAEncryption, ecdsa-with-SHA1, and MD5 with RSA, which is worse.
    ["1.2.840.113549.1.1.5", "1.2.840.10045.4.1", "1.2.840.113549.1.1.4"].contains(&&*oid)
}

/// Alternative names; where there are none at all, the common name, which old phones read.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let found: Vec<String> = names
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => match bytes.len() {
                4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
                _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            },
            _ => None,
        })
        .collect();
    if !found.is_empty() {
        return found;
    }
    certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok().map(str::to_owned)).collect()
}

fn is_ours(name: &str, server: &Server) -> bool {
    match name.parse::<IpAddr>() {
        Ok(address) => server.is_at(address),
        Err(_) => server.names.iter().any(|known| {
            let wild = name
                .strip_prefix("*.")
                .is_some_and(|rest| known.split_once('.').is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(rest)));
            known.eq_ignore_ascii_case(name) || wild
        }),
    }
}

#[cfg(test)]
mod tests {
    use x509_parser::pem::Pem;

    use super::*;
    use crate::{doctor::tests::told, tls::certificate};

    fn der(pem: &str) -> Vec<Vec<u8>> {
        Pem::iter_from_buffer(pem.as_bytes()).map(|pem| pem.unwrap().contents).collect()
    }

    #[test]
    fn what_phones_would_refuse_is_named() {
        let day = |year, month, day| jiff::civil::date(year, month, day);
        let authority = certificate::new_authority(day(2026, 1, 1)).unwrap();
        let issued = certificate::issue(&authority, &["10.0.0.1".into(), "pbx.example".into()], day(2026, 1, 1)).unwrap();
        let chain = der(&issued.certificate);
        let other = der(&certificate::issue(&authority, &["10.0.0.7".into()], day(2026, 1, 1)).unwrap().certificate);
        let ours = Server::at("10.0.0.1".parse().unwrap());
        let named = Server { names: vec!["pbx.example".into()], ..Server::at("10.0.0.99".parse().unwrap()) };
        let time = |year, month, at| day(year, month, at).to_zoned(jiff::tz::TimeZone::UTC).unwrap().timestamp().as_second();
        let june = time(2026, 6, 1);
        for (story, shown, now, server, sure, says) in [
            (
                "good",
                Shown::Chain(chain.clone()),
                june,
                &ours,
                true,
                "Good: TLS at 10.0.0.1:5061 shows a certificate for 10.0.0.1 and pbx.example",
            ),
            ("by name", Shown::Chain(chain.clone()), june, &named, true, "Good: "),
            ("elliptic", Shown::Chain(chain.clone()), june, &ours, true, "Note: the certificate at 10.0.0.1:5061 has an elliptic key"),
            (
                "soon",
                Shown::Chain(chain.clone()),
                time(2026, 12, 25),
                &ours,
                true,
                "Note: the certificate at 10.0.0.1:5061 expires on 2027-01-01",
            ),
            ("expired", Shown::Chain(chain.clone()), time(2027, 2, 1), &ours, true, "expired on 2027-01-01 00:00 UTC: phones refuse it"),
            ("too early", Shown::Chain(chain.clone()), time(2025, 11, 1), &ours, true, "is not valid before 2025-12-02"),
            ("another name", Shown::Chain(other), june, &ours, true, "is for 10.0.0.7, and not for 10.0.0.1"),
            (
                "no chain",
                Shown::Chain(chain[..1].to_vec()),
                june,
                &ours,
                true,
                "the chain at 10.0.0.1:5061 ends with the server's certificate",
            ),
            ("no certificate", Shown::Chain(vec![vec![1, 2]]), june, &ours, true, "cannot be read"),
            ("off", Shown::Refused, june, &ours, true, "nobody listens at 10.0.0.1:5061 for TLS"),
            ("off, which is usual", Shown::Refused, june, &ours, false, ""),
            ("no TLS", Shown::Failed("eof".into()), june, &ours, false, "no TLS handshake comes about"),
        ] {
            let found = told(&findings("10.0.0.1:5061".parse().unwrap(), &shown, now, server, ("sip.tls", sure)));
            assert!(if says.is_empty() { found.is_empty() } else { found.contains(says) }, "{story}: {found}");
        }
    }
}
