//! Control messages: whatever comes out of a tunnel is refused or bounded, and what can be read can be written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use overlay_engine::control::{self, MAX_MESSAGE, Message};

fuzz_target!(|input: (u8, u8, Vec<u8>)| {
    let (kind, version, mut body) = input;
    let _ = control::read(&body);
    // With a header that is right, bytes come further than chance would bring them.
    let header = control::Header { epoch: 1, sequence: 2 };
    let mut packet = vec![0; MAX_MESSAGE];
    let len = control::write(header, &Message::Probe { number: 1, mtu: None }, &mut packet).unwrap();
    packet.truncate(len - 8);
    body.truncate(1200);
    packet.extend(body);
    packet[40] = 1 + version % 2;
    packet[41] = kind % 20;
    let payload = (packet.len() - 40) as u16;
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
    assert!(control::claims_to_be_one(&packet));
    let whole = control::read(&packet).ok().map(|(header, message)| (header, format!("{message:?}")));
    let mut short = packet.clone();
    let short = control::read(control::without_padding(&mut short)).ok();
    assert_eq!(short.map(|(header, message)| (header, format!("{message:?}"))), whole);
    if let Ok((header, message)) = control::read(&packet) {
        let mut out = vec![0; MAX_MESSAGE];
        let len = control::write(header, &message, &mut out).expect("what was read fits");
        assert_eq!(control::read(&out[..len]), Ok((header, message)));
    }
});
