//! The engine's thread, with an event loop of its own that does nothing but SIP.
//!
//! On the threads that the rest shares, each message would wake one of them for the socket and another for the engine, and wait
//! behind whatever a file or a web page needs meanwhile. Here the socket and the engine take turns on one: a message costs one
//! wake-up, and half a hundred that come together cost one too.

use std::{io, panic, thread::JoinHandle};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

pub(super) struct Thread(Runtime);

impl Thread {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self(Builder::new_current_thread().enable_all().build()?))
    }

    /// Where the sockets belong that the engine reads itself.
    pub(super) fn handle(&self) -> &Handle {
        self.0.handle()
    }

    /// Starts `work` there. What is returned ends with it, and panics if it did; dropped before, it ends the work.
    pub(super) fn run(self, work: impl Future<Output = ()> + Send + 'static) -> io::Result<impl Future<Output = ()>> {
        let (done, ended) = oneshot::channel();
        let (wanted, unwanted) = oneshot::channel::<()>();
        // Not what the runtime blocks on: that is looked at only after the system was asked once more for what is new.
        let work = self.0.spawn(work);
        let thread = std::thread::Builder::new().name("sip".into()).spawn(move || {
            let worked = self.0.block_on(async {
                tokio::select! {
                    worked = work => worked,
                    _ = unwanted => Ok(()),
                }
            });
            // Looking up a host name may take longer than anybody wants to wait.
            self.0.shutdown_background();
            if let Some(fault) = worked.err().and_then(|fault| fault.try_into_panic().ok()) {
                panic::resume_unwind(fault);
            }
            let _ = done.send(());
        })?;
        Ok(watch(thread, ended, wanted))
    }
}

async fn watch(thread: JoinHandle<()>, ended: oneshot::Receiver<()>, _wanted: oneshot::Sender<()>) {
    let ended = ended.await;
    // It is about to be over, or has panicked already.
    if let (Err(_), Err(fault)) = (ended, thread.join()) {
        panic::resume_unwind(fault);
    }
}
