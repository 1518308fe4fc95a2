//! What happened: the one stream that the timeline, the API, the log, metrics and the demo read.
//!
//! Every mechanism tells its part with the device's MAC or the call's id. No event carries a secret or a keyed digit.
//! A number, a lane to readers and durability are given by `journal`.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{CallId, DeviceState, Extension, FamilyName, Generation, LineNumber, MacAddr, Timestamp};

/// An event with its place in the stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Counts up by one from the first event that this store ever saw.
    pub seq: u64,
    pub at: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Event {
    // --- address
    DhcpDiscover {
        mac: MacAddr,
        family: Option<FamilyName>,
        vendor_class: Option<String>,
        relay: Option<IpAddr>,
        /// The options that it asks for (option 55).
        #[serde(default)]
        asked: Vec<u8>,
    },
    DhcpOffer {
        mac: MacAddr,
        address: IpAddr,
    },
    DhcpRequest {
        mac: MacAddr,
        address: Option<IpAddr>,
    },
    /// The lease is on disk; the ACK leaves.
    LeaseGranted {
        mac: MacAddr,
        address: IpAddr,
        family: Option<FamilyName>,
        lease_secs: u32,
        /// The switch port that it is plugged into, where something on the way says so (option 82).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        port: Option<String>,
    },
    LeaseRefused {
        mac: MacAddr,
        address: Option<IpAddr>,
        reason: String,
    },
    LeaseReleased {
        mac: MacAddr,
        address: IpAddr,
    },
    LeaseDeclined {
        mac: MacAddr,
        address: IpAddr,
    },
    LeaseExpired {
        mac: MacAddr,
        address: IpAddr,
    },
    /// It has an address and asks for settings only: an INFORM, or an Information-request of DHCPv6.
    DhcpInform {
        mac: MacAddr,
        address: IpAddr,
        #[serde(default)]
        family: Option<FamilyName>,
    },
    /// Asked the multicast group where its settings are, and is told.
    PnpAsked {
        mac: MacAddr,
        address: Ipv4Addr,
        family: FamilyName,
        model: Option<String>,
        /// Of its firmware.
        version: Option<String>,
    },
    /// Asked in the name of a phone, from another's network card.
    PnpRefused {
        mac: MacAddr,
        address: Ipv4Addr,
        owner: MacAddr,
    },
    PoolExhausted {
        mac: MacAddr,
        subnet: String,
    },

    // --- files
    /// A file was rendered and is on its way (TFTP tells the end of it by `FileDelivered` or `FileFailed`).
    FileServed {
        mac: Option<MacAddr>,
        door: Door,
        path: String,
        source: IpAddr,
        bytes: usize,
        /// BLAKE3, hex: of the text with its secrets masked where the file is a phone's, as `GET /devices/{mac}/configs` has it.
        hash: String,
        /// The phone holds it already, and none of it was sent.
        unchanged: bool,
    },
    /// Every byte was taken by the phone.
    FileDelivered {
        mac: Option<MacAddr>,
        door: Door,
        path: String,
        source: IpAddr,
    },
    FileFailed {
        mac: Option<MacAddr>,
        door: Door,
        path: String,
        source: IpAddr,
        reason: String,
    },
    /// There is no such file, which is normal: phones ask for many.
    FileMissing {
        mac: Option<MacAddr>,
        door: Door,
        path: String,
        source: IpAddr,
        /// What it says that it is, where its door asks for that.
        #[serde(default)]
        user_agent: Option<String>,
    },
    /// There is one, and this source may not have it. It was told that there is none.
    FileRefused {
        mac: Option<MacAddr>,
        door: Door,
        path: String,
        source: IpAddr,
        reason: String,
    },
    /// Files are asked for as no phone does it.
    OddFetches {
        /// Whose, where it is about one phone.
        mac: Option<MacAddr>,
        source: IpAddr,
        what: Oddity,
        /// Phones, or names, that were asked for within ten minutes.
        count: usize,
    },
    /// An admin lets a phone without a lease of ours have its files.
    Admitted {
        mac: MacAddr,
        minutes: u32,
    },
    /// A phone that was never here has its files at the address that asked first (`provisioning.open.first_boot_minutes`).
    FirstBoot {
        mac: MacAddr,
        source: IpAddr,
        minutes: u32,
    },
    FileUploaded {
        mac: Option<MacAddr>,
        door: Door,
        path: String,
        source: IpAddr,
        bytes: usize,
    },
    RenderFailed {
        mac: MacAddr,
        path: String,
        error: String,
    },

    // --- the device's life
    DeviceSeen {
        mac: MacAddr,
        family: Option<FamilyName>,
        model: Option<String>,
        source: Option<IpAddr>,
    },
    /// An admin has written something of the device: its label, its place, what it replaces.
    Noted {
        mac: MacAddr,
        what: String,
    },
    DeviceChanged {
        mac: MacAddr,
        from: DeviceState,
        to: DeviceState,
    },
    /// Two boxes claim one MAC: it is heard from both places by turns.
    DuplicateMac {
        mac: MacAddr,
        known: IpAddr,
        other: IpAddr,
        reason: String,
    },
    Bound {
        mac: MacAddr,
        #[serde(default = "first_line")]
        line: LineNumber,
        extension: Extension,
        display_name: String,
        generation: Generation,
    },
    Unbound {
        mac: MacAddr,
        #[serde(default = "first_line")]
        line: LineNumber,
        extension: Extension,
        generation: Generation,
        reason: String,
    },
    ReloadRequested {
        mac: MacAddr,
        notify_event: String,
        attempt: u32,
    },
    ReloadAnswered {
        mac: MacAddr,
        status: u16,
    },
    /// The phone fetched its own file of the present generation.
    ReloadTaken {
        mac: MacAddr,
    },
    /// Registered with the present secret: only this is done.
    ReloadDone {
        mac: MacAddr,
        extension: Extension,
    },
    ReloadOverdue {
        mac: MacAddr,
        reason: String,
    },

    // --- a change of templates, some phones first
    RolloutStarted {
        /// Whose files change.
        phones: usize,
        /// Who gets them first.
        canary: usize,
    },
    /// These phones have the new files from now on. 1: the canary.
    RolloutWave {
        wave: u32,
        phones: usize,
    },
    RolloutPhone {
        mac: MacAddr,
        wave: u32,
        /// `told`, `fetched`, `registered`, `through`, `failed`, `late`; on the way back `told to go back` and the like.
        step: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    RolloutPaused {
        reason: String,
    },
    RolloutResumed,
    /// The phones that have the new files get the old ones back.
    RolloutGoesBack {
        reason: String,
    },
    RolloutEnded {
        /// `done` or `rolled back`.
        outcome: String,
        /// Phones that are where they should be.
        well: usize,
        /// Those that are not.
        left: usize,
    },

    // --- the makers' firmware
    FirmwareAdded {
        /// As phones ask for it.
        path: String,
        sha256: String,
        bytes: u64,
    },
    FirmwareRemoved {
        path: String,
    },
    /// No phone is told by it: that is what a reload or a rollout is for.
    FirmwarePinned {
        /// In words.
        whom: String,
        /// Absent: the pin was taken away.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
    },
    /// The last byte of it went to a phone.
    FirmwareFetched {
        mac: Option<MacAddr>,
        door: Door,
        path: String,
        source: IpAddr,
    },
    /// It is on disk otherwise than it was added, and is served to nobody.
    FirmwareCorrupt {
        path: String,
        reason: String,
    },

    // --- SIP
    Registered {
        mac: MacAddr,
        user: String,
        contact: String,
        source: SocketAddr,
        user_agent: Option<String>,
        expires_secs: u32,
    },
    Unregistered {
        mac: MacAddr,
        user: String,
        contact: String,
        reason: String,
    },
    RegisterRefused {
        user: String,
        source: SocketAddr,
        reason: String,
    },
    /// Too many wrong passwords: what comes from there gets no answer for a while; `user`: only what comes by that name.
    Banned {
        source: IpAddr,
        user: Option<String>,
        secs: u64,
    },

    // --- the IVR
    IvrStarted {
        mac: Option<MacAddr>,
        call: CallId,
        flow: String,
    },
    IvrPrompt {
        mac: Option<MacAddr>,
        call: CallId,
        text: String,
    },
    /// Only how many keys; never which.
    IvrKeys {
        mac: Option<MacAddr>,
        call: CallId,
        count: usize,
    },
    DirectoryChecked {
        mac: Option<MacAddr>,
        call: CallId,
        outcome: CheckOutcome,
        elapsed_ms: u64,
    },
    LockedOut {
        mac: Option<MacAddr>,
        what: String,
        until: Timestamp,
    },
    IvrEnded {
        mac: Option<MacAddr>,
        call: CallId,
        outcome: String,
    },

    // --- voicemail
    /// A caller is with a mailbox: to leave a message, or to hear what there is.
    VoicemailReached {
        mac: Option<MacAddr>,
        call: CallId,
        /// Empty: who it is is asked first.
        mailbox: String,
        leaves: bool,
    },
    /// A message is on disk.
    MessageLeft {
        mac: Option<MacAddr>,
        call: CallId,
        mailbox: String,
        from: String,
        id: String,
        secs: u64,
    },

    // --- calls
    CallStarted {
        call: CallId,
        from: String,
        to: String,
        mac: Option<MacAddr>,
        labels: Vec<(String, String)>,
    },
    CallRinging {
        call: CallId,
        to: String,
        /// The caller's device, here and below, so that a call is whole in its timeline.
        mac: Option<MacAddr>,
    },
    CallAnswered {
        call: CallId,
        to: String,
        mac: Option<MacAddr>,
    },
    /// A phone sends its call on to somebody else; whether that one takes it is told as for any call.
    CallTransferred {
        call: CallId,
        by: String,
        to: String,
        mac: Option<MacAddr>,
    },
    /// It goes elsewhere before anybody has answered, as the user whom it was for wants it.
    CallDiverted {
        call: CallId,
        by: String,
        to: String,
        /// As in RFC 5806: `unconditional`, `user-busy`, `no-answer`, `unavailable`, `deflection`.
        #[serde(default)]
        reason: String,
        mac: Option<MacAddr>,
    },
    CallEnded {
        call: CallId,
        mac: Option<MacAddr>,
        cause: String,
        status: Option<u16>,
        talk_ms: u64,
    },
    /// Somebody called for help. `test`: it was a trial.
    EmergencyCalled {
        call: CallId,
        mac: Option<MacAddr>,
        from: String,
        number: String,
        /// Where the phone is, in the words of the routes.
        location: Option<String>,
        test: bool,
    },
    /// No call came of it: not allowed, no such number, nobody there, or too much to do.
    CallRefused {
        from: String,
        to: String,
        mac: Option<MacAddr>,
        reason: String,
    },

    // --- trunks
    /// The provider answers, and has registered us where it wants that.
    TrunkUp {
        trunk: String,
    },
    TrunkDown {
        trunk: String,
        reason: String,
    },

    // --- the server itself
    DirectoryUnavailable {
        server: String,
        error: String,
    },
    DirectoryAvailable {
        server: String,
    },
    ConfigReloaded {
        what: String,
    },
    ConfigRejected {
        what: String,
        error: String,
    },
    /// The server shows another certificate from now on, which an authority signed that was asked by ACME.
    CertificateObtained {
        names: Vec<String>,
        issuer: String,
        ends: Timestamp,
    },
    /// That authority signed nothing; what there was is shown on.
    CertificateFailed {
        directory: String,
        error: String,
        /// For whoever must act.
        remedy: String,
        /// When it is asked next.
        again: Timestamp,
    },
    /// What it signed last is valid no longer; our own is shown.
    CertificateEnded {
        names: Vec<String>,
    },
    Started {
        version: String,
    },
    Stopping,
}

/// Which server a file request came in by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Door {
    Tftp,
    Ftp,
    Http,
    Https,
}

/// What is odd about fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Oddity {
    /// One name after the other is tried.
    Enumeration,
    /// The file of somebody's phone, from an address that is not the phone's.
    ForeignAddress,
    /// The phone says to be of another make than it is known to be.
    OtherMake,
    /// Two addresses ask for the files of a phone that is here for the first time.
    SecondFirstBoot,
}

/// Of events from before lines were told.
fn first_line() -> LineNumber {
    1
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tftp => "TFTP",
            Self::Ftp => "FTP",
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    Accepted,
    /// Wrong number or wrong PIN: nobody is told which.
    Refused,
    /// The directory is down, slow or talks nonsense.
    Unavailable,
    LockedOut,
}

impl Event {
    /// Whose timeline it belongs to.
    pub fn mac(&self) -> Option<MacAddr> {
        use Event::*;
        match self {
            DhcpDiscover { mac, .. }
            | DhcpOffer { mac, .. }
            | DhcpRequest { mac, .. }
            | LeaseGranted { mac, .. }
            | LeaseRefused { mac, .. }
            | LeaseReleased { mac, .. }
            | LeaseDeclined { mac, .. }
            | LeaseExpired { mac, .. }
            | DhcpInform { mac, .. }
            | PnpAsked { mac, .. }
            | PnpRefused { mac, .. }
            | PoolExhausted { mac, .. }
            | RenderFailed { mac, .. }
            | DeviceSeen { mac, .. }
            | Admitted { mac, .. }
            | FirstBoot { mac, .. }
            | Noted { mac, .. }
            | DeviceChanged { mac, .. }
            | DuplicateMac { mac, .. }
            | Bound { mac, .. }
            | Unbound { mac, .. }
            | ReloadRequested { mac, .. }
            | ReloadAnswered { mac, .. }
            | ReloadTaken { mac }
            | ReloadDone { mac, .. }
            | ReloadOverdue { mac, .. }
            | RolloutPhone { mac, .. }
            | Registered { mac, .. }
            | Unregistered { mac, .. } => Some(*mac),
            FileServed { mac, .. }
            | FirmwareFetched { mac, .. }
            | FileDelivered { mac, .. }
            | FileFailed { mac, .. }
            | FileMissing { mac, .. }
            | FileRefused { mac, .. }
            | OddFetches { mac, .. }
            | FileUploaded { mac, .. }
            | IvrStarted { mac, .. }
            | IvrPrompt { mac, .. }
            | IvrKeys { mac, .. }
            | DirectoryChecked { mac, .. }
            | LockedOut { mac, .. }
            | IvrEnded { mac, .. }
            | VoicemailReached { mac, .. }
            | MessageLeft { mac, .. }
            | CallStarted { mac, .. }
            | CallRinging { mac, .. }
            | CallAnswered { mac, .. }
            | CallTransferred { mac, .. }
            | CallDiverted { mac, .. }
            | CallEnded { mac, .. }
            | EmergencyCalled { mac, .. }
            | CallRefused { mac, .. } => *mac,
            _ => None,
        }
    }

    /// Which call it belongs to.
    pub fn call(&self) -> Option<CallId> {
        use Event::*;
        match self {
            IvrStarted { call, .. }
            | IvrPrompt { call, .. }
            | IvrKeys { call, .. }
            | DirectoryChecked { call, .. }
            | IvrEnded { call, .. }
            | VoicemailReached { call, .. }
            | MessageLeft { call, .. }
            | CallStarted { call, .. }
            | CallRinging { call, .. }
            | CallAnswered { call, .. }
            | CallTransferred { call, .. }
            | CallDiverted { call, .. }
            | EmergencyCalled { call, .. }
            | CallEnded { call, .. } => Some(*call),
            _ => None,
        }
    }
}

/// Where a mechanism tells what happened. Cheap to clone; telling never blocks.
#[derive(Clone)]
pub struct Events(Arc<dyn Fn(Event) + Send + Sync>);

impl Events {
    pub fn new(tell: impl Fn(Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// To nobody, for tools that run a mechanism alone.
    pub fn nowhere() -> Self {
        Self::new(|_| {})
    }

    pub fn tell(&self, event: Event) {
        (self.0)(event)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Events")
    }
}
