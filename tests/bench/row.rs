//! One figure.

use serde_json::{Value, json};

/// What a figure should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    const fn number(self) -> f64 {
        let (Self::AtMost(number) | Self::AtLeast(number)) = self;
        number
    }

    fn met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

/// A figure, beside that of something simpler that was measured in the same minutes.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    /// `part/what/quantile`.
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// Lowest and highest of the repetitions, or of what the value may be; none where there was one.
    pub(crate) spread: Option<[f64; 2]>,
    pub(crate) baseline: Option<f64>,
    pub(crate) goal: Option<Goal>,
    /// What does the same each time took very different times: the machine was busy.
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
            "goal": self.goal.map(Goal::number),
            "goal_is_least": matches!(self.goal, Some(Goal::AtLeast(_))),
            "met": self.goal.map(|goal| goal.met(self.value)),
            "noisy": self.noisy,
        })
    }
}
