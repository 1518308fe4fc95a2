//! Makers that put a certificate into each phone: by whose authority it is that of which make, and whose MAC it carries.
//!
//! A handshake asks for a certificate and takes none for an answer; it takes any other, too, if whoever shows it has its key. What
//! it proves is judged afterwards ([`Makers::whose`]): who shows another certificate is served as one who shows none. Pure.
//! Missing: revocation; phones whose certificate is of X.509 version 1 or signed with SHA-1 prove nothing by it.

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    crypto::{verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::extensions::GeneralName;

use super::identity::{TlsError, provider, roots};
use crate::model::{FamilyName, MacAddr};

/// A phone that has shown its maker's certificate, and that it has the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    pub family: FamilyName,
    pub mac: MacAddr,
}

/// The authorities of makers.
#[derive(Debug, Default)]
pub struct Makers(Vec<Maker>);

#[derive(Debug)]
struct Maker {
    family: FamilyName,
    chain: Arc<dyn ClientCertVerifier>,
}

impl Makers {
    /// One more make: its authorities in PEM.
    pub fn add(&mut self, family: &str, pem: &str) -> Result<(), TlsError> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(pem)), provider()).build();
        let chain = chain.map_err(|_| TlsError::NoCertificate)?;
        self.0.push(Maker { family: family.to_owned(), chain });
        Ok(())
    }

    /// Whose certificate this is, its own first; `None` if it is no phone's of these makers, or has no MAC in it.
    pub fn whose(&self, shown: &[CertificateDer<'_>], now: UnixTime) -> Option<Certified> {
        let (own, between) = shown.split_first()?;
        let maker = self.0.iter().find(|maker| maker.chain.verify_client_cert(own, between, now).is_ok())?;
        Some(Certified { family: maker.family.clone(), mac: mac_in(own)? })
    }
}

/// The only MAC that its subject and alternative names carry.
fn mac_in(certificate: &CertificateDer<'_>) -> Option<MacAddr> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject().iter_attributes().filter_map(|attribute| attribute.as_str().ok());
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(text) | GeneralName::URI(text) | GeneralName::RFC822Name(text) => Some(*text),
        _ => None,
    });
    let mut found: Vec<MacAddr> = subject.chain(names).filter_map(MacAddr::find_in).collect();
    found.dedup();
    match found[..] {
        [only] => Some(only),
        _ => None,
    }
}

/// Asks for certificates as long as there is a maker, and for nothing but the proof of the key.
#[derive(Debug)]
pub(super) struct Asking(pub(super) Arc<ArcSwap<Makers>>);

impl ClientCertVerifier for Asking {
    fn offer_client_auth(&self) -> bool {
        !self.0.load().0.is_empty()
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    /// None are named: a phone then shows the one that it has.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(&self, _: &CertificateDer<'_>, _: &[CertificateDer<'_>], _: UnixTime) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

    use super::*;
    use crate::tls::certificate;

    #[test]
    fn a_certificate_is_the_phones_of_its_make_if_it_names_one_mac() {
        let authority = certificate::new_authority(jiff::civil::date(2026, 1, 1)).unwrap();
        let stranger = certificate::new_authority(jiff::civil::date(2026, 1, 1)).unwrap();
        let mut makers = Makers::default();
        makers.add("yealink", &authority.certificate).unwrap();
        assert!(makers.add("poly", "nothing").is_err());
        let issued = |authority: &certificate::Pair, name: &str, other: Option<&str>| {
            let key = KeyPair::from_pem(authority.key.expose()).unwrap();
            let mut params = CertificateParams::new(other.map(str::to_owned).into_iter().collect::<Vec<_>>()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            let issuer = Issuer::from_ca_cert_pem(&authority.certificate, key).unwrap();
            params.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().der().clone()
        };
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_790_000_000));
        for (story, shown, whose) in [
            ("bare", issued(&authority, "001565aabbcc", None), Some("001565aabbcc")),
            ("as Cisco writes it", issued(&authority, "SPA504G, MAC: 001565AABBCC, Serial: CCQ1", None), Some("001565aabbcc")),
            ("as another name", issued(&authority, "phone", Some("001565aabbcc.phones.example")), Some("001565aabbcc")),
            ("the same twice", issued(&authority, "001565aabbcc", Some("001565aabbcc.phones.example")), Some("001565aabbcc")),
            ("two", issued(&authority, "001565aabbcc", Some("001565aabbcd.phones.example")), None),
            ("none", issued(&authority, "generic", None), None),
            ("of somebody else's", issued(&stranger, "001565aabbcc", None), None),
        ] {
            let whose = whose.map(|mac| Certified { family: "yealink".into(), mac: mac.parse().unwrap() });
            assert_eq!(makers.whose(&[shown], now), whose, "{story}");
        }
        assert_eq!(makers.whose(&[], now), None);
    }
}
