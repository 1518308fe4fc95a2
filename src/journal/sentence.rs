//! What an event says in the log: one human sentence, its level, and whether it may be dropped in a crowd.

use crate::model::{
    Event, LineNumber, Recorded,
    event::{CheckOutcome, Oddity},
};

/// How much an event matters when not all can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weight {
    /// Happens often and changes nothing.
    Chatter,
    /// A step of somebody's story.
    Milestone,
}

pub(super) fn weight(event: &Event) -> Weight {
    use Event::*;
    match event {
        DhcpDiscover { .. } | DhcpOffer { .. } | DhcpRequest { .. } | DhcpInform { .. } | PnpAsked { .. } => Weight::Chatter,
        FileMissing { .. } | PnpRefused { .. } | RegisterRefused { .. } | LeaseRefused { .. } | PoolExhausted { .. } => Weight::Chatter,
        DeviceSeen { .. } | IvrPrompt { .. } | IvrKeys { .. } => Weight::Chatter,
        _ => Weight::Milestone,
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

fn level(event: &Event) -> Level {
    use Event::*;
    match event {
        DhcpDiscover { .. } | DhcpOffer { .. } | DhcpRequest { .. } | DhcpInform { .. } | FileMissing { .. } => Level::Debug,
        IvrKeys { .. } | FileServed { unchanged: true, .. } => Level::Debug,
        LeaseRefused { .. } | LeaseDeclined { .. } | FileFailed { .. } | FileRefused { .. } | RegisterRefused { .. } => Level::Warn,
        OddFetches { .. }
        | PnpRefused { .. }
        | Banned { .. }
        | LockedOut { .. }
        | ReloadOverdue { .. }
        | CallRefused { .. }
        | DuplicateMac { .. } => Level::Warn,
        RolloutGoesBack { .. } | RolloutPaused { .. } => Level::Warn,
        DirectoryChecked { outcome: CheckOutcome::Unavailable, .. } => Level::Warn,
        PoolExhausted { .. }
        | RenderFailed { .. }
        | FirmwareCorrupt { .. }
        | TrunkDown { .. }
        | DirectoryUnavailable { .. }
        | CertificateFailed { .. }
        | CertificateEnded { .. }
        | ConfigRejected { .. } => Level::Error,
        _ => Level::Info,
    }
}

/// One line with `seq`, `mac` and `call`, where the event has them.
pub(super) fn log(recorded: &Recorded) {
    let seq = recorded.seq;
    let mac = recorded.event.mac().map(tracing::field::display);
    let call = recorded.event.call().map(tracing::field::display);
    // Words are made for those who listen only: ten thousand phones may come back at once.
    let text = std::fmt::from_fn(|f| f.write_str(&sentence(&recorded.event)));
    match level(&recorded.event) {
        Level::Debug => tracing::debug!(target: "plugtone::journal", seq, mac, call, "{text}"),
        Level::Info => tracing::info!(target: "plugtone::journal", seq, mac, call, "{text}"),
        Level::Warn => tracing::warn!(target: "plugtone::journal", seq, mac, call, "{text}"),
        Level::Error => tracing::error!(target: "plugtone::journal", seq, mac, call, "{text}"),
    }
}

/// The event in words, for logs, timelines and the demo. What peers sent is kept to one line of printable text.
pub fn sentence(event: &Event) -> String {
    let text = words(event);
    let printable = text.chars().all(|c| !c.is_control());
    if printable { text } else { text.chars().map(|c| if c.is_control() { '·' } else { c }).collect() }
}

fn words(event: &Event) -> String {
    use Event::*;
    match event {
        DhcpDiscover { family, vendor_class, relay, .. } => format!(
            "asks for an address{}{}{}",
            maybe(", looks like ", family),
            maybe(", calls itself ", vendor_class),
            maybe(", through relay ", relay)
        ),
        DhcpOffer { address, .. } => format!("is offered {address}"),
        DhcpRequest { address, .. } => format!("requests {}", or(address, "its address again")),
        LeaseGranted { address, family, lease_secs, port, .. } => {
            format!("has {address} for {lease_secs} s{}{}", maybe(", known as ", family), maybe(", plugged in at ", port))
        }
        LeaseRefused { address, reason, .. } => format!("is refused {}: {reason}", or(address, "an address")),
        LeaseReleased { address, .. } => format!("gives {address} back"),
        LeaseDeclined { address, .. } => format!("found somebody else on {address}"),
        LeaseExpired { address, .. } => format!("let {address} expire"),
        DhcpInform { address, .. } => format!("asks for settings at its own address {address}"),
        PnpAsked { address, .. } => format!("asks by multicast from {address} where its settings are, and is told"),
        PnpRefused { address, owner, .. } => {
            format!("is not told where its settings are: {address}, which asks in its name, is the network card {owner}")
        }
        PoolExhausted { subnet, .. } => format!("gets no address: every one of {subnet} is taken; widen the range or shorten the lease"),
        FileServed { door, path, source, bytes, unchanged, .. } => {
            let how = if *unchanged { "already has" } else { "is sent" };
            format!("{source} {how} {path} ({bytes} bytes) by {door}")
        }
        FileDelivered { door, path, source, .. } => format!("{source} has all of {path} by {door}"),
        FileFailed { door, path, source, reason, .. } => format!("{source} did not get {path} by {door}: {reason}"),
        FileMissing { door, path, source, .. } => format!("{source} asks for {path} by {door}, which does not exist"),
        FileRefused { door, path, source, reason, .. } => format!("{source} may not have {path} by {door}: {reason}"),
        OddFetches { source, what: Oddity::Enumeration, count, .. } => {
            format!(
                "{source} tries names of files: {count} within ten minutes that it may not have or that are not there; look who that is"
            )
        }
        OddFetches { source, what: Oddity::ForeignAddress, .. } => {
            format!("{source} asks for the file of somebody's phone, and is not that phone; look who that is")
        }
        OddFetches { source, what: Oddity::OtherMake, .. } => {
            format!("{source} has this phone's address and says to be of another make: look what is plugged in there")
        }
        OddFetches { source, what: Oddity::SecondFirstBoot, .. } => {
            format!(
                "{source} asks for this phone's files while the phone is here for the first time at another address; look which of the two is the phone"
            )
        }
        FirstBoot { source, minutes, .. } => format!("was never here: {source} has its files, for {minutes} minutes"),
        Admitted { minutes, .. } => format!("the first address that asks for its files has them, for {minutes} minutes"),
        FileUploaded { door, path, source, bytes, .. } => format!("{source} uploads {path} ({bytes} bytes) by {door}"),
        RenderFailed { path, error, .. } => format!("{path} cannot be rendered: {error}"),
        DeviceSeen { family, model, source, .. } => {
            format!("is on the network: {}{}{}", family.as_deref().unwrap_or("unknown make"), maybe(" ", model), maybe(" at ", source))
        }
        Noted { what, .. } => format!("is written down with {what}"),
        DeviceChanged { from, to, .. } => format!("goes from {from:?} to {to:?}"),
        DuplicateMac { known, other, reason, .. } => {
            format!("seems to be two devices, at {known} and {other}: {reason}; unplug one of them")
        }
        Bound { line, extension, display_name, generation, .. } => {
            format!("{}belongs to {display_name}, extension {extension} (generation {generation})", of_line(*line))
        }
        Unbound { line, extension, reason, .. } => format!("{}is no longer extension {extension}: {reason}", of_line(*line)),
        ReloadRequested { notify_event, attempt, .. } => format!("is told to reload with `{notify_event}` (attempt {attempt})"),
        ReloadAnswered { status, .. } => format!("answers {status} to the reload"),
        ReloadTaken { .. } => "has fetched its new file".into(),
        ReloadDone { extension, .. } => format!("is in service as {extension}"),
        ReloadOverdue { reason, .. } => format!("has not reloaded: {reason}"),
        RolloutStarted { phones, canary } => format!("a change begins to go to {phones} phones, {canary} of them first"),
        RolloutWave { wave, phones } => format!("wave {wave} of the change: {phones} phones"),
        RolloutPhone { wave, step, reason, .. } => format!("wave {wave} of the change: {step}{}", maybe(", ", reason)),
        RolloutPaused { reason } => format!("the change is paused: {reason}"),
        RolloutResumed => "the change goes on".into(),
        RolloutGoesBack { reason } => format!("the change is taken back: {reason}"),
        RolloutEnded { outcome, well, left } => format!("the change is {outcome}: {well} phones as they should be, {left} not"),
        FirmwareAdded { path, bytes, .. } => format!("{path} ({bytes} bytes) was added"),
        FirmwareRemoved { path } => format!("{path} was removed"),
        FirmwarePinned { whom, version: Some(version) } => format!("firmware {version} is pinned for {whom}"),
        FirmwarePinned { whom, version: None } => format!("no firmware is pinned for {whom} any more"),
        FirmwareFetched { door, path, source, .. } => format!("{source} has all of {path} by {door}: firmware"),
        FirmwareCorrupt { path, reason } => format!("{path} is served to nobody, as it is not what was added: {reason}"),
        Registered { user, contact, source, expires_secs, .. } => {
            format!("registers as {user} at {contact} from {source} for {expires_secs} s")
        }
        Unregistered { user, contact, reason, .. } => format!("is no longer registered as {user} at {contact}: {reason}"),
        Banned { source, user, secs } => {
            format!("{source}{} gets no answer for {secs} s: too many wrong passwords", maybe(" as ", user))
        }
        RegisterRefused { user, source, reason } => format!("{source} may not register as {user}: {reason}"),
        IvrStarted { flow, .. } => format!("a caller enters the flow {flow}"),
        IvrPrompt { text, .. } => format!("the caller hears: {text}"),
        IvrKeys { count, .. } => format!("the caller presses {count} keys (hidden)"),
        DirectoryChecked { outcome, elapsed_ms, .. } => format!("the directory says {outcome:?} after {elapsed_ms} ms"),
        LockedOut { what, until, .. } => format!("{what} is locked out until {until}"),
        IvrEnded { outcome, .. } => format!("the caller leaves the flow: {outcome}"),
        CallStarted { from, to, .. } => format!("{from} calls {to}"),
        CallRinging { to, .. } => format!("{to} rings"),
        CallAnswered { to, .. } => format!("{to} answers"),
        CallDiverted { by, to, reason, .. } => format!("{by} diverts the call to {to} ({reason})"),
        CallTransferred { by, to, .. } => format!("{by} transfers the call to {to}"),
        VoicemailReached { mailbox, leaves: true, .. } => format!("the caller may leave a message for {mailbox}"),
        VoicemailReached { mailbox, .. } if mailbox.is_empty() => "the caller wants to hear messages".to_owned(),
        VoicemailReached { mailbox, .. } => format!("the caller hears the messages of {mailbox}"),
        MessageLeft { mailbox, from, secs, .. } => format!("{from} has left a message of {secs} s for {mailbox}"),
        CallEnded { cause, status, talk_ms, .. } => {
            format!("the call ends: {cause}{}, {:.1} s of talk", maybe(", status ", status), *talk_ms as f64 / 1000.0)
        }
        CallRefused { from, to, reason, .. } => format!("{from} cannot call {to}: {reason}"),
        EmergencyCalled { from, number, location, test, .. } => {
            let place = location.as_ref().map(|place| format!(" from {place}")).unwrap_or_default();
            let trial = if *test { " (a trial)" } else { "" };
            format!("{from} calls {number} for help{place}{trial}")
        }
        TrunkUp { trunk } => format!("the trunk {trunk} is up"),
        TrunkDown { trunk, reason } => format!("the trunk {trunk} is down: {reason}"),
        DirectoryUnavailable { server, error } => format!("the directory {server} does not answer: {error}"),
        DirectoryAvailable { server } => format!("the directory {server} answers again"),
        ConfigReloaded { what } => format!("{what} is reloaded"),
        ConfigRejected { what, error } => format!("{what} has an error and the last good one stays: {error}"),
        CertificateObtained { names, issuer, ends } => {
            format!("a certificate for {} is shown, signed by {issuer}, valid until {ends}", names.join(", "))
        }
        CertificateFailed { directory, error, remedy, again } => {
            format!("no certificate from {directory}: {error}; {remedy}; asked again {again}, or at a reload")
        }
        CertificateEnded { names } => {
            format!(
                "the certificate for {} has ended; the server's own is shown, which phones believe that have its ca.crt",
                names.join(", ")
            )
        }
        Started { version } => format!("Plugtone {version} has started"),
        Stopping => "stopping".into(),
    }
}

/// Nearly every phone has one line, and it is not named.
fn of_line(line: LineNumber) -> String {
    if line == 1 { String::new() } else { format!("line {line} ") }
}

fn maybe(before: &str, value: &Option<impl std::fmt::Display>) -> String {
    value.as_ref().map(|value| format!("{before}{value}")).unwrap_or_default()
}

fn or(value: &Option<impl std::fmt::Display>, otherwise: &str) -> String {
    value.as_ref().map_or_else(|| otherwise.to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_peer_sent_cannot_write_lines_of_its_own() {
        let event = Event::RegisterRefused {
            user: "x\n2026-01-01 ERROR all is lost".into(),
            source: "127.0.0.1:5060".parse().expect("address"),
            reason: "unknown".into(),
        };
        assert_eq!(sentence(&event), "127.0.0.1:5060 may not register as x·2026-01-01 ERROR all is lost: unknown");
    }
}
