//! HTTP/JSON, version 1, over the agent's Unix socket:
//!
//! | request | does |
//! |---|---|
//! | `POST /v1/peers` | connects: a peer or an array of peers, all or none |
//! | `DELETE /v1/peers` | disconnects: `{"peers": [...]}` or `{"all": true}` |
//! | `DELETE /v1/peers/ADDRESS` | disconnects one |
//! | `POST /v1/reload` | reads the file of peers again: `{"force": true}` or nothing |
//! | `GET /v1/sessions`, `/v1/counters`, `/v1/status` | shows, read from the kernel |
//! | `GET /metrics` | Prometheus text format 0.0.4, or OpenMetrics where asked for |
//!
//! `--metrics-listen` offers `/metrics` alone, to anybody.
//!
//! A refusal is `{"error": {"kind": ..., "faults": [...]}}` with a status code to match.

mod client;
mod connections;
mod counted;
mod inert;
mod metrics_listener;
mod server;
mod shown;
mod status;
#[cfg(test)]
mod tests;
mod types;
mod unix_socket;

pub use client::Client;
pub use connections::{Clients, serve};
pub use counted::{BlockJson, CountersJson, MissedJson, RouteTotalsJson};
pub use inert::InertJson;
pub use metrics_listener::MetricsListener;
pub use server::{api_router, metrics_router};
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use server::{peers_to_connect, peers_to_disconnect};
pub use shown::{ParkedJson, RouteJson, SessionJson, SessionsJson};
pub use status::{InterfaceJson, ProgramJson, StatusJson};
pub use types::{
    ConnectedJson, ConnectedPeer, DisconnectRequest, DisconnectedJson, DisconnectedPeer, ErrorJson,
    RefusalJson, ReloadRequest, ReloadedJson,
};
pub use unix_socket::{API, UnixSocket};
