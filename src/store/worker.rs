//! Puts a store to work, to learn what it can do on this disk: `plugtone bench` and the tests measure with it.
//!
//! Not here: the store, the clock of whoever measures beyond the time that the work took.

use std::{
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::try_join_all;

use super::{Result, Store};
use crate::model::{LeaseRecord, LeaseState, MacAddr, Timestamp};

/// How many leases became durable, and how long that took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub leases: u32,
    pub took: Duration,
}

impl Rate {
    /// Leases per second.
    pub fn per_second(&self) -> f64 {
        f64::from(self.leases) / self.took.as_secs_f64().max(f64::EPSILON)
    }
}

/// As many clients at once, each taking `each` leases one after the other, every one durable before the next.
pub async fn durable_leases(store: Arc<dyn Store>, clients: u16, each: u16) -> Result<Rate> {
    let began = Instant::now();
    let work = (0..clients).map(|client| {
        let store = store.clone();
        async move {
            for count in 0..each {
                store.save_lease(lease(client, count)).await?;
            }
            Ok(())
        }
    });
    try_join_all(work).await?;
    Ok(Rate { leases: u32::from(clients) * u32::from(each), took: began.elapsed() })
}

/// One address per client, renewed: what a running office does.
fn lease(client: u16, count: u16) -> LeaseRecord {
    let [high, low] = client.to_be_bytes();
    LeaseRecord {
        address: Ipv4Addr::new(10, 200, high, low),
        mac: MacAddr([2, 0, 0, 0, high, low]),
        client_id: vec![1, 2, 0, 0, 0, high, low],
        state: LeaseState::Active,
        starts: Timestamp(i64::from(count)),
        expires: Timestamp(i64::from(count) + 86_400_000),
        hostname: Some("SIP-T46G".into()),
        family: Some("yealink".into()),
        relay: None,
        relay_info: None,
    }
}
