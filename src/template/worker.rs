//! Templates that somebody has written here are compiled and rendered in a process of their own, which the system ends where it takes
//! too much.
//!
//! minijinja counts instructions, and not what each of them makes: forty times `x ~ x`, or two lists that hold each other forty deep and
//! are compared, take few instructions and all memory or all time there is; and its compiler works out `'x' * 9000000` by itself, and
//! calls itself once for each `not` of a thousand. No hook sees that, so the limits are the system's: memory by `RLIMIT_DATA`, time by a
//! timer on the process's own CPU, which a busy machine does not shorten. What ended the process once is not rendered again as long as
//! its set lives. Shipped templates are ours and stay in this process, where no pipe is in their way.
//!
//! Both ends are here: [`Apart`], which asks, and [`serve`], which the same program runs when it is started as [`ARGUMENT`]. Between them
//! go frames: four bytes of length, and JSON or what was rendered, with a byte behind it that says which. Not here: what a template is
//! and what it sees (`set.rs`, `family.rs`).

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, BufReader, Read, Write},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
    time::Duration,
};

use minijinja::Value;
use nix::sys::{
    resource::{Resource, setrlimit},
    signal::{SigEvent, SigevNotify, Signal},
    timer::{Expiration, Timer, TimerSetTimeFlags},
};
use nix::time::ClockId;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::block_in_place,
};

use super::fault::Fault;
use super::render::Grammar;
use super::set::{Source, TemplateSet};

/// The program's first argument when it is to be such a process.
pub const ARGUMENT: &str = "template-worker";
/// What the process may have beyond itself; it has 15 MB.
const MEMORY: u64 = 256 << 20;
/// CPU time of one rendering, or of one template to compile: a thousand times what shipped ones take.
const PATIENCE: Duration = Duration::from_secs(3);
/// A frame longer than this is not one of ours; the longest have a phone book in them.
const FRAME_MAX: u32 = 256 << 20;

/// Last byte of an answer: before it stands a template's name, which is compiled now…
const COMPILES: u8 = 0;
/// … or what was rendered …
const RENDERED: u8 = 1;
/// … or faults as JSON.
const FAULTS: u8 = 2;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// From now on there is a process for them, which is this program. Without it all is rendered here, as in tests of the library.
pub fn start_as(program: &Path) {
    // Twice is once: it is the same program.
    let _ = PROGRAM.set(program.to_owned());
}

/// `None`: all is rendered here.
pub(super) fn program() -> Option<&'static Path> {
    PROGRAM.get().map(PathBuf::as_path)
}

/// One rendering.
#[derive(Serialize, Deserialize)]
pub(super) struct Job<'a> {
    pub family: Cow<'a, str>,
    pub grammar: Grammar,
    pub template: Cow<'a, str>,
    /// With a mark at the end of each line; see `trace.rs`.
    pub marked: bool,
    pub context: Cow<'a, Value>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum End {
    #[error("takes too long: it loops without end or nearly so")]
    TooLong,
    #[error("takes too much memory: it makes texts or lists that grow without end, or is nested without end")]
    TooMuch,
    /// It could not be started, or somebody else has ended it.
    #[error("cannot be rendered now: {0}")]
    Failed(String),
}

/// A process for the templates of one set, started when it is needed first.
pub(super) struct Apart {
    program: &'static Path,
    sources: Vec<Source>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    process: Option<Process>,
    /// What has ended a process, and how.
    refused: BTreeMap<Key, End>,
}

/// Family, grammar, template, and whether it is marked.
type Key = (String, Grammar, String, bool);

struct Process {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Apart {
    /// Compiles them. The other faults are those of the sources.
    ///
    /// # Errors
    /// What has ended the process, and of which template.
    pub fn compile(program: &'static Path, sources: Vec<Source>) -> Result<(Self, Vec<Fault>), (String, End)> {
        let (process, faults) = Process::start(program, &sources)?;
        let state = State { process: Some(process), ..Default::default() };
        Ok((Self { program, sources, state: Mutex::new(state) }, faults))
    }

    /// What the job gives. Waits for jobs that are under way, and as long as a template may take; other tasks of a runtime go on meanwhile.
    pub fn run(&self, job: &Job<'_>) -> Result<Result<Vec<u8>, Fault>, End> {
        let may_wait = |handle: Handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread;
        match Handle::try_current().is_ok_and(may_wait) {
            true => block_in_place(|| self.run_waiting(job)),
            false => self.run_waiting(job),
        }
    }

    fn run_waiting(&self, job: &Job<'_>) -> Result<Result<Vec<u8>, Fault>, End> {
        let key = (job.family.to_string(), job.grammar, job.template.to_string(), job.marked);
        let written = serde_json::to_vec(job).map_err(|fault| End::Failed(fault.to_string()))?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked when it is this job's turn: the one before may have been the same.
        if let Some(end) = state.refused.get(&key) {
            return Err(end.clone());
        }
        // A process that somebody has ended while it had nothing to do is no fault of this template.
        let mut process = match state.process.take().and_then(|mut process| process.is_alive().then_some(process)) {
            Some(process) => process,
            None => Process::start(self.program, &self.sources).map_err(|(_, end)| end)?.0,
        };
        match process.ask(&written) {
            Ok(answer) => {
                state.process = Some(process);
                Ok(answer)
            }
            Err(fault) => {
                let end = process.end(&fault);
                tracing::warn!(family = &*job.family, template = &*job.template, ?end, "a template has ended the process that rendered it");
                if !matches!(end, End::Failed(_)) {
                    state.refused.insert(key, end.clone());
                }
                Err(end)
            }
        }
    }
}

impl Process {
    /// With faults of the sources, or with the template that it was at when it ended.
    fn start(program: &Path, sources: &[Source]) -> Result<(Self, Vec<Fault>), (String, End)> {
        let mut at = String::new();
        let mut process = Self::spawn(program).map_err(|fault| (String::new(), End::Failed(fault.to_string())))?;
        match process.compile(sources, &mut at) {
            Ok(faults) => Ok((process, faults)),
            Err(fault) => Err((at, process.end(&fault))),
        }
    }

    fn spawn(program: &Path) -> io::Result<Self> {
        let mut child = Command::new(program)
            .arg(ARGUMENT)
            .env_clear()
            // What is only set aside would count as memory.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            // Ctrl-C is for the server, which ends this one.
            .process_group(0)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else { return Err(io::Error::other("it has no pipes")) };
        Ok(Self { child, to, from: BufReader::new(from) })
    }

    fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// `at`: the template that is compiled now.
    fn compile(&mut self, sources: &[Source], at: &mut String) -> io::Result<Vec<Fault>> {
        write_frame(&mut self.to, &[&serde_json::to_vec(sources)?])?;
        loop {
            match self.answer()? {
                (COMPILES, name) => *at = String::from_utf8_lossy(&name).into_owned(),
                (_, faults) => return Ok(serde_json::from_slice(&faults)?),
            }
        }
    }

    fn ask(&mut self, job: &[u8]) -> io::Result<Result<Vec<u8>, Fault>> {
        write_frame(&mut self.to, &[job])?;
        match self.answer()? {
            (RENDERED, bytes) => Ok(Ok(bytes)),
            (_, fault) => Ok(Err(serde_json::from_slice(&fault)?)),
        }
    }

    fn answer(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut answer = read_frame(&mut self.from)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok((answer.pop().ok_or(io::ErrorKind::InvalidData)?, answer))
    }

    /// Why it does not answer.
    fn end(mut self, fault: &io::Error) -> End {
        // It has closed its end of the pipe, so that it is gone or nearly so; and one that answers nonsense goes now.
        if !matches!(fault.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe) {
            let _ = self.child.kill();
        }
        let status = self.child.wait();
        match status.as_ref().ok().and_then(ExitStatus::signal) {
            Some(libc::SIGPROF) => End::TooLong,
            // How Rust ends where there is no memory, and how the system ends where there is no stack.
            Some(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS) => End::TooMuch,
            _ => {
                End::Failed(format!("the process that renders it has ended: {}", status.map_or_else(|e| e.to_string(), |s| s.to_string())))
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Renders what it is asked for on standard input, until that is closed.
///
/// # Errors
/// The pipe is broken, what comes is none of ours, or the system sets no limits: then nothing is rendered at all.
pub fn serve() -> io::Result<()> {
    let (mut from, mut to) = (io::stdin().lock(), io::stdout().lock());
    let Some(sources) = read_json::<Vec<Source>>(&mut from)? else { return Ok(()) };
    let mut timer = limit()?;
    let mut told = Ok(());
    let (set, faults) = TemplateSet::unchecked(&sources, |name| {
        told = set_timer(&mut timer, PATIENCE).and_then(|()| write_frame(&mut to, &[name.as_bytes(), &[COMPILES]]));
    });
    told?;
    set_timer(&mut timer, Duration::ZERO)?;
    write_frame(&mut to, &[&serde_json::to_vec(&faults)?, &[FAULTS]])?;
    while let Some(job) = read_json::<Job>(&mut from)? {
        set_timer(&mut timer, PATIENCE)?;
        let answer = set.run_here(&job);
        set_timer(&mut timer, Duration::ZERO)?;
        match answer {
            Ok(rendered) => write_frame(&mut to, &[&rendered, &[RENDERED]])?,
            Err(fault) => write_frame(&mut to, &[&serde_json::to_vec(&fault)?, &[FAULTS]])?,
        }
    }
    Ok(())
}

/// What is taken beyond the limits ends this process from here on. Gives the timer that does so when it runs out.
fn limit() -> io::Result<Timer> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let data = status.lines().find_map(|line| line.strip_prefix("VmData:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let most = data.ok_or_else(|| io::Error::other("the system does not tell this process's memory"))? * 1024 + MEMORY;
    setrlimit(Resource::RLIMIT_DATA, most, most)?;
    // What it holds is secret and stays out of files.
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let notify = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGPROF, si_value: 0 });
    Ok(Timer::new(ClockId::CLOCK_PROCESS_CPUTIME_ID, notify)?)
}

fn set_timer(timer: &mut Timer, time: Duration) -> io::Result<()> {
    Ok(timer.set(Expiration::OneShot(time.into()), TimerSetTimeFlags::empty())?)
}

fn write_frame(to: &mut impl Write, parts: &[&[u8]]) -> io::Result<()> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    let length = u32::try_from(length).ok().filter(|length| *length <= FRAME_MAX).ok_or_else(|| io::Error::other("it is too long"))?;
    let mut frame = Vec::with_capacity(4 + length as usize);
    frame.extend_from_slice(&length.to_le_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    to.write_all(&frame)?;
    to.flush()
}

/// `None`: there is no more.
fn read_frame(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(fault) if fault.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = u32::from_le_bytes(length);
    if length > FRAME_MAX {
        return Err(io::Error::other("a frame is too long"));
    }
    let mut frame = Vec::new();
    if from.take(length.into()).read_to_end(&mut frame)? < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some(frame))
}

fn read_json<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<T>> {
    Ok(read_frame(from)?.map(|frame| serde_json::from_slice(&frame)).transpose()?)
}
