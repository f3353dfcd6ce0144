//! Routing tables: which entries there are, in the kernel's order, and which one a look-up finds.
//!
//! Nothing here knows interfaces or addresses: an entry is stored as it is given.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use nix::errno::Errno;

/// `RT_TABLE_LOCAL`.
pub const LOCAL: u32 = 255;
/// `RT_TABLE_MAIN`.
pub const MAIN: u32 = 254;
/// `RT_TABLE_DEFAULT`.
const DEFAULT: u32 = 253;

/// What becomes of a packet that an entry is found for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It is sent.
    Unicast,
    /// It is this host's.
    Local,
    /// It is everybody's on the link.
    Broadcast,
    /// It is dropped.
    Blackhole,
    /// It is refused: unreachable.
    Unreachable,
    /// It is refused: prohibited.
    Prohibit,
    /// The look-up goes on in the next table.
    Throw,
}

impl Kind {
    /// Returns the error that a look-up ends with; none if the packet goes somewhere.
    pub(super) const fn error(self) -> Option<Errno> {
        match self {
            Self::Unicast | Self::Local | Self::Broadcast => None,
            Self::Blackhole => Some(Errno::EINVAL),
            Self::Unreachable => Some(Errno::EHOSTUNREACH),
            Self::Prohibit => Some(Errno::EACCES),
            Self::Throw => Some(Errno::EAGAIN),
        }
    }
}

/// An entry of a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its table.
    pub table: u32,
    /// Destination, without bits beyond its prefix.
    pub dst: Ipv4Addr,
    /// Length of its prefix, bits.
    pub prefix_len: u8,
    /// Type of service that it is for, 0 = any.
    pub tos: u8,
    /// Its metric.
    pub metric: u32,
    /// Its `rtm_protocol`.
    pub protocol: u8,
    /// Its `rtm_scope`.
    pub scope: u8,
    /// What becomes of packets.
    pub kind: Kind,
    /// Index of its interface; none for one that leads nowhere.
    pub ifindex: Option<u32>,
    /// Source that it names.
    pub src: Option<Ipv4Addr>,
    /// Its gateway, which is taken to be on the link (`onlink`).
    pub via: Option<Ipv4Addr>,
}

/// How an entry is added, as flags of netlink say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// If there is none with the same destination, type of service and metric (`ip route add`).
    Exclusive,
    /// Before those (`ip route prepend`).
    Prepend,
    /// Behind those (`ip route append`).
    Append,
    /// In place of the first of those (`ip route replace`).
    Replace,
}

/// What came of an addition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    /// It is there now, before others like it.
    Before,
    /// It is there now, behind others like it.
    Behind,
    /// It is there now, in place of the first one like it.
    Replaced,
    /// It was the first one already.
    Unchanged,
}

/// Which entry is to be deleted: the first that all of this is true of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which {
    /// Its table.
    pub table: u32,
    /// Its destination.
    pub dst: Ipv4Addr,
    /// Length of its prefix, bits.
    pub prefix_len: u8,
    /// Type of service that it is for.
    pub tos: u8,
    /// Its metric; 0: any.
    pub metric: u32,
    /// Its protocol; 0: any.
    pub protocol: u8,
    /// Its scope, if that matters.
    pub scope: Option<u8>,
    /// Its kind, if that matters.
    pub kind: Option<Kind>,
    /// Its interface, if that matters.
    pub ifindex: Option<u32>,
    /// Its source, if that matters.
    pub src: Option<Ipv4Addr>,
    /// Its gateway, if that matters.
    pub via: Option<Ipv4Addr>,
}

impl Which {
    /// Whatever entry of a table there is to a destination.
    pub const fn to(table: u32, dst: Ipv4Addr, prefix_len: u8) -> Self {
        Self {
            table,
            dst,
            prefix_len,
            tos: 0,
            metric: 0,
            protocol: 0,
            scope: None,
            kind: None,
            ifindex: None,
            src: None,
            via: None,
        }
    }

    fn is(&self, entry: &Entry) -> bool {
        fn matches<T: PartialEq>(wanted: Option<T>, has: Option<T>) -> bool {
            wanted.is_none() || wanted == has
        }
        (self.metric == 0 || self.metric == entry.metric)
            && (self.protocol == 0 || self.protocol == entry.protocol)
            && matches(self.scope, Some(entry.scope))
            && matches(self.kind, Some(entry.kind))
            && matches(self.ifindex, entry.ifindex)
            && matches(self.src, entry.src)
            && matches(self.via, entry.via)
    }
}

/// In the kernel's order: by destination, the longer prefix first, then the higher type of service.
type Key = (u32, Ipv4Addr, Reverse<u8>, Reverse<u8>, u32);

const fn key(entry: &Entry) -> Key {
    let lengths = (Reverse(entry.prefix_len), Reverse(entry.tos));
    (entry.table, entry.dst, lengths.0, lengths.1, entry.metric)
}

/// The address without the bits beyond a prefix.
pub(super) fn truncated(address: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix_len));
    Ipv4Addr::from(u32::from(address) & mask.unwrap_or(0))
}

/// All routing tables.
#[derive(Clone, Debug, Default)]
pub(super) struct Fib(BTreeMap<Key, Vec<Entry>>);

impl Fib {
    /// Adds an entry.
    ///
    /// # Errors
    /// There is one like it (`EEXIST`).
    pub(super) fn insert(&mut self, entry: Entry, mode: Mode) -> Result<Inserted, Errno> {
        let like_it = self.0.entry(key(&entry)).or_default();
        let same = like_it.iter().position(|other| *other == entry);
        match (mode, same) {
            _ if like_it.is_empty() => {
                like_it.push(entry);
                Ok(Inserted::Before)
            }
            (Mode::Replace, Some(0)) => Ok(Inserted::Unchanged),
            (Mode::Exclusive, _) | (_, Some(_)) => Err(Errno::EEXIST),
            (Mode::Replace, None) => {
                like_it[0] = entry;
                Ok(Inserted::Replaced)
            }
            (Mode::Append, None) => {
                like_it.push(entry);
                Ok(Inserted::Behind)
            }
            (Mode::Prepend, None) => {
                like_it.insert(0, entry);
                Ok(Inserted::Before)
            }
        }
    }

    /// Deletes an entry and returns it; none if there is no such one.
    pub(super) fn delete(&mut self, which: &Which) -> Option<Entry> {
        let lengths = (Reverse(which.prefix_len), Reverse(which.tos));
        let first = (which.table, which.dst, lengths.0, lengths.1, 0);
        let last = (which.table, which.dst, lengths.0, lengths.1, u32::MAX);
        let mut like_it = self.0.range_mut(first..=last);
        let (key, at) = like_it.find_map(|(key, entries)| {
            let at = entries.iter().position(|entry| which.is(entry))?;
            Some((*key, at))
        })?;
        let entries = self.0.get_mut(&key)?;
        let entry = entries.remove(at);
        if entries.is_empty() {
            self.0.remove(&key);
        }
        Some(entry)
    }

    /// Deletes all entries of a kind, and returns them in their order.
    pub(super) fn flush(&mut self, is_flushed: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut flushed = Vec::new();
        self.0.retain(|_, entries| {
            flushed.extend(entries.extract_if(.., |entry| is_flushed(entry)));
            !entries.is_empty()
        });
        flushed
    }

    /// Returns the entries of all tables.
    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values().flatten()
    }

    /// Returns all entries of a table, in the kernel's order.
    pub(super) fn table(&self, table: u32) -> impl Iterator<Item = &Entry> {
        let first = (table, Ipv4Addr::UNSPECIFIED, Reverse(32), Reverse(255), 0);
        let entries = self.0.range(first..);
        entries
            .take_while(move |(key, _)| key.0 == table)
            .flat_map(|(_, entries)| entries)
    }

    /// Finds the entry for packets to a destination, by an interface if one is named. Without rules of an
    /// administrator, of which there are none here, the kernel keeps the tables `local` and `main`
    /// together: the longest prefix of both decides.
    ///
    /// # Errors
    /// There is none (`ENETUNREACH`), or one that leads nowhere.
    pub(super) fn look_up(&self, dst: Ipv4Addr, oif: Option<u32>) -> Result<&Entry, Errno> {
        let found = self.best(&[LOCAL, MAIN], dst, oif);
        found.or_else(|errno| {
            let otherwise = self.best(&[DEFAULT], dst, oif);
            otherwise.map_err(|_| match errno {
                Errno::EAGAIN => Errno::ENETUNREACH,
                errno => errno,
            })
        })
    }

    /// Finds the entry of the table `local` alone.
    pub(super) fn local(&self, dst: Ipv4Addr) -> Option<&Entry> {
        self.best(&[LOCAL], dst, None).ok()
    }

    fn best(&self, tables: &[u32], dst: Ipv4Addr, oif: Option<u32>) -> Result<&Entry, Errno> {
        for prefix_len in (0..=32).rev() {
            let within = truncated(dst, prefix_len);
            for table in tables {
                // Packets have no type of service here.
                let lengths = (Reverse(prefix_len), Reverse(0));
                let first = (*table, within, lengths.0, lengths.1, 0);
                let last = (*table, within, lengths.0, lengths.1, u32::MAX);
                for entry in self.0.range(first..=last).flat_map(|(_, entries)| entries) {
                    if let Some(errno) = entry.kind.error() {
                        return Err(errno);
                    }
                    if oif.is_none() || oif == entry.ifindex {
                        return Ok(entry);
                    }
                }
            }
        }
        Err(Errno::EAGAIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DST: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

    fn entry(prefix_len: u8, metric: u32, ifindex: u32) -> Entry {
        Entry {
            table: MAIN,
            dst: truncated(DST, prefix_len),
            prefix_len,
            tos: 0,
            metric,
            protocol: 144,
            scope: 253,
            kind: Kind::Unicast,
            ifindex: Some(ifindex),
            src: None,
            via: None,
        }
    }

    #[test]
    fn modes_of_adding() {
        let mut fib = Fib::default();
        let [one, two, three] = [1, 2, 3].map(|ifindex| entry(32, 0, ifindex));
        let added = fib.insert(one, Mode::Exclusive);
        assert_eq!(added, Ok(Inserted::Before));
        assert_eq!(fib.insert(two, Mode::Exclusive), Err(Errno::EEXIST));
        assert_eq!(fib.insert(two, Mode::Append), Ok(Inserted::Behind));
        assert_eq!(fib.insert(two, Mode::Append), Err(Errno::EEXIST));
        assert_eq!(fib.insert(two, Mode::Replace), Err(Errno::EEXIST));
        assert_eq!(fib.insert(one, Mode::Replace), Ok(Inserted::Unchanged));
        assert_eq!(fib.insert(three, Mode::Replace), Ok(Inserted::Replaced));
        assert_eq!(fib.insert(one, Mode::Prepend), Ok(Inserted::Before));
        let entries: Vec<_> = fib.table(MAIN).copied().collect();
        assert_eq!(entries, [one, three, two]);
    }

    #[test]
    fn the_first_that_fits_is_deleted() {
        let mut fib = Fib::default();
        for entry in [entry(32, 5, 1), entry(32, 0, 2), entry(32, 7, 2)] {
            fib.insert(entry, Mode::Exclusive).expect("added");
        }
        let mut which = Which::to(MAIN, DST, 32);
        which.ifindex = Some(2);
        assert_eq!(fib.delete(&which), Some(entry(32, 0, 2)));
        assert_eq!(fib.delete(&which), Some(entry(32, 7, 2)));
        assert_eq!(fib.delete(&which), None);
        which.ifindex = None;
        which.metric = 4;
        assert_eq!(fib.delete(&which), None);
        which.metric = 5;
        assert_eq!(fib.delete(&which), Some(entry(32, 5, 1)));
        assert!(fib.0.is_empty());
    }

    #[test]
    fn the_longest_prefix_is_found() {
        let mut fib = Fib::default();
        for entry in [entry(0, 0, 1), entry(24, 9, 2), entry(24, 0, 3)] {
            fib.insert(entry, Mode::Exclusive).expect("added");
        }
        assert_eq!(fib.look_up(DST, None), Ok(&entry(24, 0, 3)));
        assert_eq!(fib.look_up(DST, Some(2)), Ok(&entry(24, 9, 2)));
        assert_eq!(fib.look_up(DST, Some(1)), Ok(&entry(0, 0, 1)));
        assert_eq!(fib.look_up(DST, Some(4)), Err(Errno::ENETUNREACH));
        let mut refused = entry(32, 0, 0);
        (refused.kind, refused.ifindex) = (Kind::Prohibit, None);
        fib.insert(refused, Mode::Exclusive).expect("added");
        assert_eq!(fib.look_up(DST, Some(3)), Err(Errno::EACCES));
        assert_eq!(fib.local(DST), None);
    }

    #[test]
    fn a_flush_returns_what_it_took() {
        let mut fib = Fib::default();
        for entry in [entry(24, 0, 1), entry(24, 3, 2), entry(32, 0, 1)] {
            fib.insert(entry, Mode::Exclusive).expect("added");
        }
        let flushed = fib.flush(|entry| entry.ifindex == Some(1));
        assert_eq!(flushed, [entry(24, 0, 1), entry(32, 0, 1)]);
        assert_eq!(fib.table(MAIN).count(), 1);
    }
}
