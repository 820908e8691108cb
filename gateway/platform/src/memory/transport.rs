//! An underlay in memory: a switch that carries datagrams between the transports that are attached to it.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use overlay_engine::packet::DatagramBatch;

use crate::Transport;

/// How many datagrams wait at one address; more are dropped, as a socket's buffer does.
const QUEUE_LEN: usize = 1024;

type Queues = HashMap<SocketAddr, VecDeque<(SocketAddr, Vec<u8>)>>;

/// The switch.
#[derive(Clone, Debug, Default)]
pub struct MemoryNet {
    queues: Arc<Mutex<Queues>>,
}

/// One address on the switch.
#[derive(Debug)]
pub struct MemoryTransport {
    net: MemoryNet,
    address: SocketAddr,
}

impl MemoryNet {
    /// A switch with nothing attached.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches a transport at `address`.
    ///
    /// # Errors
    /// `AddrInUse` when another has that address.
    pub fn bind(&self, address: SocketAddr) -> io::Result<MemoryTransport> {
        let mut queues = self.locked();
        if queues.contains_key(&address) {
            return Err(io::Error::new(io::ErrorKind::AddrInUse, address.to_string()));
        }
        queues.insert(address, VecDeque::new());
        Ok(MemoryTransport { net: self.clone(), address })
    }

    fn locked(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport for MemoryTransport {
    fn send_batch(&self, batch: &DatagramBatch) -> io::Result<usize> {
        let mut queues = self.net.locked();
        let mut count = 0;
        for (to, datagram) in batch.iter() {
            if let Some(queue) = queues.get_mut(&to).filter(|queue| queue.len() < QUEUE_LEN) {
                queue.push_back((self.address, datagram.to_vec()));
                count += 1;
            }
        }
        Ok(count)
    }

    fn send_whole(&self, batch: &DatagramBatch) -> io::Result<usize> {
        self.send_batch(batch)
    }

    fn recv_batch(&self, batch: &mut DatagramBatch) -> io::Result<usize> {
        let mut queues = self.net.locked();
        let Some(queue) = queues.get_mut(&self.address) else { return Ok(0) };
        let mut count = 0;
        while let Some((from, datagram)) = queue.front() {
            if !batch.push(*from, datagram) {
                break;
            }
            queue.pop_front();
            count += 1;
        }
        Ok(count)
    }

    fn local_port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for MemoryTransport {
    fn drop(&mut self) {
        self.net.locked().remove(&self.address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_arrives_with_its_sender_and_one_for_nobody_is_dropped() {
        let net = MemoryNet::new();
        let (a, b) = (([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into());
        let (first, second) = (net.bind(a).unwrap(), net.bind(b).unwrap());
        assert!(net.bind(a).is_err());
        let mut batch = DatagramBatch::with_capacity(100, 4);
        batch.push(b, b"hello");
        batch.push(([10, 0, 0, 3], 3).into(), b"nobody");
        assert_eq!(first.send_batch(&batch).unwrap(), 1);
        batch.clear();
        assert_eq!(second.recv_batch(&mut batch).unwrap(), 1);
        assert_eq!(batch.get(0), Some((a, &b"hello"[..])));
    }
}
