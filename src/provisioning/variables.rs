//! From what is known of a phone to what its templates may see: its lines, and the server in words that it can use. Pure.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use super::{
    identities::{NOBODY, auth_user, provisional_user},
    profiles::Profile,
    settings::Settings,
};
use crate::{
    binding::MasterKey,
    model::{Generation, Inventory, LineNumber, MacAddr, Secret},
    template::{Contacts, Line, Server, SipPorts, Subject, TemplateSet},
};

/// Where the server's own services are; `node` knows it once the sockets are open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoints {
    /// For phones whose request does not tell where it arrived.
    pub address: IpAddr,
    /// `None`: no HTTP; phones are sent to TFTP.
    pub http_port: Option<u16>,
    /// The same for phones that reach us by IPv6.
    pub http_port_v6: Option<u16>,
    /// And with TLS.
    pub https_port: Option<u16>,
    pub https_port_v6: Option<u16>,
    pub tftp_port: u16,
    pub sip: SipPorts,
    pub realm: String,
    /// Whom phones must believe to believe us, in PEM; `None` where TLS is off, or they know it by themselves.
    pub authority: Option<Arc<str>>,
}

impl Default for Endpoints {
    fn default() -> Self {
        Self {
            address: Ipv4Addr::LOCALHOST.into(),
            http_port: Some(80),
            http_port_v6: Some(80),
            https_port: None,
            https_port_v6: None,
            tftp_port: 69,
            sip: SipPorts { udp: Some(5060), ..SipPorts::default() },
            realm: "plugtone".into(),
            authority: None,
        }
    }
}

/// What is stored of a phone, and who it is now.
#[derive(Clone, Debug, Default)]
pub struct Known {
    pub profile: Arc<Profile>,
    /// Of its file, and of the secrets of lines without owner.
    pub generation: Generation,
    /// Never empty for a phone that may have a file: the first line is there from the beginning. Further ones are here once somebody
    /// owns them; those to sign in at are added where the templates are known.
    pub lines: Vec<Line>,
    /// The phone book.
    pub contacts: Option<Contacts>,
}

impl Known {
    /// Whether somebody's extension is on it.
    pub fn has_owner(&self) -> bool {
        self.lines.iter().any(|line| line.extension.is_some())
    }
}

/// Gives what is derived from the master key.
pub trait Keys: Send + Sync + 'static {
    /// Proves that the server said this: letters, digits, `-` and `_`.
    fn seal(&self, bytes: &[u8]) -> Secret;
    /// The phone's key in its URL while this generation lasts: letters, digits, `-` and `_`.
    fn url_token(&self, mac: MacAddr, generation: Generation) -> Secret;
    /// For the phones' own web pages and menus, another for each site. `""` is the site of phones without one.
    fn admin_password(&self, site: &str) -> Secret;
    /// What its account is encrypted by, for as long as the phone lives.
    fn file_key(&self, mac: MacAddr) -> Secret;
    /// What a line logs in with.
    fn sip_secret(&self, mac: MacAddr, line: LineNumber, generation: Generation) -> Secret;
}

impl Keys for MasterKey {
    fn seal(&self, bytes: &[u8]) -> Secret {
        MasterKey::seal(self, bytes)
    }

    fn url_token(&self, mac: MacAddr, generation: Generation) -> Secret {
        MasterKey::url_token(self, mac, generation)
    }

    fn admin_password(&self, site: &str) -> Secret {
        MasterKey::admin_password(self, site)
    }

    fn file_key(&self, mac: MacAddr) -> Secret {
        MasterKey::file_key(self, mac)
    }

    fn sip_secret(&self, mac: MacAddr, line: LineNumber, generation: Generation) -> Secret {
        MasterKey::sip_secret(self, mac, line, generation)
    }
}

impl Endpoints {
    /// With HTTP at these addresses, and HTTPS at those.
    pub fn set_http(&mut self, (http, https): (&[SocketAddr], &[SocketAddr])) {
        let port = |listens: &[SocketAddr], v6| listens.iter().find(|at| at.is_ipv6() == v6).map(SocketAddr::port);
        (self.http_port, self.http_port_v6) = (port(http, false), port(http, true));
        (self.https_port, self.https_port_v6) = (port(https, false), port(https, true));
    }
}

/// The server as a phone sees it that reached us at `local`.
pub fn server(settings: &Settings, endpoints: &Endpoints, local: Option<IpAddr>, token: Option<(MacAddr, &Secret)>) -> Server {
    let address = local.map(|ip| ip.to_canonical()).filter(|ip| !ip.is_unspecified()).unwrap_or(endpoints.address);
    let host = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    let (http_port, https_port) = match address {
        IpAddr::V4(_) => (endpoints.http_port, endpoints.https_port),
        IpAddr::V6(_) => (endpoints.http_port_v6, endpoints.https_port_v6),
    };
    // A URL that somebody wrote is the one that phones are told.
    let mut secure_url = https_port.filter(|_| settings.url.is_empty()).map(|port| match port {
        443 => format!("https://{host}"),
        port => format!("https://{host}:{port}"),
    });
    let mut url = match (http_port, &secure_url) {
        _ if !settings.url.is_empty() => settings.url.trim_end_matches('/').to_owned(),
        (Some(80), _) => format!("http://{host}"),
        (Some(port), _) => format!("http://{host}:{port}"),
        (None, Some(secure)) => secure.clone(),
        (None, None) if endpoints.tftp_port == 69 => format!("tftp://{host}"),
        (None, None) => format!("tftp://{host}:{}", endpoints.tftp_port),
    };
    if let Some((mac, key)) = token {
        let key = format!("/t/{}-{}", mac.bare(), key.expose());
        url += &key;
        secure_url = secure_url.map(|url| url + &key);
    }
    let host = if settings.sip_host.is_empty() { host } else { settings.sip_host.clone() };
    let (realm, authority) = (endpoints.realm.clone(), endpoints.authority.clone());
    Server { host, sip: endpoints.sip, url, secure_url, realm, authority }
}

/// For a file of this phone's own.
pub struct Own<'a> {
    pub mac: MacAddr,
    pub known: &'a Known,
    /// Whose file it is.
    pub family: &'a str,
    /// Told by the phone now, else what is stored.
    pub model: Option<String>,
    /// What it runs: told by the phone now, else what is stored.
    pub firmware: Option<String>,
    pub source: IpAddr,
    pub local: Option<SocketAddr>,
}

pub fn own(set: &TemplateSet, settings: &Settings, endpoints: &Endpoints, keys: &dyn Keys, own: Own<'_>) -> Subject {
    let token = settings.url_tokens.then(|| keys.url_token(own.mac, own.known.generation));
    let token = token.as_ref().map(|key| (own.mac, key));
    let site = set.site(Some(own.source)).unwrap_or_default();
    let mut subject = Subject {
        mac: Some(own.mac),
        model: own.model.or_else(|| set.forced(own.mac)?.model),
        bound: own.known.has_owner(),
        lines: own.known.lines.clone(),
        server: server(settings, endpoints, own.local.map(|local| local.ip()), token),
        address: Some(own.source),
        user_id: own.known.profile.user_id.clone(),
        inventory: own.known.profile.inventory.clone(),
        contacts: own.known.contacts.clone(),
        admin_password: Some(keys.admin_password(site)),
        file_key: None,
        key_only: false,
        firmware: None,
    };
    // Ports and handsets that nobody owns yet, each a line of its own to sign in at.
    for number in 1..=set.sign_in_lines(own.family, &subject) {
        if let Err(place) = subject.lines.binary_search_by_key(&number, |line| line.number) {
            subject.lines.insert(place, nobodys(keys, own.mac, number, own.known.generation));
        }
    }
    subject.file_key = set.encrypts(own.family, &subject).then(|| keys.file_key(own.mac));
    subject.firmware = set.due(own.family, &subject, own.firmware.as_deref());
    subject
}

/// A line without owner.
fn nobodys(keys: &dyn Keys, mac: MacAddr, number: LineNumber, generation: Generation) -> Line {
    Line {
        number,
        user: provisional_user(mac, number),
        auth_user: auth_user(mac, number),
        secret: keys.sip_secret(mac, number, generation),
        display_name: NOBODY.to_owned(),
        label: None,
        extension: None,
    }
}

/// For everybody's files and for DHCP options: nothing of anybody's, but for the key in the URL where `token_of` says whose.
pub fn common(settings: &Settings, endpoints: &Endpoints, model: Option<String>, source: Option<IpAddr>, local: Option<IpAddr>) -> Subject {
    Subject {
        mac: None,
        model,
        bound: false,
        lines: Vec::new(),
        server: server(settings, endpoints, local, None),
        address: source,
        user_id: None,
        inventory: Inventory::default(),
        contacts: None,
        admin_password: None,
        file_key: None,
        key_only: false,
        firmware: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template;

    #[test]
    fn urls_name_what_the_phone_can_reach() {
        let url = |settings: &str, http_port, local: &str| {
            let settings = Settings { url: settings.into(), ..Default::default() };
            let endpoints = Endpoints { http_port, http_port_v6: Some(8081), address: "10.0.0.9".parse().unwrap(), ..Default::default() };
            server(&settings, &endpoints, local.parse().ok(), None).url
        };
        for (made, wanted) in [
            (url("", Some(8080), "10.0.0.2"), "http://10.0.0.2:8080"),
            (url("", Some(80), "::ffff:10.0.0.2"), "http://10.0.0.2"),
            (url("", Some(80), "fd00::1"), "http://[fd00::1]:8081"),
            (url("", None, "10.0.0.2"), "tftp://10.0.0.2"),
            (url("", Some(80), "0.0.0.0"), "http://10.0.0.9"),
            (url("https://prov.example.org/", Some(80), "10.0.0.2"), "https://prov.example.org"),
        ] {
            assert_eq!(made, wanted);
        }
        let https = |http_port, url: &str| {
            let settings = Settings { url: url.into(), ..Default::default() };
            let endpoints = Endpoints { http_port, https_port: Some(443), https_port_v6: Some(8443), ..Default::default() };
            let told = |local: &str| server(&settings, &endpoints, local.parse().ok(), None);
            (told("10.0.0.2").url, told("10.0.0.2").secure_url, told("fd00::1").secure_url)
        };
        let text = |text: &str| Some(text.to_owned());
        let (plain, v4, v6) = ("http://10.0.0.2", text("https://10.0.0.2"), text("https://[fd00::1]:8443"));
        assert_eq!(https(Some(80), ""), (plain.into(), v4.clone(), v6.clone()));
        assert_eq!(https(None, ""), ("https://10.0.0.2".into(), v4, v6), "without HTTP");
        assert_eq!(https(Some(80), "http://prov"), ("http://prov".into(), None, None), "as it was written");
        let mac = MacAddr([0, 0x15, 0x65, 0xaa, 0xbb, 0xcc]);
        let server = server(&Settings::default(), &Endpoints::default(), None, Some((mac, &Secret::new("k-1_x"))));
        assert_eq!(server.url, "http://127.0.0.1/t/001565aabbcc-k-1_x");
    }

    #[test]
    fn ports_and_handsets_are_lines_to_sign_in_at() {
        let overrides = "devices:\n  '00:0b:82:00:00:01': { variables: { sign_in_lines: 1 } }\n  '00:15:65:00:00:02': { variables: { sign_in_lines: 2 } }\n  '00:50:58:00:00:03': { variables: { sign_in_lines: 9 } }\n";
        let mut sources = template::shipped();
        let written = sources.iter_mut().find(|source| source.name == "overrides.yaml").expect("shipped");
        written.text = overrides.to_owned();
        let set = TemplateSet::load(&sources).expect("good");
        let key = MasterKey::new([7; 32]);
        let line = |mac, number, extension: &str| Line { extension: extension.parse().ok(), ..nobodys(&key, mac, number, 3) };
        for (family, model, mac, owned, lines) in [
            ("yealink", "T46S", "001565000001", &[][..], "1"),
            ("yealink", "T46S", "001565000001", &[1, 3], "1! 3!"),
            ("yealink", "T46S", "001565000002", &[1], "1! 2"),
            ("yealink", "W70B", "001565000001", &[2], "1 2! 3 4 5"),
            ("grandstream", "HT802", "000b82000002", &[], "1 2"),
            ("grandstream", "HT802", "000b82000002", &[2], "1 2!"),
            ("grandstream", "HT802", "000b82000001", &[], "1"),
            ("grandstream", "GRP2614", "000b82000002", &[], "1"),
            ("cisco_spa", "112", "002699000001", &[], "1 2"),
            ("gigaset", "N670", "7c2f80000001", &[1], "1! 2 3 4 5 6 7 8"),
            // More than it has.
            ("htek", "UC926", "005058000003", &[], "1"),
        ] {
            let mac: MacAddr = mac.parse().unwrap();
            let first = (!owned.contains(&1)).then(|| line(mac, 1, ""));
            let all = first.into_iter().chain(owned.iter().map(|number| line(mac, *number, "2041"))).collect();
            let known = Known { generation: 3, lines: all, ..Known::default() };
            let phone = Own {
                mac,
                known: &known,
                family,
                model: Some(model.to_owned()),
                firmware: None,
                source: Ipv4Addr::LOCALHOST.into(),
                local: None,
            };
            let subject = own(&set, &Settings::default(), &Endpoints::default(), &key, phone);
            let shown = |line: &Line| format!("{}{}", line.number, if line.extension.is_some() { "!" } else { "" });
            assert_eq!(subject.lines.iter().map(shown).collect::<Vec<_>>().join(" "), lines, "{family} {model}");
            assert_eq!(subject.bound, !owned.is_empty(), "{family} {model}");
            let port = subject.lines.iter().find(|line| line.number == 2 && line.extension.is_none());
            if let Some(port) = port {
                let user = format!("new{}-2", mac.bare());
                assert_eq!((&port.user, &port.secret), (&user, &key.sip_secret(mac, 2, 3)), "its own name, and this generation's secret");
            }
        }
    }
}
