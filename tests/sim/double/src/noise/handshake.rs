//! The handshake (WireGuard paper, section 5.4): ephemeral keys, an identity that is hidden, a timestamp against replays.

use super::clock;
use super::errors::WireGuardError;
use super::rate_limiter::{cookie_key, mac1_key};
use super::{HandshakeInit, HandshakeResponse, INIT_LEN, PacketCookieReply, RESPONSE_LEN};
use crate::mix::{self, Key};
use crate::session::Session;
use crate::x25519::{PublicKey, StaticSecret};
use std::time::Duration;

/// What can be said of an initiation before it is known whose peer this is.
pub struct HalfHandshake {
    /// The initiator's receiver index.
    pub peer_index: u32,
    /// The initiator's public key.
    pub peer_static_public: [u8; 32],
}

fn key_of_static(dh: u64, ephemeral: &PublicKey, responder: &PublicKey) -> Key {
    mix::hash(mix::hash(mix::join(1, dh), ephemeral.as_bytes()), responder.as_bytes())
}

/// Who sent an initiation.
///
/// # Errors
/// When it is not for this key.
pub fn parse_handshake_anon(
    private: &StaticSecret,
    public: &PublicKey,
    init: &HandshakeInit<'_>,
) -> Result<HalfHandshake, WireGuardError> {
    let ephemeral = PublicKey::from(*init.ephemeral);
    let key = key_of_static(private.diffie_hellman(&ephemeral).0, &ephemeral, public);
    let mut peer_static_public = [0; 32];
    if !mix::open(key, init.encrypted_static, &mut peer_static_public) {
        return Err(WireGuardError::InvalidAeadTag);
    }
    Ok(HalfHandshake { peer_index: init.sender_idx, peer_static_public })
}

/// An initiation that waits for its response.
struct Sent {
    local: u32,
    chain: Key,
    ephemeral: StaticSecret,
    at: Duration,
}

enum State {
    None,
    InitSent(Sent),
    Expired,
}

pub(super) struct Handshake {
    private: StaticSecret,
    public: PublicKey,
    peer: PublicKey,
    static_shared: u64,
    preshared: [u8; 32],
    next_index: u32,
    /// Two may be under way: the answer to the one before may be late.
    previous: State,
    state: State,
    last_timestamp: (u64, u32),
    /// The wall clock when this tunnel was made, and the other clock then.
    began: (Duration, Duration),
    made: u64,
    cookie: Option<[u8; 16]>,
    last_mac1: Option<(u32, [u8; 16])>,
}

impl Handshake {
    pub(super) fn new(
        private: StaticSecret,
        peer: PublicKey,
        preshared: Option<[u8; 32]>,
        index: u32,
    ) -> Self {
        Self {
            public: PublicKey::from(&private),
            static_shared: private.diffie_hellman(&peer).0,
            private,
            peer,
            preshared: preshared.unwrap_or_default(),
            next_index: index << 8,
            previous: State::None,
            state: State::None,
            last_timestamp: (0, 0),
            began: (clock::wall(), clock::boot()),
            made: 0,
            cookie: None,
            last_mac1: None,
        }
    }

    pub(super) fn in_progress(&self) -> bool {
        matches!(self.state, State::InitSent(_))
    }

    pub(super) fn sent_at(&self) -> Option<Duration> {
        match &self.state {
            State::InitSent(sent) => Some(sent.at),
            _ => None,
        }
    }

    pub(super) fn is_expired(&self) -> bool {
        matches!(self.state, State::Expired)
    }

    pub(super) fn expire(&mut self) {
        (self.previous, self.state) = (State::Expired, State::Expired);
    }

    pub(super) fn has_cookie(&self) -> bool {
        self.cookie.is_some()
    }

    pub(super) fn clear_cookie(&mut self) {
        self.cookie = None;
    }

    /// 24 bits are the peer's, 8 count its sessions.
    fn index(&mut self) -> u32 {
        let low = (self.next_index as u8).wrapping_add(1);
        self.next_index = (self.next_index & !0xff) | u32::from(low);
        self.next_index
    }

    fn ephemeral(&mut self) -> StaticSecret {
        self.made += 1;
        let seed = mix::join(self.private.exponent, clock::boot().as_nanos() as u64);
        let exponent = mix::exponent(mix::join(seed, mix::join(u64::from(self.next_index), self.made)));
        StaticSecret { exponent }
    }

    fn macs(&mut self, local: u32, message: &mut [u8]) {
        let (body, macs) = message.split_at_mut(message.len() - 32);
        let mac1 = mix::tag(mac1_key(&self.peer), body);
        macs[..16].copy_from_slice(&mac1);
        let end = message.len() - 16;
        let mac2 = self.cookie.map(|cookie| mix::tag(mix::hash(0, &cookie), &message[..end]));
        message[end..].copy_from_slice(&mac2.unwrap_or_default());
        self.last_mac1 = Some((local, mac1));
    }

    pub(super) fn initiate(&mut self, dst: &mut [u8]) -> Result<usize, WireGuardError> {
        let message = dst.get_mut(..INIT_LEN).ok_or(WireGuardError::DestinationBufferTooSmall)?;
        let (local, ephemeral) = (self.index(), self.ephemeral());
        let ephemeral_public = PublicKey::from(&ephemeral);
        let key = key_of_static(ephemeral.diffie_hellman(&self.peer).0, &ephemeral_public, &self.peer);
        let chain = mix::join(key, self.static_shared);
        let stamp = self.began.0 + clock::boot().saturating_sub(self.began.1);
        let mut timestamp = [0; 12];
        timestamp[..8].copy_from_slice(&stamp.as_secs().to_be_bytes());
        timestamp[8..].copy_from_slice(&stamp.subsec_nanos().to_be_bytes());
        message[..4].copy_from_slice(&1_u32.to_le_bytes());
        message[4..8].copy_from_slice(&local.to_le_bytes());
        message[8..40].copy_from_slice(ephemeral_public.as_bytes());
        mix::seal(key, self.public.as_bytes(), &mut message[40..88]);
        mix::seal(chain, &timestamp, &mut message[88..116]);
        let sent = Sent { local, chain, ephemeral, at: clock::boot() };
        self.previous = std::mem::replace(&mut self.state, State::InitSent(sent));
        self.macs(local, message);
        Ok(INIT_LEN)
    }

    /// Keys for both directions out of everything that was exchanged.
    fn keys(&self, chain: Key, ephemerals: u64, static_ephemeral: u64) -> (Key, [Key; 2]) {
        let joined = mix::join(mix::join(mix::join(chain, 2), ephemerals), static_ephemeral);
        let joined = mix::hash(joined, &self.preshared);
        (mix::join(joined, 3), [mix::join(joined, 4), mix::join(joined, 5)])
    }

    /// Answers an initiation of this peer.
    pub(super) fn respond(
        &mut self,
        init: &HandshakeInit<'_>,
        dst: &mut [u8],
    ) -> Result<(usize, Session), WireGuardError> {
        if dst.len() < RESPONSE_LEN {
            return Err(WireGuardError::DestinationBufferTooSmall);
        }
        let half = parse_handshake_anon(&self.private, &self.public, init)?;
        if half.peer_static_public != self.peer.to_bytes() {
            return Err(WireGuardError::WrongKey);
        }
        let theirs = PublicKey::from(*init.ephemeral);
        let key = key_of_static(self.private.diffie_hellman(&theirs).0, &theirs, &self.public);
        let chain = mix::join(key, self.static_shared);
        let mut timestamp = [0; 12];
        if !mix::open(chain, init.encrypted_timestamp, &mut timestamp) {
            return Err(WireGuardError::InvalidAeadTag);
        }
        let (seconds, nanos) = timestamp.split_at(8);
        let stamp =
            (u64::from_be_bytes(seconds.try_into().unwrap()), u32::from_be_bytes(nanos.try_into().unwrap()));
        if stamp <= self.last_timestamp {
            return Err(WireGuardError::WrongTai64nTimestamp);
        }
        self.last_timestamp = stamp;

        let (ephemeral, local) = (self.ephemeral(), self.index());
        let (nothing, [receive, send]) =
            self.keys(chain, ephemeral.diffie_hellman(&theirs).0, ephemeral.diffie_hellman(&self.peer).0);
        let message = &mut dst[..RESPONSE_LEN];
        message[..4].copy_from_slice(&2_u32.to_le_bytes());
        message[4..8].copy_from_slice(&local.to_le_bytes());
        message[8..12].copy_from_slice(&init.sender_idx.to_le_bytes());
        message[12..44].copy_from_slice(PublicKey::from(&ephemeral).as_bytes());
        mix::seal(nothing, &[], &mut message[44..60]);
        // As boringtun: an initiation of our own that is under way becomes the one before.
        self.previous = std::mem::replace(&mut self.state, State::None);
        self.macs(local, message);
        Ok((RESPONSE_LEN, Session::new(local, init.sender_idx, receive, send)))
    }

    /// Takes the response to an initiation that is under way.
    pub(super) fn finish(&mut self, response: &HandshakeResponse<'_>) -> Result<Session, WireGuardError> {
        let is =
            |state: &State| matches!(state, State::InitSent(sent) if sent.local == response.receiver_idx);
        let (sent, is_previous) = match (&self.state, &self.previous) {
            (State::InitSent(sent), _) if is(&self.state) => (sent, false),
            (_, State::InitSent(sent)) if is(&self.previous) => (sent, true),
            _ => return Err(WireGuardError::UnexpectedPacket),
        };
        let theirs = PublicKey::from(*response.ephemeral);
        let local = sent.local;
        let (nothing, [send, receive]) = self.keys(
            sent.chain,
            sent.ephemeral.diffie_hellman(&theirs).0,
            self.private.diffie_hellman(&theirs).0,
        );
        if !mix::open(nothing, response.encrypted_nothing, &mut []) {
            return Err(WireGuardError::InvalidAeadTag);
        }
        if is_previous {
            self.previous = State::None;
        } else {
            self.state = State::None;
        }
        Ok(Session::new(local, response.sender_idx, receive, send))
    }

    pub(super) fn take_cookie(&mut self, reply: &PacketCookieReply<'_>) -> Result<(), WireGuardError> {
        let (local, mac1) = self.last_mac1.ok_or(WireGuardError::UnexpectedPacket)?;
        if reply.receiver_idx != local {
            return Err(WireGuardError::WrongIndex);
        }
        let mut cookie = [0; 16];
        let key = mix::hash(cookie_key(&self.peer, reply.nonce), &mac1);
        if !mix::open(key, reply.encrypted_cookie, &mut cookie) {
            return Err(WireGuardError::InvalidAeadTag);
        }
        self.cookie = Some(cookie);
        Ok(())
    }
}
