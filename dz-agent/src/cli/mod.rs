//! The command line and its commands, but for the work of `run`. Only `main` imports this.

mod arguments;
pub mod ask;
mod batch;
mod output;
pub mod purge;
mod render;

pub use arguments::{
    Action, Cli, ConnectOptions, CountersOptions, DisconnectOptions, PurgeOptions, SessionsOptions,
    ShowOptions,
};
