//! Keys of phones and of their side-cars: what people write, how layers change it, what templates see.
//!
//! `keys` in a layer is a list, which stands for all keys, or a map, which changes what the layers below have: a position and
//! what is there from now on, and under `add` what follows the last. Templates see a plain list in which every key says what
//! to dial and whose lamp to show, so that a make that knows lamps and speed dials alone can have them all.

use std::{borrow::Cow, collections::BTreeMap};

use minijinja::Value;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::layers::LayerMap;

/// The variables that hold keys: the phone's own, and those of its side-cars one after the other.
pub(super) const NAMES: [&str; 2] = ["keys", "side_car_keys"];

/// Six side-cars of sixty keys are the most that a make has.
const POSITION_MAX: usize = 400;
const TEXT_MAX: usize = 64;

/// As written: all keys, or what changes.
#[derive(Clone, Debug)]
pub(super) enum Keys {
    All(Vec<Key>),
    Change { at: BTreeMap<usize, Key>, add: Vec<Key> },
}

#[derive(Clone, Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Key {
    #[serde(rename = "type")]
    kind: Kind,
    /// Whom it is about: an extension, a number, a park place.
    #[serde(default, deserialize_with = "number")]
    value: String,
    /// What stands beside it; "" leaves it to the phone, or to the number.
    #[serde(default, deserialize_with = "label")]
    label: String,
    /// The line of the phone that it belongs to.
    #[serde(default = "first", deserialize_with = "line")]
    line: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Line,
    Blf,
    SpeedDial,
    Park,
    Voicemail,
    Intercom,
    GroupPickup,
    None,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Line => "line",
            Self::Blf => "blf",
            Self::SpeedDial => "speed_dial",
            Self::Park => "park",
            Self::Voicemail => "voicemail",
            Self::Intercom => "intercom",
            Self::GroupPickup => "group_pickup",
            Self::None => "none",
        }
    }

    fn wants_value(self) -> bool {
        matches!(self, Self::Blf | Self::SpeedDial | Self::Park | Self::Intercom)
    }
}

fn first() -> u8 {
    1
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "*#+-_.@:".contains(c);
    if text.is_empty() || text.len() > TEXT_MAX || !text.chars().all(fits) {
        return Err(de::Error::custom("a key's value is a number as people dial it, in quotes: \"2042\", \"*97\", \"+4930123\""));
    }
    Ok(text)
}

fn label<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.chars().count() > TEXT_MAX || text.chars().any(char::is_control) {
        return Err(de::Error::custom("a key's label has one line and 64 letters at most"));
    }
    Ok(text)
}

fn line<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    match u8::deserialize(deserializer)? {
        line @ 1..=16 => Ok(line),
        _ => Err(de::Error::custom("a key's line is a number from 1 to 16")),
    }
}

impl Key {
    /// What is wrong with it as a whole.
    fn fault(&self) -> Option<String> {
        let kind = self.kind.name();
        match (self.kind.wants_value(), self.value.is_empty()) {
            (true, true) => Some(format!("a key of type {kind} wants a `value`: the number that it is about")),
            (false, false) => Some(format!("a key of type {kind} has no `value`: leave it out")),
            _ => None,
        }
    }

    fn value(&self) -> Value {
        Value::from_pairs([
            ("type", Value::from(self.kind.name())),
            ("value", Value::from(&self.value)),
            ("label", Value::from(&self.label)),
            ("line", Value::from(self.line)),
        ])
    }
}

/// A key that is whole, with its fault at its own place.
struct Sound(Key);

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = Key::deserialize(deserializer)?;
        key.fault().map_or(Ok(Self(key)), |fault| Err(de::Error::custom(fault)))
    }
}

/// Where a change is made.
enum Place {
    At(usize),
    /// Behind the last.
    Add,
}

impl<'de> Deserialize<'de> for Place {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        match name.parse() {
            Ok(position) if (1..=POSITION_MAX).contains(&position) => Ok(Self::At(position)),
            _ if name == "add" => Ok(Self::Add),
            _ => Err(de::Error::custom(format!("'{name}' is no position of a key: write 1 to {POSITION_MAX}, or `add`"))),
        }
    }
}

impl JsonSchema for Keys {
    fn schema_name() -> Cow<'static, str> {
        "Keys".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let key = generator.subschema_for::<Key>();
        let list = json_schema!({ "type": "array", "items": key, "maxItems": POSITION_MAX });
        json_schema!({
            "description": "all keys as a list, or those that change as a map of positions",
            "oneOf": [
                list,
                { "type": "object", "properties": { "add": list }, "patternProperties": { "^[0-9]{1,3}$": key }, "additionalProperties": false }
            ]
        })
    }
}

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("all keys as a list, or those that change as a map of positions")
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Keys, A::Error> {
                let mut all = Vec::new();
                while let Some(Sound(key)) = seq.next_element()? {
                    all.push(key);
                }
                within(all.len())?;
                Ok(Keys::All(all))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let (mut at, mut add) = (BTreeMap::new(), Vec::new());
                while let Some(place) = map.next_key::<Place>()? {
                    match place {
                        Place::At(position) => {
                            let Sound(key) = map.next_value()?;
                            at.insert(position, key);
                        }
                        Place::Add => {
                            let added: Vec<Sound> = map.next_value()?;
                            add = added.into_iter().map(|Sound(key)| key).collect();
                        }
                    }
                }
                within(add.len())?;
                Ok(Keys::Change { at, add })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

fn within<E: de::Error>(count: usize) -> Result<(), E> {
    if count > POSITION_MAX { Err(E::custom(format!("a phone has {POSITION_MAX} keys at most"))) } else { Ok(()) }
}

impl From<Keys> for Value {
    /// A list for all, a map for a change: as a layer holds it.
    fn from(keys: Keys) -> Self {
        let list = |keys: &[Key]| Value::from_iter(keys.iter().map(Key::value));
        match keys {
            Keys::All(all) => list(&all),
            Keys::Change { at, add } => {
                let places = at.iter().map(|(position, key)| (position.to_string(), key.value()));
                Value::from(places.chain([("add".to_owned(), list(&add))]).collect::<BTreeMap<_, _>>())
            }
        }
    }
}

/// What a layer's `above` makes of the keys below it: a list stands alone, a map changes.
pub(super) fn merge(below: Option<&Value>, above: &Value) -> Value {
    let list = |value: &Value| -> Vec<Value> { value.try_iter().map(Iterator::collect).unwrap_or_default() };
    if above.kind() != minijinja::value::ValueKind::Map {
        return above.clone();
    }
    let empty = Key { kind: Kind::None, value: String::new(), label: String::new(), line: 1 }.value();
    // A map that no list is below changes nothing that is there: the positions between stay empty.
    let below = below.map(|below| merge(None, below));
    let mut keys = below.as_ref().map(list).unwrap_or_default();
    let mut places: Vec<(usize, Value)> = Vec::new();
    for name in list(above) {
        if let Some(position) = name.as_str().and_then(|name| name.parse().ok())
            && let Ok(key) = above.get_item(&name)
        {
            places.push((position, key));
        }
    }
    for (position, key) in places {
        if keys.len() < position {
            keys.resize(position, empty.clone());
        }
        if let Some(slot) = position.checked_sub(1).and_then(|index| keys.get_mut(index)) {
            *slot = key;
        }
    }
    keys.extend(above.get_attr("add").map(|add| list(&add)).unwrap_or_default());
    keys.truncate(POSITION_MAX);
    keys.into()
}

/// The keys as templates see them: numbered, with what to dial and whose lamp to show.
pub(super) fn seen(name: &str, layered: &LayerMap) -> Value {
    let text = |name: &str| layered.get(name).and_then(|layered| layered.value.as_str()).unwrap_or_default().to_owned();
    let (pickup, group_pickup, voicemail, intercom) =
        (text("pickup_code"), text("group_pickup_code"), text("voicemail_number"), text("intercom_code"));
    let each = layered.get("side_car_size").and_then(|size| size.value.as_i64()).unwrap_or(40).clamp(1, 100) as usize;
    let keys = layered.get(name).map(|keys| merge(None, &keys.value)).unwrap_or_else(|| Value::from(Vec::<Value>::new()));
    let numbered = keys.try_iter().into_iter().flatten().enumerate().map(|(index, key)| {
        let part = |name: &str| key.get_attr(name).unwrap_or_default();
        let kind = part("type");
        let value = part("value").to_string();
        let (dial, watch, pickup) = match kind.as_str().unwrap_or_default() {
            "blf" => (value.clone(), value.as_str(), pickup.as_str()),
            // Dialling the place takes the call that waits there.
            "park" => (value.clone(), value.as_str(), ""),
            "speed_dial" => (value.clone(), "", ""),
            "intercom" if !intercom.is_empty() => (format!("{intercom}{value}"), "", ""),
            "group_pickup" => (group_pickup.clone(), "", ""),
            "voicemail" => (voicemail.clone(), "", ""),
            _ => (String::new(), "", ""),
        };
        // Nothing to dial is no key: the office has switched the code off.
        let kind = if dial.is_empty() && kind.as_str() != Some("line") { Value::from("none") } else { kind };
        let label = part("label").to_string();
        let label = if label.is_empty() && kind.as_str() != Some("none") {
            if value.is_empty() { dial.clone() } else { value.clone() }
        } else {
            label
        };
        Value::from_pairs([
            ("position", Value::from(index + 1)),
            ("side_car", Value::from(index / each + 1)),
            ("key", Value::from(index % each + 1)),
            ("type", kind),
            ("value", Value::from(&value)),
            ("label", Value::from(label)),
            ("line", part("line")),
            ("dial", Value::from(dial)),
            ("watch", Value::from(watch)),
            ("pickup", Value::from(pickup)),
        ])
    });
    Value::from_iter(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::schema::Variables;

    fn read(text: &str) -> Value {
        crate::yaml::read_untyped::<Keys>("k.yaml", text).unwrap_or_else(|fault| panic!("{fault}")).into()
    }

    /// `position:type:value` of each.
    fn told(keys: &Value) -> String {
        let one = |key: Value| {
            let part = |name: &str| key.get_attr(name).map(|part| part.to_string()).unwrap_or_default();
            format!("{}={}", part("type"), part("value"))
        };
        keys.try_iter().unwrap().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_list_replaces_and_a_map_changes() {
        let office = "[{type: line}, {type: blf, value: '2042'}, {type: park, value: '701'}]";
        for (story, layers, keys) in [
            ("one layer", &[office][..], "line= blf=2042 park=701"),
            ("a list stands for all", &[office, "[{type: voicemail}]"], "voicemail="),
            ("no key at all", &[office, "[]"], ""),
            ("one position", &[office, "{2: {type: blf, value: '2043'}}"], "line= blf=2043 park=701"),
            ("an empty position", &[office, "{2: {type: none}}"], "line= none= park=701"),
            ("behind the last", &[office, "{5: {type: voicemail}}"], "line= blf=2042 park=701 none= voicemail="),
            ("added", &[office, "{add: [{type: voicemail}]}"], "line= blf=2042 park=701 voicemail="),
            (
                "twice",
                &[office, "{add: [{type: voicemail}]}", "{add: [{type: intercom, value: '7'}], 1: {type: none}}"],
                "none= blf=2042 park=701 voicemail= intercom=7",
            ),
            ("nothing below", &["{2: {type: line}}"], "none= line="),
        ] {
            let mut merged = None;
            for layer in layers {
                merged = Some(merge(merged.as_ref(), &read(layer)));
            }
            assert_eq!(told(&merged.unwrap()), keys, "{story}");
        }
    }

    #[test]
    fn a_wrong_key_is_told_with_its_line() {
        for (text, told) in [
            ("- {type: line}\n- {type: bfl, value: '1'}\n", "k.yaml:2:10: 'bfl' is not possible here"),
            ("- {type: line}\n- {type: blf}\n", "a key of type blf wants a `value`"),
            ("- {type: line, value: '1'}\n", "a key of type line has no `value`"),
            ("- {type: blf, value: '20 42'}\n", "a key's value is a number as people dial it"),
            ("- {type: blf, value: '1', lable: x}\n", "there is no setting 'lable' here"),
            ("- {type: blf, value: '1', label: \"a\\nb\"}\n", "a key's label has one line"),
            ("- {type: line, line: 0}\n", "a key's line is a number from 1 to 16"),
            ("0: {type: line}\n", "'0' is no position of a key"),
            ("addd: [{type: line}]\n", "'addd' is no position of a key"),
        ] {
            let fault = crate::yaml::read_untyped::<Keys>("k.yaml", text).expect_err(text).to_string();
            assert!(fault.contains(told), "{text}: {fault}");
            assert!(fault.starts_with(&format!("k.yaml:{}:", text.lines().count())), "{text}: {fault}");
        }
        let fault = crate::yaml::read_untyped::<Variables>("k.yaml", "a: 1\nkeys: x\n").unwrap_err().to_string();
        assert!(fault.starts_with("k.yaml:2:1: expected all keys as a list, or those that change as a map of positions"), "{fault}");
    }
}
