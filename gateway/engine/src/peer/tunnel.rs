//! The WireGuard session with one peer. The only file that names boringtun.
//!
//! boringtun reads a clock of its own, the one impurity of this crate: it is confined to this file. It has no "next
//! deadline" either, and stamps what it sends and receives with the time of its last `update_timers`: [`Tunnel::tick`]
//! wants to be called every [`TICK`].
//!
//! When to shake hands is decided here and not by boringtun: its retry is 5 s, it gives up after 90 s, and it lets a
//! session lapse when only keepalives flow (WireGuard paper, section 6).

use crate::label;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use boringtun::x25519;
use overlay_config::PresharedKey;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often [`Tunnel::tick`] wants to be called.
pub const TICK: Duration = Duration::from_millis(100);

/// A tick that is later than this is made up for before anything is opened: the process was stopped, or the machine slept.
const LATE: Duration = Duration::from_secs(1);

/// Bytes that sealing adds to a packet: header 16, tag 16 (WireGuard paper, section 5.4.6).
pub const OVERHEAD: usize = 32;

/// The smallest buffer that boringtun writes into: a handshake initiation (WireGuard paper, section 5.4.2). It panics
/// on less.
pub const MIN_BUFFER: usize = 148;

/// No counter as high as this is accepted (the paper's Reject-After-Messages, section 6.1). boringtun does not look, and its
/// own would overflow.
const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// A session is renewed at this age (the paper's Rekey-After-Time, section 6.1).
const REKEY_AFTER: Duration = Duration::from_secs(120);

/// The side that does not usually initiate steps in this much later.
const REKEY_GRACE: Duration = Duration::from_secs(30);

/// Quick retries of a handshake: at most this many, this far apart.
const QUICK_RETRIES: u32 = 4;
const QUICK_RETRY: Duration = Duration::from_millis(500);

/// Later retries without a session double from one second up to this, below boringtun's own 5 s.
const SLOW_RETRY: Duration = Duration::from_secs(4);

/// Later retries while a session still lives. Each initiation whose answer is lost takes one of the eight places that
/// the responder has for sessions: five at once and then one in 25 s leave the live one in its place until it expires.
const LIVE_RETRY: Duration = Duration::from_secs(25);

/// A session from which nothing came for this long, and whose handshakes go unanswered, is lost: the peer has restarted
/// or cannot be reached (the paper's Keepalive-Timeout + Rekey-Timeout, section 6.1).
const SILENCE: Duration = Duration::from_secs(15);

/// Packets that wait for a session: a few, and not for long, for stale data helps nobody.
const PENDING_PACKETS: usize = 8;
const PENDING_FOR: Duration = Duration::from_secs(1);

/// A node's own key pair, in the form that handshakes need.
#[derive(Clone)]
pub struct Identity {
    private: x25519::StaticSecret,
    public: x25519::PublicKey,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Identity {
    /// The identity of a private key.
    #[must_use]
    pub fn new(private: [u8; 32]) -> Self {
        let private = x25519::StaticSecret::from(private);
        let public = x25519::PublicKey::from(&private);
        Self { private, public }
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public.to_bytes()
    }
}

/// Handshakes under load: verified once here, for all peers, and counted (WireGuard paper, section 5.3).
pub struct HandshakeGuard {
    limiter: RateLimiter,
}

impl std::fmt::Debug for HandshakeGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HandshakeGuard").finish_non_exhaustive()
    }
}

/// What [`HandshakeGuard::admit`] says of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// A handshake initiation of this public key.
    Initiation([u8; 32]),
    /// For the session with this receiver index (message types 2, 3 and 4).
    Session(u32),
    /// Under load: send these bytes (a cookie reply, shorter than what came) back to the sender.
    Cookie(usize),
    /// Under load, and nothing to answer.
    UnderLoad,
    /// No WireGuard message, or not for this node.
    Invalid,
}

impl HandshakeGuard {
    /// A guard that lets `limit` handshakes a second pass without a cookie.
    #[must_use]
    pub fn new(identity: &Identity, limit: u64) -> Self {
        Self { limiter: RateLimiter::new(&identity.public, limit) }
    }

    /// To be called about once a second.
    pub fn tick(&self) {
        self.limiter.reset_count();
    }

    /// Reads a datagram as far as needed to know whose it is. `reply` has at least [`MIN_BUFFER`] bytes.
    pub fn admit(&self, identity: &Identity, from: IpAddr, datagram: &[u8], reply: &mut [u8]) -> Admission {
        // Data first: most datagrams are, and they carry no MAC to verify here.
        if let [4, 0, 0, 0, a, b, c, d, counter @ ..] = datagram {
            let exhausted =
                counter.first_chunk().is_none_or(|c| u64::from_le_bytes(*c) >= REJECT_AFTER_MESSAGES);
            return if datagram.len() < OVERHEAD || exhausted {
                Admission::Invalid
            } else {
                Admission::Session(u32::from_le_bytes([*a, *b, *c, *d]))
            };
        }
        match self.limiter.verify_packet(Some(from), datagram, reply) {
            Ok(Packet::HandshakeInit(init)) => {
                match parse_handshake_anon(&identity.private, &identity.public, &init) {
                    Ok(half) => Admission::Initiation(half.peer_static_public),
                    Err(_) => Admission::Invalid,
                }
            }
            Ok(Packet::HandshakeResponse(response)) => Admission::Session(response.receiver_idx),
            Ok(Packet::PacketCookieReply(cookie)) => Admission::Session(cookie.receiver_idx),
            Ok(Packet::PacketData(data)) => Admission::Session(data.receiver_idx),
            Err(TunnResult::WriteToNetwork(cookie)) => Admission::Cookie(cookie.len()),
            Err(TunnResult::Err(boringtun::noise::errors::WireGuardError::UnderLoad)) => Admission::UnderLoad,
            Err(_) => Admission::Invalid,
        }
    }
}

/// How a tunnel behaves.
#[derive(Clone, Debug)]
pub struct TunnelSettings {
    /// The peer's public key.
    pub public_key: [u8; 32],
    /// The preshared key, if there is one.
    pub preshared_key: Option<PresharedKey>,
    /// Seconds between keepalives (wg(8), persistent-keepalive).
    pub keepalive: Option<u16>,
    /// The upper 24 bits of every receiver index of this tunnel.
    pub index: u32,
    /// This side usually initiates: at once, and for ever. The other side waits a little before it does.
    pub initiates: bool,
    /// Keep a session at all times, also with nothing to send.
    pub warm: bool,
    /// The peer sends keepalives of its own, so that its silence means something.
    pub expects_keepalives: bool,
}

/// What came of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// A packet of this many bytes stands at the start of the buffer.
    Packet(usize),
    /// A message of this many bytes at the start of the buffer goes back to the sender.
    Reply(usize),
    /// Authentic, and nothing to do (a keepalive).
    Nothing,
    /// Not authentic, a replay, or not a packet.
    Rejected,
}

/// The session with one peer.
pub struct Tunnel {
    /// None until it has a label: then it can neither send nor receive.
    tunn: Option<Tunn>,
    initiates: bool,
    warm: bool,
    expects_keepalives: bool,
    keepalive: Option<Duration>,
    last_keepalive: Instant,
    last_tick: Instant,
    session: bool,
    /// The peer has shown that it holds the keys of a session. Until then an answered initiation is no session (WireGuard
    /// paper, section 5.4.6), whatever boringtun's ring of eight says once it is full of them.
    confirmed: bool,
    /// The session is there, but the peer seems not to be.
    lost: bool,
    /// Probes say that nothing comes back: a handshake is due, whatever the session's age.
    suspect: bool,
    /// The upper 24 bits of our receiver indices.
    label: u32,
    /// Our receiver index of the newest session.
    receiver: Option<u32>,
    /// A session has begun since somebody last asked.
    renewed: bool,
    last_heard: Option<Instant>,
    /// When the current session began.
    established: Option<Instant>,
    attempts: u32,
    next_attempt: Option<Instant>,
    /// Since when there is something to send and no session.
    wanted: Option<Instant>,
    pending: VecDeque<(Instant, Vec<u8>)>,
    stale: u64,
    rng: fastrand::Rng,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("session", &self.session).field("attempts", &self.attempts).finish()
    }
}

impl Tunnel {
    /// A tunnel without a session. `seed` is for the jitter of retries.
    #[must_use]
    pub fn new(identity: &Identity, settings: &TunnelSettings, now: Instant, seed: u64) -> Self {
        let mut tunnel = Self::dormant(settings, now, seed);
        tunnel.attach(identity, settings);
        tunnel
    }

    /// A tunnel that has no label yet and needs hardly any memory; see [`Tunnel::attach`].
    #[must_use]
    pub fn dormant(settings: &TunnelSettings, now: Instant, seed: u64) -> Self {
        Self {
            tunn: None,
            initiates: settings.initiates,
            warm: settings.warm,
            expects_keepalives: settings.expects_keepalives,
            keepalive: interval(settings.keepalive),
            last_keepalive: now,
            last_tick: now,
            session: false,
            confirmed: false,
            lost: false,
            suspect: false,
            label: settings.index,
            receiver: None,
            renewed: false,
            last_heard: None,
            established: None,
            attempts: 0,
            next_attempt: (!settings.initiates).then_some(now + QUICK_RETRY * QUICK_RETRIES),
            wanted: None,
            pending: VecDeque::new(),
            stale: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Gives the tunnel its label (`settings.index`) and makes it ready for handshakes.
    pub fn attach(&mut self, identity: &Identity, settings: &TunnelSettings) {
        // The engine's guard has counted a handshake before it comes here: this limiter never limits.
        let unlimited = Arc::new(RateLimiter::new(&identity.public, u64::MAX));
        self.pending.reserve_exact(PENDING_PACKETS);
        self.label = settings.index;
        self.tunn = Some(Tunn::new(
            identity.private.clone(),
            x25519::PublicKey::from(settings.public_key),
            settings.preshared_key.as_ref().map(|key| *key.as_bytes()),
            // Ours, so that a reload can change it: a tunnel that is built anew forgets which handshakes it has seen.
            None,
            settings.index,
            Some(unlimited),
        ));
    }

    /// A receiver index with the label.
    #[must_use]
    pub fn label(&self) -> Option<u32> {
        self.tunn.is_some().then_some(self.label << 8)
    }

    /// Gives up label and sessions.
    pub fn detach(&mut self) {
        (self.tunn, self.receiver, self.established, self.wanted) = (None, None, None, None);
        (self.session, self.confirmed, self.lost, self.suspect, self.renewed) = Default::default();
        // The next one begins at once, whatever this one has tried.
        (self.attempts, self.next_attempt, self.last_heard) = (0, None, None);
    }

    /// Whether the tunnel has a label.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.tunn.is_some()
    }

    /// Whether the tunnel should have a session: it is to be kept warm, or packets wait.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.warm || self.wanted.is_some() || !self.pending.is_empty()
    }

    /// Whether a session has begun since the last call.
    pub fn take_renewed(&mut self) -> bool {
        std::mem::take(&mut self.renewed)
    }

    /// Probes are not answered: the peer may have restarted. A handshake is tried at once, and again.
    pub fn suspect(&mut self) {
        if !self.suspect {
            self.suspect = true;
            self.attempts = 0;
            self.next_attempt = None;
        }
    }

    /// Whether probes were not answered, and no handshake since.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        self.suspect
    }

    /// Begins a handshake now: a message of 148 bytes in `dst` (at least [`MIN_BUFFER`]).
    pub fn initiate(&mut self, now: Instant, dst: &mut [u8]) -> Option<usize> {
        if dst.len() < MIN_BUFFER {
            return None;
        }
        let len = match self.tunn.as_mut()?.format_handshake_initiation(dst, true) {
            TunnResult::WriteToNetwork(message) => message.len(),
            _ => return None,
        };
        self.attempted(now);
        Some(len)
    }

    /// Whether packets can be sealed now.
    #[must_use]
    pub fn has_session(&self) -> bool {
        self.session && !self.lost
    }

    /// When the current session began.
    #[must_use]
    pub fn established(&self) -> Option<Instant> {
        self.established.filter(|_| self.has_session())
    }

    /// Whether to keep a session at all times.
    pub fn set_warm(&mut self, warm: bool) {
        self.warm = warm;
    }

    /// Changes the pace of keepalives, in seconds.
    pub fn set_keepalive(&mut self, keepalive: Option<u16>) {
        self.keepalive = interval(keepalive);
    }

    /// Seals `packet` into `dst` (at least [`MIN_BUFFER`], and [`OVERHEAD`] more than the packet) and returns the
    /// datagram's length; `None` without a session.
    pub fn seal(&mut self, packet: &[u8], dst: &mut [u8]) -> Option<usize> {
        if !self.has_session() || dst.len() < MIN_BUFFER.max(packet.len() + OVERHEAD) {
            return None;
        }
        match self.tunn.as_mut()?.encapsulate(packet, dst) {
            TunnResult::WriteToNetwork(datagram) => Some(datagram.len()),
            _ => None,
        }
    }

    /// Keeps a packet until there is a session, for a second at most; `false` when enough wait already.
    pub fn wait(&mut self, now: Instant, packet: &[u8]) -> bool {
        self.wanted.get_or_insert(now);
        self.expire_pending(now);
        if self.pending.len() >= PENDING_PACKETS {
            return false;
        }
        self.pending.push_back((now, packet.to_vec()));
        true
    }

    /// Seals the oldest packet that waits, as [`Tunnel::seal`].
    pub fn seal_waiting(&mut self, now: Instant, dst: &mut [u8]) -> Option<usize> {
        if !self.has_session() {
            return None;
        }
        self.expire_pending(now);
        let (_, packet) = self.pending.pop_front()?;
        self.seal(&packet, dst)
    }

    /// Room that [`Tunnel::seal_waiting`] needs for its next packet at the same `now`; `None` when nothing waits.
    pub fn waiting(&mut self, now: Instant) -> Option<usize> {
        self.expire_pending(now);
        self.pending.front().map(|(_, packet)| MIN_BUFFER.max(packet.len() + OVERHEAD))
    }

    /// How many packets waited in vain since the last call.
    pub fn take_stale(&mut self) -> u64 {
        std::mem::take(&mut self.stale)
    }

    /// Whether [`Tunnel::tick`] must come before [`Tunnel::open`]. boringtun would take a session that begins now for as old
    /// as its last tick, and let it expire that much too early, while the peer still seals with it.
    #[must_use]
    pub fn is_late(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last_tick) > LATE
    }

    /// Opens a datagram that [`HandshakeGuard::admit`] found to be this tunnel's. `dst` has at least [`MIN_BUFFER`]
    /// bytes and no fewer than the datagram.
    pub fn open(&mut self, now: Instant, from: IpAddr, datagram: &[u8], dst: &mut [u8]) -> Opened {
        if datagram.is_empty() || dst.len() < MIN_BUFFER.max(datagram.len()) {
            return Opened::Rejected;
        }
        let Some(tunn) = self.tunn.as_mut() else { return Opened::Rejected };
        let handshake = datagram.first() != Some(&4);
        let opened = match tunn.decapsulate(Some(from), datagram, dst) {
            TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                Opened::Packet(packet.len())
            }
            TunnResult::WriteToNetwork(reply) => Opened::Reply(reply.len()),
            TunnResult::Done => Opened::Nothing,
            TunnResult::Err(_) => Opened::Rejected,
        };
        if opened != Opened::Rejected {
            // A cookie reply (type 3) is only as good as its receiver index: anybody on the path can make one.
            if datagram.first() != Some(&3) {
                self.last_heard = Some(now);
                self.lost = false;
            }
            if matches!(datagram.first(), Some(2 | 4)) {
                self.confirmed = true;
                if let Some(receiver) = label::receiver(datagram) {
                    self.note_session(now, receiver);
                }
            }
            if handshake || !self.session {
                self.refresh(now);
            }
        }
        opened
    }

    /// What is due: keepalives, handshakes, expiry. A message for the peer is written into `dst` (at least
    /// [`MIN_BUFFER`] bytes). `reachable`: an endpoint is known.
    pub fn tick(&mut self, now: Instant, reachable: bool, dst: &mut [u8]) -> Option<usize> {
        self.last_tick = now;
        self.expire_pending(now);
        let due = match self.tunn.as_mut()?.update_timers(dst) {
            TunnResult::WriteToNetwork(message) => {
                // An initiation (148 bytes) is an attempt, whoever thought of it.
                Some((message.len(), message.first() == Some(&1)))
            }
            // "Connection expired" is boringtun's end, not ours: the next attempt wakes it again.
            _ => None,
        };
        self.refresh(now);
        match due {
            // boringtun would repeat every five seconds; with a session that still lives, our own pace counts (LIVE_RETRY).
            Some((_, true)) if self.has_session() && self.next_attempt.is_some_and(|next| now < next) => None,
            Some((len, true)) => {
                self.attempted(now);
                reachable.then_some(len)
            }
            Some((len, false)) => reachable.then_some(len),
            None if reachable && self.handshake_due(now) => self.initiate(now, dst),
            None if reachable && self.keepalive_due(now) => {
                self.last_keepalive = now;
                self.seal(&[], dst)
            }
            None => None,
        }
    }

    /// Tries again at once: the peer's endpoint has just become known, or has changed.
    pub fn retry_now(&mut self) {
        if !self.has_session() {
            self.attempts = 0;
            self.next_attempt = None;
        }
    }

    fn handshake_due(&self, now: Instant) -> bool {
        if self.next_attempt.is_some_and(|next| now < next) {
            return false;
        }
        let age = self.established.map(|at| now.saturating_duration_since(at));
        match age.filter(|_| self.has_session()) {
            Some(_) if self.suspect => true,
            Some(age) => {
                let rekey = if self.initiates { REKEY_AFTER } else { REKEY_AFTER + REKEY_GRACE };
                self.warm && (age >= rekey || (self.expects_keepalives && self.is_silent(now)))
            }
            None => self.warm || self.keepalive.is_some() || self.wanted.is_some(),
        }
    }

    fn keepalive_due(&self, now: Instant) -> bool {
        let pace = self.keepalive.filter(|_| self.has_session());
        pace.is_some_and(|pace| now.saturating_duration_since(self.last_keepalive) >= pace)
    }

    fn attempted(&mut self, now: Instant) {
        self.attempts = self.attempts.saturating_add(1);
        if self.attempts > QUICK_RETRIES && self.is_silent(now) {
            self.lost = true;
        }
        let pause = if self.attempts <= QUICK_RETRIES {
            QUICK_RETRY
        } else if self.has_session() && !self.suspect {
            LIVE_RETRY
        } else {
            SLOW_RETRY.min(Duration::from_secs(1 << (self.attempts - QUICK_RETRIES - 1).min(8)))
        };
        // Both sides at once, or a thousand members after a hub's restart, must not stay in step.
        let jitter = pause.mul_f64(0.25 * self.rng.f64());
        self.next_attempt = Some(now + pause + jitter);
        if self.wanted.is_some_and(|since| now.saturating_duration_since(since) > PENDING_FOR)
            && self.pending.is_empty()
        {
            self.wanted = None;
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.last_heard.is_none_or(|at| now.saturating_duration_since(at) >= SILENCE)
    }

    /// A datagram of the session with this receiver index was authentic: is it one that has just begun? boringtun counts the
    /// sessions in the lower eight bits.
    fn note_session(&mut self, now: Instant, receiver: u32) {
        let newer = |known: u32| matches!((receiver as u8).wrapping_sub(known as u8), 1..=127);
        if self.receiver.is_some_and(|known| !newer(known)) {
            return;
        }
        self.receiver = Some(receiver);
        self.renewed = true;
        (self.lost, self.suspect) = (false, false);
        (self.attempts, self.wanted, self.next_attempt) = (0, None, None);
        self.established = Some(now);
    }

    /// Learns from boringtun whether there is a session.
    fn refresh(&mut self, now: Instant) {
        let alive = self.tunn.as_ref().is_some_and(|tunn| tunn.time_since_last_handshake().is_some());
        self.confirmed &= alive;
        self.session = self.confirmed;
        if self.session {
            self.established.get_or_insert(now);
        } else if self.established.take().is_some() && !self.initiates {
            // Leave the first word to the side that usually has it.
            self.next_attempt = Some(now + QUICK_RETRY * QUICK_RETRIES);
        }
    }

    fn expire_pending(&mut self, now: Instant) {
        while self
            .pending
            .pop_front_if(|(since, _)| now.saturating_duration_since(*since) > PENDING_FOR)
            .is_some()
        {
            self.stale += 1;
        }
    }
}

fn interval(seconds: Option<u16>) -> Option<Duration> {
    seconds.map(|seconds| Duration::from_secs(seconds.into()))
}
