//! Handshakes under load: the first MAC, the count, the cookie (WireGuard paper, section 5.4.7).

use super::clock;
use super::errors::WireGuardError;
use super::{COOKIE_LEN, Packet, TunnResult, parse};
use crate::mix::{self, Key};
use crate::x25519::PublicKey;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

const MAC1: u64 = 0x6d61_6331;
const COOKIE: u64 = 0x636f_6f6b;

/// With which handshakes towards `public` are authenticated.
pub(super) fn mac1_key(public: &PublicKey) -> Key {
    mix::hash(MAC1, public.as_bytes())
}

pub(super) fn cookie_key(public: &PublicKey, nonce: &[u8]) -> Key {
    mix::hash(mix::hash(COOKIE, public.as_bytes()), nonce)
}

/// Counts handshakes, and asks for a cookie beyond a limit.
pub struct RateLimiter {
    public: PublicKey,
    limit: u64,
    started: Duration,
    state: Mutex<State>,
}

struct State {
    count: u64,
    last_reset: Duration,
    nonces: u64,
}

impl RateLimiter {
    /// At most `limit` handshakes between two resets pass without a cookie.
    #[must_use]
    pub fn new(public: &PublicKey, limit: u64) -> Self {
        let now = clock::boot();
        Self {
            public: *public,
            limit,
            started: now,
            state: Mutex::new(State { count: 0, last_reset: now, nonces: 0 }),
        }
    }

    /// To be called about once a second.
    pub fn reset_count(&self) {
        let now = clock::boot();
        let mut state = self.state.lock().unwrap();
        if now.saturating_sub(state.last_reset) >= Duration::from_secs(1) {
            state.count = 0;
            state.last_reset = now;
        }
    }

    fn cookie(&self, from: IpAddr) -> [u8; 16] {
        let age = clock::boot().saturating_sub(self.started).as_secs() / 128;
        let secret = mix::hash(self.started.as_nanos() as u64, self.public.as_bytes());
        let bytes = match from {
            IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
            IpAddr::V6(ip) => ip.octets(),
        };
        mix::tag(mix::join(secret, age), &bytes)
    }

    /// Verifies the MACs of a handshake, and counts it.
    ///
    /// # Errors
    /// A cookie reply to send, or why the message is none.
    pub fn verify_packet<'a, 'b>(
        &self,
        from: Option<IpAddr>,
        message: &'a [u8],
        dst: &'b mut [u8],
    ) -> Result<Packet<'a>, TunnResult<'b>> {
        let packet = parse(message).map_err(TunnResult::Err)?;
        let sender = match &packet {
            Packet::HandshakeInit(init) => init.sender_idx,
            Packet::HandshakeResponse(response) => response.sender_idx,
            _ => return Ok(packet),
        };
        let (body, macs) = message.split_at(message.len() - 32);
        let (mac1, mac2) = macs.split_at(16);
        if mix::tag(mac1_key(&self.public), body) != mac1 {
            return Err(TunnResult::Err(WireGuardError::InvalidMac));
        }
        let mut state = self.state.lock().unwrap();
        state.count += 1;
        if state.count <= self.limit {
            return Ok(packet);
        }
        let Some(from) = from else { return Err(TunnResult::Err(WireGuardError::UnderLoad)) };
        let cookie = self.cookie(from);
        if mix::tag(mix::hash(0, &cookie), &message[..message.len() - 16]) == mac2 {
            return Ok(packet);
        }
        state.nonces += 1;
        let Some(reply) = dst.get_mut(..COOKIE_LEN) else {
            return Err(TunnResult::Err(WireGuardError::DestinationBufferTooSmall));
        };
        reply.fill(0);
        reply[..4].copy_from_slice(&3_u32.to_le_bytes());
        reply[4..8].copy_from_slice(&sender.to_le_bytes());
        reply[8..16].copy_from_slice(&state.nonces.to_le_bytes());
        let (head, sealed) = reply.split_at_mut(32);
        let key = mix::hash(cookie_key(&self.public, &head[8..32]), mac1);
        mix::seal(key, &cookie, sealed);
        Err(TunnResult::WriteToNetwork(reply))
    }
}
