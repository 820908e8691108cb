//! Echo requests in fragments: one piece out for one in, of the same size, once, and back to where it came from.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use overlay_engine::gateway::EchoFragments;
use overlay_engine::packet::ipv4::{self, Ipv4};
use overlay_fuzz::{check_whole, destination, source};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

#[derive(Arbitrary, Debug)]
struct Piece {
    /// Who sends, and which of his datagrams: few, so that pieces meet.
    from: u8,
    datagram: u8,
    /// In units of 8 bytes; small when `near`.
    place: u16,
    near: bool,
    more: bool,
    /// In bytes; a few units when `near`.
    length: u16,
    first: Option<[u8; 4]>,
    later: u16,
}

fuzz_target!(|pieces: Vec<Piece>| {
    let (mut echo, mut now) = (EchoFragments::new(), Instant::now());
    let gateway = Ipv4Addr::new(172, 16, 8, 56);
    let mut reflected: HashMap<(u8, u8, u16), usize> = HashMap::new();
    for (step, mut piece) in pieces.into_iter().take(200).enumerate() {
        if piece.near {
            (piece.from, piece.datagram) = (57 + piece.from % 2, piece.datagram % 2);
            (piece.place, piece.length) = (piece.place % 4, 8 * (1 + piece.length % 2));
        }
        now += Duration::from_millis(piece.later.into());
        let mut payload = vec![piece.place as u8; usize::from(piece.length)];
        for (to, from) in payload.iter_mut().zip(piece.first.unwrap_or([8, 0, 0, 0])) {
            *to = from;
        }
        let header = ipv4::Header {
            identification: piece.datagram.into(),
            more_fragments: piece.more,
            fragment_offset: (piece.place % 8192) * 8,
            ..ipv4::Header::new(Ipv4Addr::new(172, 16, 8, piece.from), gateway, ipv4::ICMP, payload.len())
        };
        let mut packet = vec![0; 20 + payload.len()];
        if payload.len() > 65_515 {
            continue;
        }
        header.write(&mut packet).expect("room").copy_from_slice(&payload);
        let view = Ipv4::parse(&packet).expect("a packet");
        let mut out = vec![0; 66_000];
        let Some(len) = echo.reflect(now, &view, &mut out) else { continue };
        check_whole(&out[..len]);
        assert_eq!(len, packet.len(), "no larger than what came");
        assert_eq!((source(&out), destination(&out)), (view.destination(), view.source()));
        let reply = Ipv4::parse(&out[..len]).expect("a packet");
        assert_eq!(reply.fragment_offset(), view.fragment_offset());
        assert_eq!(reply.more_fragments(), view.more_fragments());
        assert!(view.is_fragment() && usize::from(view.fragment_offset()) + payload.len() <= 65_515);
        let unchanged = if view.fragment_offset() == 0 { 4 } else { 0 };
        assert_eq!(reply.payload()[unchanged..], payload[unchanged..]);
        assert!(unchanged == 0 || (payload[0], reply.payload()[0]) == (8, 0));
        // The same piece goes back once, until its datagram is done or forgotten (two seconds, or 32 others).
        let key = (piece.from, piece.datagram, view.fragment_offset());
        if view.fragment_offset() != 0
            && let Some(before) = reflected.insert(key, step)
        {
            let restarted = reflected.get(&(key.0, key.1, 0)).is_some_and(|first| *first > before);
            assert!(restarted, "a piece went back twice");
        }
        if view.fragment_offset() == 0 {
            reflected.insert(key, step);
        }
    }
});
