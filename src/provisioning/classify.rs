//! Between DHCP and the templates: which make a client is and which options that make reads; and who holds an address.
//!
//! `dhcp` knows no phones and `template` no wire. Both sides here answer from memory. Not here: lease rules, encoding.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use super::{
    files::Leases,
    identities::Identities,
    onboarding::{ReloadMethod, ReloadMethods},
    pipeline::Holding,
    pnp::{Ask, worker::Urls},
    settings::Settings,
    variables::{Endpoints, common, server},
};
use crate::{
    dhcp::{Class, Classify, ClientFacts, LeaseView, OptionValue, v6},
    model::{FamilyName, MacAddr, Timestamp},
    template::{Dhcp6Option, DhcpFacts, DhcpOption, DhcpValue, Fault, SendWhen, Subject, TemplateSet, Templates},
};

/// Knows makes of phones by the templates that are live.
pub struct PhoneClasses {
    templates: Templates,
    settings: Settings,
    endpoints: Endpoints,
    identities: Identities,
}

impl PhoneClasses {
    pub fn new(templates: Templates, settings: Settings, endpoints: Endpoints, identities: Identities) -> Self {
        Self { templates, settings, endpoints, identities }
    }

    /// A phone that asks where its settings are, as templates may see it: nobody's.
    fn subject(&self, mac: Option<MacAddr>, model: Option<String>, local: Option<IpAddr>, address: IpAddr) -> Subject {
        let token = mac.filter(|_| self.settings.url_tokens).map(|mac| (mac, self.identities.url_token(mac)));
        Subject {
            mac,
            model,
            bound: false,
            lines: Vec::new(),
            server: server(&self.settings, &self.endpoints, local, token.as_ref().map(|(mac, key)| (*mac, key))),
            address: Some(address),
            user_id: None,
            inventory: Default::default(),
            contacts: None,
            admin_password: None,
            file_key: None,
            key_only: false,
            firmware: None,
        }
    }

    /// The options of its make.
    fn options(&self, set: &TemplateSet, family: &str, subject: &Subject) -> Arc<Vec<DhcpOption>> {
        set.dhcp_options(family, subject).unwrap_or_else(|fault| self.failed(subject, &fault))
    }

    /// The set was checked with samples; a value of a site or device may still not fit.
    fn failed<T: Default>(&self, subject: &Subject, fault: &Fault) -> T {
        metrics::counter!("plugtone_provisioning_options_failed_total").increment(1);
        tracing::warn!(mac = subject.mac.map(tracing::field::display), %fault, "the phone gets no options of its make");
        T::default()
    }
}

impl Urls for PhoneClasses {
    fn url(&self, mac: MacAddr, ask: &Ask, local: Ipv4Addr) -> Option<(FamilyName, String)> {
        let set = self.templates.current();
        let said = || set.recognise_user_agent(ask.user_agent.as_ref()?.as_bytes());
        let recognised =
            set.forced(mac).or_else(said).or_else(|| set.recognise_dhcp(DhcpFacts { mac: Some(mac), ..Default::default() }))?;
        let model = recognised.model.or_else(|| ask.model.clone());
        let subject = self.subject(Some(mac), model, Some(local.into()), (*ask.source().ip()).into());
        let url = set.pnp_url(&recognised.family, &subject).unwrap_or_else(|fault| {
            tracing::warn!(%mac, %fault, "the phone is not told where its settings are");
            None
        });
        Some((recognised.family, url?))
    }
}

impl Classify for PhoneClasses {
    fn class(&self, facts: &ClientFacts<'_>) -> Class {
        let (set, _) = self.templates.of(facts.mac);
        let said = DhcpFacts {
            mac: Some(facts.mac),
            vendor_class: facts.vendor_class,
            host_name: facts.host_name,
            parameter_list: facts.parameter_list,
        };
        let Some(recognised) = set.recognise_dhcp(said) else { return Class::default() };
        let address = facts.address.unwrap_or(facts.subnet.network());
        let subject = self.subject(Some(facts.mac), recognised.model, Some(facts.server.into()), address.into());
        let options = self.options(&set, &recognised.family, &subject);
        Class {
            always_send: options.iter().filter(|option| option.when == SendWhen::Always).map(|option| option.code).collect(),
            options: options.iter().map(|option| (option.code, value(&option.value))).collect(),
            family: Some(recognised.family),
            phone: true,
            ..Class::default()
        }
    }
}

/// Options of IPv4 whose value is the URL that a make reads, the first that is one: told as option 59 of IPv6.
const URLS: [u8; 4] = [66, 160, 159, 43];
/// SIP servers, which nothing but a phone asks for (RFC 3319).
const SIP_OPTIONS: [u16; 2] = [21, 22];

impl v6::Classify for PhoneClasses {
    fn class(&self, facts: &v6::ClientFacts<'_>) -> v6::Class {
        let set = self.templates.current();
        let said = || facts.vendor_classes.iter().chain(facts.user_classes).copied();
        let forced = || set.forced(facts.mac?);
        let by_class = || said().find_map(|text| set.recognise_dhcp(DhcpFacts { vendor_class: Some(text), ..Default::default() }));
        let by_maker = || facts.enterprises.iter().find_map(|number| set.recognise_enterprise(*number));
        let by_mac = || {
            let parameter_list = if facts.asked.iter().any(|code| SIP_OPTIONS.contains(code)) { &URLS[..] } else { &[] };
            set.recognise_dhcp(DhcpFacts { mac: facts.mac, vendor_class: said().next(), host_name: None, parameter_list })
        };
        let Some(recognised) = forced().or_else(by_class).or_else(by_maker).or_else(by_mac) else { return v6::Class::default() };
        let address = facts.address.unwrap_or(facts.subnet.network());
        let subject = self.subject(facts.mac, recognised.model, facts.server.map(IpAddr::V6), address.into());
        let options = self.options(&set, &recognised.family, &subject);
        let url = |code: &u8| {
            options.iter().filter(|option| option.code == *code).find_map(|option| match &option.value {
                DhcpValue::Text(text) if text.contains("://") => Some(text.clone()),
                _ => None,
            })
        };
        let boot_file_url = URLS.iter().find_map(url);
        let vendor_options = set.dhcp6_options(&recognised.family, &subject).unwrap_or_else(|fault| self.failed(&subject, &fault));
        let vendor_options = vendor_options.into_iter().map(|Dhcp6Option { enterprise, code, value, when }| v6::VendorOption {
            enterprise,
            code,
            value,
            always: when == SendWhen::Always,
        });
        let vendor_options = vendor_options.collect();
        let (mut sip_addresses, mut sip_domains) = (Vec::new(), Vec::new());
        match subject.server.host.trim_matches(['[', ']']).parse() {
            Ok(IpAddr::V6(address)) => sip_addresses.push(address),
            // It cannot be reached by what speaks IPv6 only.
            Ok(IpAddr::V4(_)) => {}
            Err(_) => sip_domains.push(subject.server.host),
        }
        v6::Class { family: Some(recognised.family), phone: true, boot_file_url, sip_addresses, sip_domains, vendor_options }
    }
}

/// How the phones of a family are made to reload, from its template: the soft NOTIFY, then the hard one, then its polling.
pub fn reload_methods(templates: Templates) -> ReloadMethods {
    Arc::new(move |family, model| {
        let set = templates.current();
        let Some(known) = family.and_then(|family| set.family(family)).or_else(|| set.family("generic")) else {
            return ReloadMethod::default();
        };
        let mut events = vec![known.reload.soft.clone(), known.reload.hard.clone()];
        events.dedup();
        let subject = common(&Settings::default(), &Endpoints::default(), model.map(str::to_owned), None, None);
        // The phone that waits to be told holds the file of an unbound one.
        let minutes = set.variables(&known.id, &subject).get("unbound_poll_minutes").and_then(|set| u64::try_from(set.value.clone()).ok());
        let least = u64::from(known.capabilities.poll_minutes_min);
        let poll = minutes.filter(|_| least > 0).map(|minutes| Duration::from_secs(minutes.max(least) * 60));
        ReloadMethod { events, poll }
    })
}

pub(super) fn value(value: &DhcpValue) -> OptionValue {
    match value {
        DhcpValue::Text(text) => OptionValue::Text(text.clone()),
        DhcpValue::Addresses(list) => OptionValue::Addresses(list.clone()),
        DhcpValue::U8(number) => OptionValue::U8(*number),
        DhcpValue::U16(number) => OptionValue::U16(*number),
        DhcpValue::U32(number) => OptionValue::U32(*number),
        DhcpValue::I32(number) => OptionValue::I32(*number),
        DhcpValue::Bytes(bytes) => OptionValue::Bytes(bytes.clone()),
    }
}

impl Leases for LeaseView {
    fn holder(&self, address: IpAddr, now: Timestamp) -> Option<Holding> {
        let holder = LeaseView::holder(self, address, now)?;
        Some(Holding { mac: holder.mac, family: holder.family, contested: holder.contested })
    }

    fn is_leased(&self, mac: MacAddr, now: Timestamp) -> bool {
        self.address_of(mac, now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binding::MasterKey;

    #[test]
    fn makes_get_what_they_read() {
        let templates = Templates::load(None).expect("the shipped set is good");
        let endpoints = Endpoints { http_port: Some(8080), ..Default::default() };
        let classes = PhoneClasses::new(templates, Settings::default(), endpoints, Identities::new(MasterKey::new([7; 32])));
        let class = |mac: &str, vendor_class: Option<&[u8]>, parameter_list: &[u8]| {
            classes.class(&ClientFacts {
                mac: mac.parse().unwrap(),
                client_id: None,
                vendor_class,
                user_class: None,
                host_name: None,
                parameter_list,
                vendor_identifying: None,
                subnet: "10.0.0.0/24".parse().unwrap(),
                server: [10, 0, 0, 2].into(),
                address: None,
                relay: None,
                circuit_id: None,
                remote_id: None,
            })
        };
        let url = || OptionValue::Text("http://10.0.0.2:8080".into());
        let yealink = class("001565000001", None, &[1, 3, 6]);
        assert_eq!((yealink.family.as_deref(), yealink.phone), (Some("yealink"), true));
        assert_eq!((yealink.options, yealink.always_send), (vec![(66, url())], vec![66]));

        // A Polycom behind a prefix that nobody knows, by its binary option 60.
        let sent = b"\x00\x00\x36\x3d\x1a\x01\x07Polycom\x02\x0fVVX-VVX_400-UA1";
        let poly = class("020000000001", Some(sent), &[160]);
        assert_eq!(poly.family.as_deref(), Some("poly"));
        assert!(poly.options.contains(&(160, OptionValue::Text("http://10.0.0.2:8080/000000000000.cfg".into()))));

        let soft = class("020000000001", None, &[1, 3, 66]);
        assert_eq!((soft.family.as_deref(), soft.always_send), (Some("generic"), vec![]));
        for (vendor_class, parameter_list) in
            [(None, &[1, 3, 6][..]), (Some(&b"MSFT 5.0"[..]), &[1, 3, 66]), (Some(b"PXEClient:Arch:00000"), &[66, 67])]
        {
            assert_eq!(class("020000000001", vendor_class, parameter_list), Class::default());
        }
    }

    #[test]
    fn makes_get_their_url_by_ipv6_too() {
        let templates = Templates::load(None).expect("the shipped set is good");
        let endpoints = Endpoints { http_port_v6: Some(8080), ..Default::default() };
        let classes = |settings: Settings| {
            PhoneClasses::new(templates.clone(), settings, endpoints.clone(), Identities::new(MasterKey::new([7; 32])))
        };
        let made_by = |enterprises: &[u32], settings: Settings, mac: Option<&str>, said: &[&[u8]], asked: &[u16]| {
            let facts = v6::ClientFacts {
                mac: mac.map(|mac| mac.parse().unwrap()),
                vendor_classes: said,
                user_classes: &[],
                enterprises,
                asked,
                subnet: "fd00:40::/64".parse().unwrap(),
                server: Some("fd00:40::1".parse().unwrap()),
                address: None,
            };
            v6::Classify::class(&classes(settings), &facts)
        };
        let class = |settings, mac: Option<&str>, said: &[&[u8]], asked: &[u16]| made_by(&[], settings, mac, said, asked);
        type Row<'a> = (Option<&'a str>, &'a [&'a [u8]], &'a [u16], Option<&'a str>, Option<&'a str>);
        let rows: [Row<'_>; 6] = [
            (Some("001565000001"), &[], &[], Some("yealink"), Some("http://[fd00:40::1]:8080")),
            (Some("020000000001"), &[b"Yealink"], &[], Some("yealink"), Some("http://[fd00:40::1]:8080")),
            (None, &[b"other", b"Polycom-VVX411"], &[], Some("poly"), Some("http://[fd00:40::1]:8080/000000000000.cfg")),
            (Some("020000000001"), &[], &[23, 22], Some("generic"), Some("http://[fd00:40::1]:8080")),
            (Some("020000000001"), &[b"PXEClient:Arch:00007"], &[59, 22], None, None),
            (Some("020000000001"), &[b"MSFT 5.0"], &[23, 24, 59], None, None),
        ];
        for (mac, said, asked, family, url) in rows {
            let class = class(Settings::default(), mac, said, asked);
            assert_eq!((class.family.as_deref(), class.boot_file_url.as_deref()), (family, url), "{mac:?} {said:?}");
            assert_eq!((class.phone, class.sip_addresses.len()), (family.is_some(), usize::from(family.is_some())));
        }
        // By the number of its maker, which says less than the name and more than the prefix of the MAC.
        let made_by = |number: u32, said: &[&[u8]], mac: &str| made_by(&[number], Settings::default(), Some(mac), said, &[]);
        assert_eq!(made_by(13885, &[b"SIP phone"], "001565000001").family.as_deref(), Some("poly"));
        assert_eq!(made_by(13885, &[b"yealink"], "020000000001").family.as_deref(), Some("yealink"));
        assert_eq!(made_by(9, &[b"a router"], "020000000001").family, None, "not all that Cisco makes is a phone");
        // What makers have their own option for.
        let avaya = class(Settings::default(), Some("00040D000001"), &[], &[]);
        let value = b"HTTPSRVR=fd00:40::1,HTTPPORT=8080".to_vec();
        assert_eq!(avaya.vendor_options, [v6::VendorOption { enterprise: 6889, code: 242, value, always: true }]);
        let named = Settings { url: "https://files.example/a/b".into(), ..Default::default() };
        let avaya = class(named, Some("00040D000001"), &[], &[]).vendor_options.remove(0);
        assert_eq!(String::from_utf8_lossy(&avaya.value), "TLSSRVR=files.example,TLSPORT=443,TLSDIR=/a/b");
        let cisco = class(Settings::default(), Some("020000000001"), &[b"Cisco Systems, Inc. IP Phone CP-8961"], &[]).vendor_options;
        let value = "fd00:40::1".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
        assert_eq!(cisco, [v6::VendorOption { enterprise: 9, code: 1, value, always: true }]);
        // The key is the phone's own: where nobody knows whose it would be there is none.
        let with_keys = || Settings { url_tokens: true, sip_host: "sip.example".into(), ..Default::default() };
        let known = class(with_keys(), Some("001565000001"), &[], &[]);
        let key = MasterKey::new([7; 32]).url_token("001565000001".parse().unwrap(), 0);
        assert_eq!(known.boot_file_url, Some(format!("http://[fd00:40::1]:8080/t/001565000001-{}", key.expose())));
        assert_eq!((known.sip_domains, known.sip_addresses), (vec!["sip.example".to_owned()], vec![]));
        let unknown = class(with_keys(), None, &[b"yealink"], &[]);
        assert_eq!(unknown.boot_file_url.as_deref(), Some("http://[fd00:40::1]:8080"));
    }

    #[test]
    fn makes_are_told_to_reload_as_they_understand() {
        let methods = reload_methods(Templates::load(None).expect("the shipped set is good"));
        let told = |family: Option<&str>| {
            let ReloadMethod { events, poll } = methods(family, None);
            (events.join(" | "), poll.map_or(0, |poll| poll.as_secs()))
        };
        for (family, events, poll_secs) in [
            (Some("yealink"), "check-sync;reboot=false | check-sync;reboot=true", 60),
            (Some("poly"), "check-sync", 60),
            (Some("grandstream"), "resync | check-sync;reboot=true", 3600),
            (Some("snom"), "check-sync;reboot=false | check-sync;reboot=true", 60),
            (Some("cisco_mpp"), "resync | reboot_now", 60),
            (Some("fanvil"), "check-sync | check-sync;reboot=true", 0),
            (Some("mitel"), "check-sync | check-sync;reboot=true", 86400),
            (None, "check-sync | check-sync;reboot=true", 0),
        ] {
            assert_eq!(told(family), (events.to_owned(), poll_secs), "{family:?}");
        }
    }

    #[test]
    fn a_key_goes_along_where_it_is_wanted() {
        let key = MasterKey::new([7; 32]);
        let mac: MacAddr = "001565000001".parse().unwrap();
        let settings = Settings { url_tokens: true, ..Default::default() };
        let token = key.url_token(mac, 0);
        let url = server(&settings, &Endpoints::default(), None, Some((mac, &token))).url;
        assert_eq!(url, format!("http://127.0.0.1/t/001565000001-{}", token.expose()));
        assert_eq!(token.expose().len(), 24);
        assert_eq!(key.admin_password("berlin").expose().len(), 12);
        assert_ne!(key.admin_password("berlin"), key.admin_password(""));
    }
}
