//! Warns about strict reverse path filtering on the interfaces of ways around. A packet that a peer's gate
//! diverts to us comes in by such an interface, and our route to its source leads into the tunnel: the
//! kernel drops the packet before any program of ours sees it, and counts it only as `IPReversePathFilter`
//! in `/proc/net/netstat`.

use std::collections::BTreeSet;
use std::fs;

/// `rp_filter` of RFC 3704's strict mode.
const STRICT: u8 = 1;

/// Returns a warning for each interface of a way around that drops packets which peers divert to us.
/// `mode` returns `rp_filter` of an interface, or of `all`.
pub(crate) fn warnings<'a>(
    around: impl Iterator<Item = &'a str>,
    mode: impl Fn(&str) -> Option<u8>,
) -> Vec<String> {
    let around: BTreeSet<_> = around.collect();
    if around.is_empty() {
        return Vec::new();
    }
    let all = mode("all").unwrap_or(0);
    // The kernel takes the higher value of the two (`IN_DEV_RPFILTER`).
    let is_strict = |name: &&str| mode(name).unwrap_or(0).max(all) == STRICT;
    let strict = around.into_iter().filter(is_strict);
    strict
        .map(|name| {
            format!(
                "{name}: what peers divert to us by it is dropped (rp_filter is strict): \
                 `sysctl net.ipv4.conf.{name}.rp_filter=2`"
            )
        })
        .collect()
}

/// Reads `rp_filter` of an interface, or of `all`; none if there is no such interface.
pub(crate) fn mode(name: &str) -> Option<u8> {
    let path = format!("/proc/sys/net/ipv4/conf/{name}/rp_filter");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_value_counts() {
        let warned = |all: u8, own: u8| {
            let mode = |name: &str| Some(if name == "all" { all } else { own });
            !warnings(["eth0", "eth0"].into_iter(), mode).is_empty()
        };
        for (all, own, strict) in [
            (0, 0, false),
            (0, 1, true),
            (1, 0, true),
            (1, 1, true),
            (1, 2, false),
            (2, 1, false),
            (0, 2, false),
        ] {
            assert_eq!(warned(all, own), strict, "all {all}, own {own}");
        }
        let two = warnings(["eth1", "eth0", "eth1"].into_iter(), |_| Some(1));
        assert_eq!(two.len(), 2, "once each");
        assert!(two[0].contains("net.ipv4.conf.eth0.rp_filter=2"), "{two:?}");
        assert!(warnings(["#9"].into_iter(), |_| None).is_empty());
    }
}
