//! What a make of desk phone says and asks for: its DHCP fingerprint, its user agent, where it looks for its server, and by
//! which names its files say what the account is.
//!
//! A table: a new make is a new entry, gathered from public guides and provisioning projects (README of `templates/` names
//! them). Not here: how the files are fetched one after the other (`boot.rs`), and their grammars (`settings.rs`).

use super::{
    boot::Role,
    settings::{Grammar, Hotline, Names, Poll},
};
use crate::model::MacAddr;

/// A make as the simulated phone plays it.
#[derive(Clone, Copy, Debug)]
pub struct Make {
    /// What it is played by.
    pub name: &'static str,
    /// The family's name in `templates/`.
    pub family: &'static str,
    /// A prefix that the maker owns.
    pub oui: [u8; 3],
    pub model: &'static str,
    pub firmware: &'static str,
    /// Option 60 as sent; `None`: the make sends none, or no guide or capture that we know shows one.
    pub vendor_class: Option<&'static [u8]>,
    /// Option 55 as sent.
    pub asks_for: &'static [u8],
    /// Options that may name the server, first wins.
    pub server_options: &'static [u8],
    /// For a server named without a scheme.
    pub default_scheme: &'static str,
    /// What it says over HTTP and in SIP, with places as in [`Make::fill`].
    pub agent: &'static str,
    /// What it asks for, in this order, with places as in [`Make::fill`].
    pub files: &'static [(&'static str, Role)],
    /// What it asks for after one of them that decides.
    pub after: &'static [(&'static str, Role)],
    pub grammar: Grammar,
    pub names: Names,
    /// Of the ports behind its first one.
    pub ports: &'static [Names],
}

/// The makes that can be played.
pub const MAKES: &[Make] = &[
    Make {
        name: "yealink",
        family: "yealink",
        oui: [0x00, 0x15, 0x65],
        model: "T46S",
        firmware: "66.86.0.15",
        vendor_class: Some(b"yealink"),
        asks_for: &[1, 2, 3, 4, 6, 7, 12, 15, 28, 42, 66, 67, 43, 120],
        server_options: &[66, 43],
        default_scheme: "tftp",
        agent: "Yealink SIP-{model} {firmware} {mac:}",
        files: &[
            ("{mac}.boot", Role::Decides),
            ("y000000000000.boot", Role::Decides),
            // The code of the T46S; each model has its own.
            ("y000000000066.cfg", Role::Values),
            ("{mac}.cfg", Role::Values),
        ],
        after: &[],
        grammar: Grammar::Yealink,
        names: Names {
            enable: ("account.1.enable", "1"),
            user: "account.1.user_name",
            auth_user: "account.1.auth_name",
            password: "account.1.password",
            server: "account.1.sip_server.1.address",
            port: "account.1.sip_server.1.port",
            transport: ("account.1.sip_server.1.transport_type", "1"),
            expires: ("account.1.sip_server.1.expires", 1),
            display_name: "account.1.display_name",
            label: "account.1.label",
            hotline: Hotline::Switched { number: "account.1.auto_dial_num", switch: "account.1.auto_dial_enable" },
            poll: Poll { every: "static.auto_provision.repeat.minutes", unit_secs: 60, switch: "static.auto_provision.repeat.enable" },
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "poly",
        family: "poly",
        oui: [0x64, 0x16, 0x7f],
        model: "VVX_450",
        firmware: "6.4.3.5156",
        // The layout of RFC 3925 in option 60: the enterprise number 13885, then type, length, value.
        vendor_class: Some(b"\x00\x00\x36\x3d\x26\x01\x07Polycom\x02\x0bVVX-VVX_450\x03\x0e3111-48450-001"),
        asks_for: &[1, 28, 160, 66, 43, 3, 4, 42, 2, 6, 15],
        server_options: &[160, 66],
        default_scheme: "ftp",
        agent: "FileTransport PolycomVVX-{model}-UA/{firmware} Type/Application",
        files: &[("{mac}.cfg", Role::Decides), ("000000000000.cfg", Role::Decides)],
        after: &[
            // What the user and the web page changed on the phone, then the phone books.
            ("{mac}-phone.cfg", Role::Values),
            ("{mac}-web.cfg", Role::Values),
            ("{mac}-directory.xml", Role::Book),
            ("000000000000-directory.xml", Role::Book),
        ],
        grammar: Grammar::Poly,
        names: Names {
            enable: ("", ""),
            user: "reg.1.address",
            auth_user: "reg.1.auth.userId",
            password: "reg.1.auth.password",
            server: "reg.1.server.1.address",
            port: "reg.1.server.1.port",
            transport: ("reg.1.server.1.transport", "TCPOnly"),
            expires: ("reg.1.server.1.expires", 1),
            display_name: "reg.1.displayName",
            label: "reg.1.label",
            hotline: Hotline::Switched { number: "call.autoOffHook.1.contact", switch: "call.autoOffHook.1.enabled" },
            poll: Poll { every: "prov.polling.period", unit_secs: 1, switch: "prov.polling.enabled" },
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "grandstream",
        family: "grandstream",
        oui: [0xc0, 0x74, 0xad],
        model: "GRP2614",
        firmware: "1.0.11.64",
        vendor_class: None,
        asks_for: &[1, 3, 6, 12, 15, 28, 42, 43, 66, 160],
        server_options: &[66, 43, 150, 160, 161],
        default_scheme: "http",
        agent: "Grandstream Model HW {model} SW {firmware} DevId {mac}",
        files: &[
            // The binary form, which a server that renders XML does not have.
            ("cfg{mac}", Role::Extra),
            ("cfg{mac}.xml", Role::Decides),
            ("cfggrp2614.xml", Role::Decides),
            ("cfg.xml", Role::Decides),
        ],
        after: &[],
        grammar: Grammar::Grandstream,
        names: Names {
            enable: ("P271", "1"),
            user: "P35",
            auth_user: "P36",
            password: "P34",
            server: "P47",
            port: "",
            transport: ("P130", "1"),
            // This make counts register expiry in minutes.
            expires: ("P32", 60),
            display_name: "P3",
            label: "P270",
            hotline: Hotline::Number("P71"),
            poll: Poll { every: "P193", unit_secs: 60, switch: "P194" },
            next: "",
        },
        ports: &[],
    },
    // An adapter for old telephones, of the same family.
    Make {
        name: "grandstream_ht",
        family: "grandstream",
        oui: [0x00, 0x0b, 0x82],
        model: "HT802",
        firmware: "1.0.53.3",
        vendor_class: None,
        asks_for: &[1, 3, 6, 12, 15, 28, 66],
        server_options: &[66],
        default_scheme: "http",
        agent: "Grandstream Model HW {model} V1.1A SW {firmware} DevId {mac}",
        files: &[("cfg{mac}", Role::Extra), ("cfg{mac}.xml", Role::Decides), ("cfght802.xml", Role::Decides), ("cfg.xml", Role::Decides)],
        after: &[],
        grammar: Grammar::Grandstream,
        // Of its first port.
        names: Names {
            enable: ("P271", "1"),
            user: "P35",
            auth_user: "P36",
            password: "P34",
            server: "P47",
            port: "",
            transport: ("P130", "1"),
            expires: ("P32", 60),
            display_name: "P3",
            label: "",
            hotline: Hotline::Number("P71"),
            poll: Poll { every: "P193", unit_secs: 60, switch: "P194" },
            next: "",
        },
        ports: &[Names {
            enable: ("P401", "1"),
            user: "P735",
            auth_user: "P736",
            password: "P734",
            server: "P747",
            port: "",
            transport: ("P830", "1"),
            expires: ("P732", 60),
            display_name: "P703",
            label: "",
            hotline: Hotline::Number("P771"),
            poll: Poll::NEVER,
            next: "",
        }],
    },
    Make {
        name: "snom",
        family: "snom",
        oui: [0x00, 0x04, 0x13],
        model: "D785",
        firmware: "10.1.33.33",
        vendor_class: Some(b"snomD785"),
        asks_for: &[1, 3, 4, 6, 12, 15, 42, 43, 51, 66, 67, 120, 125, 133],
        server_options: &[66],
        default_scheme: "http",
        agent: "Mozilla/4.0 (compatible; snom{model}-SIP {firmware} 2010.12-00004-g0000000 {MAC} SXM:0 UXM:0)",
        files: &[("snom{model}.htm", Role::Values), ("snom{model}-{MAC}.htm", Role::Values)],
        after: &[],
        grammar: Grammar::Xml { roots: &["settings", "setting-files"] },
        names: Names {
            enable: ("phone-settings.user_active.1", "on"),
            user: "phone-settings.user_name.1",
            auth_user: "phone-settings.user_pname.1",
            password: "phone-settings.user_pass.1",
            // Host, port and transport in one.
            server: "phone-settings.user_outbound.1",
            port: "",
            transport: ("", ""),
            expires: ("phone-settings.user_expiry.1", 1),
            display_name: "phone-settings.user_realname.1",
            label: "phone-settings.user_idle_text.1",
            hotline: Hotline::None,
            poll: Poll { every: "phone-settings.prov_polling_period", unit_secs: 1, switch: "phone-settings.prov_polling_enabled" },
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "cisco_mpp",
        family: "cisco_mpp",
        oui: [0xd0, 0xec, 0x35],
        model: "7841",
        firmware: "11.0.1",
        // Ends with NUL, as most of this maker's.
        vendor_class: Some(b"Cisco Systems, Inc. IP Phone CP-7841-3PCC\0"),
        // No capture of this make is known; these are the options that its `DHCP_Option_To_Use` names.
        asks_for: &[1, 3, 6, 15, 42, 66, 160, 159, 150, 60, 43, 125],
        server_options: &[66, 160, 159],
        default_scheme: "tftp",
        agent: "Cisco-CP-{model}-3PCC/{firmware} ({mac})",
        files: &[("{model}-3PCC.xml", Role::Decides)],
        after: &[],
        grammar: Grammar::Xml { roots: &["flat-profile"] },
        names: FLAT_PROFILE,
        ports: &[],
    },
    Make {
        name: "cisco_spa",
        family: "cisco_spa",
        oui: [0x50, 0x3d, 0xe5],
        model: "504G",
        firmware: "7.6.2",
        vendor_class: Some(b"Cisco SPA504G"),
        asks_for: &[1, 3, 42, 6, 7, 15, 58, 59, 66, 2, 150, 151, 160, 159],
        server_options: &[66, 160, 159],
        default_scheme: "tftp",
        agent: "Cisco/SPA{model}-{firmware} ({MAC})(CBT000000AA)",
        files: &[("spa{model}.cfg", Role::Decides)],
        after: &[],
        grammar: Grammar::Xml { roots: &["flat-profile"] },
        names: FLAT_PROFILE,
        ports: &[],
    },
    Make {
        name: "fanvil",
        family: "fanvil",
        oui: [0x0c, 0x38, 0x3e],
        model: "X5U-V2",
        firmware: "2.12.16.17",
        // Off from the factory.
        vendor_class: None,
        // No capture of this make is known.
        asks_for: &[1, 3, 6, 15, 42, 43, 66, 100, 101],
        server_options: &[66],
        default_scheme: "http",
        agent: "Fanvil {model} {firmware} {mac}",
        files: &[("F0V5UV200000.cfg", Role::Extra), ("{mac}.cfg", Role::Values), ("fanvil_x5u_v2_hwv2_0.txt", Role::Extra)],
        after: &[],
        grammar: Grammar::Xml { roots: &["sysConf"] },
        names: Names {
            enable: ("sip.line.1.EnableReg", "1"),
            user: "sip.line.1.PhoneNumber",
            auth_user: "sip.line.1.RegisterUser",
            password: "sip.line.1.RegisterPswd",
            server: "sip.line.1.RegisterAddr",
            port: "sip.line.1.RegisterPort",
            transport: ("sip.line.1.Transport", "1"),
            expires: ("sip.line.1.RegisterTTL", 1),
            display_name: "sip.line.1.DisplayName",
            label: "sip.line.1.SipName",
            hotline: Hotline::Switched { number: "sip.line.1.HotlineNum", switch: "sip.line.1.EnableHotline" },
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "mitel",
        family: "mitel",
        oui: [0x14, 0x00, 0xe9],
        model: "6920",
        firmware: "6.4.0.140",
        vendor_class: Some(b"MitelIPPhone6920"),
        asks_for: &[1, 3, 6, 42, 43, 2, 66, 159, 160],
        server_options: &[160, 159, 66],
        default_scheme: "tftp",
        agent: "Mitel{model} MAC:{MAC-} V:{firmware}-SIP",
        files: &[("security.tuz", Role::Extra), ("startup.cfg", Role::Values), ("{model}.cfg", Role::Values), ("{MAC}.cfg", Role::Values)],
        after: &[],
        grammar: Grammar::Lines { first: "", prefix: "", between: ":" },
        names: Names {
            enable: ("", ""),
            user: "sip line1 user name",
            auth_user: "sip line1 auth name",
            password: "sip line1 password",
            server: "sip line1 registrar ip",
            port: "sip line1 registrar port",
            transport: ("sip transport protocol", "2"),
            expires: ("sip line1 registration period", 1),
            display_name: "sip line1 display name",
            label: "sip line1 screen name",
            hotline: Hotline::None,
            // Daily.
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "htek",
        family: "htek",
        oui: [0x00, 0x1f, 0xc1],
        model: "UC926",
        firmware: "2.0.4.2",
        vendor_class: None,
        // No capture of this make is known.
        asks_for: &[1, 3, 6, 15, 42, 66],
        server_options: &[66],
        default_scheme: "http",
        agent: "Htek {model} {firmware} {mac:}",
        files: &[("cfg0010.xml", Role::Extra), ("cfg{mac}.xml", Role::Values)],
        after: &[],
        grammar: Grammar::Xml { roots: &["hl_provision"] },
        names: Names {
            enable: ("config.P271", "1"),
            user: "config.P35",
            auth_user: "config.P36",
            password: "config.P34",
            server: "config.P47",
            port: "",
            transport: ("config.P130", "1"),
            expires: ("config.P32", 60),
            display_name: "config.P3",
            label: "config.P20000",
            hotline: Hotline::Number("config.P4210"),
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "digium",
        family: "digium",
        oui: [0x00, 0x0f, 0xd3],
        model: "D40",
        firmware: "1_1_0",
        vendor_class: Some(b"digium_D40_1_1_0_0_48178"),
        // No capture of this make is known.
        asks_for: &[1, 3, 6, 15, 42, 66],
        server_options: &[66],
        default_scheme: "http",
        agent: "Digium {model} {firmware}",
        files: &[("{mac}.cfg", Role::Values), ("{mac}-contacts.xml", Role::Extra)],
        after: &[],
        grammar: Grammar::Xml { roots: &["config", "phonebooks"] },
        names: Names {
            enable: ("accounts.account.0.register", "1"),
            user: "accounts.account.0.username",
            auth_user: "accounts.account.0.authname",
            password: "accounts.account.0.password",
            server: "accounts.account.0.host_primary.server",
            port: "accounts.account.0.host_primary.port",
            transport: ("accounts.account.0.host_primary.transport", "tcp"),
            expires: ("accounts.account.0.host_primary.reregister", 1),
            display_name: "",
            label: "accounts.account.0.line_label",
            hotline: Hotline::None,
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "panasonic",
        family: "panasonic",
        oui: [0xbc, 0xc3, 0x42],
        model: "HDV130",
        firmware: "01.133",
        vendor_class: Some(b"Panasonic"),
        // No capture of this make is known; these are the options that its guide names.
        asks_for: &[1, 3, 6, 15, 42, 66, 159, 160],
        server_options: &[160, 159, 66],
        default_scheme: "tftp",
        agent: "Panasonic_KX-{model}/{firmware} ({mac})",
        files: &[("KX-{model}.cfg", Role::Values)],
        after: &[],
        grammar: Grammar::Lines { first: "# Panasonic SIP Phone Standard Format File #\r\n", prefix: "", between: "=" },
        names: Names {
            enable: ("", ""),
            user: "PHONE_NUMBER_1",
            auth_user: "SIP_AUTHID_1",
            password: "SIP_PASS_1",
            server: "SIP_RGSTR_ADDR_1",
            port: "SIP_RGSTR_PORT_1",
            transport: ("SIP_TRANSPORT_1", "1"),
            expires: ("REG_EXPIRE_TIME_1", 1),
            display_name: "DISPLAY_NAME_1",
            label: "",
            hotline: Hotline::None,
            poll: Poll { every: "CFG_CYCLIC_INTVL", unit_secs: 60, switch: "CFG_CYCLIC" },
            next: "CFG_STANDARD_FILE_PATH",
        },
        ports: &[],
    },
    Make {
        name: "avaya_j",
        family: "avaya_j",
        oui: [0xc8, 0x1f, 0xea],
        model: "J179",
        firmware: "4.1.3.0.6",
        vendor_class: None,
        asks_for: &[1, 28, 3, 6, 15, 42, 242],
        server_options: &[242],
        default_scheme: "http",
        agent: "Mozilla/4.0 (compatible; MSIE 6.0) AVAYA/{model}-{firmware} (MAC:{mac})",
        files: &[("J100Supgrade.txt", Role::Values)],
        after: &[],
        grammar: Grammar::Lines { first: "", prefix: "SET ", between: " " },
        names: Names {
            enable: ("ENABLE_3PCC_ENVIRONMENT", "1"),
            user: "FORCE_SIP_EXTENSION",
            auth_user: "FORCE_SIP_USERNAME",
            password: "FORCE_SIP_PASSWORD",
            // Host, port and transport in one.
            server: "SIP_CONTROLLER_LIST",
            port: "",
            transport: ("", ""),
            expires: ("", 1),
            display_name: "",
            label: "",
            hotline: Hotline::None,
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "audiocodes",
        family: "audiocodes",
        oui: [0x00, 0x90, 0x8f],
        model: "440HDG",
        firmware: "2.2.8.61",
        vendor_class: None,
        // No capture of this make is known; these are the options that its guide names.
        asks_for: &[1, 3, 6, 15, 42, 43, 66, 67, 160],
        server_options: &[160, 66],
        default_scheme: "tftp",
        agent: "AUDC-IPPhone/{firmware} ({model}-Rev0; {MAC})",
        files: &[("{MAC}.cfg", Role::Values), ("440HDG.img", Role::Extra)],
        after: &[],
        grammar: Grammar::Lines { first: "", prefix: "", between: "=" },
        names: Names {
            enable: ("voip/line/0/enabled", "1"),
            user: "voip/line/0/id",
            auth_user: "voip/line/0/auth_name",
            password: "voip/line/0/auth_password",
            server: "voip/signalling/sip/sip_registrar/addr",
            port: "voip/signalling/sip/sip_registrar/port",
            transport: ("voip/signalling/sip/transport_protocol", "TCP"),
            expires: ("voip/signalling/sip/registration_expires", 1),
            display_name: "voip/line/0/description",
            label: "voip/line/0/extension_display",
            hotline: Hotline::None,
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "algo",
        family: "algo",
        oui: [0x00, 0x22, 0xee],
        model: "8301",
        firmware: "5.4",
        vendor_class: None,
        // No capture of this make is known; these are the options that its guide names.
        asks_for: &[1, 3, 6, 15, 42, 66, 150, 160],
        server_options: &[66, 160],
        default_scheme: "tftp",
        // No source shows what it says.
        agent: "device/{firmware}",
        files: &[("algop{model}.conf", Role::Extra), ("algom{MAC}.conf.md5", Role::Extra), ("algom{MAC}.conf", Role::Values)],
        after: &[],
        grammar: Grammar::Lines { first: "", prefix: "", between: "=" },
        names: Names {
            enable: ("sip.register.use", "1"),
            user: "sip.u1.user",
            auth_user: "sip.u1.auth",
            password: "sip.u1.pwd",
            server: "sip.proxy",
            port: "",
            transport: ("sip.transp", "tcp"),
            expires: ("sip.regexp", 1),
            display_name: "sip.u1.dname",
            label: "",
            hotline: Hotline::None,
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "cisco_79xx",
        family: "cisco_79xx",
        oui: [0x00, 0x1b, 0xd4],
        model: "7941G",
        firmware: "9.4.2",
        vendor_class: Some(b"Cisco Systems, Inc. IP Phone CP-7941G\0"),
        asks_for: &[1, 66, 6, 3, 15, 150, 35],
        // First of all it reads 150, which has an address and no port: a real one always uses 69.
        server_options: &[66],
        default_scheme: "tftp",
        agent: "Cisco-CP{model}/{firmware}",
        files: &[
            ("CTLSEP{MAC}.tlv", Role::Extra),
            ("ITLSEP{MAC}.tlv", Role::Extra),
            ("SEP{MAC}.cnf.xml", Role::Values),
            ("plugtone-dialplan.xml", Role::Extra),
        ],
        after: &[],
        grammar: Grammar::Xml { roots: &["device"] },
        names: Names {
            enable: ("sipProfile.sipLines.line.1.featureID", "9"),
            user: "sipProfile.sipLines.line.1.name",
            auth_user: "sipProfile.sipLines.line.1.authName",
            password: "sipProfile.sipLines.line.1.authPassword",
            server: "sipProfile.sipLines.line.1.proxy",
            port: "sipProfile.sipLines.line.1.port",
            transport: ("transportLayerProtocol", "1"),
            expires: ("sipProfile.sipStack.timerRegisterExpires", 1),
            display_name: "sipProfile.sipLines.line.1.displayName",
            label: "sipProfile.sipLines.line.1.featureLabel",
            hotline: Hotline::None,
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "gigaset",
        family: "gigaset",
        oui: [0x7c, 0x2f, 0x80],
        model: "N870",
        firmware: "83.V2.39.0",
        vendor_class: Some(b"Gigaset_N870_IP_PRO"),
        asks_for: &[1, 3, 6, 15, 120, 114, 125],
        server_options: &[114, 66],
        default_scheme: "http",
        agent: "Gigaset {model} IP PRO/{firmware}+build.0000000;{MAC}",
        files: &[("{mac}.xml", Role::Values)],
        after: &[],
        grammar: Grammar::Xml { roots: &["provisioning"] },
        // Of its first handset.
        names: Names {
            enable: ("SipAccount.00001.ProviderId", "0"),
            user: "SipAccount.00001.UserName",
            auth_user: "SipAccount.00001.AuthName",
            password: "SipAccount.00001.AuthPassword",
            server: "SipProvider.0.RegServerAddress",
            port: "SipProvider.0.RegServerPort",
            transport: ("SipProvider.0.TransportProtocol", "2"),
            expires: ("SipProvider.0.RegServerRefreshTimer", 1),
            display_name: "SipAccount.00001.DisplayName",
            label: "",
            hotline: Hotline::None,
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "gigaset_n510",
        family: "gigaset_n510",
        oui: [0x7c, 0x2f, 0x80],
        model: "N510",
        firmware: "42.258.00.000.000",
        vendor_class: Some(b"N510_IP_PRO"),
        asks_for: &[1, 3, 6, 15, 120, 114, 125],
        server_options: &[114],
        default_scheme: "http",
        agent: "N510 IP PRO/{firmware};{MAC}",
        files: &[("42/2/master.bin", Role::Record)],
        after: &[],
        grammar: Grammar::Xml { roots: &["ProviderFrame"] },
        // Of its first handset.
        names: Names {
            enable: ("BS_IP_Data1.ucB_SIP_ACCOUNT_IS_ACTIVE_1", "0x1"),
            user: "BS_IP_Data1.aucS_SIP_USER_ID",
            auth_user: "BS_IP_Data3.aucS_SIP_LOGIN_ID",
            password: "BS_IP_Data1.aucS_SIP_PASSWORD",
            server: "BS_IP_Data1.aucS_SIP_REGISTRAR",
            port: "BS_IP_Data1.uiI_SIP_REGISTRAR_PORT",
            transport: ("", ""),
            expires: ("BS_IP_Data1.uiI_RE_REGISTRATION_TIMER", 1),
            display_name: "BS_IP_Data1.aucS_SIP_DISPLAYNAME",
            label: "BS_AE_Subscriber.stMtDat[0].aucTlnName",
            hotline: Hotline::None,
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "gigaset_n720",
        family: "gigaset_n720",
        oui: [0x7c, 0x2f, 0x80],
        model: "N720",
        firmware: "70.108.00.000.000",
        vendor_class: Some(b"Gigaset_N720_DM_PRO"),
        asks_for: &[1, 3, 6, 15, 120, 114, 125],
        server_options: &[114],
        default_scheme: "http",
        agent: "Gigaset {model} DM PRO/{firmware};{MAC}",
        files: &[("70/1/master.bin", Role::Record)],
        after: &[],
        grammar: Grammar::Xml { roots: &["ProviderFrame"] },
        // Of its first handset.
        names: Names {
            enable: ("BS_VOIP_Data.astVoipAccounts[0].ucB_SIP_ACCOUNT_IS_ACTIVE_1", "1"),
            user: "BS_VOIP_Data.astVoipAccounts[0].aucS_SIP_USER_ID[0]",
            auth_user: "BS_VOIP_Data.astVoipAccounts[0].aucS_SIP_LOGIN_ID[0]",
            password: "BS_VOIP_Data.astVoipAccounts[0].aucS_SIP_PASSWORD[0]",
            server: "BS_VOIP_Data.astVoipProviders[0].aucSIP_REGISTRAR[%]",
            port: "BS_VOIP_Data.astVoipProviders[0].uiSIP_REGISTRAR_PORT",
            transport: ("", ""),
            expires: ("BS_VOIP_Data.astVoipProviders[0].uiRE_REGISTRATION_TIMER", 1),
            display_name: "BS_VOIP_Data.astVoipAccounts[0].aucS_SIP_DISPLAYNAME[0]",
            label: "",
            hotline: Hotline::None,
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "cisco_7940",
        family: "cisco_7940",
        oui: [0x00, 0x07, 0x0e],
        model: "7960G",
        firmware: "8.0",
        vendor_class: Some(b"Cisco Systems, Inc. IP Phone CP-7960G\0"),
        asks_for: &[1, 66, 6, 3, 15, 150, 35],
        // First of all it reads 150, which has an address and no port: a real one always uses 69.
        server_options: &[66],
        default_scheme: "tftp",
        agent: "Cisco-CP{model}/{firmware}",
        files: &[
            ("OS79XX.TXT", Role::Extra),
            ("CTLSEP{MAC}.tlv", Role::Extra),
            ("SEP{MAC}.cnf.xml", Role::Extra),
            ("SIPDefault.cnf", Role::Values),
            ("SIP{MAC}.cnf", Role::Values),
            ("dialplan.xml", Role::Extra),
            ("RINGLIST.DAT", Role::Extra),
        ],
        after: &[],
        grammar: Grammar::Lines { first: "", prefix: "", between: ":" },
        names: Names {
            enable: ("proxy_register", "1"),
            user: "line1_name",
            auth_user: "line1_authname",
            password: "line1_password",
            server: "proxy1_address",
            port: "proxy1_port",
            transport: ("", ""),
            expires: ("timer_register_expires", 1),
            display_name: "line1_displayname",
            label: "line1_shortname",
            hotline: Hotline::None,
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
    Make {
        name: "generic",
        family: "generic",
        // Locally administered: no maker owns it.
        oui: [0x02, 0x70, 0x67],
        model: "softphone",
        firmware: "1.0",
        vendor_class: None,
        asks_for: &[1, 3, 6, 15, 66],
        server_options: &[66],
        default_scheme: "http",
        agent: "plugtone-phone/{firmware}",
        files: &[("{mac}.json", Role::Values)],
        after: &[],
        grammar: Grammar::Json,
        names: Names {
            enable: ("", ""),
            user: "user",
            auth_user: "auth_user",
            password: "password",
            server: "server",
            port: "port",
            transport: ("transport", "tcp"),
            expires: ("expires_secs", 1),
            display_name: "display_name",
            label: "user",
            hotline: Hotline::Number("ivr_number"),
            poll: Poll::NEVER,
            next: "",
        },
        ports: &[],
    },
];

/// What SPA, Linksys and MPP have in common.
const FLAT_PROFILE: Names = Names {
    enable: ("Line_Enable_1_", "Yes"),
    user: "User_ID_1_",
    auth_user: "Auth_ID_1_",
    password: "Password_1_",
    server: "Proxy_1_",
    port: "",
    transport: ("SIP_Transport_1_", "TCP"),
    expires: ("Register_Expires_1_", 1),
    display_name: "Display_Name_1_",
    label: "Short_Name_1_",
    hotline: Hotline::DialPlan("Dial_Plan_1_"),
    poll: Poll { every: "Resync_Periodic", unit_secs: 1, switch: "" },
    next: "Profile_Rule",
};

/// What the makes that can be played are called: most as their family.
pub fn names() -> impl Iterator<Item = &'static str> {
    MAKES.iter().map(|make| make.name)
}

impl Make {
    /// `None` for a make that cannot be played; [`names`] has those that can.
    pub fn of(name: &str) -> Option<Self> {
        MAKES.iter().find(|make| make.name == name).copied()
    }

    /// Does it read its files by TFTP at port 69 and in no other way? Such a one reads option 150 before all others.
    pub fn knows_tftp_alone(&self) -> bool {
        matches!(self.family, "cisco_7940" | "cisco_79xx")
    }

    /// What it says over HTTP and in SIP.
    pub fn user_agent(&self, mac: MacAddr) -> String {
        self.user_agent_with(self.firmware, mac)
    }

    /// The same with another firmware than it comes with.
    pub fn user_agent_with(&self, firmware: &str, mac: MacAddr) -> String {
        self.fill(&self.agent.replace("{firmware}", firmware), mac)
    }

    /// Puts the phone's own into the places of a name: `{mac}` and `{MAC}`, with colons `{mac:}`, with hyphens `{MAC-}`,
    /// `{model}`, `{firmware}`; and what makers themselves write in URLs: `$MA`, `$mac`, `$PSN`, `[PHONE_MAC_ADDRESS]`.
    pub fn fill(&self, name: &str, mac: MacAddr) -> String {
        let (lower, upper) = (mac.bare(), mac.bare_upper());
        name.replace("{mac:}", &mac.to_string())
            .replace("{MAC-}", &mac.to_string().to_uppercase().replace(':', "-"))
            .replace("{firmware}", self.firmware)
            .replace("$PSN", &if self.family == "cisco_mpp" { format!("{}-3PCC", self.model) } else { self.model.to_owned() })
            .replace("$MACADDR", &lower)
            .replace("$MA", &lower)
            .replace("{model}", self.model)
            .replace("{MODEL}", self.model)
            .replace("[PHONE_MODEL]", self.model)
            .replace("{MAC}", &upper)
            .replace("{mac}", &lower)
            .replace("$mac", &lower)
            .replace("[PHONE_MAC_ADDRESS]", &lower)
    }

    /// The make's own address number `number`: the maker's prefix and three bytes.
    pub fn mac(&self, number: u32) -> MacAddr {
        let [_, b, c, d] = number.to_be_bytes();
        MacAddr([self.oui[0], self.oui[1], self.oui[2], b, c, d])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_make_can_be_played() {
        for name in names() {
            let make = Make::of(name).expect(name);
            let mac = make.mac(0x010203);
            assert_eq!(mac.oui(), make.oui);
            assert_eq!(mac.0[3..], [1, 2, 3]);
            assert!(!make.user_agent(mac).contains(['{', '}']), "{}", make.user_agent(mac));
        }
        assert!(Make::of("teapot").is_none());
    }

    #[test]
    fn makers_write_the_address_in_their_own_ways() {
        let make = Make::of("cisco_mpp").expect("a make");
        let mac = make.mac(0x0a0b0c);
        for (name, filled) in [
            ("$MA.xml", "d0ec350a0b0c.xml"),
            ("$PSN.xml", "7841-3PCC.xml"),
            ("snom{model}-{MAC}.htm", "snom7841-D0EC350A0B0C.htm"),
            ("{mac:} {MAC-}", "d0:ec:35:0a:0b:0c D0-EC-35-0A-0B-0C"),
        ] {
            assert_eq!(make.fill(name, mac), filled);
        }
    }
}
