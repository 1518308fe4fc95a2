//! An office for a story: a node on free ports, with the people of config/demo/users.yaml, and phones to be plugged in.

use std::{
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use plugtone::{
    config::Settings,
    directory,
    journal::{Delivery, Subscription},
    model::{Event, Extension, MacAddr},
    node::{Node, Origin},
    phone::{
        desk::{Config, Network, News, Phone},
        make::Make,
        person::Person,
    },
};
use tempfile::TempDir;

/// Longest wait for an event.
const PATIENCE: Duration = Duration::from_secs(60);

pub type Somebody = Person<Box<dyn FnMut(&News) + Send>>;

pub struct Office {
    pub node: Node,
    pub settings: Settings,
    folder: TempDir,
}

impl Office {
    /// Opens it; `change` may set it up differently.
    pub async fn opens(change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(root.join("config/demo/plugtone.yaml")).expect("the demo's configuration");
        let mut settings = Settings::read("config/demo/plugtone.yaml", &text).expect("it is good");
        settings.directory.file = Some(directory::settings::FileSettings { path: root.join("config/demo/users.yaml") });
        settings.store.path = folder.path().join("plugtone.db");
        settings.dhcp.listen.set_port(0);
        settings.api.listen.set_port(0);
        let files = [&mut settings.tftp.listen, &mut settings.ftp.listen, &mut settings.http.listen];
        let listeners = files.into_iter().chain([&mut settings.sip.udp, &mut settings.sip.tcp]);
        listeners.flatten().for_each(|at| at.set_port(0));
        settings.media.first_port = 0;
        change(&mut settings);
        Self::of(settings, folder).await
    }

    async fn of(settings: Settings, folder: TempDir) -> Self {
        let node = Node::start(settings.clone(), Origin::Embedded).await.expect("the office opens");
        Self { node, settings, folder }
    }

    /// Closes, and opens again with what was kept; on other ports.
    pub async fn opens_again(self) -> Self {
        self.node.stop().await;
        Self::of(self.settings, self.folder).await
    }

    /// A phone of this make, out of its box and into the wall. It lifts its receiver by itself when it is called.
    pub fn plugs_in(&self, family: &str, number: u32) -> Somebody {
        let make = Make::of(family).expect("a make that can be played");
        let mac = make.mac(number);
        let network = Network::Loopback { dhcp: self.node.addresses.dhcp[0] };
        let answer_after = Some(Duration::from_millis(300));
        let mut somebody: Somebody = Person::new(Phone::plug_in(Config { make, mac, network, answer_after }), Box::new(|_| {}));
        somebody.patience = Duration::from_secs(90);
        somebody
    }

    /// An adapter of this make, and somebody with an old telephone at each of its ports.
    pub fn plugs_in_adapter(&self, family: &str, number: u32) -> Vec<Somebody> {
        let make = Make::of(family).expect("a make that can be played");
        let network = Network::Loopback { dhcp: self.node.addresses.dhcp[0] };
        let config = Config { make, mac: make.mac(number), network, answer_after: Some(Duration::from_millis(300)) };
        let at_port = |phone| {
            let mut somebody: Somebody = Person::new(phone, Box::new(|_| {}));
            somebody.patience = Duration::from_secs(90);
            somebody
        };
        Phone::plug_in_ports(config).into_iter().map(at_port).collect()
    }

    /// Every file that a phone would get now.
    pub async fn files_of(&self, mac: MacAddr) -> Vec<String> {
        let rendered = self.node.files().preview(mac, None, None).await;
        rendered.into_iter().map(|file| String::from_utf8(file.expect("rendered").bytes).expect("UTF-8")).collect()
    }

    /// What was told of a phone until now, oldest first. It waits for a journal that is behind.
    pub async fn events_of(&self, mac: MacAddr) -> Vec<Event> {
        static MARKS: AtomicU32 = AtomicU32::new(0);
        let mark = Event::Started { version: format!("mark {}", MARKS.fetch_add(1, Ordering::Relaxed)) };
        self.node.journal.events().tell(mark.clone());
        let mut events = Vec::new();
        let of_the_phone = |event: &Event| {
            if event.mac() == Some(mac) {
                events.push(event.clone());
            }
            *event == mark
        };
        self.journal().until("what was told before", of_the_phone).await;
        events
    }

    /// Everything that the journal has and gets, from the office's first day.
    pub fn journal(&self) -> Journal {
        Journal(self.node.journal.subscribe(0))
    }

    /// Whose phone it is now.
    pub fn owner(&self, mac: MacAddr) -> Option<Extension> {
        self.node.account(mac).extension
    }
}

/// Reads what is told, and waits for what is not told yet.
pub struct Journal(Subscription);

impl Journal {
    /// The next event that `wanted` accepts.
    pub async fn until(&mut self, what: &str, mut wanted: impl FnMut(&Event) -> bool) -> Event {
        let search = async {
            loop {
                match self.0.next().await.expect("the journal goes on") {
                    Delivery::Event(recorded) if wanted(&recorded.event) => return recorded.event.clone(),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(PATIENCE, search).await.unwrap_or_else(|_| panic!("the journal never told of {what}"))
    }
}
