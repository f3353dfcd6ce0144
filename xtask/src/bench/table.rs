//! Figures for people.

use super::row::{Row, number};

/// Prints a bench's figures.
pub(super) fn print(name: &str, rows: &[Row]) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    println!(
        "\n{name:width$}  {:>10}         {:>23}  {:>10}  {:>6}  {:>10}",
        "value", "lowest … highest", "baseline", "ratio", "goal"
    );
    for row in rows {
        println!("{}", line(row, width));
    }
    if rows.iter().any(|row| row.noisy) {
        println!(
            "? the machine was too noisy to tell: what is the same each time came out very \
             differently. Try again when it is idle."
        );
    }
}

fn line(row: &Row, width: usize) -> String {
    let show = |value: Option<f64>| value.map(number).unwrap_or_default();
    let spread = row.spread.map_or_else(String::new, |[lowest, highest]| {
        format!("{} … {}", number(lowest), number(highest))
    });
    let ratio = row
        .ratio
        .map_or_else(String::new, |ratio| format!("{ratio:.2}"));
    let met = match row.met {
        Some(true) => " met",
        Some(false) => " NOT MET",
        None => "",
    };
    let noisy = if row.noisy { " ?" } else { "" };
    let Row {
        name, value, unit, ..
    } = row;
    format!(
        "{name:width$}  {:>10} {unit:6}  {spread:>23}  {:>10}  {ratio:>6}  {:>10}{met}{noisy}",
        number(*value),
        show(row.baseline),
        show(row.goal),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_missed_its_goal() {
        let row = Row {
            name: "a/b".to_owned(),
            value: 1_500.4,
            unit: "us".to_owned(),
            baseline: Some(1_000.0),
            ratio: Some(1.5),
            goal: Some(1_000.0),
            goal_is_least: false,
            met: Some(false),
            spread: Some([1_400.0, 1_600.0]),
            noisy: true,
        };
        let line = line(&row, 5);
        for part in ["a/b", "1500 us", "1400 … 1600", "1.50", "NOT MET ?"] {
            assert!(line.contains(part), "{line}");
        }
        let verdict = row.verdict();
        assert!(
            verdict.starts_with("a/b: 1500 us, at most 1000 (the machine"),
            "{verdict}"
        );
    }

    #[test]
    fn a_share_keeps_its_decimal() {
        let row = Row {
            name: "a/share".to_owned(),
            value: 97.25,
            unit: "%".to_owned(),
            baseline: None,
            ratio: None,
            goal: Some(97.0),
            goal_is_least: true,
            met: Some(true),
            spread: Some([96.0, 98.0]),
            noisy: false,
        };
        let line = line(&row, 7);
        for part in ["97.2 %", "96.0 … 98.0", "97.0 met"] {
            assert!(line.contains(part), "{line}");
        }
        assert_eq!(row.verdict(), "a/share: 97.2 %, at least 97.0");
    }
}
