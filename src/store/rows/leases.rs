//! Leases of DHCP and DHCPv6.

use std::net::Ipv4Addr;

use rusqlite::{Connection, params};

use super::{all, refused, run, strange, text, text_or_null};
use crate::{
    model::{Lease6Record, LeaseRecord, LeaseState, Timestamp},
    store::{Error, Result},
};

pub(in crate::store) fn leases(db: &Connection) -> rusqlite::Result<Vec<LeaseRecord>> {
    all(db, "SELECT address, mac, client_id, state, starts_ms, expires_ms, hostname, family, relay, relay_info FROM leases", &[], |row| {
        Ok(LeaseRecord {
            address: text(row, 0)?,
            mac: text(row, 1)?,
            client_id: row.get(2)?,
            state: lease_state(&row.get::<_, String>(3)?).ok_or_else(|| strange(3))?,
            starts: Timestamp(row.get(4)?),
            expires: Timestamp(row.get(5)?),
            hostname: row.get(6)?,
            family: row.get(7)?,
            relay: text_or_null(row, 8)?,
            relay_info: row.get(9)?,
        })
    })
}

pub(in crate::store) fn save_lease(db: &Connection, lease: &LeaseRecord) -> Result<()> {
    let what = "save a lease";
    // The last guard behind the DHCP server's own rules: a living lease is not taken away from another client.
    let changed = db
        .prepare_cached(
            "INSERT INTO leases (address, mac, client_id, state, starts_ms, expires_ms, hostname, family, relay, relay_info)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT (address) DO UPDATE SET mac = excluded.mac, client_id = excluded.client_id, state = excluded.state,
               starts_ms = excluded.starts_ms, expires_ms = excluded.expires_ms, hostname = excluded.hostname,
               family = excluded.family, relay = excluded.relay, relay_info = excluded.relay_info
             WHERE leases.state <> 'active' OR leases.expires_ms <= excluded.starts_ms OR excluded.state <> 'active'
                OR leases.mac = excluded.mac OR (leases.client_id = excluded.client_id AND length(leases.client_id) > 0)",
        )
        .and_then(|mut statement| {
            statement.execute(params![
                lease.address.to_string(),
                lease.mac.to_string(),
                lease.client_id,
                lease_state_name(lease.state),
                lease.starts.0,
                lease.expires.0,
                lease.hostname,
                lease.family,
                lease.relay.map(|relay| relay.to_string()),
                lease.relay_info,
            ])
        })
        .map_err(refused(what))?;
    if changed == 0 {
        return Err(Error::Refused { what, reason: format!("{} is leased to another client", lease.address) });
    }
    Ok(())
}

pub(in crate::store) fn remove_lease(db: &Connection, address: Ipv4Addr) -> Result<()> {
    run(db, "remove a lease", "DELETE FROM leases WHERE address = ?1", params![address.to_string()]).map(drop)
}

pub(in crate::store) fn leases6(db: &Connection) -> rusqlite::Result<Vec<Lease6Record>> {
    all(db, "SELECT address, duid, iaid, mac, state, starts_ms, expires_ms, family, peer, relay, port FROM leases6", &[], |row| {
        Ok(Lease6Record {
            address: text(row, 0)?,
            duid: row.get(1)?,
            iaid: row.get(2)?,
            mac: text_or_null(row, 3)?,
            state: lease_state(&row.get::<_, String>(4)?).ok_or_else(|| strange(4))?,
            starts: Timestamp(row.get(5)?),
            expires: Timestamp(row.get(6)?),
            family: row.get(7)?,
            peer: text(row, 8)?,
            relay: text_or_null(row, 9)?,
            port: row.get(10)?,
        })
    })
}

pub(in crate::store) fn save_lease6(db: &Connection, lease: &Lease6Record) -> Result<()> {
    let what = "save a lease of DHCPv6";
    // The last guard, as above.
    let changed = run(
        db,
        what,
        "INSERT INTO leases6 (address, duid, iaid, mac, state, starts_ms, expires_ms, family, peer, relay, port)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (address) DO UPDATE SET duid = excluded.duid, iaid = excluded.iaid, mac = excluded.mac, state = excluded.state,
           starts_ms = excluded.starts_ms, expires_ms = excluded.expires_ms, family = excluded.family, peer = excluded.peer,
           relay = excluded.relay, port = excluded.port
         WHERE leases6.state <> 'active' OR leases6.expires_ms <= excluded.starts_ms OR excluded.state <> 'active'
            OR (leases6.duid = excluded.duid AND leases6.iaid = excluded.iaid)",
        params![
            lease.address.to_string(),
            lease.duid,
            lease.iaid,
            lease.mac.map(|mac| mac.to_string()),
            lease_state_name(lease.state),
            lease.starts.0,
            lease.expires.0,
            lease.family,
            lease.peer.to_string(),
            lease.relay.map(|relay| relay.to_string()),
            lease.port,
        ],
    )?;
    if changed == 0 {
        return Err(Error::Refused { what, reason: format!("{} is leased to another client", lease.address) });
    }
    Ok(())
}

fn lease_state_name(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Active => "active",
        LeaseState::Released => "released",
        LeaseState::Declined => "declined",
    }
}

fn lease_state(name: &str) -> Option<LeaseState> {
    Some(match name {
        "active" => LeaseState::Active,
        "released" => LeaseState::Released,
        "declined" => LeaseState::Declined,
        _ => return None,
    })
}
