//! Batches: the unit of work of the packet path. One flat arena and a list of spans, both allocated once.
//!
//! A [`PacketBatch`] goes to and from the device: packets (TUN) or frames (TAP), each behind [`HEADROOM`] free bytes
//! for a header that a leaf needs in front of it (a `virtio_net_hdr`). A [`DatagramBatch`] goes to and from the
//! underlay: datagrams with their address and no gap between them, so that a run of equal datagrams for one endpoint
//! is a segmentation train as it stands.

use std::net::SocketAddr;

/// Free bytes before each packet of a [`PacketBatch`]: room for a `virtio_net_hdr` (12 bytes), and 16-byte aligned.
pub const HEADROOM: usize = 16;

/// The largest IPv4 packet in bytes (RFC 791 section 3.1: the total length has 16 bits).
pub const MAX_PACKET: usize = 65_535;

/// Packets or frames to or from the device.
pub type PacketBatch = Batch<(), HEADROOM>;

/// Datagrams to or from the underlay, each with the other side's address.
pub type DatagramBatch = Batch<SocketAddr, 0>;

/// One entry of a batch: where its bytes lie, and what is known of it.
#[derive(Clone, Copy, Debug)]
struct Span<M> {
    start: usize,
    len: usize,
    meta: M,
}

/// A bounded list of packets in one arena. It never grows: when it is full, [`Batch::reserve`] says so.
#[derive(Debug)]
pub struct Batch<M, const HEAD: usize> {
    arena: Box<[u8]>,
    used: usize,
    spans: Vec<Span<M>>,
    max_packets: usize,
}

impl<M: Copy, const HEAD: usize> Batch<M, HEAD> {
    /// An empty batch for at most `max_packets` packets of together at most `bytes` bytes (headroom included).
    #[must_use]
    pub fn with_capacity(bytes: usize, max_packets: usize) -> Self {
        Self {
            arena: vec![0; bytes].into_boxed_slice(),
            used: 0,
            spans: Vec::with_capacity(max_packets),
            max_packets,
        }
    }

    /// Forgets all packets. No memory is released.
    pub fn clear(&mut self) {
        self.used = 0;
        self.spans.clear();
    }

    /// How many packets the batch holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether the batch holds no packet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many bytes a next packet may have; 0 when the batch is full.
    #[must_use]
    pub fn room(&self) -> usize {
        if self.spans.len() >= self.max_packets {
            return 0;
        }
        self.arena.len().saturating_sub(self.used + HEAD)
    }

    /// How many more packets the batch has places for, whatever their bytes.
    #[must_use]
    pub fn places(&self) -> usize {
        self.max_packets.saturating_sub(self.spans.len())
    }

    /// Reserves `max` bytes for one packet: write it, then [`Reservation::commit`] its length; dropping the reservation
    /// gives the room back. `None` when the batch is full.
    pub fn reserve(&mut self, max: usize) -> Option<Reservation<'_, M, HEAD>> {
        if self.room() < max.max(1) {
            return None;
        }
        let start = self.used + HEAD;
        Some(Reservation { batch: self, start, max })
    }

    /// Reserves room for several packets at once, `each` bytes a packet: as many as fit, at most `count`. For a leaf
    /// that receives many with one system call.
    pub fn reserve_run(&mut self, count: usize, each: usize) -> Run<'_, M, HEAD> {
        let free = self.arena.len().saturating_sub(self.used);
        let slots = self.max_packets.saturating_sub(self.spans.len());
        let count = count.min(slots).min(free / (HEAD + each.max(1)));
        Run { batch: self, each: each.max(1), count }
    }

    /// Appends a copy of `bytes`; `false` when the batch is full.
    pub fn push(&mut self, meta: M, bytes: &[u8]) -> bool {
        let Some(mut room) = self.reserve(bytes.len()) else { return false };
        let Some(buffer) = room.buffer().get_mut(..bytes.len()) else { return false };
        buffer.copy_from_slice(bytes);
        room.commit(meta, bytes.len());
        true
    }

    /// The packets in order, each with what is known of it.
    pub fn iter(&self) -> impl Iterator<Item = (M, &[u8])> {
        self.spans.iter().filter_map(|s| Some((s.meta, self.arena.get(s.start..s.start + s.len)?)))
    }

    /// The packet at position `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<(M, &[u8])> {
        let s = self.spans.get(index)?;
        Some((s.meta, self.arena.get(s.start..s.start + s.len)?))
    }

    /// The packets from position `index` on that a leaf can send as one train: for the same destination, without a gap
    /// between them, all of one length, except that the last may be shorter (and then ends the train). At most `most`
    /// packets of together at most `bytes` bytes; the first one alone when nothing fits behind it.
    #[must_use]
    pub fn train(&self, index: usize, most: usize, bytes: usize) -> Option<Train<'_, M>>
    where
        M: PartialEq,
    {
        let first = self.spans.get(index)?;
        let (mut end, mut count) = (first.start + first.len, 1);
        if first.len > 0 {
            for next in self.spans.iter().skip(index + 1).take(most.saturating_sub(1)) {
                let fits = next.start == end && next.len > 0 && next.len <= first.len;
                if !fits || next.meta != first.meta || end + next.len - first.start > bytes {
                    break;
                }
                (end, count) = (end + next.len, count + 1);
                if next.len < first.len {
                    break;
                }
            }
        }
        let bytes = self.arena.get(first.start..end)?;
        Some(Train { meta: first.meta, bytes, stride: first.len, count })
    }

    /// The packet at position `index`, to be changed in place.
    pub fn get_mut(&mut self, index: usize) -> Option<(M, &mut [u8])> {
        let s = self.spans.get(index)?;
        Some((s.meta, self.arena.get_mut(s.start..s.start + s.len)?))
    }

    /// The packet at position `index` with its headroom in front.
    pub fn with_headroom_mut(&mut self, index: usize) -> Option<&mut [u8]> {
        let s = self.spans.get(index)?;
        self.arena.get_mut(s.start - HEAD..s.start + s.len)
    }
}

/// Packets of a [`Batch`] that lie one behind the other, made by [`Batch::train`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Train<'a, M> {
    /// What is known of each of them.
    pub meta: M,
    /// All of them.
    pub bytes: &'a [u8],
    /// The length in bytes of each but the last.
    pub stride: usize,
    /// How many they are.
    pub count: usize,
}

/// What was received into one buffer of a [`Run`]: one packet, or several one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled<M> {
    /// What is known of each of them.
    pub meta: M,
    /// The bytes of all of them.
    pub len: usize,
    /// The length in bytes of each but the last, which may be shorter; `len` (or more) for a single packet.
    pub stride: usize,
}

/// Room for one packet in a [`Batch`].
#[derive(Debug)]
pub struct Reservation<'a, M, const HEAD: usize> {
    batch: &'a mut Batch<M, HEAD>,
    start: usize,
    max: usize,
}

impl<M: Copy, const HEAD: usize> Reservation<'_, M, HEAD> {
    /// Where the packet is to be written: exactly as many bytes as were reserved.
    pub fn buffer(&mut self) -> &mut [u8] {
        let end = self.start + self.max;
        self.batch.arena.get_mut(self.start..end).unwrap_or_default()
    }

    /// Appends the first `len` bytes of the buffer as a packet; a length beyond what was reserved is cut.
    pub fn commit(self, meta: M, len: usize) {
        let len = len.min(self.max);
        self.batch.spans.push(Span { start: self.start, len, meta });
        self.batch.used = self.start + len;
    }
}

/// Room for several packets in a [`Batch`], made by [`Batch::reserve_run`].
#[derive(Debug)]
pub struct Run<'a, M, const HEAD: usize> {
    batch: &'a mut Batch<M, HEAD>,
    each: usize,
    count: usize,
}

impl<M: Copy, const HEAD: usize> Run<'_, M, HEAD> {
    /// How many packets there is room for; 0 when the batch is full.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Where the packets are to be written, in order.
    pub fn buffers(&mut self) -> impl Iterator<Item = &mut [u8]> {
        let stride = HEAD + self.each;
        let start = self.batch.used;
        let area = self.batch.arena.get_mut(start..start + stride * self.count).unwrap_or_default();
        area.chunks_exact_mut(stride).filter_map(|slot| slot.get_mut(HEAD..))
    }

    /// Appends what was received: for each buffer in order what came into it, or `None` to leave that buffer's content
    /// out. A length beyond the buffer is cut. Returns how many packets there are for which the batch has no place.
    pub fn commit(self, received: impl IntoIterator<Item = Option<Filled<M>>>) -> usize {
        let pitch = HEAD + self.each;
        let first = self.batch.used + HEAD;
        let mut left_out = 0;
        for (position, filled) in received.into_iter().take(self.count).enumerate() {
            let Some(Filled { meta, len, stride }) = filled else { continue };
            let start = first + position * pitch;
            let end = start + len.min(self.each);
            let mut at = start;
            // An empty packet is a packet.
            while at < end || at == start {
                let len = stride.max(1).min(end - at);
                if self.batch.spans.len() < self.batch.max_packets {
                    self.batch.spans.push(Span { start: at, len, meta });
                    self.batch.used = at + len;
                } else {
                    left_out += 1;
                }
                at += len.max(1);
            }
        }
        left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reservation_that_is_dropped_gives_its_room_back() {
        let mut batch = PacketBatch::with_capacity(256, 4);
        let room = batch.room();
        let _ = batch.reserve(100);
        assert_eq!(batch.room(), room);
        assert!(batch.is_empty());
    }

    #[test]
    fn a_full_batch_refuses_and_keeps_what_it_holds() {
        let mut batch = PacketBatch::with_capacity(HEADROOM + 8, 4);
        assert!(batch.push((), b"12345678"));
        assert!(!batch.push((), b"9"));
        assert_eq!(batch.iter().map(|(_, p)| p).collect::<Vec<_>>(), [b"12345678"]);
        let mut few = DatagramBatch::with_capacity(100, 1);
        let to = ([127, 0, 0, 1], 1).into();
        assert!(few.push(to, b"a"));
        assert!(!few.push(to, b"b"));
    }

    #[test]
    fn datagrams_lie_without_a_gap_and_packets_behind_their_headroom() {
        let to = ([127, 0, 0, 1], 1).into();
        let mut datagrams = DatagramBatch::with_capacity(64, 4);
        datagrams.push(to, b"abc");
        datagrams.push(to, b"def");
        assert_eq!(&datagrams.arena[..6], b"abcdef");
        let mut packets = PacketBatch::with_capacity(128, 4);
        packets.push((), b"abc");
        assert_eq!(packets.with_headroom_mut(0).map(|p| p.len()), Some(HEADROOM + 3));
    }

    #[test]
    fn a_run_keeps_what_was_received_and_leaves_out_what_was_not() {
        let (a, b) = (([127, 0, 0, 1], 1).into(), ([127, 0, 0, 1], 2).into());
        let mut batch = DatagramBatch::with_capacity(40, 8);
        batch.push(a, b"first");
        let mut run = batch.reserve_run(8, 10);
        assert_eq!(run.count(), 3);
        for (buffer, text) in run.buffers().zip(["one", "two", "three"]) {
            buffer[..text.len()].copy_from_slice(text.as_bytes());
        }
        let one = |meta, len| Some(Filled { meta, len, stride: len });
        assert_eq!(run.commit([one(b, 3), None, one(a, 5)]), 0);
        let held: Vec<_> = batch.iter().collect();
        assert_eq!(held, [(a, &b"first"[..]), (b, b"one"), (a, b"three")]);
        assert_eq!(batch.reserve_run(8, 11).count(), 0);
        batch.clear();
        assert_eq!(batch.reserve_run(2, 10).count(), 2);
    }

    #[test]
    fn one_buffer_becomes_several_packets_as_far_as_there_are_places() {
        let from = ([127, 0, 0, 1], 1).into();
        let mut batch = DatagramBatch::with_capacity(40, 5);
        let mut run = batch.reserve_run(2, 20);
        for buffer in run.buffers() {
            buffer.copy_from_slice(b"aaaabbbbccccddddeeee");
        }
        let filled = |len| Some(Filled { meta: from, len, stride: 4 });
        assert_eq!(run.commit([filled(10), filled(20)]), 3);
        let held: Vec<_> = batch.iter().map(|(_, bytes)| bytes).collect();
        assert_eq!(held, [&b"aaaa"[..], b"bbbb", b"cc", b"aaaa", b"bbbb"]);
        // An empty one, and one whose stride is nonsense.
        let mut batch = DatagramBatch::with_capacity(40, 5);
        let run = batch.reserve_run(2, 20);
        let empty = Filled { meta: from, len: 0, stride: 0 };
        assert_eq!(run.commit([Some(empty), Some(Filled { len: 2, ..empty })]), 0);
        assert_eq!(batch.iter().map(|(_, bytes)| bytes.len()).collect::<Vec<_>>(), [0, 1, 1]);
    }

    proptest! {
        /// A train is a piece of the batch: cut at its stride, it is the packets it stands for.
        #[test]
        fn a_train_is_its_packets_and_ends_where_it_must(
            packets in proptest::collection::vec((0_u16..2, 0_usize..4), 1..40),
            most in 1_usize..8, bytes in 0_usize..20,
        ) {
            let mut batch = DatagramBatch::with_capacity(1000, 64);
            for (n, (port, len)) in packets.iter().enumerate() {
                prop_assert!(batch.push(([127, 0, 0, 1], *port).into(), &vec![n as u8; *len]));
            }
            let mut at = 0;
            while let Some(train) = batch.train(at, most, bytes) {
                prop_assert!(train.count >= 1 && train.count <= most);
                prop_assert!(train.count == 1 || train.bytes.len() <= bytes);
                let pieces = train.bytes.chunks(train.stride.max(1)).chain((train.stride == 0).then_some(&[][..]));
                let held = (at..at + train.count).map(|n| batch.get(n).unwrap());
                prop_assert!(pieces.map(|piece| (train.meta, piece)).eq(held));
                at += train.count;
            }
            prop_assert_eq!(at, packets.len());
        }
    }
}
