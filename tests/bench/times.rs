//! Times of many repetitions.

/// Durations in µs, sorted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    /// From ns, of which there is at least one.
    pub(crate) fn of_ns(times_ns: impl IntoIterator<Item = u64>) -> Self {
        let mut times: Vec<_> = times_ns.into_iter().map(|ns| ns as f64 / 1_000.0).collect();
        times.sort_by(f64::total_cmp);
        Self(times)
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
}
