//! Fragmentation: the pieces fit, carry multiples of 8 bytes, and together are the packet.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlay_engine::gateway::{FragmentError, fragment};
use overlay_engine::packet::ipv4::Ipv4;
use overlay_fuzz::{check_whole, plausible};

fuzz_target!(|input: (u16, u16, bool, Vec<u8>)| {
    let (mtu, longer, shaped, mut bytes) = input;
    // Longer than a fuzzer likes to write, and now and then as long as a packet may be.
    bytes.resize(bytes.len() + usize::from(longer), 0x5a);
    bytes.truncate(65_535);
    let bytes = if shaped { plausible(bytes) } else { bytes };
    let Ok(packet) = Ipv4::parse(&bytes) else { return };
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    let result = fragment(&packet, mtu, |header, payload| {
        pieces.push([header, payload].concat());
        true
    });
    let len = packet.bytes().len();
    match result {
        Err(FragmentError::DontFragment { .. }) => {
            assert!(pieces.is_empty() && len > usize::from(mtu) && packet.dont_fragment());
        }
        Err(FragmentError::MtuTooSmall { .. }) => assert!(pieces.is_empty() && mtu < 68),
        Err(FragmentError::Impossible { .. }) => {
            assert!(pieces.is_empty() && packet.is_fragment() | (len > 65_515))
        }
        Err(FragmentError::Refused { .. }) => panic!("nothing was refused"),
        Ok(count) => {
            assert_eq!(count, pieces.len());
            if len <= usize::from(mtu) {
                assert_eq!(pieces, [packet.bytes()]);
                return;
            }
            let (mut whole, mut at) = (Vec::new(), packet.fragment_offset());
            for (n, bytes) in pieces.iter().enumerate() {
                check_whole(bytes);
                let piece = Ipv4::parse(bytes).expect("a packet");
                let last = n + 1 == count;
                assert!(bytes.len() <= usize::from(mtu) && !piece.payload().is_empty());
                assert_eq!(piece.fragment_offset(), at);
                assert_eq!(piece.more_fragments(), !last || packet.more_fragments());
                assert!(last || piece.payload().len() % 8 == 0);
                assert_eq!(
                    (
                        piece.source(),
                        piece.destination(),
                        piece.protocol(),
                        piece.identification(),
                        piece.ttl()
                    ),
                    (
                        packet.source(),
                        packet.destination(),
                        packet.protocol(),
                        packet.identification(),
                        packet.ttl()
                    )
                );
                whole.extend_from_slice(piece.payload());
                at += piece.payload().len() as u16 & !7;
            }
            assert_eq!(whole, packet.payload());
        }
    }
});
