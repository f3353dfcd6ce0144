//! Waiting for what a device hands to the test: packets of a TUN device, frames of a packet socket.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::wait::readable;

/// The receiving end of a device.
pub trait Receive: AsFd {
    /// Name of the device.
    fn name(&self) -> &str;

    /// Takes what has arrived first; none if nothing has.
    ///
    /// # Errors
    /// The device is gone or down.
    fn try_recv(&self) -> io::Result<Option<Vec<u8>>>;

    /// Takes the next one; none if there is none within `timeout`.
    ///
    /// # Errors
    /// The device is gone or down.
    fn recv(&self, timeout: Duration) -> io::Result<Option<Vec<u8>>> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(received) = self.try_recv()? {
                return Ok(Some(received));
            }
            let left = end.saturating_duration_since(Instant::now());
            if !readable(self.as_fd(), left)? && left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// Takes them until `wanted` returns something of one.
    ///
    /// # Errors
    /// None did within `timeout`; the message names `what` and counts the others.
    fn recv_until<T>(
        &self,
        timeout: Duration,
        what: &str,
        mut wanted: impl FnMut(&[u8]) -> Option<T>,
    ) -> anyhow::Result<T>
    where
        Self: Sized,
    {
        let end = Instant::now() + timeout;
        let mut others = 0;
        while let Some(received) = self.recv(end.saturating_duration_since(Instant::now()))? {
            if let Some(found) = wanted(&received) {
                return Ok(found);
            }
            others += 1;
        }
        bail!(
            "waited {timeout:?} in vain on {} for: {what} ({others} others)",
            self.name()
        )
    }

    /// Throws away what has arrived so far; returns how many that were.
    ///
    /// # Errors
    /// The device is gone or down.
    fn drain(&self) -> io::Result<usize> {
        let mut count = 0;
        while self.try_recv()?.is_some() {
            count += 1;
        }
        Ok(count)
    }
}
