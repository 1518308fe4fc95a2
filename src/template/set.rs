//! All families' templates, checked and compiled: one value that is live as a whole or not at all.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
};

use minijinja::{Value, value::ValueKind};
use serde::{Deserialize, Serialize};

use super::family::{Family, FileRef, Option6Template};
use super::fault::{Fault, Suggest, fault};
use super::firmware::{self, Due, Firmware, Pin, Whom};
use super::keys;
use super::layers::{Layer, LayerMap, Layered, Overrides, Whose, layer, put};
use super::loader;
use super::memo::{self, Kept, Meanings, Memo};
use super::options::{self, Dhcp6Option, DhcpOption};
use super::recognise::{DhcpFacts, Recognised};
use super::render::Grammar;
use super::sample;
use super::schema::{DefaultsFile, FamilyFile, OverridesFile, Readers, ZonesFile};
use super::subject::{Line, SipPorts, Subject};
use super::timezone::{Rule, Zone};
use super::worker::{self, Apart, Job};
use crate::{
    model::{FamilyName, LineNumber, MacAddr, Secret},
    yaml::read_untyped,
};

/// Stands where a secret would be, where people look.
pub const MASK: &str = "••••••";

const DEFAULTS: &str = "defaults.yaml";
const OVERRIDES: &str = "overrides.yaml";
const ZONES: &str = "timezones.yaml";
/// Each takes memory of its own; see `recognise.rs`.
const FAMILIES_MAX: usize = 200;
/// A variable that the program reads, and templates need not.
const SIGN_IN_LINES: &str = "sign_in_lines";

/// One template file as read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Below the templates' folder: `yealink.yaml`, `poly/user.xml.j2`.
    pub name: String,
    /// As the person who edits it knows it.
    pub origin: String,
    pub text: String,
}

/// Everything that is needed to render; see the module's documentation.
pub struct TemplateSet {
    sources: Vec<Source>,
    pub(super) families: BTreeMap<FamilyName, Family>,
    defaults: LayerMap,
    overrides: Overrides,
    firmware: Firmware,
    zones: BTreeMap<String, (String, Value)>,
    memo: Memo<Kept>,
    options: Memo<Vec<DhcpOption>>,
    agents: Meanings<Option<Recognised>>,
    /// Names of files that everybody may read.
    pub(super) common: Meanings<FileRef>,
}

/// A rendered file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    pub name: String,
    pub bytes: Vec<u8>,
    pub content_type: String,
    pub readers: Readers,
}

impl TemplateSet {
    /// Parses, compiles, and renders sample phones. All faults at once.
    pub fn load(sources: &[Source]) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        let program = worker::program();
        let foreign = program.map(|_| foreign(sources)).unwrap_or_default();
        let mut set = Self::parsed(sources, &mut faults);
        set.families.values_mut().filter(|family| !foreign.contains(&*family.id)).for_each(|family| family.compile(|_| {}, &mut faults));
        if let Some(program) = program.filter(|_| !foreign.is_empty()) {
            set.compile_apart(program, &foreign, &mut faults);
        }
        let overrides = sources.iter().find(|source| source.name == OVERRIDES);
        set.check(overrides.map_or(OVERRIDES, |source| &source.origin), &mut faults);
        faults.iter_mut().for_each(|fault| point(fault, sources));
        if faults.is_empty() { Ok(set) } else { Err(faults) }
    }

    /// What can be compiled of sources, and what cannot. Each template's name is told to `at` before.
    pub(super) fn unchecked(sources: &[Source], mut at: impl FnMut(&str)) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let mut set = Self::parsed(sources, &mut faults);
        set.families.values_mut().for_each(|family| family.compile(&mut at, &mut faults));
        (set, faults)
    }

    /// Everything but the templates.
    fn parsed(sources: &[Source], faults: &mut Vec<Fault>) -> Self {
        let find = |name: &str| sources.iter().find(|source| source.name == name);

        let zones = load_zones(find(ZONES), faults);
        let overrides = find(OVERRIDES).and_then(|source| {
            let written: OverridesFile = keep(read_untyped(&source.origin, &source.text), faults)?;
            Some(Overrides::new(&Arc::from(&*source.origin), written, faults))
        });
        let defaults = find(DEFAULTS).and_then(|source| {
            let written: DefaultsFile = keep(read_untyped(&source.origin, &source.text), faults)?;
            Some(layer(Layer::Defaults, &Arc::from(&*source.origin), written.variables))
        });
        let firmware = find(firmware::FILE).map(|source| Firmware::read(&source.origin, &source.text));
        let firmware = firmware.transpose().unwrap_or_else(|more| {
            faults.extend(more);
            None
        });
        let firmware = firmware.unwrap_or_default();
        let defaults = defaults.unwrap_or_default();
        let overrides = overrides.unwrap_or_default();
        let mut set = Self {
            sources: sources.to_vec(),
            families: BTreeMap::new(),
            defaults: defaults.clone(),
            overrides,
            firmware,
            zones,
            memo: Memo::default(),
            options: Memo::default(),
            agents: Meanings::default(),
            common: Meanings::default(),
        };

        for source in sources {
            let Some(id) = source.name.strip_suffix(".yaml").filter(|id| !id.contains('/')) else { continue };
            if [DEFAULTS, OVERRIDES, ZONES, firmware::FILE].contains(&&*source.name) {
                continue;
            }
            let Some(written) = keep(read_untyped::<FamilyFile>(&source.origin, &source.text), faults) else { continue };
            if set.families.len() == FAMILIES_MAX {
                faults.push(fault(&source.origin, 0, 0, format!("there are more than {FAMILIES_MAX} families")));
                break;
            }
            let family = Family::new(id, source, written, &defaults, sources, faults);
            set.families.insert(id.to_owned(), family);
        }
        for source in sources.iter().filter(|source| source.name.ends_with(".j2")) {
            let folder = source.name.split_once('/').map(|(folder, _)| folder);
            // A family whose file is faulty was told above.
            if let Some(folder) = folder.filter(|folder| find(&format!("{folder}.yaml")).is_none()) {
                faults.push(fault(&source.origin, 0, 0, format!("there is no family '{folder}' that could use it")));
            }
        }
        set
    }

    /// Has these families' templates compiled, and later rendered, in a process of their own.
    fn compile_apart(&mut self, program: &'static Path, foreign: &BTreeSet<&str>, faults: &mut Vec<Fault>) {
        let is_needed = |name: &str| name == DEFAULTS || foreign.iter().any(|id| is_of(name, id));
        match Apart::compile(program, self.sources.iter().filter(|source| is_needed(&source.name)).cloned().collect()) {
            Ok((apart, more)) => {
                let apart = Some(Arc::new(apart));
                self.families
                    .iter_mut()
                    .filter(|(id, _)| foreign.contains(id.as_str()))
                    .for_each(|(_, family)| family.apart = apart.clone());
                let new: Vec<_> = more.into_iter().filter(|fault| !faults.contains(fault)).collect();
                faults.extend(new);
            }
            Err((template, end)) => {
                let family = self.families.values().find(|family| foreign.contains(&*family.id) && family.places.contains_key(&template));
                faults.push(
                    family.map_or_else(|| fault("templates", 0, 0, end.to_string()), |family| family.fault_in(&template, end.to_string())),
                );
            }
        }
    }

    /// Does a job in this process.
    pub(super) fn run_here(&self, job: &Job<'_>) -> Result<Vec<u8>, Fault> {
        match self.families.get(&*job.family) {
            Some(family) => family.run_here(job),
            None => Err(fault(&job.family, 0, 0, "there is no such family")),
        }
    }

    /// What it was made of.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    pub fn families(&self) -> impl Iterator<Item = &Family> {
        self.families.values()
    }

    pub fn family(&self, id: &str) -> Option<&Family> {
        self.families.get(id)
    }

    // --- which make is it

    /// By what a DHCP client says. `None`: not a phone that we know.
    pub fn recognise_dhcp(&self, facts: DhcpFacts<'_>) -> Option<Recognised> {
        let made = |family: &Family, model| Recognised { family: family.id.clone(), model, ..Default::default() };
        let forced = facts.mac.and_then(|mac| self.forced(mac));
        let by_class = || {
            let sent = facts.vendor_class?;
            let fitting = self.families.values().filter_map(|family| Some((family, family.marks.vendor_class(sent)?)));
            let longest = fitting.min_by_key(|(_, (length, _))| Reverse(*length));
            longest.map(|(family, (_, model))| made(family, model))
        };
        let by_name = || {
            let sent = facts.host_name?;
            Some(made(self.families.values().find(|family| family.marks.host_name(sent))?, None))
        };
        let by_prefix = || Some(Recognised { family: self.recognise_mac(facts.mac?)?.to_owned(), ..Default::default() });
        let by_wish = || {
            let family = self.families.values().find(|family| family.marks.asks(facts.parameter_list, facts.vendor_class))?;
            Some(made(family, None))
        };
        forced.or_else(by_class).or_else(by_name).or_else(by_prefix).or_else(by_wish)
    }

    /// By the number of its maker in option 16 of DHCPv6, a hint as the prefix of the MAC is.
    pub fn recognise_enterprise(&self, number: u32) -> Option<Recognised> {
        let family = self.families.values().find(|family| family.marks.enterprise(number))?;
        Some(Recognised { family: family.id.clone(), ..Default::default() })
    }

    /// By the prefix of the MAC alone, a hint. The longest prefix wins.
    pub fn recognise_mac(&self, mac: MacAddr) -> Option<&str> {
        let fitting = self.families.values().filter_map(|family| Some((family.marks.mac(mac)?, family)));
        fitting.max_by_key(|(length, _)| *length).map(|(_, family)| &*family.id)
    }

    /// By the User-Agent header of HTTP or SIP, as bytes. Remembered.
    pub fn recognise_user_agent(&self, sent: &[u8]) -> Option<Recognised> {
        let sent = &sent[..sent.len().min(512)];
        let of = |family: &Family| Some(Recognised { family: family.id.clone(), ..family.marks.user_agent(sent)? });
        self.agents.get(sent, || Some(self.families.values().find_map(of))).flatten()
    }

    /// What `overrides.yaml` says of this device: its family and model, where an admin knows better.
    pub fn forced(&self, mac: MacAddr) -> Option<Recognised> {
        let device = self.overrides.device(mac)?;
        Some(Recognised { family: device.family.clone()?, model: device.model.clone(), ..Default::default() })
    }

    // --- what is in it

    /// The file's bytes for this phone. Pure: the same subject, the same bytes.
    pub fn render(&self, file: &FileRef, subject: &Subject) -> Result<Rendered, Fault> {
        self.render_as(file, subject, false)
    }

    /// The same, remembered: a file that was rendered lately for the same subject is not rendered again.
    pub fn rendered(&self, file: &FileRef, subject: &Subject) -> Result<Arc<Kept>, Fault> {
        let key = self.memo_key(file, subject);
        if let Some(kept) = self.memo.get(&key) {
            return Ok(kept);
        }
        let Rendered { name, bytes, content_type, .. } = self.render(file, subject)?;
        let kept = Arc::new(Kept { name, hash: blake3::hash(&bytes), bytes: bytes.into(), content_type });
        self.memo.put(key, kept.clone());
        Ok(kept)
    }

    /// Only if it was rendered lately.
    pub fn remembered(&self, file: &FileRef, subject: &Subject) -> Option<Arc<Kept>> {
        self.memo.get(&self.memo_key(file, subject))
    }

    fn memo_key(&self, file: &FileRef, subject: &Subject) -> memo::Key {
        memo::key(&file.family, (file.index, file.page), self.site(subject.address), subject)
    }

    /// The same for people to look at: in the place of every password that somebody has set in a layer is [`MASK`]. What the subject
    /// carries, its lines' secrets and the key in its URL, is masked by whoever makes it.
    pub fn render_masked(&self, file: &FileRef, subject: &Subject) -> Result<Rendered, Fault> {
        self.render_as(file, subject, true)
    }

    fn render_as(&self, file: &FileRef, subject: &Subject, masked: bool) -> Result<Rendered, Fault> {
        let gone = || fault(&file.family, 0, 0, "the file is not in the set that is live");
        let family = self.families.get(&file.family).ok_or_else(gone)?;
        let entry = family.files.get(file.index).ok_or_else(gone)?;
        family.file(entry, file.page, subject, self.context(family, subject, entry.readers, masked)?)
    }

    /// The DHCP options that this phone wants. Remembered: phones of a model ask for the same, all at once after a power cut.
    pub fn dhcp_options(&self, family: &str, subject: &Subject) -> Result<Arc<Vec<DhcpOption>>, Fault> {
        let Some(family) = self.families.get(family) else { return Ok(Arc::default()) };
        let own = subject.mac.filter(|mac| self.overrides.device(*mac).is_some());
        let key = memo::options_key(own, &family.id, self.site(subject.address), subject);
        if let Some(kept) = self.options.get(&key) {
            return Ok(kept);
        }
        let options = Arc::new(family.dhcp_options(&self.context(family, subject, Readers::Anyone, false)?)?);
        self.options.put(key, options.clone());
        Ok(options)
    }

    /// What this phone is told in the vendor options of DHCPv6.
    pub fn dhcp6_options(&self, family: &str, subject: &Subject) -> Result<Vec<Dhcp6Option>, Fault> {
        let Some(family) = self.families.get(family).filter(|family| !family.dhcp6.is_empty()) else { return Ok(Vec::new()) };
        let context = self.context(family, subject, Readers::Anyone, false)?;
        let mut options = Vec::new();
        for Option6Template { enterprise, code, kind, send, template } in &family.dhcp6 {
            let text = String::from_utf8(family.run(Grammar::KeyValue, template, &context)?).unwrap_or_default();
            let value = options::value6(*kind, &text)
                .map_err(|message| family.fault_in(template, format!("option {code} of enterprise {enterprise}: {message}")))?;
            options.extend(value.map(|value| Dhcp6Option { enterprise: *enterprise, code: *code, value, when: (*send).into() }));
        }
        Ok(options)
    }

    /// Where this phone is sent to when it asks by multicast. `None`: its make is not answered.
    pub fn pnp_url(&self, family: &str, subject: &Subject) -> Result<Option<String>, Fault> {
        match self.families.get(family).filter(|family| family.pnp.is_some()) {
            Some(family) => family.pnp_url(&self.context(family, subject, Readers::Anyone, false)?),
            None => Ok(None),
        }
    }

    /// What a soft phone of this family is told so that it fetches `url`, whose last part is `token`. `None`: a setting is missing.
    pub fn link(&self, family: &str, subject: &Subject, url: &str, token: &str, login: &str) -> Result<Option<String>, Fault> {
        match self.families.get(family).filter(|family| family.link.is_some()) {
            Some(family) => family.link(&self.context(family, subject, Readers::Anyone, false)?, url, token, login),
            None => Ok(Some(url.to_owned())),
        }
    }

    /// Renders every file of every family for sample phones, unbound and bound; gives how many files and bytes that was.
    /// For measuring: it is the work of a boot storm without its network.
    pub fn render_samples(&self) -> (usize, usize) {
        let mut done = (0, 0);
        for family in self.families.values() {
            for subject in sample::subjects(family) {
                for file in self.files(&family.id, &subject) {
                    if let Ok(rendered) = self.render(&file, &subject) {
                        done = (done.0 + 1, done.1 + rendered.bytes.len());
                    }
                }
            }
        }
        done
    }

    // --- what it shall run

    pub fn firmware(&self) -> &Firmware {
        &self.firmware
    }

    /// What is said of the firmware of this phone.
    pub fn pin(&self, family: &str, subject: &Subject) -> Option<&Pin> {
        self.firmware.pin(&self.whom(family, subject))
    }

    /// What this phone shall install, as it runs another version. One whose version nobody knows is left as it is.
    pub fn due(&self, family: &str, subject: &Subject, runs: Option<&str>) -> Option<Due> {
        if self.firmware.pins.is_empty() {
            return None;
        }
        self.firmware.due(&self.whom(family, subject), runs?)
    }

    fn whom<'a>(&'a self, family: &'a str, subject: &'a Subject) -> Whom<'a> {
        let macs = subject.inventory.stands_for.iter().copied().chain(subject.mac).collect();
        let groups = self.overrides.groups_of(whose(subject)).collect();
        Whom { make: family, model: subject.model.as_deref().unwrap_or_default(), groups, macs }
    }

    /// The layered variables as this phone gets them, each with its origin.
    pub fn variables(&self, family: &str, subject: &Subject) -> BTreeMap<Arc<str>, Layered> {
        self.families.get(family).map(|family| self.layered(family, subject)).unwrap_or_default()
    }

    /// How many lines of this phone are there to sign in at while nobody owns them; of the first it is always known.
    pub fn sign_in_lines(&self, family: &str, subject: &Subject) -> LineNumber {
        let Some(family) = self.families.get(family) else { return 1 };
        let lines = self.value_of(SIGN_IN_LINES, family, subject).and_then(|set| LineNumber::try_from(set).ok()).unwrap_or(1);
        lines.min(family.capabilities.lines_max).max(1)
    }

    /// The site that holds this address.
    pub fn site(&self, address: Option<IpAddr>) -> Option<&str> {
        self.overrides.site_name(address)
    }

    /// The groups that this phone is in.
    pub fn groups_of(&self, subject: &Subject) -> Vec<String> {
        self.overrides.groups_of(whose(subject)).map(str::to_owned).collect()
    }

    /// The groups of `overrides.yaml`.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.overrides.group_names()
    }

    /// Is this switch on for any phone?
    pub fn is_on_somewhere(&self, name: &str) -> bool {
        self.values_of(name).any(Value::is_true)
    }

    /// Is this variable such for any phone?
    pub fn is_somewhere(&self, name: &str, value: &str) -> bool {
        self.values_of(name).any(|set| set.as_str() == Some(value))
    }

    /// What any layer sets it to.
    fn values_of(&self, name: &str) -> impl Iterator<Item = &Value> {
        // The families' own layers begin with the defaults.
        let families = self.families.values();
        let layers = families.flat_map(|family| std::iter::once(&family.base).chain(family.models.iter().map(|(_, layer)| layer)));
        layers.chain(self.overrides.variables()).filter_map(move |layer| layer.get(name)).map(|set| &set.value)
    }

    /// What the nearest layer sets it to for this phone; without putting all layers together.
    fn value_of(&self, name: &str, family: &Family, subject: &Subject) -> Option<Value> {
        self.layers_of(family, subject).into_iter().rev().find_map(|layer| layer.get(name)).map(|set| set.value.clone())
    }

    /// Shall this phone's account go encrypted, and can it?
    pub fn encrypts(&self, family: &str, subject: &Subject) -> bool {
        let Some(family) = self.families.get(family) else { return false };
        let wanted = || self.value_of("file_encryption", family, subject).is_some_and(|set| set.is_true());
        family.files.iter().any(|file| file.encrypted.is_some()) && wanted()
    }

    /// Does `overrides.yaml` set anything for this very device?
    pub fn sets_for(&self, mac: MacAddr) -> bool {
        self.overrides.sets(mac)
    }

    fn layered(&self, family: &Family, subject: &Subject) -> LayerMap {
        let mut variables = LayerMap::new();
        for layer in self.layers_of(family, subject) {
            put(&mut variables, layer);
        }
        variables
    }

    /// The layers that apply to a phone, lowest first.
    pub(super) fn layers_of<'a>(&'a self, family: &'a Family, subject: &'a Subject) -> Vec<&'a LayerMap> {
        let model = subject.model.as_deref().unwrap_or_default();
        let models = family.models.iter().filter(|(pattern, _)| pattern.is_match(model)).map(|(_, layer)| layer);
        [&self.defaults, &family.base].into_iter().chain(models).chain(self.overrides.layers(whose(subject))).collect()
    }

    /// What a template sees. A file for anyone is rendered without everything that is somebody's.
    /// `masked`: nor are the passwords that layers set.
    pub(super) fn context(&self, family: &Family, subject: &Subject, readers: Readers, masked: bool) -> Result<Value, Fault> {
        let layered = self.layered(family, subject);
        let zone = self.zone(&layered)?;
        let own = readers == Readers::Own;
        let is_on = |name: &str| layered.get(name).is_some_and(|wanted| wanted.value.is_true());
        let (phone_book, https, trusts) = (is_on("phone_book"), is_on("https"), is_on("trust_server_ca"));
        let (transport, sip_port) = told_transport(&layered, subject)?;
        let secret = |name: &str| name.contains("password") || name.contains("secret");
        let keys = keys::NAMES.map(|name| (name, if subject.bound { keys::seen(name, &layered) } else { Vec::<Value>::new().into() }));
        let mut context: BTreeMap<Arc<str>, Value> = layered
            .into_iter()
            .filter(|(name, _)| own || !secret(name) && !keys::NAMES.contains(&&**name))
            .map(|(name, layered)| match masked && keeps_secret(&name) && is_set(&layered.value) {
                true => (name, Value::from(MASK)),
                false => (name, layered.value),
            })
            .collect();
        let mut put = |name: &str, value: Value| context.insert(Arc::from(name), value);
        put("sip_transport", Value::from(transport));
        put("family", Value::from(&*family.id));
        put("model", Value::from(subject.model.as_deref().unwrap_or_default()));
        let (scheme, address) = subject.server.told(https);
        put("server", server(subject, sip_port, scheme, address));
        let authority = subject.server.authority.as_deref().filter(|_| trusts);
        put("ca", authority.map_or_else(|| Value::from(""), |pem| ca(pem, &format!("{scheme}://{address}"))));
        put("tz", zone);
        // A book for whose phone is somebody's, and where it can be fetched as phones do it.
        let book = subject.contacts.as_ref().filter(|_| own && subject.bound && phone_book);
        put("phone_book", Value::from(book.is_some() && scheme.starts_with("http")));
        if own {
            let none = || Value::from(Vec::<Value>::new());
            put("contacts", book.map_or_else(none, |contacts| contacts.people.clone()));
            put("contact_numbers", book.map_or_else(none, |contacts| contacts.numbers.clone()));
            put("found", book.map_or_else(|| Value::from(()), |contacts| contacts.found.clone()));
            put("page", Value::from(1));
        }
        if own {
            put("bound", Value::from(subject.bound));
            put("file_key", Value::from(subject.file_key.as_ref().map(Secret::expose).unwrap_or_default()));
            put("key_only", Value::from(subject.key_only));
            let due = subject.firmware.as_ref().filter(|due| due.make == family.id);
            put("firmware", due.map_or(Value::from(false), Due::value));
            put("lines", subject.lines.iter().map(line).collect::<Vec<_>>().into());
            // Nobody's phone has nobody's keys.
            for (name, keys) in keys {
                put(name, keys);
            }
            if let Some(mac) = subject.mac {
                put("mac", Value::from(mac.bare()));
                put("MAC", Value::from(mac.bare_upper()));
            }
            // A layer that sets it wins over the site's derived one.
            let unset = context.get("admin_password").is_none_or(|password| password.as_str() == Some(""));
            if let Some(password) = subject.admin_password.as_ref().filter(|_| unset) {
                context.insert(Arc::from("admin_password"), Value::from(password.expose()));
            }
            let code = subject.model.as_deref().and_then(|model| family.code_of(model));
            context.insert(Arc::from("model_code"), code.map_or_else(|| Value::from(""), |code| Value::from(format!("{code:012}"))));
        }
        Ok(Value::from_pairs(context.into_iter().map(|(name, value)| (Value::from(name), value))))
    }

    fn zone(&self, layered: &LayerMap) -> Result<Value, Fault> {
        let Some(set) = layered.get("timezone") else { return Ok(Value::from(())) };
        let name = set.value.as_str().unwrap_or_default();
        match self.zones.get(name) {
            Some((_, zone)) => Ok(zone.clone()),
            None => {
                let unknown = fault(&set.origin.file, set.origin.line, 0, format!("there is no time zone '{name}'"));
                let known = self.zones.keys().map(String::as_str);
                Err(unknown.suggest(name, known, "write it as in timezones.yaml: Europe/Berlin"))
            }
        }
    }

    /// What can only be seen with all families at hand, and by rendering.
    fn check(&self, overrides_file: &str, faults: &mut Vec<Fault>) {
        let names: BTreeSet<&str> = self.families.values().flat_map(|family| family.base.keys().map(|name| &**name)).collect();
        let names: Vec<_> = names.into_iter().collect();
        let families: Vec<_> = self.families.keys().map(String::as_str).collect();
        self.overrides.check(overrides_file, &names, &families, faults);
        for make in self.firmware.pins.iter().map(|pin| &*pin.make).filter(|make| !families.contains(make)) {
            let unknown = fault(firmware::FILE, 0, 0, format!("there is no family '{make}'"));
            faults.push(unknown.suggest(make, families.iter().copied(), ""));
        }
        let layers: Vec<_> = self.overrides.variables().chain(self.families.values().map(|family| &family.base)).collect();
        faults.extend(layers.iter().filter_map(|layer| self.zone(layer).err()));
        faults.extend(layers.iter().filter_map(|layer| transport(layer).err()));
        self.check_patterns(faults);
        if !faults.is_empty() {
            return; // A sample would only say the same again.
        }
        let mut seen = BTreeSet::new();
        for family in self.families.values() {
            for subject in sample::subjects(family) {
                let failed = self.try_sample(family, &subject);
                faults.extend(failed.into_iter().filter(|fault| seen.insert(fault.to_string())));
            }
        }
    }

    /// Everything that the sample phone would be told. What its templates see is gathered once: this is most of a start.
    fn try_sample(&self, family: &Family, subject: &Subject) -> Vec<Fault> {
        let seen_by = |readers| self.context(family, subject, readers, false);
        let (anyone, own) = match (seen_by(Readers::Anyone), seen_by(Readers::Own)) {
            (Ok(anyone), Ok(own)) => (anyone, own),
            (Err(fault), _) | (_, Err(fault)) => return vec![fault],
        };
        let by_ipv6 = self.dhcp6_options(&family.id, &sample::by_ipv6(subject)).map(drop);
        let mut tried = vec![family.dhcp_options(&anyone).map(drop), by_ipv6, family.pnp_url(&anyone).map(drop)];
        tried.push(family.link(&anyone, "http://192.0.2.1:8080/l/sample", "sample", "1001").map(drop));
        for file in self.files(&family.id, subject) {
            let Some(entry) = family.files.get(file.index) else { continue };
            let context = if entry.readers == Readers::Own { &own } else { &anyone };
            let rendered = family.file(entry, file.page, subject, context.clone());
            tried.push(rendered.and_then(|rendered| family.check_sample(&file, &rendered, subject)));
        }
        tried.into_iter().filter_map(Result::err).collect()
    }

    /// A common file's name must not cover names that are some phone's own.
    fn check_patterns(&self, faults: &mut Vec<Fault>) {
        for family in self.families.values() {
            for common in family.files.iter().filter(|file| file.readers == Readers::Anyone) {
                let own = self.families.values().flat_map(|family| family.files.iter()).filter(|file| file.readers == Readers::Own);
                for own in own.filter(|own| own.pattern.names_mac) {
                    let name = own.pattern.expand(Some(sample::MAC), Some("x"), Some(1)).unwrap_or_default();
                    if common.pattern.captures(&name).is_some() && !family.files.iter().any(|f| std::ptr::eq(f, own)) {
                        let place = family.places.get(&common.template);
                        let (origin, line) = place.map_or((&*family.id, 0), |place| (&*place.origin, place.first_line));
                        let message =
                            format!("'{}' is for anyone and also covers '{}' of another phone", common.pattern.text, own.pattern.text);
                        faults.push(fault(origin, line, 0, message).hint("choose a name that cannot hold a MAC address"));
                    }
                }
            }
        }
    }
}

/// Families that are not wholly as shipped.
fn foreign(sources: &[Source]) -> BTreeSet<&str> {
    let shipped = loader::shipped();
    let as_shipped = |source: &Source| shipped.iter().any(|ours| ours.name == source.name && ours.text == source.text);
    let changed: Vec<&str> = sources.iter().filter(|source| !as_shipped(source)).map(|source| &*source.name).collect();
    let families = sources.iter().filter_map(|source| source.name.strip_suffix(".yaml"));
    families.filter(|id| changed.iter().any(|name| is_of(name, id))).collect()
}

/// Is this file one of the family's, or one that all families can include?
fn is_of(name: &str, family: &str) -> bool {
    match name.split_once('/') {
        Some((folder, _)) => folder == family,
        None => name.ends_with(".j2") || name.strip_suffix(".yaml") == Some(family),
    }
}

fn whose(subject: &Subject) -> Whose<'_> {
    let extension = subject.lines.first().and_then(|line| line.extension.as_ref());
    Whose {
        mac: subject.mac,
        address: subject.address,
        user_id: subject.user_id.as_deref(),
        extension: extension.map(|extension| extension.as_str()),
        inventory: Some(&subject.inventory),
    }
}

/// `admin_password` does; `admin_password_setting` says only how a make calls it.
fn keeps_secret(name: &str) -> bool {
    name.ends_with("password") || name.ends_with("secret")
}

/// Text or a number: a switch that is called so is no secret.
fn is_set(value: &Value) -> bool {
    value.kind() == ValueKind::Number || value.as_str().is_some_and(|text| !text.is_empty())
}

impl std::fmt::Debug for TemplateSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.families.keys()).finish()
    }
}

/// Shows the line of a fault and the place in it: the words that its message quotes, or where the line begins.
fn point(fault: &mut Fault, sources: &[Source]) {
    let source = sources.iter().find(|source| source.origin == fault.file);
    let line = fault.line.checked_sub(1).and_then(|above| source?.text.lines().nth(above as usize));
    let Some(line) = line else { return };
    if fault.column == 0 {
        let quoted = fault.message.split('\'').nth(1).filter(|quoted| !quoted.is_empty());
        let at = quoted.and_then(|quoted| line.find(quoted)).unwrap_or(line.len() - line.trim_start().len());
        fault.column = line[..at].chars().count() as u64 + 1;
    }
    fault.source.get_or_insert_with(|| line.to_owned());
}

fn keep<T>(result: Result<T, Fault>, faults: &mut Vec<Fault>) -> Option<T> {
    result.map_err(|fault| faults.push(fault)).ok()
}

fn load_zones(source: Option<&Source>, faults: &mut Vec<Fault>) -> BTreeMap<String, (String, Value)> {
    let Some(source) = source else { return BTreeMap::new() };
    let Some(written) = keep(read_untyped::<ZonesFile>(&source.origin, &source.text), faults) else { return BTreeMap::new() };
    let mut zones = BTreeMap::new();
    for (name, posix) in written {
        match Zone::parse(&posix) {
            Some(zone) => {
                let value = zone_value(&name, &posix, &zone);
                zones.insert(name, (posix, value));
            }
            None => faults.push(fault(
                &source.origin,
                0,
                0,
                format!("{name}: '{posix}' is not a POSIX time zone as CET-1CEST,M3.5.0,M10.5.0/3"),
            )),
        }
    }
    zones
}

fn zone_value(name: &str, posix: &str, zone: &Zone) -> Value {
    let rule = |rule: &Rule| {
        Value::from_pairs([
            ("month", rule.month as i64),
            ("week", rule.week as i64),
            ("weekday", rule.weekday as i64),
            ("hour", rule.secs as i64 / 3600),
        ])
    };
    let mut value = BTreeMap::from([
        ("name", Value::from(name)),
        ("posix", Value::from(posix)),
        ("offset_secs", Value::from(zone.offset_secs)),
        ("has_dst", Value::from(zone.daylight.is_some())),
    ]);
    if let Some(daylight) = &zone.daylight {
        value.insert("dst_start", rule(&daylight.start));
        value.insert("dst_stop", rule(&daylight.stop));
        value.insert("dst_offset_secs", Value::from(daylight.offset_secs));
    }
    Value::from_pairs(value)
}

/// Where phones fetch the certificate of the authority that they must believe: in PEM, and in DER.
pub const AUTHORITY_FILE: &str = "ca.crt";
pub const AUTHORITY_FILE_DER: &str = "ca.der";

/// The transport for SIP that this phone is told, and its port: as the layers wish, where its make has a word for it (in `transports`)
/// and the server speaks it.
fn told_transport(layers: &LayerMap, subject: &Subject) -> Result<(&'static str, u16), Fault> {
    let wanted = transport(layers)?;
    let words = layers.get("transports").map(|words| &words.value);
    let speaks = |transport: &str| words.is_none_or(|words| words.get_attr(transport).is_ok_and(|word| !word.is_undefined()));
    Ok(subject.server.sip.told(wanted, speaks))
}

/// The one that is wished for.
fn transport(layers: &LayerMap) -> Result<&str, Fault> {
    let Some(set) = layers.get("sip_transport") else { return Ok("udp") };
    match set.value.as_str() {
        Some(wanted) if SipPorts::TRANSPORTS.contains(&wanted) => Ok(wanted),
        _ => {
            let unknown = fault(&set.origin.file, set.origin.line, 0, format!("`sip_transport` is '{}', which is none", set.value));
            Err(unknown.suggest(&set.value.to_string(), SipPorts::TRANSPORTS, "write udp, tcp or tls"))
        }
    }
}

fn server(subject: &Subject, sip_port: u16, scheme: &str, address: &str) -> Value {
    let server = &subject.server;
    Value::from_pairs([
        ("host", Value::from(&server.host)),
        ("sip_port", Value::from(sip_port)),
        ("url", Value::from(format!("{scheme}://{address}"))),
        ("address", Value::from(address)),
        ("scheme", Value::from(scheme)),
        ("realm", Value::from(&server.realm)),
    ])
}

/// The authority that a phone is to believe: its text, line by line for grammars that have none in a value, and where it is fetched.
fn ca(pem: &str, url: &str) -> Value {
    Value::from_pairs([
        ("lines", Value::from(pem.lines().map(Value::from).collect::<Vec<_>>())),
        ("file", Value::from(AUTHORITY_FILE)),
        ("url", Value::from(format!("{url}/{AUTHORITY_FILE}"))),
        ("der_url", Value::from(format!("{url}/{AUTHORITY_FILE_DER}"))),
    ])
}

fn line(line: &Line) -> Value {
    let extension = line.extension.as_ref().map(|extension| extension.as_str()).unwrap_or_default();
    Value::from_pairs([
        ("number", Value::from(line.number)),
        ("user", Value::from(&line.user)),
        ("auth_user", Value::from(&line.auth_user)),
        ("secret", Value::from(line.secret.expose())),
        ("display_name", Value::from(&line.display_name)),
        ("label", Value::from(line.label.as_deref().unwrap_or(if extension.is_empty() { &line.user } else { extension }))),
        ("extension", Value::from(extension)),
        ("bound", Value::from(!extension.is_empty())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::shipped;

    /// The faults of the shipped set with these files in place of, or beside, the shipped ones.
    fn faults(files: &[(&str, &str)]) -> Vec<String> {
        let mut sources = shipped();
        for (name, text) in files {
            sources.retain(|source| source.name != *name);
            sources.push(Source { name: (*name).to_owned(), origin: (*name).to_owned(), text: (*text).to_owned() });
        }
        let faults = TemplateSet::load(&sources).err().unwrap_or_default();
        let told = |fault: Fault| {
            format!("{}:{}: {}{}", fault.file, fault.line, fault.message, fault.hint.map(|h| format!(" ({h})")).unwrap_or_default())
        };
        faults.into_iter().map(told).collect()
    }

    fn acme(files: &str) -> String {
        format!("name: Acme\nreload: {{ soft: check-sync, hard: check-sync }}\nfiles:\n{files}")
    }

    #[test]
    fn faults_name_file_line_word_and_remedy() {
        let body = |name: &str, more: &str, body: &str| {
            acme(&format!("  - name: \"{name}\"\n    grammar: xml\n{more}    body: |\n      <a>\n      {body}\n      </a>\n"))
        };
        let mut wrong = Vec::new();
        let anyone = "    readers: anyone\n";
        for (story, text, told) in [
            (
                "a misspelt key",
                acme("  - name: a.xml\n    gramar: xml\n"),
                "acme.yaml:5: there is no setting 'gramar' here (did you mean 'grammar'?)",
            ),
            (
                "a misspelt variable",
                body("acme{mac}.xml", "", "{{ ntp_servr }}"),
                "acme.yaml:8: 'ntp_servr' has no value (did you mean 'ntp_server'?)",
            ),
            (
                "a part that is not there",
                body("acme{mac}.xml", "", "{{ server.hots }}"),
                "acme.yaml:8: 'server.hots' has no value (did you mean 'host'?)",
            ),
            (
                "a part that nothing is near to",
                body("acme{mac}.xml", "", "{{ server.password }}"),
                "acme.yaml:8: 'server.password' has no value ('server' is there, but not that part of it)",
            ),
            (
                "a part of a line",
                body("acme{mac}.xml", "", "{% for line in lines %}{{ line.auth_usr }}{% endfor %}"),
                "acme.yaml:8: 'line.auth_usr' has no value (did you mean 'auth_user'?)",
            ),
            ("a syntax error", body("acme{mac}.xml", "", "{% if %}"), "acme.yaml:8: syntax error: unexpected end of block"),
            (
                "a secret for everybody",
                body("acme.xml", anyone, "{{ lines[0].secret }}"),
                "acme.yaml:9: 'lines[0]' has no value (only files with `readers: own` have 'lines')",
            ),
            (
                "a password for everybody",
                body("acme.xml", anyone, "{{ admin_password }}"),
                "acme.yaml:9: 'admin_password' has no value (only files with `readers: own` have 'admin_password')",
            ),
            (
                "somebody's file for everybody",
                body("acme{mac}.xml", anyone, "x"),
                "acme.yaml:4: 'acme{mac}.xml' is one phone's file: it cannot be read by anyone",
            ),
            ("XML that is none", body("acme{mac}.xml", "", "<b>"), "acme.yaml:7: acme025"),
            (
                "no end",
                body("acme{mac}.xml", "", "{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}"),
                "acme.yaml:8: takes too long: it loops without end or nearly so",
            ),
            (
                "a wrong place",
                body("{mca}.xml", "", "x"),
                "acme.yaml:4: '{mca}.xml' has a place that is not known; known are {mac}, {MAC}, {model}, {model_code}",
            ),
            (
                "a name that covers others",
                body("cfg{model}.xml", anyone, "x"),
                "acme.yaml:8: 'cfg{model}.xml' is for anyone and also covers 'cfg{mac}.xml' of another phone (choose a name that cannot hold a MAC address)",
            ),
            ("no account in the account", body("acme{mac}.xml", "    account: true\n", "x"), "acme.yaml:8: acme025"),
            (
                "no template",
                acme("  - name: a.xml\n    grammar: xml\n    template: acme/b.j2\n"),
                "acme.yaml:6: there is no template file 'acme/b.j2'",
            ),
        ] {
            let found = faults(&[("acme.yaml", &text)]);
            if !found.first().is_some_and(|fault| fault.starts_with(told)) {
                wrong.push(format!("{story}: {found:#?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let sibling = acme("  - name: \"acme{mac}.xml\"\n    grammar: xml\n    template: acme/a.xml.j2\n");
        let found = faults(&[("acme.yaml", &sibling), ("acme/a.xml.j2", "<a>\n\n{{ nothing }}</a>\n")]);
        assert_eq!(found, ["acme/a.xml.j2:3: 'nothing' has no value"]);
    }

    #[test]
    fn what_takes_memory_of_its_own_is_few_and_small() {
        let marks = |agents: &str| {
            format!("name: Acme\nrecognise:\n  user_agents: [{agents}]\nfiles: []\nreload: {{ soft: check-sync, hard: check-sync }}\n")
        };
        for (story, text, told) in [
            (
                "short and huge",
                marks("'(((a{1000}){1000}){1000})'"),
                "acme.yaml:3: the expression for the User-Agent is wrong: it takes more than 128 KB",
            ),
            ("too many", marks(&vec!["'a'"; 65].join(", ")), "acme.yaml:0: `recognise` has more than 64 vendor classes or user agents"),
        ] {
            let found = faults(&[("acme.yaml", &text)]);
            assert!(found.iter().any(|fault| fault.starts_with(told)), "{story}: {found:#?}");
        }
        let names: Vec<String> = (0..FAMILIES_MAX).map(|n| format!("acme{n}.yaml")).collect();
        let text = marks("");
        let many: Vec<(&str, &str)> = names.iter().map(|name| (&**name, &*text)).collect();
        let found = faults(&many);
        assert!(found.iter().any(|fault| fault.contains("there are more than 200 families")), "{found:#?}");
    }

    #[test]
    fn faults_show_the_line_and_the_place_in_it() {
        let load = |name: &str, text: &str| {
            let mut sources = shipped();
            sources.retain(|source| source.name != name);
            sources.push(Source { name: name.into(), origin: name.into(), text: text.into() });
            let faults = TemplateSet::load(&sources).err().unwrap_or_default();
            faults.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let misspelt = "sites:\n  all:\n    variables:\n      langauge: de\n";
        let told =
            "o.yaml:4:7: no template reads a variable 'langauge'\n          langauge: de\n          ^\n    hint: did you mean 'language'?";
        assert_eq!(load(OVERRIDES, misspelt), [told.replace("o.yaml", OVERRIDES)]);
        let unknown = "devices:\n  \"00:15:65:00:00:01\": { family: yaelink }\n";
        assert!(load(OVERRIDES, unknown)[0].starts_with("overrides.yaml:2:34: "), "{:?}", load(OVERRIDES, unknown));
        let word = "#!version:1.0.0.1\naccount.1.label = {{ labl }}\n";
        assert!(load("yealink/account.cfg.j2", word)[0].starts_with("yealink/account.cfg.j2:2:22: 'labl' has no value\n"));
        // One fault, not one more for each file that the family would have used.
        assert_eq!(load("yealink.yaml", "name: Yealink\nfiels: []\n").len(), 1);
    }

    #[test]
    fn overrides_are_checked_too() {
        let with = |text: &str| faults(&[("overrides.yaml", text)]);
        for (text, told) in [
            ("sites:\n  a:\n    variables:\n      timezone: Europe/Berln\n", "did you mean"),
            ("devices:\n  \"00:15\":\n    model: x\n", "is not a MAC address"),
            ("devices:\n  \"00:15:65:00:00:01\":\n    family: yaelink\n", "(did you mean 'yealink'?)"),
            ("sites:\n  a:\n    subnets: [10.0.0]\n", "overrides.yaml:3"),
        ] {
            let found = with(text);
            assert!(found.iter().any(|fault| fault.contains(told)), "{text}: {found:?}");
        }
    }

    #[test]
    fn the_nearest_layer_wins_and_says_so() {
        let overrides = "sites:\n  all: { subnets: [10.0.0.0/8], variables: { language: de, codecs: [pcma] } }\n  here: { subnets: [10.1.0.0/16], variables: { language: fr } }\ngroups:\n  g: { members: [\"2041\"], variables: { poll_minutes: 7 } }\nusers:\n  \"2041\": { poll_minutes: 8 }\ndevices:\n  \"001565000001\":\n    variables: { ntp_server: 10.0.0.1 }\n";
        let mut sources = shipped();
        sources.retain(|source| source.name != OVERRIDES);
        sources.push(Source { name: OVERRIDES.into(), origin: OVERRIDES.into(), text: overrides.into() });
        let set = TemplateSet::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}"));
        let mut subject = sample::subjects(&set.families["yealink"]).pop().unwrap();
        subject.mac = "001565000001".parse().ok();
        subject.address = "10.1.2.3".parse().ok();
        let variables = set.variables("yealink", &subject);
        let told = |name: &str| format!("{} ({})", variables[name].value, variables[name].origin);
        assert_eq!(told("language"), "fr (site, overrides.yaml:3)");
        assert_eq!(told("poll_minutes"), "8 (user, overrides.yaml:7)");
        assert_eq!(told("ntp_server"), "10.0.0.1 (device, overrides.yaml:10)");
        assert!(told("transports").contains("(family, yealink.yaml (shipped):"));
        assert!(told("sip_dscp").starts_with("26 (defaults, defaults.yaml (shipped):"));
        subject.address = "10.2.2.3".parse().ok();
        let variables = set.variables("yealink", &subject);
        assert_eq!(variables["language"].value.as_str(), Some("de"), "the wider subnet");
    }

    #[test]
    fn options_that_are_remembered_are_those_of_the_place_and_of_the_phone() {
        let overrides = "sites:\n  here: { subnets: [10.1.0.0/16], variables: { vlan_id: 20 } }\ndevices:\n  \"001565000009\": { variables: { vlan_id: 30 } }\n";
        let mut sources = shipped();
        sources.retain(|source| source.name != OVERRIDES);
        sources.push(Source { name: OVERRIDES.into(), origin: OVERRIDES.into(), text: overrides.into() });
        let set = TemplateSet::load(&sources).unwrap_or_else(|faults| panic!("{faults:?}"));
        let mut subject = sample::subjects(&set.families["yealink"]).remove(0);
        let mut told = |mac: &str, address: &str, url: &str| {
            (subject.mac, subject.address, subject.server.url) = (mac.parse().ok(), address.parse().ok(), url.into());
            set.dhcp_options("yealink", &subject).expect("rendered")
        };
        let vlan = |options: &[DhcpOption]| options.iter().find(|option| option.code == 132).map(|option| option.value.clone());
        let text = |text: &str| Some(options::DhcpValue::Text(text.into()));
        let here = told("001565000001", "10.1.0.1", "http://10.0.0.2");
        assert!(Arc::ptr_eq(&here, &told("001565000002", "10.1.0.2", "http://10.0.0.2")), "rendered once for both");
        assert_eq!(vlan(&here), text("20"));
        assert_eq!(vlan(&told("001565000009", "10.1.0.3", "http://10.0.0.2")), text("30"), "its own");
        assert_ne!(vlan(&told("001565000001", "10.2.0.1", "http://10.0.0.2")), text("20"), "elsewhere");
        let (key, other_key) = ("http://10.0.0.2/t/1", "http://10.0.0.2/t/2");
        assert_ne!(told("001565000001", "10.1.0.1", key), told("001565000002", "10.1.0.2", other_key), "each has its key");
    }
}
