//! wireguard-go as a direct peer of a node: no hub at all.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use overlay_tests::case;
use overlay_tests::flow::Flow;
use overlay_tests::gateway::Gateway;
use overlay_tests::harness::Case;
use overlay_tests::keys::Keys;
use overlay_tests::node::Node;
use overlay_tests::wait::{until, until_in};
use overlay_tests::wireguard::{Peer, WireGuard};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(background, rekey_goes_unnoticed),
        case!(background, silent_peer_is_tried_again_after_minutes),
        case!(functional, peer_and_node_reach_each_other),
        case!(functional, either_side_may_begin),
        case!(functional, preshared_key),
        case!(functional, networks_of_the_peer_become_routes),
        case!(functional, foreign_sources_of_the_peer_are_dropped),
    ]
}

/// A node with slot 56 and one plain peer, which owns slot 80.
struct Pair {
    node: Node,
    keys: Keys,
    plain: WireGuard,
}

impl Pair {
    fn new(world: &World) -> Self {
        let node = world.node("cluster-1", 56);
        let plain = WireGuard::start(&world.node("plain", 80), Keys::new(), "172.16.8.81/29");
        Self { node, keys: Keys::new(), plain }
    }

    /// Starts the node; `more` are lines of the peer's entry.
    fn up(&self, more: &str) -> Gateway {
        self.node.write("private.key", &self.keys.private);
        let text = format!(
            "version = 1\n\n[node]\nname = \"cluster-1\"\nslot = 56\nprivate_key_file = \"private.key\"\nlisten_port = 51820\n\n\
             [overlay]\ncidr = \"172.16.8.0/24\"\n\n[[peers]]\nname = \"plain\"\npublic_key = \"{}\"\n{more}\n",
            self.plain.keys.public
        );
        let config = self.node.write("config.toml", &text);
        Gateway::up(&self.node, &config)
    }

    /// Tells the plain side of the node.
    fn tell(&self, endpoint: Option<&str>, preshared: Option<&str>) {
        self.plain.peer(&Peer {
            public: &self.keys.public,
            allowed_ips: "172.16.8.56/29",
            endpoint: endpoint.map(str::to_owned),
            preshared,
            ..Peer::default()
        });
    }
}

const SLOT: &str = "allowed_ips = [\"172.16.8.80/29\"]";
const BOTH: &str = "allowed_ips = [\"172.16.8.80/29\"]\nendpoint = \"10.99.0.80:51820\"";

fn peer_and_node_reach_each_other(world: &World) {
    let pair = Pair::new(world);
    pair.tell(None, None);
    let gw = pair.up(BOTH);
    pair.node.reaches("172.16.8.81");
    pair.plain.node.reaches("172.16.8.57");
    pair.plain.node.reaches("172.16.8.56");
    pair.plain.node.ok("ping -n -c 2 -i 0.2 -W 5 -s 20000 172.16.8.57");
    let shown = gw.client("status --json").exits(0).json();
    assert_eq!(shown["state"], "ok");
    assert_eq!(shown["peers"][0]["kind"], "wireguard", "{shown:#}");
    gw.stop();
}

fn either_side_may_begin(world: &World) {
    let pair = Pair::new(world);
    pair.tell(Some("10.99.0.56:51820"), None);
    // The node does not know where its peer is.
    let gw = pair.up(SLOT);
    pair.plain.node.reaches("172.16.8.57");
    assert_eq!(gw.status().endpoint("plain").as_deref(), Some("10.99.0.80:51820"));
    pair.node.reaches("172.16.8.81");
    // And after both have moved, one after the other.
    pair.plain.node.roam(180);
    pair.plain.node.reaches("172.16.8.57");
    until("the node follows", || gw.status().endpoint("plain").as_deref() == Some("10.99.0.180:51820"));
    pair.node.roam(156);
    pair.node.reaches("172.16.8.81");
    until("its peer follows", || pair.plain.endpoint(&pair.keys.public) == "10.99.0.156:51820");
    gw.stop();
}

fn preshared_key(world: &World) {
    let pair = Pair::new(world);
    let preshared = Keys::preshared();
    pair.tell(None, Some(&preshared));
    pair.node.write("plain.psk", &preshared);
    let gw = pair.up(&format!("{BOTH}\npreshared_key_file = \"plain.psk\""));
    pair.node.reaches("172.16.8.81");
    gw.stop();
}

fn networks_of_the_peer_become_routes(world: &World) {
    let pair = Pair::new(world);
    pair.tell(None, None);
    pair.plain.node.ok("ip addr add 192.168.77.1/24 dev lo");
    let gw =
        pair.up("allowed_ips = [\"172.16.8.80/29\", \"192.168.77.0/24\"]\nendpoint = \"10.99.0.80:51820\"");
    assert_eq!(pair.node.json("ip -j route get 192.168.77.1")[0]["dev"], "Overlay");
    pair.node.reaches("192.168.77.1");
    gw.stop();
    assert_eq!(pair.node.ok("ip route show 192.168.77.0/24"), "");
}

fn foreign_sources_of_the_peer_are_dropped(world: &World) {
    use overlay_tests::packet::{Ear, Forger, Packet};
    let pair = Pair::new(world);
    pair.tell(None, None);
    let gw = pair.up(BOTH);
    pair.node.reaches("172.16.8.81");
    let ear = Ear::new(&pair.node);
    let target = Ipv4Addr::new(172, 16, 8, 57);
    let forger = Forger::new(&pair.plain.node, "wg0");
    for source in ["172.16.8.57", "172.16.8.56", "172.16.8.73", "10.99.0.56"] {
        for _ in 0..10 {
            forger.send(&Packet::icmp(source.parse().unwrap(), target, 8, 0, &[0x77, 1, 0, 1]));
        }
    }
    until("they are counted", || gw.drops("foreign_source") >= 40);
    assert!(
        ear.hear(Duration::from_millis(300), |heard| heard.kind == 8 && heard.quote.is_empty()).is_none()
    );
    gw.stop();
}

fn rekey_goes_unnoticed(world: &World) {
    let pair = Pair::new(world);
    pair.tell(None, None);
    let gw = pair.up(BOTH);
    pair.node.reaches("172.16.8.81");
    let first = pair.plain.latest_handshake(&pair.keys.public);
    let to = |last| SocketAddrV4::new(Ipv4Addr::new(172, 16, 8, last), 3343);
    let there = Flow::start(&pair.node, None, &pair.plain.node, to(81), 20);
    let back = Flow::start(&pair.plain.node, None, &pair.node, to(57), 20);
    let start = Instant::now();
    until_in(Duration::from_secs(260), "more than REJECT_AFTER_TIME passes", || {
        std::thread::sleep(Duration::from_secs(1));
        start.elapsed() > Duration::from_secs(200)
    });
    let last = pair.plain.latest_handshake(&pair.keys.public);
    assert!(last >= first + 100, "there was another handshake: {first} {last}");
    assert!(gw.status().handshake_age("plain").unwrap() < 130.0);
    for (name, flow) in [("there", there), ("back", back)] {
        let tally = flow.stop();
        println!(
            "{name}: {} sent, {} lost, longest gap {:?}",
            tally.sent,
            tally.lost.len(),
            tally.longest_gap
        );
        tally.nothing_lost();
    }
    gw.stop();
}

fn silent_peer_is_tried_again_after_minutes(world: &World) {
    let pair = Pair::new(world);
    // wireguard-go knows nobody yet: every initiation is met with silence, for longer than boringtun's 90 s of attempts.
    let gw = pair.up(&format!("{BOTH}\npersistent_keepalive = 5"));
    let start = Instant::now();
    until_in(Duration::from_secs(180), "two minutes pass", || {
        std::thread::sleep(Duration::from_secs(1));
        assert!(!gw.status().session("plain"));
        start.elapsed() > Duration::from_secs(120)
    });
    pair.tell(None, None);
    gw.wait_session_in(Duration::from_secs(90), "plain");
    pair.node.reaches("172.16.8.81");
    gw.stop();
}
