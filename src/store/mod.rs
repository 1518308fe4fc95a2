//! What is kept on disk, and how to ask for it: one interface, SQLite (`sqlite.rs`) behind it today.
//!
//! A method that writes returns when the write is durable: what was acknowledged to a phone survives `kill -9`.
//! Writers are grouped into one commit, so concurrent callers share an fsync. Not here: policy.

mod rows;
mod schema;
mod settings;
pub mod sqlite;
pub mod worker;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

pub use settings::Settings;
pub use sqlite::Sqlite;

use async_trait::async_trait;

use crate::model::{
    BindingRecord, CallId, DeviceRecord, Extension, Generation, Lease6Record, LeaseRecord, LineNumber, MacAddr, Recorded, Timestamp,
};

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    #[error("cannot open the database {path}: {reason}; check that the folder exists and that this user may write to it")]
    Open { path: String, reason: String },
    #[error("the database was written by a newer Plugtone (schema {found}, this one knows {known}): run that version or restore a backup")]
    TooNew { found: u32, known: u32 },
    #[error("the database refused to {what}: {reason}; nothing was changed")]
    Refused { what: &'static str, reason: String },
    #[error("extension {extension} already belongs to {owner}: free it there or choose another")]
    ExtensionTaken { extension: Extension, owner: String },
    #[error("no extension is free between {first} and {last}: widen `extensions.range`")]
    NoExtensionFree { first: Extension, last: Extension },
    #[error("the store has stopped")]
    Stopped,
}

/// A registered SIP contact, kept so that calls work at once after a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactRecord {
    /// User part of the address of record.
    pub user: String,
    pub mac: MacAddr,
    pub line: LineNumber,
    /// Of the secret that it was registered with. One of the past is no registration, but where the phone is told to reload.
    pub generation: Generation,
    /// The contact URI as registered.
    pub uri: String,
    /// Where its last REGISTER came from, and how, as `udp 10.0.0.5:5060`.
    pub flow: String,
    pub call_id: String,
    pub cseq: u32,
    pub user_agent: Option<String>,
    /// `+sip.instance` and `reg-id` (RFC 5626).
    pub instance: Option<String>,
    pub reg_id: u32,
    /// In thousandths.
    pub q: u16,
    /// RFC 3327, top first.
    pub path: Vec<String>,
    pub expires: Timestamp,
}

/// Which contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContactKey {
    pub user: String,
    pub uri: String,
    pub reg_id: u32,
}

/// What a phone watches, kept so that it goes on after a restart in its own dialog (RFC 6665).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// Ours, and never used twice.
    pub local_tag: String,
    pub call_id: String,
    pub remote_tag: String,
    pub mac: MacAddr,
    pub line: LineNumber,
    /// Whose phone it is: user part of the address of record.
    pub user: String,
    /// The value of Event, as `dialog;id=4`.
    pub event: String,
    /// What is watched, as `2042`.
    pub resource: String,
    /// From and To of its NOTIFYs.
    pub local: String,
    pub remote: String,
    pub contact: String,
    /// The Request-URI.
    pub target: String,
    /// Route headers, one a line.
    pub routes: String,
    pub flow: String,
    /// No NOTIFY had a higher one.
    pub local_cseq: u32,
    pub remote_cseq: u32,
    pub expires: Timestamp,
}

/// Who called whom by one leg of a call. Unique by call and leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallLeg {
    pub call: CallId,
    /// Counted from 1 in the order in which the legs of the call began.
    pub leg: u32,
    pub direction: LegDirection,
    /// Who is shown as the caller.
    pub from: String,
    /// Whose phones ring, or what a caller has dialled.
    pub to: String,
    /// What was dialled for the call as a whole.
    pub dialled: String,
    /// The phone at its end; `None` outside.
    pub mac: Option<MacAddr>,
    pub trunk: Option<String>,
    /// Who has sent the call there.
    pub diverted_by: Option<String>,
    pub began: Timestamp,
    pub rang: Option<Timestamp>,
    pub answered: Option<Timestamp>,
    /// `None`: it is up, or nobody knows when a server that was killed lost it.
    pub ended: Option<Timestamp>,
    /// Why it is over; `None` while it is not.
    pub cause: Option<String>,
    /// The final answer to its INVITE.
    pub status: Option<u16>,
    /// The sound format that was agreed last, as `PCMA`.
    pub codec: Option<String>,
    pub labels: Vec<(String, String)>,
}

/// Seen from the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegDirection {
    /// Its phone called.
    In,
    /// Its phone was called.
    Out,
}

/// Which legs are wanted, the newest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallLegQuery {
    /// Only those from or to this number.
    pub user: Option<String>,
    /// Only those that began at this moment or later.
    pub since: Option<Timestamp>,
    /// Only those that began before this moment.
    pub until: Option<Timestamp>,
    /// Only those after this one, in the order of the answer: when it began, its call and its number there.
    pub after: Option<(Timestamp, CallId, u32)>,
    pub limit: usize,
}

/// A message that was left for somebody. Unique by mailbox and id; its recording is a file of that name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VoiceMessage {
    pub id: String,
    /// The extension that it was left for.
    pub mailbox: String,
    pub from: String,
    pub from_name: String,
    /// The call in which it was left.
    pub call: String,
    pub left: Timestamp,
    pub length_ms: u64,
    /// Of the recording.
    pub bytes: u64,
    /// When its owner heard it; `None`: it is new.
    pub heard: Option<Timestamp>,
}

/// A message that is to be sent by mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VoiceMail {
    pub mailbox: String,
    pub id: String,
    /// How often it was tried in vain.
    pub tries: u32,
}

/// A configuration that a phone was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServedConfig {
    pub mac: MacAddr,
    /// Its name, as its make spells it.
    pub file: String,
    /// BLAKE3 of the text, hex. Secrets are masked in the text.
    pub hash: String,
    /// Of the text.
    pub bytes: u64,
    pub first: Timestamp,
    pub last: Timestamp,
}

/// A change of templates, and the templates before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRollout {
    pub state: String,
    pub old: Option<String>,
    pub new: Option<String>,
}

/// One that the phone was not given last: its text goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewConfig {
    pub mac: MacAddr,
    pub file: String,
    pub hash: String,
    pub text: String,
    pub at: Timestamp,
}

/// The cause of a leg that was up when the server was killed.
pub const CUT_OFF: &str = "cut off";

/// An API token: only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    pub name: String,
    /// SHA-256 of the token.
    pub hash: [u8; 32],
    pub created: Timestamp,
    pub expires: Option<Timestamp>,
}

/// What became of a request that carried an `Idempotency-Key`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody used the key: it is ours now, durably.
    New,
    /// The same request came before; its answer, if it is known by now.
    Repeated { answer: Option<String> },
    /// The key was used for another request.
    Conflict,
}

#[async_trait]
pub trait Store: Send + Sync + 'static {
    // --- leases, unique by address
    async fn leases(&self) -> Result<Vec<LeaseRecord>>;
    async fn save_lease(&self, lease: LeaseRecord) -> Result<()>;
    async fn remove_lease(&self, address: Ipv4Addr) -> Result<()>;
    /// Of DHCPv6.
    async fn leases6(&self) -> Result<Vec<Lease6Record>>;
    /// All of them or none.
    async fn save_leases6(&self, leases: Vec<Lease6Record>) -> Result<()>;

    // --- devices and bindings
    async fn devices(&self) -> Result<Vec<DeviceRecord>>;
    async fn device(&self, mac: MacAddr) -> Result<Option<DeviceRecord>>;
    /// Refused when the stored generation is higher: an old record cannot revive dead secrets.
    async fn save_device(&self, device: DeviceRecord) -> Result<()>;
    /// In pieces: after an error any of them may be stored, and all can be saved again.
    async fn save_devices(&self, devices: Vec<DeviceRecord>) -> Result<()>;
    async fn bindings(&self) -> Result<Vec<BindingRecord>>;
    /// Stores the device and its binding, and ends the bindings in `instead`, all or nothing.
    /// [`Error::ExtensionTaken`] when the extension is another user's, or has `devices_per_extension` devices already.
    async fn bind(
        &self,
        device: DeviceRecord,
        binding: BindingRecord,
        instead: Vec<(DeviceRecord, LineNumber)>,
        devices_per_extension: u8,
    ) -> Result<()>;
    /// Stores the device and ends its line's binding, all or nothing.
    async fn unbind(&self, device: DeviceRecord, line: LineNumber) -> Result<()>;
    /// Stores these devices, each with its bindings and no others, all or nothing. [`Error::ExtensionTaken`] as for [`Self::bind`].
    async fn rearrange(&self, devices: Vec<(DeviceRecord, Vec<BindingRecord>)>, devices_per_extension: u8) -> Result<()>;
    /// Whose every extension is, in the order in which they were given.
    async fn extensions(&self) -> Result<Vec<(Extension, String)>>;
    /// The extension of this user: the one wanted, the one given before, or the lowest free one of the range. One that
    /// is wanted is taken over from a user who has no device on it; [`Error::ExtensionTaken`] otherwise.
    async fn claim_extension(&self, user_id: &str, wanted: Option<Extension>, range: (Extension, Extension)) -> Result<Extension>;

    // --- events
    /// Stores them in pieces, which lets others write in between; of an attempt that fails some may be there. Those are not stored
    /// again when it is repeated, but a number is not given to another event.
    async fn append_events(&self, events: Vec<Arc<Recorded>>) -> Result<()>;
    /// Events after `seq`, oldest first.
    async fn events_after(&self, seq: u64, limit: usize) -> Result<Vec<Recorded>>;
    /// A device's own events, oldest first, the newest `limit`.
    async fn timeline(&self, mac: MacAddr, limit: usize) -> Result<Vec<Recorded>>;
    async fn last_seq(&self) -> Result<u64>;
    /// Forgets the oldest events, up to the first that happened between `before` and `now`; returns how many. One from the future,
    /// told while the clock was wrong, keeps nothing alive.
    async fn prune_events(&self, before: Timestamp, now: Timestamp) -> Result<usize>;

    // --- contacts, written behind
    async fn contacts(&self) -> Result<Vec<ContactRecord>>;
    /// Removes contacts, then saves others, all or none, in one commit. What is saved takes its line's contacts of earlier generations
    /// with it.
    async fn write_contacts(&self, gone: Vec<ContactKey>, saved: Vec<ContactRecord>) -> Result<()>;

    // --- subscriptions, written behind, unique by local tag
    async fn subscriptions(&self) -> Result<Vec<SubscriptionRecord>>;
    async fn save_subscription(&self, subscription: SubscriptionRecord) -> Result<()>;
    async fn remove_subscription(&self, local_tag: &str) -> Result<()>;

    // --- who called whom, written behind
    /// All in one commit; when one is refused, those before it are there, and all can be saved again. A leg that is there already is
    /// replaced, unless it is over.
    async fn save_call_legs(&self, legs: Vec<CallLeg>) -> Result<()>;
    async fn call_legs(&self, query: CallLegQuery) -> Result<Vec<CallLeg>>;
    /// At the start, when no call is up: those without a cause were [`CUT_OFF`]. Returns how many.
    async fn close_call_legs(&self) -> Result<usize>;
    /// Forgets legs that began before `before`; returns how many.
    async fn prune_call_legs(&self, before: Timestamp) -> Result<usize>;

    // --- voice messages
    /// Of one mailbox, or of all; in no order.
    async fn voice_messages(&self, mailbox: Option<String>) -> Result<Vec<VoiceMessage>>;
    /// What the recordings of all mailboxes take.
    async fn voice_bytes(&self) -> Result<u64>;
    /// `mail`: it is to be sent by mail too; both or none.
    async fn save_voice_message(&self, message: VoiceMessage, mail: bool) -> Result<()>;
    /// It is heard, if it was not before. `false`: there is none.
    async fn mark_voice_message(&self, mailbox: &str, id: &str, heard: Timestamp) -> Result<bool>;
    /// With its mail. `false`: there is none.
    async fn remove_voice_message(&self, mailbox: &str, id: &str) -> Result<bool>;
    /// Mails that are due, the longest due first, and when the next one is.
    async fn voice_mails(&self, now: Timestamp, limit: usize) -> Result<(Vec<VoiceMail>, Option<Timestamp>)>;
    /// It was tried in vain, and is due again then.
    async fn retry_voice_mail(&self, mailbox: &str, id: &str, next: Timestamp) -> Result<()>;
    async fn remove_voice_mail(&self, mailbox: &str, id: &str) -> Result<()>;

    // --- API
    async fn tokens(&self) -> Result<Vec<TokenRecord>>;
    async fn save_token(&self, token: TokenRecord) -> Result<()>;
    async fn remove_token(&self, name: &str) -> Result<bool>;
    async fn claim_action(&self, key: &str, request_hash: [u8; 32], now: Timestamp) -> Result<Claim>;
    async fn finish_action(&self, key: &str, answer: &str) -> Result<()>;
    /// Nothing came of the request: it may be tried again under its key.
    async fn forget_action(&self, key: &str) -> Result<()>;

    // --- uploads of phones, newest of each name
    async fn save_upload(&self, mac: MacAddr, name: &str, body: Vec<u8>, at: Timestamp) -> Result<()>;
    async fn upload(&self, mac: MacAddr, name: &str) -> Result<Option<Vec<u8>>>;
    async fn remove_uploads(&self, mac: MacAddr) -> Result<usize>;

    // --- what phones were given
    /// All that this phone was given, the newest first.
    async fn configs(&self, mac: MacAddr) -> Result<Vec<ServedConfig>>;
    /// What every phone was given last of each file.
    async fn latest_configs(&self) -> Result<Vec<ServedConfig>>;
    /// By its hash; `None`: there is none, or it is kept no more.
    async fn config_text(&self, hash: &str) -> Result<Option<String>>;
    /// In this order, in one commit; gives the bytes of texts that were not there yet.
    async fn save_configs(&self, configs: Vec<NewConfig>) -> Result<u64>;
    /// When the phone was given this file last, without a change.
    async fn touch_configs(&self, served: Vec<(MacAddr, String, Timestamp)>) -> Result<()>;
    /// What all texts take.
    async fn config_bytes(&self) -> Result<u64>;
    /// Forgets until the texts take `most` bytes or less: those that were given last the longest ago, and first of all those
    /// that a newer one has followed. Gives what the rest takes.
    async fn prune_configs(&self, most: u64) -> Result<u64>;

    // --- phones that are here for the first time
    async fn first_boots(&self) -> Result<Vec<(MacAddr, Timestamp, IpAddr)>>;
    async fn save_first_boot(&self, mac: MacAddr, at: Timestamp, address: IpAddr) -> Result<()>;

    // --- a change of templates: one at a time
    async fn rollout(&self) -> Result<Option<StoredRollout>>;
    /// In the place of the last.
    async fn save_rollout(&self, rollout: StoredRollout) -> Result<()>;
    /// Of the one that is there.
    async fn save_rollout_state(&self, state: &str) -> Result<()>;
    async fn forget_rollout_sets(&self) -> Result<()>;
    async fn remove_rollout(&self) -> Result<()>;

    // --- wishes
    /// Documents by key: what people wish of their telephones, and where night switches stand.
    async fn wishes(&self) -> Result<Vec<(String, String)>>;
    /// `None` takes it out.
    async fn save_wish(&self, key: &str, value: Option<&str>) -> Result<()>;

    /// Counts and lock-outs of failed log-ins, as `binding/attempts.rs` wrote them.
    async fn attempts(&self) -> Result<Option<String>>;
    async fn save_attempts(&self, state: &str) -> Result<()>;
}
