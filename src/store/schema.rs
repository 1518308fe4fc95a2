//! The tables of the SQLite store as an append-only list of migrations, documented where `sqlite3 … .schema` shows it.
//!
//! Migration n brings a database from schema n to n+1; SQLite's `user_version` holds the number of those applied.
//! Never edit one that was released: append another. Not here: running them (`sqlite.rs`).

/// Text in tables: MAC as `00:15:65:aa:bb:cc`, addresses as `10.0.0.5`, times `…_ms` in milliseconds since 1970 UTC.
pub const MIGRATIONS: &[&str] = &[
    r#"
-- Numbers that the server itself counts. 'last_seq': the last event's number, which outlives the event.
CREATE TABLE counters (
  name        TEXT PRIMARY KEY,
  value       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Addresses that DHCP has given. One row per address, so two leases can never share one.
CREATE TABLE leases (
  address     TEXT PRIMARY KEY,
  mac         TEXT NOT NULL,
  client_id   BLOB NOT NULL,          -- option 61 as sent; empty: known by its MAC
  state       TEXT NOT NULL CHECK (state IN ('active', 'released', 'declined')),
  starts_ms   INTEGER NOT NULL,
  expires_ms  INTEGER NOT NULL,
  hostname    TEXT,                   -- as the client named itself (option 12)
  family      TEXT,                   -- of phones, where recognised
  relay       TEXT,                   -- giaddr, when it came through a relay agent
  relay_info  BLOB                    -- option 82 as sent
) STRICT, WITHOUT ROWID;
CREATE INDEX leases_by_mac ON leases (mac);

-- Every device ever seen.
CREATE TABLE devices (
  mac           TEXT PRIMARY KEY,
  family        TEXT,
  model         TEXT,
  firmware      TEXT,
  state         TEXT NOT NULL CHECK (state IN ('unknown', 'provisional', 'authenticating', 'bound', 'reloading', 'in_service')),
  generation    INTEGER NOT NULL,     -- counts binds and unbinds; the SIP secrets derive from it
  first_seen_ms INTEGER NOT NULL,
  last_seen_ms  INTEGER NOT NULL,
  address       TEXT,
  location      TEXT                  -- switch port from option 82, or what an admin wrote
) STRICT, WITHOUT ROWID;

-- Whose number an extension is. It stays theirs when they have no device.
CREATE TABLE extensions (
  extension   TEXT PRIMARY KEY,
  user_id     TEXT NOT NULL,
  given       INTEGER NOT NULL,       -- order of giving: a user's latest is the one in use
  UNIQUE (extension, user_id)
) STRICT;
CREATE INDEX extensions_by_user ON extensions (user_id, given);

-- Whose line it is now.
CREATE TABLE bindings (
  mac         TEXT NOT NULL REFERENCES devices (mac),
  line        INTEGER NOT NULL CHECK (line BETWEEN 1 AND 255),
  user_id     TEXT NOT NULL,
  display_name TEXT NOT NULL,
  extension   TEXT NOT NULL,
  slot        INTEGER NOT NULL CHECK (slot BETWEEN 1 AND 255), -- which of the devices that the extension may have
  generation  INTEGER NOT NULL,
  since_ms    INTEGER NOT NULL,
  PRIMARY KEY (mac, line),
  UNIQUE (extension, slot),
  FOREIGN KEY (extension, user_id) REFERENCES extensions (extension, user_id)
) STRICT, WITHOUT ROWID;

-- What happened, in order. `body` is the event as the API gives it.
CREATE TABLE events (
  seq         INTEGER PRIMARY KEY,
  at_ms       INTEGER NOT NULL,
  type        TEXT NOT NULL,
  mac         TEXT,
  call        TEXT,
  body        TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_mac ON events (mac, seq) WHERE mac IS NOT NULL;
CREATE INDEX events_by_time ON events (at_ms);

-- Registered SIP contacts, written behind: after a restart calls work before the phones come back by themselves.
CREATE TABLE contacts (
  user        TEXT NOT NULL,
  uri         TEXT NOT NULL,
  mac         TEXT NOT NULL,
  line        INTEGER NOT NULL,
  flow        TEXT NOT NULL,
  call_id     TEXT NOT NULL,
  cseq        INTEGER NOT NULL,
  user_agent  TEXT,
  expires_ms  INTEGER NOT NULL,
  PRIMARY KEY (user, uri)
) STRICT, WITHOUT ROWID;

-- API tokens, by their SHA-256 only.
CREATE TABLE tokens (
  name        TEXT PRIMARY KEY,
  hash        BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
  created_ms  INTEGER NOT NULL,
  expires_ms  INTEGER
) STRICT, WITHOUT ROWID;

-- Requests that carried an Idempotency-Key, for a day.
CREATE TABLE actions (
  key          TEXT PRIMARY KEY,
  request_hash BLOB NOT NULL CHECK (length(request_hash) = 32),
  answer       TEXT,
  at_ms        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX actions_by_time ON actions (at_ms);

-- What phones uploaded: logs, contacts, overrides. The newest of each name.
CREATE TABLE uploads (
  mac         TEXT NOT NULL,
  name        TEXT NOT NULL,
  body        BLOB NOT NULL,
  at_ms       INTEGER NOT NULL,
  PRIMARY KEY (mac, name)
) STRICT;

-- Counts and lock-outs of failed log-ins, one JSON document.
CREATE TABLE attempts (
  id          INTEGER PRIMARY KEY CHECK (id = 1),
  state       TEXT NOT NULL
) STRICT;

-- For people: times in words.
CREATE VIEW leases_readable AS
  SELECT address, mac, state, datetime(starts_ms / 1000, 'unixepoch') AS starts_utc,
         datetime(expires_ms / 1000, 'unixepoch') AS expires_utc, hostname, family FROM leases;
CREATE VIEW timeline AS
  SELECT seq, datetime(at_ms / 1000, 'unixepoch') AS at_utc, mac, call, type, body FROM events;
CREATE VIEW phones AS
  SELECT d.mac, d.family, d.model, d.state, d.address, b.line, b.extension, b.display_name,
         datetime(d.last_seen_ms / 1000, 'unixepoch') AS last_seen_utc
    FROM devices d LEFT JOIN bindings b ON b.mac = d.mac;
"#,
    r#"
-- What phones watch, written behind: after a restart NOTIFYs go on in the same dialogs.
CREATE TABLE subscriptions (
  local_tag   TEXT PRIMARY KEY,
  call_id     TEXT NOT NULL,
  remote_tag  TEXT NOT NULL,
  mac         TEXT NOT NULL,
  line        INTEGER NOT NULL,
  user        TEXT NOT NULL,
  event       TEXT NOT NULL,
  resource    TEXT NOT NULL,
  local       TEXT NOT NULL,          -- From and To of the NOTIFYs
  remote      TEXT NOT NULL,
  contact     TEXT NOT NULL,
  target      TEXT NOT NULL,
  routes      TEXT NOT NULL,          -- one a line
  flow        TEXT NOT NULL,
  local_cseq  INTEGER NOT NULL,       -- runs ahead of the one in use
  remote_cseq INTEGER NOT NULL,
  expires_ms  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"#,
    r#"
-- Of the secret that the contact was registered with: only one of the device's present generation is a registration.
ALTER TABLE contacts ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;
UPDATE contacts SET generation = coalesce((SELECT d.generation FROM devices d WHERE d.mac = contacts.mac), 0);
"#,
    r#"
-- What RFC 5626, RFC 3327 and RFC 3261 §20.10 let a contact carry.
ALTER TABLE contacts ADD COLUMN instance TEXT;
ALTER TABLE contacts ADD COLUMN reg_id INTEGER NOT NULL DEFAULT 0;
ALTER TABLE contacts ADD COLUMN q INTEGER NOT NULL DEFAULT 1000;      -- thousandths
ALTER TABLE contacts ADD COLUMN path TEXT NOT NULL DEFAULT '';        -- one URI a line, the top first
"#,
    r#"
-- Who called whom: a row for each leg, written when it begins, when it is answered and when it is over.
CREATE TABLE call_legs (
  call        TEXT NOT NULL,
  leg         INTEGER NOT NULL,       -- from 1, in the order in which the legs of the call began
  direction   TEXT NOT NULL CHECK (direction IN ('in', 'out')), -- seen from the server
  from_number TEXT NOT NULL,
  to_number   TEXT NOT NULL,
  dialled     TEXT NOT NULL,
  mac         TEXT,
  trunk       TEXT,
  diverted_by TEXT,
  began_ms    INTEGER NOT NULL,
  rang_ms     INTEGER,
  answered_ms INTEGER,
  ended_ms    INTEGER,                -- null: up, or nobody knows when
  cause       TEXT,                   -- null: up; 'cut off': the server was killed
  status      INTEGER,                -- the final answer to the INVITE
  codec       TEXT,
  labels      TEXT NOT NULL,          -- JSON
  PRIMARY KEY (call, leg)
) STRICT, WITHOUT ROWID;
CREATE INDEX call_legs_by_time ON call_legs (began_ms, call, leg);
CREATE INDEX call_legs_by_caller ON call_legs (from_number, began_ms);
CREATE INDEX call_legs_by_called ON call_legs (to_number, began_ms);
CREATE INDEX call_legs_open ON call_legs (call) WHERE cause IS NULL;

-- For people: times in words.
CREATE VIEW calls_readable AS
  SELECT call, leg, direction, from_number, to_number, trunk, datetime(began_ms / 1000, 'unixepoch') AS began_utc,
         (ended_ms - answered_ms) / 1000 AS talk_secs, cause, status FROM call_legs ORDER BY began_ms, call, leg;
"#,
    r#"
-- What people wish of their telephones (extension/2041, a JSON document), and night switches (night/office).
CREATE TABLE wishes (
  key         TEXT PRIMARY KEY,
  value       TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"#,
    r#"
-- Messages that were left for people. The recording is voicemail/<mailbox>/<id>.wav beside the database.
CREATE TABLE voice_messages (
  mailbox     TEXT NOT NULL,
  id          TEXT NOT NULL,
  from_number TEXT NOT NULL,
  from_name   TEXT NOT NULL,
  call        TEXT NOT NULL,
  left_ms     INTEGER NOT NULL,
  length_ms   INTEGER NOT NULL,
  bytes       INTEGER NOT NULL,
  heard_ms    INTEGER,                -- null: new
  PRIMARY KEY (mailbox, id)
) STRICT, WITHOUT ROWID;

-- Those of them that are still to be sent by mail.
CREATE TABLE voice_mails (
  mailbox     TEXT NOT NULL,
  id          TEXT NOT NULL,
  tries       INTEGER NOT NULL,
  next_ms     INTEGER NOT NULL,
  PRIMARY KEY (mailbox, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX voice_mails_by_time ON voice_mails (next_ms);
"#,
    r#"
-- A phone that is back with a newer secret takes its older contacts with it: without this each registration read them all.
CREATE INDEX contacts_by_mac ON contacts (mac);
"#,
    r#"
-- Two flows of a phone (RFC 5626) are two contacts, also where they have the same URI.
CREATE TABLE contacts_new (
  user        TEXT NOT NULL,
  uri         TEXT NOT NULL,
  reg_id      INTEGER NOT NULL DEFAULT 0,
  mac         TEXT NOT NULL,
  line        INTEGER NOT NULL,
  generation  INTEGER NOT NULL DEFAULT 0,
  flow        TEXT NOT NULL,
  call_id     TEXT NOT NULL,
  cseq        INTEGER NOT NULL,
  user_agent  TEXT,
  expires_ms  INTEGER NOT NULL,
  instance    TEXT,
  q           INTEGER NOT NULL DEFAULT 1000,    -- thousandths
  path        TEXT NOT NULL DEFAULT '',         -- one URI a line, the top first
  PRIMARY KEY (user, uri, reg_id)
) STRICT, WITHOUT ROWID;
INSERT INTO contacts_new SELECT user, uri, reg_id, mac, line, generation, flow, call_id, cseq, user_agent, expires_ms, instance, q, path
  FROM contacts;
DROP TABLE contacts;
ALTER TABLE contacts_new RENAME TO contacts;
CREATE INDEX contacts_by_mac ON contacts (mac);
"#,
    r#"
-- The switch port that a device is plugged into, from option 82. `location` is what an admin wrote.
ALTER TABLE devices ADD COLUMN port TEXT;
"#,
    r#"
-- What phones were given, each text once, by the hash of it (BLAKE3, hex). Secrets are masked in it, and it is hashed so.
CREATE TABLE config_texts (
  hash        TEXT PRIMARY KEY,
  bytes       INTEGER NOT NULL,
  body        TEXT NOT NULL
) STRICT;

-- Which phone was given it and when. The newest of each file is what the phone got last.
CREATE TABLE configs (
  id          INTEGER PRIMARY KEY,
  mac         TEXT NOT NULL,
  file        TEXT NOT NULL,
  hash        TEXT NOT NULL REFERENCES config_texts (hash),
  first_ms    INTEGER NOT NULL,
  last_ms     INTEGER NOT NULL        -- written behind
) STRICT;
CREATE INDEX configs_by_file ON configs (mac, file, id);
CREATE INDEX configs_by_hash ON configs (hash);
"#,
    r#"
-- What an admin has written of a device. `stands_for`: MACs of those that it has replaced, the last behind, with spaces.
ALTER TABLE devices ADD COLUMN label TEXT;
ALTER TABLE devices ADD COLUMN in_group TEXT;
ALTER TABLE devices ADD COLUMN notes TEXT;
ALTER TABLE devices ADD COLUMN stands_for TEXT NOT NULL DEFAULT '';
"#,
    r#"
-- A change of templates that is under way or was the last, one JSON document; and the templates before and after, while they matter.
CREATE TABLE rollout (
  id          INTEGER PRIMARY KEY CHECK (id = 1),
  state       TEXT NOT NULL,
  old_set     TEXT,
  new_set     TEXT
) STRICT;
"#,
    r#"
-- Old events are found by their numbers.
DROP INDEX events_by_time;
"#,
    r#"
-- Addresses that DHCPv6 has given. One row per address, so two leases can never share one.
CREATE TABLE leases6 (
  address     TEXT PRIMARY KEY,
  duid        BLOB NOT NULL,          -- who the client is, by its own word
  iaid        INTEGER NOT NULL,       -- its number for the interface that the address is for
  mac         TEXT,                   -- where its relay, its own address or its DUID says so
  state       TEXT NOT NULL CHECK (state IN ('active', 'released', 'declined')),
  starts_ms   INTEGER NOT NULL,
  expires_ms  INTEGER NOT NULL,
  family      TEXT,                   -- of phones, where recognised
  peer        TEXT NOT NULL,          -- the client's own address on its link
  relay       TEXT,                   -- the link that a relay heard it on
  port        BLOB                    -- options 18 and 37 of that relay as sent
) STRICT, WITHOUT ROWID;
-- For people: times in words.
CREATE VIEW leases6_readable AS
  SELECT address, mac, hex(duid) AS duid, state, datetime(starts_ms / 1000, 'unixepoch') AS starts_utc,
         datetime(expires_ms / 1000, 'unixepoch') AS expires_utc, family FROM leases6;
"#,
    r#"
-- When a phone that was never here was given its files for that, and where. Never removed: it is so once.
CREATE TABLE first_boots (
  mac         TEXT PRIMARY KEY,
  at          INTEGER NOT NULL,
  address     TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"#,
];

/// The newest schema that this program knows.
pub const KNOWN: u32 = MIGRATIONS.len() as u32;
