//! Tells our pins in a pin directory by their names.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::hook::{AttachMode, Hook};
use super::release::unpin_link;

/// A pin of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    /// A link: it holds a program on an interface.
    Link {
        /// Name of the interface.
        interface: String,
        /// How the program is attached.
        mode: AttachMode,
    },
    /// A link: it holds the gate at the egress of this interface.
    Gate(String),
    /// A map, of whatever layout.
    Map(String),
}

impl Pin {
    /// Returns the pin of the link that holds a program on a hook of an interface.
    pub(super) fn at(hook: Hook, interface: &str) -> Self {
        let interface = interface.to_owned();
        match hook {
            Hook::Ingress(mode) => Self::Link { interface, mode },
            Hook::Egress => Self::Gate(interface),
        }
    }

    /// Returns its file.
    pub fn path(&self, pin_dir: &Path) -> PathBuf {
        pin_dir.join(match self {
            // bpffs reserves dots; colons do not occur in interface names (dev_valid_name).
            Self::Link { interface, mode } => {
                format!("link_{mode}_{}", interface.replace('.', ":"))
            }
            Self::Gate(interface) => format!("gate_{}", interface.replace('.', ":")),
            Self::Map(name) => name.clone(),
        })
    }

    /// Returns the interface that it holds a program on.
    pub fn interface(&self) -> Option<&str> {
        match self {
            Self::Link { interface, .. } | Self::Gate(interface) => Some(interface),
            Self::Map(_) => None,
        }
    }

    /// Removes the pin; the program of a link is off its device when this returns.
    ///
    /// # Errors
    /// It is not there, or cannot be removed.
    pub fn remove(&self, pin_dir: &Path) -> io::Result<()> {
        let path = self.path(pin_dir);
        match self {
            Self::Link { .. } | Self::Gate(_) => unpin_link(&path),
            Self::Map(_) => fs::remove_file(path),
        }
    }

    /// Returns the pin that a file name means; none if it is somebody else's.
    fn of(file: &str) -> Option<Self> {
        if file.starts_with("dz_") {
            return Some(Self::Map(file.to_owned()));
        }
        if let Some(interface) = file.strip_prefix("gate_") {
            return Some(Self::Gate(interface.replace(':', ".")));
        }
        let (mode, interface) = file.strip_prefix("link_")?.split_once('_')?;
        let mode = AttachMode::ALL
            .into_iter()
            .find(|known| known.to_string() == mode)?;
        let interface = interface.replace(':', ".");
        Some(Self::Link { interface, mode })
    }

    /// Lists our pins in a directory, links first. Without the directory there are none.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn list(pin_dir: &Path) -> io::Result<Vec<Self>> {
        let files = match fs::read_dir(pin_dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            files => files?,
        };
        let mut pins = Vec::new();
        for file in files {
            pins.extend(file?.file_name().to_str().and_then(Self::of));
        }
        pins.sort();
        Ok(pins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_known_by_its_file() {
        for (file, interface, mode) in [
            ("link_tc_doublezero0", "doublezero0", AttachMode::Tc),
            ("link_xdp_eth0:7", "eth0.7", AttachMode::Xdp),
            ("link_xdp-generic_a_b", "a_b", AttachMode::XdpGeneric),
        ] {
            let interface = interface.to_owned();
            let pin = Pin::Link { interface, mode };
            assert_eq!(pin.path(Path::new("")), Path::new(file));
            assert_eq!(Pin::of(file), Some(pin));
        }
        let gate = Pin::Gate("eth0.7".to_owned());
        assert_eq!(gate.path(Path::new("")), Path::new("gate_eth0:7"));
        assert_eq!(Pin::of("gate_eth0:7"), Some(gate));
        assert_eq!(Pin::of("dz_peers"), Some(Pin::Map("dz_peers".to_owned())));
        for foreign in ["link_eth0", "link_tcx_eth0", "peers", "my_dz_peers", ""] {
            assert_eq!(Pin::of(foreign), None, "{foreign}");
        }
    }
}
