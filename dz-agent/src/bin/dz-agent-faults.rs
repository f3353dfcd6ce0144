//! The agent once more, with the fault hooks of the tests. A binary of its own, so that the one that
//! users get is never replaced by it.

#[path = "../main.rs"]
mod agent;

fn main() -> std::process::ExitCode {
    agent::main()
}
