//! Visits every state, and everything that can follow in fair weather.

use std::collections::{BTreeMap, HashMap};

use super::pair::{Code, Pair, Rules, Weather};

/// What may happen besides packets, clocks and deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mishaps {
    /// Starts anew of either end.
    pub(crate) restarts: u8,
    /// Packets lost.
    pub(crate) losses: u8,
}

impl Mishaps {
    /// One bit for each that is not more than this.
    fn covered(self) -> u32 {
        let losses = (1 << (self.losses + 1)) - 1;
        (0..=self.restarts)
            .map(|restarts| losses << (restarts * 8))
            .sum()
    }

    fn bit(self) -> u32 {
        1 << (self.restarts * 8 + self.losses)
    }
}

/// Calls `each` with every state that can be reached, once, until it says no.
pub(crate) fn reachable(rules: Rules, mishaps: Mishaps, mut each: impl FnMut(&Pair) -> bool) {
    // For each state what was still to come when it was reached, and less.
    let mut seen: HashMap<Code, u32> = HashMap::new();
    let start = Pair::new(rules).code();
    // Those with the most to come first: they cover the others.
    let mut waiting = BTreeMap::from([(mishaps, vec![start])]);
    while let Some((left, mut codes)) = waiting.pop_last() {
        while let Some(code) = codes.pop() {
            let covered = seen.entry(code).or_insert(0);
            if *covered & left.bit() != 0 {
                continue;
            }
            let pair = Pair::of(rules, &code);
            if *covered == 0 && !each(&pair) {
                return;
            }
            *covered |= left.covered();
            codes.extend(pair.steps(Weather::Rough).0.iter().map(Pair::code));
            if let Some(losses) = left.losses.checked_sub(1) {
                let fewer = waiting.entry(Mishaps { losses, ..left }).or_default();
                fewer.extend(pair.losses().iter().map(Pair::code));
            }
            if let Some(restarts) = left.restarts.checked_sub(1) {
                let fewer = waiting.entry(Mishaps { restarts, ..left }).or_default();
                fewer.extend(pair.restarts().iter().map(Pair::code));
            }
        }
    }
}

/// How many intervals it takes at most until both ends are Up, from each state visited so far.
#[derive(Default)]
pub(crate) struct FairWeather {
    /// None: being followed right now.
    intervals: HashMap<Code, Option<u32>>,
}

/// A state on the path that is being followed.
struct Visit {
    code: Code,
    rest: Vec<Code>,
    ages: bool,
    most: u32,
}

impl FairWeather {
    /// States visited.
    pub(crate) fn states(&self) -> usize {
        self.intervals.len()
    }

    /// Follows everything that can happen from here on in fair weather. Returns how many intervals
    /// it takes at most until both are Up, or the states that come round again if it may take for
    /// ever.
    pub(crate) fn until_up(&mut self, rules: Rules, from: &Pair) -> Result<u32, Vec<Pair>> {
        let start = from.clone().in_fair_weather().code();
        let mut path = Vec::new();
        let mut last = self
            .visit(rules, start, &mut path)
            .map_err(|_| Vec::new())?;
        while let Some(visit) = path.last_mut() {
            if let Some(intervals) = last.take() {
                visit.most = visit.most.max(intervals + u32::from(visit.ages));
            }
            if let Some(next) = visit.rest.pop() {
                last = match self.visit(rules, next, &mut path) {
                    Ok(known) => known,
                    Err(code) => {
                        let round = path.iter().skip_while(|visit| visit.code != code);
                        return Err(round.map(|visit| Pair::of(rules, &visit.code)).collect());
                    }
                };
            } else {
                self.intervals.insert(visit.code, Some(visit.most));
                last = Some(visit.most);
                path.pop();
            }
        }
        Ok(last.unwrap_or(0))
    }

    /// What is known of a state; it is put at the end of the path if nothing is.
    fn visit(
        &mut self,
        rules: Rules,
        code: Code,
        path: &mut Vec<Visit>,
    ) -> Result<Option<u32>, Code> {
        match self.intervals.get(&code) {
            Some(Some(intervals)) => return Ok(Some(*intervals)),
            Some(None) => return Err(code),
            None => {}
        }
        let pair = Pair::of(rules, &code);
        if pair.is_up() {
            self.intervals.insert(code, Some(0));
            return Ok(Some(0));
        }
        self.intervals.insert(code, None);
        let (steps, ages) = pair.steps(Weather::Fair);
        path.push(Visit {
            code,
            rest: steps.iter().map(Pair::code).collect(),
            ages,
            most: 0,
        });
        Ok(None)
    }
}
