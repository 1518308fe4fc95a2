//! Which settings are read at start only. Everything else a reload puts in force.

use crate::config::Settings;

/// A section or key, and whether two settings differ in it.
type Part = (&'static str, fn(&Settings, &Settings) -> bool);

const AT_START: &[Part] = &[
    ("dhcp.listen", |old, new| old.dhcp.listen != new.dhcp.listen),
    ("dhcp.interfaces", |old, new| old.dhcp.interfaces != new.dhcp.interfaces),
    ("dhcp.mode", |old, new| old.dhcp.mode != new.dhcp.mode),
    ("dhcp6.interfaces", |old, new| old.dhcp6.interfaces != new.dhcp6.interfaces),
    ("dhcp6.mode", |old, new| old.dhcp6.mode != new.dhcp6.mode),
    ("tftp", |old, new| format!("{:?}", old.tftp) != format!("{:?}", new.tftp)),
    // A password shows nothing of itself.
    ("ftp", |old, new| format!("{:?}", old.ftp) != format!("{:?}", new.ftp) || old.ftp.password != new.ftp.password),
    ("http", |old, new| format!("{:?}", old.http) != format!("{:?}", new.http)),
    ("templates.path", |old, new| old.templates != new.templates),
    ("provisioning", |old, new| old.provisioning != new.provisioning),
    ("bindings", |old, new| old.bindings != new.bindings),
    ("extensions", |old, new| old.extensions != new.extensions),
    ("sip", |old, new| old.sip != new.sip),
    ("voicemail", |old, new| {
        let mail = |settings: &Settings| settings.voicemail.mail.as_ref().and_then(|mail| mail.password.clone());
        format!("{:?}", old.voicemail) != format!("{:?}", new.voicemail) || mail(old) != mail(new)
    }),
    ("media", |old, new| old.media != new.media),
    ("api", |old, new| old.api != new.api),
    ("store", |old, new| old.store != new.store),
    ("log", |old, new| format!("{:?}", old.log) != format!("{:?}", new.log)),
];

/// Is the key read at start only?
pub(super) fn needs_restart(key: &str) -> bool {
    AT_START.iter().any(|(part, _)| key.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

/// What differs and is read at start only.
pub(super) fn left_for_restart(old: &Settings, new: &Settings) -> Vec<&'static str> {
    AT_START.iter().filter(|(_, differs)| differs(old, new)).map(|(part, _)| *part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_is_one_that_can_be_set_and_is_noticed() {
        let old = Settings::default();
        for (part, written) in [
            ("dhcp.listen", "dhcp: { listen: '127.0.0.1:6767' }"),
            ("dhcp.interfaces", "dhcp: { interfaces: [eth7] }"),
            ("dhcp.mode", "dhcp: { mode: beside }"),
            ("dhcp6.interfaces", "dhcp6: { interfaces: [eth7] }"),
            ("dhcp6.mode", "dhcp6: { mode: stateless }"),
            ("tftp", "tftp: { retries: 9 }"),
            ("ftp", "ftp: { password: other }"),
            ("http", "http: { listen: ['127.0.0.1:8099'] }"),
            ("templates.path", "templates: { path: /elsewhere }"),
            ("provisioning", "provisioning: { sip_host: pbx.example.org }"),
            ("bindings", "bindings: { devices_per_extension: 7 }"),
            ("extensions", "extensions: { range: 300-399 }"),
            ("sip", "sip: { udp: ['127.0.0.1:5099'] }"),
            ("voicemail", "voicemail: { ring_secs: 33 }"),
            ("media", "media: { threads: 3 }"),
            ("api", "api: { listen: '127.0.0.1:8098' }"),
            ("store", "store: { path: /elsewhere/plugtone.db }"),
            ("log", "log: { level: debug }"),
        ] {
            let new: Settings = serde_yaml::from_str(written).unwrap_or_else(|fault| panic!("{written}: {fault}"));
            assert_eq!(left_for_restart(&old, &new), [part], "{written}");
            assert!(needs_restart(part) && needs_restart(&format!("{part}.x")) && !needs_restart(&format!("{part}x")), "{part}");
        }
        let new: Settings = serde_yaml::from_str("rollout: { canary: '7' }\ncalls: { max_calls: 3 }").expect("good");
        assert!(left_for_restart(&old, &new).is_empty());
        assert!(!needs_restart("rollout.canary") && !needs_restart("calls.max_calls") && !needs_restart("dhcp.subnets"));
    }
}
