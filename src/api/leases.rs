//! `/dhcp/leases` and `/dhcp/pools`: who has which address of ours, and how many there are; of both versions of IP.

use std::{net::Ipv6Addr, time::SystemTime};

use axum::{
    Json,
    extract::{Query, State},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Context, problem::Problem};
use crate::{
    dhcp,
    model::{Lease6Record, LeaseRecord, LeaseState, MacAddr, Timestamp},
};

/// An address that this server has given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    #[schema(example = "192.168.40.101")]
    pub address: String,
    /// Whose it is; absent where a client of IPv6 does not say.
    #[schema(example = "00:15:65:aa:bb:cc")]
    pub mac: Option<String>,
    /// `active`; `expired`: it was never given back; `released`: it was, and the client would get it again; `declined`: somebody else
    /// answered on it, and nobody gets it before `expires`.
    pub state: String,
    /// RFC 3339.
    pub starts: String,
    pub expires: String,
    /// The kind of phone that it was taken for when it asked.
    #[schema(example = "yealink")]
    pub family: Option<String>,
    /// As the client calls itself.
    pub hostname: Option<String>,
    /// The relay that it was asked through.
    pub relay: Option<String>,
    /// Where the client is plugged in, as its switch or relay says (option 82; 18 and 37 of IPv6).
    pub port: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
pub struct Wanted {
    /// Only those that are in use now.
    #[serde(default)]
    pub active: bool,
    /// At most so many, 1 to 100000, which is also meant if it is absent.
    pub limit: Option<usize>,
}

/// Leases by address, IPv4 first.
#[utoipa::path(get, path = "/dhcp/leases", tag = "devices", params(Wanted), responses((status = 200, body = Vec<Lease>)))]
pub async fn list(State(context): State<Context>, Query(wanted): Query<Wanted>) -> Result<Json<Vec<Lease>>, Problem> {
    let (now, store) = (Timestamp::of(SystemTime::now()), &context.store);
    Ok(Json(shown(store.leases().await?, store.leases6().await?, &wanted, now)))
}

fn shown(mut ipv4: Vec<LeaseRecord>, mut ipv6: Vec<Lease6Record>, wanted: &Wanted, now: Timestamp) -> Vec<Lease> {
    let is_wanted = |held, expires| !wanted.active || state(held, expires, now) == "active";
    ipv4.retain(|lease| is_wanted(lease.state, lease.expires));
    ipv6.retain(|lease| is_wanted(lease.state, lease.expires));
    ipv4.sort_unstable_by_key(|lease| lease.address);
    ipv6.sort_unstable_by_key(|lease| lease.address);
    let most = wanted.limit.unwrap_or(MOST).clamp(1, MOST);
    // Only what is shown is put into words.
    let all = ipv4.into_iter().map(|lease| of_ipv4(lease, now)).chain(ipv6.into_iter().map(|lease| of_ipv6(lease, now)));
    all.take(most).collect()
}

const MOST: usize = 100_000;

/// Addresses that anybody may get; those that are excluded or reserved are not counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Pool {
    #[schema(example = "192.168.40.0/24")]
    pub subnet: String,
    #[schema(example = "192.168.40.100")]
    pub first: String,
    pub last: String,
    pub addresses: u64,
    /// Of them leased now.
    pub leased: u64,
}

/// How full the pools are, in the order of the configuration, IPv4 first.
#[utoipa::path(get, path = "/dhcp/pools", tag = "devices", responses((status = 200, body = Vec<Pool>)))]
pub async fn pools(State(context): State<Context>) -> Json<Vec<Pool>> {
    let pool = |(pool, leased): (dhcp::PoolView, usize)| Pool {
        subnet: pool.subnet.to_string(),
        first: pool.first.to_string(),
        last: pool.last.to_string(),
        addresses: pool.size(),
        leased: leased as u64,
    };
    Json(context.leases.pools(Timestamp::of(SystemTime::now())).into_iter().map(pool).collect())
}

fn of_ipv4(lease: LeaseRecord, now: Timestamp) -> Lease {
    Lease {
        address: lease.address.to_string(),
        mac: Some(lease.mac.to_string()),
        state: state(lease.state, lease.expires, now).to_owned(),
        starts: lease.starts.to_string(),
        expires: lease.expires.to_string(),
        family: lease.family.map(|family| family.to_string()),
        hostname: lease.hostname,
        relay: lease.relay.map(|relay| relay.to_string()),
        port: lease.relay_info.as_deref().and_then(dhcp::server::port),
    }
}

fn of_ipv6(lease: Lease6Record, now: Timestamp) -> Lease {
    Lease {
        address: lease.address.to_string(),
        mac: lease.mac.as_ref().map(MacAddr::to_string),
        state: state(lease.state, lease.expires, now).to_owned(),
        starts: lease.starts.to_string(),
        expires: lease.expires.to_string(),
        family: lease.family.map(|family| family.to_string()),
        hostname: None,
        relay: lease.relay.as_ref().map(Ipv6Addr::to_string),
        port: lease.port.as_deref().and_then(dhcp::v6::server::port),
    }
}

fn state(state: LeaseState, expires: Timestamp, now: Timestamp) -> &'static str {
    match state {
        LeaseState::Active if expires <= now => "expired",
        LeaseState::Active => "active",
        LeaseState::Released => "released",
        LeaseState::Declined => "declined",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_say_whether_they_are_in_use_and_where_their_clients_are_by_address() {
        let now = Timestamp(2_000_000);
        let lease4 = LeaseRecord {
            address: [10, 0, 0, 9].into(),
            mac: "00:15:65:aa:bb:cc".parse().expect("a MAC"),
            client_id: Vec::new(),
            state: LeaseState::Active,
            starts: Timestamp(1_000_000),
            expires: Timestamp(3_000_000),
            hostname: Some("SIP-T46S".to_owned()),
            family: None,
            relay: Some([10, 0, 0, 1].into()),
            relay_info: Some(b"\x01\x02p7\x02\x03sw1".to_vec()),
        };
        let of_four = of_ipv4(lease4.clone(), now);
        assert_eq!(
            (of_four.state.as_str(), of_four.port.as_deref(), of_four.relay.as_deref()),
            ("active", Some("sw1/p7"), Some("10.0.0.1"))
        );
        let state_of = |state, expires| of_ipv4(LeaseRecord { state, expires, ..lease4.clone() }, now).state;
        assert_eq!(state_of(LeaseState::Active, now), "expired");
        assert_eq!(state_of(LeaseState::Released, lease4.expires), "released");
        assert_eq!(state_of(LeaseState::Declined, lease4.expires), "declined");
        let lease = Lease6Record {
            address: "fd00::9".parse().expect("an address"),
            duid: vec![0, 1],
            iaid: 1,
            mac: None,
            state: LeaseState::Active,
            starts: Timestamp(1_000_000),
            expires: Timestamp(3_000_000),
            family: None,
            peer: "fe80::9".parse().expect("an address"),
            relay: Some("fd00::1".parse().expect("an address")),
            port: Some(b"\0\x12\0\x02p7\0\x25\0\x07\0\0\0\x09sw1".to_vec()),
        };
        let of_six = of_ipv6(lease.clone(), now);
        assert_eq!((of_six.state.as_str(), of_six.port.as_deref(), of_six.mac), ("active", Some("sw1/p7"), None));

        let at = |last, expires| LeaseRecord { address: [10, 0, 0, last].into(), expires, ..lease4.clone() };
        let list = |active, limit| {
            let wanted = Wanted { active, limit };
            let all = shown(vec![at(20, lease4.expires), at(7, now), at(3, lease4.expires)], vec![lease.clone()], &wanted, now);
            all.into_iter().map(|lease| lease.address).collect::<Vec<_>>()
        };
        assert_eq!(list(false, None), ["10.0.0.3", "10.0.0.7", "10.0.0.20", "fd00::9"]);
        assert_eq!(list(true, None), ["10.0.0.3", "10.0.0.20", "fd00::9"], "the second has expired");
        assert_eq!(list(true, Some(1)), ["10.0.0.3"]);
    }
}
