//! Keeps a certificate from an authority that is asked by ACME: orders, writes down, shows, tells. Decides nothing (`renewal.rs`).

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Challenges, Settings, client,
    failure::Failure,
    renewal::{Action, Life, Renewal},
};
use crate::{
    model::{
        Timestamp,
        event::{Event, Events},
    },
    tls::{Certificates, Source, certificate},
};

/// The wall clock may be set while we sleep.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// Where a worker reads the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

pub fn wall_clock() -> Clock {
    Arc::new(|| Timestamp::of(SystemTime::now()))
}

/// Keeps what the settings of the day ask for, and nothing where they do not. Never ends.
pub async fn keep(certificates: Arc<Certificates>, challenges: Challenges, events: Events, clock: Clock) {
    loop {
        let changed = certificates.changed();
        let source = certificates.source();
        let Some(settings) = source.acme.clone() else {
            changed.await;
            continue;
        };
        let keeper = Keeper { certificates: &certificates, source, settings, challenges: &challenges, events: &events, clock: &clock };
        tokio::select! {
            () = changed => {}
            () = keeper.keep() => {}
        }
    }
}

/// By the settings of the day.
struct Keeper<'a> {
    certificates: &'a Arc<Certificates>,
    source: Arc<Source>,
    settings: Settings,
    challenges: &'a Challenges,
    events: &'a Events,
    clock: &'a Clock,
}

impl Keeper<'_> {
    async fn keep(self) {
        let now = || (self.clock)();
        let mut renewal = Renewal::new(self.source.obtained_life(&self.settings), now(), draw());
        loop {
            while let Some(action) = renewal.poll_action(now()) {
                match action {
                    Action::Ended => {
                        self.show();
                        self.events.tell(Event::CertificateEnded { names: self.settings.names.clone() });
                    }
                    Action::Order => match self.order().await {
                        Ok(life) => renewal.handle_obtained(life, draw()),
                        Err(failure) => {
                            let again = renewal.handle_failed(now(), failure.kind, draw());
                            self.failed(failure, again);
                        }
                    },
                }
            }
            let wake = renewal.poll_timeout().unwrap_or(now());
            let pause = Duration::from_millis(wake.0.saturating_sub(now().0).try_into().unwrap_or(0));
            tokio::time::sleep(pause.min(LONGEST_SLEEP)).await;
            renewal.handle_timeout(now());
        }
    }

    async fn order(&self) -> Result<Life, Failure> {
        let ours = |error: crate::tls::files::FileError| Failure::ours(error.to_string());
        // On disk before the authority hears of it.
        let account = self.source.account_key().map_err(ours)?;
        let pair = client::order(&self.settings, &account, self.challenges).await?;
        let facts =
            certificate::facts(&pair.certificate).ok_or_else(|| Failure::away(&self.settings.directory, "no certificate came".into()))?;
        self.source.keep_obtained(&self.settings, &pair).map_err(ours)?;
        self.show();
        metrics::counter!("plugtone_certificate_orders_total", "result" => "obtained").increment(1);
        let (names, issuer, life) = (facts.names.into_iter().collect(), facts.issuer, facts.life);
        self.events.tell(Event::CertificateObtained { names, issuer, ends: life.ends });
        Ok(life)
    }

    fn failed(&self, failure: Failure, again: Timestamp) {
        metrics::counter!("plugtone_certificate_orders_total", "result" => "failed").increment(1);
        let (directory, Failure { error, remedy, .. }) = (self.settings.directory.clone(), failure);
        self.events.tell(Event::CertificateFailed { directory, error, remedy, again });
    }

    /// What is on disk, from now on.
    fn show(&self) {
        if let Err(error) = self.certificates.refresh() {
            tracing::error!(%error, "the certificate for TLS cannot be read; the old one stays");
        }
    }
}

/// From 0 up to 1.
fn draw() -> f64 {
    let mut bytes = [0; 4];
    // Where the system gives no random numbers, all come together.
    let _ = getrandom::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}
