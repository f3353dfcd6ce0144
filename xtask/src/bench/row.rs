//! One figure, as `dz-bench` writes it and `--json` prints it.

use anyhow::Context;
use serde::{Deserialize, Serialize};

/// A figure. `met` is about `goal`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: String,
    /// Something simpler, measured in the same minutes.
    pub(crate) baseline: Option<f64>,
    /// Of value to baseline.
    pub(crate) ratio: Option<f64>,
    pub(crate) goal: Option<f64>,
    /// Whether that is the least that it should be, and not the most.
    pub(crate) goal_is_least: bool,
    pub(crate) met: Option<bool>,
    /// Lowest and highest of the repetitions, of which the value is the median, or of what it may be.
    pub(crate) spread: Option<[f64; 2]>,
    /// The machine was too busy with other things to tell.
    pub(crate) noisy: bool,
}

impl Row {
    /// The same with the bench's name before its own: of many benches in one list.
    pub(crate) fn of(self, bench: &str) -> Self {
        Self {
            name: format!("{bench}/{}", self.name),
            ..self
        }
    }

    /// The figure beside its goal.
    pub(crate) fn verdict(&self) -> String {
        let Self {
            name, value, unit, ..
        } = self;
        let goal = self.goal.unwrap_or(f64::NAN);
        let noisy = if self.noisy {
            " (the machine was too noisy to tell)"
        } else {
            ""
        };
        let bound = if self.goal_is_least {
            "at least"
        } else {
            "at most"
        };
        format!(
            "{name}: {} {unit}, {bound} {}{noisy}",
            number(*value),
            number(goal)
        )
    }
}

/// For people: what is below a hundred with a decimal.
pub(super) fn number(value: f64) -> String {
    if value.abs() < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// Reads the figures that one run of `dz-bench` has printed, a line each.
///
/// # Errors
/// A line is not a figure.
pub(super) fn rows(text: &str) -> anyhow::Result<Vec<Row>> {
    text.lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("not a figure: {line}")))
        .collect()
}
