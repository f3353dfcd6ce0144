//! Finds the processes that have a port which we want, for messages that say what to stop.

use std::collections::BTreeSet;
use std::fmt;

use crate::host::holder::{self, Holder};

/// The daemon of the deployed client, which has a liveness of its own on our port.
const DEPLOYED: &str = "doublezerod";

/// Other processes' sockets that have a port, as the kernel's tables show them in the calling thread's
/// network namespace. They are cheap to read and to compare; [`Sockets::holders`] takes time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets(BTreeSet<Socket>);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Socket {
    inode: u64,
    uid: u32,
}

impl Sockets {
    /// Reads the sockets with a UDP port. The tables do not say which interface a socket is bound to, so
    /// that one on another interface is among them; an IPv6 socket may cover IPv4.
    pub fn udp(port: u16) -> Self {
        Self::read(["udp", "udp6"], port)
    }

    /// Reads the sockets with a TCP port at this host, on whatever address: it may be the port of an
    /// outgoing connection. A socket that has only been bound is in no table.
    pub fn tcp(port: u16) -> Self {
        Self::read(["tcp", "tcp6"], port)
    }

    fn read(tables: [&str; 2], port: u16) -> Self {
        let tables = tables.map(holder::net_table);
        let ours = holder::open_sockets(std::process::id());
        let sockets = tables
            .iter()
            .flat_map(|table| table.lines())
            .filter_map(|line| bound(line, port))
            .filter(|socket| !ours.contains(&socket.inode));
        Self(sockets.collect())
    }

    /// Finds the processes that have them, by a look at every file of every process.
    pub fn holders(&self) -> Holders {
        let found = holder::by_socket(&self.0.iter().map(|socket| socket.inode).collect());
        let unseen: BTreeSet<u32> = self
            .0
            .iter()
            .filter(|socket| found.iter().all(|(inode, _)| *inode != socket.inode))
            .map(|socket| socket.uid)
            .collect();
        Holders {
            likely: unseen
                .iter()
                .flat_map(|uid| holder::named(DEPLOYED, *uid))
                .collect(),
            seen: found.into_iter().map(|(_, holder)| holder).collect(),
            unseen,
        }
    }
}

/// The processes that have a port, as far as can be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// Processes that have one of the sockets open.
    seen: BTreeSet<Holder>,
    /// Processes that may have one open, by name and user, and cannot be looked into.
    likely: BTreeSet<Holder>,
    /// The users of sockets that no process is seen to have open.
    unseen: BTreeSet<u32>,
}

impl Holders {
    /// Says whether the deployed client's daemon is among them, its own liveness on.
    pub fn has_deployed_client(&self) -> bool {
        let mut all = self.seen.iter().chain(&self.likely);
        all.any(|holder| holder.command == DEPLOYED)
    }
}

impl fmt::Display for Holders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> = self.seen.iter().map(ToString::to_string).collect();
        let likely = |holder: &Holder| format!("{holder}, most likely");
        words.extend(self.likely.iter().map(likely));
        if self.likely.is_empty() {
            let unseen = |uid| format!("a process of user {uid} that is not visible from here");
            words.extend(self.unseen.iter().map(unseen));
        }
        if words.is_empty() {
            return f.write_str("a process that is not visible from here");
        }
        f.write_str(&words.join(" and "))
    }
}

/// Reads the socket of a line if it has the port. One without an inode is nobody's any more: a
/// connection that is nearly over. Columns: number, local address (`address:port` in hexadecimal),
/// remote address, state, queues, timer, retransmissions, user, timeout, inode.
fn bound(line: &str, port: u16) -> Option<Socket> {
    let mut columns = line.split_whitespace();
    let (_, local_port) = columns.nth(1)?.rsplit_once(':')?;
    if u16::from_str_radix(local_port, 16).ok()? != port {
        return None;
    }
    let socket = Socket {
        uid: columns.nth(5)?.parse().ok()?,
        inode: columns.nth(1)?.parse().ok()?,
    };
    (socket.inode != 0).then_some(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = " 4711: 0100007F:AF50 00000000:0000 07 00000000:00000000 00:00000000 00000000  \
                        1000        0 123456 2 0000000000000000 0";

    #[test]
    fn reads_a_line_of_the_table() {
        let socket = Socket {
            inode: 123_456,
            uid: 1000,
        };
        assert_eq!(bound(LINE, 44880), Some(socket));
        assert_eq!(bound(LINE, 44881), None);
        assert_eq!(bound(&LINE.replace("123456", "0"), 44880), None, "orphan");
        let header = "  sl  local_address rem_address   st tx_queue rx_queue";
        assert_eq!(bound(header, 44880), None);
    }

    #[test]
    fn says_as_much_as_can_be_told() {
        let process = |pid, command: &str| Holder {
            pid,
            command: command.to_owned(),
        };
        let mut holders = Holders::default();
        assert_eq!(
            holders.to_string(),
            "a process that is not visible from here"
        );
        holders.unseen.insert(997);
        let unseen = "a process of user 997 that is not visible from here";
        assert_eq!(holders.to_string(), unseen);
        holders.seen.insert(process(12, "nc"));
        assert_eq!(holders.to_string(), format!("process 12 (nc) and {unseen}"));
        assert!(!holders.has_deployed_client());
        holders.likely.insert(process(34, DEPLOYED));
        let text = "process 12 (nc) and process 34 (doublezerod), most likely";
        assert_eq!(holders.to_string(), text);
        assert!(holders.has_deployed_client());
    }

    #[test]
    fn our_own_sockets_are_no_obstacle() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(Sockets::udp(port), Sockets::default());
    }
}
