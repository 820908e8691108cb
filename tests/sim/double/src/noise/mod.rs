//! The tunnel: sessions, timers, messages. What it does when is boringtun 0.7.1's way, found by reading and trying it.

mod clock;
pub mod errors;
pub mod handshake;
pub mod rate_limiter;

use crate::session::Session;
use crate::x25519::{PublicKey, StaticSecret};
use errors::WireGuardError;
use handshake::Handshake;
use rate_limiter::RateLimiter;
use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

const INIT_LEN: usize = 148;
const RESPONSE_LEN: usize = 92;
const COOKIE_LEN: usize = 64;

const RING: usize = 8;
const QUEUE: usize = 256;

// WireGuard paper, section 6.1.
const REKEY_AFTER: Duration = Duration::from_secs(120);
const REJECT_AFTER: Duration = Duration::from_secs(180);
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(10);
const COOKIE_EXPIRES: Duration = Duration::from_secs(120);

/// What came of a call.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum TunnResult<'a> {
    Done,
    Err(WireGuardError),
    WriteToNetwork(&'a mut [u8]),
    WriteToTunnelV4(&'a mut [u8], Ipv4Addr),
    WriteToTunnelV6(&'a mut [u8], Ipv6Addr),
}

/// A handshake initiation.
#[derive(Debug)]
pub struct HandshakeInit<'a> {
    sender_idx: u32,
    ephemeral: &'a [u8; 32],
    encrypted_static: &'a [u8],
    encrypted_timestamp: &'a [u8],
}

/// A handshake response.
#[derive(Debug)]
pub struct HandshakeResponse<'a> {
    sender_idx: u32,
    /// Whose initiation it answers.
    pub receiver_idx: u32,
    ephemeral: &'a [u8; 32],
    encrypted_nothing: &'a [u8],
}

/// A cookie reply.
#[derive(Debug)]
pub struct PacketCookieReply<'a> {
    /// Whose handshake it answers.
    pub receiver_idx: u32,
    nonce: &'a [u8],
    encrypted_cookie: &'a [u8],
}

/// Data.
#[derive(Debug)]
pub struct PacketData<'a> {
    /// Whose session it is for.
    pub receiver_idx: u32,
    counter: u64,
    sealed: &'a [u8],
}

/// A message.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Packet<'a> {
    HandshakeInit(HandshakeInit<'a>),
    HandshakeResponse(HandshakeResponse<'a>),
    PacketCookieReply(PacketCookieReply<'a>),
    PacketData(PacketData<'a>),
}

fn parse(message: &[u8]) -> Result<Packet<'_>, WireGuardError> {
    let word = |at: usize| {
        let bytes = message.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_le_bytes).ok_or(WireGuardError::InvalidPacket)
    };
    let key = |at: usize| <&[u8; 32]>::try_from(&message[at..at + 32]).unwrap();
    Ok(match (word(0)?, message.len()) {
        (1, INIT_LEN) => Packet::HandshakeInit(HandshakeInit {
            sender_idx: word(4)?,
            ephemeral: key(8),
            encrypted_static: &message[40..88],
            encrypted_timestamp: &message[88..116],
        }),
        (2, RESPONSE_LEN) => Packet::HandshakeResponse(HandshakeResponse {
            sender_idx: word(4)?,
            receiver_idx: word(8)?,
            ephemeral: key(12),
            encrypted_nothing: &message[44..60],
        }),
        (3, COOKIE_LEN) => Packet::PacketCookieReply(PacketCookieReply {
            receiver_idx: word(4)?,
            nonce: &message[8..32],
            encrypted_cookie: &message[32..64],
        }),
        (4, 32..) => Packet::PacketData(PacketData {
            receiver_idx: word(4)?,
            counter: u64::from_le_bytes(message[8..16].try_into().unwrap()),
            sealed: &message[16..],
        }),
        _ => return Err(WireGuardError::InvalidPacket),
    })
}

/// Since when what is so, counted from the tunnel's making, and only as exact as the last call of `update_timers`.
#[derive(Default)]
struct Timers {
    initiator: bool,
    started: Duration,
    current: Duration,
    established: Duration,
    handshake_started: Duration,
    received: Duration,
    sent: Duration,
    data_received: Duration,
    data_sent: Duration,
    cookie_received: Duration,
    persistent: Duration,
    sessions: [Duration; RING],
    want_keepalive: bool,
    want_handshake: bool,
    pace: Option<Duration>,
    resets_limiter: bool,
}

impl Timers {
    fn clear(&mut self) {
        let now = clock::boot().saturating_sub(self.started);
        *self = Self {
            initiator: self.initiator,
            started: self.started,
            sessions: self.sessions,
            pace: self.pace,
            resets_limiter: self.resets_limiter,
            current: now,
            established: now,
            handshake_started: now,
            received: now,
            sent: now,
            data_received: now,
            data_sent: now,
            cookie_received: now,
            persistent: now,
            want_keepalive: false,
            want_handshake: false,
        };
    }

    fn received(&mut self) {
        self.want_keepalive = true;
        self.want_handshake = false;
        self.received = self.current;
    }

    fn sent(&mut self) {
        self.want_handshake = true;
        self.want_keepalive = false;
        self.sent = self.current;
    }
}

/// The tunnel with one peer.
pub struct Tunn {
    handshake: Handshake,
    sessions: [Option<Session>; RING],
    current: usize,
    queue: VecDeque<Vec<u8>>,
    timers: Timers,
    limiter: Arc<RateLimiter>,
}

impl Tunn {
    /// A tunnel without a session. `index`: the upper 24 bits of its receiver indices.
    #[must_use]
    pub fn new(
        private: StaticSecret,
        peer: PublicKey,
        preshared: Option<[u8; 32]>,
        keepalive: Option<u16>,
        index: u32,
        limiter: Option<Arc<RateLimiter>>,
    ) -> Self {
        let timers = Timers {
            started: clock::boot(),
            pace: keepalive.map(|seconds| Duration::from_secs(seconds.into())),
            resets_limiter: limiter.is_none(),
            ..Timers::default()
        };
        let public = PublicKey::from(&private);
        Self {
            handshake: Handshake::new(private, peer, preshared, index),
            sessions: Default::default(),
            current: 0,
            queue: VecDeque::new(),
            timers,
            limiter: limiter.unwrap_or_else(|| Arc::new(RateLimiter::new(&public, 10))),
        }
    }

    /// What kind of message it is.
    ///
    /// # Errors
    /// None at all.
    pub fn parse_incoming_packet(message: &[u8]) -> Result<Packet<'_>, WireGuardError> {
        parse(message)
    }

    /// Whether it has given up.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.handshake.is_expired()
    }

    /// Seals a packet.
    ///
    /// # Panics
    /// When `dst` is too small, as boringtun does.
    pub fn encapsulate<'a>(&mut self, packet: &[u8], dst: &'a mut [u8]) -> TunnResult<'a> {
        if let Some(session) = &mut self.sessions[self.current % RING] {
            let len = session.seal(packet, dst);
            self.timers.sent();
            if !packet.is_empty() {
                self.timers.data_sent = self.timers.current;
            }
            return TunnResult::WriteToNetwork(&mut dst[..len]);
        }
        if self.queue.len() < QUEUE {
            self.queue.push_back(packet.to_vec());
        }
        self.format_handshake_initiation(dst, false)
    }

    /// Takes a message.
    pub fn decapsulate<'a>(
        &mut self,
        from: Option<IpAddr>,
        message: &[u8],
        dst: &'a mut [u8],
    ) -> TunnResult<'a> {
        if message.is_empty() {
            return match self.queue.pop_front() {
                Some(packet) => self.encapsulate(&packet, dst),
                None => TunnResult::Done,
            };
        }
        let mut cookie = [0; COOKIE_LEN];
        let limiter = Arc::clone(&self.limiter);
        match limiter.verify_packet(from, message, &mut cookie) {
            Ok(packet) => self.take(packet, dst).unwrap_or_else(TunnResult::Err),
            Err(TunnResult::WriteToNetwork(cookie)) => {
                let len = cookie.len();
                dst[..len].copy_from_slice(cookie);
                TunnResult::WriteToNetwork(&mut dst[..len])
            }
            Err(TunnResult::Err(error)) => TunnResult::Err(error),
            Err(_) => TunnResult::Done,
        }
    }

    fn established(&mut self, initiator: bool, local: u32) {
        self.timers.established = self.timers.current;
        self.timers.sessions[local as usize % RING] = self.timers.current;
        self.timers.initiator = initiator;
    }

    fn take<'a>(&mut self, packet: Packet<'_>, dst: &'a mut [u8]) -> Result<TunnResult<'a>, WireGuardError> {
        match packet {
            Packet::HandshakeInit(init) => {
                let (len, session) = self.handshake.respond(&init, dst)?;
                let local = session.local;
                self.sessions[local as usize % RING] = Some(session);
                self.timers.received();
                self.timers.sent();
                self.established(false, local);
                Ok(TunnResult::WriteToNetwork(&mut dst[..len]))
            }
            Packet::HandshakeResponse(response) => {
                let mut session = self.handshake.finish(&response)?;
                let (len, local) = (session.seal(&[], dst), session.local);
                self.sessions[local as usize % RING] = Some(session);
                self.timers.received();
                self.established(true, local);
                self.use_session(local as usize);
                Ok(TunnResult::WriteToNetwork(&mut dst[..len]))
            }
            Packet::PacketCookieReply(reply) => {
                self.handshake.take_cookie(&reply)?;
                self.timers.received();
                self.timers.cookie_received = self.timers.current;
                Ok(TunnResult::Done)
            }
            Packet::PacketData(data) => {
                let local = data.receiver_idx as usize;
                let session = self.sessions[local % RING].as_mut().ok_or(WireGuardError::NoCurrentSession)?;
                let len = session.open(data.receiver_idx, data.counter, data.sealed, dst)?;
                self.use_session(local);
                self.timers.received();
                self.packet(&mut dst[..len])
            }
        }
    }

    fn use_session(&mut self, local: usize) {
        let since = |index: usize| self.timers.sessions[index % RING];
        if self.current != local
            && (self.sessions[self.current % RING].is_none() || since(local) >= since(self.current))
        {
            self.current = local;
        }
    }

    /// Only IP packets come out, cut to the length that they say.
    fn packet<'a>(&mut self, packet: &'a mut [u8]) -> Result<TunnResult<'a>, WireGuardError> {
        let number = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let (len, version) = match packet.first().map(|first| first >> 4) {
            None => return Ok(TunnResult::Done),
            Some(4) if packet.len() >= 20 => (number(2), 4),
            Some(6) if packet.len() >= 40 => (number(4) + 40, 6),
            Some(_) => return Err(WireGuardError::InvalidPacket),
        };
        if len > packet.len() {
            return Err(WireGuardError::InvalidPacket);
        }
        self.timers.data_received = self.timers.current;
        let source = &packet[if version == 4 { 12..16 } else { 8..24 }];
        Ok(if version == 4 {
            let source = Ipv4Addr::from(<[u8; 4]>::try_from(source).unwrap());
            TunnResult::WriteToTunnelV4(&mut packet[..len], source)
        } else {
            let source = Ipv6Addr::from(<[u8; 16]>::try_from(source).unwrap());
            TunnResult::WriteToTunnelV6(&mut packet[..len], source)
        })
    }

    /// Begins a handshake; `again`: also while one is under way.
    pub fn format_handshake_initiation<'a>(&mut self, dst: &'a mut [u8], again: bool) -> TunnResult<'a> {
        if self.handshake.in_progress() && !again {
            return TunnResult::Done;
        }
        if self.handshake.is_expired() {
            self.timers.clear();
        }
        let fresh = !self.handshake.in_progress();
        match self.handshake.initiate(dst) {
            Ok(len) => {
                if fresh {
                    self.timers.handshake_started = self.timers.current;
                }
                self.timers.sent();
                TunnResult::WriteToNetwork(&mut dst[..len])
            }
            Err(error) => TunnResult::Err(error),
        }
    }

    fn give_up(&mut self) {
        self.handshake.expire();
        self.sessions = Default::default();
        self.queue.clear();
        self.timers.clear();
    }

    /// What is due.
    pub fn update_timers<'a>(&mut self, dst: &'a mut [u8]) -> TunnResult<'a> {
        if self.timers.resets_limiter {
            self.limiter.reset_count();
        }
        let now = clock::boot().saturating_sub(self.timers.started);
        let since = |then: Duration| now.saturating_sub(then);
        self.timers.current = now;
        for (session, began) in self.sessions.iter_mut().zip(&mut self.timers.sessions) {
            if since(*began) > REJECT_AFTER {
                *session = None;
                *began = now;
            }
        }
        if self.handshake.is_expired() {
            return TunnResult::Err(WireGuardError::ConnectionExpired);
        }
        if self.handshake.has_cookie() && since(self.timers.cookie_received) >= COOKIE_EXPIRES {
            self.handshake.clear_cookie();
        }
        if since(self.timers.established) >= REJECT_AFTER * 3 {
            self.give_up();
            return TunnResult::Err(WireGuardError::ConnectionExpired);
        }
        if let Some(sent) = self.handshake.sent_at() {
            if since(self.timers.handshake_started) >= REKEY_ATTEMPT {
                self.give_up();
                return TunnResult::Err(WireGuardError::ConnectionExpired);
            }
            if clock::boot().saturating_sub(sent) >= REKEY_TIMEOUT {
                return self.format_handshake_initiation(dst, true);
            }
            return TunnResult::Done;
        }
        let t = &mut self.timers;
        let age = since(t.established);
        let renew = t.initiator
            && ((t.established < t.data_sent && age >= REKEY_AFTER)
                || (t.established < t.data_received && age >= REJECT_AFTER - KEEPALIVE - REKEY_TIMEOUT));
        let unanswered = t.data_sent > t.received
            && since(t.received) >= KEEPALIVE + REKEY_TIMEOUT
            && std::mem::replace(&mut t.want_handshake, false);
        if renew || unanswered {
            return self.format_handshake_initiation(dst, true);
        }
        let passive = t.data_received > t.sent
            && since(t.sent) >= KEEPALIVE
            && std::mem::replace(&mut t.want_keepalive, false);
        let persistent = t.pace.is_some_and(|pace| since(t.persistent) >= pace);
        if persistent {
            t.persistent = now;
        }
        if passive || persistent { self.encapsulate(&[], dst) } else { TunnResult::Done }
    }

    /// How old the session in use is.
    #[must_use]
    pub fn time_since_last_handshake(&self) -> Option<Duration> {
        self.sessions[self.current % RING].as_ref()?;
        Some((clock::boot().saturating_sub(self.timers.started)).saturating_sub(self.timers.established))
    }
}
