//! Variables in layers, later wins: defaults → family → model → site → group → user → device. Every value knows its origin.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use minijinja::Value;

use super::fault::{Fault, Suggest, fault};
use super::keys;
use super::schema::{DeviceEntry, OverridesFile, Variables};
use crate::model::{Inventory, MacAddr};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    Defaults,
    Family,
    Model,
    Site,
    Group,
    User,
    Device,
}

/// Where a value was set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub layer: Layer,
    pub file: Arc<str>,
    pub line: u32,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layer = format!("{:?}", self.layer).to_lowercase();
        write!(f, "{layer}, {}:{}", self.file, self.line)
    }
}

/// A value with its origin.
#[derive(Clone, Debug)]
pub struct Layered {
    pub value: Value,
    pub origin: Arc<Origin>,
}

/// One layer's variables.
pub(super) type LayerMap = BTreeMap<Arc<str>, Layered>;

pub(super) fn layer(layer: Layer, file: &Arc<str>, variables: Variables) -> LayerMap {
    variables
        .0
        .into_iter()
        .map(|(name, written)| {
            let origin = Arc::new(Origin { layer, file: file.clone(), line: written.referenced.line() as u32 });
            (Arc::from(name), Layered { value: written.value.0, origin })
        })
        .collect()
}

/// Puts a layer over what is there: its values replace, but keys that only change some positions leave the others.
pub(super) fn put(variables: &mut LayerMap, layer: &LayerMap) {
    for (name, above) in layer {
        let mut layered = above.clone();
        if keys::NAMES.contains(&&**name) {
            layered.value = keys::merge(variables.get(name).map(|below| &below.value), &above.value);
        }
        variables.insert(name.clone(), layered);
    }
}

/// `overrides.yaml`, ready for look-up.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    sites: Vec<Site>,
    groups: Vec<Group>,
    users: BTreeMap<String, LayerMap>,
    devices: BTreeMap<MacAddr, Device>,
}

#[derive(Debug)]
struct Site {
    name: Arc<str>,
    subnets: Vec<ipnet::IpNet>,
    variables: LayerMap,
}

#[derive(Debug)]
struct Group {
    name: Arc<str>,
    members: Vec<String>,
    variables: LayerMap,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) family: Option<String>,
    pub(super) model: Option<String>,
    variables: LayerMap,
    /// Where it is written.
    line: u32,
}

/// Whose overrides are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Whose<'a> {
    pub(super) mac: Option<MacAddr>,
    pub(super) address: Option<IpAddr>,
    pub(super) user_id: Option<&'a str>,
    pub(super) extension: Option<&'a str>,
    pub(super) inventory: Option<&'a Inventory>,
}

impl Group {
    fn holds(&self, whose: Whose<'_>) -> bool {
        let own = whose.inventory.and_then(|inventory| inventory.group.as_deref());
        let is = |id: &String| whose.user_id == Some(id) || whose.extension == Some(id);
        own == Some(&*self.name) || self.members.iter().any(is)
    }
}

impl Overrides {
    pub(super) fn new(file: &Arc<str>, written: OverridesFile, faults: &mut Vec<Fault>) -> Self {
        let sites = written.sites.into_iter().map(|(name, site)| Site {
            name: Arc::from(name),
            subnets: site.subnets,
            variables: layer(Layer::Site, file, site.variables),
        });
        let groups = written.groups.into_iter().map(|(name, group)| Group {
            name: Arc::from(name),
            members: group.members,
            variables: layer(Layer::Group, file, group.variables),
        });
        let mut overrides = Self {
            sites: sites.collect(),
            groups: groups.collect(),
            users: written.users.into_iter().map(|(id, variables)| (id, layer(Layer::User, file, variables))).collect(),
            devices: BTreeMap::new(),
        };
        for (mac, device) in written.devices {
            let line = device.referenced.line() as u32;
            let DeviceEntry { family, model, variables } = device.value;
            match mac.parse() {
                Ok(mac) => {
                    let variables = layer(Layer::Device, file, variables);
                    overrides.devices.insert(mac, Device { family, model, variables, line });
                }
                Err(error) => faults.push(fault(file, line, 0, format!("devices: {error}"))),
            }
        }
        overrides
    }

    pub(super) fn device(&self, mac: MacAddr) -> Option<&Device> {
        self.devices.get(&mac)
    }

    /// The site whose smallest subnet holds the address.
    fn site_at(&self, address: Option<IpAddr>) -> Option<&Site> {
        let address = address?;
        let holding = self.sites.iter().flat_map(|site| site.subnets.iter().map(move |subnet| (subnet, site)));
        holding.filter(|(subnet, _)| subnet.contains(&address)).max_by_key(|(subnet, _)| subnet.prefix_len()).map(|(_, site)| site)
    }

    pub(super) fn site_name(&self, address: Option<IpAddr>) -> Option<&str> {
        self.site_at(address).map(|site| &*site.name)
    }

    pub(super) fn group_names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|group| &*group.name)
    }

    /// Does it set anything for this device?
    pub(super) fn sets(&self, mac: MacAddr) -> bool {
        self.devices.get(&mac).is_some_and(|device| !device.variables.is_empty())
    }

    /// The names of the groups that it is in; its own may have nothing set here.
    pub(super) fn groups_of<'a>(&'a self, whose: Whose<'a>) -> impl Iterator<Item = &'a str> {
        let own = whose.inventory.and_then(|inventory| inventory.group.as_deref());
        own.into_iter().chain(self.groups.iter().filter(move |group| group.holds(whose)).map(|group| &*group.name))
    }

    /// The layers that apply, lowest first.
    pub(super) fn layers<'a>(&'a self, whose: Whose<'a>) -> impl Iterator<Item = &'a LayerMap> {
        let site = self.site_at(whose.address).map(|site| &site.variables);
        let groups = self.groups.iter().filter(move |group| group.holds(whose)).map(|group| &group.variables);
        let users = [whose.user_id, whose.extension].into_iter().flatten().filter_map(|id| self.users.get(id));
        let replaced = whose.inventory.into_iter().flat_map(|inventory| &inventory.stands_for);
        let device = replaced.copied().chain(whose.mac).filter_map(|mac| self.devices.get(&mac)).map(|device| &device.variables);
        site.into_iter().chain(groups).chain(users).chain(device)
    }

    /// Every layer that is written here.
    pub(super) fn variables(&self) -> impl Iterator<Item = &LayerMap> {
        let wide = self.sites.iter().map(|site| &site.variables).chain(self.groups.iter().map(|group| &group.variables));
        wide.chain(self.users.values()).chain(self.devices.values().map(|device| &device.variables))
    }

    /// Families and variables that are named but do not exist.
    pub(super) fn check(&self, file: &str, variables: &[&str], families: &[&str], faults: &mut Vec<Fault>) {
        for map in self.variables() {
            check_names(map, variables, faults);
        }
        for device in self.devices.values() {
            if let Some(family) = device.family.as_deref().filter(|family| !families.contains(family)) {
                let unknown = fault(file, device.line, 0, format!("there is no family '{family}'"));
                faults.push(unknown.suggest(family, families.iter().copied(), ""));
            }
        }
    }
}

/// A variable that no lower layer knows is a typing error: nothing would read it.
pub(super) fn check_names(map: &LayerMap, known: &[&str], faults: &mut Vec<Fault>) {
    for (name, layered) in map {
        if !known.contains(&&**name) {
            let origin = &layered.origin;
            let message = format!("no template reads a variable '{name}'");
            let otherwise = "give it a first value in defaults.yaml or in the family's `variables`";
            faults.push(fault(&origin.file, origin.line, 0, message).suggest(name, known.iter().copied(), otherwise));
        }
    }
}
