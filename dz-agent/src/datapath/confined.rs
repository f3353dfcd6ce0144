//! The gate's map: which sources it confines.

use dz_common::map::{Confined, name};

use super::maps::{MapError, MapReader, Maps, gone_is_fine, read};

impl MapReader {
    /// Every address that must not leave by an interface without a gate.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn confined(&self) -> Result<Vec<Confined>, MapError> {
        let keys = self.confined.keys();
        keys.map(|key| read(&key?, name::CONFINED)).collect()
    }
}

impl Maps {
    /// Keeps packets from an address of this interface from leaving by another one.
    ///
    /// # Errors
    /// If the map is full.
    pub fn confine(&mut self, key: &Confined, ifindex: u32) -> Result<(), MapError> {
        let key: [u8; size_of::<Confined>()] = zerocopy::transmute!(*key);
        Ok(self.reader.confined.insert(key, ifindex, 0)?)
    }

    /// Lets packets from an address leave by any interface. That they may already is no error.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn release(&mut self, key: &Confined) -> Result<(), MapError> {
        gone_is_fine(self.reader.confined.remove(&zerocopy::transmute!(*key)))
    }
}
