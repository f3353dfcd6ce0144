//! The gate's maps: which destinations it stands before, and which sources it confines.

use dz_common::map::{Confined, Gate, GateKey, name};

use super::lookup_batch::each;
use super::maps::{MapError, MapReader, Maps, gone_is_fine, read};

impl MapReader {
    /// Every destination that the gate stands before.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn gates(&self) -> Result<Vec<(GateKey, Gate)>, MapError> {
        let mut gates = Vec::new();
        each(&self.gate, 0, |key, value| {
            gates.push((read(key, name::GATE)?, read(value, name::GATE)?));
            Ok(())
        })?;
        Ok(gates)
    }

    /// What the gate knows of one destination; none if it does not stand before it.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn gate(&self, key: &GateKey) -> Result<Option<Gate>, MapError> {
        match self.gate.get(&zerocopy::transmute!(*key), 0) {
            Ok(value) => read(&value, name::GATE).map(Some),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

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
    /// Puts the gate before a destination, or says what is new about it: at no moment is there no
    /// entry.
    ///
    /// # Errors
    /// If the map is full.
    pub fn set_gate(&mut self, key: &GateKey, gate: &Gate) -> Result<(), MapError> {
        let (key, value) = (zerocopy::transmute!(*key), zerocopy::transmute!(*gate));
        let key: [u8; size_of::<GateKey>()] = key;
        let value: [u8; size_of::<Gate>()] = value;
        Ok(self.reader.gate.insert(key, value, 0)?)
    }

    /// Takes the gate away from a destination. That it is gone already is no error.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn delete_gate(&mut self, key: &GateKey) -> Result<(), MapError> {
        gone_is_fine(self.reader.gate.remove(&zerocopy::transmute!(*key)))
    }

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
