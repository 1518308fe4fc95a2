//! Devices, who has which, the numbers of users, and what else is kept of a device.

use std::{collections::HashSet, net::IpAddr};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{all, refused, run, strange, text, text_or_null};
use crate::{
    model::{BindingRecord, DeviceRecord, DeviceState, Extension, Inventory, LineNumber, MacAddr, Timestamp},
    store::{Error, Result},
};

// --- devices and bindings

const DEVICE_COLUMNS: &str = "mac, family, model, firmware, state, generation, first_seen_ms, last_seen_ms, address, location, port, \
                              label, in_group, notes, stands_for";

pub(in crate::store) fn devices(db: &Connection) -> rusqlite::Result<Vec<DeviceRecord>> {
    all(db, &format!("SELECT {DEVICE_COLUMNS} FROM devices ORDER BY mac"), &[], device_row)
}

pub(in crate::store) fn device(db: &Connection, mac: MacAddr) -> rusqlite::Result<Option<DeviceRecord>> {
    db.prepare_cached(&format!("SELECT {DEVICE_COLUMNS} FROM devices WHERE mac = ?1"))?.query_row([mac.to_string()], device_row).optional()
}

fn device_row(row: &Row<'_>) -> rusqlite::Result<DeviceRecord> {
    Ok(DeviceRecord {
        mac: text(row, 0)?,
        family: row.get(1)?,
        model: row.get(2)?,
        firmware: row.get(3)?,
        state: device_state(&row.get::<_, String>(4)?).ok_or_else(|| strange(4))?,
        generation: row.get(5)?,
        first_seen: Timestamp(row.get(6)?),
        last_seen: Timestamp(row.get(7)?),
        address: text_or_null(row, 8)?,
        location: row.get(9)?,
        port: row.get(10)?,
        inventory: Inventory {
            label: row.get(11)?,
            group: row.get(12)?,
            notes: row.get(13)?,
            stands_for: row.get::<_, String>(14)?.split_whitespace().filter_map(|mac| mac.parse().ok()).collect(),
        },
    })
}

pub(in crate::store) fn save_device(db: &Connection, device: &DeviceRecord) -> Result<()> {
    // A generation never goes back: a late write of an old record cannot revive dead secrets.
    let changed = run(
        db,
        "save a device",
        "INSERT INTO devices (mac, family, model, firmware, state, generation, first_seen_ms, last_seen_ms, address, location, port,
           label, in_group, notes, stands_for)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)
         ON CONFLICT (mac) DO UPDATE SET family = excluded.family, model = excluded.model, firmware = excluded.firmware,
           state = excluded.state, generation = excluded.generation, first_seen_ms = excluded.first_seen_ms,
           last_seen_ms = excluded.last_seen_ms, address = excluded.address, location = excluded.location, port = excluded.port,
           label = excluded.label, in_group = excluded.in_group, notes = excluded.notes, stands_for = excluded.stands_for
         WHERE devices.generation <= excluded.generation",
        params![
            device.mac.to_string(),
            device.family,
            device.model,
            device.firmware,
            device_state_name(device.state),
            device.generation,
            device.first_seen.0,
            device.last_seen.0,
            device.address.map(|address| address.to_string()),
            device.location,
            device.port,
            device.inventory.label,
            device.inventory.group,
            device.inventory.notes,
            device.inventory.stands_for.iter().map(MacAddr::to_string).collect::<Vec<_>>().join(" "),
        ],
    )?;
    if changed == 0 {
        let reason = format!("{} has moved on from generation {}", device.mac, device.generation);
        return Err(Error::Refused { what: "save a device", reason });
    }
    Ok(())
}

pub(in crate::store) fn bindings(db: &Connection) -> rusqlite::Result<Vec<BindingRecord>> {
    all(db, "SELECT mac, line, user_id, display_name, extension, generation, since_ms FROM bindings ORDER BY mac, line", &[], |row| {
        Ok(BindingRecord {
            mac: text(row, 0)?,
            line: row.get(1)?,
            user_id: row.get(2)?,
            display_name: row.get(3)?,
            extension: text(row, 4)?,
            generation: row.get(5)?,
            since: Timestamp(row.get(6)?),
        })
    })
}

pub(in crate::store) fn bind(
    db: &Connection,
    device: &DeviceRecord,
    binding: &BindingRecord,
    instead: &[(DeviceRecord, LineNumber)],
    devices_per_extension: u8,
) -> Result<()> {
    for (other, line) in instead {
        unbind(db, other, *line)?;
    }
    save_device(db, device)?;
    run(db, "free the line", "DELETE FROM bindings WHERE mac = ?1 AND line = ?2", params![binding.mac.to_string(), binding.line])?;
    insert_binding(db, binding, devices_per_extension)
}

pub(in crate::store) fn rearrange(
    db: &Connection,
    devices: &[(DeviceRecord, Vec<BindingRecord>)],
    devices_per_extension: u8,
) -> Result<()> {
    // Every line is free before one is given: what leaves one of them for another is in nobody's way.
    for (device, _) in devices {
        save_device(db, device)?;
        run(db, "free the lines", "DELETE FROM bindings WHERE mac = ?1", params![device.mac.to_string()])?;
    }
    devices.iter().flat_map(|(_, bindings)| bindings).try_for_each(|binding| insert_binding(db, binding, devices_per_extension))
}

/// Its line and its device are there, and the line is free.
fn insert_binding(db: &Connection, binding: &BindingRecord, devices_per_extension: u8) -> Result<()> {
    own_extension(db, &binding.user_id, &binding.extension)?;
    let slot = free_slot(db, &binding.extension, devices_per_extension)?;
    run(
        db,
        "bind a device",
        "INSERT INTO bindings (mac, line, user_id, display_name, extension, slot, generation, since_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            binding.mac.to_string(),
            binding.line,
            binding.user_id,
            binding.display_name,
            binding.extension.as_str(),
            slot,
            binding.generation,
            binding.since.0,
        ],
    )
    .map(drop)
}

pub(in crate::store) fn unbind(db: &Connection, device: &DeviceRecord, line: LineNumber) -> Result<()> {
    save_device(db, device)?;
    run(db, "end a binding", "DELETE FROM bindings WHERE mac = ?1 AND line = ?2", params![device.mac.to_string(), line]).map(drop)
}

fn free_slot(db: &Connection, extension: &Extension, devices_per_extension: u8) -> Result<u8> {
    let taken: Vec<(u8, String)> =
        all(db, "SELECT slot, mac FROM bindings WHERE extension = ?1", &[&extension.as_str()], |row| Ok((row.get(0)?, row.get(1)?)))
            .map_err(refused("look for a free place"))?;
    (1..=devices_per_extension.max(1)).find(|slot| taken.iter().all(|(used, _)| used != slot)).ok_or_else(|| Error::ExtensionTaken {
        extension: extension.clone(),
        owner: taken.into_iter().map(|(_, mac)| mac).collect::<Vec<_>>().join(", "),
    })
}

fn device_state_name(state: DeviceState) -> &'static str {
    match state {
        DeviceState::Unknown => "unknown",
        DeviceState::Provisional => "provisional",
        DeviceState::Authenticating => "authenticating",
        DeviceState::Bound => "bound",
        DeviceState::Reloading => "reloading",
        DeviceState::InService => "in_service",
    }
}

fn device_state(name: &str) -> Option<DeviceState> {
    Some(match name {
        "unknown" => DeviceState::Unknown,
        "provisional" => DeviceState::Provisional,
        "authenticating" => DeviceState::Authenticating,
        "bound" => DeviceState::Bound,
        "reloading" => DeviceState::Reloading,
        "in_service" => DeviceState::InService,
        _ => return None,
    })
}

// --- extensions

pub(in crate::store) fn extensions(db: &Connection) -> rusqlite::Result<Vec<(Extension, String)>> {
    all(db, "SELECT extension, user_id FROM extensions ORDER BY given", &[], |row| Ok((text(row, 0)?, row.get(1)?)))
}

pub(in crate::store) fn claim_extension(
    db: &Connection,
    user_id: &str,
    wanted: Option<&Extension>,
    (first, last): (&Extension, &Extension),
) -> Result<Extension> {
    if let Some(wanted) = wanted {
        own_extension(db, user_id, wanted)?;
        return Ok(wanted.clone());
    }
    if let Some(given) = given_before(db, user_id)? {
        return Ok(given);
    }
    let free = lowest_free(db, first, last)?.ok_or_else(|| Error::NoExtensionFree { first: first.clone(), last: last.clone() })?;
    own_extension(db, user_id, &free)?;
    Ok(free)
}

/// Makes the extension this user's. The directory's word counts: from somebody without a device it is taken away.
fn own_extension(db: &Connection, user_id: &str, extension: &Extension) -> Result<()> {
    let what = "claim an extension";
    let owner: Option<String> = db
        .prepare_cached("SELECT user_id FROM extensions WHERE extension = ?1")
        .and_then(|mut statement| statement.query_row([extension.as_str()], |row| row.get(0)).optional())
        .map_err(refused(what))?;
    if let Some(owner) = owner.filter(|owner| owner != user_id) {
        let in_use: bool = db
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM bindings WHERE extension = ?1)")
            .and_then(|mut statement| statement.query_row([extension.as_str()], |row| row.get(0)))
            .map_err(refused(what))?;
        if in_use {
            return Err(Error::ExtensionTaken { extension: extension.clone(), owner });
        }
    }
    run(
        db,
        what,
        "INSERT INTO extensions (extension, user_id, given) VALUES (?1, ?2, (SELECT coalesce(max(given), 0) + 1 FROM extensions))
         ON CONFLICT (extension) DO UPDATE SET user_id = excluded.user_id, given = excluded.given
         WHERE extensions.user_id <> excluded.user_id
            OR extensions.given < (SELECT max(given) FROM extensions WHERE user_id = excluded.user_id)",
        params![extension.as_str(), user_id],
    )
    .map(drop)
}

fn given_before(db: &Connection, user_id: &str) -> Result<Option<Extension>> {
    db.prepare_cached("SELECT extension FROM extensions WHERE user_id = ?1 ORDER BY given DESC LIMIT 1")
        .and_then(|mut statement| statement.query_row([user_id], |row| text(row, 0)).optional())
        .map_err(refused("look for the user's extension"))
}

/// The lowest number of the range that is nobody's, written as wide as the range's first: 0200 is not 200.
fn lowest_free(db: &Connection, first: &Extension, last: &Extension) -> Result<Option<Extension>> {
    let taken: HashSet<String> =
        all(db, "SELECT extension FROM extensions", &[], |row| row.get(0)).map_err(refused("list extensions"))?.into_iter().collect();
    let width = first.as_str().len();
    let (Ok(from), Ok(to)) = (first.as_str().parse::<u64>(), last.as_str().parse::<u64>()) else { return Ok(None) };
    // Ends after at most as many steps as there are extensions taken.
    let free = (from..=to).map(|number| format!("{number:0width$}")).find(|number| !taken.contains(number));
    Ok(free.and_then(|number| number.parse().ok()))
}

// --- phones that are here for the first time

pub(in crate::store) fn first_boots(db: &Connection) -> rusqlite::Result<Vec<(MacAddr, Timestamp, IpAddr)>> {
    let row = |row: &Row<'_>| Ok((text(row, 0)?, Timestamp(row.get(1)?), text(row, 2)?));
    db.prepare("SELECT mac, at, address FROM first_boots")?.query_map([], row)?.collect()
}

pub(in crate::store) fn save_first_boot(db: &Connection, mac: MacAddr, at: Timestamp, address: IpAddr) -> Result<()> {
    let sql = "INSERT INTO first_boots (mac, at, address) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";
    run(db, "keep a first boot", sql, params![mac.to_string(), at.0, address.to_string()]).map(drop)
}

// --- uploads and attempts

pub(in crate::store) fn save_upload(db: &Connection, mac: MacAddr, name: &str, body: &[u8], at: Timestamp) -> Result<()> {
    run(
        db,
        "keep an upload",
        "INSERT OR REPLACE INTO uploads (mac, name, body, at_ms) VALUES (?1, ?2, ?3, ?4)",
        params![mac.to_string(), name, body, at.0],
    )
    .map(drop)
}

pub(in crate::store) fn upload(db: &Connection, mac: MacAddr, name: &str) -> rusqlite::Result<Option<Vec<u8>>> {
    db.query_row("SELECT body FROM uploads WHERE mac = ?1 AND name = ?2", params![mac.to_string(), name], |row| row.get(0)).optional()
}

pub(in crate::store) fn remove_uploads(db: &Connection, mac: MacAddr) -> Result<usize> {
    run(db, "remove uploads", "DELETE FROM uploads WHERE mac = ?1", params![mac.to_string()])
}

pub(in crate::store) fn attempts(db: &Connection) -> rusqlite::Result<Option<String>> {
    db.query_row("SELECT state FROM attempts WHERE id = 1", [], |row| row.get(0)).optional()
}

pub(in crate::store) fn save_attempts(db: &Connection, state: &str) -> Result<()> {
    run(db, "keep the counts of log-ins", "INSERT OR REPLACE INTO attempts (id, state) VALUES (1, ?1)", params![state]).map(drop)
}
