//! The 40-byte liveness packet.
//!
//! Network byte order, UDP payload. Drawn from BFD (RFC 5880 §4.1) with its own layout; what is
//! stricter than the deployed client is marked *ours*.

/// Bytes of a liveness packet; a longer UDP payload is read by its first 40 bytes.
pub const PACKET_LEN: usize = 40;

const VERSION: u8 = 1;
const FLAG_PASSIVE: u8 = 1 << 0;
/// First reserved byte: sent as zero, ignored on receipt.
const RESERVED: usize = 25;

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
    /// A version of these four numbers.
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
    /// Detection multiplier 0 (*ours*; RFC 5880 §6.8.6, RFC 7).
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
        if b[0] >> 5 != VERSION {
            return Err(Reject::Version);
        }
        if b[3] != PACKET_LEN as u8 {
            return Err(Reject::Length);
        }
        if b[2] == 0 {
            return Err(Reject::ZeroMultiplier);
        }
        let my_discr = u32_at::<4>(b);
        if my_discr == 0 {
            return Err(Reject::ZeroDiscriminator);
        }
        let mut reserved = 0;
        let mut i = RESERVED;
        while i < PACKET_LEN {
            reserved |= b[i];
            i += 1;
        }
        Ok(Self {
            state: State::from_bits(b[1] >> 6),
            detect_mult: b[2],
            my_discr,
            your_discr: u32_at::<8>(b),
            desired_min_tx_us: u32_at::<12>(b),
            required_min_rx_us: u32_at::<16>(b),
            passive: b[20] & FLAG_PASSIVE != 0,
            version: Version::new([b[21], b[22], b[23], b[24]]),
            reserved_set: reserved != 0,
        })
    }

    /// Encodes the packet; reserved bits and bytes are zero.
    #[inline(always)]
    pub fn encode(&self) -> [u8; PACKET_LEN] {
        let mut bytes = [0; PACKET_LEN];
        self.encode_into(&mut bytes);
        bytes
    }

    /// Encodes the packet into `b`, every byte of it.
    #[inline(always)]
    pub fn encode_into(&self, b: &mut [u8; PACKET_LEN]) {
        b[0] = VERSION << 5;
        b[1] = (self.state as u8) << 6;
        b[2] = self.detect_mult;
        b[3] = PACKET_LEN as u8;
        put_u32::<4>(b, self.my_discr);
        put_u32::<8>(b, self.your_discr);
        put_u32::<12>(b, self.desired_min_tx_us);
        put_u32::<16>(b, self.required_min_rx_us);
        b[20] = if self.passive { FLAG_PASSIVE } else { 0 };
        [b[21], b[22], b[23], b[24]] = self.version.number;
        let mut i = RESERVED;
        while i < PACKET_LEN {
            b[i] = 0;
            i += 1;
        }
    }
}

// Constant offsets keep every index provably in bounds: no panic path in the BPF object.
#[inline(always)]
const fn u32_at<const AT: usize>(b: &[u8; PACKET_LEN]) -> u32 {
    u32::from_be_bytes([b[AT], b[AT + 1], b[AT + 2], b[AT + 3]])
}

#[inline(always)]
fn put_u32<const AT: usize>(b: &mut [u8; PACKET_LEN], value: u32) {
    [b[AT], b[AT + 1], b[AT + 2], b[AT + 3]] = value.to_be_bytes();
}
