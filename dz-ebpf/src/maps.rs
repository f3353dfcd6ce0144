//! Defines the maps. Sizes that depend on the configuration are set at load; those here are bounds.

use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use dz_common::counters::Counters;
use dz_common::map::{
    Config, Confined, Deadline, Destination, Due, Event, Group, LocalKey, MAX_DUE, MAX_GROUPS,
    Peer, PeerKey, SLOTS_PER_GROUP, SessionEntry,
};

/// `BPF_F_MMAPABLE`: the agent reads and writes these arrays without a system call.
const MMAPABLE: usize = 1024;
const MAX_SESSIONS: usize = (MAX_GROUPS * SLOTS_PER_GROUP) as usize;
/// Counter blocks: the interface addresses of a host, and block 0.
const MAX_BLOCKS: usize = 256;
/// Addresses that only gated interfaces hold.
const MAX_CONFINED: usize = 4_096;
/// Bytes; 40-byte events with their 8-byte headers: about 21,000.
const EVENTS_SIZE: usize = 1 << 20;

#[btf_map(name = "dz_config")]
pub static CONFIG: Array<Config, 1, MMAPABLE> = Array::new();
#[btf_map(name = "dz_confined")]
pub static CONFINED: HashMap<Confined, u32, MAX_CONFINED> = HashMap::new();
#[btf_map(name = "dz_counters")]
pub static COUNTERS: PerCpuArray<Counters, MAX_BLOCKS> = PerCpuArray::new();
#[btf_map(name = "dz_deadlines")]
pub static DEADLINES: Array<Deadline, MAX_SESSIONS, MMAPABLE> = Array::new();
#[btf_map(name = "dz_due")]
pub static DUE: Array<Due, { MAX_DUE as usize }, MMAPABLE> = Array::new();
#[btf_map(name = "dz_events")]
pub static EVENTS: RingBuf<Event, EVENTS_SIZE> = RingBuf::new();
#[btf_map(name = "dz_groups")]
pub static GROUPS: Array<Group, { MAX_GROUPS as usize }> = Array::new();
#[btf_map(name = "dz_heartbeat")]
pub static HEARTBEAT: Array<u64, 1, MMAPABLE> = Array::new();
#[btf_map(name = "dz_locals")]
pub static LOCALS: HashMap<LocalKey, u32, MAX_BLOCKS> = HashMap::new();
#[btf_map(name = "dz_peers")]
pub static PEERS: HashMap<PeerKey, Peer, MAX_SESSIONS> = HashMap::new();
#[btf_map(name = "dz_sessions")]
pub static SESSIONS: HashMap<Destination, SessionEntry, MAX_SESSIONS> = HashMap::new();
