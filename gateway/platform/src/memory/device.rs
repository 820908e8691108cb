//! A device in memory: what its host end sends is read from it, and what is written to it arrives at the host end.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use overlay_engine::packet::PacketBatch;

use crate::Device;

type Queue = Arc<Mutex<VecDeque<Vec<u8>>>>;

/// How many packets a queue holds; more are dropped, as a real device's queue does.
const QUEUE_LEN: usize = 1024;

/// The gateway's side.
#[derive(Clone, Debug, Default)]
pub struct MemoryDevice {
    from_host: Queue,
    to_host: Queue,
}

/// The host's side.
#[derive(Clone, Debug, Default)]
pub struct HostEnd {
    from_host: Queue,
    to_host: Queue,
}

/// A device and its host end.
#[must_use]
pub fn device() -> (MemoryDevice, HostEnd) {
    let (from_host, to_host) = (Queue::default(), Queue::default());
    let device = MemoryDevice { from_host: Arc::clone(&from_host), to_host: Arc::clone(&to_host) };
    (device, HostEnd { from_host, to_host })
}

fn locked(queue: &Queue) -> MutexGuard<'_, VecDeque<Vec<u8>>> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

fn push(queue: &Queue, packet: &[u8]) -> bool {
    let mut queue = locked(queue);
    let room = queue.len() < QUEUE_LEN;
    if room {
        queue.push_back(packet.to_vec());
    }
    room
}

impl HostEnd {
    /// Sends a packet into the device; `false` when its queue is full and the packet was dropped.
    pub fn send(&self, packet: &[u8]) -> bool {
        push(&self.from_host, packet)
    }

    /// The next packet that came out of the device.
    #[must_use]
    pub fn recv(&self) -> Option<Vec<u8>> {
        locked(&self.to_host).pop_front()
    }
}

impl Device for MemoryDevice {
    fn read_batch(&self, batch: &mut PacketBatch) -> io::Result<usize> {
        let mut queue = locked(&self.from_host);
        let mut count = 0;
        while let Some(packet) = queue.front() {
            if !batch.push((), packet) {
                break;
            }
            queue.pop_front();
            count += 1;
        }
        Ok(count)
    }

    fn write_batch(&self, batch: &PacketBatch) -> io::Result<usize> {
        Ok(batch.iter().filter(|(_, packet)| push(&self.to_host, packet)).count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_pass_both_ways_in_order_and_wait_when_the_batch_is_full() {
        let (device, host) = device();
        assert!(host.send(b"one") && host.send(b"two"));
        let mut batch = PacketBatch::with_capacity(64, 1);
        assert_eq!(device.read_batch(&mut batch).unwrap(), 1);
        assert_eq!(device.write_batch(&batch).unwrap(), 1);
        assert_eq!(host.recv().unwrap(), b"one");
        batch.clear();
        assert_eq!(device.read_batch(&mut batch).unwrap(), 1);
        assert_eq!(batch.get(0).unwrap().1, b"two");
        assert_eq!(device.read_batch(&mut batch).unwrap(), 0);
    }
}
