//! Carries out the subcommands that ask a running agent.

use std::path::Path;

use anyhow::Context;
use hyper::Method;
use serde::Serialize;

use super::arguments::{
    ConnectOptions, CountersOptions, DisconnectOptions, ReloadOptions, SessionsOptions, ShowOptions,
};
use super::batch::Batch;
use super::output::{print, warn};
use super::render;
use crate::api::{
    Client, ConnectedJson, CountersJson, DisconnectRequest, DisconnectedJson, ProgramJson,
    ReloadRequest, ReloadedJson, SessionsJson, StatusJson,
};
use crate::error::{ExitCode, Failure};

/// Carries out `connect`.
///
/// # Errors
/// As [`Client::send`].
pub async fn connect(socket: &Path, options: &ConnectOptions) -> Result<(), Failure> {
    let batch = Batch::to_connect(options)?;
    let locate = |faults| batch.locate(faults);
    let reply: ConnectedJson = Client::new(socket)
        .send_naming(Method::POST, "/v1/peers", &batch.requests(), locate)
        .await?;
    let mut text = String::new();
    for session in &reply.connected {
        text += &format!(
            "{}: {} -> {}",
            session.interface, session.local, session.peer
        );
        text += ": session registered\n";
        for warning in &session.warnings {
            warn(&format!("peer {}: {warning}", session.peer));
        }
    }
    print(&text)
}

/// Carries out `disconnect`.
///
/// # Errors
/// As [`Client::send`].
pub async fn disconnect(socket: &Path, options: &DisconnectOptions) -> Result<(), Failure> {
    let batch = match &options.file {
        Some(path) => Some(Batch::to_disconnect(options, path)?),
        None => None,
    };
    let selector = batch
        .as_ref()
        .map_or_else(|| options.selector(), Batch::selector);
    let request = DisconnectRequest::from(&selector);
    let locate = |faults| match &batch {
        Some(batch) => batch.locate(faults),
        None => faults,
    };
    let reply: DisconnectedJson = Client::new(socket)
        .send_naming(Method::DELETE, "/v1/peers", &request, locate)
        .await?;
    let mut text = String::new();
    for session in &reply.disconnected {
        text += &format!(
            "{}: {} -> {}",
            session.interface, session.local, session.peer
        );
        text += ": session gone\n";
        for warning in &session.warnings {
            warn(&format!("peer {}: {warning}", session.peer));
        }
    }
    if text.is_empty() {
        text += "no sessions\n";
    }
    print(&text)
}

/// Carries out `reload`.
///
/// # Errors
/// As [`Client::send`].
pub async fn reload(socket: &Path, options: &ReloadOptions) -> Result<(), Failure> {
    let force = options.force;
    let reply: ReloadedJson = Client::new(socket)
        .send(Method::POST, "/v1/reload", &ReloadRequest { force })
        .await?;
    let ReloadedJson {
        peers,
        added,
        changed,
        removed,
    } = reply;
    print(&format!(
        "peers of the file: {peers}; added {added}, changed {changed}, removed {removed}\n"
    ))
}

/// Carries out `status`.
///
/// # Errors
/// [`ExitCode::NotInPlace`], after all has been printed, if a program is missing; and as [`Client::get`].
pub async fn status(socket: &Path, options: &ShowOptions) -> Result<(), Failure> {
    let status: StatusJson = Client::new(socket).get("/v1/status").await?;
    print(&if options.json {
        json(&status)?
    } else {
        render::status(&status)
    })?;
    let missing = |program: &&ProgramJson| !program.in_place;
    for interface in &status.interfaces {
        if let Some(program) = interface.programs.iter().find(missing) {
            let what = format!(
                "interface {}: the program at {} is not there",
                interface.name, program.hook
            );
            return Err(Failure::new(ExitCode::NotInPlace, what));
        }
    }
    Ok(())
}

/// Carries out `sessions`.
///
/// # Errors
/// As [`Client::get`].
pub async fn sessions(socket: &Path, options: &SessionsOptions) -> Result<(), Failure> {
    let sessions: SessionsJson = Client::new(socket).get("/v1/sessions").await?;
    print(&if options.json {
        json(&sessions)?
    } else {
        render::sessions(&sessions, options.all)
    })
}

/// Carries out `counters`.
///
/// # Errors
/// As [`Client::get`].
pub async fn counters(socket: &Path, options: &CountersOptions) -> Result<(), Failure> {
    let counters: CountersJson = Client::new(socket).get("/v1/counters").await?;
    let table = || render::counters(&counters, options.all);
    print(&if options.json {
        json(&counters)?
    } else {
        table()
    })
}

fn json(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).context("writing JSON")?;
    Ok(text + "\n")
}
