//! Counters: every packet that is not carried has a [`DropReason`], and each reason a counter.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was not carried. [`DropReason::name`] is the name in `status --json`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum DropReason { $($(#[doc = $doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of `status --json`.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];

            /// The name in `status --json`: fixed, since outside programs read it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    /// From the host or a peer: the source address is not one that the sender owns.
    ForeignSource = "foreign_source",
    /// No route covers the destination; the sender was told (net unreachable).
    NoRoute = "no_route",
    /// An address of this slot that is not on the device; refused as `refuse` says.
    ListenerOffline = "listener_offline",
    /// An address of this slot while it is not known what is on the device: dropped in silence.
    ListenerUnknown = "listener_unknown",
    /// The host sent with the gateway's own address as source.
    GatewaySource = "gateway_source",
    /// One of the tunnel's own datagrams came back through the overlay device: the host has lost its route to the underlay.
    OwnDatagram = "own_datagram",
    /// Not an IPv4 packet, nor ARP on a TAP device.
    NotIpv4 = "not_ipv4",
    /// A packet or frame whose lengths or checksums contradict one another.
    Malformed = "malformed",
    /// Broadcast or multicast, which the overlay does not carry; on a TAP, a frame that is not for the gateway.
    Multicast = "multicast",
    /// From a peer, to an address outside this node's slot.
    NotMine = "not_mine",
    /// Too big for the tunnel with "don't fragment" set; the sender was told the right size.
    TooBig = "too_big",
    /// The time to live ran out here; the sender was told.
    TtlExpired = "ttl_expired",
    /// No session with the peer yet, and the few packets that wait for one are all there may be.
    NoSession = "no_session",
    /// Waited longer than a second for a session.
    Stale = "stale",
    /// The peer's endpoint is not known.
    NoEndpoint = "no_endpoint",
    /// A datagram that is no WireGuard message, or belongs to no session here.
    NotWireguard = "not_wireguard",
    /// A handshake of a key that is not a member.
    UnknownPeer = "unknown_peer",
    /// A message that failed authentication, or came twice.
    Unauthentic = "unauthentic",
    /// Handshakes beyond the limit: answered with a cookie (WireGuard paper, section 5.3).
    UnderLoad = "under_load",
    /// From an underlay address inside the overlay: a tunnel within itself.
    EndpointInOverlay = "endpoint_in_overlay",
    /// For the gateway, and nothing that it answers.
    GatewayIgnored = "gateway_ignored",
    /// An answer of the gateway that its rate limit held back.
    RateLimited = "rate_limited",
    /// From the host, to or from the addresses that only gateways use among themselves.
    ReservedAddress = "reserved_address",
    /// A control message that contradicts itself.
    ControlMalformed = "control_malformed",
    /// A control message of a later version, or of an unknown type.
    ControlUnknown = "control_unknown",
    /// A control message of a peer that has not said hello, or that is not for it to send.
    ControlUnexpected = "control_unexpected",
    /// What a peer said of signed records while as much of it as may wait was waiting.
    MembershipLimited = "membership_limited",
    /// To a member at an endpoint that has not yet shown that it reads what is sent there: a packet, or more bytes than came
    /// from it.
    EndpointUnconfirmed = "endpoint_unconfirmed",
    /// To be forwarded, from an endpoint that no member has confirmed.
    RelayUnconfirmed = "relay_unconfirmed",
    /// To be forwarded, to a node that is not here.
    RelayAbsent = "relay_absent",
    /// To be forwarded, beyond what one member may.
    RelayLimited = "relay_limited",
    /// From a peer: a claim to an address that is not floating, or not for its slot to hold.
    ClaimRefused = "claim_refused",
    /// To a floating address that nobody is known to have.
    FloatingUnowned = "floating_unowned",
    /// No room in the batch.
    NoBuffer = "no_buffer",
}

/// One counter for each [`DropReason`]. Written with relaxed atomics: a reader sees each count, not a moment.
#[derive(Debug)]
pub struct Drops([AtomicU64; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Drops {
    /// Counts one packet.
    pub fn count(&self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts `packets` packets.
    pub fn add(&self, reason: DropReason, packets: u64) {
        tracing::trace!(reason = reason.name(), packets, "dropped");
        if let Some(counter) = self.0.get(reason as usize) {
            counter.fetch_add(packets, Ordering::Relaxed);
        }
    }

    /// How many packets were dropped for `reason`.
    #[must_use]
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.get(reason as usize).map_or(0, |c| c.load(Ordering::Relaxed))
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.of(reason)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_and_a_name_of_its_own() {
        let drops = Drops::default();
        for (n, &reason) in DropReason::ALL.iter().enumerate() {
            drops.add(reason, n as u64 + 1);
        }
        for (n, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(drops.of(reason), n as u64 + 1);
        }
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
