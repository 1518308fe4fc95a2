//! How much there is in the engine: for whoever asks, and for `/metrics`.

use super::Engine;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Transactions that we answer, or still remember.
    pub answering: usize,
    /// Transactions that we began.
    pub asking: usize,
    /// Legs, those included that are being ended.
    pub legs: usize,
    pub calls: usize,
}

/// The same for `/metrics`.
pub(super) struct Gauges {
    answering: metrics::Gauge,
    asking: metrics::Gauge,
    legs: metrics::Gauge,
    calls: metrics::Gauge,
}

impl Gauges {
    pub(super) fn new() -> Self {
        let transactions = |side: &'static str| metrics::gauge!("plugtone_sip_transactions", "side" => side);
        Self {
            answering: transactions("server"),
            asking: transactions("client"),
            legs: metrics::gauge!("plugtone_sip_legs"),
            calls: metrics::gauge!("plugtone_calls"),
        }
    }

    pub(super) fn show(&self, load: Load) {
        let Load { answering, asking, legs, calls } = load;
        for (gauge, value) in [(&self.answering, answering), (&self.asking, asking), (&self.legs, legs), (&self.calls, calls)] {
            gauge.set(value as f64);
        }
    }
}

impl Engine {
    pub(super) fn load(&self) -> Load {
        let (answering, asking) = self.ground.endpoint.transactions();
        Load { answering, asking, legs: self.ground.agent.len(), calls: self.switch.len() }
    }
}
