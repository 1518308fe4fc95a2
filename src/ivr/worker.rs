//! Runs the voice menu: a task for each call that the engine hands over, with sound, directory and binding around a machine.
//!
//! The machine decides; here its actions become commands to `media`, questions to the directory, requests to
//! `provisioning`, and events. Questions run in tasks of their own: a caller who hangs up does not undo a binding that
//! was confirmed, and an attempt that was admitted is always settled. What is keyed goes from `media` into the machine and
//! from there to the directory; it is in no event and no log line. Not here: what a flow does (`machine.rs`).

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use tokio::{
    process::Command as Process,
    sync::{Semaphore, mpsc, oneshot},
    time::{sleep, sleep_until, timeout},
};
use tracing::{Instrument, debug, info, info_span, warn};

use super::{
    confirmation, diagnosis,
    loader::{self, Loaded},
    machine::{Action, BindAnswer, Facts, LoginAnswer, Machine, Ticket},
    settings::{Settings, TTS_LIMIT},
    speech::Utterance,
    voice::Voice,
};
use crate::{
    binding::{Outcome, Verdict},
    call::{
        half::Cause,
        routing::Errand,
        worker::{ServiceCall, ServiceControl},
    },
    directory::{Denied, Directory},
    features::Confirmation,
    media::{Clip, Command, Media, MediaEvent, PlaybackId, SessionId},
    model::{
        CallId, Events, Extension, Keys, LineNumber, MacAddr, Timestamp, User,
        event::{CheckOutcome, Event},
    },
    provisioning::{onboarding::CallKind, worker::Onboarding},
};

/// A caller who tries again too soon is kept waiting for so long; beyond that they are told to come back later.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a log-in may take that no flow sets a time for.
const LOGIN_WITHIN: Duration = Duration::from_secs(10);
/// Events of a phone that are looked through for its last fault.
const LOOKED_BACK: usize = 200;
/// Nothing is announced for longer.
const LONGEST_REPORT: Duration = Duration::from_secs(90);
/// Commands that speak names at once.
const SPEAKERS: usize = 4;

/// A call that the engine answered and gives to the menu.
pub struct IvrCall {
    pub call: CallId,
    /// Whose phone it is; a call from elsewhere can be told things but not bind.
    pub mac: Option<MacAddr>,
    pub line: LineNumber,
    /// Where its signalling comes from: attempts are counted for it.
    pub source: IpAddr,
    /// What the phone is now.
    pub facts: Facts,
    /// Its audio, connected already.
    pub session: SessionId,
    /// What happens on it. The caller is gone when this closes.
    pub events: mpsc::Receiver<(SessionId, MediaEvent)>,
    /// Fires when the call is over.
    pub ended: oneshot::Receiver<Cause>,
    /// Kept until the menu is done with the call: the engine ends a call whose control is gone.
    pub control: Box<dyn Control>,
}

impl From<ServiceCall> for IvrCall {
    fn from(call: ServiceCall) -> Self {
        let caller = call.caller;
        let (device_state, device_extension) = match caller.provisional {
            true => ("provisional", None),
            false => ("bound", caller.user.parse().ok()),
        };
        Self {
            call: call.call,
            mac: Some(caller.mac),
            line: caller.line,
            source: call.source.ip(),
            facts: Facts { device_state: device_state.into(), device_extension },
            session: call.session,
            events: call.events,
            ended: call.ended,
            control: Box::new(call.control),
        }
    }
}

/// What the menu may do to a call that it was given.
pub trait Control: Send + Sync + 'static {
    /// Ends the call.
    fn hang_up(&self);
    /// Rings the extension and joins it with the caller. `true` comes when the menu has nothing more to do with the call,
    /// `false` or nothing when nobody took it.
    fn transfer(&self, to: Extension) -> oneshot::Receiver<bool>;
}

impl Control for ServiceControl {
    fn hang_up(&self) {
        Self::hang_up(self);
    }

    fn transfer(&self, to: Extension) -> oneshot::Receiver<bool> {
        Self::transfer(self, to)
    }
}

/// The menu, ready for calls. Cheap to clone.
#[derive(Clone)]
pub struct Ivr {
    shared: Arc<Shared>,
}

struct Shared {
    media: Media,
    onboarding: Onboarding,
    directory: ArcSwap<Arc<dyn Directory>>,
    script: ArcSwap<Script>,
    events: Events,
    speakers: Semaphore,
}

/// What a reload of the configuration changes; a call keeps what it began with.
struct Script {
    loaded: Loaded,
    voice: Voice,
    tts_command: Vec<String>,
    calls: Arc<Semaphore>,
}

impl Script {
    fn new(settings: &Settings, loaded: Loaded) -> Self {
        Self {
            loaded,
            voice: Voice::new(settings.names),
            tts_command: settings.tts_command.clone(),
            calls: Arc::new(Semaphore::new(settings.calls)),
        }
    }
}

impl Ivr {
    pub fn new(
        settings: &Settings,
        loaded: Loaded,
        media: Media,
        onboarding: Onboarding,
        directory: Arc<dyn Directory>,
        events: Events,
    ) -> Self {
        let script = ArcSwap::from_pointee(Script::new(settings, loaded));
        let directory = ArcSwap::from_pointee(directory);
        Self { shared: Arc::new(Shared { media, onboarding, directory, script, events, speakers: Semaphore::new(SPEAKERS) }) }
    }

    /// From the next call on this flow and these prompts count.
    pub fn replace_flow(&self, settings: &Settings, loaded: Loaded) {
        self.shared.script.store(Arc::new(Script::new(settings, loaded)));
    }

    /// From the next question on this directory is asked.
    pub fn replace_directory(&self, directory: Arc<dyn Directory>) {
        self.shared.directory.store(Arc::new(directory));
    }

    /// What is said in the menu's voice, for other services: the words, and their sound.
    pub fn say(&self, speech: &[Utterance]) -> (String, Vec<Arc<Clip>>) {
        let script = self.shared.script.load();
        (script.loaded.prompts.words(speech), script.voice.clips(&script.loaded.prompts, speech))
    }

    /// Asks the directory who somebody is, as the menu does: attempts are counted, and the answer comes in time.
    pub async fn log_in(&self, mac: Option<MacAddr>, call: CallId, source: IpAddr, number: Keys, pin: Keys) -> LoginAnswer {
        let check = Check { shared: self.shared.clone(), script: self.shared.script.load_full(), mac, call, source };
        check.log_in(number, pin, LOGIN_WITHIN).await
    }

    /// Says what a star code has done, and hangs up.
    async fn confirm(&self, call: ServiceCall, done: &Confirmation) {
        let (text, clips) = self.say(&confirmation::report(done));
        self.announce(call, text, clips).await;
    }

    /// Says at which place a call will wait, until its owner transfers it or hangs up.
    async fn tell_place(&self, mut call: ServiceCall, place: &str) {
        let (text, clips) = self.say(&confirmation::place(place));
        self.shared.events.tell(Event::IvrPrompt { mac: Some(call.caller.mac), call: call.call, text });
        self.shared.media.command(call.session, Command::Play { playback: PlaybackId(1), clips, repeat: true });
        // Closes when the call is over.
        let _ = timeout(LONGEST_REPORT, async { while call.events.recv().await.is_some() {} }).await;
        call.control.hang_up();
    }

    /// Tells a phone of itself, and hangs up.
    async fn diagnose(&self, call: ServiceCall) {
        let (mac, phone) = (call.caller.mac, &call.caller);
        let events = self.shared.onboarding.timeline(mac, LOOKED_BACK).await;
        let facts = diagnosis::Facts {
            extension: phone.user.clone(),
            display_name: phone.display_name.clone(),
            address: call.source.ip(),
            location: self.shared.onboarding.identities().location(mac),
            fault: events.iter().rev().find_map(|recorded| diagnosis::fault(&recorded.event)),
        };
        let (text, clips) = self.say(&diagnosis::report(&facts));
        self.announce(call, text, clips).await;
    }

    /// Plays this and hangs up; a key ends it.
    async fn announce(&self, mut call: ServiceCall, text: String, clips: Vec<Arc<Clip>>) {
        self.shared.events.tell(Event::IvrPrompt { mac: Some(call.caller.mac), call: call.call, text });
        self.shared.media.command(call.session, Command::Play { playback: PlaybackId(1), clips, repeat: false });
        let heard = async {
            while let Some((_, event)) = call.events.recv().await {
                if let MediaEvent::PlaybackEnded { .. } | MediaEvent::Key { .. } = event {
                    break;
                }
            }
        };
        let _ = timeout(LONGEST_REPORT, heard).await;
        call.control.hang_up();
    }

    /// Takes calls until the inbox closes.
    pub async fn serve(&self, mut inbox: mpsc::Receiver<ServiceCall>) {
        while let Some(call) = inbox.recv().await {
            let ivr = self.clone();
            let span = info_span!("announcement", call = %call.call, mac = %call.caller.mac);
            if let Errand::Confirm(done) = call.errand.clone() {
                tokio::spawn(async move { ivr.confirm(call, &done).await }.instrument(span));
                continue;
            }
            if let Errand::Park { place } = call.errand.clone() {
                tokio::spawn(async move { ivr.tell_place(call, &place).await }.instrument(span));
                continue;
            }
            if call.errand == Errand::Diagnosis {
                tokio::spawn(async move { ivr.diagnose(call).await }.instrument(span));
                continue;
            }
            let call = IvrCall::from(call);
            let span = info_span!("ivr", call = %call.call, mac = call.mac.map(tracing::field::display));
            tokio::spawn(async move { ivr.take(call).await }.instrument(span));
        }
    }

    /// One call from its first prompt to its end. Returns how it ended.
    pub async fn take(&self, call: IvrCall) -> String {
        let script = self.shared.script.load_full();
        let Ok(_place) = script.calls.clone().try_acquire_owned() else {
            warn!("the voice menu is full: widen `ivr.calls`");
            metrics::counter!("plugtone_ivr_full_total").increment(1);
            call.control.hang_up();
            return "full".to_owned();
        };
        let (id, mac) = (call.call, call.mac);
        let tell = |event| self.shared.events.tell(event);
        tell(Event::IvrStarted { mac, call: id, flow: script.loaded.flow.name.clone() });
        if let Some(mac) = mac {
            self.shared.onboarding.call_began(mac, id, CallKind::Ivr);
        }
        metrics::gauge!("plugtone_ivr_calls").increment(1.0);
        let outcome = Attendant::new(self.shared.clone(), script, call).attend().await;
        metrics::gauge!("plugtone_ivr_calls").decrement(1.0);
        metrics::counter!("plugtone_ivr_calls_total", "outcome" => outcome.clone()).increment(1);
        if let Some(mac) = mac {
            self.shared.onboarding.call_ended(mac, id);
        }
        info!(%outcome, "the caller has left the voice menu");
        tell(Event::IvrEnded { mac, call: id, outcome: outcome.clone() });
        outcome
    }
}

/// Serves one caller.
struct Attendant {
    shared: Arc<Shared>,
    script: Arc<Script>,
    call: IvrCall,
    machine: Machine,
    answers: mpsc::Receiver<Answer>,
    answer: mpsc::Sender<Answer>,
    /// Is a transfer under way? Then this says how it ended.
    transfer: Option<oneshot::Receiver<bool>>,
    outcome: Option<String>,
    ended: bool,
}

enum Answer {
    Login(Ticket, LoginAnswer),
    Bound(Ticket, BindAnswer),
}

enum Woken {
    Media(MediaEvent),
    Gone,
    Answer(Answer),
    Transferred(bool),
    Time,
}

impl Attendant {
    fn new(shared: Arc<Shared>, script: Arc<Script>, call: IvrCall) -> Self {
        let machine = Machine::new(script.loaded.flow.clone(), call.facts.clone());
        let (answer, answers) = mpsc::channel(8);
        Self { shared, script, call, machine, answers, answer, transfer: None, outcome: None, ended: false }
    }

    async fn attend(mut self) -> String {
        self.machine.handle_start(Instant::now());
        loop {
            while let Some(action) = self.machine.poll_action() {
                self.apply(action).await;
            }
            if let Some(outcome) = self.outcome.take() {
                return outcome;
            }
            let woken = self.woken().await;
            let now = Instant::now();
            match woken {
                Woken::Media(MediaEvent::Key { key }) => self.machine.handle_key(now, key.expose()),
                Woken::Media(MediaEvent::PlaybackEnded { playback, .. }) => self.machine.handle_playback_ended(now, playback.0),
                Woken::Media(MediaEvent::Silent { .. }) => {
                    self.machine.handle_hang_up();
                    self.call.control.hang_up();
                    return "the phone fell silent".to_owned();
                }
                Woken::Media(MediaEvent::Stats(_) | MediaEvent::Heard(_)) => {}
                Woken::Gone => {
                    self.machine.handle_hang_up();
                    return "hung up".to_owned();
                }
                Woken::Answer(Answer::Login(ticket, answer)) => self.machine.handle_login(now, ticket, answer),
                Woken::Answer(Answer::Bound(ticket, answer)) => self.machine.handle_bound(now, ticket, answer),
                Woken::Transferred(true) => return "transferred".to_owned(),
                Woken::Transferred(false) => self.machine.handle_transfer_failed(now),
                Woken::Time => self.machine.handle_timeout(now),
            }
        }
    }

    async fn woken(&mut self) -> Woken {
        let wake = self.machine.poll_timeout().unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
        let transfer = &mut self.transfer;
        let transferred = async {
            match transfer.as_mut() {
                Some(answer) => answer.await.unwrap_or(false),
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            biased;
            // First: a call that was taken over ends for the menu at the same moment.
            done = transferred => Woken::Transferred(done),
            event = self.call.events.recv() => event.map_or(Woken::Gone, |(_, event)| Woken::Media(event)),
            cause = &mut self.call.ended, if !self.ended => {
                self.ended = true;
                match cause {
                    Ok(cause) => debug!(cause = cause.as_str(), "the call is over"),
                    Err(_) => debug!("the engine has gone"),
                }
                Woken::Gone
            }
            Some(answer) = self.answers.recv() => Woken::Answer(answer),
            () = sleep_until(wake.into()) => Woken::Time,
        };
        if let Woken::Transferred(_) = woken {
            self.transfer = None;
        }
        woken
    }

    async fn apply(&mut self, action: Action) {
        let (mac, call) = (self.call.mac, self.call.call);
        match action {
            Action::Play { playback, speech } => {
                let text = self.script.loaded.prompts.words(&speech);
                debug!(%text, "plays");
                self.shared.events.tell(Event::IvrPrompt { mac, call, text });
                let clips = self.script.voice.clips(&self.script.loaded.prompts, &speech);
                self.command(Command::Play { playback: PlaybackId(playback), clips, repeat: false });
            }
            Action::StopPlay => self.command(Command::StopPlay),
            Action::Blind(blind) => self.command(Command::Blind(blind)),
            Action::Keyed { count } => self.shared.events.tell(Event::IvrKeys { mac, call, count }),
            Action::Authenticate { ticket, number, pin, within } => {
                let check = Check { shared: self.shared.clone(), script: self.script.clone(), mac, call, source: self.call.source };
                let answer = self.answer.clone();
                let task = async move {
                    let result = check.log_in(number, pin, within).await;
                    // Nobody waits any more: the caller has hung up.
                    let _ = answer.send(Answer::Login(ticket, result)).await;
                };
                tokio::spawn(task.in_current_span());
            }
            Action::Bind { ticket, user, .. } => {
                let (shared, answer, line) = (self.shared.clone(), self.answer.clone(), self.call.line);
                let task = async move {
                    let result = bind(&shared.onboarding, mac, line, user).await;
                    let _ = answer.send(Answer::Bound(ticket, result)).await;
                };
                tokio::spawn(task.in_current_span());
            }
            Action::Transfer { to } => self.transfer = Some(self.call.control.transfer(to)),
            Action::HangUp { outcome } => {
                self.call.control.hang_up();
                self.outcome = Some(outcome);
            }
        }
    }

    fn command(&self, command: Command) {
        self.shared.media.command(self.call.session, command);
    }
}

async fn bind(onboarding: &Onboarding, mac: Option<MacAddr>, line: LineNumber, user: User) -> BindAnswer {
    let Some(mac) = mac else {
        warn!("a caller without a phone of ours cannot be bound");
        return BindAnswer::Refused;
    };
    let display_name = user.display_name.clone();
    match onboarding.bind(mac, line, user, "the voice menu").await {
        Ok(binding) => BindAnswer::Bound { extension: binding.extension, display_name },
        Err(error) => {
            warn!("not bound: {error}");
            if error.is_rule() { BindAnswer::Refused } else { BindAnswer::Unavailable }
        }
    }
}

/// One log-in: may they try, who are they, what is their extension.
struct Check {
    shared: Arc<Shared>,
    script: Arc<Script>,
    mac: Option<MacAddr>,
    call: CallId,
    source: IpAddr,
}

impl Check {
    async fn log_in(&self, number: Keys, pin: Keys, within: Duration) -> LoginAnswer {
        let start = Instant::now();
        let onboarding = &self.shared.onboarding;
        let who = onboarding.who(self.mac, Some(number.expose()), Some(self.source));
        if let Err(refusal) = self.admitted(&who).await {
            let outcome = if refusal == LoginAnswer::Locked { CheckOutcome::LockedOut } else { CheckOutcome::Unavailable };
            self.tell(outcome, start);
            return refusal;
        }
        let directory = self.shared.directory.load_full();
        let limit = within.saturating_sub(start.elapsed());
        let answer = match timeout(limit, directory.authenticate(number.expose(), &pin)).await {
            Ok(answer) => answer,
            Err(_) => Err(Denied::Unavailable("no answer while the caller waited".into())),
        };
        let (outcome, checked) = match &answer {
            Ok(_) => (Outcome::Accepted, CheckOutcome::Accepted),
            Err(Denied::Refused) => (Outcome::Refused, CheckOutcome::Refused),
            Err(Denied::Unavailable(_)) => (Outcome::Unavailable, CheckOutcome::Unavailable),
        };
        onboarding.settle(&who, outcome);
        self.tell(checked, start);
        match answer {
            Ok(user) => self.accepted(user).await,
            Err(Denied::Refused) => LoginAnswer::Refused,
            Err(Denied::Unavailable(reason)) => {
                warn!("the directory could not check a caller: {reason}");
                LoginAnswer::Unavailable
            }
        }
    }

    /// Waits out a short pause; a longer one, and a lock-out, is the caller's to wait for.
    async fn admitted(&self, who: &crate::binding::Who) -> Result<(), LoginAnswer> {
        let patience = Instant::now() + PATIENCE;
        loop {
            match self.shared.onboarding.admit(who).await {
                Ok(Verdict::Go) => return Ok(()),
                Ok(Verdict::LockedOut { .. }) => return Err(LoginAnswer::Locked),
                Ok(Verdict::Wait { until }) => {
                    let pause = until.0 - Timestamp::of(SystemTime::now()).0;
                    let pause = Duration::from_millis(u64::try_from(pause).unwrap_or(0)) + Duration::from_millis(1);
                    if Instant::now() + pause > patience {
                        return Err(LoginAnswer::Locked);
                    }
                    sleep(pause).await;
                }
                Err(error) => {
                    warn!("attempts cannot be counted, so nobody is let in: {error}");
                    return Err(LoginAnswer::Unavailable);
                }
            }
        }
    }

    async fn accepted(&self, mut user: User) -> LoginAnswer {
        self.rehearse_name(&user.display_name).await;
        match self.shared.onboarding.extension_of(user.clone()).await {
            Ok(extension) => user.extension = Some(extension),
            Err(error) if error.is_rule() => {
                warn!(user = %user.id, "has no extension: {error}");
                user.extension = None;
            }
            Err(error) => {
                warn!(user = %user.id, "the extension cannot be looked up: {error}");
                return LoginAnswer::Unavailable;
            }
        }
        LoginAnswer::Accepted(user)
    }

    fn tell(&self, outcome: CheckOutcome, start: Instant) {
        let elapsed_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(?outcome, elapsed_ms, "a log-in was checked");
        self.shared.events.tell(Event::DirectoryChecked { mac: self.mac, call: self.call, outcome, elapsed_ms });
    }

    /// Has the name spoken by the configured command, if there is one, before it is needed.
    async fn rehearse_name(&self, name: &str) {
        let script = &self.script;
        if script.tts_command.is_empty() || name.is_empty() || script.voice.knows(name) {
            return;
        }
        let spoken = async {
            let _turn = self.shared.speakers.acquire().await.map_err(|e| e.to_string())?;
            speak(&script.tts_command, name).await
        };
        match timeout(TTS_LIMIT, spoken).await {
            Ok(Ok(clip)) => script.voice.learn(name, clip),
            Ok(Err(reason)) => warn!("`ivr.tts_command` did not speak a name: {reason}"),
            Err(_) => warn!("`ivr.tts_command` took longer than {TTS_LIMIT:?} to speak a name"),
        }
    }
}

/// Runs the command; it is killed when nobody waits for it any more.
async fn speak(command: &[String], text: &str) -> Result<Clip, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = folder.path().join("name.wav");
    // A name is data: it begins no option, and holds no line ends.
    let text: String = text.trim_start_matches('-').chars().filter(|c| !c.is_control()).take(100).collect();
    let mut words = command.iter().map(|word| word.replace("{file}", &file.to_string_lossy()).replace("{text}", &text));
    let program = words.next().ok_or("no command")?;
    let mut process = Process::new(&program);
    process.args(words).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let status = process.kill_on_drop(true).status().await.map_err(|error| format!("{program}: {error}"))?;
    if !status.success() {
        return Err(format!("{program} ended with {status}"));
    }
    let bytes = tokio::fs::read(&file).await.map_err(|error| format!("{program} wrote no file: {error}"))?;
    let recording = loader::wav(&bytes)?;
    Ok(Clip::new("name", recording.rate_hz(), recording.samples()))
}
