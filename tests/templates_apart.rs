//! Templates that take all time or all memory: whoever reads them, tries them or serves them goes on.

use std::{fs, io::ErrorKind, net::UdpSocket, process::Command, time::Duration};

use plugtone::template::shipped;

use crate::cli::{Server, USERS, folder, office, plugtone, shipped as file};

const TEMPLATE: &str = "tpl/algo/account.conf.j2";

fn algo() -> String {
    file("templates/algo/account.conf.j2")
}

/// Doubles a text, or whatever `step` makes of `ns.x`, sixty times.
fn doubled(step: &str) -> String {
    format!("{{% set ns = namespace(x='ab', y=[1], z=[1]) %}}{{% for i in range(60) %}}{step}{{% endfor %}}")
}

#[test]
fn who_checks_templates_is_told_which_take_too_much_and_lives() {
    let config = office(USERS) + "templates: { path: tpl }\n";
    let (long, much) = ("takes too long: it loops without end", "takes too much memory");
    let constants: String = (0..200).map(|n| format!("{{% set a{n} = ('x{n}' * 4000000) ~ ('y' * 9000000) %}}")).collect();
    let both = "{% set ns.y = [ns.y, ns.y] %}{% set ns.z = [ns.z, ns.z] %}";
    for (story, bomb, told) in [
        ("a text that doubles", doubled("{% set ns.x = ns.x ~ ns.x %}"), much),
        ("joined", doubled("{% set ns.x = [ns.x, ns.x]|join %}"), much),
        ("replaced by itself", doubled("{% set ns.x = ns.x|replace('a', ns.x) %}"), much),
        ("captured", doubled("{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = x %}"), much),
        ("lists in each other, compared", doubled(both) + "{{ 1 if ns.y == ns.z else 2 }}", long),
        // Which comes first depends on the machine.
        ("a list that is long only when it is looked at", doubled("{% set ns.y = ns.y + ns.y %}") + "{{ ns.y|list|length }}", "takes too "),
        ("constants, which the compiler works out", constants, much),
        ("a compiler that calls itself", format!("{{{{ {}1 }}}}", "not ".repeat(100_000)), much),
        ("loops in each other", "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}".into(), long),
    ] {
        let users = file("config/demo/users.yaml");
        let folder = folder(&[("f.yaml", &config), ("users.yaml", &users), (TEMPLATE, &(algo() + &bomb))]);
        let run = plugtone(folder.path(), &["check", "--config", "f.yaml"]);
        assert_eq!(run.status, Some(1), "{story}: {run:#?}");
        assert!(run.err.contains(&format!("{TEMPLATE}:")) && run.err.contains(told), "{story}: {run:#?}");
        assert!(run.err.ends_with("plugtone: 1 fault\n"), "{story}: once, and not for each phone that was tried: {run:#?}");
    }
}

#[test]
fn a_template_that_harms_when_a_certain_phone_asks_harms_no_other_make() {
    let open = "provisioning: { open: { subnets: [127.0.0.0/8] } }\n";
    let server = Server::start(&format!("{USERS}templates: {{ path: tpl }}\n{open}"), &[]);
    // An address is one phone's.
    let ask = |host: u8, name: &str| {
        let (from, url) = (format!("127.0.0.{host}"), format!("http://{}/{name}", server.http));
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--max-time", "30", "--interface", &from, "-w", "\n%{http_code}", &url]);
        String::from_utf8(curl.output().expect("curl").stdout).expect("UTF-8")
    };
    let (first, second, third, other) =
        ("algom0022EE770001.conf", "algom0022EE770002.conf", "algom0022EE770003.conf", "cfgC074AD000001.xml");
    let good = |told: &str| told.ends_with("\n200");

    let bomb =
        format!("{{% if mac[:10] == '0022ee7700' and mac != '0022ee770001' %}}{}{{% endif %}}\n", doubled("{% set ns.x = ns.x ~ ns.x %}"));
    fs::create_dir_all(server.path("tpl/algo")).expect("made");
    server.write(TEMPLATE, &(algo() + &bomb));
    server.ask(&["reload"]).good();
    assert!(good(&ask(11, first)), "as nothing is wrong for it");
    // Many at once: the first ends the process, and the others hear of it.
    std::thread::scope(|scope| {
        let asked = [(12, second), (13, third), (14, "algom0022EE770004.conf"), (15, "algom0022EE770005.conf")];
        let asked = asked.map(|(host, name)| scope.spawn(move || ask(host, name)));
        let told = asked.map(|asked| asked.join().expect("asked"));
        assert!(told.iter().all(|told| told.ends_with("\n503")), "they shall ask again: {told:?}");
    });
    let log = server.log();
    assert_eq!(log.matches("has ended the process").count(), 1, "{log}");
    assert!(log.contains("takes too much memory") && log.contains(TEMPLATE), "{log}");
    assert!(good(&ask(21, other)), "another make's");
    assert!(good(&ask(11, first)), "what was rendered before");

    // Mended, it is tried again.
    server.write(TEMPLATE, &algo());
    server.ask(&["reload"]).good();
    for (host, name) in [(12, second), (13, third)] {
        assert!(good(&ask(host, name)), "{name}");
    }

    // A process that somebody has ended is no fault of a template's.
    server.write(TEMPLATE, &(algo() + "# ours\n"));
    server.ask(&["reload"]).good();
    let workers = || {
        let found =
            Command::new("pgrep").args(["--parent", &server.pid().to_string(), "--full", "template-worker"]).output().expect("pgrep");
        let pids = String::from_utf8(found.stdout).expect("UTF-8");
        pids.lines().map(|pid| pid.parse::<i32>().expect("a number")).collect::<Vec<_>>()
    };
    let running = workers();
    assert!(!running.is_empty());
    for pid in running {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).expect("killed");
    }
    assert!(ask(12, second).contains("# ours"));
    assert_eq!(workers().len(), 1, "that of the set which is live, and none of those before it");
}

/// TFTP reads and sends on one thread, which must not wait for a template.
#[test]
fn a_template_that_takes_long_holds_up_no_other_transfer() {
    let open = "provisioning: { open: { subnets: [127.0.0.0/8] } }\n";
    let server = Server::start(&format!("{USERS}templates: {{ path: tpl }}\n{open}"), &[]);
    fs::create_dir_all(server.path("tpl/algo")).expect("made");
    let loops = "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}";
    server.write(TEMPLATE, &(algo() + &format!("{{% if mac == '0022ee770002' %}}{loops}{{% endif %}}\n")));
    server.ask(&["reload"]).good();
    let phone = |host: u8| {
        let socket = UdpSocket::bind(format!("127.0.0.{host}:0")).expect("a port");
        socket.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
        socket
    };
    let asks = |phone: &UdpSocket, name: &str| {
        let request = [b"\0\x01", name.as_bytes(), b"\0octet\0blksize\x004096\0"].concat();
        phone.send_to(&request, server.tftp).expect("sent");
    };
    let told = |phone: &UdpSocket| {
        let mut packet = [0; 5000];
        loop {
            match phone.recv_from(&mut packet) {
                // Other tests have children, whose ends are signals to this process.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                told => return told.map(|(len, from)| (packet[..len].to_vec(), from)),
            }
        }
    };

    let (slow, quick) = (phone(12), phone(14));
    asks(&slow, "algom0022EE770002.conf");
    for round in 1..=2 {
        asks(&quick, "cfgC074AD000001.xml");
        let (first, from) = told(&quick).expect("an answer");
        assert_eq!(first[..2], *b"\0\x06", "an OACK: {first:?}");
        quick.send_to(b"\0\x04\0\0", from).expect("sent");
        let (block, from) = told(&quick).expect("a block");
        assert!(block[..4] == *b"\0\x03\0\x01" && block.len() < 4 + 4096, "the only block: {} bytes", block.len());
        quick.send_to(b"\0\x04\0\x01", from).expect("sent");
        slow.set_nonblocking(true).expect("set");
        let nothing = told(&slow).expect_err("the template goes on");
        assert_eq!(nothing.kind(), ErrorKind::WouldBlock, "round {round}: made, and from memory");
        slow.set_nonblocking(false).expect("set");
    }
    let (end, _) = told(&slow).expect("an answer in the end");
    assert_eq!(end[..2], *b"\0\x05", "an error: {end:?}");
}

#[test]
fn what_is_rendered_apart_is_the_same_to_the_byte() {
    // It makes the secrets.
    let server = Server::start(USERS, &[]);
    server.write("here.yaml", &office(USERS));
    server.write("apart.yaml", &(office(USERS) + "templates: { path: tpl }\n"));
    // The same to a phone, and another text.
    for source in shipped() {
        let path = server.path("tpl").join(&source.name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        let text = if source.name.ends_with(".j2") { format!("{{# ours #}}{}", source.text) } else { source.text + "# ours\n" };
        fs::write(path, text).expect("written");
    }
    let families = shipped().into_iter().filter_map(|source| source.name.strip_suffix(".yaml").map(str::to_owned));
    let mut bytes = 0;
    for family in families.filter(|name| !["defaults", "overrides", "timezones"].contains(&&**name)) {
        let render = |config: &str| {
            let run = [
                "render",
                "--config",
                config,
                "--mac",
                "00:15:65:aa:bb:cc",
                "--family",
                &family,
                "--as",
                "2041",
                "--show-secrets",
                "--json",
            ];
            plugtone(&server.path(""), &run).json().to_string()
        };
        let here = render("here.yaml");
        assert_eq!(here, render("apart.yaml"), "{family}");
        bytes += here.len();
    }
    assert!(bytes > 30_000, "{bytes}");
}
