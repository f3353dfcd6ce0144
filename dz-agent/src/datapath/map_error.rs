//! The ways in which the use of a map fails.

use zerocopy::TryFromBytes;

/// Why a map could not be used.
#[derive(Debug)]
pub enum MapError {
    /// The kernel refused.
    Kernel(aya::maps::MapError),
    /// The kernel refused to read a map as a whole.
    Batch(std::io::Error),
    /// The map holds a value that this version of the agent does not understand.
    Layout(&'static str),
}

impl std::fmt::Display for MapError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kernel(error) => {
                write!(f, "{error}")?;
                let cause = std::error::Error::source(error);
                cause.map_or(Ok(()), |cause| write!(f, ": {cause}"))
            }
            Self::Batch(error) => write!(f, "reading a map: {error}"),
            Self::Layout(map) => write!(f, "{map}: a value that this version cannot read"),
        }
    }
}

impl std::error::Error for MapError {}

impl From<aya::maps::MapError> for MapError {
    fn from(error: aya::maps::MapError) -> Self {
        Self::Kernel(error)
    }
}

/// An entry that this version of the agent does not understand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    /// The map.
    pub map: &'static str,
    /// Its key, as it is in the map.
    pub key: Vec<u8>,
}

/// Reads a key or value of a map.
pub(super) fn read<T: TryFromBytes>(bytes: &[u8], map: &'static str) -> Result<T, MapError> {
    T::try_read_from_bytes(bytes).map_err(|_| MapError::Layout(map))
}

/// Takes it for success if the entry to be removed is not there.
pub(super) fn gone_is_fine(result: Result<(), aya::maps::MapError>) -> Result<(), MapError> {
    match result {
        Err(aya::maps::MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(aya::maps::MapError::KeyNotFound) => Ok(()),
        result => Ok(result?),
    }
}
