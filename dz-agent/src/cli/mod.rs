//! The command line and what its commands do, `run` excepted. Nothing but `main` imports this.

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
