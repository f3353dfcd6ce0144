//! How long this machine takes to wake somebody up: a byte to another thread and back. Always the
//! same work, so that what it takes longer is what else the machine has to do.

use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::thread;

use dz_tests::wait::monotonic_ns;

/// Somebody to wake up, who ends with the drop.
pub(crate) struct Wakeups {
    to: PipeWriter,
    from: PipeReader,
}

impl Wakeups {
    pub(crate) fn new() -> io::Result<Self> {
        let (mut there, to) = pipe()?;
        let (from, mut back) = pipe()?;
        thread::spawn(move || {
            let mut byte = [0];
            while there
                .read_exact(&mut byte)
                .and_then(|()| back.write_all(&byte))
                .is_ok()
            {}
        });
        Ok(Self { to, from })
    }

    /// There and back, ns.
    pub(crate) fn round_trip(&mut self) -> io::Result<u64> {
        let begun_ns = monotonic_ns();
        self.to.write_all(&[1])?;
        self.from.read_exact(&mut [0])?;
        Ok(monotonic_ns() - begun_ns)
    }
}
