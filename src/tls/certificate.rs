//! A certificate authority of our own, the server's certificate that it signs (RFC 5280, RFC 5922), and what another is asked to sign.
//!
//! Pure: PEM in, PEM out, the day is passed in. Phones that are given the authority's certificate once trust every certificate
//! that follows. Keys are of P-256; a phone that is too old for it wants a certificate bought elsewhere (`tls.certificate`).
//! Not here: where they are kept (`files.rs`), handshakes (`identity.rs`).

use std::{collections::BTreeSet, net::IpAddr};

use jiff::{ToSpan, civil::Date};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, pem::parse_x509_pem, prelude::FromDer};

use super::acme::renewal::Life;
use crate::model::{Secret, Timestamp};

/// How long the authority is believed: longer than phones live, as each would have to be given the next by hand.
const AUTHORITY_YEARS: i32 = 30;
/// How long the server's certificate is: what browsers still take.
const SERVER_DAYS: i32 = 365;
/// It is replaced so long before its end.
const RENEW_DAYS: i64 = 30;
/// Phones boot with a clock that is behind.
const SLOW_CLOCK_DAYS: i32 = 30;

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct Pair {
    pub certificate: String,
    pub key: Secret,
}

#[derive(Debug, thiserror::Error)]
#[error("a certificate could not be made: {0}")]
pub struct CertificateError(String);

impl From<rcgen::Error> for CertificateError {
    fn from(error: rcgen::Error) -> Self {
        Self(error.to_string())
    }
}

/// An authority that signs for us and for nobody else.
pub fn new_authority(today: Date) -> Result<Pair, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    // Two installations in one office must be told apart in a phone's list.
    let mark = blake3::hash(key.public_key_raw()).to_hex();
    params.distinguished_name.push(DnType::CommonName, format!("Plugtone CA {}", mark.get(..6).unwrap_or_default()));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    valid(&mut params, today, AUTHORITY_YEARS.years())?;
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: Secret::new(key.serialize_pem()) })
}

/// A certificate for these names and addresses, followed by the authority's.
pub fn issue(authority: &Pair, names: &[String], today: Date) -> Result<Pair, CertificateError> {
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, KeyPair::from_pem(authority.key.expose())?)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name.push(DnType::CommonName, names.first().map_or("plugtone", String::as_str));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyAgreement];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, today, SERVER_DAYS.days())?;
    let certificate = params.signed_by(&key, &issuer)?.pem() + &authority.certificate;
    Ok(Pair { certificate, key: Secret::new(key.serialize_pem()) })
}

/// What another authority is asked to sign, in DER (RFC 2986), and the key.
pub struct Request {
    pub csr: Vec<u8>,
    pub key: Secret,
}

pub fn request(names: &[String]) -> Result<Request, CertificateError> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    let csr = params.serialize_request(&key)?.der().to_vec();
    Ok(Request { csr, key: Secret::new(key.serialize_pem()) })
}

/// A key for an account, in PEM.
pub fn new_key() -> Result<Secret, CertificateError> {
    Ok(Secret::new(KeyPair::generate()?.serialize_pem()))
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub names: BTreeSet<String>,
    /// The common name of who signed it, or all that there is of it.
    pub issuer: String,
    pub life: Life,
}

/// Of the first certificate in a text.
pub fn facts(pem: &str) -> Option<Facts> {
    let (_, pem) = parse_x509_pem(pem.as_bytes()).ok()?;
    facts_of(&pem.contents)
}

/// Of one in DER.
pub fn facts_of(der: &[u8]) -> Option<Facts> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let issuer = certificate.issuer();
    let name = issuer.iter_common_name().next().and_then(|name| name.as_str().ok()).map(str::to_owned);
    let at = |time: x509_parser::time::ASN1Time| Timestamp(time.timestamp().saturating_mul(1000));
    let life = Life { begins: at(certificate.validity().not_before), ends: at(certificate.validity().not_after) };
    Some(Facts { names: names_of(&certificate), issuer: name.unwrap_or_else(|| issuer.to_string()), life })
}

/// Whether a certificate of ours is to be replaced: it ends soon, lacks one of the names, or another authority signed it.
pub fn is_due(certificate: &str, authority: &str, names: &[String], today: Date) -> bool {
    let read = || {
        let (_, pem) = parse_x509_pem(certificate.as_bytes()).ok()?;
        let (_, authority) = parse_x509_pem(authority.as_bytes()).ok()?;
        let (certificate, authority) = (pem.parse_x509().ok()?, authority.parse_x509().ok()?);
        let left_secs = certificate.validity().not_after.timestamp() - seconds(today)?;
        let there = names_of(&certificate);
        let whole = names.iter().all(|name| there.contains(name));
        Some(whole && left_secs > RENEW_DAYS * 86_400 && certificate.issuer() == authority.subject())
    };
    read() != Some(true)
}

fn names_of(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    };
    names.filter_map(name).collect()
}

fn valid(params: &mut CertificateParams, today: Date, span: jiff::Span) -> Result<(), CertificateError> {
    let out_of_range = |error: jiff::Error| CertificateError(error.to_string());
    let first = today.checked_sub(SLOW_CLOCK_DAYS.days()).map_err(out_of_range)?;
    let last = today.checked_add(span).map_err(out_of_range)?;
    let day = |date: Date| rcgen::date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs());
    (params.not_before, params.not_after) = (day(first), day(last));
    Ok(())
}

/// Midnight in UTC, since 1970.
fn seconds(date: Date) -> Option<i64> {
    date.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|midnight| midnight.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_replaced_before_it_ends_and_when_a_name_is_new() {
        let day = |month, day| jiff::civil::date(2026, month, day);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let authority = new_authority(day(1, 1)).unwrap();
        let ours = names(&["pbx.example.com", "10.0.0.1", "fd00::1"]);
        let server = issue(&authority, &ours, day(1, 1)).unwrap();
        for (story, names, today, due) in [
            ("fresh", names(&["10.0.0.1", "pbx.example.com"]), day(1, 1), false),
            ("in autumn", ours.clone(), day(11, 30), false),
            ("a month before its end", ours.clone(), day(12, 3), true),
            ("the server has one more address", names(&["10.0.0.1", "10.0.0.2"]), day(1, 1), true),
        ] {
            assert_eq!(is_due(&server.certificate, &authority.certificate, &names, today), due, "{story}");
        }
        let facts = facts(&server.certificate).expect("it can be read");
        assert_eq!(facts.names, ours.iter().cloned().collect());
        assert!(facts.issuer.starts_with("Plugtone CA "), "{facts:?}");
        assert_eq!(
            (facts.life.begins.to_string(), facts.life.ends.to_string()),
            ("2025-12-02T00:00:00.000Z".into(), "2027-01-01T00:00:00.000Z".into())
        );
        let other = new_authority(day(1, 1)).unwrap();
        assert!(is_due(&server.certificate, &other.certificate, &ours, day(1, 1)), "of another authority");
        assert!(is_due("no certificate", &authority.certificate, &ours, day(1, 1)));
    }
}
