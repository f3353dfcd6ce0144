//! Asks for the name of an interface's driver.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;
use socket2::{Domain, Socket, Type};

/// `ETHTOOL_GDRVINFO` (include/uapi/linux/ethtool.h).
const GET_DRIVER_INFO: u32 = 3;

/// `struct ethtool_drvinfo` of the same file.
#[repr(C)]
struct DriverInfo {
    cmd: u32,
    driver: [u8; 32],
    /// Versions and addresses, which say nothing about what the driver can do.
    rest: [u8; 160],
}

const _: () = assert!(size_of::<DriverInfo>() == 196);

/// Asks the kernel for the name of an interface's driver (`ixgbe`, `virtio_net`), in the calling
/// thread's network namespace. It is the name that `ethtool -i` shows, and not the one in sysfs,
/// which shows the namespace that it was mounted in.
///
/// # Errors
/// There is no such interface, or its driver does not tell.
pub fn name(interface: &str) -> io::Result<String> {
    let mut info = DriverInfo {
        cmd: GET_DRIVER_INFO,
        driver: [0; 32],
        rest: [0; 160],
    };
    // SAFETY: zeros are a valid value of every member of this C structure.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0: the name ends there at the latest.
    if interface.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut info).cast();
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    // SAFETY: the request and the structure that it points to, of the size that this command
    // fills in, outlive the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let name = CStr::from_bytes_until_nul(&info.driver).map_err(io::Error::other)?;
    Ok(name.to_string_lossy().into_owned())
}
