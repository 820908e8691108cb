//! The keys of one session, and which counters it has seen (WireGuard paper, section 5.4.6).

use crate::mix::{self, Key};
use crate::noise::errors::WireGuardError;

/// boringtun's window: so many counters behind the highest one are remembered.
const WINDOW: u64 = 1024;

/// Sealed and opened with two keys.
pub struct Session {
    pub local: u32,
    remote: u32,
    receive: Key,
    send: Key,
    sent: u64,
    /// One above the highest counter seen.
    next: u64,
    seen: [u64; (WINDOW / 64) as usize],
}

impl Session {
    pub fn new(local: u32, remote: u32, receive: Key, send: Key) -> Self {
        Self { local, remote, receive, send, sent: 0, next: 0, seen: Default::default() }
    }

    pub fn seal(&mut self, packet: &[u8], dst: &mut [u8]) -> usize {
        let counter = self.sent;
        self.sent += 1;
        let len = packet.len() + 32;
        dst[..4].copy_from_slice(&4_u32.to_le_bytes());
        dst[4..8].copy_from_slice(&self.remote.to_le_bytes());
        dst[8..16].copy_from_slice(&counter.to_le_bytes());
        mix::seal(mix::join(self.send, counter), packet, &mut dst[16..len]);
        len
    }

    pub fn open(
        &mut self,
        receiver: u32,
        counter: u64,
        sealed: &[u8],
        dst: &mut [u8],
    ) -> Result<usize, WireGuardError> {
        if receiver != self.local {
            return Err(WireGuardError::WrongIndex);
        }
        if counter + WINDOW < self.next {
            return Err(WireGuardError::InvalidCounter);
        }
        if counter < self.next && self.has_seen(counter) {
            return Err(WireGuardError::DuplicateCounter);
        }
        let len = sealed.len() - 16;
        if !mix::open(mix::join(self.receive, counter), sealed, &mut dst[..len]) {
            return Err(WireGuardError::InvalidAeadTag);
        }
        self.mark(counter);
        Ok(len)
    }

    fn has_seen(&self, counter: u64) -> bool {
        let bit = counter % WINDOW;
        self.seen[(bit / 64) as usize] >> (bit % 64) & 1 == 1
    }

    fn mark(&mut self, counter: u64) {
        if counter >= self.next {
            for skipped in self.next.max(counter.saturating_sub(WINDOW))..counter {
                let bit = skipped % WINDOW;
                self.seen[(bit / 64) as usize] &= !(1 << (bit % 64));
            }
            self.next = counter + 1;
        }
        let bit = counter % WINDOW;
        self.seen[(bit / 64) as usize] |= 1 << (bit % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_counter_is_accepted_once_in_any_order_within_the_window() {
        let (mut a, mut b) = (Session::new(1, 2, 10, 20), Session::new(2, 1, 20, 10));
        let mut datagrams: Vec<Vec<u8>> = Vec::new();
        for n in 0..3000_u32 {
            let mut dst = vec![0; 64];
            let len = a.seal(&n.to_le_bytes(), &mut dst);
            dst.truncate(len);
            datagrams.push(dst);
        }
        let mut open = |n: usize| {
            let d = &datagrams[n];
            let counter = u64::from_le_bytes(d[8..16].try_into().unwrap());
            b.open(2, counter, &d[16..], &mut [0; 64]).is_ok()
        };
        for n in [5, 3, 4, 0, 1, 2, 900, 899, 898] {
            assert!(open(n), "{n}");
            assert!(!open(n), "{n} again");
        }
        assert!(open(2999) && !open(900) && !open(1000), "behind the window");
        assert!(open(2500) && !open(2500) && open(2998));
    }
}
