//! Network-namespace harness and end-to-end tests.
//!
//! The harness gives a test network namespaces of its own ([`netns`]), in which it runs closures
//! and children, and a way to say that it could not run ([`harness`]).
//! Wires are a TUN device whose other end the test holds ([`tun`]) for layer 3, and pairs of veth
//! devices ([`veth`]) with raw sockets on them ([`raw`]) for Ethernet; frames are built and read in
//! [`frame`], without the help of the code under test.

pub mod agent;
pub mod answerer;
pub mod ask;
pub mod attached;
pub mod bare;
pub mod bed;
pub mod bird;
pub mod bpf;
pub mod bpffs;
pub mod bpftool;
mod children;
pub mod faults;
pub mod frame;
pub mod gre;
pub mod harness;
pub mod injector;
pub mod kernel;
pub mod load;
pub mod machine;
pub mod mark;
pub mod memory_group;
pub mod netns;
pub mod nobody;
pub mod pinned;
pub mod priority;
pub mod process;
pub mod program;
pub mod queue;
pub mod raw;
pub mod receive;
pub mod rights;
pub mod rng;
pub mod route_log;
pub mod rtnl;
pub mod seccomp;
pub mod tun;
pub mod udp_peer;
pub mod veth;
pub mod wait;
pub mod wire;
