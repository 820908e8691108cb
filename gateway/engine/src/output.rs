//! What one call of the engine gives back: packets for the host, datagrams for the underlay.

use crate::control::MAX_MESSAGE;
use crate::packet::{Batch, DatagramBatch, HEADROOM, MAX_PACKET, PacketBatch};
use crate::peer::PeerIndex;
use crate::peer::tunnel::{MIN_BUFFER, OVERHEAD};
use std::net::SocketAddr;

/// Control messages that one batch may bring, and their bytes: a hub's thousand members may ask in the same moment.
const INBOX: usize = 1024;
const INBOX_BYTES: usize = 128 * 1024;

/// Probes of path MTUs that leave at a time, and their bytes: one of the largest packet, or some forty of the usual size. The
/// others wait for their turn.
const WHOLE: usize = 64;
const WHOLE_BYTES: usize = MAX_PACKET + OVERHEAD;

/// What one call of the engine gives back. Allocated once and used again; [`Output::clear`] it before each call.
#[derive(Debug)]
pub struct Output {
    /// For the device: packets (TUN) or frames (TAP).
    pub host: PacketBatch,
    /// For the underlay.
    pub net: DatagramBatch,
    /// For the underlay, each whole or not at all ("don't fragment"): probes of a path's MTU. Only time brings any
    /// ([`Engine::handle_timeout`](crate::Engine::handle_timeout)); where the system cannot do that, they are sent as all others.
    pub whole: DatagramBatch,
    /// On their way to a peer: what a hub forwards and what the gateway answers to a peer.
    pub(crate) relay: Batch<PeerIndex, 0>,
    /// Control messages that have come, each with who sent it and from where.
    pub(crate) inbox: Batch<(PeerIndex, SocketAddr), 0>,
    /// Where one packet is made before it is copied into a batch.
    pub(crate) scratch: Box<[u8]>,
}

impl Output {
    /// Room for what comes of a batch of `packets` packets of together at most `bytes` bytes.
    #[must_use]
    pub fn for_batch(bytes: usize, packets: usize) -> Self {
        // Each packet grows by what sealing adds (short ones to the size of a handshake message), and a last one that
        // is only reserved must fit as well.
        let bytes = bytes + packets * (MIN_BUFFER + HEADROOM) + MAX_PACKET + OVERHEAD;
        // A packet that is cut into fragments becomes several.
        let packets = packets * 2 + MAX_PACKET / 576;
        Self {
            host: PacketBatch::with_capacity(bytes, packets),
            net: DatagramBatch::with_capacity(bytes, packets),
            whole: DatagramBatch::with_capacity(WHOLE_BYTES, WHOLE),
            relay: Batch::with_capacity(bytes, packets),
            inbox: Batch::with_capacity((packets * 256).min(INBOX_BYTES) + MAX_MESSAGE, packets.min(INBOX)),
            scratch: vec![0; MAX_PACKET + OVERHEAD].into_boxed_slice(),
        }
    }

    /// Forgets what the last call gave back.
    pub fn clear(&mut self) {
        self.host.clear();
        self.net.clear();
        self.whole.clear();
        self.relay.clear();
        self.inbox.clear();
    }
}
