//! The limit of open files (`RLIMIT_NOFILE`): raised as far as we may, and refused where it is too small.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::error::{ExitCode, FailWith, Failure};

/// Open files of a command that asks the agent.
const CLIENT: u64 = 32;
/// Open files of the agent: about a hundred, the connections of its clients, and room for both to grow.
const AGENT: u64 = 256;
/// Open files for each interface: its lock, two links, its port.
const INTERFACE: u64 = 4;

/// Makes sure of the open files that a command needs which asks the agent.
///
/// # Errors
/// [`ExitCode::Privilege`]: the hard limit is too small.
pub fn for_client() -> Result<(), Failure> {
    raise(CLIENT)
}

/// Makes sure of the open files that an agent with so many interfaces needs.
///
/// # Errors
/// [`ExitCode::Privilege`]: the hard limit is too small.
pub fn for_agent(interfaces: usize) -> Result<(), Failure> {
    raise(AGENT + INTERFACE * interfaces as u64)
}

fn raise(needed: u64) -> Result<(), Failure> {
    let limit = || {
        getrlimit(Resource::RLIMIT_NOFILE)
            .fail_with(ExitCode::Failure, || "limit of open files (RLIMIT_NOFILE)")
    };
    let (soft, hard) = limit()?;
    if soft < hard {
        // Refused if the hard limit is above what the host allows by now (fs.nr_open).
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    enough(limit()?.0, needed)
}

fn enough(limit: u64, needed: u64) -> Result<(), Failure> {
    if limit >= needed {
        return Ok(());
    }
    let text = format!(
        "limit of open files (RLIMIT_NOFILE): {limit}, and {needed} are needed: raise it (LimitNOFILE={needed} in a \
         unit, `ulimit -n {needed}` in a shell)"
    );
    Err(Failure::new(ExitCode::Privilege, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_are_refused_with_what_to_do() {
        assert!(enough(256, 256).is_ok());
        let failure = enough(47, 256).unwrap_err();
        assert_eq!(failure.code, ExitCode::Privilege);
        let words = failure.to_string();
        for word in ["RLIMIT_NOFILE", "47", "LimitNOFILE=256", "ulimit -n 256"] {
            assert!(words.contains(word), "{words}");
        }
    }
}
