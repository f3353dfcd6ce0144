//! One agent process: the engine, given its turns as the loop gives them, one question at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use fastrand::Rng;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;

use super::machine::Machine;
use crate::command::Command;
use crate::engine::hands::memory::MemoryHands;
use crate::engine::hands::pending::{Pauses, Requests};
use crate::engine::parts::{Engine, Prepared};
use crate::engine::show::shared::Shared;
use crate::engine::state::followed::Followed;
use crate::engine::state::wants::Wants;
use crate::engine::turn::Turn;
use crate::error::Failure;
use crate::host::identity::Identity;
use crate::memory::Handle;
use crate::metrics::Recorded;
use crate::settings::RunOptions;
use crate::view::MetricsView;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
/// Turns that a process takes before others have theirs, lest a loop without an end hangs the story.
const TURNS: usize = 10_000;

type Sim = Engine<MemoryHands>;

/// What the process does.
enum Task {
    Idle(Box<Sim>),
    /// In the middle of a turn.
    Busy(LocalBoxFuture<'static, Box<Sim>>),
    /// Starting, or withdrawing: it may end with this.
    Ending(LocalBoxFuture<'static, Result<Box<Sim>, Failure>>),
}

/// How far a process is that was told to stop for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    Told,
    Withdrawing,
    Last,
}

/// What became of a process after it has had its turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It lives, and wants to be woken up by then at the latest, ns.
    Until(u64),
    /// It has died in the middle of something.
    Killed,
    /// It could not start, and is to be started again.
    Failed,
    /// It has taken everything back, as it was told.
    Withdrawn,
    /// The same, but something is left, and it has said so.
    Left,
    /// It takes turn after turn and comes to no end.
    Endless,
}

/// One agent process.
pub(super) struct Agent {
    task: Option<Task>,
    pub(super) handle: Handle,
    requests: Requests,
    pauses: Pauses,
    pub(super) commands: VecDeque<Command>,
    beat_ns: u64,
    check_ns: u64,
    stopping: Stopping,
    /// Nothing was pinned when it began.
    fresh: bool,
}

impl Agent {
    /// Starts a process on a machine.
    pub(super) fn start(machine: &Machine, options: RunOptions) -> Self {
        let (handle, hands) = machine.hands(&options);
        let fresh = machine.kernel.borrow().maps().is_none();
        let (requests, pauses) = (hands.requests().clone(), hands.pauses().clone());
        let loading = handle.clone();
        let settings = crate::engine::hands::chosen::settings(&options);
        let begun = async move {
            loading.load(&settings)?;
            let (_, metrics) = watch::channel(MetricsView::Off);
            let shared = Arc::new(Shared::new(Recorded::default(), metrics));
            let conditions = options.conditions()?;
            let prepared = Prepared {
                wants: Wants::new(
                    Default::default(),
                    options.policy(),
                    Followed::new(conditions),
                ),
                identity: Identity::known([7; 16]),
                leaving: Vec::new(),
            };
            let mut engine = Box::new(Engine::new(hands, options, prepared, shared)?);
            engine.start().await?;
            Ok(engine)
        };
        let now_ns = handle.now_ns();
        Self {
            task: Some(Task::Ending(begun.boxed_local())),
            handle,
            requests,
            pauses,
            commands: VecDeque::new(),
            beat_ns: 0,
            check_ns: now_ns + 10 * SECOND,
            stopping: Stopping::No,
            fresh,
        }
    }

    /// Tells it to take everything back (SIGTERM).
    pub(super) fn stop(&mut self) {
        if self.stopping == Stopping::No {
            self.stopping = Stopping::Told;
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping != Stopping::No
    }

    /// Says whether it has nothing in hand: no turn, no request that the kernel has not answered.
    pub(super) fn is_idle(&self) -> bool {
        matches!(self.task, Some(Task::Idle(_)))
    }

    /// Gives it its turns until it has nothing to do any more for now.
    pub(super) fn run(&mut self, machine: &Machine, rng: &mut Rng) -> Life {
        let mut context = Context::from_waker(Waker::noop());
        for _ in 0..TURNS {
            if !self.handle.is_alive() {
                return Life::Killed;
            }
            let now_ns = self.handle.now_ns();
            // Busy machines: an answer of the kernel's may take its time.
            let slow = rng.u8(..) < 40;
            let task = self.task.take();
            let task = match task {
                Some(Task::Busy(mut turn)) => match turn.poll_unpin(&mut context) {
                    Poll::Ready(engine) => Task::Idle(engine),
                    Poll::Pending => {
                        self.task = Some(Task::Busy(turn));
                        if slow || !self.requests.carry_out() {
                            return self.wait(machine, rng);
                        }
                        continue;
                    }
                },
                Some(Task::Ending(mut turn)) => match turn.poll_unpin(&mut context) {
                    Poll::Ready(Ok(engine)) => {
                        if self.stopping == Stopping::Last {
                            machine.kernel.borrow_mut().unload();
                            return Life::Withdrawn;
                        }
                        Task::Idle(engine)
                    }
                    Poll::Ready(Err(_)) => {
                        if self.stopping == Stopping::Last {
                            machine.kernel.borrow_mut().unload();
                            return Life::Left;
                        }
                        if self.fresh {
                            machine.kernel.borrow_mut().unload();
                        }
                        return Life::Failed;
                    }
                    Poll::Pending => {
                        self.task = Some(Task::Ending(turn));
                        if slow || !self.requests.carry_out() {
                            return self.wait(machine, rng);
                        }
                        continue;
                    }
                },
                Some(Task::Idle(engine)) => match self.next(engine, machine, now_ns, rng) {
                    Ok(task) => task,
                    Err((engine, at_ns)) => {
                        self.task = Some(Task::Idle(engine));
                        if slow || !self.requests.carry_out() {
                            let soon_ns = now_ns + rng.u64(MS / 2..3 * MS);
                            let at_ns = if slow { at_ns.min(soon_ns) } else { at_ns };
                            return Life::Until(at_ns);
                        }
                        continue;
                    }
                },
                None => return Life::Killed,
            };
            self.task = Some(task);
        }
        Life::Endless
    }

    /// It stands still in the middle of a turn, and goes on a little later.
    fn wait(&self, machine: &Machine, rng: &mut Rng) -> Life {
        let soon_ns = self.handle.now_ns() + rng.u64(MS / 10..3 * MS);
        let wake_ns = machine.kernel.borrow().next_wake_ns();
        Life::Until(wake_ns.map_or(soon_ns, |wake_ns| wake_ns.max(soon_ns)))
    }

    /// Returns what the engine does next, or when there will be something.
    fn next(
        &mut self,
        mut engine: Box<Sim>,
        machine: &Machine,
        now_ns: u64,
        rng: &mut Rng,
    ) -> Result<Task, (Box<Sim>, u64)> {
        if rng.u8(..) < 30 {
            self.pauses.after(rng.u32(1..5));
        }
        if self.stopping == Stopping::Told {
            self.stopping = Stopping::Withdrawing;
            self.commands.clear();
            engine.begin_withdrawal();
        }
        if self.stopping == Stopping::Withdrawing {
            return self.next_at_the_end(engine, machine, now_ns, rng);
        }
        if now_ns >= self.beat_ns {
            engine.beat(now_ns);
            self.beat_ns = now_ns + SECOND;
        }
        if now_ns >= self.check_ns {
            engine.begin_check();
            self.check_ns = now_ns + 10 * SECOND;
        }
        let waiting = machine
            .kernel
            .borrow()
            .maps()
            .map(|maps| maps.events_waiting());
        if waiting.unwrap_or(0) > 0 {
            return Ok(busy(engine, async |engine| {
                engine.reported().await;
            }));
        }
        if let Some(turn) = heard(&mut engine, machine, rng) {
            let mut before = Vec::new();
            if matches!(turn, Turn::Read(_)) {
                before.extend(std::iter::from_fn(|| next_event(machine, rng)));
            }
            return Ok(busy(engine, async |engine| {
                for event in before {
                    engine.take_turn(Turn::Changed(event)).await;
                }
                engine.take_turn(turn).await;
            }));
        }
        if let Some(command) = self.commands.pop_front() {
            return Ok(take(engine, Turn::Command(command)));
        }
        let due_ns = engine.due_ns();
        if due_ns.is_some_and(|due_ns| due_ns <= now_ns) {
            return Ok(take(engine, Turn::Due));
        }
        let at_ns = [due_ns, Some(self.beat_ns), Some(self.check_ns)];
        let at_ns = at_ns.into_iter().flatten().min();
        Err((engine, at_ns.unwrap_or(self.beat_ns)))
    }

    /// The same while everything is taken back.
    fn next_at_the_end(
        &mut self,
        mut engine: Box<Sim>,
        machine: &Machine,
        now_ns: u64,
        rng: &mut Rng,
    ) -> Result<Task, (Box<Sim>, u64)> {
        if !engine.is_withdrawing() {
            self.stopping = Stopping::Last;
            let last = async move {
                engine.end_withdrawal().await?;
                Ok(engine)
            };
            return Ok(Task::Ending(last.boxed_local()));
        }
        match heard(&mut engine, machine, rng) {
            Some(Turn::Changed(event)) => {
                return Ok(busy(engine, async |engine| {
                    engine.changed_at_the_end(event).await;
                }));
            }
            // Nobody waits for the end of a full check or of a look-up any more (`Engine::withdraw`).
            Some(Turn::Read(_) | Turn::Detour(_)) => return Ok(Task::Idle(engine)),
            Some(turn) => return Ok(take(engine, turn)),
            None => {}
        }
        let due_ns = engine.withdrawal_due_ns();
        if due_ns.is_some_and(|due_ns| due_ns <= now_ns) {
            engine.advance_withdrawal();
            return Ok(Task::Idle(engine));
        }
        Err((engine, due_ns.unwrap_or(now_ns + SECOND)))
    }
}

/// Returns what the kernel has to say by now: an answer, else a notification.
fn heard(engine: &mut Sim, machine: &Machine, rng: &mut Rng) -> Option<Turn> {
    let answer = engine.answered().now_or_never();
    answer.or_else(|| next_event(machine, rng).map(Turn::Changed))
}

/// Reads a notification: of any family, for the kernel may tell of them in any order.
fn next_event(machine: &Machine, rng: &mut Rng) -> Option<crate::net::monitor::Event> {
    let mut net = machine.net.borrow_mut();
    let families: Vec<_> = net.waiting().collect();
    let family = *rng.choice(&families)?;
    net.next_event(family)
}

fn take(engine: Box<Sim>, turn: Turn) -> Task {
    busy(engine, async |engine| engine.take_turn(turn).await)
}

fn busy(mut engine: Box<Sim>, turn: impl AsyncFnOnce(&mut Sim) + 'static) -> Task {
    let turn = async move {
        turn(&mut engine).await;
        engine
    };
    Task::Busy(turn.boxed_local())
}
