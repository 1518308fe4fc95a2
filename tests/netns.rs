//! Network namespaces for tests: whole small networks that the host never sees, gone when the test ends.
//!
//! Needs root and iproute2; says so when they are missing. Programs run inside by `ip netns exec`; our own servers run
//! in this process, on a thread that has moved into the namespace, with a runtime of its own.

use std::{
    fs::File,
    future::Future,
    os::fd::AsRawFd,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// A network namespace, deleted when dropped with all its interfaces.
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// `label` is for people who look at `ip netns` while a test hangs.
    pub fn new(label: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: has no preconditions and cannot fail.
        assert_eq!(unsafe { libc::geteuid() }, 0, "tests in network namespaces need root: use `scripts/test`, or `sudo -E cargo test`");
        need("ip", "iproute2");
        let name = format!("plugtone-{}-{}-{label}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        checked(Command::new("ip").args(["netns", "add", &name]));
        let namespace = Self { name };
        namespace.ip("link set lo up");
        namespace
    }

    /// `ip` inside, as `ns.ip("route add default via 10.0.0.1")`.
    pub fn ip(&self, arguments: &str) {
        checked(Command::new("ip").args(["-n", &self.name]).args(arguments.split_whitespace()));
    }

    /// An Ethernet segment: a bridge with an address of ours, as `10.0.0.1/24`.
    pub fn bridge(&self, interface: &str, address: &str) {
        self.ip(&format!("link add {interface} type bridge"));
        self.ip(&format!("addr add {address} dev {interface}"));
        self.ip(&format!("link set {interface} up"));
    }

    /// A cable from `interface` here to `their_interface` there, up at both ends.
    pub fn cable(&self, interface: &str, other: &Namespace, their_interface: &str) {
        let (here, there) = (&self.name, &other.name);
        checked(Command::new("ip").args([
            "link",
            "add",
            interface,
            "netns",
            here,
            "type",
            "veth",
            "peer",
            "name",
            their_interface,
            "netns",
            there,
        ]));
        self.ip(&format!("link set {interface} up"));
        other.ip(&format!("link set {their_interface} up"));
    }

    /// A cable from the `bridge` here to `eth0` of `other`.
    pub fn plug(&self, bridge: &str, other: &Namespace) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let port = format!("port{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.cable(&port, other, "eth0");
        self.ip(&format!("link set {port} master {bridge}"));
    }

    /// A program inside. It is not run yet.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).stdin(Stdio::null());
        // Nothing of cargo's: what a program prints of its environment is then its own.
        command.env_clear().envs(["PATH", "HOME", "LANG"].into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
        command
    }

    /// Runs a program inside to its end, which must be good; gives what it printed, both streams.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.command("timeout").arg("60").arg(program).args(arguments).output().expect("ip netns exec");
        let text = text(&output);
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{text}", output.status);
        text
    }

    /// Starts a program inside that ends with the guard.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Running {
        let mut command = self.command(program);
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        Running(command.spawn().expect("ip netns exec"))
    }

    /// A dhcpcd that stays. It has helpers, which would outlive it: they end with its namespace of processes. What it notes in /run and
    /// /var/lib by the name of the interface is its own: there may be another.
    pub fn dhcpcd(&self, arguments: &[&str]) -> Running {
        let own = "for folder in /run/dhcpcd /var/lib/dhcpcd; do mkdir -p $folder && mount -t tmpfs none $folder || exit; done";
        let command = format!("{own}; exec dhcpcd --nobackground \"$@\"");
        let alone = ["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", &command, "dhcpcd"];
        self.start("unshare", &[&alone[..], arguments].concat())
    }

    /// Runs `work` on a thread that is in this namespace, and only that thread.
    pub fn enter<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let path = format!("/var/run/netns/{}", self.name);
        std::thread::spawn(move || {
            let file = File::open(&path).expect("the namespace is there");
            // SAFETY: the descriptor is open; only this thread moves.
            let moved = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(moved, 0, "setns: {}", std::io::Error::last_os_error());
            work()
        })
    }

    /// Runs `start` and what it spawned in this namespace, with a runtime of its own, until the guard is dropped.
    /// Returns when `start` has: it gives a value and a future to wait for after `stop` was cancelled.
    pub fn host<T, S, E>(&self, start: impl FnOnce(CancellationToken) -> S + Send + 'static) -> (T, Guest)
    where
        T: Send + 'static,
        S: Future<Output = (T, E)>,
        E: Future<Output = ()>,
    {
        let stop = CancellationToken::new();
        let (ready_tx, ready) = std::sync::mpsc::channel();
        let token = stop.clone();
        let thread = self.enter(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async move {
                let (value, end) = start(token.clone()).await;
                ready_tx.send(value).expect("the test waits");
                token.cancelled().await;
                end.await;
            });
        });
        match ready.recv_timeout(Duration::from_secs(30)) {
            Ok(value) => (value, Guest { stop, thread: Some(thread) }),
            Err(_) => match thread.join() {
                Err(panic) => std::panic::resume_unwind(panic),
                Ok(()) => panic!("what runs in the namespace did not get ready"),
            },
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// Our own code at work in a namespace; stops when dropped.
pub struct Guest {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// A program that ends with this value. `ip netns exec` becomes the program, so the process is the program's.
pub struct Running(Child);

impl Running {
    pub fn signal(&self, signal: i32) {
        // SAFETY: sends a signal to a child that was not waited for yet.
        unsafe { libc::kill(self.0.id() as i32, signal) };
    }

    pub fn wait(&mut self, limit: Duration) -> bool {
        within(limit, || self.0.try_wait().expect("child").is_some())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.signal(libc::SIGTERM);
        if !self.wait(Duration::from_secs(2)) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

/// Fails the test, naming the package, when a program is missing.
pub fn need(program: &str, package: &str) {
    let found = std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let found = found.chain(["/usr/sbin".into(), "/sbin".into()]).any(|folder| folder.join(program).exists());
    assert!(found, "this test needs `{program}`: install the Debian package {package} (`scripts/test` does)");
}

/// Waits until `done`, at most `limit`; tells whether it came to be.
pub fn within(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let ends = Instant::now() + limit;
    loop {
        if done() {
            return true;
        }
        if Instant::now() > ends {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn checked(command: &mut Command) {
    let output = command.output().expect("ip runs");
    assert!(output.status.success(), "{command:?}: {}", text(&output));
}

fn text(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}
