//! The rights that agents have in tests: all of root's, or with `DZ_TEST_RIGHTS=unit` in the environment those of the unit in
//! `dist`, whose `ExecStartPre` has all.

use std::env;
use std::process::Command;

use anyhow::bail;

/// Starts a program with the capabilities of the unit.
pub const UNIT: [&str; 4] = [
    "setpriv",
    "--bounding-set=-all,+bpf,+net_admin,+perfmon",
    "--inh-caps=-all",
    "--no-new-privs",
];

/// Returns the command that starts an agent with the rights that the environment names; options of `run` are to follow. `agent`: the
/// program, and the environment that it needs.
///
/// # Errors
/// There are no such rights.
pub(crate) fn started(agent: Command) -> anyhow::Result<Command> {
    match env::var("DZ_TEST_RIGHTS").as_deref() {
        // What starts it through another program decides about its rights itself.
        _ if agent.get_args().next().is_some() => Ok(run(agent)),
        Err(_) | Ok("root") => Ok(run(agent)),
        Ok("unit") => {
            let mut command = Command::new("sh");
            let unit = UNIT.join(" ");
            let script = format!("\"$0\" prepare \"$@\" && exec {unit} \"$0\" run \"$@\"");
            command.args(["-c", &script]).arg(agent.get_program());
            for (name, value) in agent.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            Ok(command)
        }
        Ok(other) => bail!("DZ_TEST_RIGHTS={other}: neither root nor unit"),
    }
}

fn run(mut agent: Command) -> Command {
    agent.arg("run");
    agent
}
