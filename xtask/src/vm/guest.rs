//! What runs in the guest, one program after the other, and what comes back: the programs' output on
//! two ports, with a mark where each begins and ends.

use std::fmt::Write;
use std::time::Duration;

/// One program to run in the guest.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    /// Program and arguments.
    words: Vec<String>,
    environment: Vec<(String, String)>,
    folder: String,
    deadline: Duration,
}

impl Job {
    /// A program, by its place in the guest or its name on the path, to be killed after so long.
    pub(crate) fn new(program: &str, deadline: Duration) -> Self {
        Self {
            words: vec![program.to_owned()],
            environment: Vec::new(),
            folder: "/".to_owned(),
            deadline,
        }
    }

    /// Adds an argument.
    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.words.push(arg.into());
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Where it runs: a folder of the guest.
    pub(crate) fn folder(mut self, folder: &str) -> Self {
        self.folder = folder.to_owned();
        self
    }

    /// How long it may run.
    pub(crate) fn deadline(&self) -> Duration {
        self.deadline
    }
}

/// Which of a program's outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    Output,
    Error,
}

/// The first process of the guest, in the shell's language.
///
/// `mark` is a word that no program prints.
pub(crate) fn init(modules: &[String], jobs: &[Job], mark: &str) -> String {
    let mut script = String::from(BEGINNING);
    for module in modules {
        let _ = writeln!(script, "insmod /modules/{module}.ko");
    }
    script.push_str(PORTS);
    for (number, job) in jobs.iter().enumerate() {
        let seconds = job.deadline.as_secs();
        let mut command = String::new();
        for (name, value) in &job.environment {
            let _ = write!(command, "{name}={} ", quoted(value));
        }
        let _ = write!(command, "timeout -s KILL {seconds}");
        for word in &job.words {
            let _ = write!(command, " {}", quoted(word));
        }
        let _ = write!(
            script,
            "echo \"{mark} begin {number}\" >&3\n\
             ( cd {} && {command} ) </dev/null >&3 2>&4 3>&- 4>&-\n\
             status=$?\n\
             echo \"{mark} end {number} $status\" >&4\n\
             echo \"{mark} end {number} $status\" >&3\n\
             [ $status = 0 ] || after_failure\n",
            quoted(&job.folder)
        );
    }
    let _ = writeln!(script, "echo \"{mark} done\" >&3\npoweroff -f");
    script
}

/// Everything but init and kernel threads is killed after a failure: what a killed program has left
/// must not meet the next one.
const BEGINNING: &str = "\
#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +memory > /sys/fs/cgroup/cgroup.subtree_control
mkdir -p /dev/shm /dev/pts /run/netns /run/lock
mount -t devpts devpts /dev/pts
ip link set lo up
hostname vm
after_failure() {
    dmesg | tail -n 40
    kill -9 -1
}
";

/// The ports come some time after their driver. They can be opened once only.
const PORTS: &str = "
tries=0
while ! [ -e /dev/vport*p1 ] || ! [ -e /dev/vport*p2 ]; do
    tries=$((tries + 1))
    if [ $tries = 300 ]; then echo 'no ports for results'; poweroff -f; fi
    sleep 0.1
done
exec 3>$(echo /dev/vport*p1) 4>$(echo /dev/vport*p2)
";

/// For the shell: in single quotes.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// What a line on a port says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// A program's output.
    Text(&'a str),
    /// A program starts.
    Begin(usize),
    /// It has ended with this status, after an output without an end of line.
    End(usize, i32, &'a str),
    /// There are no more programs.
    Done,
}

/// Reads a line. What is not a sound mark is text.
pub(crate) fn line<'a>(text: &'a str, mark: &str) -> Line<'a> {
    let Some((before, after)) = text.split_once(mark) else {
        return Line::Text(text);
    };
    let words: Vec<_> = after.split_whitespace().collect();
    match words[..] {
        ["begin", number] => number.parse().map_or(Line::Text(text), Line::Begin),
        ["end", number, status] => match (number.parse(), status.parse()) {
            (Ok(number), Ok(status)) => Line::End(number, status, before),
            _ => Line::Text(text),
        },
        ["done"] => Line::Done,
        _ => Line::Text(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_told_from_output() {
        assert_eq!(line("test a ... ok", "#7"), Line::Text("test a ... ok"));
        assert_eq!(line("#7 begin 3", "#7"), Line::Begin(3));
        assert_eq!(line("#7 end 3 101", "#7"), Line::End(3, 101, ""));
        assert_eq!(
            line("no newline#7 end 0 0", "#7"),
            Line::End(0, 0, "no newline")
        );
        assert_eq!(line("#7 done", "#7"), Line::Done);
        assert_eq!(line("#7 end x", "#7"), Line::Text("#7 end x"));
    }

    #[test]
    fn words_survive_the_shell() {
        let job = Job::new("echo", Duration::from_secs(9))
            .arg("it's")
            .env("A", "b c");
        let script = init(&["veth".to_owned()], &[job], "#7");
        assert!(
            script.contains(r"A='b c' timeout -s KILL 9 'echo' 'it'\''s'"),
            "{script}"
        );
        assert!(script.contains("insmod /modules/veth.ko\n"), "{script}");
    }
}
