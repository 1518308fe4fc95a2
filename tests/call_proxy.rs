//! Phones behind a proxy at the edge, as of a branch office: Kamailio, which we did not write, with its modules `path` and `rr`.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use plugtone::model::Event;

use super::call::{Bed, free_port, is_bound};

/// Puts itself into the way of registrations (RFC 3327) and calls; whatever does not come from the server goes there.
const RULES: &str = r#"
debug=1
log_stderror=yes
children=2
disable_tcp=yes
auto_aliases=no
listen=udp:127.0.0.1:PROXY
loadmodule "kex.so"
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "pv.so"
loadmodule "rr.so"
loadmodule "path.so"
loadmodule "siputils.so"
loadmodule "textops.so"
request_route {
    if (is_method("CANCEL")) { if (t_check_trans()) t_relay(); exit; }
    if (has_totag()) {
        if (loose_route() || t_check_trans()) t_relay();
        exit;
    }
    if (is_method("REGISTER")) add_path();
    else { loose_route(); record_route(); }
    if ($sp != SERVER) $du = "sip:127.0.0.1:SERVER";
    t_relay();
}
"#;

struct Proxy {
    child: Child,
    at: SocketAddr,
}

impl Proxy {
    fn start(bed: &Bed) -> Self {
        Self::with(bed, RULES)
    }

    fn with(bed: &Bed, rules: &str) -> Self {
        let port = free_port();
        let rules = rules.replace("PROXY", &port.to_string()).replace("SERVER", &bed.running.udp[0].port().to_string());
        let file = bed.folder.path().join("kamailio.cfg");
        fs::write(&file, rules).expect("written");
        let child = Command::new("kamailio")
            .args(["-DD", "-E", "-m", "32", "-M", "4", "-f", file.to_str().unwrap(), "-Y", bed.folder.path().to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("cannot run kamailio: install the Debian package kamailio");
        let until = Instant::now() + Duration::from_secs(10);
        while !is_bound(port) {
            assert!(Instant::now() < until, "kamailio does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, at: SocketAddr::from((Ipv4Addr::LOCALHOST, port)) }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Told to end, it takes its workers along; killed, it would leave them behind.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn phones_behind_a_proxy_register_call_and_are_called_through_it() {
    let bed = Bed::start().await;
    let proxy = Proxy::start(&bed);
    let port = free_port();
    bed.phone_behind(proxy.at, 2, port, "register.xml", "x", &[("EXPECTED", "200"), ("    Expires", "    Supported: path\n    Expires")])
        .succeeds()
        .await;
    let contacts = bed.running.handle.contacts().await;
    assert!(contacts[0].path[0].contains(&proxy.at.to_string()), "{:?}", contacts[0].path);
    // Called, from a phone that the proxy does not know; then it calls itself.
    let callee = bed.phone_behind(proxy.at, 2, port, "uas_answer.xml", "x", &[("CALLER", "2041"), ROUTED]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]).succeeds().await;
    let log = callee.log();
    callee.succeeds().await;
    assert!(log.contains(&format!("Record-Route: <sip:{}", proxy.at)), "not by the proxy:\n{log}");
    let other = bed.registers(5).await;
    let callee = bed.phone(5, other, "uas_answer.xml", "x", &[("CALLER", "2042")]);
    let trying = ("<recv response=\"401\"", "<recv response=\"100\" optional=\"true\"/>\n  <recv response=\"401\"");
    bed.phone_behind(proxy.at, 2, free_port(), "uac_call.xml", "2043", &[("PAUSE", "200"), trying]).succeeds().await;
    callee.succeeds().await;
    bed.tells(|event| matches!(event, Event::CallEnded { cause, .. } if cause == "caller hung up")).await;
}

/// What a phone says that answers behind a proxy.
const ROUTED: (&str, &str) = ("    Contact: <sip:[local_ip]", "    [last_Record-Route:]\n    Contact: <sip:[local_ip]");

/// Flow `number` of one device (RFC 5626).
fn flow(number: u8) -> [(&'static str, String); 2] {
    let contact = format!("transport=[transport]>;+sip.instance=\"<urn:uuid:00000000-0000-1000-8000-001565000002>\";reg-id={number}");
    [("EXPECTED", "200".to_owned()), ("transport=[transport]>", format!("{contact}\n    Supported: path, outbound"))]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_two_flows_rings_once_and_by_the_other_when_its_proxy_has_lost_one() {
    let bed = Bed::start().await;
    // The second proxy has forgotten where its phones are.
    let lost =
        RULES.replace("    t_relay();\n}", "    if ($sp == SERVER) { sl_send_reply(\"430\", \"Flow Failed\"); exit; }\n    t_relay();\n}");
    let (well, ill) = (Proxy::start(&bed), Proxy::with(&bed, &lost));
    let port = free_port();
    let registers = async |proxy: &Proxy, number| {
        let edits = flow(number);
        let edits: Vec<_> = edits.iter().map(|(from, to)| (*from, to.as_str())).collect();
        bed.phone_behind(proxy.at, 2, port, "register.xml", "x", &edits).succeeds().await;
    };
    registers(&well, 1).await;
    registers(&ill, 2).await;
    assert_eq!(bed.running.handle.contacts().await.len(), 2);
    let callee = bed.phone_behind(well.at, 2, port, "uas_answer.xml", "x", &[("CALLER", "2041"), ROUTED]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]).succeeds().await;
    callee.succeeds().await;
    bed.tells(|event| matches!(event, Event::Unregistered { reason, .. } if reason.contains("lost its flow"))).await;
    let left = bed.running.handle.contacts().await;
    assert_eq!(left.iter().map(|contact| contact.reg_id).collect::<Vec<_>>(), [1]);
    // With two that work, the later is asked and nobody else.
    let second = Proxy::start(&bed);
    registers(&second, 2).await;
    bed.events.lock().unwrap().clear();
    let callee = bed.phone_behind(second.at, 2, port, "uas_answer.xml", "x", &[("CALLER", "2041"), ROUTED]);
    bed.phone(1, free_port(), "uac_call.xml", "2042", &[("PAUSE", "200")]).succeeds().await;
    callee.succeeds().await;
    bed.ended("caller hung up").await;
    let captured = bed.running.handle.captured().await;
    let invites = |to: SocketAddr| {
        let all = captured.iter().flat_map(|(_, messages)| messages).filter(|one| one.flow.peer == to && one.bytes.starts_with(b"INVITE"));
        all.count()
    };
    assert_eq!((invites(ill.at), invites(well.at), invites(second.at)), (1, 1, 1));
}
