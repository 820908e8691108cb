//! What a control message says: its types, their bodies, and the bounds of each.

use crate::packet::Malformed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// The most hubs that one message names.
pub const MAX_HUBS: usize = 8;

/// The most addresses that one message names: a peer has no more candidate paths.
pub const MAX_ADDRESSES: usize = 6;

/// The most bytes of membership that one message carries.
pub const MAX_MEMBERSHIP: usize = 1_100;

/// The most addresses on its device that a node tells of; a slot of eight has seven.
pub const MAX_LIVE: usize = 128;

/// The most floating addresses that a node claims at a time.
pub const MAX_CLAIMS: usize = 64;

/// Bytes of an address, and of a claim.
const LIVE: usize = 4;
const CLAIM: usize = 8;

/// Bytes of a handshake initiation (WireGuard paper, section 5.4.2), the longest handshake message.
const INITIATION: usize = 148;

/// Bytes of a probe's body.
pub(super) const PROBE_BYTES: usize = 8;

/// What a gateway can do, told in its hello. Unknown bits are kept and ignored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(pub u32);

impl Capabilities {
    /// A hub that forwards between its members without opening.
    pub const RELAYS: Self = Self(1);
    /// A node that has end-to-end sessions.
    pub const SEALED: Self = Self(2);
    /// It answers probes.
    pub const PROBES: Self = Self(4);
    /// It looks for direct paths.
    pub const DIRECT: Self = Self(8);
    /// It keeps signed records.
    pub const RECORDS: Self = Self(16);
    /// It hears which addresses are on the devices of nodes; a node tells of its own as well.
    pub const LISTENERS: Self = Self(32);

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among these.
    #[must_use]
    pub const fn have(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A hub, by the first eight bytes of its public key: nodes may know it by different names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HubId(pub u64);

impl HubId {
    /// The hub with this public key.
    #[must_use]
    pub fn of(public_key: &[u8; 32]) -> Self {
        Self(public_key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)))
    }
}

/// How a node is reached through a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubReach {
    /// The hub.
    pub hub: HubId,
    /// Whether datagrams pass between the node and the hub, both ways.
    pub up: bool,
    /// The hub is to be left.
    pub draining: bool,
    /// Round trip between the node and the hub, in whole milliseconds.
    pub rtt: Duration,
    /// The largest packet in bytes that was seen to pass between the node and the hub; an older version does not say.
    pub mtu: Option<u16>,
}

/// Where a node can be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whereabouts {
    /// Counts the changes; a later one stands.
    pub revision: u32,
    hubs: [Option<HubReach>; MAX_HUBS],
    addresses: [Option<SocketAddr>; MAX_ADDRESSES],
}

impl Whereabouts {
    /// Nothing yet, of that revision.
    #[must_use]
    pub fn new(revision: u32) -> Self {
        Self { revision, ..Self::default() }
    }

    /// Adds a hub; `false` when there are too many.
    pub fn add_hub(&mut self, hub: HubReach) -> bool {
        self.hubs.iter_mut().find(|place| place.is_none()).map(|place| *place = Some(hub)).is_some()
    }

    /// Adds an address; `false` when there are too many.
    pub fn add_address(&mut self, address: SocketAddr) -> bool {
        if self.addresses().any(|known| known == address) {
            return true;
        }
        self.addresses.iter_mut().find(|place| place.is_none()).map(|place| *place = Some(address)).is_some()
    }

    /// The hubs.
    pub fn hubs(&self) -> impl Iterator<Item = &HubReach> {
        self.hubs.iter().flatten()
    }

    /// The addresses.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.addresses.iter().flatten().copied()
    }

    /// Whether it says the same as another, whatever their revisions and round trips.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let state = |reach: &HubReach| (reach.hub, reach.up, reach.draining, reach.mtu);
        self.hubs().map(state).eq(other.hubs().map(state)) && self.addresses == other.addresses
    }
}

/// A floating address that a node has on its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: Ipv4Addr,
    /// One more than the latest that its node knew of when the address appeared: of two claims the later stands (as serial numbers,
    /// RFC 1982).
    pub epoch: u32,
}

/// Which addresses of the overlay a node has on its device. Written as it travels: reading it takes no memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listeners<'a> {
    /// Counts the changes since the sender started; a later one stands.
    pub revision: u32,
    live: &'a [u8],
    claims: &'a [u8],
}

impl<'a> Listeners<'a> {
    /// Writes the lists into `buffer`; what is beyond [`MAX_LIVE`] and [`MAX_CLAIMS`] is left out.
    pub fn new(
        revision: u32,
        live: impl Iterator<Item = Ipv4Addr>,
        claims: impl Iterator<Item = Claim>,
        buffer: &'a mut Vec<u8>,
    ) -> Self {
        buffer.clear();
        for address in live.take(MAX_LIVE) {
            buffer.extend(address.octets());
        }
        let live = buffer.len();
        for Claim { address, epoch } in claims.take(MAX_CLAIMS) {
            buffer.extend(address.octets());
            buffer.extend(epoch.to_be_bytes());
        }
        let (live, claims) = buffer.split_at(live);
        Self { revision, live, claims }
    }

    /// The addresses that are no claims.
    pub fn live(&self) -> impl Iterator<Item = Ipv4Addr> + 'a {
        self.live.as_chunks().0.iter().map(|bytes: &[u8; LIVE]| Ipv4Addr::from(*bytes))
    }

    /// The floating addresses.
    pub fn claims(&self) -> impl Iterator<Item = Claim> + 'a {
        self.claims.as_chunks().0.iter().map(|&[a, b, c, d, e @ ..]: &[u8; CLAIM]| Claim {
            address: Ipv4Addr::new(a, b, c, d),
            epoch: u32::from_be_bytes(e),
        })
    }
}

/// Why a hub does not pass an initiation on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The member is not there: no session, or its endpoint has not been confirmed.
    Away,
    /// The member is there and has no end-to-end sessions: it is reached routed or not at all.
    Plain,
}

/// What one gateway says to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "one at a time, on the stack")]
pub enum Message<'a> {
    /// The first message of each session.
    Hello {
        /// What the sender can do.
        capabilities: Capabilities,
        /// The epoch of the receiver's last hello; 0: the sender has none.
        seen: u64,
    },
    /// From a hub: answer with the nonce from where this arrives, so that the hub knows that you are there.
    Challenge {
        /// Drawn for this endpoint.
        nonce: u64,
    },
    /// To a hub: the nonce of its challenge.
    Answer {
        /// As it came.
        nonce: u64,
    },
    /// Are you there?
    Probe {
        /// Of this probe.
        number: u32,
        /// The largest packet in bytes that was seen to pass between sender and receiver; an older version does not say.
        mtu: Option<u16>,
    },
    /// I am.
    Echo {
        /// As it came.
        number: u32,
        /// The sender is a hub that is to be left.
        draining: bool,
        /// Where the probe came from, as its receiver saw it.
        seen_at: Option<SocketAddr>,
    },
    /// From a hub, at once when it changes: whether it is to be left.
    Notice {
        /// It is.
        draining: bool,
    },
    /// To a hub: pass this handshake initiation to the node of that slot.
    Initiate {
        /// The ordinal of the slot.
        to: u16,
        /// The message.
        message: &'a [u8; INITIATION],
    },
    /// From a hub: a handshake initiation of the node of that slot.
    Initiated {
        /// The ordinal of the slot.
        from: u16,
        /// The message.
        message: &'a [u8; INITIATION],
    },
    /// From a hub: an initiation was not passed on.
    Absent {
        /// The ordinal of the slot.
        node: u16,
        /// Why.
        why: Absence,
    },
    /// Between nodes: a handshake message of the session that tries direct paths.
    Inner {
        /// At most 148 bytes.
        message: &'a [u8],
    },
    /// Between nodes: where the sender can be reached.
    Whereabouts(Whereabouts),
    /// Between nodes: that revision has arrived.
    Noted {
        /// Of the whereabouts.
        revision: u32,
    },
    /// Signed records, or what is known of them; the engine does not look inside.
    Membership {
        /// At most [`MAX_MEMBERSHIP`] bytes.
        bytes: &'a [u8],
    },
    /// Between nodes: which addresses the sender has on its device.
    Listeners(Listeners<'a>),
    /// Between nodes: that revision has arrived.
    ListenersNoted {
        /// Of the listeners.
        revision: u32,
    },
}

const HELLO: u8 = 1;
const CHALLENGE: u8 = 2;
const ANSWER: u8 = 3;
const PROBE: u8 = 4;
const ECHO: u8 = 5;
const NOTICE: u8 = 6;
const INITIATE: u8 = 7;
const INITIATED: u8 = 8;
const ABSENT: u8 = 9;
const INNER: u8 = 10;
const WHEREABOUTS: u8 = 11;
const NOTED: u8 = 12;
const MEMBERSHIP: u8 = 13;
const LISTENERS: u8 = 14;
const LISTENERS_NOTED: u8 = 15;

const DRAINING: u8 = 1;
const UP: u8 = 2;

impl<'a> Message<'a> {
    /// Writes the body; its type and length. `None` when there is no room or it is beyond its bounds.
    pub(super) fn write(&self, body: &mut [u8]) -> Option<(u8, usize)> {
        let mut out = Writer { body, at: 0 };
        let kind = match self {
            Self::Hello { capabilities, seen } => {
                out.put(&capabilities.0.to_be_bytes())?;
                out.put(&seen.to_be_bytes())?;
                HELLO
            }
            Self::Challenge { nonce } => {
                out.put(&nonce.to_be_bytes())?;
                CHALLENGE
            }
            Self::Answer { nonce } => {
                out.put(&nonce.to_be_bytes())?;
                ANSWER
            }
            Self::Probe { number, mtu } => {
                out.put(&number.to_be_bytes())?;
                out.put(&mtu.unwrap_or_default().to_be_bytes())?;
                // As long as a challenge, which a hub sends only where as much has come from.
                out.put(&[0; 2])?;
                PROBE
            }
            Self::Echo { number, draining, seen_at } => {
                out.put(&number.to_be_bytes())?;
                out.put(&[if *draining { DRAINING } else { 0 }])?;
                out.address(*seen_at)?;
                ECHO
            }
            Self::Notice { draining } => {
                out.put(&[if *draining { DRAINING } else { 0 }])?;
                NOTICE
            }
            Self::Initiate { to, message } => {
                out.put(&to.to_be_bytes())?;
                out.put(*message)?;
                INITIATE
            }
            Self::Initiated { from, message } => {
                out.put(&from.to_be_bytes())?;
                out.put(*message)?;
                INITIATED
            }
            Self::Absent { node, why } => {
                out.put(&node.to_be_bytes())?;
                out.put(&[match why {
                    Absence::Away => 0,
                    Absence::Plain => 1,
                }])?;
                ABSENT
            }
            Self::Inner { message } => {
                out.put(&[u8::try_from(message.len())
                    .ok()
                    .filter(|len| usize::from(*len) <= INITIATION)?])?;
                out.put(message)?;
                INNER
            }
            Self::Whereabouts(whereabouts) => {
                out.whereabouts(whereabouts)?;
                WHEREABOUTS
            }
            Self::Noted { revision } => {
                out.put(&revision.to_be_bytes())?;
                NOTED
            }
            Self::Membership { bytes } => {
                let len =
                    u16::try_from(bytes.len()).ok().filter(|len| usize::from(*len) <= MAX_MEMBERSHIP)?;
                out.put(&len.to_be_bytes())?;
                out.put(bytes)?;
                MEMBERSHIP
            }
            Self::Listeners(Listeners { revision, live, claims }) => {
                out.put(&revision.to_be_bytes())?;
                out.put(&[u8::try_from(live.len() / LIVE).ok()?, u8::try_from(claims.len() / CLAIM).ok()?])?;
                out.put(live)?;
                out.put(claims)?;
                LISTENERS
            }
            Self::ListenersNoted { revision } => {
                out.put(&revision.to_be_bytes())?;
                LISTENERS_NOTED
            }
        };
        Some((kind, out.at))
    }

    /// Reads a body; `None` for a type that is not known.
    pub(super) fn read(kind: u8, body: &'a [u8]) -> Result<Option<Self>, Malformed> {
        let mut from = Reader { left: body, whole: body.len() };
        Ok(Some(match kind {
            HELLO => Self::Hello { capabilities: Capabilities(from.u32()?), seen: from.u64()? },
            CHALLENGE => Self::Challenge { nonce: from.u64()? },
            ANSWER => Self::Answer { nonce: from.u64()? },
            PROBE => Self::Probe { number: from.u32()?, mtu: from.later_u16() },
            ECHO => Self::Echo {
                number: from.u32()?,
                draining: from.u8()? & DRAINING != 0,
                seen_at: from.address()?,
            },
            NOTICE => Self::Notice { draining: from.u8()? & DRAINING != 0 },
            INITIATE => Self::Initiate { to: from.u16()?, message: from.initiation()? },
            INITIATED => Self::Initiated { from: from.u16()?, message: from.initiation()? },
            ABSENT => Self::Absent {
                node: from.u16()?,
                why: if from.u8()? == 1 { Absence::Plain } else { Absence::Away },
            },
            INNER => {
                let len = usize::from(from.u8()?);
                bounded("control message: handshake", len, INITIATION)?;
                Self::Inner { message: from.take(len)? }
            }
            WHEREABOUTS => Self::Whereabouts(from.whereabouts()?),
            NOTED => Self::Noted { revision: from.u32()? },
            MEMBERSHIP => {
                let len = usize::from(from.u16()?);
                bounded("control message: membership", len, MAX_MEMBERSHIP)?;
                Self::Membership { bytes: from.take(len)? }
            }
            LISTENERS => {
                let revision = from.u32()?;
                let (live, claims) = (usize::from(from.u8()?), usize::from(from.u8()?));
                bounded("control message: live addresses", live, MAX_LIVE)?;
                bounded("control message: claims", claims, MAX_CLAIMS)?;
                let (live, claims) = (from.take(live * LIVE)?, from.take(claims * CLAIM)?);
                Self::Listeners(Listeners { revision, live, claims })
            }
            LISTENERS_NOTED => Self::ListenersNoted { revision: from.u32()? },
            _ => return Ok(None),
        }))
    }
}

fn bounded(what: &'static str, found: usize, most: usize) -> Result<(), Malformed> {
    let wide = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    if found > most {
        Err(Malformed::Value { what, found: wide(found), expected: wide(most) })
    } else {
        Ok(())
    }
}

struct Writer<'b> {
    body: &'b mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.body.get_mut(self.at..self.at + bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }

    /// Version (0: none), 16 bytes of address, port.
    fn address(&mut self, address: Option<SocketAddr>) -> Option<()> {
        let mut bytes = [0; 16];
        let (version, port) = match address.map(|address| (address.ip().to_canonical(), address.port())) {
            None => (0, 0),
            Some((IpAddr::V4(ip), port)) => {
                bytes.first_chunk_mut::<4>()?.copy_from_slice(&ip.octets());
                (4, port)
            }
            Some((IpAddr::V6(ip), port)) => {
                bytes = ip.octets();
                (6, port)
            }
        };
        self.put(&[version])?;
        self.put(&bytes)?;
        self.put(&port.to_be_bytes())
    }

    fn whereabouts(&mut self, whereabouts: &Whereabouts) -> Option<()> {
        self.put(&whereabouts.revision.to_be_bytes())?;
        self.put(&[whereabouts.hubs().count() as u8, whereabouts.addresses().count() as u8])?;
        for reach in whereabouts.hubs() {
            self.put(&reach.hub.0.to_be_bytes())?;
            self.put(&[if reach.up { UP } else { 0 } | if reach.draining { DRAINING } else { 0 }])?;
            self.put(&u16::try_from(reach.rtt.as_millis()).unwrap_or(u16::MAX).to_be_bytes())?;
        }
        whereabouts.addresses().try_for_each(|address| self.address(Some(address)))?;
        // At the end, where a version that does not know it looks no more.
        whereabouts.hubs().try_for_each(|reach| self.put(&reach.mtu.unwrap_or_default().to_be_bytes()))
    }
}

struct Reader<'a> {
    left: &'a [u8],
    whole: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, left) = self.left.split_at_checked(len).ok_or(Malformed::Truncated {
            what: "control message: body",
            needed: self.whole - self.left.len() + len,
            found: self.whole,
        })?;
        self.left = left;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Malformed> {
        // As long as what was asked for.
        Ok(self.take(N)?.first_chunk().unwrap_or(&[0; N]))
    }

    fn u8(&mut self) -> Result<u8, Malformed> {
        Ok(u8::from_be_bytes(*self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        Ok(u16::from_be_bytes(*self.array()?))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from_be_bytes(*self.array()?))
    }

    /// What a later version has added to a body; 0 stands for nothing.
    fn later_u16(&mut self) -> Option<u16> {
        self.u16().ok().filter(|value| *value != 0)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        Ok(u64::from_be_bytes(*self.array()?))
    }

    fn initiation(&mut self) -> Result<&'a [u8; INITIATION], Malformed> {
        self.array()
    }

    fn address(&mut self) -> Result<Option<SocketAddr>, Malformed> {
        let version = self.u8()?;
        let bytes: &[u8; 16] = self.array()?;
        let port = self.u16()?;
        Ok(match version {
            4 => {
                let [a, b, c, d, ..] = *bytes;
                Some(SocketAddr::new(Ipv4Addr::new(a, b, c, d).into(), port))
            }
            6 => Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*bytes)).to_canonical(), port)),
            _ => None,
        })
    }

    fn whereabouts(&mut self) -> Result<Whereabouts, Malformed> {
        let mut whereabouts = Whereabouts::new(self.u32()?);
        let (hubs, addresses) = (usize::from(self.u8()?), usize::from(self.u8()?));
        bounded("control message: hubs", hubs, MAX_HUBS)?;
        bounded("control message: addresses", addresses, MAX_ADDRESSES)?;
        for _ in 0..hubs {
            let (hub, flags, rtt) = (HubId(self.u64()?), self.u8()?, self.u16()?);
            whereabouts.add_hub(HubReach {
                hub,
                up: flags & UP != 0,
                draining: flags & DRAINING != 0,
                rtt: Duration::from_millis(rtt.into()),
                mtu: None,
            });
        }
        for _ in 0..addresses {
            if let Some(address) = self.address()? {
                whereabouts.add_address(address);
            }
        }
        for reach in whereabouts.hubs.iter_mut().flatten() {
            reach.mtu = self.later_u16();
        }
        Ok(whereabouts)
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
