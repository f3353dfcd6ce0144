//! Kernel programs that do next to nothing, attached to a device: what native XDP wants at the other
//! end of a veth, far ends that answer for every peer, and the baselines of the benches. None of them
//! has a state machine; tests about the protocol want [`crate::udp_peer`].

use anyhow::Context;
use aya::programs::{TcAttachType, XdpMode, tc};
use aya::{Ebpf, EbpfLoader};

use crate::harness::Requirement;
use crate::load;
use crate::netns::Netns;

/// Their object; `dz-ebpf/bench` says what they are.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../../dz-ebpf/object/dz-bench.o");

/// Which of the programs. XDP is native, TC at ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// XDP: passes everything. A veth's driver takes `XDP_TX` from its peer only if it has XDP, too.
    EmptyXdp,
    /// TC, Ethernet: every peer that is asked, Up as soon as can be.
    RespondEthernet,
    /// The same in XDP.
    RespondXdp,
    /// TC, Ethernet: the same below a GRE tunnel.
    RespondGre,
    /// TC, Ethernet: every neighbour that BFD itself asks.
    RespondBfd,
    /// TC, Ethernet: sends everything back.
    ReflectEthernet,
    /// The same in XDP.
    ReflectXdp,
    /// TC, Ethernet: liveness packets end here.
    SinkEthernet,
    /// The same in XDP.
    SinkXdp,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::EmptyXdp => "empty_xdp",
            Self::RespondEthernet => "respond_eth",
            Self::RespondXdp => "respond_xdp",
            Self::RespondGre => "respond_gre",
            Self::RespondBfd => "respond_bfd",
            Self::ReflectEthernet => "reflect_eth",
            Self::ReflectXdp => "reflect_xdp",
            Self::SinkEthernet => "sink_eth",
            Self::SinkXdp => "sink_xdp",
        }
    }
}

/// One of them on one device, for as long as the value lives, or the device.
#[derive(Debug)]
pub struct Bare {
    _ebpf: Ebpf,
}

impl Bare {
    /// Attaches it.
    ///
    /// # Errors
    /// The kernel refuses the program or the device: another XDP program is there, say.
    pub fn attach(netns: &Netns, device: &str, program: Program) -> anyhow::Result<Self> {
        let name = program.name();
        // Names are looked up in the caller's namespace.
        let attached = netns.run(|| attach(device, name));
        attached.with_context(|| format!("{name} on {device} in {}", netns.name()))
    }
}

fn attach(device: &str, name: &str) -> anyhow::Result<Bare> {
    let mut ebpf = load::object(&mut EbpfLoader::new(), OBJECT)?;
    if name.ends_with("xdp") {
        let program = load::xdp(&mut ebpf, name)?;
        program.attach(device, XdpMode::Driver)?;
    } else {
        if Requirement::Kernel(6, 6).missing().is_some() {
            tc::qdisc_add_clsact(device)?;
        }
        let program = load::classifier(&mut ebpf, name)?;
        program.attach(device, TcAttachType::Ingress)?;
    }
    Ok(Bare { _ebpf: ebpf })
}
