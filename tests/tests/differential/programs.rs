//! The programs of the hooks, run one frame at a time.

use std::os::fd::{AsFd, BorrowedFd};

use anyhow::{Context, ensure};
use dz_tests::bpf::test_run;
use dz_tests::kernel::Kernel;

use crate::hook::Hook;
use crate::model::Arrival;
use crate::trampoline::{FAILED, Trampoline};

/// Room for any frame that is tried.
const ROOM: usize = 4_096;
/// Ethernet and IPv6 header: no longer packet is refused for its length.
pub(crate) const TC_SHORTEST: usize = 54;
/// `__sk_buff` up to and with `cb[]`, and the index of its `ifindex`.
pub(crate) const SKB_WORDS: usize = 48;
pub(crate) const SKB_IFINDEX: usize = 10;

/// What stands before the kernel's programs, and where a frame ends up.
pub(crate) struct Programs {
    tagged: Trampoline,
    layer3_host: Trampoline,
    after: Vec<u8>,
}

impl Programs {
    pub(crate) fn new(kernel: &Kernel) -> anyhow::Result<Self> {
        Ok(Self {
            tagged: Trampoline::tagged(kernel.ethernet()).context("program before dz_tc_eth")?,
            layer3_host: Trampoline::to_host(kernel.layer3()).context("program before dz_tc_l3")?,
            after: vec![0; ROOM],
        })
    }

    /// Runs the program of a hook; returns its verdict and the frame afterwards. None if the kernel
    /// will not run it: as TC packets newer kernels refuse IP packets without a whole IP header.
    pub(crate) fn run(
        &mut self,
        kernel: &Kernel,
        arrival: &Arrival,
    ) -> anyhow::Result<Option<(u32, Vec<u8>)>> {
        let Arrival { ifindex, frame, .. } = arrival;
        let mut skb = [0_u32; SKB_WORDS];
        skb[SKB_IFINDEX] = *ifindex;
        // `xdp_md`: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let md = [0, frame.len() as u32, 0, *ifindex, 0, 0];
        let (program, context): (BorrowedFd<'_>, &[u32]) = match arrival.hook {
            Hook::TcEthernet => (kernel.ethernet(), &skb),
            Hook::TcTagged => (self.tagged.as_fd(), &skb),
            Hook::TcLayer3 => (self.layer3_host.as_fd(), &skb),
            Hook::TcLayer3NotHost => (kernel.layer3(), &skb),
            Hook::Xdp => (kernel.xdp(), &md),
        };
        let ran = match test_run(program, frame, context, &mut self.after) {
            Err(error)
                if error.raw_os_error() == Some(libc::EINVAL)
                    && arrival.hook != Hook::Xdp
                    && frame.len() < TC_SHORTEST =>
            {
                return Ok(None);
            }
            ran => ran.with_context(|| format!("BPF_PROG_TEST_RUN with {} bytes", frame.len()))?,
        };
        ensure!(ran.verdict != FAILED, "the tail call failed");
        Ok(Some((ran.verdict, self.after[..ran.len].to_vec())))
    }
}
