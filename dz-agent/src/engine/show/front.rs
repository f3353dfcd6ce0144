//! The thread of API and metrics, apart from the engine's, so that a scrape of 100,000 sessions delays no
//! event.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::sync::{mpsc, oneshot, watch};

use crate::api::{API, Clients, UnixSocket, api_router, metrics_router, serve};
use crate::command::Command;
use crate::engine::show::inspect::Inspector;
use crate::engine::show::scrapes::Scrapes;
use crate::error::{ExitCode, FailWith, Failure};
use crate::metrics::{Exporter, Recorded};
use crate::settings::MetricsListen;
use crate::view::MetricsView;

/// The parts that the thread serves with, which exist when the engine has started.
struct Service {
    inspector: Inspector,
    commands: mpsc::Sender<Command>,
    recorded: Recorded,
    per_peer: bool,
}

/// The thread with its sockets bound, before it serves. If the agent fails to start, dropping this ends the
/// thread and removes the socket: `start` is dropped before the thread is waited for.
pub(crate) struct Front {
    start: oneshot::Sender<Service>,
    stop: watch::Sender<bool>,
    thread: Joined,
    metrics: watch::Receiver<MetricsView>,
}

/// The thread while it serves.
pub(crate) struct Serving {
    stop: watch::Sender<bool>,
    thread: Joined,
}

/// A thread that is joined when this is dropped.
struct Joined(Option<JoinHandle<()>>);

impl Drop for Joined {
    fn drop(&mut self) {
        if let Some(thread) = self.0.take() {
            // A panic there has been reported by the panic hook already.
            let _ = thread.join();
        }
    }
}

impl Front {
    /// Binds the API's socket, before anything in the kernel is changed, and tries to bind that of the
    /// metrics.
    ///
    /// # Errors
    /// [`ExitCode::Busy`]: another agent has the API's socket.
    pub(crate) fn bind(socket: &Path, metrics: MetricsListen) -> Result<Self, Failure> {
        let (start, service) = oneshot::channel();
        let (stop, stopped) = watch::channel(false);
        let (bound, outcome) = std::sync::mpsc::channel();
        let socket = socket.to_owned();
        let (scrapes, metrics) = Scrapes::new(metrics);
        let thread = thread::Builder::new()
            .name("dz-api".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build();
                match runtime.fail_with(ExitCode::Failure, || "API thread") {
                    Ok(runtime) => {
                        runtime.block_on(work(socket, scrapes, &bound, service, stopped))
                    }
                    // The receiver waits for exactly one message.
                    Err(failure) => drop(bound.send(Err(failure))),
                }
            })
            .fail_with(ExitCode::Failure, || "API thread")?;
        let outcome = outcome.recv().fail_with(ExitCode::Failure, || "API thread");
        outcome??;
        Ok(Self {
            start,
            stop,
            thread: Joined(Some(thread)),
            metrics,
        })
    }

    /// Returns the receiver of where metrics are served over TCP, which is kept current.
    pub(crate) fn metrics(&self) -> watch::Receiver<MetricsView> {
        self.metrics.clone()
    }

    /// Starts serving.
    pub(crate) fn serve(
        self,
        inspector: Inspector,
        commands: mpsc::Sender<Command>,
        recorded: Recorded,
        per_peer: bool,
    ) -> Serving {
        // Fails if the thread has panicked, which `stop` copes with.
        let _ = self.start.send(Service {
            inspector,
            commands,
            recorded,
            per_peer,
        });
        Serving {
            stop: self.stop,
            thread: self.thread,
        }
    }
}

impl Serving {
    /// Ends the thread: requests under way are answered, and the socket is removed.
    pub(crate) fn stop(self) {
        let _ = self.stop.send(true);
        drop(self.thread);
    }
}

async fn work(
    socket: PathBuf,
    mut scrapes: Scrapes,
    bound: &std::sync::mpsc::Sender<Result<(), Failure>>,
    service: oneshot::Receiver<Service>,
    stopped: watch::Receiver<bool>,
) {
    let api = match UnixSocket::bind(&socket, API) {
        Ok(api) => api,
        Err(failure) => {
            drop(bound.send(Err(failure)));
            return;
        }
    };
    scrapes.bind();
    drop(bound.send(Ok(())));
    // The sender has been dropped: the agent has failed to start.
    let Ok(service) = service.await else { return };
    let inspect = Arc::new(service.inspector);
    let exporter = Arc::new(Exporter::new(
        Arc::clone(&inspect),
        service.recorded,
        service.per_peer,
    ));
    let api_routes = api_router(inspect, service.commands, Arc::clone(&exporter));
    let metrics = async {
        let listener = tokio::select! {
            listener = scrapes.listener() => listener,
            () = until(stopped.clone()) => return,
        };
        let routes = metrics_router(exporter);
        serve(listener, routes, Clients::Anybodys, until(stopped.clone())).await;
    };
    let api = serve(api, api_routes, Clients::Ours, until(stopped.clone()));
    tokio::join!(api, metrics);
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is a stop as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
