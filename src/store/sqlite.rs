//! The store on SQLite: one writer thread that commits for many at once, a few readers beside it (WAL).
//!
//! Requests queue at the writer. It takes all that wait, runs each in a savepoint of one transaction (those whose statements stand alone
//! need none), commits with an fsync (`synchronous=FULL`) and only then answers them: a hundred leases cost one fsync, and one refused
//! request undoes nothing of its neighbours'. While the disk works, the next batch gathers by itself; only the records of calls, which
//! nobody waits for, wait for company. Events, and what was seen of devices, are many and in no hurry: they go in pieces, so that whoever
//! asks for an address does not wait for hundreds of them. A thread beside the writer folds the log into the database file.
//!
//! Not here: tables (`schema.rs`), statements (`rows`), policy.

use std::{
    collections::VecDeque,
    ffi::c_int,
    fs::{OpenOptions, Permissions},
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use rusqlite::{Connection, OpenFlags, hooks::Wal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{
    CallLeg, CallLegQuery, Claim, ContactKey, ContactRecord, Error, NewConfig, Result, ServedConfig, Store, StoredRollout,
    SubscriptionRecord, TokenRecord, VoiceMail, VoiceMessage, rows, schema,
};
use crate::model::{BindingRecord, DeviceRecord, Extension, Lease6Record, LeaseRecord, LineNumber, MacAddr, Recorded, Timestamp};

/// Requests that may wait for the writer; more make their callers wait, not the memory grow.
const QUEUE: usize = 4096;
/// Requests in one transaction at most, so that the first of them does not wait for ever.
const BATCH: usize = 1024;
/// How long a request may wait for others to share a transaction with: half of what a transaction costs is its end.
const PATIENCE: Duration = Duration::from_millis(25);
/// Events or devices in a piece: half a millisecond, for which whoever asks for a lease waits with each.
const PIECE: usize = 64;
/// Pieces in one transaction at most.
const PIECES: usize = 8;
/// The same while somebody waits, beside the first: whoever asks waits for two transactions, the one that is under way and their own.
const SHARE: usize = 3;
/// Pages of the log from which on it is folded into the database: 16 MB, so that pages which are written again meanwhile are folded
/// once.
const FOLD_AT: usize = 4000;
/// And from which on whoever writes waits for it: the folder does not keep up.
const FOLD_NOW: usize = 8 * FOLD_AT;
/// Connections that read at the same time.
const READERS: usize = 4;

/// An open database. Dropping it lets the writer finish what was queued; [`Sqlite::close`] also waits for that.
pub struct Sqlite {
    path: PathBuf,
    queue: mpsc::Sender<Message>,
    patient: Patient,
    spare: Spare,
    readers: Arc<Readers>,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
}

enum Message {
    Write(Box<dyn Write>),
    /// Who was patient has waited long enough, or there are pieces.
    Look,
    Close,
}

/// Requests that go with the next transaction. Each has its caller waiting, so that there are few.
type Patient = Arc<Mutex<Vec<Box<dyn Write>>>>;

/// Pieces of many rows: one goes with each transaction, a quarter of those that there are, and more while nobody else waits. There are as
/// many as the journal and onboarding store in one go.
type Spare = Arc<Mutex<VecDeque<Box<dyn Write>>>>;

impl Sqlite {
    /// Opens the file or makes it (mode 0600), brings its tables up to date, starts the writer.
    ///
    /// # Errors
    /// [`Error::Open`] when the file cannot be used, [`Error::TooNew`] when a later version has written it.
    pub fn open(path: impl AsRef<Path>) -> Result<Arc<Self>> {
        let path = path.as_ref().to_owned();
        let fault = |reason: String| Error::Open { path: path.display().to_string(), reason };
        own_file(&path).map_err(|e| fault(e.to_string()))?;
        let mut db = connect(&path).map_err(|e| fault(e.to_string()))?;
        migrate(&mut db, &path)?;
        let readers = (0..READERS).map(|_| connect(&path)).collect::<rusqlite::Result<Vec<_>>>().map_err(|e| fault(e.to_string()))?;
        for reader in &readers {
            reader.pragma_update(None, "query_only", true).map_err(|e| fault(e.to_string()))?;
        }
        let beside = connect(&path).map_err(|e| fault(e.to_string()))?;
        let (wake, woken) = sync_channel(1);
        db.wal_hook(Some(fold_when_long(wake))).map_err(|e| fault(e.to_string()))?;
        let folder = thread::Builder::new()
            .name("store-folder".into())
            .spawn(move || fold_when_woken(&beside, &woken))
            .map_err(|e| fault(e.to_string()))?;
        let (queue, inbox) = mpsc::channel(QUEUE);
        let (patient, spare) = (Patient::default(), Spare::default());
        let mut writing = Writing { batch: Vec::new(), asked: false, patient: patient.clone(), spare: spare.clone() };
        let writer = thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || {
                writing.until_closed(db, inbox);
                // It ends when nobody can wake it any more.
                let _ = folder.join();
            })
            .map_err(|e| fault(e.to_string()))?;
        let readers = Arc::new(Readers { permits: Arc::new(Semaphore::new(READERS)), idle: Mutex::new(readers) });
        Ok(Arc::new(Self { path, queue, patient, spare, readers, writer: Mutex::new(Some(writer)) }))
    }

    /// Where the database lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `false`: it was closed, or its writer has ended by a fault.
    pub fn is_running(&self) -> bool {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner).as_ref().is_some_and(|writer| !writer.is_finished())
    }

    /// Writes what is queued, folds the log into the database file and stops. Later requests get [`Error::Stopped`].
    pub async fn close(&self) {
        // Full queue: wait for a place like everybody. Already closed: nothing to say.
        let _ = self.queue.send(Message::Close).await;
        self.readers.permits.close();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Runs `work` in the writer's next transaction and answers when that is on disk.
    async fn write<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        self.queued(work, true).await
    }

    /// The same for work whose statements stand each for itself: SQLite undoes the one that it refuses, and those before it may stay. That
    /// takes no savepoint, for which each page that is written is copied first.
    async fn write_rows<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        self.queued(work, false).await
    }

    async fn queued<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> Result<T> + Send + 'static, savepoint: bool) -> Result<T> {
        let (request, answer) = request(work, savepoint);
        self.queue.send(Message::Write(request)).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// The same for rows that can wait a little: they share the transaction of the next who cannot, and have one of their own after
    /// [`PATIENCE`].
    async fn write_patiently<T: Send + 'static>(&self, work: impl FnOnce(&Connection) -> Result<T> + Send + 'static) -> Result<T> {
        let (request, mut answer) = request(work, false);
        self.patient.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        if let Ok(answered) = tokio::time::timeout(PATIENCE, &mut answer).await {
            return answered.map_err(|_| Error::Stopped)?;
        }
        self.queue.send(Message::Look).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    }

    /// The same for many rows that are in no hurry, in pieces: some go with each transaction, more while nobody waits.
    async fn write_in_pieces<T: Clone + Send + 'static>(&self, all: Vec<T>, work: fn(&Connection, &[T]) -> Result<()>) -> Result<()> {
        let pieces: Vec<_> = all.chunks(PIECE).map(<[_]>::to_vec).collect();
        let (requests, answers): (Vec<_>, Vec<_>) = pieces.into_iter().map(|piece| request(move |db| work(db, &piece), false)).unzip();
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).extend(requests);
        self.queue.send(Message::Look).await.map_err(|_| Error::Stopped)?;
        // All are waited for: what is refused is tried again by whoever asked.
        let answers = join_all(answers).await;
        answers.into_iter().try_for_each(|answer| answer.map_err(|_| Error::Stopped)?)
    }

    /// Runs `work` on a reader, which sees everything that was acknowledged before.
    async fn read<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = self.readers.permits.clone().acquire_owned().await.map_err(|_| Error::Stopped)?;
        let lent = Lent::take(self.readers.clone(), permit).ok_or(Error::Stopped)?;
        tokio::task::spawn_blocking(move || lent.with(work)).await.map_err(|_| Error::Stopped)?.map_err(rows::refused(what))
    }
}

/// Reader connections that nobody uses now.
struct Readers {
    permits: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
}

/// A reader on loan; goes back when dropped, even by a panic or a cancelled caller.
struct Lent {
    connection: Option<Connection>,
    home: Arc<Readers>,
    /// Given back after the connection.
    _permit: OwnedSemaphorePermit,
}

impl Lent {
    fn take(home: Arc<Readers>, permit: OwnedSemaphorePermit) -> Option<Self> {
        let connection = home.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        connection.map(|connection| Self { connection: Some(connection), home, _permit: permit })
    }

    fn with<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        match &self.connection {
            Some(connection) => work(connection),
            None => Err(rusqlite::Error::InvalidQuery),
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(connection), false) = (self.connection.take(), self.home.permits.is_closed()) {
            self.home.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

/// A queued request with its answer's address, its type hidden from the queue.
trait Write: Send {
    /// Does it take a savepoint to undo it?
    fn needs_savepoint(&self) -> bool;
    /// `false`: it was refused, undo it.
    fn run(&mut self, db: &Connection) -> bool;
    /// The transaction is on disk, or failed as a whole.
    fn answer(self: Box<Self>, committed: &Result<()>);
}

struct Request<T, F> {
    work: Option<F>,
    result: Option<Result<T>>,
    savepoint: bool,
    reply: oneshot::Sender<Result<T>>,
}

/// A request and where its answer comes.
fn request<T: Send + 'static>(
    work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    savepoint: bool,
) -> (Box<dyn Write>, oneshot::Receiver<Result<T>>) {
    let (reply, answer) = oneshot::channel();
    (Box::new(Request { work: Some(work), result: None, savepoint, reply }), answer)
}

impl<T: Send, F: FnOnce(&Connection) -> Result<T> + Send> Write for Request<T, F> {
    fn needs_savepoint(&self) -> bool {
        self.savepoint
    }

    fn run(&mut self, db: &Connection) -> bool {
        let result = match self.work.take() {
            Some(work) => work(db),
            None => Err(Error::Stopped),
        };
        self.result.insert(result).is_ok()
    }

    fn answer(self: Box<Self>, committed: &Result<()>) {
        let result = match (self.result, committed) {
            // A refusal stands, whatever became of the neighbours.
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(error.clone()),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(Error::Stopped),
        };
        // The caller may have gone; its write stands all the same.
        let _ = self.reply.send(result);
    }
}

/// The writer's own: what goes into the next transaction, and where more is found.
struct Writing {
    batch: Vec<Box<dyn Write>>,
    /// Somebody waits for what is in the batch.
    asked: bool,
    patient: Patient,
    spare: Spare,
}

impl Writing {
    fn until_closed(&mut self, mut db: Connection, mut inbox: mpsc::Receiver<Message>) {
        let mut closing = false;
        while !closing || self.has_spare() {
            // Nothing is waited for while there is something to do.
            if !self.has_spare() {
                match inbox.blocking_recv() {
                    Some(Message::Write(request)) => self.batch.push(request),
                    Some(Message::Look) => {}
                    Some(Message::Close) | None => closing = true,
                }
            }
            if closing {
                // What was queued before the last handle went, or beside the word to close, is still written.
                inbox.close();
            }
            while self.batch.len() < BATCH || closing {
                match inbox.try_recv() {
                    Ok(Message::Write(request)) => self.batch.push(request),
                    Ok(Message::Look) => {}
                    Ok(Message::Close) => {
                        inbox.close();
                        closing = true;
                    }
                    Err(_) => break,
                }
            }
            self.asked = !self.batch.is_empty();
            self.batch.append(&mut self.patient.lock().unwrap_or_else(PoisonError::into_inner));
            // One at least, so that they come to an end also where no transaction can begin.
            self.batch.extend(self.next_spare());
            if self.batch.is_empty() {
                continue;
            }
            let committed = self.commit(&mut db, &inbox);
            metrics::histogram!("plugtone_store_batch_requests").record(self.batch.len() as f64);
            if let Err(error) = &committed {
                metrics::counter!("plugtone_store_failed_commits_total").increment(1);
                tracing::error!(%error, requests = self.batch.len(), "nothing of this batch was stored");
            }
            self.batch.drain(..).for_each(|request| request.answer(&committed));
        }
        if let Err(error) = db.execute_batch("PRAGMA optimize; PRAGMA wal_checkpoint(TRUNCATE);") {
            tracing::warn!(%error, "the database's log stays beside it; it is read at the next start");
        }
    }

    fn has_spare(&self) -> bool {
        !self.spare.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    fn next_spare(&self) -> Option<Box<dyn Write>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    /// One transaction with all requests and what goes with them, each in its savepoint if it needs one.
    fn commit(&mut self, db: &mut Connection, inbox: &mpsc::Receiver<Message>) -> Result<()> {
        let fault = rows::refused("commit");
        let result = self.transact(db, inbox).map_err(fault);
        if result.is_err() && !db.is_autocommit() {
            let _ = db.execute_batch("ROLLBACK");
        }
        result
    }

    fn transact(&mut self, db: &Connection, inbox: &mpsc::Receiver<Message>) -> rusqlite::Result<()> {
        db.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        self.run_all(db, inbox)?;
        // Refused, and everybody told so, if the transaction has ended before.
        db.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }

    fn run_all(&mut self, db: &Connection, inbox: &mpsc::Receiver<Message>) -> rusqlite::Result<()> {
        for request in &mut self.batch {
            if !run(db, request.as_mut())? {
                return Ok(());
            }
        }
        // Of many a quarter, so that they do not fall behind for as long as somebody always waits.
        let share = (self.spare.lock().unwrap_or_else(PoisonError::into_inner).len() / 4).min(SHARE);
        for taken in 0..PIECES - 1 {
            let nobody_waits = !self.asked && inbox.is_empty();
            let next = if taken < share || nobody_waits { self.next_spare() } else { None };
            let Some(mut request) = next else { break };
            let goes_on = run(db, request.as_mut());
            self.batch.push(request);
            if !goes_on? {
                break;
            }
        }
        Ok(())
    }
}

/// Looks at the log's length after each commit. Whoever waits for a commit does not wait until its pages are in the database file too:
/// that takes tens of milliseconds.
fn fold_when_long(wake: SyncSender<()>) -> impl FnMut(&mut Wal, c_int) -> rusqlite::Result<()> + Send {
    let mut next = FOLD_AT;
    move |log, pages| {
        let pages = usize::try_from(pages).unwrap_or_default();
        if pages < FOLD_AT {
            next = FOLD_AT;
        } else if pages >= FOLD_NOW && pages >= next {
            next = pages + FOLD_AT;
            // The commit stands, whatever becomes of this; the folder tells what is wrong.
            let _ = log.checkpoint();
        } else if pages >= next {
            // What was written meanwhile wants folding too, before the log can begin anew.
            next = pages + FOLD_AT / 4;
            let _ = wake.try_send(());
        }
        Ok(())
    }
}

/// Ends when the writer has.
fn fold_when_woken(db: &Connection, woken: &Receiver<()>) {
    while woken.recv().is_ok() {
        // In the way of nobody, and without a wait for anybody: the next time it goes further.
        if let Err(error) = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            tracing::warn!(%error, "the database's log could not be folded into its file, and grows");
        }
    }
}

/// Runs one request of a transaction. `false`: the transaction has ended with it.
fn run(db: &Connection, request: &mut dyn Write) -> rusqlite::Result<bool> {
    if !request.needs_savepoint() {
        return Ok(request.run(db) || !db.is_autocommit());
    }
    db.prepare_cached("SAVEPOINT request")?.execute([])?;
    if !request.run(db) {
        // On a full disk or an I/O error SQLite has ended the whole transaction by itself; then this fails too.
        db.prepare_cached("ROLLBACK TO request")?.execute([])?;
    }
    db.prepare_cached("RELEASE request")?.execute([])?;
    Ok(true)
}

/// Makes the file ours alone before SQLite opens it; its `-wal` and `-shm` take over the mode.
fn own_file(path: &Path) -> std::io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    Ok(())
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.set_prepared_statement_cache_capacity(64);
    // An admin's `sqlite3` may hold the file for a moment.
    db.busy_timeout(Duration::from_secs(5))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    // What a savepoint would need to go back is kept in memory: by default it goes to a file that is made for each transaction.
    db.pragma_update(None, "temp_store", "MEMORY")?;
    db.pragma_update(None, "foreign_keys", true)?;
    Ok(db)
}

fn migrate(db: &mut Connection, path: &Path) -> Result<()> {
    let fault = |e: rusqlite::Error| Error::Open { path: path.display().to_string(), reason: e.to_string() };
    let found: u32 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(fault)?;
    if found > schema::KNOWN {
        return Err(Error::TooNew { found, known: schema::KNOWN });
    }
    for (number, sql) in schema::MIGRATIONS.iter().enumerate().skip(found as usize) {
        let step = db.transaction().map_err(fault)?;
        step.execute_batch(sql).map_err(fault)?;
        step.pragma_update(None, "user_version", number as u32 + 1).map_err(fault)?;
        step.commit().map_err(fault)?;
    }
    Ok(())
}

#[async_trait]
impl Store for Sqlite {
    async fn leases(&self) -> Result<Vec<LeaseRecord>> {
        self.read("list leases", rows::leases).await
    }

    async fn save_lease(&self, lease: LeaseRecord) -> Result<()> {
        self.write_rows(move |db| rows::save_lease(db, &lease)).await
    }

    async fn remove_lease(&self, address: Ipv4Addr) -> Result<()> {
        self.write(move |db| rows::remove_lease(db, address)).await
    }

    async fn leases6(&self) -> Result<Vec<Lease6Record>> {
        self.read("list leases of DHCPv6", rows::leases6).await
    }

    async fn save_leases6(&self, leases: Vec<Lease6Record>) -> Result<()> {
        self.write(move |db| leases.iter().try_for_each(|lease| rows::save_lease6(db, lease))).await
    }

    async fn devices(&self) -> Result<Vec<DeviceRecord>> {
        self.read("list devices", rows::devices).await
    }

    async fn device(&self, mac: MacAddr) -> Result<Option<DeviceRecord>> {
        self.read("find a device", move |db| rows::device(db, mac)).await
    }

    async fn save_device(&self, device: DeviceRecord) -> Result<()> {
        self.write(move |db| rows::save_device(db, &device)).await
    }

    async fn save_devices(&self, devices: Vec<DeviceRecord>) -> Result<()> {
        self.write_in_pieces(devices, |db, piece| piece.iter().try_for_each(|device| rows::save_device(db, device))).await
    }

    async fn bindings(&self) -> Result<Vec<BindingRecord>> {
        self.read("list bindings", rows::bindings).await
    }

    async fn bind(
        &self,
        device: DeviceRecord,
        binding: BindingRecord,
        instead: Vec<(DeviceRecord, LineNumber)>,
        devices_per_extension: u8,
    ) -> Result<()> {
        self.write(move |db| rows::bind(db, &device, &binding, &instead, devices_per_extension)).await
    }

    async fn unbind(&self, device: DeviceRecord, line: LineNumber) -> Result<()> {
        self.write(move |db| rows::unbind(db, &device, line)).await
    }

    async fn rearrange(&self, devices: Vec<(DeviceRecord, Vec<BindingRecord>)>, devices_per_extension: u8) -> Result<()> {
        self.write(move |db| rows::rearrange(db, &devices, devices_per_extension)).await
    }

    async fn extensions(&self) -> Result<Vec<(Extension, String)>> {
        self.read("list extensions", rows::extensions).await
    }

    async fn claim_extension(&self, user_id: &str, wanted: Option<Extension>, range: (Extension, Extension)) -> Result<Extension> {
        let user_id = user_id.to_owned();
        self.write(move |db| rows::claim_extension(db, &user_id, wanted.as_ref(), (&range.0, &range.1))).await
    }

    async fn append_events(&self, events: Vec<Arc<Recorded>>) -> Result<()> {
        self.write_in_pieces(events, rows::append_events).await
    }

    async fn events_after(&self, seq: u64, limit: usize) -> Result<Vec<Recorded>> {
        self.read("read events", move |db| rows::events_after(db, seq, limit)).await
    }

    async fn timeline(&self, mac: MacAddr, limit: usize) -> Result<Vec<Recorded>> {
        self.read("read a timeline", move |db| rows::timeline(db, mac, limit)).await
    }

    async fn last_seq(&self) -> Result<u64> {
        self.read("read the last event's number", rows::last_seq).await
    }

    async fn prune_events(&self, before: Timestamp, now: Timestamp) -> Result<usize> {
        self.write(move |db| rows::prune_events(db, before, now)).await
    }

    async fn contacts(&self) -> Result<Vec<ContactRecord>> {
        self.read("list contacts", rows::contacts).await
    }

    async fn write_contacts(&self, gone: Vec<ContactKey>, saved: Vec<ContactRecord>) -> Result<()> {
        self.write(move |db| {
            gone.iter().try_for_each(|key| rows::remove_contact(db, key))?;
            saved.iter().try_for_each(|contact| rows::save_contact(db, contact))
        })
        .await
    }

    async fn subscriptions(&self) -> Result<Vec<SubscriptionRecord>> {
        self.read("list subscriptions", rows::subscriptions).await
    }

    async fn save_subscription(&self, subscription: SubscriptionRecord) -> Result<()> {
        self.write(move |db| rows::save_subscription(db, &subscription)).await
    }

    async fn remove_subscription(&self, local_tag: &str) -> Result<()> {
        let local_tag = local_tag.to_owned();
        self.write(move |db| rows::remove_subscription(db, &local_tag)).await
    }

    async fn save_call_legs(&self, legs: Vec<CallLeg>) -> Result<()> {
        self.write_patiently(move |db| legs.iter().try_for_each(|leg| rows::save_call_leg(db, leg))).await
    }

    async fn call_legs(&self, query: CallLegQuery) -> Result<Vec<CallLeg>> {
        self.read("read the records of calls", move |db| rows::call_legs(db, &query)).await
    }

    async fn close_call_legs(&self) -> Result<usize> {
        self.write(rows::close_call_legs).await
    }

    async fn prune_call_legs(&self, before: Timestamp) -> Result<usize> {
        self.write(move |db| rows::prune_call_legs(db, before)).await
    }

    async fn voice_messages(&self, mailbox: Option<String>) -> Result<Vec<VoiceMessage>> {
        self.read("list voice messages", move |db| rows::voice_messages(db, mailbox.as_deref())).await
    }

    async fn voice_bytes(&self) -> Result<u64> {
        self.read("measure voice messages", rows::voice_bytes).await
    }

    async fn save_voice_message(&self, message: VoiceMessage, mail: bool) -> Result<()> {
        self.write(move |db| rows::save_voice_message(db, &message, mail)).await
    }

    async fn mark_voice_message(&self, mailbox: &str, id: &str, heard: Timestamp) -> Result<bool> {
        let (mailbox, id) = (mailbox.to_owned(), id.to_owned());
        self.write(move |db| rows::mark_voice_message(db, &mailbox, &id, heard)).await
    }

    async fn remove_voice_message(&self, mailbox: &str, id: &str) -> Result<bool> {
        let (mailbox, id) = (mailbox.to_owned(), id.to_owned());
        self.write(move |db| rows::remove_voice_message(db, &mailbox, &id)).await
    }

    async fn voice_mails(&self, now: Timestamp, limit: usize) -> Result<(Vec<VoiceMail>, Option<Timestamp>)> {
        self.read("list mails", move |db| rows::voice_mails(db, now, limit)).await
    }

    async fn retry_voice_mail(&self, mailbox: &str, id: &str, next: Timestamp) -> Result<()> {
        let (mailbox, id) = (mailbox.to_owned(), id.to_owned());
        self.write(move |db| rows::retry_voice_mail(db, &mailbox, &id, next)).await
    }

    async fn remove_voice_mail(&self, mailbox: &str, id: &str) -> Result<()> {
        let (mailbox, id) = (mailbox.to_owned(), id.to_owned());
        self.write(move |db| rows::remove_voice_mail(db, &mailbox, &id)).await
    }

    async fn tokens(&self) -> Result<Vec<TokenRecord>> {
        self.read("list tokens", rows::tokens).await
    }

    async fn save_token(&self, token: TokenRecord) -> Result<()> {
        self.write(move |db| rows::save_token(db, &token)).await
    }

    async fn remove_token(&self, name: &str) -> Result<bool> {
        let name = name.to_owned();
        self.write(move |db| rows::remove_token(db, &name)).await
    }

    async fn claim_action(&self, key: &str, request_hash: [u8; 32], now: Timestamp) -> Result<Claim> {
        let key = key.to_owned();
        self.write(move |db| rows::claim_action(db, &key, request_hash, now)).await
    }

    async fn finish_action(&self, key: &str, answer: &str) -> Result<()> {
        let (key, answer) = (key.to_owned(), answer.to_owned());
        self.write(move |db| rows::finish_action(db, &key, &answer)).await
    }

    async fn forget_action(&self, key: &str) -> Result<()> {
        let key = key.to_owned();
        self.write(move |db| rows::forget_action(db, &key)).await
    }

    async fn save_upload(&self, mac: MacAddr, name: &str, body: Vec<u8>, at: Timestamp) -> Result<()> {
        let name = name.to_owned();
        self.write(move |db| rows::save_upload(db, mac, &name, &body, at)).await
    }

    async fn upload(&self, mac: MacAddr, name: &str) -> Result<Option<Vec<u8>>> {
        let name = name.to_owned();
        self.read("read an upload", move |db| rows::upload(db, mac, &name)).await
    }

    async fn remove_uploads(&self, mac: MacAddr) -> Result<usize> {
        self.write(move |db| rows::remove_uploads(db, mac)).await
    }

    async fn configs(&self, mac: MacAddr) -> Result<Vec<ServedConfig>> {
        self.read("read what a phone was given", move |db| rows::configs(db, mac)).await
    }

    async fn latest_configs(&self) -> Result<Vec<ServedConfig>> {
        self.read("read what phones were given last", rows::latest_configs).await
    }

    async fn config_text(&self, hash: &str) -> Result<Option<String>> {
        let hash = hash.to_owned();
        self.read("read a configuration", move |db| rows::config_text(db, &hash)).await
    }

    async fn save_configs(&self, configs: Vec<NewConfig>) -> Result<u64> {
        self.write(move |db| rows::save_configs(db, &configs)).await
    }

    async fn touch_configs(&self, served: Vec<(MacAddr, String, Timestamp)>) -> Result<()> {
        self.write(move |db| rows::touch_configs(db, &served)).await
    }

    async fn config_bytes(&self) -> Result<u64> {
        self.read("measure configurations", rows::config_bytes).await
    }

    async fn prune_configs(&self, most: u64) -> Result<u64> {
        self.write(move |db| rows::prune_configs(db, most)).await
    }

    async fn first_boots(&self) -> Result<Vec<(MacAddr, Timestamp, IpAddr)>> {
        self.read("read first boots", rows::first_boots).await
    }

    async fn save_first_boot(&self, mac: MacAddr, at: Timestamp, address: IpAddr) -> Result<()> {
        self.write(move |db| rows::save_first_boot(db, mac, at, address)).await
    }

    async fn rollout(&self) -> Result<Option<StoredRollout>> {
        self.read("read the rollout", rows::rollout).await
    }

    async fn save_rollout(&self, rollout: StoredRollout) -> Result<()> {
        self.write(move |db| rows::save_rollout(db, &rollout)).await
    }

    async fn save_rollout_state(&self, state: &str) -> Result<()> {
        let state = state.to_owned();
        self.write(move |db| rows::save_rollout_state(db, &state)).await
    }

    async fn forget_rollout_sets(&self) -> Result<()> {
        self.write(rows::forget_rollout_sets).await
    }

    async fn remove_rollout(&self) -> Result<()> {
        self.write(rows::remove_rollout).await
    }

    async fn wishes(&self) -> Result<Vec<(String, String)>> {
        self.read("read what people wish", rows::wishes).await
    }

    async fn save_wish(&self, key: &str, value: Option<&str>) -> Result<()> {
        let (key, value) = (key.to_owned(), value.map(str::to_owned));
        self.write(move |db| rows::save_wish(db, &key, value.as_deref())).await
    }

    async fn attempts(&self) -> Result<Option<String>> {
        self.read("read the counts of log-ins", rows::attempts).await
    }

    async fn save_attempts(&self, state: &str) -> Result<()> {
        let state = state.to_owned();
        self.write(move |db| rows::save_attempts(db, &state)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_lease_waits_for_few_pieces() {
        let mut db = Connection::open_in_memory().expect("a database");
        let (patient, spare) = (Patient::default(), Spare::default());
        let pieces = (0..PIECES + 3).map(|_| request(|_| Ok(()), true).0);
        spare.lock().expect("alone here").extend(pieces);
        let mut writing = Writing { batch: Vec::new(), asked: false, patient, spare };
        let (queue, mut inbox) = mpsc::channel(4);
        let mut stored = |writing: &mut Writing, inbox: &mpsc::Receiver<Message>| {
            writing.batch.extend(writing.next_spare());
            writing.commit(&mut db, inbox).expect("stored");
            writing.batch.drain(..).count()
        };

        queue.try_send(Message::Write(request(|_| Ok(()), false).0)).expect("room");
        let (one, of_many) = (1, 1 + (PIECES + 2) / 4);
        assert_eq!(stored(&mut writing, &inbox), of_many, "somebody waits, and there are many");
        inbox.try_recv().expect("it is his turn");
        assert_eq!(stored(&mut writing, &inbox), PIECES, "nobody does");
        assert!(!writing.has_spare());
        writing.spare.lock().expect("alone here").extend((0..3).map(|_| request(|_| Ok(()), true).0));
        queue.try_send(Message::Write(request(|_| Ok(()), false).0)).expect("room");
        assert_eq!((stored(&mut writing, &inbox), writing.has_spare()), (one, true), "somebody waits");
        writing.spare.lock().expect("alone here").extend((0..100).map(|_| request(|_| Ok(()), true).0));
        assert_eq!(stored(&mut writing, &inbox), 1 + SHARE, "somebody waits, however many there are");
        // All who ask may be in the transaction itself: then nobody comes meanwhile, and they wait for its end.
        inbox.try_recv().expect("their turn");
        writing.asked = true;
        assert_eq!(stored(&mut writing, &inbox), 1 + SHARE, "those wait who are in it");
    }
}
