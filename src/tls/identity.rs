//! What our side of a handshake needs: the certificate that is shown, which may be exchanged while connections are up, and the
//! authorities that far ends are believed by.
//!
//! [`Tls::replace`] acts on the next handshake; connections that are up keep what they agreed on. TLS 1.2 and 1.3, by rustls
//! with ring. Not here: reading files (`files.rs`), sockets, whom a connection that we make must lead to (`sip/transport/tls.rs`).

use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::makers::{Asking, Certified, Makers};
use crate::model::Secret;

/// Why texts make no identity. The caller says which files they came from.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("there is no certificate in PEM: its lines begin with -----BEGIN CERTIFICATE-----")]
    NoCertificate,
    #[error("there is no private key in PEM without a password: its lines begin with -----BEGIN PRIVATE KEY-----")]
    NoKey,
    #[error("certificate and key do not belong together, or are of a kind that is not spoken here: {0}")]
    Unusable(rustls::Error),
}

/// This server as handshakes see it. Shared by all listeners.
#[derive(Debug)]
pub struct Tls {
    shown: Arc<Shown>,
    server: Arc<ServerConfig>,
    /// The same, and phones are asked for their makers' certificates.
    of_phones: Arc<ServerConfig>,
    makers: Arc<ArcSwap<Makers>>,
    /// Who is believed.
    trusted: ArcSwap<RootCertStore>,
    authority: ArcSwap<Option<Arc<str>>>,
}

#[derive(Debug)]
struct Shown(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Phones that ask for no name, or for the address, get the same: we have one.
        Some(self.0.load_full())
    }
}

/// A certificate with its chain and key, and the authorities that far ends are believed by, all checked.
pub struct Identity {
    key: Arc<CertifiedKey>,
    trusted: Arc<RootCertStore>,
    /// Whom phones must believe to believe us, in PEM; `None`: one that they know.
    authority: Option<Arc<str>>,
    makers: Makers,
}

impl Identity {
    /// `chain`: the certificate first, then those that lead to its authority. `trusted`: the authorities of far ends.
    pub fn read(chain: &str, key: &Secret, trusted: &str) -> Result<Self, TlsError> {
        let own = certificates(chain);
        if own.is_empty() {
            return Err(TlsError::NoCertificate);
        }
        let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|_| TlsError::NoKey)?;
        let key = CertifiedKey::from_der(own, key, &provider()).map_err(TlsError::Unusable)?;
        Ok(Self { key: Arc::new(key), trusted: Arc::new(roots(trusted)), authority: None, makers: Makers::default() })
    }

    /// Phones may prove themselves by certificates of these.
    pub fn with_makers(self, makers: Makers) -> Self {
        Self { makers, ..self }
    }

    /// Signed by this authority, in PEM, which phones are to be given.
    pub fn signed_by(self, authority: &str) -> Result<Self, TlsError> {
        match certificates(authority).is_empty() {
            true => Err(TlsError::NoCertificate),
            false => Ok(Self { authority: Some(authority.into()), ..self }),
        }
    }
}

impl Tls {
    pub fn new(identity: Identity) -> Result<Arc<Self>, TlsError> {
        let shown = Arc::new(Shown(ArcSwap::new(identity.key)));
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().map_err(TlsError::Unusable)?;
        let makers = Arc::new(ArcSwap::from_pointee(identity.makers));
        let server = builder.clone().with_no_client_auth().with_cert_resolver(shown.clone());
        let of_phones = builder.with_client_cert_verifier(Arc::new(Asking(makers.clone()))).with_cert_resolver(shown.clone());
        let authority = ArcSwap::from_pointee(identity.authority);
        let trusted = ArcSwap::new(identity.trusted);
        Ok(Arc::new(Self { shown, server: Arc::new(server), of_phones: Arc::new(of_phones), makers, trusted, authority }))
    }

    /// For every handshake from now on.
    pub fn replace(&self, identity: Identity) {
        self.shown.0.store(identity.key);
        self.trusted.store(identity.trusted);
        self.authority.store(Arc::new(identity.authority));
        self.makers.store(Arc::new(identity.makers));
    }

    /// The certificate that is shown, in DER.
    pub fn shown(&self) -> Option<CertificateDer<'static>> {
        self.shown.0.load().cert.first().cloned()
    }

    /// For handshakes with whoever comes.
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For handshakes with phones that fetch their files: they may show their makers' certificates.
    pub fn of_phones(&self) -> Arc<ServerConfig> {
        self.of_phones.clone()
    }

    /// Which phone has shown this, its own certificate first.
    pub fn certified(&self, shown: &[CertificateDer<'_>]) -> Option<Certified> {
        self.makers.load().whose(shown, UnixTime::now())
    }

    /// The authority that phones must be given, in PEM.
    pub fn authority(&self) -> Option<Arc<str>> {
        Option::clone(&self.authority.load())
    }

    /// The authorities that far ends are believed by.
    pub fn trusted(&self) -> Arc<RootCertStore> {
        self.trusted.load_full()
    }
}

/// The first certificate in a text, in DER.
pub fn der(pem: &str) -> Option<Vec<u8>> {
    certificates(pem).first().map(|certificate| certificate.to_vec())
}

pub fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

/// The authorities in a text; what is none is left out.
pub fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(pem));
    roots
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

#[cfg(test)]
mod tests {
    use super::{super::certificate, *};

    #[test]
    fn what_is_no_identity_is_said() {
        let today = jiff::civil::date(2026, 1, 1);
        let (one, two) = (certificate::new_authority(today).unwrap(), certificate::new_authority(today).unwrap());
        assert!(Identity::read(&one.certificate, &one.key, &one.certificate).is_ok());
        assert!(matches!(Identity::read("", &one.key, ""), Err(TlsError::NoCertificate)));
        let identity = Identity::read(&one.certificate, &one.key, "").unwrap();
        assert!(matches!(identity.signed_by("nobody"), Err(TlsError::NoCertificate)));
        assert!(matches!(Identity::read(&one.certificate, &Secret::new(""), ""), Err(TlsError::NoKey)));
        assert!(matches!(Identity::read(&one.certificate, &two.key, ""), Err(TlsError::Unusable(_))));
    }
}
