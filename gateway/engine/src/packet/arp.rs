//! ARP for IPv4 on Ethernet (RFC 826): a checked view, and a message to write.

use std::net::Ipv4Addr;

use super::{Malformed, ethernet, ethernet::MacAddr};

/// Length of a message in bytes.
pub const MESSAGE: usize = 28;

/// The first six bytes of every message here: hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// What a message does (RFC 826, `ar$op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target address?
    Request,
    /// I have the sender address.
    Reply,
}

/// An ARP message for IPv4 on Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct Arp<'a> {
    bytes: &'a [u8; MESSAGE],
    operation: Operation,
}

impl<'a> Arp<'a> {
    /// Checks `bytes`, the payload of a frame (RFC 826, "Packet Reception"): hardware type, protocol type, both lengths and the
    /// operation. Padding behind the 28 bytes is ignored.
    ///
    /// # Errors
    /// Too few bytes, or a field with a value that is not ARP for IPv4 on Ethernet.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let found = bytes.len();
        let bytes = bytes.first_chunk::<MESSAGE>().ok_or(Malformed::Truncated {
            what: "ARP message",
            needed: MESSAGE,
            found,
        })?;
        let word = |high, low| u16::from_be_bytes([high, low]);
        let expect = |what, found, expected| {
            if found == expected { Ok(()) } else { Err(Malformed::Value { what, found, expected }) }
        };
        expect("ARP hardware type", word(bytes[0], bytes[1]), 1)?;
        expect("ARP protocol type", word(bytes[2], bytes[3]), ethernet::IPV4)?;
        expect("ARP hardware address length", bytes[4].into(), 6)?;
        expect("ARP protocol address length", bytes[5].into(), 4)?;
        let operation = match word(bytes[6], bytes[7]) {
            1 => Operation::Request,
            2 => Operation::Reply,
            found => return Err(Malformed::Value { what: "ARP operation", found, expected: 1 }),
        };
        Ok(Self { bytes, operation })
    }

    /// Request or reply.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// The sender's hardware address.
    #[must_use]
    pub fn sender_mac(&self) -> MacAddr {
        let b = self.bytes;
        MacAddr([b[8], b[9], b[10], b[11], b[12], b[13]])
    }

    /// The sender's address; 0.0.0.0 in a probe (RFC 5227 section 1.1).
    #[must_use]
    pub fn sender(&self) -> Ipv4Addr {
        let b = self.bytes;
        Ipv4Addr::new(b[14], b[15], b[16], b[17])
    }

    /// The target's hardware address; in a request it means nothing.
    #[must_use]
    pub fn target_mac(&self) -> MacAddr {
        let b = self.bytes;
        MacAddr([b[18], b[19], b[20], b[21], b[22], b[23]])
    }

    /// The address that is asked for, or, in a reply, who asked.
    #[must_use]
    pub fn target(&self) -> Ipv4Addr {
        let b = self.bytes;
        Ipv4Addr::new(b[24], b[25], b[26], b[27])
    }
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Request or reply.
    pub operation: Operation,
    /// The sender's hardware address.
    pub sender_mac: MacAddr,
    /// The sender's address.
    pub sender: Ipv4Addr,
    /// The target's hardware address.
    pub target_mac: MacAddr,
    /// The target's address.
    pub target: Ipv4Addr,
}

impl Message {
    /// Writes the 28 bytes at the start of `out`. Their number; `None`, and nothing written, when `out` is too small.
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let b = out.first_chunk_mut::<MESSAGE>()?;
        [b[0], b[1], b[2], b[3], b[4], b[5]] = KIND;
        let operation = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        [b[6], b[7]] = [0, operation];
        [b[8], b[9], b[10], b[11], b[12], b[13]] = self.sender_mac.0;
        [b[14], b[15], b[16], b[17]] = self.sender.octets();
        [b[18], b[19], b[20], b[21], b[22], b[23]] = self.target_mac.0;
        [b[24], b[25], b[26], b[27]] = self.target.octets();
        Some(MESSAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacketSlice};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn view_and_message_agree_with_etherparse(
            reply in any::<bool>(), sender_mac in any::<[u8; 6]>(), sender in any::<[u8; 4]>(), target_mac in any::<[u8; 6]>(), target in any::<[u8; 4]>(),
            padding in 0_usize..20,
        ) {
            let theirs = ArpEthIpv4Packet {
                operation: if reply { ArpOperation::REPLY } else { ArpOperation::REQUEST },
                sender_mac, sender_ipv4: sender, target_mac, target_ipv4: target,
            };
            let mut bytes = theirs.to_bytes().to_vec();
            let ours = Message {
                operation: if reply { Operation::Reply } else { Operation::Request },
                sender_mac: MacAddr(sender_mac), sender: sender.into(), target_mac: MacAddr(target_mac), target: target.into(),
            };
            let mut out = [0; MESSAGE];
            prop_assert_eq!(ours.write(&mut out), Some(MESSAGE));
            prop_assert_eq!(&out[..], &bytes[..]);
            let read: ArpEthIpv4Packet = ArpPacketSlice::from_slice(&out).unwrap().to_packet().try_eth_ipv4().unwrap();
            prop_assert_eq!(read, theirs);

            bytes.resize(MESSAGE + padding, 0xee);
            let view = Arp::parse(&bytes).unwrap();
            let said = Message {
                operation: view.operation(), sender_mac: view.sender_mac(), sender: view.sender(),
                target_mac: view.target_mac(), target: view.target(),
            };
            prop_assert_eq!(said, ours);
        }

        #[test]
        fn a_message_of_another_kind_is_refused(at in 0_usize..8, value in any::<u8>(), cut in 0_usize..=MESSAGE) {
            let message = Message {
                operation: Operation::Request, sender_mac: MacAddr::ZERO, sender: Ipv4Addr::UNSPECIFIED,
                target_mac: MacAddr::ZERO, target: Ipv4Addr::UNSPECIFIED,
            };
            let mut bytes = [0; MESSAGE];
            message.write(&mut bytes);
            prop_assert_eq!(Arp::parse(&bytes[..cut]).is_ok(), cut == MESSAGE);
            let same = bytes[at] == value || (at == 7 && value == 2);
            bytes[at] = value;
            prop_assert_eq!(Arp::parse(&bytes).is_ok(), same);
            prop_assert_eq!(message.write(&mut bytes[..cut]).is_some(), cut == MESSAGE);
        }

        #[test]
        fn arbitrary_bytes_are_a_message_or_an_error(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), shape in any::<bool>()) {
            if shape && bytes.len() > 7 {
                bytes[..6].copy_from_slice(&KIND);
                bytes[6] = 0;
            }
            if let Ok(view) = Arp::parse(&bytes) {
                let _ = (view.sender_mac(), view.sender(), view.target_mac(), view.target());
            }
        }
    }
}
