//! Reads addresses and interface names, and refuses those that no host or interface can have.

use std::net::{IpAddr, Ipv4Addr};

/// The refusal of an IPv6 address.
pub const NO_IPV6: &str = "IPv6 is not supported: the liveness protocol as deployed is IPv4 only";

/// Reads the address of one host.
///
/// # Errors
/// Why it cannot be one, in words that follow a name of the field.
pub fn parse_host(text: &str) -> Result<Ipv4Addr, String> {
    let address = match text.parse() {
        Ok(IpAddr::V4(address)) => address,
        Ok(IpAddr::V6(_)) => return Err(format!("{text}: {NO_IPV6}")),
        Err(_) => return Err(format!("{text:?} is not an IPv4 address")),
    };
    match no_host(address) {
        None => Ok(address),
        Some(kind) => Err(format!("{address} is {kind}, not the address of a host")),
    }
}

/// Names the kind of an address that no host on a network can have; none for other addresses.
pub const fn no_host(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [0, 0, 0, 0] => "the unspecified address",
        [0, ..] => "an address of \"this network\" (0.0.0.0/8)",
        [127, ..] => "a loopback address",
        [224..=239, ..] => "a multicast address",
        [255, 255, 255, 255] => "the broadcast address",
        [240..=255, ..] => "a reserved address (240.0.0.0/4)",
        _ => return None,
    })
}

/// Checks an interface name as the kernel does (`dev_valid_name`).
///
/// # Errors
/// Why it cannot be one.
pub fn parse_interface(text: &str) -> Result<String, String> {
    let fault = match text {
        "" => "is empty",
        "." | ".." => "is reserved",
        _ if text.len() > 15 => "is longer than 15 bytes",
        _ if text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace()) => {
            "contains '/', ':' or white space"
        }
        _ => return Ok(text.to_owned()),
    };
    Err(format!("interface name {text:?} {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_only() {
        assert_eq!(parse_host("10.0.0.1"), Ok(Ipv4Addr::new(10, 0, 0, 1)));
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.254",
            "255.255.255.255",
            "127.0.0.1",
            "10.0.0",
            "",
            "x",
        ] {
            assert!(parse_host(refused).is_err(), "{refused}");
        }
        for v6 in ["::1", "fe80::1", "::ffff:10.0.0.1"] {
            assert_eq!(parse_host(v6), Err(format!("{v6}: {NO_IPV6}")));
        }
    }

    #[test]
    fn interface_names_as_the_kernel_takes_them() {
        assert!(parse_interface("doublezero0").is_ok());
        assert!(parse_interface("fifteen-bytes-x").is_ok());
        for refused in ["", ".", "..", "a/b", "a b", "a:1", "sixteen-bytes-xx"] {
            assert!(parse_interface(refused).is_err(), "{refused}");
        }
    }
}
