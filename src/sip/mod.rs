//! Messages, transports, transactions, dialogs, digest, registrar: RFC 3261 and friends.
//!
//! From the wire up: `transport/` turns sockets into [`transport::Flow`]s and whole messages, [`message`] is a view of one,
//! [`endpoint`] drives the transactions of `transaction/` and tells its owner of requests and answers. [`digest`],
//! [`registrar`], [`guard`], [`notify`] and [`subscription`] are cores beside it;
//! [`capture`] keeps what was said, to be shown. Bodies are bytes here; what a call means is told in `call`.

pub mod build;
pub mod capture;
pub mod dialog;
pub mod digest;
pub mod endpoint;
pub mod guard;
pub mod header;
pub mod ids;
pub mod mask;
pub mod message;
pub mod name;
pub mod notify;
pub mod pcap;
pub mod register_client;
pub mod registrar;
pub mod screen;
pub mod settings;
pub mod subscription;
pub mod transaction;
pub mod transport;
pub mod ua;
pub mod uri;

pub use build::{Request, Response};
pub use digest::{Account, Accounts, Credentials, Login};
pub use endpoint::{ClientTx, Endpoint, Event, ServerTx};
pub use header::{CSeq, NameAddr, Params, Via};
pub use ids::Ids;
pub use message::{Fault, Message, Method, ParseError};
pub use name::Name;
pub use notify::Notifier;
pub use registrar::{Contact, Registrar};
pub use screen::Abilities;
pub use settings::Settings;
pub use subscription::Subscriptions;
pub use transport::{Flow, FlowId, Transmit, Transport};
pub use uri::Uri;
