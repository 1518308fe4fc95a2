//! The server's own system, held against what the configuration wants of it. Pure: what `/proc` says is passed in.

use super::{Area, Finding};
use crate::dhcp;

/// What the server would like its receive buffers to be, in bytes.
const RECEIVE_BUFFER: u64 = 4 << 20;
const LITTLE_SPACE: u64 = 2 << 30;
const NO_SPACE: u64 = 200 << 20;

/// What was read of the system; `None` where it does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// net.ipv4.neigh.default.gc_thresh1, 2, 3.
    pub neighbours: Option<[u64; 3]>,
    /// Addresses in `dhcp.subnets`.
    pub addresses: u64,
    /// net.core.rmem_max, in bytes.
    pub rmem_max: Option<u64>,
    /// Open files that the running server may have.
    pub open_files: Option<u64>,
    /// Connections that its configuration allows.
    pub connections: u64,
    /// Bytes free for the database, and where it is.
    pub free: Option<u64>,
    pub folder: String,
}

/// How many phones the networks of the configuration may have: their ranges, or all of a network where another server leases.
pub fn addresses(config: &dhcp::Config) -> u64 {
    let of_network = |subnet: &dhcp::settings::Subnet| match subnet.range {
        Some(range) => range.size() + subnet.reserved_for.keys().filter(|address| !range.contains(**address)).count() as u64,
        None if subnet.leases() => subnet.reserved.len() as u64,
        None => 1 << (32 - subnet.cidr.prefix_len()),
    };
    config.subnets.iter().map(of_network).sum()
}

/// Linux's table of neighbours is too small: what that means, and the line to set. Also for `serve` and `check`.
///
/// It holds a hardware address for each phone in networks that this machine is in. Beyond the third number packets to further
/// phones are dropped ("neighbour: arp_cache: neighbor table overflow!" in the kernel's log); beyond the second, entries are thrown out early.
pub fn neighbours(addresses: u64, thresholds: [u64; 3]) -> Option<(String, String)> {
    let [_, soft, hard] = thresholds;
    if addresses <= soft && addresses <= hard {
        return None;
    }
    let low = addresses.next_multiple_of(1024);
    let says = format!(
        "`dhcp.subnets` has {addresses} addresses, and this machine's table of neighbours {hard} places, {soft} of them without pressure: phones          beyond that are not reached, unless they are behind routers"
    );
    let set =
        [low, low * 2, low * 4].into_iter().enumerate().map(|(n, value)| format!("net.ipv4.neigh.default.gc_thresh{}={value}", n + 1));
    let set = set.collect::<Vec<_>>().join(" ");
    Some((says, format!("sysctl -w {set}; and the same lines in /etc/sysctl.d/plugtone.conf")))
}

/// The three numbers in the texts of `/proc/sys/net/ipv4/neigh/default/gc_thresh1` to 3.
pub fn thresholds(texts: [&str; 3]) -> Option<[u64; 3]> {
    let [one, two, three] = texts.map(|text| text.trim().parse().ok());
    Some([one?, two?, three?])
}

/// "Max open files" of `/proc/PID/limits`: the soft limit.
pub fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

pub fn findings(seen: &Seen) -> Vec<Finding> {
    let area = Area::Machine;
    let mut found = Vec::new();
    if let Some(thresholds) = seen.neighbours
        && let Some((says, remedy)) = neighbours(seen.addresses, thresholds)
    {
        let full = seen.addresses > thresholds[2];
        found.push(if full { area.wrong(says, remedy) } else { area.note(says, remedy) });
    }
    if let Some(max) = seen.rmem_max.filter(|max| *max < RECEIVE_BUFFER) {
        found.push(area.note(
            format!("net.core.rmem_max is {max}: unless the server has CAP_NET_ADMIN, it loses messages when many phones speak at once, as after a power cut"),
            format!("set sysctl -w net.core.rmem_max={RECEIVE_BUFFER}, and the same in /etc/sysctl.d/plugtone.conf"),
        ));
    }
    if let Some(limit) = seen.open_files.filter(|limit| *limit < seen.connections) {
        found.push(area.note(
            format!("the running server may have {limit} open files, and its configuration allows {} connections", seen.connections),
            format!(
                "set LimitNOFILE={} in its systemd unit, or `ulimit -n` before it is started",
                (seen.connections * 2).next_power_of_two()
            ),
        ));
    }
    match seen.free {
        Some(free) if free < LITTLE_SPACE => {
            let says = format!("{} MB are free in {}, where the database is", free >> 20, seen.folder);
            let remedy = "make room, or move `store.path`; `store.journal_days` and `store.call_records_days` say how long history is kept";
            found.push(if free < NO_SPACE { area.wrong(says, remedy) } else { area.note(says, remedy) });
        }
        _ => {}
    }
    if found.is_empty() {
        found.push(area.good("this machine has room for the phones of the configuration"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::tests::told;

    #[test]
    fn the_table_of_neighbours_has_room_or_the_line_is_named() {
        assert_eq!(neighbours(500, [128, 512, 1024]), None);
        for (addresses, line) in [(600, "gc_thresh1=1024 "), (4000, "gc_thresh3=16384;")] {
            let (_, said) = neighbours(addresses, [128, 512, 1024]).expect("too small");
            assert!(said.contains(line), "{said}");
        }
    }

    #[test]
    fn what_is_short_is_told_with_the_line_to_set() {
        let enough = Seen {
            neighbours: Some([1024, 2048, 4096]),
            addresses: 100,
            rmem_max: Some(8 << 20),
            open_files: Some(65_536),
            connections: 20_000,
            free: Some(50 << 30),
            folder: "/var/lib/plugtone".into(),
        };
        for (story, seen, says) in [
            ("enough", enough.clone(), "Good: "),
            ("nothing known", Seen::default(), "Good: "),
            ("many phones", Seen { addresses: 5000, ..enough.clone() }, "Wrong: `dhcp.subnets` has 5000 addresses"),
            ("some more phones", Seen { addresses: 3000, ..enough.clone() }, "Note: `dhcp.subnets` has 3000 addresses"),
            ("small buffers", Seen { rmem_max: Some(212_992), ..enough.clone() }, "Note: net.core.rmem_max is 212992"),
            ("few files", Seen { open_files: Some(1024), ..enough.clone() }, "LimitNOFILE=65536"),
            ("little space", Seen { free: Some(1 << 30), ..enough.clone() }, "Note: 1024 MB are free in /var/lib/plugtone"),
            ("no space", Seen { free: Some(5 << 20), ..enough.clone() }, "Wrong: 5 MB are free"),
        ] {
            let found = told(&findings(&seen));
            assert!(found.contains(says), "{story}: {found}");
        }
        assert_eq!(
            open_files(
                "Limit                     Soft Limit           Hard Limit           Units\nMax open files            1024                 524288               files\n"
            ),
            Some(1024)
        );
    }
}
