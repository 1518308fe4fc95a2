//! From a file and its subject to an answer: what was made lately at once, anything else on the threads that are shared.
//!
//! TFTP's one thread asks too, between the blocks of all transfers: a template that takes long holds up whoever wants it, and nobody else.

use std::sync::Arc;

use bytes::Bytes;

use super::{Inner, missing, now};
use crate::{
    model::{Event, MacAddr},
    provisioning::{Body, FileAnswer, FileRequest, ServedFile, encryption, identify::plain},
    template::{FileRef, Kept, Subject, TemplateSet},
    yaml::Fault,
};

/// A file, and the hash of what people may see of it where that is another.
type Made = (Arc<Kept>, Option<blake3::Hash>);

impl Inner {
    /// `whose`: the phone that is known to ask, and the subject with which people may see its file.
    #[expect(clippy::too_many_arguments, reason = "what is asked for, by whom, and by which templates")]
    pub(super) async fn render(
        self: &Arc<Self>,
        set: &Arc<TemplateSet>,
        request: &FileRequest,
        mac: Option<MacAddr>,
        path: &str,
        file: &FileRef,
        subject: &Subject,
        whose: Option<(MacAddr, &(dyn Fn() -> Subject + Sync))>,
    ) -> FileAnswer {
        // A phone book is long, everybody has it, and it changes by itself; what only leads to the account is no configuration.
        let whose = whose.filter(|_| !file.phone_book && !subject.key_only);
        let made = match self.at_hand(set, file, subject, whose.map(|(mac, _)| mac)) {
            Some(made) => Ok(made),
            None => {
                let (inner, set, file, subject, path) = (self.clone(), set.clone(), file.clone(), subject.clone(), path.to_owned());
                let whose = whose.map(|(mac, shown)| (mac, shown()));
                let making = self.shared.spawn(async move { inner.make(&set, &file, &subject, whose, &path) });
                match making.await {
                    Ok(made) => made,
                    // It has panicked, which the log has, or the server ends.
                    Err(_) => return FileAnswer::Broken,
                }
            }
        };
        let (rendered, shown) = match made {
            Ok(made) => made,
            Err(fault) => {
                metrics::counter!("plugtone_provisioning_render_failed_total").increment(1);
                tracing::error!(path, family = %file.family, %fault, "a file cannot be rendered");
                self.tell(match mac {
                    Some(mac) => Event::RenderFailed { mac, path: path.to_owned(), error: fault.to_string() },
                    None => missing(request, mac, path),
                });
                return FileAnswer::Broken;
            }
        };
        let (bytes, hash, content_type) = match mac.filter(|_| file.encrypted) {
            None => (rendered.bytes.clone(), rendered.hash, rendered.content_type.clone()),
            Some(mac) => {
                let bytes = encryption::salted(&self.neighbours.keys.file_key(mac), &rendered.bytes);
                let hash = blake3::hash(&bytes);
                (bytes.into(), hash, "application/octet-stream".to_owned())
            }
        };
        self.found(request, mac, path, bytes, hash, content_type, shown)
    }

    /// What was made lately, and given to this very phone.
    fn at_hand(&self, set: &TemplateSet, file: &FileRef, subject: &Subject, whose: Option<MacAddr>) -> Option<Made> {
        let kept = set.remembered(file, subject)?;
        let shown = match whose {
            Some(mac) => Some(self.neighbours.history.again(mac, &kept.name, kept.hash, now())?),
            None => None,
        };
        Some((kept, shown))
    }

    fn make(
        &self,
        set: &TemplateSet,
        file: &FileRef,
        subject: &Subject,
        whose: Option<(MacAddr, Subject)>,
        path: &str,
    ) -> Result<Made, Fault> {
        let kept = set.rendered(file, subject)?;
        let shown = whose.and_then(|(mac, subject)| {
            self.neighbours.history.given(mac, &kept.name, kept.hash, now(), || {
                let masked = set.render_masked(file, &subject);
                let masked = masked.inspect_err(|fault| tracing::warn!(%mac, path, %fault, "the file cannot be shown to people"));
                Some(String::from_utf8_lossy(&masked.ok()?.bytes).into_owned())
            })
        });
        Ok((kept, shown))
    }

    /// `real`: the hash of the bytes. `shown`: that of what people may see of it, where it is another.
    #[expect(clippy::too_many_arguments, reason = "a file, and to whom it goes")]
    pub(super) fn found(
        &self,
        request: &FileRequest,
        mac: Option<MacAddr>,
        path: &str,
        bytes: Bytes,
        real: blake3::Hash,
        content_type: String,
        shown: Option<blake3::Hash>,
    ) -> FileAnswer {
        let hash = real.to_hex().to_string();
        let source = plain(request.source);
        let unchanged = request.holds(&hash);
        metrics::counter!("plugtone_provisioning_files_total", "outcome" => if unchanged { "unchanged" } else { "served" }).increment(1);
        tracing::info!(mac = mac.map(tracing::field::display), path, %source, door = ?request.door, bytes = bytes.len(), "file served");
        let (door, path, shown) = (request.door, path.to_owned(), shown.unwrap_or(real).to_hex().to_string());
        self.tell(Event::FileServed { mac, door, path, source, bytes: bytes.len(), hash: shown, unchanged });
        FileAnswer::Found(ServedFile { body: Body::Whole(bytes), content_type, hash, mac })
    }
}
