//! Answers the API's requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use serde::Serialize;
use serde::de::{DeserializeOwned, Deserializer, SeqAccess, Visitor};
use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::counted::CountersJson;
use super::shown::SessionsJson;
use super::status::StatusJson;
use super::types::{
    ConnectedJson, DisconnectRequest, DisconnectedJson, ErrorJson, ReloadRequest, ReloadedJson,
    invalid,
};
use crate::command::{Command, Refusal, RefusalKind, Selector};
use crate::metrics::{Exporter, Format};
use crate::settings::{PeerBatch, PeerSpec};
use crate::view::{Inspect, Snapshot};

/// Largest request body: some 100,000 peers.
const MAX_BODY: usize = 8 << 20;
/// Longest time a client may take to send it.
const BODY_TIME: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Api<I> {
    inspect: Arc<I>,
    commands: mpsc::Sender<Command>,
}

impl<I> Clone for Api<I> {
    fn clone(&self) -> Self {
        Self {
            inspect: self.inspect.clone(),
            commands: self.commands.clone(),
        }
    }
}

/// Makes the router of the Unix socket. Its commands go to `commands`.
pub fn api_router<I: Inspect>(
    inspect: Arc<I>,
    commands: mpsc::Sender<Command>,
    exporter: Arc<Exporter<I>>,
) -> Router {
    Router::new()
        .route("/v1/peers", post(connect::<I>).delete(disconnect::<I>))
        .route("/v1/peers/{peer}", delete(disconnect_one::<I>))
        .route("/v1/reload", post(reload::<I>))
        .route("/v1/sessions", get(show::<I, SessionsJson>))
        .route("/v1/counters", get(show::<I, CountersJson>))
        .route("/v1/status", get(show::<I, StatusJson>))
        .with_state(Api { inspect, commands })
        .route("/metrics", get(metrics::<I>).with_state(exporter))
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
}

/// Makes the router for anybody: `/metrics` only, and for all who ask within a second the same.
pub fn metrics_router<I: Inspect>(exporter: Arc<Exporter<I>>) -> Router {
    Router::new()
        .route("/metrics", get(recent_metrics::<I>))
        .with_state(exporter)
}

type Reply<T> = Result<Json<T>, Refused>;

async fn connect<I: Inspect>(State(api): State<Api<I>>, body: Body) -> Reply<ConnectedJson> {
    let peers = peers_to_connect(&read(body).await?)?;
    let connected = api.ask(|reply| Command::Connect { peers, reply }).await?;
    Ok(Json(connected.into()))
}

async fn disconnect<I: Inspect>(State(api): State<Api<I>>, body: Body) -> Reply<DisconnectedJson> {
    let selector = peers_to_disconnect(&read(body).await?)?;
    api.disconnect(selector).await
}

/// Reads the body of a request to connect.
pub(crate) fn peers_to_connect(body: &[u8]) -> Result<Vec<PeerSpec>, Refusal> {
    // One peer or an array: told apart here, for serde's word on neither fitting would not say why.
    let mut batch = PeerBatch::default();
    if body.trim_ascii_start().starts_with(b"[") {
        parse_each(body, &mut batch)?;
    } else {
        batch.add(&parse(body)?);
    }
    batch.specs().map_err(invalid)
}

/// Reads the body of a request to disconnect.
pub(crate) fn peers_to_disconnect(body: &[u8]) -> Result<Selector, Refusal> {
    parse::<DisconnectRequest>(body)?.selector()
}

async fn disconnect_one<I: Inspect>(
    State(api): State<Api<I>>,
    Path(peer): Path<String>,
) -> Reply<DisconnectedJson> {
    let request = DisconnectRequest {
        peers: vec![peer],
        ..DisconnectRequest::default()
    };
    api.disconnect(request.selector()?).await
}

async fn reload<I: Inspect>(State(api): State<Api<I>>, body: Body) -> Reply<ReloadedJson> {
    let body = read(body).await?;
    let ReloadRequest { force } = if body.is_empty() {
        ReloadRequest::default()
    } else {
        parse(&body)?
    };
    let reloaded = api.ask(|reply| Command::Reload { force, reply }).await?;
    Ok(Json(reloaded.into()))
}

async fn show<I: Inspect, T: for<'a> From<&'a Snapshot>>(State(api): State<Api<I>>) -> Reply<T> {
    let snapshot = api.inspect.snapshot().await.map_err(unreadable)?;
    Ok(Json(T::from(&snapshot)))
}

async fn metrics<I: Inspect>(
    State(exporter): State<Arc<Exporter<I>>>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let format = wanted_format(&headers);
    let text = exporter.scrape(format).await.map_err(unreadable)?;
    Ok(in_format(format, text))
}

async fn recent_metrics<I: Inspect>(
    State(exporter): State<Arc<Exporter<I>>>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let format = wanted_format(&headers);
    let text = exporter.recent(format).await.map_err(unreadable)?;
    Ok(in_format(format, text))
}

fn wanted_format(headers: &HeaderMap) -> Format {
    let accepts = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    Format::negotiate(&accepts.collect::<Vec<_>>().join(","))
}

fn in_format(format: Format, text: Bytes) -> Response {
    let headers = [
        (header::CONTENT_TYPE, format.content_type()),
        (header::VARY, "Accept"),
    ];
    (headers, text).into_response()
}

async fn no_such_path(uri: Uri) -> Refused {
    Refusal::new(
        RefusalKind::NotFound,
        format!("no such path: {}", uri.path()),
    )
    .into()
}

async fn no_such_method(method: Method, uri: Uri) -> Refused {
    let fault = format!("{method} is not possible on {}", uri.path());
    let refusal = Refusal::new(RefusalKind::Invalid, fault);
    Refused {
        status: StatusCode::METHOD_NOT_ALLOWED,
        refusal,
    }
}

impl<I: Inspect> Api<I> {
    async fn disconnect(&self, selector: Selector) -> Reply<DisconnectedJson> {
        let gone = self
            .ask(|reply| Command::Disconnect { selector, reply })
            .await?;
        Ok(Json(gone.into()))
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> Command,
    ) -> Result<T, Refused> {
        let stopping = || {
            Refusal::new(
                RefusalKind::Unavailable,
                "the agent is stopping; it or its next start finishes what was begun",
            )
        };
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| stopping())?;
        Ok(answer.await.map_err(|_| stopping())??)
    }
}

async fn read(body: Body) -> Result<Bytes, Refused> {
    let body = axum::body::to_bytes(body, MAX_BODY);
    match tokio::time::timeout(BODY_TIME, body).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => Err(Refused {
            status: StatusCode::PAYLOAD_TOO_LARGE,
            refusal: Refusal::new(
                RefusalKind::Invalid,
                format!("body broken off or longer than {MAX_BODY} bytes"),
            ),
        }),
        Err(_) => Err(Refused {
            status: StatusCode::REQUEST_TIMEOUT,
            refusal: Refusal::new(RefusalKind::Invalid, "body took too long"),
        }),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|error| malformed(&error))
}

/// Parses an array of peers, one after the other.
fn parse_each(body: &[u8], batch: &mut PeerBatch) -> Result<(), Refusal> {
    struct Peers<'a>(&'a mut PeerBatch);
    impl<'de> Visitor<'de> for Peers<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of peers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut peers: A) -> Result<(), A::Error> {
            while let Some(peer) = peers.next_element()? {
                self.0.add(&peer);
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    json.deserialize_seq(Peers(batch))
        .and_then(|()| json.end())
        .map_err(|error| malformed(&error))
}

fn malformed(error: &serde_json::Error) -> Refusal {
    Refusal::new(RefusalKind::Invalid, format!("body: {error}"))
}

fn unreadable(error: anyhow::Error) -> Refusal {
    warn!("cannot show the state: {error:#}");
    Refusal::new(RefusalKind::Internal, format!("{error:#}"))
}

/// A JSON response.
struct Json<T>(T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(json) => ([(header::CONTENT_TYPE, "application/json")], json).into_response(),
            Err(error) => Refused::from(unreadable(error.into())).into_response(),
        }
    }
}

/// A refusal with its status code.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    refusal: Refusal,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.kind {
            RefusalKind::Invalid => StatusCode::BAD_REQUEST,
            RefusalKind::NotFound => StatusCode::NOT_FOUND,
            RefusalKind::Conflict => StatusCode::CONFLICT,
            RefusalKind::Capacity => StatusCode::INSUFFICIENT_STORAGE,
            RefusalKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            RefusalKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, refusal }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorJson::from(self.refusal))).into_response()
    }
}
