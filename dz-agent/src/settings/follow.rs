//! The conditions of `--follow`, by which routes of other daemons make peers.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// The main table, where `proto=` alone looks.
pub const MAIN_TABLE: u32 = 254;
/// The kernel's own table of addresses.
const LOCAL_TABLE: u32 = 255;
/// Up to here protocols are the kernel's own: unspecified, redirect, kernel.
const LAST_OF_KERNEL: u8 = 2;

/// Protocols as iproute2 names them (`rt_protos`).
const PROTOCOLS: [(&str, u8); 20] = [
    ("redirect", 1),
    ("kernel", 2),
    ("boot", 3),
    ("static", 4),
    ("gated", 8),
    ("ra", 9),
    ("mrt", 10),
    ("zebra", 11),
    ("bird", 12),
    ("dnrouted", 13),
    ("xorp", 14),
    ("ntk", 15),
    ("dhcp", 16),
    ("babel", 42),
    ("bgp", 186),
    ("isis", 187),
    ("ospf", 188),
    ("rip", 189),
    ("eigrp", 192),
    ("openr", 99),
];

/// Tables as iproute2 names them (`rt_tables`).
const TABLES: [(&str, u32); 3] = [
    ("default", 253),
    ("main", MAIN_TABLE),
    ("local", LOCAL_TABLE),
];

/// Returns iproute2's name of a protocol, or its number.
pub fn protocol_name(protocol: u8) -> String {
    let named = PROTOCOLS.iter().find(|(_, number)| *number == protocol);
    named.map_or_else(|| protocol.to_string(), |(name, _)| (*name).to_owned())
}

/// The conditions of one `--follow`; a route meets all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Follow {
    /// The route's table.
    pub table: u32,
    /// The route's protocol; none: any but the kernel's and ours.
    pub protocol: Option<u8>,
}

impl Follow {
    /// Says whether a route of this table and protocol meets the conditions. `ours`: the protocol number
    /// of our own routes.
    fn matches(&self, table: u32, protocol: u8, ours: u8) -> bool {
        let theirs = protocol > LAST_OF_KERNEL && protocol != ours;
        let wanted = self.protocol.is_none_or(|wanted| wanted == protocol);
        theirs && wanted && table == self.table
    }
}

impl FromStr for Follow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (mut table, mut protocol) = (None, None);
        for condition in text.split(',') {
            let twice = match condition.split_once('=') {
                Some(("proto", value)) => protocol.replace(read_protocol(value)?).is_some(),
                Some(("table", value)) => table.replace(read_table(value)?).is_some(),
                _ => return Err(format!("{condition:?} is not proto=NAME or table=NAME")),
            };
            if twice {
                return Err(format!(
                    "{condition}: a route has one of them only; give --follow twice for alternatives"
                ));
            }
        }
        Ok(Self {
            table: table.unwrap_or(MAIN_TABLE),
            protocol,
        })
    }
}

impl fmt::Display for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(protocol) = self.protocol {
            write!(f, "proto={},", protocol_name(protocol))?;
        }
        match TABLES.iter().find(|(_, number)| *number == self.table) {
            Some((name, _)) => write!(f, "table={name}"),
            None => write!(f, "table={}", self.table),
        }
    }
}

fn read_protocol(text: &str) -> Result<u8, String> {
    let named = PROTOCOLS.iter().find(|(name, _)| *name == text);
    let number = match named {
        Some((_, number)) => *number,
        None => text.parse().map_err(|_| {
            let names: Vec<_> = PROTOCOLS[2..].iter().map(|(name, _)| *name).collect();
            format!(
                "proto={text}: must be a number, or one of {}",
                names.join(", ")
            )
        })?,
    };
    if number <= LAST_OF_KERNEL {
        return Err(format!(
            "proto={text}: the kernel makes those routes itself, for its own addresses and redirects"
        ));
    }
    Ok(number)
}

fn read_table(text: &str) -> Result<u32, String> {
    let named = TABLES.iter().find(|(name, _)| *name == text);
    let number = match named {
        Some((_, number)) => *number,
        None => text
            .parse()
            .map_err(|_| format!("table={text}: must be a number, or one of main, default"))?,
    };
    match number {
        0 => Err(format!("table={text}: no table has this number")),
        LOCAL_TABLE => Err(format!(
            "table={text}: holds this host's own addresses, no peers"
        )),
        number => Ok(number),
    }
}

/// One or several [`Follow`]s as an option or its environment variable has them, separated by blanks
/// or `;`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Follows(pub Vec<Follow>);

impl FromStr for Follows {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split(|c: char| c == ';' || c.is_whitespace());
        let words = words.filter(|word| !word.is_empty());
        let follows: Vec<_> = words.map(str::parse).collect::<Result<_, _>>()?;
        if follows.is_empty() {
            return Err("must be proto=NAME, table=NAME or both".to_owned());
        }
        Ok(Self(follows))
    }
}

/// The conditions of every `--follow`; a followed route meets those of one.
#[derive(Clone, Debug)]
pub struct Conditions {
    follows: BTreeSet<Follow>,
    ours: u8,
}

impl Conditions {
    /// Makes the conditions. `ours`: the protocol number of our own routes, which are never followed.
    ///
    /// # Errors
    /// Our own protocol is named.
    pub fn new(follows: &[Follows], ours: u8) -> Result<Self, String> {
        let follows: BTreeSet<_> = follows
            .iter()
            .flat_map(|follows| &follows.0)
            .copied()
            .collect();
        if follows.iter().any(|follow| follow.protocol == Some(ours)) {
            return Err(format!(
                "--follow proto={ours}: our own routes (--route-protocol) follow peers, not the other way"
            ));
        }
        Ok(Self { follows, ours })
    }

    /// Says whether nothing is followed.
    pub fn is_empty(&self) -> bool {
        self.follows.is_empty()
    }

    /// Says whether a route of this table and protocol is followed, if it has the shape for it.
    pub fn matches(&self, table: u32, protocol: u8) -> bool {
        self.follows
            .iter()
            .any(|follow| follow.matches(table, protocol, self.ours))
    }

    /// Returns the dumps to ask the kernel for: table and, if that is enough, protocol.
    pub fn dumps(&self) -> Vec<Follow> {
        let all = |table| Follow {
            table,
            protocol: None,
        };
        let covered = |follow: &&Follow| {
            follow.protocol.is_none() || !self.follows.contains(&all(follow.table))
        };
        self.follows.iter().filter(covered).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(table: u32, protocol: Option<u8>) -> Follow {
        Follow { table, protocol }
    }

    #[test]
    fn conditions_are_read() {
        for (text, wanted) in [
            ("proto=bgp", follow(254, Some(186))),
            ("proto=12", follow(254, Some(12))),
            ("table=7", follow(7, None)),
            ("table=main", follow(254, None)),
            ("proto=bird,table=default", follow(253, Some(12))),
            ("table=70000,proto=babel", follow(70_000, Some(42))),
        ] {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
            assert_eq!(wanted.to_string().parse(), Ok(wanted), "{wanted}");
        }
        let several: Follows = " proto=bgp;table=7  proto=bird ".parse().unwrap();
        let wanted = [
            follow(254, Some(186)),
            follow(7, None),
            follow(254, Some(12)),
        ];
        assert_eq!(several.0, wanted);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "must be proto="),
            ("bgp", "is not proto="),
            ("proto=", "must be a number"),
            ("proto=256", "must be a number"),
            ("proto=kernel", "the kernel makes"),
            ("proto=0", "the kernel makes"),
            ("proto=redirect", "the kernel makes"),
            ("table=local", "own addresses"),
            ("table=255", "own addresses"),
            ("table=0", "no table"),
            ("table=x", "must be a number"),
            ("proto=bgp,proto=bird", "give --follow twice"),
            ("proto=bgp,", "is not proto="),
        ] {
            let refused = text.parse::<Follows>().unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        let ours = Conditions::new(&["proto=144".parse().unwrap()], 144);
        assert!(ours.unwrap_err().contains("--route-protocol"));
    }

    #[test]
    fn a_table_alone_leaves_out_the_kernel_and_ours() {
        let conditions = Conditions::new(&["table=7 proto=bgp".parse().unwrap()], 144).unwrap();
        let at = |table, protocol| conditions.matches(table, protocol);
        assert!(at(7, 12) && at(7, 186) && at(254, 186));
        for protocol in [0, 1, 2, 144] {
            assert!(!at(7, protocol), "{protocol}");
        }
        assert!(!at(254, 12) && !at(253, 186));
    }

    #[test]
    fn a_table_that_is_read_whole_is_read_once() {
        let text = "table=7 proto=bgp,table=7 proto=bgp proto=bird proto=bgp";
        let conditions = Conditions::new(&[text.parse().unwrap()], 144).unwrap();
        let wanted = [
            follow(7, None),
            follow(254, Some(12)),
            follow(254, Some(186)),
        ];
        assert_eq!(conditions.dumps(), wanted);
    }
}
