//! A far end in the kernel: every peer that is asked, each of them Up as soon as can be, for next to
//! nothing. It has no state machine; tests about the protocol want [`crate::udp_peer`].

use anyhow::Context;
use aya::Ebpf;
use aya::programs::{SchedClassifier, TcAttachType, Xdp, XdpMode, tc};

use crate::harness::Requirement;
use crate::netns::Netns;

/// The kernel programs of the benches; `dz-ebpf/bench` says what they are.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../dz-ebpf/object/dz-bench.o");

/// Which of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// TC, where packets start with the IPv4 header.
    Layer3,
    /// TC, where they start with an Ethernet header.
    Ethernet,
    /// XDP, native.
    Xdp,
}

/// The program on one device, for as long as the value lives, or the device.
#[derive(Debug)]
pub struct Responder {
    _ebpf: Ebpf,
}

impl Responder {
    /// Attaches it.
    ///
    /// # Errors
    /// The kernel refuses the program or the device.
    pub fn attach(netns: &Netns, name: &str, hook: Hook) -> anyhow::Result<Self> {
        // Names are looked up in the caller's namespace.
        let attached = netns.run(|| attach(name, hook));
        attached.with_context(|| format!("responder on {name} in {}", netns.name()))
    }
}

fn attach(name: &str, hook: Hook) -> anyhow::Result<Responder> {
    let mut ebpf = Ebpf::load(OBJECT)?;
    let program = match hook {
        Hook::Layer3 => "respond_l3",
        Hook::Ethernet => "respond_eth",
        Hook::Xdp => "respond_xdp",
    };
    let program = ebpf.program_mut(program).context("no such program")?;
    if hook == Hook::Xdp {
        let program: &mut Xdp = program.try_into()?;
        program.load()?;
        program.attach(name, XdpMode::Driver)?;
    } else {
        if Requirement::Kernel(6, 6).missing().is_some() {
            tc::qdisc_add_clsact(name)?;
        }
        let program: &mut SchedClassifier = program.try_into()?;
        program.load()?;
        program.attach(name, TcAttachType::Ingress)?;
    }
    Ok(Responder { _ebpf: ebpf })
}
