//! The demo: two agents in two network namespaces.

/// # Errors
/// Always: the demo is not written yet.
pub(crate) fn run() -> anyhow::Result<()> {
    anyhow::bail!("the demo is not there yet")
}
