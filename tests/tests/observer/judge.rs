//! The rules of the program's documentation, over a finished run.

use std::collections::{BTreeSet, HashMap};

use dz_common::packet::State;
use dz_tests::answerer::peer as address;
use dz_tests::route_log::Mark;

use crate::history::{Act, History, Look, Round, Seen};

/// What a run came to.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    /// Every breach of a rule, in words.
    pub(super) faults: Vec<String>,
    /// Sessions that were seen Up, by peer and generation.
    pub(super) up: BTreeSet<(u16, u32)>,
    /// Routes that came, and that went.
    pub(super) installed: usize,
    pub(super) withdrawn: usize,
    /// Disconnects that were answered.
    pub(super) disconnects: usize,
    /// Looks that caught a peer between its commit and the answer.
    pub(super) in_between: usize,
}

/// What happens at a mark.
enum Turn<'a> {
    /// A connect of the peer is about to be sent.
    Opens(u16),
    /// Its disconnect has been answered.
    Closed(u16),
    /// A round of looks is over.
    Looked(&'a Round),
}

pub(super) fn judge(history: &History) -> Verdict {
    let mut verdict = Verdict::default();
    routes(history, &mut verdict);
    for (peer, acts) in history.acts.iter().enumerate() {
        let peer = peer as u16;
        looks(history, peer, acts, &mut verdict);
        sessions(history, peer, &mut verdict);
        verdict.disconnects += acts
            .iter()
            .filter(|act| !act.connect && act.answered.is_some())
            .count();
    }
    insertions(history, &mut verdict);
    verdict
}

fn insertions(history: &History, verdict: &mut Verdict) {
    let Some((first, last)) = history.generations else {
        return;
    };
    let connects = history.acts.iter().flatten().filter(|act| act.connect);
    let connects = connects.count() as u32;
    let used = last.wrapping_sub(first).wrapping_sub(1);
    if used != connects {
        let fault = format!("{connects} peers were connected, but {used} sessions inserted");
        verdict.faults.push(fault);
    }
}

/// What is known of a peer while the log is read.
#[derive(Clone, Copy, Default)]
struct Course {
    open: bool,
    there: bool,
    /// The peer's entry was seen gone; then, that its route has been deleted since.
    committed: Option<bool>,
}

fn routes(history: &History, verdict: &mut Verdict) {
    let turns = turns(history);
    let numbers: HashMap<_, _> = (0..history.acts.len()).map(|i| (address(i), i)).collect();
    let mut courses = vec![Course::default(); history.acts.len()];
    for change in &history.changes {
        if let Some(mark) = Mark::of(change) {
            for turn in turns.get(&mark).into_iter().flatten() {
                take(turn, history, &mut courses, verdict);
            }
            continue;
        }
        let ours = (change.route.protocol, change.route.ifindex) == history.ours;
        let Some(&number) = numbers.get(&change.route.dst).filter(|_| ours) else {
            continue;
        };
        let course = &mut courses[number];
        let dst = change.route.dst;
        let fault = |what: &str| format!("{dst}: a route {what}");
        if change.gone {
            verdict.withdrawn += 1;
            course.there = false;
            course.committed = course.committed.map(|_| true);
            continue;
        }
        verdict.installed += 1;
        course.there = true;
        if !course.open {
            verdict
                .faults
                .push(fault("came while it was not connected"));
        } else if course.committed == Some(true) {
            verdict
                .faults
                .push(fault("came back during its disconnect"));
        }
    }
}

fn turns(history: &History) -> HashMap<Mark, Vec<Turn<'_>>> {
    let mut turns: HashMap<Mark, Vec<Turn<'_>>> = HashMap::new();
    for (peer, acts) in history.acts.iter().enumerate() {
        let peer = peer as u16;
        for act in acts {
            if act.connect {
                turns.entry(act.sent.0).or_default().push(Turn::Opens(peer));
            } else if let Some((mark, _)) = act.answered {
                turns.entry(mark).or_default().push(Turn::Closed(peer));
            }
        }
    }
    for round in &history.rounds {
        let turn = Turn::Looked(round);
        turns.entry(round.mark).or_default().push(turn);
    }
    turns
}

fn take(turn: &Turn<'_>, history: &History, courses: &mut [Course], verdict: &mut Verdict) {
    match turn {
        Turn::Opens(peer) => {
            let course = &mut courses[usize::from(*peer)];
            (course.open, course.committed) = (true, None);
        }
        Turn::Closed(peer) => {
            let course = &mut courses[usize::from(*peer)];
            (course.open, course.committed) = (false, None);
            if course.there {
                let dst = address(usize::from(*peer));
                let fault = format!("{dst}: a route was there when its disconnect was answered");
                verdict.faults.push(fault);
            }
        }
        Turn::Looked(round) => {
            for (peer, course) in courses.iter_mut().enumerate().filter(|(_, c)| c.open) {
                let gone = round.peers.of(peer as u16).is_none();
                if gone && connected_before(&history.acts[peer], round) {
                    verdict.in_between += usize::from(course.committed.is_none());
                    course.committed.get_or_insert(false);
                }
            }
        }
    }
}

/// Whether the last connect that was sent before the end of a round's look at peers had been answered
/// before its beginning: an entry that is missing there has been removed since, and not written again.
fn connected_before(acts: &[Act], round: &Round) -> bool {
    let mut sent = acts.iter().rev();
    let last = sent.find(|act| act.connect && act.sent.0 < round.mark);
    let answered = last.and_then(|act| act.answered);
    answered.is_some_and(|(_, answered_ns)| answered_ns < round.peers.begin_ns)
}

/// Whether a peer was certainly gone during a whole look: its disconnect had been answered before,
/// and its next connect was sent later. So was one that nobody had connected yet.
fn gone(acts: &[Act], begin_ns: u64, end_ns: u64) -> bool {
    let mut begun = acts.iter().filter(|act| act.sent.1 <= end_ns);
    begun.next_back().is_none_or(|act| {
        let answered = act.answered.map(|(_, answered_ns)| answered_ns);
        !act.connect && answered.is_some_and(|answered_ns| answered_ns < begin_ns)
    })
}

/// Whether no connect of the peer was under way at any instant of a look.
fn no_connect(acts: &[Act], begin_ns: u64, end_ns: u64) -> bool {
    acts.iter().filter(|act| act.connect).all(|act| {
        let answered = act
            .answered
            .map_or(u64::MAX, |(_, answered_ns)| answered_ns);
        act.sent.1 > end_ns || answered < begin_ns
    })
}

fn looks(history: &History, peer: u16, acts: &[Act], verdict: &mut Verdict) {
    let dst = address(usize::from(peer));
    for round in &history.rounds {
        let found = [
            ("peer", there(&round.peers, peer)),
            ("session", there(&round.sessions, peer)),
            ("route", there(&round.routes, peer)),
            ("session", there(&round.sessions_after, peer)),
        ];
        for (what, look) in found {
            if look.is_some_and(|(begin_ns, end_ns)| gone(acts, begin_ns, end_ns)) {
                let fault = format!("{dst}: a {what} was there while it was not connected");
                verdict.faults.push(fault);
            }
        }
        let sessions = [&round.sessions, &round.sessions_after];
        if round.routes.of(peer).is_some()
            && sessions.iter().all(|look| look.of(peer).is_none())
            && no_connect(acts, round.sessions.begin_ns, round.sessions_after.end_ns)
        {
            verdict
                .faults
                .push(format!("{dst}: a route without its session"));
        }
    }
}

fn there<T>(look: &Look<T>, peer: u16) -> Option<(u64, u64)> {
    look.of(peer).map(|_| (look.begin_ns, look.end_ns))
}

fn sessions(history: &History, peer: u16, verdict: &mut Verdict) {
    let mut last: Option<Seen> = None;
    for round in &history.rounds {
        for look in [&round.sessions, &round.sessions_after] {
            let Some(&(generation, state)) = look.of(peer) else {
                continue;
            };
            if state == State::Up {
                verdict.up.insert((peer, generation));
            }
            if let Some((before, was)) = last {
                let dst = address(usize::from(peer));
                if generation < before {
                    let fault = format!("{dst}: session {generation} after session {before}");
                    verdict.faults.push(fault);
                } else if generation == before
                    && was == State::AdminDown
                    && state != State::AdminDown
                {
                    let state = state.name();
                    verdict
                        .faults
                        .push(format!("{dst}: {state} after AdminDown"));
                }
            }
            last = Some((generation, state));
        }
    }
}
