//! What TLS handshakes need: the certificate that is shown, which may be exchanged while connections are up, and whom we believe.
//!
//! [`Tls::replace`] acts on the next handshake; connections that are up keep what they agreed on. TLS 1.2 and 1.3, by rustls
//! with ring. The far end of a connection that we make must be whom we wanted ([`Far`], RFC 5922): a name in its certificate, as a
//! SIP URI or by DNS, or its address. Other than RFC 5922 §7.2 says, `*.example.com` counts: providers use it.
//! Not here: reading files (`files.rs`), sockets (`tcp.rs`). Missing: certificates of phones are not asked for.

use std::{io, net::IpAddr, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use x509_parser::extensions::GeneralName;

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
    #[error("'{0}' can be the name of no certificate")]
    NoName(String),
    #[error("there is no authority among those that may be believed: {0}")]
    NoAuthority(VerifierBuilderError),
    #[error("TLS is off: name an address in `sip.tls`")]
    Off,
}

/// Whom a connection that we make must lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Far {
    /// Host name or address.
    pub name: String,
    /// In PEM, instead of those that are believed in general.
    pub authorities: Option<Arc<str>>,
}

impl Far {
    pub fn at(address: IpAddr) -> Self {
        Self { name: address.to_string(), authorities: None }
    }
}

/// This server as handshakes see it. Shared by all listeners.
#[derive(Debug)]
pub struct Tls {
    shown: Arc<Shown>,
    server: Arc<ServerConfig>,
    /// Who is believed.
    trusted: ArcSwap<RootCertStore>,
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
        Ok(Self { key: Arc::new(key), trusted: Arc::new(roots(trusted)) })
    }
}

impl Tls {
    pub fn new(identity: Identity) -> Result<Arc<Self>, TlsError> {
        let shown = Arc::new(Shown(ArcSwap::new(identity.key)));
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .with_no_client_auth()
            .with_cert_resolver(shown.clone());
        Ok(Arc::new(Self { shown, server: Arc::new(server), trusted: ArcSwap::new(identity.trusted) }))
    }

    /// For every handshake from now on.
    pub fn replace(&self, identity: Identity) {
        self.shown.0.store(identity.key);
        self.trusted.store(identity.trusted);
    }

    pub(super) fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// For a handshake with this far end.
    pub(super) fn client(&self, far: &Far) -> Result<(ServerName<'static>, Arc<ClientConfig>), TlsError> {
        let name = ServerName::try_from(far.name.clone()).map_err(|_| TlsError::NoName(far.name.clone()))?;
        let trusted = far.authorities.as_deref().map_or_else(|| self.trusted.load_full(), |pem| Arc::new(roots(pem)));
        let chain = WebPkiServerVerifier::builder_with_provider(trusted.clone(), provider()).build().map_err(TlsError::NoAuthority)?;
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Unusable)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Domain { chain, trusted }))
            .with_no_client_auth();
        Ok((name, Arc::new(client)))
    }
}

/// Believes a certificate that an authority has signed, if it is for the domain that was wanted (RFC 5922 §7.1): where it has SIP
/// URIs, these count, else names of hosts.
#[derive(Debug)]
struct Domain {
    /// For all but the name.
    chain: Arc<WebPkiServerVerifier>,
    trusted: Arc<RootCertStore>,
}

impl ServerCertVerifier for Domain {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        wanted: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed = ParsedCertificate::try_from(certificate)?;
        let algorithms = provider().signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.trusted, between, now, algorithms)?;
        let domains = sip_domains(certificate);
        if domains.is_empty() {
            verify_server_name(&parsed, wanted)?;
        } else if !domains.iter().any(|domain| domain.eq_ignore_ascii_case(&wanted.to_str())) {
            let context = CertificateError::NotValidForNameContext { expected: wanted.to_owned(), presented: domains };
            return Err(rustls::Error::InvalidCertificate(context));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The domains that a certificate names as SIP URIs without a user (RFC 5922 §7.1).
fn sip_domains(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let domain = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => {
            let (scheme, domain) = uri.split_once(':')?;
            (scheme.eq_ignore_ascii_case("sip") && !domain.contains('@')).then(|| domain.to_owned())
        }
        _ => None,
    };
    names.filter_map(domain).collect()
}

/// Why no handshake came about, if it is the far end's certificate: what is wrong, and what to do.
pub(super) fn distrust(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?;
    if let Some(ours) = inner.downcast_ref::<TlsError>() {
        return Some(ours.to_string());
    }
    let rustls::Error::InvalidCertificate(fault) = inner.downcast_ref::<rustls::Error>()? else { return None };
    Some(match fault {
        CertificateError::UnknownIssuer => {
            "an authority that is not believed has signed its certificate: name it with `ca_file` of the trunk, or `sip.tls_trust`"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names = if presented.is_empty() { "nobody".to_owned() } else { presented.join(", ") };
            format!("its certificate is for {names}, not for {}: write `host` as the provider names it", expected.to_str())
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: is the clock of this machine right?".to_owned()
        }
        other => format!("its certificate is not believed: {other}"),
    })
}

/// Nobody is spoken to by TLS.
pub(super) fn no_identity() -> io::Error {
    io::Error::other(TlsError::Off)
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).filter_map(Result::ok).collect()
}

fn roots(pem: &str) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates(pem));
    roots
}

fn provider() -> Arc<CryptoProvider> {
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
        assert!(matches!(Identity::read(&one.certificate, &Secret::new(""), ""), Err(TlsError::NoKey)));
        assert!(matches!(Identity::read(&one.certificate, &two.key, ""), Err(TlsError::Unusable(_))));
    }
}
