//! One figure.

use serde_json::{Value, json};

/// A figure, beside that of something simpler that was measured in the same minutes.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// `part/what/quantile`.
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// Lowest and highest of the repetitions; none where there was one.
    pub(crate) spread: Option<[f64; 2]>,
    pub(crate) baseline: Option<f64>,
    /// The most that it should be.
    pub(crate) goal: Option<f64>,
    /// The baseline, which does the same each time, took very different times.
    pub(crate) noisy: bool,
}

impl Row {
    /// One line.
    pub(crate) fn json(&self) -> Value {
        let ratio = self
            .baseline
            .filter(|baseline| *baseline > 0.0)
            .map(|baseline| self.value / baseline);
        json!({
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "spread": self.spread,
            "baseline": self.baseline,
            "ratio": ratio,
            "goal": self.goal,
            "met": self.goal.map(|goal| self.value <= goal),
            "noisy": self.noisy,
        })
    }
}
