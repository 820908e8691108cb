//! A hub that keeps to the protocol and says what is not so.

use crate::packets::udp;
use crate::world::{HUB, Id, World, addr, at, hub, node, to_speaking_hub, to_speaking_node};
use overlay_engine::control::{self, Absence, Capabilities, Header, Message};
use overlay_engine::peer::Sealing;
use std::net::SocketAddr;
use std::time::Duration;

/// Answers every probe, and adds something to each that is not so.
struct Liar {
    id: Id,
    sequence: u32,
}

impl Liar {
    fn say(&mut self, world: &mut World, message: &Message<'_>) {
        self.sequence += 1;
        let mut packet = vec![0; control::MAX_MESSAGE];
        let len = control::write(Header { epoch: 7, sequence: self.sequence }, message, &mut packet).unwrap();
        packet.truncate(len);
        world.sends(self.id, &[packet]);
    }

    fn answer(&mut self, world: &mut World) {
        for packet in world.inbox(self.id) {
            let Ok((_, Message::Probe { number, .. })) = control::read(&packet) else { continue };
            let nowhere = SocketAddr::from(([192, 0, 2, number as u8], 40_000));
            let draining = number % 3 == 0;
            self.say(world, &Message::Echo { number, draining, seen_at: Some(nowhere) });
            let seen_at = Some(SocketAddr::from(([203, 0, 113, number as u8], 40_000)));
            self.say(world, &Message::Echo { number: number.wrapping_add(1), draining, seen_at });
            self.say(world, &Message::Notice { draining: !draining });
            self.say(world, &Message::Challenge { nonce: number.into() });
            for node in 0..32 {
                let why = if number % 2 == 0 { Absence::Away } else { Absence::Plain };
                self.say(world, &Message::Absent { node, why });
                self.say(world, &Message::Initiated { from: node, message: &[number as u8; 148] });
            }
        }
    }
}

#[test]
fn a_hub_that_lies_about_everything_leads_nothing_away_and_costs_little() {
    let mut world = World::new();
    // The second hub is honest. The liar speaks with the first node alone.
    world.engine(2, hub([56, 64].map(|n| to_speaking_node(HUB, n, Sealing::Never)).into()));
    let others = |me, other| to_speaking_node(me, other, Sealing::Required);
    let a = world.engine(56, node(56, vec![to_speaking_hub(HUB), to_speaking_hub(2), others(56, 64)]));
    let b = world.engine(64, node(64, vec![to_speaking_hub(2), others(64, 56)]));
    for (id, last) in [(a, 57), (b, 65)] {
        world.of(id).set_live(Some(vec![addr(last)]));
    }
    world.walls.extend([(at(56), at(64)), (at(64), at(56))]);
    let mut liar = Liar { id: world.plain(HUB, 56), sequence: 0 };
    world.run(Duration::from_millis(500));
    let capabilities = Capabilities::RELAYS.and(Capabilities::PROBES);
    liar.say(&mut world, &Message::Hello { capabilities, seen: 0 });
    world.run(Duration::from_secs(2));
    let (from, start) = (world.sent.len(), world.now);
    let mut lost = 0;
    while world.now - start < Duration::from_secs(30) {
        world.run(Duration::from_millis(20));
        liar.answer(&mut world);
        for (from, to, packet) in
            [(a, b, udp(addr(57), addr(65), &[7; 300])), (b, a, udp(addr(65), addr(57), &[7; 300]))]
        {
            world.send(from, &packet);
            lost += usize::from(world.inbox(to).is_empty());
        }
    }
    assert!(liar.sequence > 1_000, "it had something to answer: {}", liar.sequence);
    assert_eq!(lost, 0);
    let known = [1, 2, 56, 64].map(at);
    let elsewhere: Vec<_> = world.sent[from..].iter().filter(|d| !known.contains(&d.to)).collect();
    // The other node tries a few of the places where the first is said to be seen, each three times.
    assert!(elsewhere.iter().all(|d| d.bytes.len() < 200), "no packet");
    assert!(elsewhere.len() < 200, "{} datagrams elsewhere in 30 s", elsewhere.len());
}
