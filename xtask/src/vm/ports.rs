//! The ports of a machine, and what the lines that come in there say about the programs: which runs,
//! what it prints, how it ends.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::mpsc::Sender;
use std::thread;
use std::time::Duration;

use super::guest::{self, Line, Stream};

/// What a machine says while it runs.
pub(crate) enum Event<'a> {
    /// A program starts; its number.
    Begin(usize),
    /// One line of what it prints.
    Text(Stream, &'a str),
    /// It has ended with this exit code; 137 if it was killed after its deadline.
    End(usize, i32),
}

/// How a machine ended.
pub(crate) struct Ended {
    /// Why not every program has run to its end, if so.
    pub(crate) cut_off: Option<String>,
    /// The kernel's log.
    pub(crate) console: String,
}

/// Where a machine says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// The kernel's log.
    Console,
    Output,
    Error,
}

impl Port {
    pub(super) const ALL: [Self; 3] = [Self::Console, Self::Output, Self::Error];

    /// Its name in QEMU, and of the socket that it is.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Console => "console",
            Self::Output => "output",
            Self::Error => "error",
        }
    }
}

/// Sends what comes in at a port, line by line, to `lines`, until the machine closes it.
///
/// # Errors
/// The socket cannot be made.
pub(super) fn listen(
    folder: &Path,
    port: Port,
    lines: Sender<(Port, String)>,
) -> anyhow::Result<()> {
    let listener = UnixListener::bind(folder.join(port.name()))?;
    thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            read_lines(stream, |line| lines.send((port, line)).is_ok());
        }
    });
    Ok(())
}

fn read_lines(stream: impl Read, mut each: impl FnMut(String) -> bool) {
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line);
        if !each(text.trim_end_matches(['\n', '\r']).to_owned()) {
            return;
        }
        line.clear();
    }
}

/// What is known about the programs so far.
#[derive(Default)]
pub(super) struct State {
    console: String,
    /// The program whose standard output is read.
    running: usize,
    /// The program whose standard error is read.
    erring: usize,
    /// A program that has ended by its standard output, and its exit code, while its standard error
    /// is still read: the ports are not read in step.
    ending: Option<(usize, i32)>,
    /// What has come meanwhile.
    waiting: Vec<String>,
    finished: usize,
    done: bool,
}

impl State {
    /// Takes in a line, and says what it means.
    pub(super) fn line(
        &mut self,
        port: Port,
        text: &str,
        mark: &str,
        each: &mut impl FnMut(Event<'_>),
    ) {
        match port {
            Port::Console => {
                self.console += text;
                self.console.push('\n');
            }
            Port::Output if self.ending.is_some() => self.waiting.push(text.to_owned()),
            Port::Output => self.output(text, mark, each),
            Port::Error => self.error(text, mark, each),
        }
        let Some((job, code)) = self.ending.filter(|(job, _)| *job < self.erring) else {
            return;
        };
        self.ending = None;
        self.finished = job + 1;
        each(Event::End(job, code));
        for text in std::mem::take(&mut self.waiting) {
            self.line(Port::Output, &text, mark, each);
        }
    }

    fn output(&mut self, text: &str, mark: &str, each: &mut impl FnMut(Event<'_>)) {
        match guest::line(text, mark) {
            Line::Text(text) => each(Event::Text(Stream::Output, text)),
            Line::Begin(job) => {
                self.running = job;
                each(Event::Begin(job));
            }
            Line::End(job, code, before) => {
                if !before.is_empty() {
                    each(Event::Text(Stream::Output, before));
                }
                self.ending = Some((job, code));
            }
            Line::Done => self.done = true,
        }
    }

    fn error(&mut self, text: &str, mark: &str, each: &mut impl FnMut(Event<'_>)) {
        let (text, next) = match guest::line(text, mark) {
            Line::End(job, _, before) => (before, job + 1),
            _ => (text, self.erring),
        };
        if !text.is_empty() {
            each(Event::Text(Stream::Error, text));
        }
        self.erring = next;
    }

    /// After the last line.
    pub(super) fn end(self, jobs: usize, late: Option<Duration>, status: ExitStatus) -> Ended {
        let cut_off = if self.done && self.finished == jobs {
            None
        } else if let Some(limit) = late {
            Some(format!(
                "the machine was stopped after {} s",
                limit.as_secs()
            ))
        } else {
            Some(format!("the machine died ({status})"))
        };
        Ended {
            cut_off,
            console: self.console,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    /// What the lines of both ports, in this order, are taken for.
    fn events(state: &mut State, lines: &[(Port, &str)]) -> Vec<String> {
        let mut seen = Vec::new();
        for (port, text) in lines {
            state.line(*port, text, "#7", &mut |event| {
                seen.push(match event {
                    Event::Begin(job) => format!("begin {job}"),
                    Event::Text(stream, text) => format!("{stream:?}: {text}"),
                    Event::End(job, code) => format!("end {job} {code}"),
                });
            });
        }
        seen
    }

    #[test]
    fn a_program_has_ended_when_both_ports_say_so() {
        let mut state = State::default();
        let lines = [
            (Port::Output, "#7 begin 0"),
            (Port::Output, "test a ... ok"),
            (Port::Output, "#7 end 0 101"),
            (Port::Output, "#7 begin 1"),
            (Port::Console, "kernel: hello"),
            (Port::Error, "a panic#7 end 0 101"),
            (Port::Error, "#7 end 1 0"),
            (Port::Output, "#7 end 1 0"),
            (Port::Output, "#7 done"),
        ];
        let expected = [
            "begin 0",
            "Output: test a ... ok",
            "Error: a panic",
            "end 0 101",
            "begin 1",
            "end 1 0",
        ];
        assert_eq!(events(&mut state, &lines), expected);
        let ended = state.end(2, None, ExitStatus::from_raw(0));
        assert_eq!(ended.cut_off, None);
        assert_eq!(ended.console, "kernel: hello\n");
    }

    #[test]
    fn a_machine_that_does_not_say_done_was_cut_off() {
        let mut state = State::default();
        events(&mut state, &[(Port::Output, "#7 begin 0")]);
        let died = state.end(1, None, ExitStatus::from_raw(0)).cut_off;
        assert_eq!(died.as_deref(), Some("the machine died (exit status: 0)"));
        let mut state = State::default();
        events(&mut state, &[(Port::Output, "#7 done")]);
        let late = Some(Duration::from_secs(9));
        let late = state.end(1, late, ExitStatus::from_raw(9)).cut_off;
        assert_eq!(late.as_deref(), Some("the machine was stopped after 9 s"));
    }
}
