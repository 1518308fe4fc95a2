//! HTTP/JSON under `/api/v1`, described by OpenAPI that is made from this code: a file per resource. Rules live below.
//!
//! Not here: the listener with its limits (`fileserver/http`), what a call or a binding is.

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use utoipa::{
    OpenApi,
    openapi::{Content, Ref, RefOr, Response as Described, path::PathItem},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    call,
    directory::Directory,
    journal::Journal,
    provisioning::{Files, Rollouts, firmware::Depot, worker::Onboarding},
    store::Store,
    template::Templates,
};

pub mod auth;
pub mod bans;
pub mod calls;
pub mod config;
pub mod configs;
pub mod devices;
pub mod events;
pub mod features;
pub mod firmware;
pub mod inventory;
pub mod leases;
pub mod links;
pub mod messages;
pub mod problem;
pub mod records;
pub mod rollout;
pub mod templates;
pub mod trunks;
pub mod voicemail;

pub use problem::Problem;

/// Where the running server leaves a token for the command line on the same machine, beside the database, mode 0600.
pub const LOCAL_TOKEN_FILE: &str = "cli.token";

/// Largest JSON body that is read.
const MAX_BODY: usize = 64 * 1024;

/// The `api` section of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where programs reach the API, `/healthz` and `/metrics`. Plain HTTP: keep it on loopback or behind a proxy with TLS.
    pub listen: std::net::SocketAddr,
    /// Whether `/metrics` is shown without a token.
    pub open_metrics: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: ([127, 0, 0, 1], 8088).into(), open_metrics: true }
    }
}

/// Asks the node to read its configuration again; the answer is what changed or what is wrong.
pub type Reload = Arc<dyn Fn() -> futures_util::future::BoxFuture<'static, Result<String, String>> + Send + Sync>;

/// What the handlers work with.
#[derive(Clone)]
pub struct Context {
    pub store: Arc<dyn Store>,
    pub leases: crate::dhcp::LeaseView,
    pub directory: Arc<dyn Directory>,
    pub journal: Journal,
    pub owners: Onboarding,
    pub files: Files,
    pub templates: Templates,
    pub rollouts: Rollouts,
    pub firmware: Depot,
    pub calls: call::Handle,
    /// `None`: it is switched off.
    pub voicemail: Option<crate::voicemail::Voicemail>,
    pub reload: Reload,
    pub differs: config::Differs,
    pub metrics: PrometheusHandle,
    /// Hash of the token in [`LOCAL_TOKEN_FILE`].
    pub local_token: [u8; 32],
    pub open_metrics: bool,
    /// Ends the streams of events, so that nobody holds up the end of the server.
    pub shutdown: CancellationToken,
}

#[derive(OpenApi)]
#[openapi(
    info(title = "Plugtone", description = "Place and watch calls; see devices, users and whose is what.\n\nSend `Authorization: Bearer <token>`; make a token with `plugtone token create NAME`."),
    tags((name = "calls"), (name = "voicemail"), (name = "devices"), (name = "users"), (name = "events"), (name = "server")),
    modifiers(&BearerScheme)
)]
struct Description;

struct BearerScheme;

impl utoipa::Modify for BearerScheme {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
        let scheme = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        openapi.components.get_or_insert_default().add_security_scheme("token", scheme);
        openapi.security = Some(vec![SecurityRequirement::new::<_, [&str; 0], &str>("token", [])]);
    }
}

/// Every route that there is, each with its description. `guard` lets pass who has a token; the rest is for everybody.
fn routes(guard: impl FnOnce(OpenApiRouter<Context>) -> OpenApiRouter<Context>) -> (Router<Context>, utoipa::openapi::OpenApi) {
    let guarded = OpenApiRouter::new()
        .routes(routes!(calls::place, calls::list))
        .routes(routes!(calls::hang_up))
        .routes(routes!(records::list))
        .routes(routes!(messages::list))
        .routes(routes!(messages::show))
        .routes(routes!(messages::pcap))
        .routes(routes!(voicemail::list))
        .routes(routes!(voicemail::audio))
        .routes(routes!(voicemail::heard))
        .routes(routes!(voicemail::delete))
        .routes(routes!(trunks::list))
        .routes(routes!(leases::list))
        .routes(routes!(leases::pools))
        .routes(routes!(bans::list))
        .routes(routes!(bans::pardon))
        .routes(routes!(devices::list))
        .merge(OpenApiRouter::new().routes(routes!(inventory::import)).layer(DefaultBodyLimit::max(inventory::MAX_TABLE)))
        .routes(routes!(inventory::export))
        .routes(routes!(inventory::swap))
        .routes(routes!(devices::show))
        .routes(routes!(devices::bind, devices::unbind))
        .routes(routes!(devices::locate))
        .routes(routes!(devices::admit))
        .routes(routes!(links::make))
        .routes(routes!(configs::list))
        .routes(routes!(configs::show))
        .routes(routes!(configs::diff))
        .routes(routes!(devices::bindings))
        .routes(routes!(devices::users))
        .routes(routes!(templates::diff))
        .routes(routes!(config::diff))
        .routes(routes!(firmware::show))
        .merge(OpenApiRouter::new().routes(routes!(firmware::add, firmware::remove)).layer(DefaultBodyLimit::disable()))
        .routes(routes!(firmware::pin))
        .routes(routes!(rollout::start, rollout::show))
        .routes(routes!(rollout::pause))
        .routes(routes!(rollout::resume))
        .routes(routes!(rollout::abort))
        .routes(routes!(features::show, features::set))
        .routes(routes!(features::nights))
        .routes(routes!(features::turn_night))
        .routes(routes!(events::follow))
        .routes(routes!(reload));
    let resources = guard(guarded).routes(routes!(description));
    let (router, mut described) = OpenApiRouter::with_openapi(Description::openapi())
        .nest("/api/v1", resources)
        .routes(routes!(healthz))
        .routes(routes!(metrics))
        .split_for_parts();
    described.paths.paths.values_mut().for_each(describe_errors);
    (router, described)
}

/// What all operations have in common: errors are problems, and without a token there is one.
fn describe_errors(path: &mut PathItem) {
    let operations = [&mut path.get, &mut path.put, &mut path.post, &mut path.delete, &mut path.patch];
    for operation in operations.into_iter().flatten() {
        let problem = |what: &str| {
            let content = Content::new(Some(Ref::from_schema_name("Problem")));
            RefOr::T(Described::builder().description(what).content(problem::CONTENT_TYPE, content).build())
        };
        let responses = &mut operation.responses.responses;
        if operation.security.is_none() {
            responses.insert("401".to_owned(), problem("No token, or one that is not known, was revoked or has expired"));
        }
        responses.insert("default".to_owned(), problem("Any other error"));
        for (status, response) in responses.iter_mut() {
            let RefOr::T(response) = response else { continue };
            if response.description.is_empty()
                && let Some(status) = status.parse().ok().and_then(|status| StatusCode::from_u16(status).ok())
            {
                response.description = status.canonical_reason().unwrap_or_default().to_owned();
            }
            if status.starts_with(['4', '5'])
                && let Some(content) = response.content.shift_remove("application/json")
            {
                response.content.insert(problem::CONTENT_TYPE.to_owned(), content);
            }
        }
    }
}

/// The description of the API as JSON, kept in `tests/api/openapi.json` so that a change of it is seen.
pub fn openapi() -> String {
    DESCRIPTION.to_pretty_json().unwrap_or_default()
}

static DESCRIPTION: LazyLock<utoipa::openapi::OpenApi> = LazyLock::new(|| routes(|resources| resources).1);

/// Everything under `/`: the API, its description, `/healthz` and `/metrics`.
pub fn router(context: Context) -> Router {
    let guard = middleware::from_fn_with_state(context.clone(), auth::require_token);
    routes(|resources| resources.layer(guard))
        .0
        .fallback(|| async { Problem::not_found("no such resource", "GET /api/v1/openapi.json describes what there is") })
        .method_not_allowed_fallback(|| async {
            let detail = "the header `Allow` names the methods that there are; GET /api/v1/openapi.json describes them";
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", detail)
        })
        .layer(middleware::from_fn(as_problems))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(context)
}

/// This description.
#[utoipa::path(get, path = "/openapi.json", tag = "server", security(()), responses((status = 200, body = Object)))]
async fn description() -> Json<&'static utoipa::openapi::OpenApi> {
    Json(&*DESCRIPTION)
}

/// `/healthz` and, where everybody may see them, `/metrics`: for the listener of the phones' files.
pub fn probes(store: Arc<dyn Store>, metrics: PrometheusHandle, open_metrics: bool) -> Router {
    let health = Router::new().route("/healthz", get(move || health(store.clone())));
    match open_metrics {
        true => health.route("/metrics", get(move || async move { exposition(&metrics) })),
        false => health,
    }
}

/// Whether the server can do its work: the store answers.
async fn health(store: Arc<dyn Store>) -> Response {
    match tokio::time::timeout(Duration::from_secs(2), store.last_seq()).await {
        Ok(Ok(_)) => Json(serde_json::json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") })).into_response(),
        Ok(Err(error)) => Problem::from(error).into_response(),
        Err(_) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the store is slow", "no answer within 2 s").into_response(),
    }
}

/// Whether the server can do its work.
#[utoipa::path(get, path = "/healthz", tag = "server", security(()),
    responses((status = 200, body = Object), (status = 503, body = Problem)))]
async fn healthz(State(context): State<Context>) -> Response {
    health(context.store).await
}

/// Metrics in the text form of Prometheus. Whether a token is needed is set by `api.open_metrics`.
#[utoipa::path(get, path = "/metrics", tag = "server", security((), ("token" = [])),
    responses((status = 200, content_type = "text/plain", body = String), (status = 401, body = Problem)))]
async fn metrics(State(context): State<Context>, headers: HeaderMap) -> Response {
    if !context.open_metrics
        && let Err(refusal) = auth::check(&context, &headers).await
    {
        return refusal.into_response();
    }
    exposition(&context.metrics)
}

fn exposition(metrics: &PrometheusHandle) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics.render()).into_response()
}

/// Reads configuration and templates again, as SIGHUP does. A bad file changes nothing.
#[utoipa::path(post, path = "/reload", tag = "server", responses((status = 200, body = Object), (status = 409, body = Problem)))]
async fn reload(State(context): State<Context>) -> Result<Json<serde_json::Value>, Problem> {
    match (context.reload)().await {
        Ok(what) => Ok(Json(serde_json::json!({ "reloaded": what }))),
        Err(faults) => Err(Problem::new(StatusCode::CONFLICT, "the last good configuration stays", faults)),
    }
}

/// What axum itself refuses (bad JSON, wrong method) leaves as a problem too.
async fn as_problems(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let has_own_body = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/"));
    if !(status.is_client_error() || status.is_server_error()) || has_own_body {
        return response;
    }
    let title = status.canonical_reason().unwrap_or("refused").to_lowercase();
    let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap_or_default();
    Problem::new(status, &title, String::from_utf8_lossy(&body).into_owned()).into_response()
}
