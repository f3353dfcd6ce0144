//! Access to maps whose types are known at run time only, and to their BTF.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use aya::maps::{MapData, MapType};
use aya::util::nr_cpus;

use super::call::{bpf, descriptor, number, open_pin};
use super::info::{get_info, info};

// From the kernel's `bpf.h`.
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_UPDATE_ELEM: libc::c_int = 2;
const MAP_DELETE_ELEM: libc::c_int = 3;
const MAP_GET_NEXT_KEY: libc::c_int = 4;
const BTF_GET_FD_BY_ID: libc::c_int = 19;
/// `BPF_F_LOCK`: copy the value under its spin lock.
const LOCKED: u64 = 4;

/// The member of `union bpf_attr` for commands on elements.
#[repr(C)]
struct Element {
    map_fd: u32,
    reserved: u32,
    key: u64,
    /// Or the next key.
    value: u64,
    flags: u64,
}

/// `struct bpf_map_info`, up to what we need.
#[repr(C)]
#[derive(Default)]
struct MapInfo {
    map_type: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    name: [u8; 16],
    ifindex: u32,
    btf_vmlinux_value_type_id: u32,
    netns: [u64; 2],
    btf_id: u32,
    btf_key_type_id: u32,
    btf_value_type_id: u32,
    reserved: u32,
}

/// `struct bpf_btf_info`, up to what we need.
#[repr(C)]
#[derive(Default)]
struct BtfInfo {
    btf: u64,
    btf_size: u32,
    id: u32,
}

/// A map of any type.
pub(in crate::datapath) struct RawMap {
    data: MapData,
    info: MapInfo,
}

impl RawMap {
    /// Opens a pinned map.
    pub(in crate::datapath) fn from_pin(pin: &Path) -> io::Result<Self> {
        let data = MapData::from_fd(open_pin(pin)?).map_err(io::Error::other)?;
        let info = info(data.fd().as_fd())?;
        Ok(Self { data, info })
    }

    /// Returns its kernel id.
    pub(in crate::datapath) const fn id(&self) -> u32 {
        self.info.id
    }

    /// Returns how many entries it can hold.
    pub(in crate::datapath) const fn max_entries(&self) -> u32 {
        self.info.max_entries
    }

    /// Returns its kind, and the sizes of its keys and values.
    pub(in crate::datapath) const fn shape(&self) -> (u32, u32, u32) {
        let info = &self.info;
        (info.map_type, info.key_size, info.value_size)
    }

    /// Says whether it is a hash.
    pub(in crate::datapath) const fn is_hash(&self) -> bool {
        self.info.map_type == MapType::Hash as u32
    }

    /// Says whether it is an array with a value for each CPU.
    pub(in crate::datapath) const fn is_per_cpu_array(&self) -> bool {
        self.info.map_type == MapType::PerCpuArray as u32
    }

    /// Returns the ids of its key's and its value's type in its BTF; none if it was created without.
    pub(in crate::datapath) const fn type_ids(&self) -> Option<(u32, u32)> {
        match self.info.btf_id {
            0 => None,
            _ => Some((self.info.btf_key_type_id, self.info.btf_value_type_id)),
        }
    }

    /// Reads its BTF, which it was created with.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`.
    pub(in crate::datapath) fn btf(&self) -> io::Result<Vec<u8>> {
        btf(self.info.btf_id)
    }

    /// Reads every key.
    pub(in crate::datapath) fn keys(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut keys: Vec<Vec<u8>> = Vec::new();
        loop {
            let mut next = vec![0; self.info.key_size as usize];
            let last = keys.last().map_or(std::ptr::null(), |key| key.as_ptr());
            match self.element(MAP_GET_NEXT_KEY, last, next.as_mut_ptr(), 0) {
                Ok(()) => keys.push(next),
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(keys),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads the value of a key, under its lock if it has one; of all CPUs, one after the other.
    pub(in crate::datapath) fn get(&self, key: &[u8], locked: bool) -> io::Result<Vec<u8>> {
        let mut value = vec![0; self.value_len()?];
        let flags = if locked { LOCKED } else { 0 };
        self.check_sizes(key, value.len())?;
        self.element(MAP_LOOKUP_ELEM, key.as_ptr(), value.as_mut_ptr(), flags)?;
        Ok(value)
    }

    /// Sets the value of a key.
    pub(in crate::datapath) fn put(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.check_sizes(key, value.len())?;
        // This command only reads the value.
        self.element(MAP_UPDATE_ELEM, key.as_ptr(), value.as_ptr().cast_mut(), 0)
    }

    /// Removes a key.
    pub(in crate::datapath) fn remove(&self, key: &[u8]) -> io::Result<()> {
        self.check_sizes(key, self.value_len()?)?;
        self.element(MAP_DELETE_ELEM, key.as_ptr(), std::ptr::null_mut(), 0)
    }

    /// Returns the length of one value; for a per-CPU map, of the values of all CPUs.
    pub(in crate::datapath) fn value_len(&self) -> io::Result<usize> {
        let one = self.info.value_size as usize;
        if !self.is_per_cpu_array() {
            return Ok(one);
        }
        Ok(one.next_multiple_of(8) * nr_cpus().map_err(|(_, error)| error)?)
    }

    /// Makes sure that the kernel reads and writes only within the buffers that it is given.
    fn check_sizes(&self, key: &[u8], value_len: usize) -> io::Result<()> {
        if key.len() == self.info.key_size as usize && value_len == self.value_len()? {
            return Ok(());
        }
        Err(io::Error::other("key or value of another size"))
    }

    fn element(
        &self,
        command: libc::c_int,
        key: *const u8,
        value: *mut u8,
        flags: u64,
    ) -> io::Result<()> {
        let mut element = Element {
            map_fd: number(self.data.fd().as_fd()),
            reserved: 0,
            key: key as u64,
            value: value as u64,
            flags,
        };
        // SAFETY: every caller in this module passes keys and values of the map's sizes.
        unsafe { bpf(command, &mut element) }.map(|_| ())
    }
}

/// Sets the value of a key in a map whose keys and values have 32 bits.
pub(super) fn put_number(map: BorrowedFd<'_>, key: u32, value: u32) -> io::Result<()> {
    let mut element = Element {
        map_fd: number(map),
        reserved: 0,
        key: &raw const key as u64,
        value: &raw const value as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads key and value, which have the map's sizes and outlive the call.
    unsafe { bpf(MAP_UPDATE_ELEM, &mut element) }.map(|_| ())
}

/// Reads BTF by its kernel id.
fn btf(id: u32) -> io::Result<Vec<u8>> {
    // The id, the next id and flags.
    // SAFETY: numbers, and no pointer.
    let btf = unsafe { descriptor(BTF_GET_FD_BY_ID, &mut [id, 0, 0]) }?;
    let mut bytes = Vec::new();
    // Without a buffer the kernel says how long it is to be.
    for _ in 0..2 {
        let mut found = BtfInfo {
            btf: bytes.as_mut_ptr() as u64,
            btf_size: u32::try_from(bytes.len()).map_err(io::Error::other)?,
            id: 0,
        };
        get_info(btf.as_fd(), &mut found)?;
        bytes.resize(found.btf_size as usize, 0);
    }
    Ok(bytes)
}
