//! Everything that a host can send, on a TUN and on a TAP: only its slot's sources leave, and answers are right.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlay_config::Mode;
use overlay_engine::DropReason;
use overlay_fuzz::{Node, check_answer, check_left, plausible};
use std::cell::RefCell;

thread_local! {
    static NODES: RefCell<[Node; 2]> = RefCell::new([Node::new(Mode::Tun), Node::new(Mode::Tap)]);
}

fuzz_target!(|input: (bool, u8, Vec<(u8, Vec<u8>)>)| {
    let (tap, later, packets) = input;
    NODES.with_borrow_mut(|nodes| {
        let node = &mut nodes[usize::from(tap)];
        node.pass(later);
        let packets: Vec<_> = packets
            .into_iter()
            .take(32)
            .map(|(shape, bytes)| {
                let packet = if shape & 1 == 0 { bytes } else { plausible(bytes) };
                match (tap, shape & 6) {
                    (false, _) | (true, 0) => packet,
                    (true, 2) => [&[0xff; 12], &[8, 6][..], &packet].concat(),
                    _ => [&[2; 12], &[8, 0][..], &packet].concat(),
                }
            })
            .collect();
        let before: u64 = node.engine.drops().iter().map(|(_, n)| n).sum();
        node.host(&packets);
        let sent = node.out.net.len();
        let opened = node.opened();
        assert_eq!(opened.len(), sent);
        for packet in &opened {
            check_left(packet, false);
        }
        for (_, answer) in node.out.host.iter() {
            match (tap, answer.get(12..14)) {
                (false, _) => check_answer(answer),
                (true, Some([8, 0])) => check_answer(&answer[14..]),
                (true, kind) => assert!(kind == Some(&[8, 6]) && answer.len() == 42),
            }
        }
        // Whatever went in has come out, was answered, was ARP, or was counted.
        let dropped = node.engine.drops().iter().map(|(_, n)| n).sum::<u64>() - before;
        let arp = packets.iter().filter(|p| tap && p.get(12..14) == Some(&[8, 6])).count();
        assert!(sent + node.out.host.len() + arp + dropped as usize >= packets.len(), "something vanished");
        assert_eq!(node.engine.drops().of(DropReason::NoBuffer), 0);
    });
});
