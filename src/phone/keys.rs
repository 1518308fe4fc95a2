//! What the keys of a phone and of its side-cars do, read from the values that its files gave, as each make writes them.
//!
//! Not here: how the values are read (`settings.rs`), and lamps (`desk.rs` watches nothing).

use super::settings::Values;

/// What a key of the phone, or of a side-car, does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyUse {
    /// The line with this number.
    Line(u8),
    /// Shows the lamp of a number and dials it; while it rings there, what is dialled before it.
    Lamp { number: String, pickup: String },
    /// Dials.
    Dial(String),
}

/// A key as the phone has it. Positions count from 1; those of side-cars apart, unless the make counts on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub side_car: Option<u8>,
    pub position: u16,
    pub label: String,
    pub does: KeyUse,
}

/// Side-cars that a phone may have, and keys that are looked for on each and on the phone itself.
const SIDE_CARS: u8 = 6;
const KEYS: u16 = 100;

/// The keys that the files describe, in order; empty ones are left out.
pub fn read(family: &str, values: &Values) -> Vec<Key> {
    let written = Written(values);
    match family {
        "yealink" => written.yealink(),
        "poly" if written.is("lineKey.reassignment.enabled", "1") => written.poly(),
        "grandstream" => written.grandstream(),
        "snom" => written.snom(),
        "cisco_mpp" => written.flat_profile("_"),
        "cisco_spa" => written.flat_profile(""),
        "fanvil" => written.fanvil(),
        "mitel" => written.mitel(),
        "htek" => written.htek(),
        "digium" => written.digium(),
        "panasonic" => written.panasonic(),
        "avaya_j" => written.avaya(),
        "cisco_79xx" => written.cisco_device(),
        _ => Vec::new(),
    }
}

/// The values, asked for by names that are made up of parts.
struct Written<'a>(&'a Values);

impl Written<'_> {
    fn get(&self, name: impl AsRef<str>) -> &str {
        self.0.get(name.as_ref()).map(String::as_str).unwrap_or_default()
    }

    fn is(&self, name: &str, value: &str) -> bool {
        self.get(name) == value
    }

    fn number(&self, name: impl AsRef<str>) -> Option<u16> {
        self.get(name).parse().ok()
    }

    fn yealink(&self) -> Vec<Key> {
        let own = (1..=KEYS).map(|key| (None, key, format!("linekey.{key}")));
        let side_cars = on_side_cars(|car, key| format!("expansion_module.{car}.key.{key}"));
        let key = |(side_car, position, prefix): (Option<u8>, u16, String)| {
            let value = self.get(format!("{prefix}.value")).to_owned();
            let does = match self.number(format!("{prefix}.type"))? {
                15 => KeyUse::Line(self.number(format!("{prefix}.line")).unwrap_or(position) as u8),
                16 => KeyUse::Lamp { number: value, pickup: self.get(format!("{prefix}.pickup_value")).into() },
                13 => KeyUse::Dial(value),
                _ => return None,
            };
            Some(Key { side_car, position, label: self.get(format!("{prefix}.label")).into(), does })
        };
        own.chain(side_cars).filter_map(key).collect()
    }

    fn poly(&self) -> Vec<Key> {
        let mut lamps = 0;
        let mut key = |position: u16| {
            let index = self.number(format!("lineKey.{position}.index")).unwrap_or_default();
            let (label, does) = match self.get(format!("lineKey.{position}.category")) {
                "Line" => ("", KeyUse::Line(index as u8)),
                "BLF" => {
                    // Lamps are taken from the list in their order.
                    lamps += 1;
                    let number = self.get(format!("attendant.resourceList.{lamps}.address")).into();
                    let pickup = self.get("call.directedCallPickupString").into();
                    (self.get(format!("attendant.resourceList.{lamps}.label")), KeyUse::Lamp { number, pickup })
                }
                "SpeedDial" => (self.get(format!("directory.{index}.fn")), KeyUse::Dial(self.get(format!("directory.{index}.ct")).into())),
                _ => return None,
            };
            Some(Key { side_car: None, position, label: label.into(), does })
        };
        (1..=2 * KEYS).filter_map(&mut key).collect()
    }

    fn grandstream(&self) -> Vec<Key> {
        // (side-car, position, mode, account; label and number follow), and what the modes are.
        let beside = (0..6).map(|n| (None, n + 1, 1363 + 2 * n, 1364 + 2 * n, 1465 + 2 * n, [0, 10, 11]));
        let side_car = (0..160).map(|n| (Some(1), n + 1, 23000 + 5 * n, 23001 + 5 * n, 23002 + 5 * n, [99, 0, 1]));
        let key = |(side_car, position, mode, account, label, [line, dial, lamp]): (Option<u8>, u16, u16, u16, u16, [u16; 3])| {
            let value = self.get(format!("P{}", label + 1)).to_owned();
            let does = match self.number(format!("P{mode}"))? {
                mode if mode == line => KeyUse::Line(self.number(format!("P{account}")).unwrap_or_default() as u8 + 1),
                mode if mode == dial => KeyUse::Dial(value),
                mode if mode == lamp => KeyUse::Lamp { number: value, pickup: self.get("P1347").into() },
                _ => return None,
            };
            Some(Key { side_car, position, label: self.get(format!("P{label}")).into(), does })
        };
        beside.chain(side_car).filter_map(key).collect()
    }

    /// A word and what belongs to it: `blf 2042|**`, `speed *97`, `line`.
    fn snom(&self) -> Vec<Key> {
        let key = |position: u16| {
            let name = format!("functionKeys.fkey.{}", position - 1);
            let (kind, rest) = self.get(&name).split_once(' ').unwrap_or((self.get(&name), ""));
            let does = match kind {
                "line" => KeyUse::Line(self.number(format!("{name}.context"))? as u8),
                "blf" => {
                    let (number, pickup) = rest.split_once('|').unwrap_or((rest, ""));
                    KeyUse::Lamp { number: number.into(), pickup: pickup.into() }
                }
                "speed" => KeyUse::Dial(rest.into()),
                _ => return None,
            };
            Some(Key { side_car: None, position, label: self.get(format!("{name}.label")).into(), does })
        };
        (1..=2 * KEYS).filter_map(key).collect()
    }

    /// `end` is behind the name of a side-car's key.
    fn flat_profile(&self, end: &str) -> Vec<Key> {
        // `fnc=sd+blf+cp;sub=2042@$PROXY;nme=Bob`: what it can, whom it is about, and what it is called.
        let function = |text: &str| {
            let part = |name: &str| text.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
            let number = part("sub").or(part("ext"))?;
            let number = number.strip_suffix("@$PROXY").unwrap_or(&number).to_owned();
            let pickup = self.get("Attendant_Console_Call_Pickup_Code").trim_end_matches('#').to_owned();
            let watches = part("fnc")?.split('+').any(|function| function == "blf");
            let does = if watches { KeyUse::Lamp { number, pickup } } else { KeyUse::Dial(number) };
            Some((part("nme").unwrap_or_default(), does))
        };
        let own = (1..=KEYS).filter_map(|position| {
            let line = self.get(format!("Extension_{position}_"));
            let (label, does) = match line.parse() {
                Ok(line) => (self.get(format!("Short_Name_{position}_")).to_owned(), KeyUse::Line(line)),
                Err(_) => function(self.get(format!("Extended_Function_{position}_")))?,
            };
            Some(Key { side_car: None, position, label, does })
        });
        let side_cars = on_side_cars(|car, key| format!("Unit_{car}_Key_{key}{end}")).filter_map(|(side_car, position, name)| {
            let (label, does) = function(self.get(name))?;
            Some(Key { side_car, position, label, does })
        });
        own.chain(side_cars).collect()
    }

    /// Pages of keys beside the display, pages of keys in it, pages of side-cars; the model says which it has.
    fn fanvil(&self) -> Vec<Key> {
        let pages = |kind: &'static str, key: &'static str| {
            (1..=10).flat_map(move |page| (1..=KEYS).map(move |at| (page, at, format!("dsskey.{kind}.{page}.{key}.{at}"))))
        };
        let key = |name: &str| {
            let value = self.get(format!("{name}.Value"));
            let does = match self.get(format!("{name}.Type")) {
                "2" => KeyUse::Line(value.strip_prefix("SIP")?.parse().ok()?),
                "1" => {
                    let (number, function) = value.split_once('@')?;
                    match function.split_once('/')?.1 {
                        "f" => KeyUse::Dial(number.into()),
                        // What is dialled while it rings there is written out.
                        function => {
                            let pickup = function.strip_prefix("ba")?;
                            KeyUse::Lamp { number: number.into(), pickup: pickup.strip_suffix(number).unwrap_or(pickup).into() }
                        }
                    }
                }
                _ => return None,
            };
            Some((self.get(format!("{name}.Title")).to_owned(), does))
        };
        // Positions count on over the pages that there are.
        let own =
            pages("dssSide", "Fkey").chain(pages("internal", "Fkey")).filter(|(_, _, name)| !self.get(format!("{name}.Type")).is_empty());
        let own = own.zip(1..).filter_map(|((_, _, name), position)| {
            let (label, does) = key(&name)?;
            Some(Key { side_car: None, position, label, does })
        });
        let side_cars = pages("external", "exKey").filter_map(|(car, position, name)| {
            let (label, does) = key(&name)?;
            Some(Key { side_car: Some(car), position, label, does })
        });
        own.chain(side_cars).collect()
    }

    fn mitel(&self) -> Vec<Key> {
        let own = ["prgkey", "topsoftkey", "softkey"].into_iter().flat_map(|kind| (1..=KEYS).map(move |key| format!("{kind}{key}")));
        let own = own.filter(|name| !self.get(format!("{name} type")).is_empty()).zip(1..).map(|(name, position)| (None, position, name));
        let side_cars = on_side_cars(|car, key| format!("expmod{car} key{key}"));
        let key = |(side_car, position, name): (Option<u8>, u16, String)| {
            let value = self.get(format!("{name} value")).to_owned();
            let does = match self.get(format!("{name} type")) {
                "line" => KeyUse::Line(self.number(format!("{name} line"))? as u8),
                "blf" => KeyUse::Lamp { number: value, pickup: self.get("directed call pickup prefix").into() },
                "speeddial" => KeyUse::Dial(value),
                _ => return None,
            };
            Some(Key { side_car, position, label: self.get(format!("{name} label")).into(), does })
        };
        own.chain(side_cars).filter_map(key).collect()
    }

    /// Numbers of settings; the first four keys have theirs a hundred apart, the others five by five.
    fn htek(&self) -> Vec<Key> {
        let key = |position: u16| {
            let n = position - 1;
            let (first, step) = if n < 4 { (41200 + n, 100) } else { (20200 + 5 * (n - 4), 1) };
            let get = |part: u16| self.get(format!("config.P{}", first + part * step)).to_owned();
            let does = match &*get(0) {
                "1" => KeyUse::Line(1),
                "2" => KeyUse::Dial(get(1)),
                "3" => KeyUse::Lamp { number: get(1), pickup: get(4) },
                _ => return None,
            };
            Some(Key { side_car: None, position, label: get(2), does })
        };
        (1..=36).filter_map(key).collect()
    }

    /// A key is a contact in a place; who is to be watched is told by the contact. Lines take the first keys by themselves.
    fn digium(&self) -> Vec<Key> {
        let key = |index: u16| {
            let contact = self.get(format!("smart_blf.blf_items.blf_item.{index}.contact_id"));
            let name = format!("contacts.keys.contact.{contact}");
            let number = self.get(format!("{name}.actions.action.primary.dial")).to_owned();
            let watches = !self.get(format!("{name}.subscribe_to")).is_empty();
            let does = if watches { KeyUse::Lamp { number, pickup: String::new() } } else { KeyUse::Dial(number) };
            let label = self.get(format!("{name}.last_name")).to_owned();
            (!contact.is_empty()).then_some(Key { side_car: None, position: index + 1, label, does })
        };
        let lines = (0..6).filter(|index| self.get(format!("accounts.account.{index}.register")) == "1");
        let lines = lines.map(|index| {
            let label = self.get(format!("accounts.account.{index}.line_label")).to_owned();
            Key { side_car: None, position: index + 1, label, does: KeyUse::Line(index as u8 + 1) }
        });
        let keys: Vec<Key> = (0..KEYS).filter_map(key).collect();
        // Who has no keys has lines all the same, which are nobody's settings.
        if keys.is_empty() { keys } else { lines.chain(keys).collect() }
    }

    fn panasonic(&self) -> Vec<Key> {
        let key = |side_car: Option<u8>, position: u16| {
            let kind = if side_car.is_some() { "DSS" } else { "FLEX" };
            let part = |name: &str| self.get(format!("{kind}_BUTTON_{name}{position}")).to_owned();
            let does = match part("FACILITY_ACT").strip_prefix("X_PANASONIC_IPTEL_")? {
                "LINE" | "DN" => KeyUse::Line(part("FACILITY_ARG").parse().ok()?),
                "BLF" | "CONTACT" => KeyUse::Lamp { number: part("FACILITY_ARG"), pickup: self.get("NUM_PLAN_PICKUP_DIRECT").into() },
                "ONETOUCH" => KeyUse::Dial(part("QUICK_DIAL")),
                _ => return None,
            };
            Some(Key { side_car, position, label: part("LABEL"), does })
        };
        let own = (1..=KEYS).filter_map(|position| key(None, position));
        own.chain((1..=2 * KEYS).filter_map(|position| key(Some(1), position))).collect()
    }

    /// All keys are settings of one name; the reader of lines puts the number of each behind it.
    fn avaya(&self) -> Vec<Key> {
        let key = |position: u16| {
            let text = self.get(format!("PHONEKEY.{position}"));
            let part = |name: &str| text.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')).unwrap_or_default();
            let does = match part("Type") {
                "line" => KeyUse::Line(part("attr1").parse().ok()?),
                "feature" if part("Name") == "blf" => KeyUse::Lamp { number: part("attr1").into(), pickup: String::new() },
                "autodial" => KeyUse::Dial(part("attr1").into()),
                _ => return None,
            };
            // What is behind the phone's own 24 is on its side-cars.
            let side_car = (position > 24).then_some(1);
            Some(Key { side_car, position: if side_car.is_some() { position - 24 } else { position }, label: part("Label").into(), does })
        };
        (1..=96).filter_map(key).collect()
    }

    /// A button of a feature: 9 is a line, 21 a number with a lamp, 2 one without.
    fn cisco_device(&self) -> Vec<Key> {
        let mut lines = 0;
        let mut key = |position: u16| {
            let part = |name: &str| self.get(format!("sipProfile.sipLines.line.{position}.{name}")).to_owned();
            let does = match &*part("featureID") {
                "9" => {
                    lines += 1;
                    KeyUse::Line(lines)
                }
                "21" => KeyUse::Lamp { number: part("speedDialNumber"), pickup: String::new() },
                "2" => KeyUse::Dial(part("speedDialNumber")),
                _ => return None,
            };
            Some(Key { side_car: None, position, label: part("featureLabel"), does })
        };
        (1..=KEYS).filter_map(&mut key).collect()
    }
}

/// A name for each key that a side-car may have.
fn on_side_cars(name: impl Fn(u8, u16) -> String) -> impl Iterator<Item = (Option<u8>, u16, String)> {
    (1..=SIDE_CARS).flat_map(|car| (1..=KEYS).map(move |key| (car, key))).map(move |(car, key)| (Some(car), key, name(car, key)))
}
