//! Packets made by a kernel program from frames that the bench has written, at a rate or as fast as it
//! can; and the ends where they are reflected or swallowed.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::maps::{Array, MapData, PerCpuArray, PerCpuValues};
use aya::programs::{ProgramFd, Xdp, XdpMode};
use aya::util::nr_cpus;
use aya::{Ebpf, EbpfLoader};
use dz_common::ingress::Link;
use dz_tests::bare::OBJECT;
use dz_tests::bpf::{run_live_frames, test_run};
use dz_tests::frame::ethernet;
use dz_tests::load;
use dz_tests::netns::Netns;
use dz_tests::priority;
use dz_tests::wait::join;
use etherparse::EtherType;

/// Most packets of one run: fewer than a CPU's backlog takes (`net.core.netdev_max_backlog`).
const RUN: u32 = 256;
/// The same of frames without socket buffers.
const LIVE_RUN: u32 = 1 << 15;
const FRAME: usize = Link::Ethernet.frame_len();
/// As `Template` of the kernel's part.
const TEMPLATE: usize = FRAME.next_multiple_of(4);
/// Where `struct __sk_buff` has `cb[]`, in words.
const CB: usize = 12;

type Templates = Array<MapData, [u8; TEMPLATE]>;

/// How much is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many per second, sent so often: each time costs more than what the packets do.
    Rate { per_second: f64, every: Duration },
    /// As many as can be.
    Flood,
    /// As many as can be in XDP's frames, which the device at the other end must take: with an XDP
    /// program or receive offload (GRO). Wants [`Generator::live`].
    LiveFlood,
}

/// Frames, and the program that sends them by one device.
pub(crate) struct Generator {
    sender: Sender,
    cpu: Option<usize>,
    templates: Templates,
    ebpf: Ebpf,
}

/// As that of the kernel's part.
type Progress = [u32; 3];

impl Generator {
    /// Sends these frames around and around, each as long as one with a liveness packet.
    pub(crate) fn new(netns: &Netns, device: &str, frames: &[Vec<u8>]) -> anyhow::Result<Self> {
        let mut ebpf = load::object(&mut EbpfLoader::new(), OBJECT)?;
        let map = ebpf.take_map("templates").context("no templates")?;
        let mut templates = Templates::try_from(map)?;
        ensure!(!frames.is_empty(), "nothing to send");
        for (number, frame) in (0..).zip(frames) {
            templates.set(number, template(frame)?, 0)?;
        }
        let (ifindex, count) = (netns.ifindex(device)?, u32::try_from(frames.len())?);
        let progress = ebpf.map_mut("progress").context("no progress")?;
        let mut progress = PerCpuArray::<_, Progress>::try_from(progress)?;
        let cpus = nr_cpus().map_err(|(_, error)| error)?;
        progress.set(
            0,
            PerCpuValues::try_from(vec![[0, count, ifindex]; cpus])?,
            0,
        )?;
        let live = load::xdp(&mut ebpf, "generate_xdp")?.fd()?.try_clone()?;
        let program = load::classifier(&mut ebpf, "generate")?;
        let sender = Sender {
            program: program.fd()?.try_clone()?,
            live,
            ifindex,
            frames: count,
            next: 0,
        };
        Ok(Self {
            sender,
            cpu: None,
            templates,
            ebpf,
        })
    }

    /// Has it run on one CPU, which then is where a virtual device's packets arrive, too.
    pub(crate) fn on(self, cpu: usize) -> Self {
        Self {
            cpu: Some(cpu),
            ..self
        }
    }

    /// Attaches the program of [`Pace::LiveFlood`] to a device that nothing arrives at. The kernel keeps attached
    /// XDP programs in its dispatcher; of another one each test run waits twice for all
    /// processors, until it is in there and until it is out again (`bpf_dispatcher_change_prog`): most of
    /// the time nothing would be sent.
    pub(crate) fn live(mut self, netns: &Netns, device: &str) -> anyhow::Result<Self> {
        netns.command(&format!("ip link add {device} type veth"))?;
        let live = self.ebpf.program_mut("generate_xdp");
        let live: &mut Xdp = live.context("no generate_xdp")?.try_into()?;
        netns.run(|| live.attach(device, XdpMode::Driver))?;
        Ok(self)
    }

    /// Sends on a thread of its own in the device's namespace.
    pub(crate) fn start(self, netns: &Netns, pace: Pace) -> Running {
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&sent));
        let Self {
            mut sender,
            cpu,
            templates,
            ebpf,
        } = self;
        let send = move || {
            if let Some(cpu) = cpu {
                priority::run_on(cpu)?;
            }
            match pace {
                Pace::Rate { per_second, every } => {
                    // It plays somebody else's clock, which runs whatever happens here.
                    let _ = priority::raise(0);
                    sender.at_rate(per_second, every, &stopped, &counted)
                }
                Pace::Flood => sender.flood(&stopped, &counted),
                Pace::LiveFlood => sender.live_flood(&stopped, &counted),
            }
        };
        // A thread begins in the namespace of the one that starts it.
        let thread = netns.run(|| thread::spawn(send));
        Running {
            stop,
            sent,
            thread: Some(thread),
            templates,
            _ebpf: ebpf,
        }
    }
}

/// What the packets are written over: the kernel takes their protocol from it.
fn dummy() -> Vec<u8> {
    ethernet([0; 6], [0; 6], EtherType::IPV4, &[0; FRAME - 14], true)
}

fn template(frame: &[u8]) -> anyhow::Result<[u8; TEMPLATE]> {
    ensure!(frame.len() == FRAME, "a frame of {} bytes", frame.len());
    let mut template = [0; TEMPLATE];
    template[..FRAME].copy_from_slice(frame);
    Ok(template)
}

struct Sender {
    program: ProgramFd,
    live: ProgramFd,
    ifindex: u32,
    frames: u32,
    /// The first of the next run.
    next: u32,
}

impl Sender {
    fn at_rate(
        &mut self,
        rate: f64,
        every: Duration,
        stop: &AtomicBool,
        sent: &AtomicU64,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut total = 0;
        while !stop.load(Ordering::Relaxed) {
            let due = (begun.elapsed().as_secs_f64() * rate) as u64;
            // What it is late by more than a moment is not made up for.
            total = total.max(due.saturating_sub(u64::from(RUN) * 64));
            while total < due {
                let count = u32::try_from(due - total).unwrap_or(RUN).min(RUN);
                self.send(count)?;
                total += u64::from(count);
                sent.fetch_add(count.into(), Ordering::Relaxed);
            }
            thread::sleep(every);
        }
        Ok(())
    }

    fn flood(&mut self, stop: &AtomicBool, sent: &AtomicU64) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            self.send(RUN)?;
            sent.fetch_add(RUN.into(), Ordering::Relaxed);
        }
        Ok(())
    }

    fn live_flood(&mut self, stop: &AtomicBool, sent: &AtomicU64) -> anyhow::Result<()> {
        while !stop.load(Ordering::Relaxed) {
            run_live_frames(self.live.as_fd(), &dummy(), LIVE_RUN)?;
            sent.fetch_add(LIVE_RUN.into(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// The device is looked up in the calling thread's namespace.
    fn send(&mut self, count: u32) -> anyhow::Result<()> {
        let mut context = [0_u32; CB + 5];
        context[CB..CB + 4].copy_from_slice(&[count, self.next, self.frames, self.ifindex]);
        test_run(self.program.as_fd(), &dummy(), &context, &mut [])?;
        self.next = (self.next + count) % self.frames;
        Ok(())
    }
}

/// One that sends; it stops with the drop.
pub(crate) struct Running {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
    templates: Templates,
    _ebpf: Ebpf,
}

impl Running {
    /// Packets so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// From now on sends this in place of frame number so and so.
    pub(crate) fn replace(&mut self, number: u32, frame: &[u8]) -> anyhow::Result<()> {
        Ok(self.templates.set(number, template(frame)?, 0)?)
    }

    /// Ends it.
    ///
    /// # Errors
    /// It could not send.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.end()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().and_then(join).unwrap_or(Ok(()))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever wants to know why it could not send asks `stop`.
        let _ = self.end();
    }
}
