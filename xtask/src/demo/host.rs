//! One of the two hosts: a namespace with a `doublezero0`, and the agent in it.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, bail};

use super::agent::Agent;
use super::console::Console;
use super::stage::Stage;

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    /// For people: `A` or `B`.
    pub(super) name: &'static str,
    /// Its namespace.
    pub(super) netns: String,
    /// How its agent attaches: an argument of `--attach`.
    pub(super) attach: &'static str,
    /// What the session is bound to.
    pub(super) address: Ipv4Addr,
    /// Its end of the link, the other host's gateway.
    pub(super) link: Ipv4Addr,
    /// Its place on the wire.
    pub(super) port: &'static str,
    prefix: String,
    lower: &'static str,
    agent: Option<Agent>,
    /// Lines of the agent's log that the reader has seen.
    seen: usize,
}

impl Host {
    pub(super) fn a(prefix: &str) -> Self {
        Self {
            name: "A",
            netns: format!("{prefix}-a"),
            attach: "tc",
            address: Ipv4Addr::new(10, 99, 0, 1),
            link: Ipv4Addr::new(169, 254, 7, 0),
            port: "port-a",
            prefix: prefix.to_owned(),
            lower: "a",
            agent: None,
            seen: 0,
        }
    }

    pub(super) fn b(prefix: &str) -> Self {
        Self {
            name: "B",
            netns: format!("{prefix}-b"),
            attach: "xdp-generic",
            address: Ipv4Addr::new(10, 99, 0, 2),
            link: Ipv4Addr::new(169, 254, 7, 1),
            port: "port-b",
            prefix: prefix.to_owned(),
            lower: "b",
            agent: None,
            seen: 0,
        }
    }

    fn file(&self, extension: &str) -> PathBuf {
        Stage::folder(&self.prefix).join(format!("{}.{extension}", self.lower))
    }

    /// Where the agent logs.
    pub(super) fn log(&self) -> PathBuf {
        self.file("log")
    }

    /// Where the agent pins.
    pub(super) fn pin_dir(&self) -> PathBuf {
        Stage::pin_dir(&self.prefix, self.lower)
    }

    /// A file for something that is shown.
    pub(super) fn scratch(&self, name: &str) -> PathBuf {
        Stage::folder(&self.prefix).join(name)
    }

    /// A command line that runs inside the namespace. Not with `ip netns exec`, which mounts
    /// another /sys and so hides the BPF file system.
    pub(super) fn inside(&self, line: &str) -> String {
        format!("nsenter --net=/run/netns/{} {line}", self.netns)
    }

    /// A command line that asks the agent.
    pub(super) fn ask(&self, words: &str) -> String {
        format!("dz-agent --socket {} {words}", self.file("sock").display())
    }

    /// Starts the agent and waits until it is ready.
    ///
    /// # Errors
    /// It ends, or is not ready in time.
    pub(super) fn start(&mut self, console: &mut Console) -> anyhow::Result<()> {
        let run = format!(
            "run --attach {} --tx-interval 300ms --rx-interval 300ms --backoff-cap 1s \
             --follow proto=bgp \
             --pin-dir {} --state-dir {}",
            self.attach,
            self.pin_dir().display(),
            self.file("state").display()
        );
        let line = self.inside(&self.ask(&run));
        let log = self.log();
        let file = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        console.line(&format!("{line} 2> {} &", log.display()))?;
        self.agent = Some(Agent::new(console.spawn(&line, file.into())?));
        self.wait_log(console, "ready")
    }

    /// The agent.
    ///
    /// # Errors
    /// It was not started.
    pub(super) fn agent(&mut self) -> anyhow::Result<&mut Agent> {
        let name = self.name;
        let agent = self.agent.as_mut();
        agent.with_context(|| format!("the agent of {name} does not run"))
    }

    /// The lines that the reader has not seen yet.
    fn news(&self) -> anyhow::Result<Vec<String>> {
        let log = self.log();
        let text =
            fs::read_to_string(&log).with_context(|| format!("reading {}", log.display()))?;
        let lines = text.split_inclusive('\n').skip(self.seen);
        Ok(lines
            .filter(|line| line.ends_with('\n'))
            .map(str::to_owned)
            .collect())
    }

    /// Whether one of the lines that the reader has not seen yet contains this.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) fn has_logged(&self, text: &str) -> anyhow::Result<bool> {
        Ok(self.news()?.iter().any(|line| line.contains(text)))
    }

    /// Waits for a line that contains this among those that the reader has not seen yet.
    ///
    /// # Errors
    /// It does not come in time, or the agent ends.
    pub(super) fn wait_log(&mut self, console: &Console, text: &str) -> anyhow::Result<()> {
        let what = format!("`{text}` in the log of {}", self.name);
        console.wait(&what, || {
            if self.has_logged(text)? {
                return Ok(Some(()));
            }
            if let Some(status) = self.agent()?.ended()? {
                bail!("the agent of {} has ended: {status}", self.name);
            }
            Ok(None)
        })
    }

    /// Shows the lines that the reader has not seen yet.
    ///
    /// # Errors
    /// As [`Console::show`].
    pub(super) fn show_news(&mut self, console: &mut Console) -> anyhow::Result<()> {
        let first = self.seen + 1;
        let text = console.show(&format!("tail -n +{first} {}", self.log().display()))?;
        self.seen += text.lines().count();
        Ok(())
    }
}
