//! Rules about destinations, whichever source asks for them: those that never have a session, and
//! those whose sessions have other timers.

use std::net::Ipv4Addr;
use std::str::FromStr;
use std::time::Duration;

use dz_common::map::{
    LEFT_OUT_MODE, LEFT_OUT_MULT, LEFT_OUT_RX, LEFT_OUT_TTL, LEFT_OUT_TX, Origin, Peer,
};
use dz_common::session::{Mode, Timers};
use ipnet::Ipv4Net;
use prefix_trie::PrefixMap;

use super::values::{interval, micros};

/// Excluded destinations and overridden timers.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    excluded: PrefixMap<Ipv4Net, ()>,
    overrides: PrefixMap<Ipv4Net, Timing>,
}

/// The values of an override; those that it leaves out are the agent's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timing {
    /// Our desired transmit interval, µs.
    pub tx_interval_us: Option<u32>,
    /// Our required receive interval, µs.
    pub rx_interval_us: Option<u32>,
    /// Our detection multiplier.
    pub detect_mult: Option<u8>,
    /// Fewest hops that the peer's packets may have left.
    pub min_ttl: Option<u8>,
    /// Our mode.
    pub passive: Option<bool>,
}

/// An override with its prefix: `PREFIX [tx-interval T] [rx-interval T] [detect-mult N] [min-ttl N]
/// [passive|active]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// The destinations.
    pub prefix: Ipv4Net,
    /// Their timers.
    pub timing: Timing,
}

/// Several [`Override`]s as an option or its environment variable has them, separated by `;`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overrides(pub Vec<Override>);

impl Policy {
    /// Excludes destinations.
    pub fn exclude(&mut self, prefix: Ipv4Net) {
        self.excluded.insert(prefix, ());
    }

    /// Overrides timers; returns whether the prefix had some already, which are replaced.
    pub fn set(&mut self, rule: Override) -> bool {
        self.overrides.insert(rule.prefix, rule.timing).is_some()
    }

    /// Returns the longest prefix that excludes a destination, if any does.
    pub fn excluded(&self, dst: Ipv4Addr) -> Option<Ipv4Net> {
        self.excluded.get_lpm_prefix(&dst.into())
    }

    /// Returns a peer of an earlier request with what the request said, and everything else as it is by now:
    /// the override's, or that of `timers`.
    pub fn renewed(&self, dst: Ipv4Addr, peer: &Peer, timers: Timers) -> Peer {
        debug_assert_eq!(peer.origin, Origin::Api, "the others are made anew");
        let timers = Timing::said(peer).apply(self.timers(dst, timers));
        Peer { timers, ..*peer }
    }

    /// Returns a destination's timers: those given, with the override of the longest prefix.
    pub fn timers(&self, dst: Ipv4Addr, timers: Timers) -> Timers {
        match self.overrides.get_lpm(&dst.into()) {
            Some((_, timing)) => timing.apply(timers),
            None => timers,
        }
    }
}

impl Timing {
    /// Returns the values that a peer's source said, as the peer has them.
    fn said(peer: &Peer) -> Self {
        let Peer { timers, .. } = peer;
        fn said<T>(peer: &Peer, what: u8, value: T) -> Option<T> {
            (peer.left_out & what == 0).then_some(value)
        }
        Self {
            tx_interval_us: said(peer, LEFT_OUT_TX, timers.desired_min_tx_us),
            rx_interval_us: said(peer, LEFT_OUT_RX, timers.required_min_rx_us),
            detect_mult: said(peer, LEFT_OUT_MULT, timers.detect_mult),
            min_ttl: said(peer, LEFT_OUT_TTL, timers.min_ttl),
            passive: said(peer, LEFT_OUT_MODE, timers.mode == Mode::Passive),
        }
    }

    /// Returns the values that are left out, as [`Peer::left_out`] has them.
    pub fn left_out(&self) -> u8 {
        let bit = |is_left_out: bool, what: u8| if is_left_out { what } else { 0 };
        bit(self.tx_interval_us.is_none(), LEFT_OUT_TX)
            | bit(self.rx_interval_us.is_none(), LEFT_OUT_RX)
            | bit(self.detect_mult.is_none(), LEFT_OUT_MULT)
            | bit(self.min_ttl.is_none(), LEFT_OUT_TTL)
            | bit(self.passive.is_none(), LEFT_OUT_MODE)
    }

    /// Returns the timers with these values in place; intervals are held within floor and ceiling.
    #[must_use]
    pub fn apply(&self, mut timers: Timers) -> Timers {
        if let Some(us) = self.tx_interval_us {
            timers.desired_min_tx_us = timers.clamp(us);
        }
        if let Some(us) = self.rx_interval_us {
            timers.required_min_rx_us = timers.clamp(us);
        }
        if let Some(detect_mult) = self.detect_mult {
            timers.detect_mult = detect_mult;
        }
        if let Some(min_ttl) = self.min_ttl {
            timers.min_ttl = min_ttl;
        }
        if let Some(passive) = self.passive {
            timers.mode = if passive { Mode::Passive } else { Mode::Active };
        }
        timers
    }

    /// Reads one word and its value, if it is about timing. `value` yields the next word.
    ///
    /// # Errors
    /// The value makes no sense, or the word was there already.
    pub fn word(
        &mut self,
        word: &str,
        mut value: impl FnMut() -> Result<String, String>,
    ) -> Result<bool, String> {
        let mut time = || -> Result<u32, String> {
            let text = value()?;
            let time: Duration =
                interval(&text).map_err(|fault| format!("{word} {text}: {fault}"))?;
            Ok(micros(time))
        };
        match word {
            "tx-interval" => once(&mut self.tx_interval_us, word, time()?)?,
            "rx-interval" => once(&mut self.rx_interval_us, word, time()?)?,
            "detect-mult" => {
                let text = value()?;
                let number = text.parse().ok().filter(|number| *number > 0_u8);
                let number = number.ok_or_else(|| format!("{word} {text}: must be 1 to 255"))?;
                once(&mut self.detect_mult, word, number)?;
            }
            "min-ttl" => {
                let text = value()?;
                let number = text.parse();
                let number = number.map_err(|_| format!("{word} {text}: must be 0 to 255"))?;
                once(&mut self.min_ttl, word, number)?;
            }
            "passive" | "active" => once(&mut self.passive, "the mode", word == "passive")?,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Fills a field that may be given once.
pub(crate) fn once<T>(field: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    if field.replace(value).is_some() {
        return Err(format!("{name} is given twice"));
    }
    Ok(())
}

impl FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let prefix = prefix(words.next().unwrap_or_default())?;
        let mut timing = Timing::default();
        while let Some(word) = words.next() {
            let value = || {
                let value = words.next().map(str::to_owned);
                value.ok_or_else(|| format!("{word} lacks its value"))
            };
            if !timing.word(word, value)? {
                return Err(format!(
                    "{word:?} is not tx-interval, rx-interval, detect-mult, passive or active"
                ));
            }
        }
        if timing == Timing::default() {
            return Err(format!("{prefix}: nothing is overridden"));
        }
        Ok(Self { prefix, timing })
    }
}

impl FromStr for Overrides {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rules = text
            .split(';')
            .map(str::trim)
            .filter(|rule| !rule.is_empty());
        Ok(Self(rules.map(str::parse).collect::<Result<_, _>>()?))
    }
}

/// Reads an address or a prefix.
///
/// # Errors
/// It is neither, or has bits behind its length.
pub fn prefix(text: &str) -> Result<Ipv4Net, String> {
    let found = match text.parse::<Ipv4Addr>() {
        Ok(address) => address.into(),
        Err(_) => text
            .parse::<Ipv4Net>()
            .map_err(|_| format!("{text:?} is not an IPv4 address or prefix"))?,
    };
    if found.addr() != found.network() {
        return Err(format!(
            "{text}: has bits behind its length; write {}",
            found.trunc()
        ));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Override {
        text.parse().unwrap()
    }

    #[test]
    fn the_longest_prefix_decides() {
        let mut policy = Policy::default();
        for text in [
            "0.0.0.0/0 detect-mult 9",
            "10.0.0.0/8 tx-interval 300ms passive",
            "10.1.0.0/16 active rx-interval 500ms",
            "10.1.2.3 detect-mult 4",
        ] {
            assert!(!policy.set(rule(text)), "{text}");
        }
        let timers = |dst: &str| policy.timers(dst.parse().unwrap(), Timers::DEFAULT);
        assert_eq!(timers("192.0.2.1").detect_mult, 9);
        let ten = timers("10.2.0.1");
        assert_eq!((ten.desired_min_tx_us, ten.mode), (300_000, Mode::Passive));
        assert_eq!(
            ten.detect_mult,
            Timers::DEFAULT.detect_mult,
            "one rule only"
        );
        let one = timers("10.1.0.1");
        assert_eq!((one.required_min_rx_us, one.mode), (500_000, Mode::Active));
        assert_eq!(timers("10.1.2.3").detect_mult, 4);
        assert!(policy.set(rule("10.1.2.3 detect-mult 5")), "it was there");
    }

    #[test]
    fn a_request_keeps_what_it_said_and_nothing_else() {
        let said = Timing {
            tx_interval_us: Some(300_000),
            passive: Some(true),
            ..Timing::default()
        };
        let peer = Peer {
            local: [10, 0, 0, 1],
            via: [0; 4],
            timers: said.apply(Timers::DEFAULT),
            origin: Origin::Api,
            left_out: said.left_out(),
            reserved: [0; 2],
        };
        let other = Timers {
            desired_min_tx_us: 2_000_000,
            required_min_rx_us: 2_000_000,
            detect_mult: 9,
            ..Timers::DEFAULT
        };
        let mut policy = Policy::default();
        policy.set(rule("10.0.0.2 detect-mult 7 active tx-interval 1s"));
        let renewed = policy.renewed([10, 0, 0, 2].into(), &peer, other).timers;
        let expected = Timers {
            desired_min_tx_us: 300_000,
            mode: Mode::Passive,
            detect_mult: 7,
            ..other
        };
        assert_eq!(renewed, expected);
        // As an earlier layout left it: all of it was said.
        let earlier = Peer {
            left_out: 0,
            ..peer
        };
        let renewed = policy.renewed([10, 0, 0, 2].into(), &earlier, other);
        assert_eq!(renewed, earlier);
    }

    #[test]
    fn excluded_by_address_and_prefix() {
        let mut policy = Policy::default();
        policy.exclude(prefix("10.0.0.0/8").unwrap());
        policy.exclude(prefix("10.0.0.7").unwrap());
        let by = |dst: &str| {
            policy
                .excluded(dst.parse().unwrap())
                .map(|net| net.to_string())
        };
        assert_eq!(by("10.0.0.7").as_deref(), Some("10.0.0.7/32"));
        assert_eq!(by("10.0.0.8").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(by("11.0.0.8"), None);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, reason) in [
            ("", "not an IPv4 address"),
            ("10.0.0.1/8 passive", "write 10.0.0.0/8"),
            ("10.0.0.0/33 passive", "not an IPv4 address"),
            ("2001:db8::/32 passive", "not an IPv4 address"),
            ("10.0.0.0/8", "nothing is overridden"),
            ("10.0.0.0/8 passive active", "given twice"),
            ("10.0.0.0/8 tx-interval", "lacks its value"),
            ("10.0.0.0/8 tx-interval 0", "tx-interval 0"),
            ("10.0.0.0/8 detect-mult 0", "1 to 255"),
            ("10.0.0.0/8 via 10.0.0.1", "is not tx-interval"),
        ] {
            let refused = text.parse::<Override>().unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
        let several: Overrides = "10.0.0.1 passive; 10.0.0.2 active;".parse().unwrap();
        assert_eq!(several.0.len(), 2);
    }
}
