//! Figures of many repetitions.

/// Durations in µs, or other figures, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// From ns, of which there is at least one.
    pub(crate) fn of_ns(times_ns: impl IntoIterator<Item = u64>) -> Self {
        Self::of(times_ns.into_iter().map(|ns| ns as f64 / 1_000.0))
    }

    /// From figures of any unit.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<_> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    /// The time that a part of all did not exceed (nearest rank); 0 of none.
    pub(crate) fn quantile(&self, part: f64) -> f64 {
        let rank = (part * self.0.len() as f64).ceil() as usize;
        let at = rank.clamp(1, self.0.len().max(1)) - 1;
        self.0.get(at).copied().unwrap_or(0.0)
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    pub(crate) fn max(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Lowest and highest.
    pub(crate) fn spread(&self) -> [f64; 2] {
        [self.quantile(0.0), self.max()]
    }

    /// Two of the figures, which have the median of what was drawn from between them in at least 19
    /// of 20 cases, whatever its distribution (by the binomial distribution); the lowest and the
    /// highest, if they are too few to tell.
    pub(crate) fn median_interval(&self) -> [f64; 2] {
        let count = self.0.len();
        // The probability that `rank` figures or fewer lie below the median.
        let (mut term, mut below) = (0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX)), 0.0);
        let mut rank = 0;
        while rank < count / 2 {
            below += term;
            if below > 0.025 {
                break;
            }
            term *= (count - rank) as f64 / (rank + 1) as f64;
            rank += 1;
        }
        let first = rank.saturating_sub(1);
        let at = |index: usize| self.0.get(index).copied().unwrap_or(0.0);
        [at(first), at(count.saturating_sub(1 + first))]
    }
}
