//! A directory in one YAML file, with argon2id hashes in place of PINs: for labs, the demo and small offices.
//!
//! The file is read once; a changed file counts after a reload of the configuration. Whoever does not exist costs the
//! same time as a wrong PIN: a hash that nobody has is checked instead.

use std::{collections::HashMap, fs, path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Deserialize;
use serde_yaml::Spanned;
use tokio::sync::Semaphore;

use super::{
    Contact, Denied, Directory, Error,
    pin::{self, StoredPin},
    plausible_login,
    settings::FileSettings,
};
use crate::{
    model::{Extension, Keys, User},
    yaml::{self, Fault},
};

/// Hashes computed at once: each takes 19 MiB and a core.
const PARALLEL: usize = 2;
/// How long a log-in may wait for its turn and its hash.
const LIMIT: Duration = Duration::from_secs(5);

/// The users of a file.
pub struct Files {
    users: Vec<Entry>,
    /// Login or extension → place in `users`.
    by_number: HashMap<String, usize>,
    /// Checked when nobody has the login.
    dummy: Arc<StoredPin>,
    turns: Arc<Semaphore>,
}

struct Entry {
    user: User,
    pin: Arc<StoredPin>,
}

/// The JSON Schema of the file, for editors.
pub fn schema() -> schemars::Schema {
    schemars::SchemaGenerator::default().into_root_schema_for::<UsersFile>()
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    #[serde(default)]
    users: Vec<Row>,
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Row {
    #[schemars(with = "String")]
    login: Spanned<String>,
    display_name: String,
    #[serde(default)]
    #[schemars(with = "Option<Extension>")]
    extension: Option<Spanned<Extension>>,
    #[serde(default)]
    mail: Option<String>,
    #[serde(default)]
    groups: Vec<String>,
    #[schemars(with = "String")]
    pin_hash: Spanned<String>,
}

impl Files {
    pub fn open(settings: FileSettings) -> Result<Self, Error> {
        let path = settings.path;
        let text = fs::read_to_string(&path).map_err(|source| Error::Unreadable { key: "file.path", path: path.clone(), source })?;
        Self::parse(&text, &path)
    }

    /// Reads the users from YAML; `path` is named in errors.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let name = path.display().to_string();
        // Without the line itself: it may hold a hash, and the hash of a short PIN is soon guessed.
        let fault = |line, column, message: String| Error::Users(Fault { line, column, ..Fault::in_file(&name, message) });
        let file: UsersFile = yaml::read(&name, text).map_err(|fault| Error::Users(Fault { source: None, ..fault }))?;
        let mut users = Vec::with_capacity(file.users.len());
        let mut by_number = HashMap::new();
        for row in file.users {
            let at = |place: &serde_yaml::Location, reason: String| fault(place.line(), place.column(), reason);
            let login = row.login.value.clone();
            if !plausible_login(&login) || !login.bytes().all(|b| b.is_ascii_digit()) {
                return Err(at(&row.login.referenced, format!("login '{login}' cannot be keyed in: write digits, in quotes")));
            }
            let pin = StoredPin::argon2(&row.pin_hash.value)
                .map_err(|error| at(&row.pin_hash.referenced, format!("pin_hash of {login}: {error}")))?;
            if by_number.insert(login.clone(), users.len()).is_some_and(|other| other != users.len()) {
                return Err(at(&row.login.referenced, format!("{login} is taken: logins and extensions share one set of numbers")));
            }
            if let Some(extension) = &row.extension
                && by_number.insert(extension.value.to_string(), users.len()).is_some_and(|other| other != users.len())
            {
                let reason = format!("extension {} is taken: logins and extensions share one set of numbers", extension.value);
                return Err(at(&extension.referenced, reason));
            }
            let user = User {
                id: login.clone(),
                login,
                display_name: row.display_name,
                mail: row.mail,
                extension: row.extension.map(|e| e.value),
                groups: row.groups,
            };
            users.push(Entry { user, pin: Arc::new(pin) });
        }
        let dummy = random_dummy().ok_or_else(|| fault(1, 1, "no random bytes from the system".to_owned()))?;
        Ok(Self { users, by_number, dummy: Arc::new(dummy), turns: Arc::new(Semaphore::new(PARALLEL)) })
    }

    fn entry(&self, number: &str) -> Option<&Entry> {
        self.by_number.get(number).and_then(|&place| self.users.get(place))
    }
}

/// The hash of a PIN that nobody knows.
fn random_dummy() -> Option<StoredPin> {
    let (mut salt, mut output) = ([0; 16], [0; 32]);
    getrandom::fill(&mut salt).ok()?;
    getrandom::fill(&mut output).ok()?;
    pin::nobodys(salt, output).ok()
}

/// The argon2id hash of a PIN with a fresh salt, for the `pin_hash:` of a users' file.
pub fn hash_pin(pin: &Keys) -> Result<String, pin::Error> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).map_err(|_| pin::Error::Failed)?;
    pin::hash(pin, salt)
}

#[async_trait]
impl Directory for Files {
    async fn authenticate(&self, login: &str, pin: &Keys) -> Result<User, Denied> {
        let entry = self.entry(login);
        let stored = entry.map_or_else(|| self.dummy.clone(), |entry| entry.pin.clone());
        let turns = self.turns.clone();
        let keyed = pin.clone();
        let check = async move {
            // The permit moves into the computation: a caller who hangs up frees nothing that still runs.
            let permit = turns.acquire_owned().await.map_err(|_| ())?;
            tokio::task::spawn_blocking(move || {
                let _permit = permit;
                stored.verify(&keyed)
            })
            .await
            .map_err(|_| ())
        };
        match tokio::time::timeout(LIMIT, check).await {
            Ok(Ok(true)) => entry.map(|entry| entry.user.clone()).ok_or(Denied::Refused),
            Ok(Ok(false)) => Err(Denied::Refused),
            Ok(Err(())) => Err(Denied::Unavailable("the check of a PIN failed".into())),
            Err(_) => Err(Denied::Unavailable(format!("too many log-ins at once: no turn within {LIMIT:?}"))),
        }
    }

    async fn find(&self, login: &str) -> Result<Option<User>, Denied> {
        Ok(self.entry(login).map(|entry| entry.user.clone()))
    }

    async fn list(&self, limit: usize) -> Result<Vec<User>, Denied> {
        let mut users: Vec<User> = self.users.iter().map(|entry| entry.user.clone()).collect();
        users.sort_by(|a, b| a.login.cmp(&b.login));
        users.truncate(limit);
        Ok(users)
    }

    async fn contacts(&self, limit: usize) -> Result<Vec<Contact>, Denied> {
        Ok(self.list(limit).await?.into_iter().map(Contact::from).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn directory() -> Files {
        let pin = |digits: &str| hash_pin(&Keys::from(digits)).expect("hashes");
        let text = format!(
            "users:\n- {{ login: '1001', display_name: Ada Lovelace, extension: '2041', mail: ada@x, groups: [math], pin_hash: '{}' }}\n\
             - {{ login: '1002', display_name: Alan Turing, pin_hash: '{}' }}\n",
            pin("4711"),
            pin("0815")
        );
        Files::parse(&text, Path::new("users.yaml")).expect("parses")
    }

    #[tokio::test]
    async fn the_right_pin_and_only_it() {
        let files = directory();
        for (login, keyed, name) in [
            ("1001", "4711", Some("Ada Lovelace")),
            ("2041", "4711", Some("Ada Lovelace")),
            ("1002", "0815", Some("Alan Turing")),
            ("1001", "0815", None),
            ("1001", "", None),
            ("9999", "4711", None),
            ("", "", None),
        ] {
            let answer = files.authenticate(login, &Keys::from(keyed)).await;
            assert_eq!(answer.map(|u| u.display_name), name.map(str::to_owned).ok_or(Denied::Refused), "{login}");
        }
        assert_eq!(files.list(1).await.expect("lists").len(), 1);
        assert_eq!(files.find("2041").await.expect("asks").expect("there").login, "1001");
    }

    #[tokio::test]
    async fn nobody_costs_the_same_time_as_a_wrong_pin() {
        let files = directory();
        let mut times = [Duration::MAX; 2];
        for _ in 0..5 {
            for (place, login) in ["1001", "9999"].into_iter().enumerate() {
                let start = Instant::now();
                assert_eq!(files.authenticate(login, &Keys::from("1")).await, Err(Denied::Refused));
                times[place] = times[place].min(start.elapsed());
            }
        }
        let ratio = times[0].as_secs_f64() / times[1].as_secs_f64();
        assert!((0.4..2.5).contains(&ratio), "known {:?}, unknown {:?}", times[0], times[1]);
    }

    #[tokio::test]
    async fn the_demo_is_as_its_comments_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/demo/users.yaml");
        let text = fs::read_to_string(&path).expect("the demo's users");
        let files = Files::parse(&text, &path).expect("the demo's users are good");
        let mut checked = 0;
        for line in text.lines().filter(|line| line.starts_with("#   1")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let (login, name) = (words[1], words[words.len() - 2..].join(" "));
            let pin = words[words.len() - 3];
            let user = files.authenticate(login, &Keys::from(pin)).await.expect(login);
            assert_eq!(user.display_name, name);
            checked += 1;
        }
        assert_eq!(checked, files.users.len());
    }

    #[test]
    fn faults_name_line_and_remedy() {
        let hash = hash_pin(&Keys::from("1")).expect("hashes");
        for (text, place, word) in [
            ("users:\n- login: x\n  display_name: A\n  pin_hash: q\n".to_owned(), "u.yaml:2:10", "digits"),
            ("users:\n- login: '1'\n  display_name: A\n  pin_hash: q\n".to_owned(), "u.yaml:4:13", "plugtone pin hash"),
            ("users:\n- login: '1'\n  dsplay_name: A\n  pin_hash: q\n".to_owned(), "u.yaml:3:", "dsplay_name"),
            (
                format!(
                    "users:\n- {{ login: '1', display_name: A, pin_hash: '{hash}' }}\n- {{ login: '1', display_name: B, pin_hash: '{hash}' }}\n"
                ),
                "u.yaml:3:",
                "taken",
            ),
        ] {
            let error = Files::parse(&text, Path::new("u.yaml")).err().expect("a fault").to_string();
            assert!(error.starts_with(place) && error.contains(word), "{error}");
        }
    }
}
