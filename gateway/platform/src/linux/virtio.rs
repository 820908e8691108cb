//! The header in front of each packet of a device with offload: `struct virtio_net_hdr` (Virtual I/O Device 1.2,
//! section 5.1.6), in the machine's byte order, as the TUN driver has it.

/// Its length in bytes: without `num_buffers`, the TUN driver's default.
pub const VIRTIO_HEADER: usize = 10;

/// The packet's checksum covers the pseudo header only.
pub const NEEDS_CSUM: u8 = 1;

/// A packet that is no super-packet.
pub const GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// UDP datagrams of equal size.
pub const GSO_UDP_L4: u8 = 5;
/// A flag beside the type: the TCP header has CWR set.
pub const GSO_ECN: u8 = 0x80;

/// What the header says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`NEEDS_CSUM`], and others that do not matter here.
    pub flags: u8,
    /// Which kind of super-packet this is.
    pub gso_type: u8,
    /// The length of all headers in bytes; a hint only.
    pub hdr_len: u16,
    /// The bytes of payload of each packet but the last.
    pub gso_size: u16,
    /// Where the bytes begin that the checksum covers.
    pub csum_start: u16,
    /// Where, behind that, the checksum stands.
    pub csum_offset: u16,
}

impl VirtioHeader {
    /// Reads a header.
    #[must_use]
    pub fn read(bytes: [u8; VIRTIO_HEADER]) -> Self {
        let [flags, gso_type, a, b, c, d, e, f, g, h] = bytes;
        let word = |high, low| u16::from_ne_bytes([high, low]);
        Self {
            flags,
            gso_type,
            hdr_len: word(a, b),
            gso_size: word(c, d),
            csum_start: word(e, f),
            csum_offset: word(g, h),
        }
    }

    /// The bytes of the header.
    #[must_use]
    pub fn bytes(self) -> [u8; VIRTIO_HEADER] {
        let words = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset].map(u16::to_ne_bytes);
        let [[a, b], [c, d], [e, f], [g, h]] = words;
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h]
    }
}

/// Overwrites the bytes of `packet` from `at` on, if it has them.
pub fn put<const N: usize>(packet: &mut [u8], at: usize, value: [u8; N]) {
    if let Some(place) = packet.get_mut(at..at + N) {
        place.copy_from_slice(&value);
    }
}

/// The bytes of `packet` from `at` on; zero where it has none.
pub fn take<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    packet.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}
