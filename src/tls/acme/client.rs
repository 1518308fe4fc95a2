//! One order at an authority, from the account to the chain, by instant-acme, which stays behind this file.
//!
//! The account is its key: whoever asks for an account with a key that is known gets the one that there is (RFC 8555 §7.3.1). So nothing
//! is lost with a crash at any point after the key is on disk, nor when the authority has forgotten us.

use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, Key, NewOrder, Order, OrderStatus, Problem, RetryPolicy,
};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};

use super::{Challenges, Settings, failure::Failure};
use crate::{
    model::Secret,
    tls::certificate::{self, Pair},
};

/// For the whole order; authorities look from several places, one after the other.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often it is asked how far the order is: after so long, then after twice that …
const POLLS: RetryPolicy = RetryPolicy::new().initial_delay(Duration::from_millis(250)).timeout(Duration::from_secs(120));

/// `account`: its key in PEM.
pub async fn order(settings: &Settings, account: &Secret, challenges: &Challenges) -> Result<Pair, Failure> {
    let done = tokio::time::timeout(PATIENCE, go_through(settings, account, challenges)).await;
    challenges.clear();
    done.unwrap_or_else(|_| Err(Failure::away(&settings.directory, format!("no answer within {PATIENCE:?}"))))
}

async fn go_through(settings: &Settings, account: &Secret, challenges: &Challenges) -> Result<Pair, Failure> {
    let names = settings.certified_names();
    let told = |error: Error| told(settings, &names, error);
    let account = sign_in(settings, account).await?;
    let identifiers: Vec<_> =
        names.iter().map(|name| name.parse().map_or_else(|_| Identifier::Dns(name.clone()), Identifier::Ip)).collect();
    let mut order = account.new_order(&NewOrder::new(&identifiers)).await.map_err(told)?;
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization.map_err(told)?;
        if authorization.status == AuthorizationStatus::Valid {
            continue;
        }
        let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) else {
            return Err(Failure::refused("unsupportedIdentifier", "the authority offers no HTTP-01 challenge", &names));
        };
        challenges.put(challenge.token.clone(), challenge.key_authorization().as_str().to_owned());
        challenge.set_ready().await.map_err(told)?;
    }
    match order.poll_ready(&POLLS).await {
        Ok(OrderStatus::Ready) => {}
        Ok(_) | Err(Error::Api(_)) => return Err(why_not(&mut order, &names).await.map_err(told)?),
        Err(error) => return Err(told(error)),
    }
    let request = certificate::request(&names).map_err(|error| Failure::ours(error.to_string()))?;
    order.finalize_csr(&request.csr).await.map_err(told)?;
    let chain = order.poll_certificate(&POLLS).await.map_err(told)?;
    Ok(Pair { certificate: chain, key: request.key })
}

async fn sign_in(settings: &Settings, key: &Secret) -> Result<Account, Failure> {
    let names = settings.certified_names();
    let told = |error: Error| told(settings, &names, error);
    let ours = |error: String| Failure::ours(format!("the account's key cannot be used: {error}"));
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes()).map_err(|error| ours(error.to_string()))?;
    let PrivateKeyDer::Pkcs8(pkcs8) = &key else { return Err(ours("it is not of PKCS #8".to_owned())) };
    let signer = Key::from_pkcs8_der(pkcs8.clone_key()).map_err(|error| ours(error.to_string()))?;
    let builder = match &settings.ca {
        None => Account::builder(),
        Some(path) => Account::builder_with_root(path),
    };
    let builder = builder.map_err(|error| Failure::away(&settings.directory, chain(&error)))?;
    let (account, _) = builder.create_from_key((signer, key), settings.directory.clone()).await.map_err(told)?;
    if let Some(contact) = &settings.contact {
        account.update_contacts(&[&*format!("mailto:{contact}")]).await.map_err(told)?;
    }
    Ok(account)
}

/// What the authority saw when it looked at our door.
async fn why_not(order: &mut Order, names: &[String]) -> Result<Failure, Error> {
    let mut authorizations = order.authorizations();
    while let Some(authorization) = authorizations.next().await {
        let mut authorization = authorization?;
        let state = authorization.refresh().await?;
        if let Some(problem) = state.challenges.iter().find_map(|challenge| challenge.error.as_ref()) {
            return Ok(refused(problem, names));
        }
    }
    Ok(match &order.refresh().await?.error {
        Some(problem) => refused(problem, names),
        None => Failure::refused("unauthorized", "the authority takes the order for invalid", names),
    })
}

fn refused(problem: &Problem, names: &[String]) -> Failure {
    let kind = problem.r#type.as_deref().unwrap_or_default().rsplit(':').next().unwrap_or_default();
    Failure::refused(kind, problem.detail.as_deref().unwrap_or("it does not say why"), names)
}

fn told(settings: &Settings, names: &[String], error: Error) -> Failure {
    match &error {
        Error::Api(problem) => refused(problem, names),
        other => Failure::away(&settings.directory, chain(other)),
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut words: Vec<String> = Vec::new();
    for cause in causes.map(ToString::to_string) {
        // Some say themselves what their cause says.
        if !words.iter().any(|said| said.contains(&cause)) {
            words.push(cause);
        }
    }
    words.join(": ")
}
