//! Voicemail at work: a task for each call, the lamps, what is forgotten, and the mails.
//!
//! The machines decide; here their actions become commands to `media`, files, rows and requests to the engine. A message
//! counts from the moment its row is on disk; only then is the caller thanked. Everything that changes a mailbox passes by
//! here, so that its lamp is right. Not here: what the keys do (`machine.rs`).

mod lamps;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::sleep_until,
};
use tokio_util::task::TaskTracker;
use tracing::{Instrument, info, info_span, warn};

use super::{
    client::{self, Mailer},
    files::{Files, Recorded},
    machine::{Action, Kept, Leave, Listen, Recording, Refusal, Say, SignIn},
    mailbox,
    settings::Config,
};
use crate::{
    call::{self, Errand, ServiceCall},
    ivr::{machine::LoginAnswer, speech::Utterance, worker::Ivr},
    media::{self, Clip, Command, Media, MediaEvent, PlaybackId, Tones},
    model::{Event, Events, Timestamp, hex},
    store::{self, Store, VoiceMail, VoiceMessage},
};

/// Pieces of 100 ms that may wait for the disk.
const PIECES: usize = 100;
const FORGET_EVERY: Duration = Duration::from_secs(3600);
/// A mail that was not taken is tried again after so many seconds, and given up after the last.
const MAIL_AGAIN_SECS: [i64; 9] = [5, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 24 * 3600];
/// Mails looked at in one go.
const MAILS_AT_ONCE: usize = 20;

/// Mail addresses of extensions, as the directory has them.
pub type Addresses = Arc<ArcSwap<HashMap<String, String>>>;

/// Whom voicemail works with.
pub struct Neighbours {
    pub media: Media,
    pub tones: media::Country,
    pub ivr: Ivr,
    pub store: Arc<dyn Store>,
    pub files: Files,
    pub calls: call::Handle,
    pub events: Events,
    pub addresses: Addresses,
}

/// The service; cheap to clone.
#[derive(Clone)]
pub struct Voicemail(Arc<Shared>);

struct Shared {
    with: Neighbours,
    config: ArcSwap<Config>,
    mailer: Option<Mailer>,
    beep: Arc<Clip>,
    places: Semaphore,
    /// Mailboxes that have changed.
    lamps: mpsc::Sender<String>,
    mail: Notify,
    /// Calls whose message is not on disk yet.
    calls: TaskTracker,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the recordings of voicemail cannot be read: {0}")]
    Files(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Mail(#[from] client::Error),
}

impl Voicemail {
    /// Sweeps what a server that was killed left behind, and lights the lamps.
    pub async fn start(config: Config, with: Neighbours) -> Result<Self, Error> {
        let messages = with.store.voice_messages(None).await?;
        let known: HashSet<_> = messages.iter().map(|message| (message.mailbox.clone(), message.id.clone())).collect();
        for (mailbox, id) in with.files.sweep(&known)? {
            warn!(mailbox, id, "a message has lost its recording");
            with.store.remove_voice_message(&mailbox, &id).await?;
        }
        let beep = Tones::new(with.tones).beep;
        let mailer = config.mail.as_ref().map(Mailer::new).transpose()?;
        let (lamps, changed) = mpsc::channel(lamps::WAITING);
        let light = lamps::Lamps { store: with.store.clone(), calls: with.calls.clone() };
        let boxes: BTreeSet<_> = messages.into_iter().map(|message| message.mailbox).collect();
        for mailbox in &boxes {
            light.light(mailbox).await;
        }
        tokio::spawn(light.keep(changed));
        let shared = Shared {
            places: Semaphore::new(config.calls),
            config: ArcSwap::from_pointee(config),
            mailer,
            beep,
            lamps,
            mail: Notify::new(),
            calls: TaskTracker::new(),
            with,
        };
        Ok(Self(Arc::new(shared)))
    }

    /// New rules for new calls. Who sends the mail stays as it was.
    pub fn reload(&self, config: Config) {
        self.0.config.store(Arc::new(config));
    }

    /// Takes calls until the inbox closes.
    pub async fn serve(&self, mut inbox: mpsc::Receiver<ServiceCall>) {
        while let Some(call) = inbox.recv().await {
            let span = info_span!("voicemail", call = %call.call);
            let voicemail = self.clone();
            self.0.calls.spawn(async move { voicemail.take(call).await }.instrument(span));
        }
    }

    /// Waits until what callers have said is on disk.
    pub async fn stop(&self) {
        self.0.calls.close();
        self.0.calls.wait().await;
    }

    // --- what lies in the mailboxes

    /// In the order in which they are heard.
    pub async fn messages(&self, mailbox: &str) -> store::Result<Vec<VoiceMessage>> {
        let mut messages = self.0.with.store.voice_messages(Some(mailbox.to_owned())).await?;
        mailbox::sort(&mut messages);
        Ok(messages)
    }

    pub async fn message(&self, mailbox: &str, id: &str) -> store::Result<Option<VoiceMessage>> {
        Ok(self.messages(mailbox).await?.into_iter().find(|message| message.id == id))
    }

    /// The recording as a WAV file. `None`: there is no such message.
    pub async fn audio(&self, mailbox: &str, id: &str) -> Result<Option<Vec<u8>>, Error> {
        if self.message(mailbox, id).await?.is_none() {
            return Ok(None);
        }
        let (files, mailbox, id) = (self.0.with.files.clone(), mailbox.to_owned(), id.to_owned());
        Ok(Some(blocking(move || files.read(&mailbox, &id)).await?))
    }

    /// `false`: there is no such message.
    pub async fn mark_heard(&self, mailbox: &str, id: &str) -> store::Result<bool> {
        let known = self.0.with.store.mark_voice_message(mailbox, id, wall()).await?;
        self.light(mailbox).await;
        Ok(known)
    }

    /// `false`: there is no such message.
    pub async fn delete(&self, mailbox: &str, id: &str) -> store::Result<bool> {
        // The row first: a message without a recording is worse than a recording without a message.
        let known = self.0.with.store.remove_voice_message(mailbox, id).await?;
        if known {
            let (files, of, name) = (self.0.with.files.clone(), mailbox.to_owned(), id.to_owned());
            if let Err(fault) = blocking(move || files.remove(&of, &name)).await {
                warn!(mailbox, id, %fault, "the recording of a deleted message stays until the next start");
            }
        }
        self.light(mailbox).await;
        Ok(known)
    }

    /// Has the lamp looked after, soon.
    async fn light(&self, mailbox: &str) {
        // It is kept for as long as there is a sender.
        let _ = self.0.lamps.send(mailbox.to_owned()).await;
    }

    // --- calls

    async fn take(&self, call: ServiceCall) {
        let Ok(_place) = self.0.places.try_acquire() else {
            warn!("voicemail is full: widen `voicemail.calls`");
            metrics::counter!("plugtone_voicemail_full_total").increment(1);
            return call.control.hang_up();
        };
        metrics::counter!("plugtone_voicemail_calls_total").increment(1);
        Attendant::attend(self.clone(), call).await;
    }

    async fn has_room(&self, mailbox: &str) -> bool {
        let limits = self.0.config.load().limits;
        let store = &self.0.with.store;
        match (self.messages(mailbox).await, store.voice_bytes().await) {
            (Ok(messages), Ok(bytes)) => limits.admit(messages.len(), bytes).is_ok(),
            _ => false,
        }
    }

    // --- what happens by itself

    /// Forgets messages that are too old, every hour.
    pub async fn forget(self) {
        loop {
            if let Some(oldest) = self.0.config.load().limits.oldest(wall()) {
                let all = self.0.with.store.voice_messages(None).await.unwrap_or_default();
                for message in all.into_iter().filter(|message| message.left < oldest) {
                    info!(mailbox = message.mailbox, id = message.id, "a message is older than `voicemail.keep_days`");
                    if let Err(fault) = self.delete(&message.mailbox, &message.id).await {
                        warn!(%fault, "an old message could not be removed; tried again in an hour");
                    }
                }
            }
            tokio::time::sleep(FORGET_EVERY).await;
        }
    }

    /// Sends the mails that are due, one after the other.
    pub async fn send_mails(self) {
        let Some(mailer) = &self.0.mailer else { return };
        loop {
            let (due, next) = match self.0.with.store.voice_mails(wall(), MAILS_AT_ONCE).await {
                Ok(found) => found,
                Err(fault) => {
                    warn!(%fault, "mails cannot be looked up");
                    (Vec::new(), Some(wall().plus_secs(MAIL_AGAIN_SECS[0])))
                }
            };
            let idle = due.is_empty();
            for mail in due {
                self.send_mail(mailer, mail).await;
            }
            if idle {
                let pause = next.map_or(FORGET_EVERY, |next| Duration::from_millis(u64::try_from(next.0 - wall().0).unwrap_or(0)));
                let _ = tokio::time::timeout(pause.min(FORGET_EVERY), self.0.mail.notified()).await;
            }
        }
    }

    async fn send_mail(&self, mailer: &Mailer, mail: VoiceMail) {
        let store = &self.0.with.store;
        let VoiceMail { mailbox, id, tries } = &mail;
        let sent = match self.message(mailbox, id).await {
            // It was deleted meanwhile.
            Ok(None) => Ok(()),
            Ok(Some(message)) => match (self.address(mailbox), self.audio(mailbox, id).await) {
                (None, _) => Ok(()),
                (Some(to), Ok(Some(wav))) => mailer.send(&to, &message, wav).await,
                (Some(_), Ok(None)) => Ok(()),
                (Some(_), Err(fault)) => Err(client::Error::Later(fault.to_string())),
            },
            Err(fault) => Err(client::Error::Later(fault.to_string())),
        };
        let again = match &sent {
            Ok(()) => None,
            Err(client::Error::Later(_) | client::Error::Misfit(_)) => {
                MAIL_AGAIN_SECS.get(*tries as usize).map(|secs| wall().plus_secs(*secs))
            }
            Err(_) => None,
        };
        let done = match (&sent, again) {
            (Ok(()), _) => store.remove_voice_mail(mailbox, id).await,
            (Err(fault), Some(next)) => {
                match fault {
                    client::Error::Misfit(_) => warn!(mailbox, id, %fault, "a mail waits"),
                    _ => info!(mailbox, id, %fault, "a mail is sent later"),
                }
                store.retry_voice_mail(mailbox, id, next).await
            }
            (Err(fault), None) => {
                metrics::counter!("plugtone_voicemail_mails_lost_total").increment(1);
                warn!(mailbox, id, %fault, "a mail is given up; the message is still in its mailbox");
                store.remove_voice_mail(mailbox, id).await
            }
        };
        if let Err(fault) = done {
            warn!(mailbox, id, %fault, "the mails to be sent cannot be written down");
        }
    }

    fn address(&self, mailbox: &str) -> Option<String> {
        let config = self.0.config.load();
        let own = config.mail.as_ref().and_then(|mail| mail.addresses.get(mailbox).cloned());
        own.or_else(|| self.0.with.addresses.load().get(mailbox).cloned())
    }
}

/// Which machine has the call.
enum Stage {
    SignIn(SignIn),
    Leave(Leave),
    Listen(Listen),
}

/// Serves one caller.
struct Attendant {
    voicemail: Voicemail,
    call: ServiceCall,
    stage: Stage,
    /// Whose messages.
    mailbox: String,
    recording: Option<Written>,
    /// A call back is under way.
    dialled: Option<oneshot::Receiver<bool>>,
    login: Option<oneshot::Receiver<LoginAnswer>>,
    ended: bool,
}

/// A recording that is being written.
struct Written {
    what: Recording,
    id: String,
    writes: JoinHandle<std::io::Result<Option<Recorded>>>,
}

enum Woken {
    Media(MediaEvent),
    Gone,
    Dialled(bool),
    Login(LoginAnswer),
    Time,
}

impl Attendant {
    async fn attend(voicemail: Voicemail, call: ServiceCall) {
        let now = Instant::now();
        let (mac, id) = (call.caller.device(), call.call);
        let (stage, mailbox) = match &call.errand {
            Errand::Leave { mailbox } => {
                let full = !voicemail.has_room(mailbox.as_str()).await;
                let lengths = voicemail.0.config.load().lengths;
                (Stage::Leave(Leave::new(now, lengths, full)), mailbox.to_string())
            }
            Errand::Listen { mailbox: Some(mailbox) } => {
                let messages = voicemail.messages(mailbox.as_str()).await.unwrap_or_default();
                (Stage::Listen(Listen::new(now, messages)), mailbox.to_string())
            }
            Errand::Listen { mailbox: None } | Errand::Menu | Errand::Diagnosis | Errand::Confirm(_) | Errand::Park { .. } => {
                (Stage::SignIn(SignIn::new(now)), String::new())
            }
        };
        let events = voicemail.0.with.events.clone();
        events.tell(Event::VoicemailReached { mac, call: id, mailbox: mailbox.clone(), leaves: matches!(stage, Stage::Leave(_)) });
        let mut attendant = Self { voicemail, call, stage, mailbox, recording: None, dialled: None, login: None, ended: false };
        attendant.command(Command::DetectInband(true));
        attendant.run().await;
        // Whoever hangs up while speaking has left a message all the same.
        if let Stage::Leave(_) = attendant.stage {
            attendant.keep().await;
        }
    }

    async fn run(&mut self) {
        loop {
            while let Some(action) = self.poll_action() {
                if self.apply(action).await.is_break() {
                    return;
                }
            }
            let woken = self.woken().await;
            let now = Instant::now();
            match woken {
                Woken::Gone => return,
                Woken::Media(MediaEvent::Silent { .. }) => return self.call.control.hang_up(),
                Woken::Media(MediaEvent::Key { key }) => match &mut self.stage {
                    Stage::SignIn(machine) => machine.handle_key(now, key.expose()),
                    Stage::Leave(machine) => machine.handle_key(now, key.expose()),
                    Stage::Listen(machine) => machine.handle_key(now, key.expose()),
                },
                Woken::Media(MediaEvent::PlaybackEnded { playback, .. }) => match &mut self.stage {
                    Stage::SignIn(machine) => machine.handle_playback_ended(now, playback.0),
                    Stage::Leave(machine) => machine.handle_playback_ended(now, playback.0),
                    Stage::Listen(machine) => machine.handle_playback_ended(now, playback.0),
                },
                Woken::Media(MediaEvent::Heard(heard)) => {
                    if let Stage::Leave(machine) = &mut self.stage {
                        machine.handle_sound(now, heard.sound);
                    }
                }
                Woken::Media(MediaEvent::Stats(_)) => {}
                // Somebody else has the call.
                Woken::Dialled(true) => return self.command(Command::DetectInband(false)),
                Woken::Dialled(false) => {
                    if let Stage::Listen(machine) = &mut self.stage {
                        machine.handle_not_taken(now);
                    }
                }
                Woken::Login(answer) => self.handle_login(now, answer).await,
                Woken::Time => match &mut self.stage {
                    Stage::SignIn(machine) => machine.handle_timeout(now),
                    Stage::Leave(machine) => machine.handle_timeout(now),
                    Stage::Listen(machine) => machine.handle_timeout(now),
                },
            }
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        match &mut self.stage {
            Stage::SignIn(machine) => machine.poll_action(),
            Stage::Leave(machine) => machine.poll_action(),
            Stage::Listen(machine) => machine.poll_action(),
        }
    }

    async fn woken(&mut self) -> Woken {
        let due = match &self.stage {
            Stage::SignIn(machine) => machine.poll_timeout(),
            Stage::Leave(machine) => machine.poll_timeout(),
            Stage::Listen(machine) => machine.poll_timeout(),
        };
        let wake = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
        let woken = tokio::select! {
            biased;
            // First: a call that was taken over ends here at the same moment.
            taken = answered(&mut self.dialled) => Woken::Dialled(taken.unwrap_or(false)),
            answer = answered(&mut self.login) => Woken::Login(answer.unwrap_or(LoginAnswer::Unavailable)),
            event = self.call.events.recv() => event.map_or(Woken::Gone, |(_, event)| Woken::Media(event)),
            _ = &mut self.call.ended, if !self.ended => Woken::Gone,
            () = sleep_until(wake.into()) => Woken::Time,
        };
        match woken {
            Woken::Dialled(_) => self.dialled = None,
            Woken::Login(_) => self.login = None,
            Woken::Gone => self.ended = true,
            _ => {}
        }
        woken
    }

    async fn handle_login(&mut self, now: Instant, answer: LoginAnswer) {
        let Stage::SignIn(machine) = &mut self.stage else { return };
        let refusal = match answer {
            LoginAnswer::Accepted(user) => match user.extension {
                Some(extension) => {
                    let mailbox = extension.to_string();
                    let messages = self.voicemail.messages(&mailbox).await.unwrap_or_default();
                    self.stage = Stage::Listen(Listen::new(now, messages));
                    self.mailbox = mailbox;
                    return;
                }
                None => Refusal::Unavailable,
            },
            LoginAnswer::Refused => Refusal::Wrong,
            LoginAnswer::Locked => Refusal::Locked,
            LoginAnswer::Unavailable => Refusal::Unavailable,
        };
        machine.handle_answer(now, refusal);
    }

    async fn apply(&mut self, action: Action) -> std::ops::ControlFlow<()> {
        match action {
            Action::Play { playback, what } => {
                let clips = self.clips(what).await;
                self.command(Command::Play { playback: PlaybackId(playback), clips, repeat: false });
            }
            Action::StopPlay => self.command(Command::StopPlay),
            Action::Record(what) => self.record(what),
            Action::StopRecording => {
                let kept = self.keep().await;
                let now = Instant::now();
                match &mut self.stage {
                    Stage::Leave(machine) => machine.handle_kept(now, kept),
                    Stage::Listen(machine) => machine.handle_kept(now, kept),
                    Stage::SignIn(_) => {}
                }
            }
            Action::LogIn { number, pin } => {
                let (answer, outcome) = oneshot::channel();
                self.login = Some(outcome);
                let (ivr, mac, call, source) =
                    (self.voicemail.0.with.ivr.clone(), self.call.caller.device(), self.call.call, self.call.source.ip());
                let task = async move {
                    // Nobody waits any more: the caller has hung up.
                    let _ = answer.send(ivr.log_in(mac, call, source, number, pin).await);
                };
                tokio::spawn(task.in_current_span());
            }
            Action::MarkHeard(id) => {
                if let Err(fault) = self.voicemail.mark_heard(&self.mailbox, &id).await {
                    warn!(%fault, "a message stays new");
                }
            }
            Action::Delete(id) => {
                if let Err(fault) = self.voicemail.delete(&self.mailbox, &id).await {
                    warn!(%fault, "a message could not be deleted");
                }
            }
            Action::CallBack { to } => self.dialled = Some(self.call.control.dial(to)),
            Action::HangUp => {
                self.call.control.hang_up();
                return std::ops::ControlFlow::Break(());
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    /// The sound of it; what is said in words is told.
    async fn clips(&self, what: Vec<Say>) -> Vec<Arc<Clip>> {
        let shared = &self.voicemail.0;
        let (mut clips, mut text) = (Vec::new(), Vec::new());
        let mut speak = |clips: &mut Vec<Arc<Clip>>, speech: &[Utterance]| {
            let (words, sound) = shared.with.ivr.say(speech);
            clips.extend(sound);
            text.push(words);
        };
        let prompt = |id: &str| Utterance::Prompt(id.to_owned());
        for say in what {
            let (files, mailbox) = (shared.with.files.clone(), self.mailbox.clone());
            match say {
                Say::Words(words) => speak(&mut clips, &[words]),
                Say::Beep => clips.push(shared.beep.clone()),
                Say::Greeting => match tokio::task::spawn_blocking(move || files.greeting(&mailbox)).await {
                    Ok(Some(own)) => clips.push(own),
                    _ => speak(&mut clips, &[prompt("vm-leave"), Utterance::Digits(self.mailbox.clone()), prompt("vm-after-tone")]),
                },
                Say::Message(id) => match tokio::task::spawn_blocking(move || files.clip(&mailbox, &id)).await {
                    Ok(Ok(message)) => clips.push(message),
                    Ok(Err(fault)) => {
                        warn!(%fault, "a message cannot be played");
                        speak(&mut clips, &[prompt("vm-failed")]);
                    }
                    Err(_) => {}
                },
            }
        }
        if !text.is_empty() {
            let (mac, call) = (self.call.caller.device(), self.call.call);
            shared.with.events.tell(Event::IvrPrompt { mac, call, text: text.join(" ") });
        }
        clips
    }

    fn record(&mut self, what: Recording) {
        let (to, from) = mpsc::channel(PIECES);
        self.command(Command::Listen(true));
        self.command(Command::Record(Some(to)));
        let id = new_id();
        let (files, mailbox) = (self.voicemail.0.with.files.clone(), self.mailbox.clone());
        let shortest = self.voicemail.0.config.load().shortest;
        let name = (what == Recording::Message).then(|| id.clone());
        let writes = tokio::task::spawn_blocking(move || files.record(&mailbox, name.as_deref(), from, shortest));
        self.recording = Some(Written { what, id, writes });
    }

    /// Ends the recording; it is on disk, with its row, when this returns [`Kept::Stored`].
    async fn keep(&mut self) -> Kept {
        let Some(Written { what, id, writes }) = self.recording.take() else { return Kept::TooShort };
        self.command(Command::Record(None));
        self.command(Command::Listen(false));
        let recorded = match writes.await {
            Ok(Ok(Some(recorded))) => recorded,
            Ok(Ok(None)) => return Kept::TooShort,
            Ok(Err(fault)) => {
                metrics::counter!("plugtone_voicemail_failed_total").increment(1);
                tracing::error!(%fault, mailbox = self.mailbox, "a message could not be written");
                return Kept::Failed;
            }
            Err(_) => return Kept::Failed,
        };
        if what == Recording::Greeting {
            return Kept::Stored;
        }
        let caller = &self.call.caller;
        let message = VoiceMessage {
            id,
            mailbox: self.mailbox.clone(),
            from: caller.user.clone(),
            from_name: caller.display_name.clone(),
            call: self.call.call.to_string(),
            left: wall(),
            length_ms: u64::try_from(recorded.length.as_millis()).unwrap_or(u64::MAX),
            bytes: recorded.bytes,
            heard: None,
        };
        let shared = &self.voicemail.0;
        let mail = shared.mailer.is_some() && self.voicemail.address(&self.mailbox).is_some();
        let (mailbox, id, from) = (message.mailbox.clone(), message.id.clone(), message.from.clone());
        let secs = message.length_ms.div_ceil(1000);
        if let Err(fault) = shared.with.store.save_voice_message(message, mail).await {
            metrics::counter!("plugtone_voicemail_failed_total").increment(1);
            tracing::error!(%fault, mailbox, "a message could not be written down");
            let files = shared.with.files.clone();
            let _ = blocking(move || files.remove(&mailbox, &id)).await;
            return Kept::Failed;
        }
        info!(mailbox, id, %from, secs, "a message was left");
        let (mac, call) = (self.call.caller.device(), self.call.call);
        shared.with.events.tell(Event::MessageLeft { mac, call, mailbox: mailbox.clone(), from, id, secs });
        self.voicemail.light(&mailbox).await;
        shared.mail.notify_one();
        Kept::Stored
    }

    fn command(&self, command: Command) {
        self.voicemail.0.with.media.command(self.call.session, command);
    }
}

/// What an answer that may be awaited says; never, if none is.
async fn answered<T>(waited: &mut Option<oneshot::Receiver<T>>) -> Option<T> {
    match waited {
        Some(answer) => answer.await.ok(),
        None => std::future::pending().await,
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)?
}

fn wall() -> Timestamp {
    Timestamp::of(SystemTime::now())
}

/// When, and something that nobody can guess.
fn new_id() -> String {
    let mut random = [0; 6];
    // Without chance the time alone names it; two in one millisecond would then be one.
    let _ = getrandom::fill(&mut random);
    format!("{:012x}-{}", wall().0, hex(&random))
}
