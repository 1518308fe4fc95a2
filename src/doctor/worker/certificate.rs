//! A TLS handshake for the sake of the certificates that are shown: all are believed here, and nothing is said afterwards.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::PATIENCE;
use crate::doctor::certificate::Shown;

pub async fn shown(server: SocketAddr) -> Shown {
    let stream = match timeout(PATIENCE, TcpStream::connect(server)).await {
        Err(_) => return Shown::Silent,
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return Shown::Refused,
        Ok(Err(error)) => return Shown::Failed(error.to_string()),
        Ok(Ok(stream)) => stream,
    };
    let witness = Arc::new(Witness { chain: Mutex::default(), provider: Arc::new(ring::default_provider()) });
    let config = ClientConfig::builder_with_provider(witness.provider.clone()).with_safe_default_protocol_versions();
    let Ok(config) = config else { return Shown::Failed("no version of TLS is spoken here".into()) };
    let config = config.dangerous().with_custom_certificate_verifier(witness.clone()).with_no_client_auth();
    let done = timeout(PATIENCE, TlsConnector::from(Arc::new(config)).connect(ServerName::from(server.ip()), stream)).await;
    let chain = witness.chain.lock().map(|chain| chain.clone()).unwrap_or_default();
    match done {
        // What came is judged, even where the handshake did not end well.
        _ if !chain.is_empty() => Shown::Chain(chain),
        Ok(Ok(_)) => Shown::Failed("no certificate was shown".into()),
        Ok(Err(error)) => Shown::Failed(error.to_string()),
        Err(_) => Shown::Failed(format!("nothing within {PATIENCE:?}")),
    }
}

/// Notes the chain and believes everything.
#[derive(Debug)]
struct Witness {
    chain: Mutex<Vec<Vec<u8>>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Ok(mut chain) = self.chain.lock() {
            *chain = std::iter::once(own).chain(more).map(|one| one.to_vec()).collect();
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
