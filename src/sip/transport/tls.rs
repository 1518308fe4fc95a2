//! Whom a connection by TLS that we make must lead to ([`Far`], RFC 5922): a name in its certificate, as a SIP URI or by DNS, or its
//! address. Other than RFC 5922 §7.2 says, `*.example.com` counts: providers use it.
//!
//! Not here: who we are (`tls`), sockets (`tcp.rs`). Missing: certificates of phones are not asked for.

use std::{io, net::IpAddr, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        VerifierBuilderError, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use x509_parser::extensions::GeneralName;

use crate::tls::{
    Tls,
    identity::{provider, roots},
};

/// Why there can be no handshake with a far end.
#[derive(Debug, thiserror::Error)]
enum FarError {
    #[error("'{0}' can be the name of no certificate")]
    NoName(String),
    #[error("there is no authority among those that may be believed: {0}")]
    NoAuthority(VerifierBuilderError),
    #[error("no version of TLS is spoken here: {0}")]
    Unusable(rustls::Error),
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

/// For a handshake with this far end; we are `own`.
pub(super) fn client(own: &Tls, far: &Far) -> io::Result<(ServerName<'static>, Arc<ClientConfig>)> {
    let name = ServerName::try_from(far.name.clone()).map_err(|_| io::Error::other(FarError::NoName(far.name.clone())))?;
    let trusted = far.authorities.as_deref().map_or_else(|| own.trusted(), |pem| Arc::new(roots(pem)));
    let chain = WebPkiServerVerifier::builder_with_provider(trusted.clone(), provider()).build();
    let chain = chain.map_err(|error| io::Error::other(FarError::NoAuthority(error)))?;
    let client = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| io::Error::other(FarError::Unusable(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Domain { chain, trusted }))
        .with_no_client_auth();
    Ok((name, Arc::new(client)))
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
    if let Some(ours) = inner.downcast_ref::<FarError>() {
        return Some(ours.to_string());
    }
    let rustls::Error::InvalidCertificate(fault) = inner.downcast_ref::<rustls::Error>()? else { return None };
    Some(match fault {
        CertificateError::UnknownIssuer => {
            "an authority that is not believed has signed its certificate: name it with `ca_file` of the trunk, or `tls.trust`".to_owned()
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
    io::Error::other(FarError::Off)
}
