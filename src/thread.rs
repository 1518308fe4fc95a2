//! A thread with an event loop of its own, for a server that must not wait for others: SIP, DHCP, TFTP.
//!
//! On the threads that the rest shares, each message would wake one of them for the socket and another for the server behind it, and
//! wait for whatever a file or a web page needs meanwhile. Here the socket and the server take turns on one: a message costs one
//! wake-up, and half a hundred that come together cost one too.

use std::{io, panic, thread::JoinHandle};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::oneshot,
};

/// It runs from [`Thread::run`] on; until then its loop takes sockets and tasks.
pub struct Thread {
    name: &'static str,
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Thread {
    /// `name` is what `top -H` shows.
    ///
    /// # Errors
    /// The system has no descriptors left for it.
    pub fn new(name: &'static str) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        Ok(Self { name, handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Where the sockets belong that are read there.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Starts `work` there. What is returned ends with it, and panics if it did; dropped before, it ends the work.
    ///
    /// # Errors
    /// The system has no thread left for it.
    pub fn run(self, work: impl Future<Output = ()> + Send + 'static) -> io::Result<impl Future<Output = ()>> {
        let (done, ended) = oneshot::channel();
        let (wanted, unwanted) = oneshot::channel::<()>();
        // Not what the runtime blocks on: that is looked at only after the system was asked once more for what is new.
        let work = self.handle.spawn(work);
        let thread = std::thread::Builder::new().name(self.name.into()).spawn(move || {
            let until_ended = async {
                tokio::select! {
                    worked = work => worked,
                    _ = unwanted => Ok(()),
                }
            };
            let worked = self.runtime.as_ref().map(|runtime| runtime.block_on(until_ended));
            drop(self);
            if let Some(fault) = worked.and_then(Result::err).and_then(|fault| fault.try_into_panic().ok()) {
                panic::resume_unwind(fault);
            }
            let _ = done.send(());
        })?;
        Ok(watch(thread, ended, wanted))
    }
}

/// What comes of `work` on a thread of its own: of a load, which must not run on the threads that the server under it shares.
///
/// # Errors
/// The system has no thread or no descriptors left for it.
pub async fn alone<T: Send + 'static>(name: &'static str, work: impl Future<Output = T> + Send + 'static) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let work = async move {
        let _ = done.send(work.await);
    };
    Thread::new(name)?.run(work)?.await;
    result.await.map_err(io::Error::other)
}

impl Drop for Thread {
    /// Also of one that never ran, as its server could not listen, where others must not wait. Looking up a host name may take longer
    /// than anybody wants to.
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

async fn watch(thread: JoinHandle<()>, ended: oneshot::Receiver<()>, _wanted: oneshot::Sender<()>) {
    let ended = ended.await;
    // It is about to be over, or has panicked already.
    if let (Err(_), Err(fault)) = (ended, thread.join()) {
        panic::resume_unwind(fault);
    }
}
