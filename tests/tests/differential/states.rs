//! Sessions in all kinds of states.

use dz_common::map::{HELD_DAMPED, HELD_NEW, HELD_QUIET, SessionEntry};
use dz_common::pacing::{due_now_stamp, long_ago_stamp};
use dz_common::packet::{State, Version};
use dz_common::session::{DownReason, Mode, Session, Timers};

use dz_tests::rng::Rng;

/// Where a session's frames went last: nobody's address that sends here.
const NEXT_HOP: [u8; 6] = [2, 0xdb, 0, 0, 7, 7];

/// Intervals as a packet or a configuration may have them, µs. The small ones make pacing and
/// detection change their minds from one packet of the test to the next.
pub(crate) fn interval_us(rng: &Rng) -> u32 {
    match rng.below(4) {
        0 => rng.pick(&[0, 1, u32::MAX]),
        1 => rng.pick(&[50_000, 300_000, 1_000_000, 3_000_000]),
        2 => 1 + rng.word() % 200,
        _ => rng.word(),
    }
}

/// Puts an entry's session into some state; who it is stays.
pub(crate) fn scramble(entry: &mut SessionEntry, rng: &Rng, now_ns: u64) {
    let mut session = Session::new(timers(rng), discriminator(rng), now_ns);
    session.state = rng.pick(&State::ALL);
    session.peer_discr = rng.pick(&[0, discriminator(rng)]);
    session.echoes_left = rng.pick(&[0, 1, 3, rng.byte()]);
    session.peer_desired_min_tx_us = rng.pick(&[0, interval_us(rng)]);
    session.peer_required_min_rx_us = rng.pick(&[0, interval_us(rng)]);
    session.backoff = 1 << rng.below(32);
    session.transitions = rng.pick(&[0, 7, u32::MAX]);
    session.ups = rng.pick(&[0, 7, u32::MAX]);
    session.peer_version = version(rng);
    session.down_reason = down_reason(rng);
    session.last_down_reason = down_reason(rng);
    session.peer_mode = rng.pick(&[Mode::Unknown, Mode::Active, Mode::Passive]);
    session.burst_left = rng.below(4) as u8;
    session.announce = rng.below(2) as u8;
    session.tx_gaps_us = [gap_us(rng), gap_us(rng)];
    let tx_ns = u64::from(session.tx_interval_us()) * 1_000;
    let (detect_ns, pace_ns) = (session.detect_time_ns(), tx_ns / 4 * 3);
    session.last_tx_ns = instant_ns(rng, now_ns, pace_ns);
    session.next_tx_ns = instant_ns(rng, now_ns, tx_ns);
    session.since_ns = instant_ns(rng, now_ns, detect_ns);
    session.last_rx_ns = instant_ns(rng, now_ns, detect_ns);
    session.first_rx_ns = instant_ns(rng, now_ns, tx_ns);
    session.detect_deadline_ns = match rng.below(3) {
        0 => 0,
        _ => instant_ns(rng, now_ns, detect_ns).saturating_add(detect_ns),
    };
    entry.random = discriminator(rng);
    entry.received = rng.below(1 << 40);
    entry.answered = rng.below(1 << 40);
    entry.originated = rng.below(1 << 40);
    entry.last_seen_ns = 0;
    entry.neighbour = rng.pick(&[[0; 6], NEXT_HOP, NEXT_HOP]);
    entry.introduced = introduced(rng, now_ns, pace_ns);
    entry.introduced_unknown = rng.below(2) as u8;
    entry.held = rng.pick(&[
        0,
        0,
        HELD_DAMPED,
        HELD_NEW,
        HELD_QUIET,
        HELD_DAMPED | HELD_QUIET,
    ]);
    entry.session = session;
}

fn timers(rng: &Rng) -> Timers {
    let (a, b) = (interval_us(rng), interval_us(rng));
    let (floor_us, ceiling_us) = rng.pick(&[
        (50_000, 3_000_000),
        (1 + rng.word() % 20, 100 + rng.word() % 1_000),
        (1, 50_000),
        (a.min(b), a.max(b).max(1)),
    ]);
    Timers {
        desired_min_tx_us: interval_us(rng),
        required_min_rx_us: interval_us(rng),
        floor_us,
        ceiling_us,
        backoff_cap_us: rng.pick(&[0, 5_000_000, interval_us(rng)]),
        detect_mult: rng.pick(&[1, 2, 3, 255, 1 + rng.byte() % 255]),
        mode: rng.pick(&[Mode::Active, Mode::Passive]),
        min_ttl: rng.pick(&[0, 0, 0, 0, 0, 0, 1, 64, 65, 255]),
        reserved: 0,
    }
}

/// An instant: never, now, about `span_ns` ago to within what a few packets take, or any time in
/// between, or, as after a step of a virtual machine's clock, in the future.
fn instant_ns(rng: &Rng, now_ns: u64, span_ns: u64) -> u64 {
    match rng.below(6) {
        0 => 0,
        1 => now_ns,
        2 => now_ns + rng.below(1_000_000),
        3 | 4 => (now_ns + rng.below(100_000)).saturating_sub(span_ns),
        _ => now_ns.saturating_sub(rng.below(2 * span_ns + 1)),
    }
}

/// When an unproven packet was answered last.
fn introduced(rng: &Rng, now_ns: u64, pace_ns: u64) -> u32 {
    match rng.below(4) {
        0 => long_ago_stamp(now_ns),
        1 => rng.word(),
        _ => due_now_stamp(instant_ns(rng, now_ns, pace_ns)),
    }
}

fn gap_us(rng: &Rng) -> u32 {
    rng.pick(&[u32::MAX, 0, rng.word() % 100, interval_us(rng)])
}

fn down_reason(rng: &Rng) -> DownReason {
    rng.pick(&[
        DownReason::None,
        DownReason::Timeout,
        DownReason::RemoteAdmin,
        DownReason::LocalAdmin,
        DownReason::RemoteDown,
    ])
}

/// Anything but 0.
pub(crate) fn discriminator(rng: &Rng) -> u32 {
    rng.word() | 1 << rng.below(32)
}

pub(crate) fn version(rng: &Rng) -> Version {
    Version::new(rng.word().to_be_bytes())
}
