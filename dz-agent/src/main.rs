//! dz-agent: see README.md.

use std::path::Path;
use std::{io, panic, process};

use anyhow::Context;
use dz_agent::cli::{Action, Cli, ask, purge};
use dz_agent::engine;
use dz_agent::error::{ExitCode, Failure};
use dz_agent::host::{descriptors, heap, logging};
use dz_agent::settings::RunOptions;
use tokio::runtime::{Builder, Runtime};

pub(crate) fn main() -> process::ExitCode {
    let ended = Cli::read().and_then(|cli| start(&cli));
    logging::flush();
    match ended {
        Ok(()) => ExitCode::Ok.into(),
        Err(failure) => {
            logging::last_words(format_args!("dz-agent: {failure}"));
            failure.code.into()
        }
    }
}

fn start(cli: &Cli) -> Result<(), Failure> {
    // Before the runtime, which panics where it may not open its own.
    match &cli.action {
        Action::Run(options) => descriptors::for_agent(options.interfaces.len())?,
        _ => descriptors::for_client()?,
    }
    let runtime = runtime().context("starting the runtime")?;
    runtime.block_on(async {
        match &cli.action {
            Action::Run(options) => run(options, &cli.socket).await,
            Action::Prepare(options) => prepare(options).await,
            Action::Connect(options) => ask::connect(&cli.socket, options).await,
            Action::Disconnect(options) => ask::disconnect(&cli.socket, options).await,
            Action::Reload(options) => ask::reload(&cli.socket, options).await,
            Action::Purge(options) => purge::purge(options).await,
            Action::Status(options) => ask::status(&cli.socket, options).await,
            Action::Sessions(options) => ask::sessions(&cli.socket, options).await,
            Action::Counters(options) => ask::counters(&cli.socket, options).await,
        }
    })
}

/// Makes the runtime, which panics where the kernel refuses the pair of sockets that its signals need.
fn runtime() -> io::Result<Runtime> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| ()));
    let made = panic::catch_unwind(|| Builder::new_current_thread().enable_all().build());
    panic::set_hook(hook);
    made.unwrap_or_else(|_| Err(io::Error::other("the kernel refuses a pair of sockets")))
}

async fn run(options: &RunOptions, socket: &Path) -> Result<(), Failure> {
    options.validate()?;
    heap::give_large_blocks_back();
    let floods = logging::init(options.log_format, options.log_level)?;
    engine::run(options.clone(), socket, floods).await
}

async fn prepare(options: &RunOptions) -> Result<(), Failure> {
    logging::init(options.log_format, options.log_level)?;
    engine::prepare(options).await
}
