//! What `bpftool` shows: BPF maps through other eyes than the agent's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use serde_json::Value;

/// Dumps a pinned map: one value per entry, with the field names of the map's BTF where it has one
/// (`formatted`), else as bytes.
///
/// # Errors
/// `bpftool` is missing or refuses.
pub fn dump(pin: &Path) -> anyhow::Result<Vec<Value>> {
    match json(&["map", "dump", "pinned", &pin.to_string_lossy()])? {
        Value::Array(mut entries) => {
            for entry in &mut entries {
                if let Some(formatted) = entry.get_mut("formatted") {
                    *entry = formatted.take();
                }
            }
            Ok(entries)
        }
        other => bail!("bpftool did not print a list: {other}"),
    }
}

/// Runs `bpftool -j` with these words.
///
/// # Errors
/// It is missing, refuses, or prints something else.
pub fn json(words: &[&str]) -> anyhow::Result<Value> {
    let mut command = Command::new("bpftool");
    let output = command.arg("-j").args(words).output().context("bpftool")?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        // It reports errors as JSON on standard output.
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "bpftool {}: {} {}",
            words.join(" "),
            text.trim(),
            said.trim()
        );
    }
    serde_json::from_str(&text).with_context(|| format!("bpftool said: {text}"))
}
