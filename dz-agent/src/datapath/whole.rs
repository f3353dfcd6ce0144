//! The kernel part as a whole, which the engine uses.

use std::io;
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use dz_common::control::{OP_START_GROUP, Request};
use dz_common::counters::Counter;
use dz_common::ingress::Link;
use dz_common::map::{Config, SLOTS_PER_GROUP};

use super::attach::{self, Attachment, Ready};
use super::choice::Choice;
use super::clock::now_ns;
use super::held::{Device, Mended};
use super::hook::{AttachMode, Hook};
use super::layout::{check_shapes, earlier, slots};
use super::links::Links;
use super::made::MadePins;
use super::maps::{MapReader, Maps};
use super::names::{CONTROL, TRANSMIT};
use super::object::Object;
use super::programs::{Order, Runner, Transmitted};
use super::settings::Settings;
use crate::error::{ExitCode, FailWith, Failure};
use crate::net::links::Interface;

/// The loaded kernel part, which holds its parts and hands each call to one of them.
pub struct Datapath {
    maps: Maps,
    reader: Arc<MapReader>,
    object: Object,
    runner: Runner,
    links: Links,
    slots: u32,
    /// The settings that [`Self::begin`] writes, or has written.
    config: Config,
    /// The pins of maps that were not there.
    made: MadePins,
}

impl Datapath {
    /// Loads programs and maps. What an earlier agent has left goes on as it was until [`Self::begin`]; maps that
    /// are made here are removed if that does not come.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`] if the kernel refuses a map or a program;
    /// [`ExitCode::Failure`] if the pinned maps are of another layout, or cannot be read.
    pub fn load(settings: &Settings) -> Result<Self, Failure> {
        let pin_dir = &settings.pin_dir;
        let slots = slots(pin_dir, settings.max_sessions)?;
        let earlier = earlier(pin_dir)?;
        check_shapes(pin_dir)?;
        let made = MadePins::of_missing(pin_dir)?;
        let mut object = Object::new(pin_dir, slots)?;
        for name in [TRANSMIT, CONTROL] {
            object.program(name)?;
        }
        let reader = MapReader::from_pins(pin_dir).fail_with(ExitCode::Kernel, || {
            format!("maps in {}", pin_dir.display())
        })?;
        let maps = Maps::take(&mut object, slots).fail_with(ExitCode::Kernel, || {
            format!("maps in {}", pin_dir.display())
        })?;
        let runner = Runner::new(&mut object)?;
        let config = settings.after(earlier.as_ref());
        let config = config.config(slots.div_ceil(SLOTS_PER_GROUP));
        Ok(Self {
            maps,
            reader: Arc::new(reader),
            object,
            runner,
            links: Links::new(pin_dir)?,
            slots,
            config,
            made,
        })
    }

    /// Attaches to the interfaces that have been made ready, and has the kernel part go on with our settings, and
    /// a first heartbeat. Everything that changes what an earlier agent has left is done here.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`] if a timer does not start, [`ExitCode::Interface`] if a device does not carry a program
    /// after all. The settings are those of the earlier agent then.
    pub fn begin(&mut self, ready: Vec<Ready>) -> Result<Vec<Attachment>, Failure> {
        self.start_timers()?;
        let attachments = attach::attach(&mut self.object, &self.links, ready)?;
        self.maps.set_config(self.config);
        self.maps.beat(now_ns());
        self.keep_maps();
        Ok(attachments)
    }

    /// Leaves the maps that were made in their place, from now on.
    pub(super) fn keep_maps(&mut self) {
        self.made.keep();
    }

    /// Loads every program of an interface, to be sure that the kernel takes them when an interface comes
    /// that needs one. The verifier takes some hundredths of a second for each, so those that are
    /// needed at once are loaded by [`Datapath::attach`], and the others only for this.
    ///
    /// # Errors
    /// [`ExitCode::Kernel`] if the kernel refuses one.
    pub fn load_all(&mut self) -> Result<(), Failure> {
        let links = [Link::Layer3, Link::Ethernet];
        for hook in [Hook::Ingress(AttachMode::Tc), Hook::Egress] {
            for link in links {
                self.object.program(hook.program(link))?;
            }
        }
        let xdp = Hook::Ingress(AttachMode::Xdp).program(Link::Ethernet);
        self.object.program(xdp).map(|_| ())
    }

    /// Returns how many sessions there is room for.
    pub const fn slots(&self) -> u32 {
        self.slots
    }

    /// Returns the protocol numbers that routes of ours may have beside our own: those of earlier agents.
    pub fn earlier_protocols(&self) -> impl Iterator<Item = u8> + use<> {
        let [_, earlier @ ..] = self.config.route_protocols;
        earlier.into_iter().filter(|number| *number != 0)
    }

    /// Notes that all of our routes have our own number.
    pub fn forget_earlier_protocols(&mut self) {
        let [_, earlier @ ..] = &mut self.config.route_protocols;
        *earlier = [0; 3];
        self.maps.set_config(self.config);
    }

    /// Returns the access to the maps.
    pub const fn maps(&self) -> &Maps {
        &self.maps
    }

    /// Returns the access to the maps that also changes entries of hash maps.
    pub const fn maps_mut(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// Returns the access of another thread, which only reads.
    pub const fn reader(&self) -> &Arc<MapReader> {
        &self.reader
    }

    /// Hands over the ring of state changes, once.
    pub const fn take_events(&mut self) -> Option<RingBuf<MapData>> {
        self.maps.take_events()
    }

    /// Passes on what the kernel programs log, at debug level. Needs a tokio runtime.
    ///
    /// # Errors
    /// If the programs log nothing at all, which only an unusual object does.
    pub fn forward_logs(&mut self) -> Result<(), Failure> {
        self.object.forward_logs()
    }

    /// Makes ready to attach to an interface.
    ///
    /// # Errors
    /// [`ExitCode::Interface`] if the device cannot carry any of the modes chosen.
    pub fn ready(
        &mut self,
        interface: &Interface,
        link: Link,
        choice: &Choice,
    ) -> Result<Ready, Failure> {
        attach::ready(&mut self.object, &self.links, interface, link, choice)
    }

    /// Attaches to interfaces that have come while the agent runs, or takes over from an earlier agent there.
    ///
    /// # Errors
    /// [`ExitCode::Interface`] if a device does not carry a program after all.
    pub fn attach(&mut self, ready: Vec<Ready>) -> Result<Vec<Attachment>, Failure> {
        attach::attach(&mut self.object, &self.links, ready)
    }

    /// Looks where the programs of an interface are, and puts right what is not as it should be.
    pub fn keep(&mut self, attachment: &mut Attachment, device: &Device<'_>) -> Vec<Mended> {
        attachment.keep(&mut self.object, &self.links, device)
    }

    /// Says whether TC has links here, or filters, which have to be asked for over netlink ([`Device`]).
    pub const fn has_tcx(&self) -> bool {
        self.links.has_tcx()
    }

    /// Has the transmit program look at sessions; `done` gets every order with its outcome.
    ///
    /// The program resolves interfaces in the network namespace of the calling thread.
    ///
    /// # Errors
    /// If the program could not be run; the orders since the last call of `done` are undone.
    pub fn transmit(
        &self,
        orders: &[Order],
        done: impl FnMut(&Order, Transmitted),
    ) -> io::Result<()> {
        self.runner.transmit(&self.maps, orders, done)
    }

    /// Runs the control program; returns its exit.
    ///
    /// # Errors
    /// If the program could not be run.
    pub fn control(&self, request: &Request) -> io::Result<Counter> {
        self.runner.control(request)
    }

    /// Returns the object, whose programs a takeover swaps into links.
    pub(super) const fn object(&mut self) -> &mut Object {
        &mut self.object
    }

    /// Returns how many groups of deadlines there are.
    pub(super) const fn groups(&self) -> u32 {
        self.slots.div_ceil(SLOTS_PER_GROUP)
    }

    /// Starts the timers. A start whose timers do not start must fail: sessions would never be detected as
    /// Down.
    pub(super) fn start_timers(&self) -> Result<(), Failure> {
        let groups = self.groups();
        for index in 0..groups {
            let request = Request {
                op: OP_START_GROUP,
                index,
                ..Request::NONE
            };
            let why = match self.runner.control(&request) {
                Ok(Counter::ControlDone) => continue,
                Ok(exit) => exit.name().to_owned(),
                Err(error) => error.to_string(),
            };
            return Err(Failure::new(
                ExitCode::Kernel,
                format!(
                    "detection timer {index} of {groups} does not start: {why}; lower \
                     --max-sessions, or let the agent have more memory"
                ),
            ));
        }
        Ok(())
    }
}
