//! The client of the API, which the subcommands use.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::ErrorJson;
use crate::error::{ExitCode, FailWith, Failure};

/// Longest wait for a reply: a large disconnect waits for the kernel's word on each route.
const REPLY_TIME: Duration = Duration::from_secs(60);

/// Talks to the agent at a socket. One connection per request.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Makes a client of the agent at `socket`.
    pub fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Asks for `GET path`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.request(Method::GET, path, Bytes::new(), |faults| faults)
            .await
    }

    /// Asks for `method path` with a JSON body.
    ///
    /// # Errors
    /// [`ExitCode::Unreachable`] if no agent answers, [`ExitCode::Privilege`] if we may not ask,
    /// [`ExitCode::Refused`] with every fault if it refuses.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
    ) -> Result<T, Failure> {
        self.send_naming(method, path, body, |faults| faults).await
    }

    /// Asks as [`Client::send`] does; `name` puts the agent's faults into the words of the caller.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub async fn send_naming<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &(impl Serialize + Sync),
        name: impl FnOnce(Vec<String>) -> Vec<String>,
    ) -> Result<T, Failure> {
        let body = serde_json::to_vec(body).context("writing the request")?;
        self.request(method, path, body.into(), name).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        name: impl FnOnce(Vec<String>) -> Vec<String>,
    ) -> Result<T, Failure> {
        let socket = self.socket.display();
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let (code, hint) = match error.kind() {
                ErrorKind::PermissionDenied => (ExitCode::Privilege, "run as the agent's user"),
                _ => (
                    ExitCode::Unreachable,
                    "is `dz-agent run` running there? see --socket",
                ),
            };
            Failure {
                code,
                error: anyhow!("agent not reachable: {socket}: {error}: {hint}"),
            }
        })?;
        let reply = tokio::time::timeout(REPLY_TIME, exchange(stream, method, path, body)).await;
        let (status, body) = reply
            .fail_with(ExitCode::Unreachable, || {
                format!("agent does not answer: {socket}: is it stopped?")
            })?
            .fail_with(ExitCode::Unreachable, || {
                format!("agent broke off: {socket}")
            })?;
        if status.is_success() {
            let reply = serde_json::from_slice(&body);
            return Ok(reply.with_context(|| format!("agent's reply is not understood: {socket}"))?);
        }
        let faults = match serde_json::from_slice::<ErrorJson>(&body) {
            Ok(refusal) => name(refusal.error.faults).join("; "),
            Err(_) => status.to_string(),
        };
        Err(Failure {
            code: ExitCode::Refused,
            error: anyhow!("agent refused: {faults}"),
        })
    }
}

async fn exchange(
    stream: UnixStream,
    method: Method,
    path: &str,
    body: Bytes,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "dz-agent")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(body))?;
    let exchange = async {
        let reply = sender.send_request(request).await?;
        let status = reply.status();
        anyhow::Ok((status, reply.into_body().collect().await?.to_bytes()))
    };
    tokio::pin!(connection);
    tokio::pin!(exchange);
    // The connection makes the exchange go on; it may end first, its last bytes read.
    tokio::select! {
        reply = &mut exchange => reply,
        ended = &mut connection => {
            ended?;
            exchange.await
        }
    }
}
