//! The 40-byte liveness packet.
//!
//! Network byte order, UDP payload. Drawn from BFD (RFC 5880 §4.1) with its own layout; what is
//! stricter than the deployed client is marked *ours*.

use crate::unaligned::word;

/// Bytes of a liveness packet; a longer UDP payload is read by its first 40 bytes.
pub const PACKET_LEN: usize = 40;

const VERSION: u8 = 1;
const FLAG_PASSIVE: u8 = 1 << 0;
/// First reserved byte: sent as zero, ignored on receipt.
const RESERVED: usize = 25;
/// 32-bit words up to the first reserved byte.
pub(crate) const WORDS: usize = RESERVED.div_ceil(4);

/// Session state, RFC 5880 §4.1 `Sta` numbering.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(
    feature = "user",
    derive(
        zerocopy::TryFromBytes,
        zerocopy::IntoBytes,
        zerocopy::KnownLayout,
        zerocopy::Immutable
    )
)]
pub enum State {
    /// Held down by administration; nothing received changes it.
    AdminDown = 0,
    /// No working exchange.
    Down = 1,
    /// The peer is heard; whether it hears us is not known yet.
    Init = 2,
    /// Both directions work.
    Up = 3,
}

impl State {
    /// Every state, in wire order.
    pub const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];

    /// Decodes the two state bits.
    #[inline(always)]
    const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::AdminDown,
            1 => Self::Down,
            2 => Self::Init,
            _ => Self::Up,
        }
    }

    /// Name in metrics, JSON and traces.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "admin_down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        }
    }
}

/// Software version in a packet: major, minor, patch, channel (0 stable, 1 alpha, 2 beta, 3 rc,
/// 4 dev, anything else other).
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(
    feature = "user",
    derive(
        zerocopy::FromBytes,
        zerocopy::IntoBytes,
        zerocopy::KnownLayout,
        zerocopy::Immutable
    )
)]
pub struct Version {
    /// The four numbers. Named, for `bpftool map dump` shows it by this name.
    pub number: [u8; 4],
}

impl Version {
    /// Makes a version of these four numbers.
    #[inline(always)]
    pub const fn new(number: [u8; 4]) -> Self {
        Self { number }
    }
}

impl core::fmt::Display for Version {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [major, minor, patch, channel] = self.number;
        write!(f, "{major}.{minor}.{patch}")?;
        f.write_str(match channel {
            0 => "",
            1 => "-alpha",
            2 => "-beta",
            3 => "-rc",
            4 => "-dev",
            _ => "-other",
        })
    }
}

/// A decoded packet. Field names follow RFC 5880 §4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The sender's session state.
    pub state: State,
    /// The sender's detection multiplier, non-zero. Informational: detection uses the local one.
    pub detect_mult: u8,
    /// The sender's discriminator, non-zero (`local discriminator` on the wire).
    pub my_discr: u32,
    /// The receiver's discriminator as the sender knows it, 0 until learned.
    pub your_discr: u32,
    /// How often the sender wants to transmit, µs.
    pub desired_min_tx_us: u32,
    /// How often the sender is willing to receive, µs.
    pub required_min_rx_us: u32,
    /// The sender does not manage routes.
    pub passive: bool,
    /// The sender's software version.
    pub version: Version,
    /// A reserved byte is not zero. Never sent; counted on receipt.
    pub reserved_set: bool,
}

/// Why a payload is not a liveness packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reject {
    /// Fewer than 40 bytes.
    Short,
    /// Version is not 1.
    Version,
    /// The length byte is not 40.
    Length,
    /// Detection multiplier 0 (*ours*; RFC 5880 §6.8.6).
    ZeroMultiplier,
    /// Sender's discriminator 0 (*ours*; RFC 5880 §6.8.6).
    ZeroDiscriminator,
}

impl Packet {
    /// Decodes a UDP payload of any length.
    ///
    /// # Errors
    /// The first rule of [`Reject`], in its order, that the payload breaks.
    #[inline(always)]
    pub fn decode(payload: &[u8]) -> Result<Self, Reject> {
        match payload.first_chunk::<PACKET_LEN>() {
            Some(bytes) => Self::decode_exact(bytes),
            None => Err(Reject::Short),
        }
    }

    /// Decodes the first 40 bytes of a payload.
    ///
    /// # Errors
    /// As [`Packet::decode`], but never [`Reject::Short`].
    #[inline(always)]
    pub fn decode_exact(b: &[u8; PACKET_LEN]) -> Result<Self, Reject> {
        let [version_diag, state_flags, detect_mult, length] = word::<0, _>(b).to_ne_bytes();
        if version_diag >> 5 != VERSION {
            return Err(Reject::Version);
        }
        if length != PACKET_LEN as u8 {
            return Err(Reject::Length);
        }
        if detect_mult == 0 {
            return Err(Reject::ZeroMultiplier);
        }
        let my_discr = u32::from_be(word::<1, _>(b));
        if my_discr == 0 {
            return Err(Reject::ZeroDiscriminator);
        }
        let [flags, major, minor, patch] = word::<5, _>(b).to_ne_bytes();
        let [channel, reserved @ ..] = word::<6, _>(b).to_ne_bytes();
        let more = word::<7, _>(b) | word::<8, _>(b) | word::<9, _>(b);
        Ok(Self {
            state: State::from_bits(state_flags >> 6),
            detect_mult,
            my_discr,
            your_discr: u32::from_be(word::<2, _>(b)),
            desired_min_tx_us: u32::from_be(word::<3, _>(b)),
            required_min_rx_us: u32::from_be(word::<4, _>(b)),
            passive: flags & FLAG_PASSIVE != 0,
            version: Version::new([major, minor, patch, channel]),
            reserved_set: more != 0 || reserved != [0; 3],
        })
    }

    /// Makes what a session would transmit its stateless answer to `peer_discr`, see
    /// [`crate::session::Session::introduction`].
    #[inline(always)]
    pub const fn introduce(&mut self, peer_discr: u32) {
        if matches!(self.state, State::Down) {
            self.state = State::Init;
        }
        self.your_discr = peer_discr;
    }

    /// Encodes the packet; reserved bits and bytes are zero.
    #[inline(always)]
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let mut bytes = [0; PACKET_LEN];
        let (chunks, _) = bytes.as_chunks_mut();
        for (chunk, word) in chunks.iter_mut().zip(self.words()) {
            *chunk = word.to_ne_bytes();
        }
        bytes
    }

    /// Encodes the packet as 32-bit words in memory order, up to the last that is not all zero.
    #[inline(always)]
    pub(crate) const fn words(&self) -> [u32; WORDS] {
        let [major, minor, patch, channel] = self.version.number;
        let flags = if self.passive { FLAG_PASSIVE } else { 0 };
        [
            u32::from_ne_bytes([
                VERSION << 5,
                (self.state as u8) << 6,
                self.detect_mult,
                PACKET_LEN as u8,
            ]),
            self.my_discr.to_be(),
            self.your_discr.to_be(),
            self.desired_min_tx_us.to_be(),
            self.required_min_rx_us.to_be(),
            u32::from_ne_bytes([flags, major, minor, patch]),
            u32::from_ne_bytes([channel, 0, 0, 0]),
        ]
    }
}
