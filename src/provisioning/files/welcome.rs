//! Soft phones, which come by a link that opens once: who opens it, and whose the phone is from then on.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use super::{Account, Files, Hidden, Inner, now};
use crate::{
    model::MacAddr,
    provisioning::{
        FileAnswer, FileRequest,
        identify::plain,
        links::{self, DeadLink, Link},
        variables::{Own, common, own},
    },
    template::TemplateSet,
    yaml,
};

impl Files {
    /// A link by which whoever has this login gets a soft phone that reads the family's files, once, until then. `mac` is nobody's.
    /// `None`: the app's templates miss a setting for it.
    pub fn link(&self, link: &Link) -> Result<Option<String>, yaml::Fault> {
        let inner = &self.0;
        let (set, _) = inner.neighbours.templates.of(link.mac);
        let endpoints = inner.endpoints.load();
        // The site is the server's own: nobody knows yet where the app will be.
        let subject = common(&inner.settings, &endpoints, None, Some(endpoints.address), None);
        let token = link.token(&*inner.neighbours.keys);
        let url = format!("{}/{}", subject.server.url, link.path(&*inner.neighbours.keys));
        set.link(&link.family, &subject, &url, &token, &link.login)
    }
}

impl Inner {
    /// The file of a soft phone that comes by a link: it has its owner from here on, and the link is dead.
    pub(super) async fn welcomed(self: &Arc<Self>, set: &Arc<TemplateSet>, request: &FileRequest, sealed: &str) -> FileAnswer {
        // The link itself would open what it names to everybody who reads the events.
        let refused = |mac, reason: String| {
            self.refused(request, mac, "l/…", reason);
            FileAnswer::NotFound
        };
        let link = match Link::open(sealed, &*self.neighbours.keys, now()) {
            Ok(link) => link,
            Err(dead) => return refused(None, dead.to_string()),
        };
        let mac = link.mac;
        if request.head || links::is_preview(request.user_agent.as_deref()) {
            return refused(Some(mac), DeadLink::Looked.to_string());
        }
        let Some(welcoming) = Welcoming::begin(&self.welcoming, mac) else { return refused(Some(mac), DeadLink::Used.to_string()) };
        if let Err(reason) = self.welcome(&link).await {
            return refused(Some(mac), reason);
        }
        drop(welcoming);
        let known = self.neighbours.devices.known(mac).await;
        let source = plain(request.source);
        let phone = || Own { mac, known: &known, family: &link.family, model: None, firmware: None, source, local: request.local };
        let subject = self.own_subject(set, phone());
        let Some(file) = set.files(&link.family, &subject).into_iter().find(|file| file.account) else {
            return refused(Some(mac), format!("the templates have no file for {}", link.family));
        };
        let shown = || {
            let mut known = known.clone();
            known.lines.iter_mut().for_each(|line| line.secret = Hidden.secret());
            own(set, &self.settings, &self.endpoints.load(), &Hidden, Own { known: &known, ..phone() })
        };
        let answer = self.render(set, request, Some(mac), "l/…", &file, &subject, Some((mac, &shown))).await;
        if matches!(answer, FileAnswer::Found(_)) {
            self.taken(request, Account { mac, generation: known.generation, first: false });
        }
        answer
    }

    async fn welcome(&self, link: &Link) -> Result<(), String> {
        if self.neighbours.devices.known(link.mac).await.generation > 0 {
            return Err(DeadLink::Used.to_string());
        }
        self.neighbours.guests.welcome(link.mac, &link.family, &link.login).await
    }
}

/// A link that is being used. It is not any more when this is dropped, also by a client that breaks off.
struct Welcoming<'a> {
    all: &'a Mutex<HashSet<MacAddr>>,
    mac: MacAddr,
}

impl<'a> Welcoming<'a> {
    /// `None`: somebody else uses it.
    fn begin(all: &'a Mutex<HashSet<MacAddr>>, mac: MacAddr) -> Option<Self> {
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(mac).then_some(Self { all, mac })
    }
}

impl Drop for Welcoming<'_> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.mac);
    }
}
