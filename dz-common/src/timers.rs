//! The configuration of a session: intervals, multiplier, mode.

/// Whether an end manages routes.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(
        zerocopy::TryFromBytes,
        zerocopy::IntoBytes,
        zerocopy::KnownLayout,
        zerocopy::Immutable
    )
)]
pub enum Mode {
    /// Nothing heard yet (of a peer only).
    Unknown = 0,
    /// Routes follow the session.
    Active = 1,
    /// Routes are left alone.
    Passive = 2,
}

impl Mode {
    /// Name in JSON and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Active => "active",
            Self::Passive => "passive",
        }
    }
}

/// The configuration of a session. Intervals in µs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "user",
    derive(
        zerocopy::TryFromBytes,
        zerocopy::IntoBytes,
        zerocopy::KnownLayout,
        zerocopy::Immutable
    )
)]
pub struct Timers {
    /// `bfd.DesiredMinTxInterval`.
    pub desired_min_tx_us: u32,
    /// `bfd.RequiredMinRxInterval`.
    pub required_min_rx_us: u32,
    /// Every interval, ours or the peer's, is raised to this.
    pub floor_us: u32,
    /// Every interval is lowered to this. Non-zero and not below the floor.
    pub ceiling_us: u32,
    /// Longest transmit interval while Down. 0: no back-off cap.
    pub backoff_cap_us: u32,
    /// `bfd.DetectMult`, non-zero; the local one decides our detection (unlike RFC 5880 §6.8.4).
    pub detect_mult: u8,
    /// Announced to the peer; [`Mode::Active`] or [`Mode::Passive`].
    pub mode: Mode,
    /// Packets with fewer hops left are dropped (RFC 5082); 0: none is.
    pub min_ttl: u8,
    /// Always zero.
    pub reserved: u8,
}

impl Timers {
    /// The deployed client's defaults, with *our* back-off cap: 1 s, multiplier 3, 50 ms to 3 s,
    /// 5 s.
    pub const DEFAULT: Self = Self {
        desired_min_tx_us: 1_000_000,
        required_min_rx_us: 1_000_000,
        floor_us: 50_000,
        ceiling_us: 3_000_000,
        backoff_cap_us: 5_000_000,
        detect_mult: 3,
        mode: Mode::Active,
        min_ttl: 0,
        reserved: 0,
    };

    /// Says whether a session that is Up can go on with other timers before its peer has heard of them: it must
    /// neither send more rarely than its peer expects, nor expect more packets than its peer sends. RFC 5880
    /// §6.8.3 has a poll sequence for these two, and this protocol none; everything else may change at once
    /// (§6.8.12).
    #[inline(always)]
    pub const fn can_become(&self, next: &Self) -> bool {
        next.desired_min_tx_us <= self.desired_min_tx_us
            && next.required_min_rx_us >= self.required_min_rx_us
    }

    /// Clamps an interval to [floor, ceiling].
    #[inline(always)]
    pub const fn clamp(&self, us: u32) -> u32 {
        if us < self.floor_us {
            self.floor_us
        } else if us > self.ceiling_us {
            self.ceiling_us
        } else {
            us
        }
    }
}
