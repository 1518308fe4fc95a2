//! The way to the engine: what others may ask of it and wait for.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::sync::{mpsc, oneshot};

use super::Load;
use crate::{
    call::{
        Config,
        half::{Cause, Snapshot},
        locate::Found,
        presence::{Lamp, Mailbox},
        routing::{Caller, Errand},
        switch::{Originate, OriginateError, ServiceCommand},
        trunk::Standing,
    },
    features::{Change, Wishes, book},
    media::{MediaEvent, SessionId},
    model::{CallId, Generation, LineNumber, MacAddr},
    routing::hours::Switch as Night,
    sip::{
        capture::{Captured, Kept},
        guard::Ban,
        notify, registrar,
    },
};

/// A call that was answered and is the voice menu's now.
pub struct ServiceCall {
    pub call: CallId,
    pub caller: Caller,
    /// What shall be done with it.
    pub errand: Errand,
    /// Where its signalling comes from.
    pub source: SocketAddr,
    /// Its audio, connected.
    pub session: SessionId,
    /// Keys and ends of prompts. Closes when the call is over.
    pub events: mpsc::Receiver<(SessionId, MediaEvent)>,
    /// Fires when the call is over for the menu, with the reason.
    pub ended: oneshot::Receiver<Cause>,
    /// Dropping it hangs up, unless the call was transferred.
    pub control: ServiceControl,
}

/// What the menu may do with a call that it has.
pub struct ServiceControl {
    pub(super) call: CallId,
    pub(super) commands: mpsc::Sender<Command>,
}

impl ServiceControl {
    /// Ends the call.
    pub fn hang_up(&self) {
        self.send(Command::Service { call: self.call, command: ServiceCommand::Hangup, answer: None });
    }

    /// Rings the extension. `true`: somebody took the call, and the menu is done with it. `false`, or nothing: the menu still has it.
    pub fn transfer(&self, to: crate::model::Extension) -> oneshot::Receiver<bool> {
        let (answer, outcome) = oneshot::channel();
        self.send(Command::Service { call: self.call, command: ServiceCommand::Transfer { to }, answer: Some(answer) });
        outcome
    }

    /// The same for any number that the caller may dial.
    pub fn dial(&self, to: String) -> oneshot::Receiver<bool> {
        let (answer, outcome) = oneshot::channel();
        self.send(Command::Service { call: self.call, command: ServiceCommand::Dial { to }, answer: Some(answer) });
        outcome
    }

    fn send(&self, command: Command) {
        if let Err(mpsc::error::TrySendError::Full(command)) = self.commands.try_send(command) {
            // The engine is busy: wait for it elsewhere, the menu must go on. At most two per call are under way.
            let commands = self.commands.clone();
            if let Ok(runtime) = tokio::runtime::Handle::try_current() {
                runtime.spawn(async move { commands.send(command).await.ok() });
            }
        }
    }
}

impl Drop for ServiceControl {
    fn drop(&mut self) {
        self.hang_up();
    }
}

/// The way to the engine. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) retry_after_secs: u32,
}

/// Why a wish does not count, or only until a restart.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotKept {
    #[error(transparent)]
    Wish(#[from] book::Error),
    #[error("it could not be stored: it counts until the server is started again; see the log")]
    Store,
}

pub(super) enum Command {
    Originate {
        wanted: Box<Originate>,
        answer: oneshot::Sender<Result<CallId, OriginateError>>,
    },
    Hangup {
        call: CallId,
        answer: oneshot::Sender<bool>,
    },
    List {
        answer: oneshot::Sender<Vec<Snapshot>>,
    },
    Contacts {
        answer: oneshot::Sender<Vec<registrar::Contact>>,
    },
    Trunks {
        answer: oneshot::Sender<Vec<Standing>>,
    },
    Load {
        answer: oneshot::Sender<Load>,
    },
    Resolved {
        trunk: Arc<str>,
        found: Result<Found, String>,
    },
    Notify {
        order: Box<notify::Order>,
        answer: oneshot::Sender<notify::Outcome>,
    },
    Bans {
        answer: oneshot::Sender<Vec<Ban>>,
    },
    Pardon {
        source: IpAddr,
        answer: oneshot::Sender<bool>,
    },
    DropContacts {
        mac: MacAddr,
        keep_generation: Generation,
        keep_lines: Vec<LineNumber>,
    },
    Reload {
        config: Box<Config>,
    },
    Mailbox {
        user: String,
        mailbox: Mailbox,
    },
    Show {
        resource: String,
        lamp: Option<Lamp>,
    },
    Messages {
        of: Of,
        answer: oneshot::Sender<Option<Vec<Captured>>>,
    },
    Captured {
        answer: oneshot::Sender<Vec<(Kept, Vec<Captured>)>>,
    },
    Service {
        call: CallId,
        command: ServiceCommand,
        answer: Option<oneshot::Sender<bool>>,
    },
    Wishes {
        extension: String,
        answer: oneshot::Sender<Wishes>,
    },
    Wish {
        extension: String,
        change: Box<Change>,
        answer: oneshot::Sender<Result<oneshot::Receiver<bool>, book::Error>>,
    },
    Nights {
        answer: oneshot::Sender<Vec<(String, Night)>>,
    },
    TurnNight {
        hours: String,
        to: Night,
        answer: oneshot::Sender<Option<oneshot::Receiver<bool>>>,
    },
    /// What a star code wished is stored, or not.
    Kept {
        call: CallId,
        stored: bool,
    },
    Stop {
        answer: oneshot::Sender<()>,
    },
}

/// Whose messages are wanted.
pub(super) enum Of {
    Call(CallId),
    /// The SIP Call-ID of one side.
    CallId(String),
}

impl Handle {
    /// Rings the user's phones, then the far end. The rest is told by events.
    pub async fn originate(&self, wanted: Originate) -> Result<CallId, OriginateError> {
        let overload = OriginateError::Overload { retry_after_secs: self.retry_after_secs };
        self.ask(|answer| Command::Originate { wanted: Box::new(wanted), answer }).await.unwrap_or(Err(overload))
    }

    /// `false`: there is no such call.
    pub async fn hangup(&self, call: CallId) -> bool {
        self.ask(|answer| Command::Hangup { call, answer }).await.unwrap_or(false)
    }

    /// All calls, the oldest first.
    pub async fn list(&self) -> Vec<Snapshot> {
        self.ask(|answer| Command::List { answer }).await.unwrap_or_default()
    }

    /// All registered contacts.
    pub async fn contacts(&self) -> Vec<registrar::Contact> {
        self.ask(|answer| Command::Contacts { answer }).await.unwrap_or_default()
    }

    /// How much there is to do; nothing at all, also where the engine has ended.
    pub async fn load(&self) -> Load {
        self.ask(|answer| Command::Load { answer }).await.unwrap_or_default()
    }

    /// All trunks, by name.
    pub async fn trunks(&self) -> Vec<Standing> {
        self.ask(|answer| Command::Trunks { answer }).await.unwrap_or_default()
    }

    /// Who gets no answer for too many wrong passwords, in no order.
    pub async fn bans(&self) -> Vec<Ban> {
        self.ask(|answer| Command::Bans { answer }).await.unwrap_or_default()
    }

    /// Lifts the bans of an address. `false`: there were none.
    pub async fn pardon(&self, source: IpAddr) -> bool {
        self.ask(|answer| Command::Pardon { source, answer }).await.unwrap_or(false)
    }

    /// Sends a NOTIFY and waits for the phone's answer, for up to a minute.
    pub async fn notify(&self, order: notify::Order) -> notify::Outcome {
        self.ask(|answer| Command::Notify { order: Box::new(order), answer }).await.unwrap_or(notify::Outcome::Unreachable)
    }

    /// Forgets the device's contacts but those of this generation and later, and those of these lines.
    pub async fn drop_contacts(&self, mac: MacAddr, keep_generation: Generation, keep_lines: Vec<LineNumber>) {
        let _ = self.commands.send(Command::DropContacts { mac, keep_generation, keep_lines }).await;
    }

    /// New rules for new calls.
    pub async fn reload(&self, config: Config) {
        let _ = self.commands.send(Command::Reload { config: Box::new(config) }).await;
    }

    /// How many messages lie in somebody's mailbox now: phones that watch it light their lamp.
    pub async fn set_mailbox(&self, user: &str, mailbox: Mailbox) {
        let _ = self.commands.send(Command::Mailbox { user: user.to_owned(), mailbox }).await;
    }

    /// Sets a lamp that phones may watch under this name, as that of a park slot. `None`: dark.
    pub async fn show(&self, resource: &str, lamp: Option<Lamp>) {
        let _ = self.commands.send(Command::Show { resource: resource.to_owned(), lamp }).await;
    }

    /// The SIP messages of a call, as they were: hide their secrets before they are shown. `None`: nothing is kept of it.
    pub async fn messages_of(&self, call: CallId) -> Option<Vec<Captured>> {
        self.ask(|answer| Command::Messages { of: Of::Call(call), answer }).await.flatten()
    }

    /// The same by the Call-ID of one side.
    pub async fn messages_of_call_id(&self, id: String) -> Option<Vec<Captured>> {
        self.ask(|answer| Command::Messages { of: Of::CallId(id), answer }).await.flatten()
    }

    /// What messages are kept of, the newest first, 200 at most, each with its messages.
    pub async fn captured(&self) -> Vec<(Kept, Vec<Captured>)> {
        self.ask(|answer| Command::Captured { answer }).await.unwrap_or_default()
    }

    /// What an extension wishes of calls to it.
    pub async fn wishes(&self, extension: &str) -> Wishes {
        let extension = extension.to_owned();
        self.ask(|answer| Command::Wishes { extension, answer }).await.unwrap_or_default()
    }

    /// Changes what an extension wishes, and waits until it is stored.
    pub async fn wish(&self, extension: &str, change: Change) -> Result<(), NotKept> {
        let (extension, change) = (extension.to_owned(), Box::new(change));
        let outcome = self.ask(|answer| Command::Wish { extension, change, answer }).await.ok_or(NotKept::Store)??;
        if outcome.await == Ok(true) { Ok(()) } else { Err(NotKept::Store) }
    }

    /// Every night switch, and where it stands.
    pub async fn nights(&self) -> Vec<(String, Night)> {
        self.ask(|answer| Command::Nights { answer }).await.unwrap_or_default()
    }

    /// Turns a night switch, and waits until that is stored. `false`: there are no such hours.
    pub async fn turn_night(&self, hours: &str, to: Night) -> Result<bool, NotKept> {
        let hours = hours.to_owned();
        match self.ask(|answer| Command::TurnNight { hours, to, answer }).await {
            Some(Some(outcome)) => {
                if outcome.await == Ok(true) {
                    Ok(true)
                } else {
                    Err(NotKept::Store)
                }
            }
            Some(None) => Ok(false),
            None => Err(NotKept::Store),
        }
    }

    /// Ends all calls and the engine.
    pub async fn stop(&self) {
        let _ = self.ask(|answer| Command::Stop { answer }).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, outcome) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        outcome.await.ok()
    }
}
