//! How a call to the outside is written for a trunk: who calls, in the form that the provider wants, who diverted it, and from
//! where an emergency call comes.

use super::{
    super::{
        half::Diversion,
        invite::{anonymous, diverted},
    },
    credentials,
};
use crate::{
    routing::{
        Hop, Trunk,
        settings::{CallerIdForm, DivertedShows},
    },
    sip::{transport::Flow, ua::Invite},
};

/// Of whom a call to the outside comes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presented<'a> {
    pub display_name: &'a str,
    /// Somebody outside, as numbers are written on the trunk.
    pub caller: Option<&'a str>,
    /// Of these the last is one of ours, as whom the call goes out, unless it is somebody outside.
    pub diversions: &'a [Diversion],
}

/// The INVITE of a call to the outside, as this trunk wants it.
pub fn invite(trunk: &Trunk, hop: &Hop, shown: Presented<'_>, own_host: &str, flow: Flow, offer: bytes::Bytes) -> Invite {
    let at = |user: &str| format!("sip:{user}@{}", trunk.domain);
    let account = trunk.account.as_ref().map(|account| account.user.as_str());
    let number = hop.caller.number.as_deref();
    // Without any number the provider shows what it knows us by.
    let known = number.or(account).unwrap_or("anonymous");
    let identity = if trunk.domain == trunk.host && trunk.account.is_none() { format!("sip:{known}@{own_host}") } else { at(known) };
    let mut headers = Vec::new();
    let diverted_by = shown.diversions.last().filter(|last| !last.by.starts_with('+'));
    let foreign = shown.caller.filter(|_| diverted_by.is_some() && trunk.diverted_shows == DivertedShows::Caller);
    let from = match (hop.caller.withheld, trunk.caller_id, account) {
        (false, ..) if foreign.is_some() => (shown.display_name.to_owned(), at(foreign.unwrap_or_default())),
        (_, CallerIdForm::Account, Some(account)) => (String::new(), at(account)),
        (true, ..) => anonymous(),
        _ => (shown.display_name.to_owned(), identity.clone()),
    };
    let name = match trunk.caller_id {
        CallerIdForm::PAssertedIdentity | CallerIdForm::Account => Some("P-Asserted-Identity"),
        CallerIdForm::PPreferredIdentity => Some("P-Preferred-Identity"),
        CallerIdForm::From => None,
    };
    if let (Some(name), Some(_)) = (name, number) {
        headers.push((name.to_owned(), format!("<{identity}>")));
    }
    if hop.caller.withheld {
        headers.push(("Privacy".to_owned(), "id".to_owned()));
    }
    if let Some(uri) = &hop.geolocation {
        // RFC 6442 §4.1 and §4.2
        headers.push(("Geolocation".to_owned(), format!("<{uri}>")));
        headers.push(("Geolocation-Routing".to_owned(), "yes".to_owned()));
    }
    let uri = at(&hop.number);
    if let (Some(last), Some(_)) = (diverted_by, number) {
        let history = vec![(identity.clone(), last.reason)];
        headers.extend(diverted(&history, &uri, hop.caller.withheld));
    }
    Invite {
        to: uri.clone(),
        uri,
        from,
        flow,
        contact_user: account.or(number).unwrap_or("plugtone").to_owned(),
        offer: Some(offer),
        credentials: credentials(trunk),
        routes: Vec::new(),
        headers,
        spare: Vec::new(),
        gr: None,
    }
}
