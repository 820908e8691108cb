//! Three nodes and a hub: who reaches whom, with which programs, and who may send what.

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::harness::{Case, full};
use overlay_tests::iperf3::Iperf3;
use overlay_tests::keys::Keys;
use overlay_tests::overlay::{HUB, Overlay, PORT};
use overlay_tests::packet::{Ear, Forger, Packet};
use overlay_tests::wait::{holds_for, until};
use overlay_tests::wireguard::{Peer, WireGuard};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, nodes_reach_each_other_and_each_others_gateways),
        case!(functional, curl_fetches_a_large_file_unharmed),
        case!(functional, iperf3_runs_both_ways),
        case!(functional, several_queues_carry_several_streams_and_a_restart_may_change_their_number),
        case!(functional, own_connections_come_from_the_nodes_address),
        case!(functional, status_tells_the_state_of_sessions),
        case!(functional, status_of_a_hub_lists_its_members),
        case!(functional, dns_server_behind_a_plain_member_is_reached_through_a_route),
        case!(functional, networks_behind_a_hub_become_routes),
        case!(functional, forged_sources_of_a_node_are_dropped_and_counted),
        case!(functional, foreign_sources_of_a_plain_member_are_dropped_by_the_hub),
        case!(functional, stranger_with_an_unknown_key_gets_no_session),
        case!(functional, packs_of_plan_make_a_working_overlay),
    ]
}

fn nodes_reach_each_other_and_each_others_gateways(world: &World) {
    let overlay = Overlay::started(world, &[56, 64, 72]);
    for from in &overlay.nodes {
        for to in &overlay.nodes {
            from.node.reaches(to.address());
            from.node.reaches(to.at(2));
            from.node.reaches(to.gateway_address());
        }
    }
    // Everything that was refused or dropped on the way would be counted.
    for member in overlay.nodes.iter().chain([&overlay.hub]) {
        let status = member.gw().status();
        assert_eq!(status.drops("foreign_source"), 0, "{}: {:#}", member.name, status.0);
        assert_eq!(status.state(), "ok", "{}: {:#}", member.name, status.0);
    }
}

fn curl_fetches_a_large_file_unharmed(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (client, server) = (overlay.node(56), overlay.node(64));
    let dir = server.node.path("www");
    fs::create_dir_all(&dir).unwrap();
    let mut file = fs::File::create(dir.join("file")).unwrap();
    // Numbers in sequence, hashed: no two blocks are equal, so none can take the place of another.
    let mut block = vec![0_u8; 1 << 20];
    for number in 0..100_u64 {
        let mut state = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        file.write_all(&block).unwrap();
    }
    let port = 8080;
    let serve =
        format!("python3 -m http.server {port} --bind {} --directory {}", server.address(), dir.display());
    let _serving = server.node.spawn("http", &serve);
    let url = format!("http://{}:{port}/file", server.address());
    until("the server listens", || server.node.ok("ss -Htln").contains(&format!(":{port} ")));
    let copy = client.node.path("copy");
    let fetch = format!("curl -sS --fail --max-time 150 -o {} {url}", copy.display());
    client.node.run_in(Duration::from_secs(160), &fetch).ok();
    let hash = |path: &std::path::Path| {
        client.node.ok(&format!("sha256sum {}", path.display())).split_whitespace().next().map(str::to_owned)
    };
    assert_eq!(hash(&dir.join("file")), hash(&copy));
    fs::remove_dir_all(&dir).unwrap();
    fs::remove_file(&copy).unwrap();
}

fn iperf3_runs_both_ways(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (client, server) = (overlay.node(56), overlay.node(64));
    let mut iperf3 = Iperf3::serve(&server.node);
    let seconds = if full() { 10 } else { 3 };
    for way in ["", "-R"] {
        let done = iperf3.run(&client.node, &format!("-t {seconds} {way}"), &server.address());
        let bits = done["end"]["sum_received"]["bits_per_second"].as_f64().unwrap();
        println!("iperf3 {way}: {:.0} Mbit/s", bits / 1e6);
        assert!(bits > 1e6, "{done:#}");
    }
}

fn several_queues_carry_several_streams_and_a_restart_may_change_their_number(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    overlay.node_mut(56).file.line("[device]", "queues = 3");
    overlay.start();
    overlay.wait_sessions();
    let sockets =
        |overlay: &Overlay| overlay.node(56).node.ok(&format!("ss -Huln4 sport = :{PORT}")).lines().count();
    assert_eq!(sockets(&overlay), 3, "a socket for each queue");
    let server = overlay.node(64);
    let mut iperf3 = Iperf3::serve(&server.node);
    for way in ["", "-R"] {
        let done = iperf3.run(&overlay.node(56).node, &format!("-t 2 -P 8 {way}"), &server.address());
        for stream in done["end"]["streams"].as_array().unwrap() {
            assert!(stream["receiver"]["bytes"].as_u64().unwrap() > 100_000, "{stream:#}");
        }
    }
    // Killed, and with another number of queues in its file, it adopts the device that the kernel has kept.
    overlay.node_mut(56).take().kill();
    overlay.node_mut(56).file.replace("queues", "queues = 1");
    overlay.node_mut(56).start();
    assert_eq!(overlay.node(56).gw().status().0["device"]["adopted"], true);
    assert_eq!(sockets(&overlay), 1);
    overlay.node(56).gw().wait_session(HUB);
    overlay.node(56).node.reaches(overlay.node(64).address());
}

fn own_connections_come_from_the_nodes_address(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let node = &overlay.node(56).node;
    let source = |target: &str| node.json(&format!("ip -j route get {target}"))[0]["prefsrc"].clone();
    assert_eq!(source("172.16.8.65"), "172.16.8.57");
    overlay.node(56).gw().client("listener add 172.16.8.59").exits(0);
    node.ok("ip addr add 172.16.8.60/29 dev Overlay");
    assert_eq!(source("172.16.8.65"), "172.16.8.57", "still, with listeners");
    assert_eq!(source("172.16.8.56"), "172.16.8.57", "to the gateway as well");
    let ear = Ear::new(&overlay.node(64).node);
    node.reaches("172.16.8.65");
    let heard = ear.hear(Duration::from_secs(5), |heard| heard.kind == 8).expect("the echo request");
    assert_eq!(heard.from, Ipv4Addr::new(172, 16, 8, 57));
}

fn status_tells_the_state_of_sessions(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    overlay.node_mut(56).start();
    let gw = overlay.node(56).gw();
    assert_eq!(gw.client("status --json").exits(2).json()["state"], "down", "the hub is not there yet");
    gw.client("status").exits(2);
    overlay.hub.start();
    let gw = overlay.node(56).gw();
    gw.wait_session(HUB);
    let shown = gw.client("status --json").exits(0).json();
    assert_eq!(shown["state"], "ok");
    let peer = &shown["peers"][0];
    assert_eq!(peer["name"], HUB);
    assert_eq!(peer["kind"], "hub");
    assert_eq!(peer["public_key"], overlay.hub.keys.public.as_str());
    assert_eq!(peer["endpoint"], format!("{}:{PORT}", overlay.hub.node.ipv4()));
    assert_eq!(peer["session"], true);
    assert!(peer["handshake_age_s"].as_f64().is_some(), "{peer:#}");
    for count in ["rx_bytes", "tx_bytes", "rx_packets", "tx_packets"] {
        assert!(peer[count].is_u64(), "{count}: {peer:#}");
    }
    // A second hub that nobody plays: some session, but not all.
    let absent = Keys::new();
    let member = overlay.node_mut(56);
    member.file.section(
        "[[hubs]]",
        &[
            "name = \"hub-b\"",
            &format!("public_key = \"{}\"", absent.public),
            "endpoint = \"10.99.0.2:51820\"",
        ],
    );
    member.write();
    member.gw().client("reload").exits(0);
    let shown = member.gw().client("status --json").exits(1).json();
    assert_eq!(shown["state"], "degraded");
}

fn status_of_a_hub_lists_its_members(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    overlay.node(56).node.reaches("172.16.8.65");
    let shown = overlay.hub.gw().client("status --json").exits(0).json();
    assert_eq!(shown["role"], "hub");
    assert_eq!(shown["name"], HUB);
    assert_eq!(shown["instance"], HUB);
    assert_eq!(shown["overlay"], "172.16.8.0/24");
    let peers = shown["peers"].as_array().unwrap();
    assert_eq!(peers.len(), 2, "{shown:#}");
    for peer in peers {
        assert_eq!(peer["kind"], "node", "{peer:#}");
        assert!(
            peer["rx_packets"].as_u64().unwrap() > 0 && peer["tx_packets"].as_u64().unwrap() > 0,
            "{peer:#}"
        );
        assert!(peer["endpoint"].as_str().unwrap().starts_with("10.99.0."), "{peer:#}");
    }
    assert!(!overlay.hub.node.has_link("Overlay"), "a hub has no adapter");
}

/// A plain WireGuard member of the hub that owns 172.16.0.0/24, where the domain controllers of the recipe are.
fn domain_controller(world: &World, overlay: &mut Overlay) -> WireGuard {
    let keys = Keys::new();
    overlay.hub.file.section(
        "[[peers]]",
        &["name = \"dc\"", &format!("public_key = \"{}\"", keys.public), "allowed_ips = [\"172.16.0.0/24\"]"],
    );
    let dc = WireGuard::start(&world.node("dc", 20), keys, "172.16.0.1/24");
    dc.peer(&Peer {
        public: &overlay.hub.keys.public,
        allowed_ips: "172.16.8.0/24",
        endpoint: Some(format!("{}:{PORT}", overlay.hub.node.ipv4())),
        keepalive: 5,
        ..Peer::default()
    });
    dc
}

fn dns_server_behind_a_plain_member_is_reached_through_a_route(world: &World) {
    let mut overlay = Overlay::plan(world, &[56, 64]);
    let dc = domain_controller(world, &mut overlay);
    for slot in [56, 64] {
        let file = &mut overlay.node_mut(slot).file;
        file.line("[overlay]", "routes = [{ cidr = \"172.16.0.0/24\", via = \"hub-a\" }]");
        file.line("[overlay]", "dns = [\"172.16.0.1\"]");
    }
    overlay.start();
    overlay.hub.gw().wait_session("dc");
    let _dns = dc.node.spawn(
        "dnsmasq",
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root --pid-file= \
         --bind-interfaces --listen-address=172.16.0.1 --address=/cluster.example/172.16.8.59",
    );
    until("the DNS server listens", || dc.node.ok("ss -Huln").contains("172.16.0.1:53"));
    for slot in [56, 64] {
        let member = overlay.node(slot);
        let answer = member.node.ok("dig +short +tries=5 +time=3 @172.16.0.1 cluster.example A");
        assert_eq!(answer.trim(), "172.16.8.59");
        let answer = member.node.ok("dig +short +tcp +tries=5 +time=3 @172.16.0.1 cluster.example A");
        assert_eq!(answer.trim(), "172.16.8.59", "over TCP");
        member.node.reaches("172.16.0.1");
        dc.node.reaches(member.address());
    }
}

fn networks_behind_a_hub_become_routes(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    let dc = domain_controller(world, &mut overlay);
    overlay.node_mut(56).file.line("[[hubs]]", "allowed_ips = [\"172.16.0.0/24\"]");
    overlay.start();
    overlay.hub.gw().wait_session("dc");
    let node = overlay.node(56).node.clone();
    assert_eq!(node.json("ip -j route get 172.16.0.1")[0]["dev"], "Overlay");
    assert_eq!(node.json("ip -j route get 172.16.0.1")[0]["prefsrc"], "172.16.8.57");
    node.reaches("172.16.0.1");
    overlay.node_mut(56).take().stop();
    assert_eq!(node.ok("ip route show 172.16.0.0/24"), "", "the route went with us");
    drop(dc);
}

fn forged_sources_of_a_node_are_dropped_and_counted(world: &World) {
    let overlay = Overlay::started(world, &[56, 64]);
    let (node, victim) = (overlay.node(56), overlay.node(64));
    node.node.reaches(victim.address());
    let ear = Ear::new(&victim.node);
    let forger = Forger::new(&node.node, "Overlay");
    let target: Ipv4Addr = victim.address().parse().unwrap();
    let before = node.gw().drops("foreign_source");
    let echo = |source: &str| Packet::icmp(source.parse().unwrap(), target, 8, 0, &[0x77, 1, 0, 1]);
    let forged = ["172.16.8.66", "172.16.8.73", "172.16.8.64", "10.99.0.56", "172.16.0.1", "127.0.0.1"];
    for source in forged {
        for _ in 0..10 {
            forger.send(&echo(source));
        }
    }
    // The gateway's own address is nobody's: no local process speaks as a gateway.
    forger.send(&echo("172.16.8.56"));
    until("all of them are counted", || node.gw().status().all_drops() >= before + 61);
    let counted = node.gw().drops("foreign_source") - before;
    assert!(counted >= 50, "{counted} of 61 as foreign_source: {:#}", node.gw().status().0["drops"]);
    // An honest packet sent after them arrives; none of them did.
    forger.send(&echo("172.16.8.57"));
    let heard = ear.hear_all(Duration::from_secs(1), |heard| heard.kind == 8 && heard.quote.is_empty());
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].from, Ipv4Addr::new(172, 16, 8, 57));
    // Any address of the slot may be used, whoever put it there.
    node.node.ok("ip addr add 172.16.8.61/29 dev Overlay");
    until("its own address is good as a source", || node.node.pings("-I 172.16.8.61 172.16.8.65"));
}

fn foreign_sources_of_a_plain_member_are_dropped_by_the_hub(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    let plain = overlay.add_plain_member(world, 0);
    overlay.start();
    plain.node.reaches("172.16.8.57");
    let ear = Ear::new(&overlay.node(56).node);
    let target = Ipv4Addr::new(172, 16, 8, 57);
    let before = overlay.hub.gw().drops("foreign_source");
    let forger = Forger::new(&plain.node, "wg0");
    for source in ["172.16.8.57", "172.16.8.64", "172.16.0.1", "10.99.0.20", "172.16.8.88"] {
        for _ in 0..10 {
            forger.send(&Packet::icmp(source.parse().unwrap(), target, 8, 0, &[0x77, 1, 0, 1]));
        }
    }
    until("the hub counts them", || overlay.hub.gw().drops("foreign_source") >= before + 50);
    forger.send(&Packet::icmp(Ipv4Addr::new(172, 16, 8, 81), target, 8, 0, &[0x77, 1, 0, 1]));
    let heard = ear.hear_all(Duration::from_secs(1), |heard| heard.kind == 8 && heard.quote.is_empty());
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!(heard[0].from, Ipv4Addr::new(172, 16, 8, 81));
}

fn stranger_with_an_unknown_key_gets_no_session(world: &World) {
    let overlay = Overlay::started(world, &[56]);
    let stranger = WireGuard::start(&world.node("stranger", 20), Keys::new(), "172.16.8.81/29");
    stranger.peer(&Peer {
        public: &overlay.hub.keys.public,
        allowed_ips: "172.16.8.0/24",
        endpoint: Some(format!("{}:{PORT}", overlay.hub.node.ipv4())),
        keepalive: 1,
        ..Peer::default()
    });
    holds_for(Duration::from_secs(6), "no handshake", || {
        stranger.latest_handshake(&overlay.hub.keys.public) == 0
            && overlay.node(56).gw().status().session(HUB)
    });
    assert!(overlay.hub.gw().status().all_drops() > 0, "it is counted: {:#}", overlay.hub.gw().status().0);
}

fn packs_of_plan_make_a_working_overlay(world: &World) {
    use overlay_tests::gateway::{Gateway, client};
    let hub = world.node("hub-a", 1);
    let one = world.node("cluster-1", 56);
    let two = world.node("cluster-2", 64);
    let packs = world.path("packs");
    let line = format!(
        "plan --overlay 172.16.8.0/24 --node cluster-1=56 --node cluster-2=64 --hub hub-a=10.99.0.1:51820 \
         --route 172.16.0.0/24=hub-a --dns 172.16.0.1 --out {}",
        packs.display()
    );
    client(&hub, &line).exits(0);
    let files = hub.ok(&format!("find {} -type f -printf %m:%P\\n", packs.display()));
    println!("{files}");
    assert!(files.lines().all(|file| file.starts_with("600:")), "nobody else may read a pack:\n{files}");
    let again = client(&hub, &line).exits(4);
    assert!(!again.stderr.is_empty(), "it refuses to overwrite");
    let config = |name: &str| {
        let found = hub.ok(&format!("find {} -path *{name}*.toml", packs.display()));
        let path = found.lines().next().unwrap_or_else(|| panic!("a pack for {name}:\n{files}"));
        std::path::PathBuf::from(path)
    };
    let hub = Gateway::hub(&hub, &config("hub-a"));
    let first = Gateway::up(&one, &config("cluster-1"));
    let second = Gateway::up(&two, &config("cluster-2"));
    first.wait_session(HUB);
    second.wait_session(HUB);
    one.reaches("172.16.8.65");
    two.reaches("172.16.8.57");
    first.stop();
    second.stop();
    hub.stop();
}
