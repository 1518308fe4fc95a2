//! `GET /events`: what happens, as Server-Sent Events with sequence numbers; a reader that comes back goes on where it stopped.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::{Query, State},
    http::HeaderMap,
    response::{
        Sse,
        sse::{Event as Frame, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Context, problem::Problem};
use crate::{
    journal::{Delivery, Subscription},
    model::{CallId, Event, MacAddr},
};

#[derive(Debug, Default, Deserialize, IntoParams)]
pub struct Filter {
    /// Begin after this number instead of with what happens now; 0: from the oldest that is kept.
    /// The header `Last-Event-ID`, which browsers send when they reconnect, does the same.
    pub after: Option<u64>,
    /// Only this device's.
    pub mac: Option<String>,
    /// Only this call's.
    pub call: Option<String>,
    /// Only these types, separated by commas: `call_started,call_ended`.
    pub types: Option<String>,
}

/// A filter that was understood.
struct Wanted {
    mac: Option<MacAddr>,
    call: Option<CallId>,
    types: Vec<String>,
}

impl Wanted {
    fn read(filter: &Filter) -> Result<Self, Problem> {
        let mac = filter.mac.as_deref().map(str::parse).transpose();
        let call = filter.call.as_deref().map(str::parse).transpose();
        Ok(Self {
            mac: mac.map_err(|error: crate::model::ParseMacError| Problem::bad_request(error.to_string()))?,
            call: call.map_err(|_| Problem::bad_request("`call` is the id that POST /calls returned"))?,
            types: filter.types.iter().flat_map(|types| types.split(',')).map(|name| name.trim().to_owned()).collect(),
        })
    }

    fn takes(&self, event: &Event, name: &str) -> bool {
        self.mac.is_none_or(|mac| event.mac() == Some(mac))
            && self.call.is_none_or(|call| event.call() == Some(call))
            && (self.types.is_empty() || self.types.iter().any(|wanted| wanted == name))
    }
}

/// The stream of events.
///
/// Each has `id` (its number), `event` (its type) and `data` (JSON). `event: lagged` tells of numbers that are gone.
/// A slow reader holds nobody up: it is served from the database when it falls behind.
#[utoipa::path(get, path = "/events", tag = "events",
    params(Filter, ("Last-Event-ID" = Option<u64>, Header, description = "As `after`, and wins over it")),
    responses((status = 200, content_type = "text/event-stream", body = String), (status = 400, body = Problem)))]
pub async fn follow(
    State(context): State<Context>,
    Query(filter): Query<Filter>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Frame, Infallible>>>, Problem> {
    let wanted = Wanted::read(&filter)?;
    let last_seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()).and_then(|id| id.trim().parse().ok());
    let subscription = match last_seen.or(filter.after) {
        Some(after) => context.journal.subscribe(after),
        None => context.journal.subscribe_live(),
    };
    let frames = stream::unfold((subscription, wanted), |(mut subscription, wanted)| async move {
        let frame = next_frame(&mut subscription, &wanted).await?;
        Some((Ok(frame), (subscription, wanted)))
    });
    let frames = frames.take_until(context.shutdown.cancelled_owned());
    Ok(Sse::new(frames).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))))
}

async fn next_frame(subscription: &mut Subscription, wanted: &Wanted) -> Option<Frame> {
    loop {
        match subscription.next().await? {
            Delivery::Lagged { missed } => return Some(Frame::default().event("lagged").data(format!("{{\"missed\":{missed}}}"))),
            Delivery::Event(recorded) => {
                let Ok(json) = serde_json::to_value(&*recorded) else { continue };
                let name = json.get("type").and_then(|name| name.as_str()).unwrap_or_default();
                if wanted.takes(&recorded.event, name) {
                    return Some(Frame::default().id(recorded.seq.to_string()).event(name).data(json.to_string()));
                }
            }
        }
    }
}
