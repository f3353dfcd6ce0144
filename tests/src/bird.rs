//! BIRD 2, the BGP daemon, run by a test inside a namespace with a configuration, a control socket
//! and a process id file of its own.
//!
//! It has one neighbour, announces host routes, and writes those that it learns into the kernel's
//! table with the source address that they are to have.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::bed::{INTERFACE, PATIENCE};
use crate::netns::Netns;
use crate::process::Process;
use crate::wait::eventually;

/// `rtm_protocol` of its routes (`RTPROT_BIRD`).
pub const PROTOCOL: u8 = 12;
/// How often it looks at the kernel's table and interfaces without being told.
const SCAN: Duration = Duration::from_secs(1);
/// What it calls the session with its neighbour.
const BGP: &str = "bgp1";

/// What it is to do.
#[derive(Clone, Debug)]
pub struct Speaker {
    /// Its end of the link.
    pub local: Ipv4Addr,
    /// Its neighbour's end.
    pub neighbour: Ipv4Addr,
    /// Addresses that it announces.
    pub announces: Vec<Ipv4Addr>,
    /// Destinations that it may learn, and the source address of each one's route (`krt_prefsrc`).
    pub learns: Vec<(Ipv4Addr, Ipv4Addr)>,
}

/// A running one. Killed on drop; its log is shown if the test fails.
#[derive(Debug)]
pub struct Bird {
    process: Process,
    folder: TempDir,
}

impl Bird {
    /// Starts it and waits until it answers. Routes of an earlier one that are left in the table
    /// become its own, as after a crash.
    ///
    /// # Errors
    /// It does not start.
    pub fn start(netns: &Netns, speaker: &Speaker) -> anyhow::Result<Self> {
        Self::start_with(netns, &speaker.configuration())
    }

    /// Starts it with a configuration of the caller's and waits until it answers.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_with(netns: &Netns, configuration: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = |name: &str| folder.path().join(name);
        fs::write(path("bird.conf"), configuration)?;
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(path("bird.conf"));
        command.arg("-s").arg(path("bird.ctl"));
        command.arg("-P").arg(path("bird.pid"));
        let title = format!("log of bird in {}", netns.name());
        let process = Process::spawn(netns, &mut command, title)?;
        let bird = Self { process, folder };
        eventually(PATIENCE, "a bird that answers", || bird.ask("show status"))?;
        Ok(bird)
    }

    /// What it answers to a command, as `birdc` would print it.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub fn ask(&self, command: &str) -> anyhow::Result<String> {
        let socket = UnixStream::connect(self.folder.path().join("bird.ctl"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut lines = BufReader::new(&socket);
        reply(&mut lines).context("its greeting")?;
        (&socket).write_all(format!("{command}\n").as_bytes())?;
        reply(&mut lines).with_context(|| format!("`{command}`"))
    }

    /// Waits until the session with its neighbour is established.
    ///
    /// # Errors
    /// It is not in time.
    pub fn until_established(&self) -> anyhow::Result<()> {
        eventually(PATIENCE, "a BGP session", || {
            let shown = self.ask(&format!("show protocols {BGP}"))?;
            ensure!(shown.contains("Established"), "{shown}");
            anyhow::Ok(())
        })
    }

    /// Takes back one of the addresses that it announces, by its number in [`Speaker::announces`].
    ///
    /// # Errors
    /// There is no such address.
    pub fn withdraw(&self, number: usize) -> anyhow::Result<()> {
        self.ask(&format!("disable {}", name(number))).map(drop)
    }

    /// Announces it again.
    ///
    /// # Errors
    /// There is no such address.
    pub fn announce(&self, number: usize) -> anyhow::Result<()> {
        self.ask(&format!("enable {}", name(number))).map(drop)
    }

    /// Its view of the world: every route with all its attributes and the moment since when it has
    /// been so, the state of every protocol, and how many updates each has received, refused and
    /// passed on. What counts down by itself is left out.
    ///
    /// # Errors
    /// It does not answer.
    pub fn view(&self) -> anyhow::Result<String> {
        let mut view = self.ask("show route all")?;
        view += &self.ask("show protocols all")?;
        let steady = view.lines().filter(|line| !line.contains("timer:"));
        Ok(steady.collect::<Vec<_>>().join("\n"))
    }

    /// The view, once it has been the same for longer than BIRD takes between two looks at the
    /// kernel's table and interfaces.
    ///
    /// # Errors
    /// It does not answer, or goes on changing.
    pub fn settled_view(&self) -> anyhow::Result<String> {
        let mut view = self.view()?;
        let mut since = Instant::now();
        eventually(PATIENCE, "a view that does not change", || {
            let now = self.view()?;
            if now != view {
                (view, since) = (now, Instant::now());
            }
            ensure!(since.elapsed() > SCAN + SCAN / 2, "{view}");
            anyhow::Ok(view.clone())
        })
    }

    /// Ends it with a signal: on SIGTERM it takes its routes out of the kernel's table, on SIGKILL
    /// they stay.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn end(mut self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)?;
        self.process.wait().map(drop)
    }
}

impl Speaker {
    // Times to the minute: BIRD keeps them on another clock and converts them when it is asked, with
    // other microseconds each time, and some of them are next to the beginning of another second.
    fn configuration(&self) -> String {
        let Self {
            local, neighbour, ..
        } = self;
        // Two hosts, two systems: by the last bits of the link's addresses.
        let number = |end: &Ipv4Addr| 65_000 + u32::from(end.octets()[3]);
        let scan = SCAN.as_secs();
        let mut text = format!(
            "log stderr all;\n\
             router id {local};\n\
             timeformat route \"%F %H:%M\";\n\
             timeformat protocol \"%F %H:%M\";\n\
             debug protocols {{ states }};\n\
             protocol device {{ scan time {scan}; }}\n"
        );
        for (number, address) in self.announces.iter().enumerate() {
            let name = name(number);
            let _ = writeln!(
                text,
                "protocol static {name} {{ ipv4; route {address}/32 blackhole; }}"
            );
        }
        text += "filter installed {\n  if source != RTS_BGP then reject;\n";
        for (dst, src) in &self.learns {
            let _ = writeln!(
                text,
                "  if net = {dst}/32 then {{ krt_prefsrc = {src}; accept; }}"
            );
        }
        let _ = write!(
            text,
            "  reject;\n}}\n\
             protocol kernel {{\n\
             \x20 scan time {scan};\n\
             \x20 ipv4 {{ import none; export filter installed; }};\n\
             }}\n\
             protocol bgp {BGP} {{\n\
             \x20 local {local} as {}; neighbor {neighbour} as {};\n\
             \x20 direct; interface \"{INTERFACE}\";\n\
             \x20 hold time 90; connect delay time 1; connect retry time 1;\n\
             \x20 error wait time 1, 1; error forget time 1;\n\
             \x20 graceful restart off; long lived graceful restart off;\n\
             \x20 ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};\n\
             }}\n",
            number(local),
            number(neighbour),
        );
        text
    }
}

/// One reply: lines of `CODE-text`, whose code is left out where it is the last line's, and at last
/// `CODE text`. Codes from 8000 on are refusals.
fn reply(lines: &mut impl BufRead) -> anyhow::Result<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        ensure!(lines.read_line(&mut line)? > 0, "cut off: {text}");
        if let Some(more) = line.strip_prefix(' ') {
            text += more;
            continue;
        }
        let (code, said) = line.split_at_checked(5).context("a line without a code")?;
        text += said;
        if code.ends_with(' ') {
            ensure!(code < "8000", "{text}");
            return Ok(text);
        }
    }
}

/// What it calls the source of an announced address.
fn name(number: usize) -> String {
    format!("route{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_end_with_a_code_and_a_space() {
        let mut lines =
            "1007-Table master4:\n 10.1.0.2/32\n1008-\tType: static\n0000 \n".as_bytes();
        let text = reply(&mut lines).expect("a reply");
        assert_eq!(text, "Table master4:\n10.1.0.2/32\n\tType: static\n\n");
        let refused = reply(&mut "8003 route9: no such protocol\n".as_bytes());
        assert!(refused.expect_err("refused").to_string().contains("route9"));
        assert!(reply(&mut "1007-Table master4:\n".as_bytes()).is_err());
    }
}
