//! What memory an agent and its maps take.

use std::fs;
use std::os::fd::{AsFd, AsRawFd};

use anyhow::Context;
use aya::maps::MapData;
use dz_tests::agent::Agent;

/// What of the agent's memory is in memory, bytes.
pub(crate) fn resident(agent: &mut Agent) -> anyhow::Result<u64> {
    let status = format!("/proc/{}/status", agent.process().pid());
    let status = fs::read_to_string(&status).context(status)?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident = resident.and_then(|text| text.trim().strip_suffix(" kB"));
    let kilobytes: u64 = resident.context("no VmRSS")?.parse()?;
    Ok(1_024 * kilobytes)
}

/// What the maps take, by the kernel's own count, whatever they hold, bytes.
pub(crate) fn of_maps(agent: &Agent) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for name in dz_agent::datapath::MAPS {
        let map = MapData::from_pin(agent.home().pin_dir().join(name))?;
        let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let info = fs::read_to_string(&info).context(info)?;
        let locked = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        bytes += locked.context("no memlock")?.trim().parse::<u64>()?;
    }
    Ok(bytes)
}
