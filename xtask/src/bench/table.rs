//! Figures for people.

use super::row::Row;

/// Prints a bench's figures.
pub(super) fn print(name: &str, rows: &[Row]) {
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or(0);
    println!(
        "\n{name:width$}  {:>10}     {:>23}  {:>10}  {:>6}  {:>10}",
        "value", "lowest … highest", "baseline", "ratio", "goal"
    );
    for row in rows {
        println!("{}", line(row, width));
    }
    if rows.iter().any(|row| row.noisy) {
        println!(
            "? the machine was too noisy to tell: what is the same each time took very different \
             times. Try again when it is idle."
        );
    }
}

fn line(row: &Row, width: usize) -> String {
    let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.0}"));
    let spread = row.spread.map_or_else(String::new, |[lowest, highest]| {
        format!("{lowest:.0} … {highest:.0}")
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
        "{name:width$}  {value:>10.0} {unit}  {spread:>23}  {:>10}  {ratio:>6}  {:>10}{met}{noisy}",
        number(row.baseline),
        number(row.goal),
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
}
