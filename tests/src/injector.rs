//! System calls of a child that fail, or after which it is killed: the kernel asks a thread of the test about each
//! (`SECCOMP_RET_USER_NOTIF`). Other than `strace -e inject` it counts calls over all threads of the child, by what they
//! are and work on, and exactly one of them is hit.

mod kind;
mod listener;

use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub use kind::errors;
use listener::{Asked, Listener};

use crate::netns::Netns;
use crate::priority;

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails, and is not carried out.
    Error(Errno),
    /// It is carried out, and the child is killed before its thread makes another one.
    Kill,
}

/// A call of a child: the `number`th of its kind, beginning with 1, since the child was told to be watched.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// What is called, and on what.
    pub kind: String,
    /// Which of them.
    pub number: usize,
}

/// The watch over a child's calls. It ends with the child.
#[derive(Debug)]
pub struct Injector {
    watch: Arc<Mutex<Watch>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread does with the next call.
#[derive(Debug, Default)]
enum Task {
    /// Lets it through.
    #[default]
    Nothing,
    /// Writes it down.
    Record(Vec<String>),
    /// Waits for one.
    Wait {
        call: Call,
        fault: Fault,
        seen: usize,
    },
    /// It has met the call, after which it kills what this thread has started with.
    KillAfter { thread: i32 },
    /// It has done what it was told.
    Done,
}

#[derive(Debug)]
struct Watch {
    /// The thread that starts the child: its own calls are not the child's.
    starter: i32,
    /// The child, when it has become the program: what the dynamic loader calls is not the program's.
    child: Option<i32>,
    begun: bool,
    task: Task,
}

impl Injector {
    /// Starts a child inside a namespace, whose calls are hit by the fault, or written down if there is none.
    ///
    /// # Errors
    /// The program cannot be started, or the kernel cannot ask.
    pub fn spawn(
        netns: &Netns,
        command: &mut Command,
        fault: Option<(Call, Fault)>,
    ) -> io::Result<(Child, Self)> {
        netns.run(|| {
            let watch = Arc::new(Mutex::new(Watch {
                starter: nix::unistd::gettid().as_raw(),
                child: None,
                begun: false,
                task: Task::of(fault),
            }));
            let (hand_over, listeners) = std::sync::mpsc::channel();
            let thread = thread::Builder::new().name("injector".into()).spawn({
                let watch = Arc::clone(&watch);
                move || {
                    // Who asks waits; without the privilege it waits for longer.
                    let _ = priority::raise(0);
                    if let Ok(listener) = listeners.recv() {
                        follow(&listener, &watch);
                    }
                }
            })?;
            // From here on this thread asks, too; it ends with this closure.
            let listener = Listener::install()?;
            let _ = hand_over.send(listener);
            let child = command.spawn()?;
            let thread = Some(thread);
            Ok((child, Self { watch, thread }))
        })
    }

    /// Begins anew, counting from now on: with a fault, or by writing down.
    pub fn begin(&self, fault: Option<(Call, Fault)>) {
        self.watch().task = Task::of(fault);
    }

    /// Ends it, and returns the kinds of the calls that were written down, in order.
    #[must_use]
    pub fn end(&self) -> Vec<String> {
        match std::mem::take(&mut self.watch().task) {
            Task::Record(kinds) => kinds,
            _ => Vec::new(),
        }
    }

    /// Says whether the call has come and what was to become of it has.
    #[must_use]
    pub fn has_hit(&self) -> bool {
        matches!(self.watch().task, Task::Done | Task::KillAfter { .. })
    }

    fn watch(&self) -> MutexGuard<'_, Watch> {
        lock(&self.watch)
    }
}

impl Drop for Injector {
    /// Waits for the end of the child, which is to be dropped first.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Task {
    fn of(fault: Option<(Call, Fault)>) -> Self {
        match fault {
            None => Self::Record(Vec::new()),
            Some((call, fault)) => Self::Wait {
                call,
                fault,
                seen: 0,
            },
        }
    }
}

fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers until nobody is left who could ask.
fn follow(listener: &Listener, watch: &Mutex<Watch>) {
    loop {
        let mut files = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        match ppoll(&mut files, None, None) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
        let events = files[0].revents().unwrap_or(PollFlags::POLLHUP);
        if events.contains(PollFlags::POLLIN) {
            match listener.next() {
                Ok(Some(asked)) => {
                    let decision = lock(watch).decide(&asked);
                    match decision {
                        Decision::GoOn => listener.go_on(&asked),
                        Decision::Fail(errno) => listener.fail(&asked, errno as i32),
                        Decision::Kill(child) => {
                            // A child that is gone already needs no signal.
                            let _ = kill(Pid::from_raw(child), Signal::SIGKILL);
                        }
                    }
                }
                Ok(None) => {}
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(_) => return,
            }
        } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) {
            return;
        }
    }
}

enum Decision {
    GoOn,
    Fail(Errno),
    Kill(i32),
}

impl Watch {
    fn decide(&mut self, asked: &Asked) -> Decision {
        if asked.thread == self.starter {
            return Decision::GoOn;
        }
        if asked.number == libc::SYS_execve {
            self.child = Some(asked.thread);
            return Decision::GoOn;
        }
        let Some(child) = self.child else {
            return Decision::GoOn;
        };
        // The standard library's first own call in a program; before it, the dynamic loader's.
        self.begun |= asked.number == libc::SYS_sigaltstack;
        if !self.begun {
            return Decision::GoOn;
        }
        match &mut self.task {
            Task::Nothing | Task::Done => Decision::GoOn,
            Task::Record(kinds) => {
                kinds.extend(kind::of(asked, child));
                Decision::GoOn
            }
            Task::KillAfter { thread } if *thread == asked.thread => {
                self.task = Task::Done;
                Decision::Kill(child)
            }
            Task::KillAfter { .. } => Decision::GoOn,
            Task::Wait { call, fault, seen } => {
                if !kind::is_of(asked, child, &call.kind) {
                    return Decision::GoOn;
                }
                *seen += 1;
                if *seen != call.number {
                    return Decision::GoOn;
                }
                match *fault {
                    Fault::Error(errno) => {
                        self.task = Task::Done;
                        Decision::Fail(errno)
                    }
                    Fault::Kill => {
                        let thread = asked.thread;
                        self.task = Task::KillAfter { thread };
                        Decision::GoOn
                    }
                }
            }
        }
    }
}
