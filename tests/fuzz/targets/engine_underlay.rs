//! Everything that comes from the underlay: what members seal, the same with bytes changed, and rubbish.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use overlay_config::Mode;
use overlay_fuzz::{Node, check_left, destination, plain_owns, plausible, slot, source};
use std::cell::RefCell;
use std::net::SocketAddr;

#[derive(Arbitrary, Debug)]
enum Input {
    /// A member seals a packet.
    Sealed { plain: bool, shaped: bool, packet: Vec<u8> },
    /// A stranger sends what he likes.
    Rubbish(Vec<u8>),
    /// A stranger sends a message of this type, for a session that may exist.
    Shaped { kind: u8, receiver: u16, rest: Vec<u8> },
}

thread_local! {
    static NODE: RefCell<Node> = RefCell::new(Node::new(Mode::Tun));
}

fuzz_target!(|input: (u8, Vec<Input>)| {
    let (later, inputs) = input;
    NODE.with_borrow_mut(|node| {
        node.pass(later);
        for input in inputs.into_iter().take(32) {
            match input {
                Input::Sealed { plain, shaped, packet } => sealed(node, plain, shaped, packet),
                Input::Rubbish(bytes) => stranger(node, &bytes),
                Input::Shaped { kind, receiver, mut rest } => {
                    let kind = 1 + kind % 4;
                    let len = [148, 92, 64, rest.len().max(24) + 8][usize::from(kind) - 1];
                    rest.resize(len - 8, 0);
                    stranger(
                        node,
                        &[&[kind, 0, 0, 0][..], &u32::from(receiver).to_le_bytes(), &rest].concat(),
                    );
                }
            }
        }
    });
});

fn sealed(node: &mut Node, plain: bool, shaped: bool, packet: Vec<u8>) {
    let packet = if shaped { plausible(packet) } else { packet };
    node.sealed(usize::from(plain), &packet);
    for (_, heard) in node.out.host.iter() {
        assert!(packet.starts_with(heard), "what comes out is what went in");
        let (source, to) = (source(heard), destination(heard));
        assert!(!slot().contains(source), "{source} from outside");
        let relayed = !plain && source.octets().starts_with(&[172, 16, 8]);
        assert!(relayed || (plain && plain_owns(source)), "{source} from {plain}");
        assert!([57, 59].contains(&to.octets()[3]) && slot().contains(to), "{to} is not live");
    }
    assert!(node.out.host.len() <= 1);
    for answer in node.opened() {
        check_left(&answer, true);
    }
}

fn stranger(node: &mut Node, bytes: &[u8]) {
    let from: SocketAddr = "203.0.113.7:7".parse().unwrap();
    node.datagram(from, bytes);
    assert!(node.out.host.is_empty());
    let answered: usize = node.out.net.iter().map(|(_, answer)| answer.len()).sum();
    assert!(answered <= bytes.len(), "{answered} bytes for {}", bytes.len());
    let peers = node.engine.peers();
    assert!(peers.iter().all(|peer| peer.link.endpoint != Some(from)), "a stranger moved a peer");
}
