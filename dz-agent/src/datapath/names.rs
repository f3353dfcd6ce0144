//! The names of maps and programs.

use dz_common::ingress::Link;
use dz_common::map::name;

/// Every map that outlives the agent.
pub const MAPS: [&str; 11] = [
    name::CONFIG,
    name::CONFINED,
    name::COUNTERS,
    name::DEADLINES,
    name::DUE,
    name::EVENTS,
    name::GROUPS,
    name::HEARTBEAT,
    name::LOCALS,
    name::PEERS,
    name::SESSIONS,
];

/// The program that transmits what is due.
pub(super) const TRANSMIT: &str = "dz_transmit";
/// The program that carries out the agent's requests.
pub(super) const CONTROL: &str = "dz_control";
/// The program at a device's ingress, in XDP.
pub(super) const XDP: &str = "dz_xdp";

/// Says whether a program at a hook of a device is one of ours, by its name.
pub(super) fn is_ours(program: &str) -> bool {
    let links = [Link::Layer3, Link::Ethernet];
    let of_tc = [links.map(ingress_name), links.map(gate_name)].concat();
    program == XDP || of_tc.contains(&program)
}

/// Returns the name of the program at a device's ingress, for frames of this kind, in TC.
pub(super) const fn ingress_name(link: Link) -> &'static str {
    match link {
        Link::Layer3 => "dz_tc_l3",
        Link::Ethernet => "dz_tc_eth",
    }
}

/// Returns the name of the program at a device's egress, for frames of this kind: the gate.
pub(super) const fn gate_name(link: Link) -> &'static str {
    match link {
        Link::Layer3 => "dz_gate_l3",
        Link::Ethernet => "dz_gate_eth",
    }
}
