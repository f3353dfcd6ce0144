//! Conformance: replays recorded behaviour of the deployed client against `dz-common`.
//!
//! The deployed rules (`dz_common::deployed`) have to reproduce it step by step. Ours believe less:
//! which steps they take elsewhere, and by which rule, is counted (see [`rules`]).
//!
//! Two kinds of file: traces of its session code (JSON lines, plain or gzip; see [`trace`]), and
//! captures of its packets (see [`capture`]). The first bytes of a file tell which one it is.

mod capture;
mod rules;
mod trace;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

/// First bytes of a pcap file with µs or ns time stamps, in either byte order.
const PCAP: [[u8; 4]; 4] = [
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
];
/// First bytes of a gzip file, RFC 1952 §2.3.1.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Whose rules a recording is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Trust {
    /// Ours: only what echoes our discriminator is believed.
    Proven,
    /// The deployed client's.
    Deployed,
}

/// Replays every file. Prints a line for each capture, one for all traces together, one for the first
/// difference in each trace and, with our rules, how many steps they take elsewhere.
///
/// # Errors
/// A file that cannot be read or understood, no file at all, a difference from the deployed rules, or
/// one of ours that none of its rules is the reason for.
pub(crate) fn run(trust: Trust, files: &[PathBuf]) -> anyhow::Result<()> {
    ensure!(!files.is_empty(), "no files given");
    let mut totals = trace::Totals::default();
    let mut ours = rules::Differing::default();
    let mut differences = Vec::new();
    for path in files {
        let found =
            replay(path, &mut totals, &mut ours).with_context(|| path.display().to_string())?;
        differences.extend(
            found
                .into_iter()
                .map(|found| format!("{}: {found}", path.display())),
        );
    }
    for difference in &differences {
        println!("{difference}");
    }
    if totals.traces > 0 {
        println!("{totals}");
    }
    if trust == Trust::Proven {
        println!("{ours}");
    }
    if !differences.is_empty() {
        bail!(
            "{} differences from the recorded behaviour",
            differences.len()
        );
    }
    Ok(())
}

/// The differences found in one file.
fn replay(
    path: &Path,
    totals: &mut trace::Totals,
    ours: &mut rules::Differing,
) -> anyhow::Result<Vec<String>> {
    let mut reader = BufReader::new(File::open(path)?);
    let first = reader.fill_buf()?;
    if PCAP.iter().any(|magic| first.starts_with(magic)) {
        let report = capture::replay(reader, ours)?;
        println!("{}: {report}", path.display());
        Ok(report.differences)
    } else if first.starts_with(&GZIP) {
        trace::replay(
            BufReader::new(flate2::bufread::MultiGzDecoder::new(reader)),
            totals,
            ours,
        )
    } else {
        trace::replay(reader, totals, ours)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn data(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../tests/data")
            .join(name)
    }

    fn traces() -> Vec<u8> {
        let mut plain = Vec::new();
        let file = File::open(data("traces.jsonl.gz")).unwrap();
        std::io::copy(&mut flate2::read::MultiGzDecoder::new(file), &mut plain).unwrap();
        plain
    }

    #[test]
    fn every_recorded_trace_and_the_capture_are_reproduced() {
        for trust in [Trust::Deployed, Trust::Proven] {
            let files = [data("traces.jsonl.gz"), data("reference-session.pcap")];
            run(trust, &files).unwrap();
        }
        let (mut totals, mut ours) = Default::default();
        assert_eq!(
            trace::replay(&traces()[..], &mut totals, &mut ours).unwrap(),
            Vec::<String>::new()
        );
        assert_eq!(totals.to_string(), "80 traces, 4801 steps: all equal");
        for rule in ["a Down", "an AdminDown", "an Init or Up", "two packets"] {
            let found = ours.to_string();
            assert!(
                found.contains(rule),
                "the recordings have a step for each: {found}"
            );
        }
    }

    #[test]
    fn the_capture_holds_what_it_is_said_to_hold() {
        let file = File::open(data("reference-session.pcap")).unwrap();
        let report = capture::replay(file, &mut rules::Differing::default()).unwrap();
        assert_eq!(report.differences, Vec::<String>::new());
        assert_eq!(
            report.packets,
            report.sides.iter().map(|side| side.sent).sum::<usize>()
        );
        assert!(
            report
                .sides
                .iter()
                .all(|side| side.sent >= 30 && side.ups == 2),
            "{report}"
        );
    }

    /// Every recorded field is compared: a recording that says otherwise is a difference.
    #[test]
    fn a_changed_expectation_is_found_and_named() {
        let plain = String::from_utf8(traces()).unwrap();
        let line = plain
            .lines()
            .find(|line| line.contains(r#""do":"tx""#))
            .unwrap();
        for field in [
            "changed",
            "state",
            "peer_discr",
            "down_reason",
            "detect_deadline_us",
            "tx_interval_us",
            "detect_time_us",
            "peer_mode",
            "peer_version",
            "tx_packet",
            "next_tx_base_us",
        ] {
            let mut trace: serde_json::Value = serde_json::from_str(line).unwrap();
            let steps = trace["steps"].as_array_mut().unwrap();
            let step = steps.iter().position(|step| step["do"] == "tx").unwrap();
            let value = &mut steps[step]["expect"][field];
            *value = match &*value {
                serde_json::Value::Bool(b) => (!b).into(),
                serde_json::Value::Number(n) => (n.as_u64().unwrap() + 1).into(),
                serde_json::Value::Null => 1.into(),
                _ => "00".into(),
            };
            let (mut totals, mut ours) = Default::default();
            let found =
                trace::replay(trace.to_string().as_bytes(), &mut totals, &mut ours).unwrap();
            assert_eq!(found.len(), 1, "{field}");
            assert!(
                found[0].contains(field) && found[0].contains(&format!("step {step} ")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn what_is_neither_traces_nor_a_capture_is_an_error() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"{\"name\":1}\n").unwrap();
        for files in [vec![file.path().to_path_buf()], vec![], vec![data("none")]] {
            assert!(run(Trust::Deployed, &files).is_err());
        }
    }
}
