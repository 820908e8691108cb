//! The Linux leaf on the real kernel, each test in a network namespace of its own. Needs root; says so and passes
//! without it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

mod interrupted;
mod super_packets;
mod trains;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    process::Command,
    time::{Duration, Instant},
};

use interrupted::{Interrupted, Kill};
use ipnet::Ipv4Net;
use overlay_engine::packet::{DatagramBatch, PacketBatch};
use overlay_platform::{
    Device, DeviceError, DeviceSpec, HostError, HostNet, Layer, Opened, Outcome, Transport,
    change::{Change, DesiredHost, intended},
    os::{
        DeviceState, DeviceWatch, LinuxHost, TunDevice, UdpTransport, Waker, boot_id, idle_queue,
        link::{self, End},
        netns,
        resolved::BusAddress,
        wait_readable,
    },
    record::Record,
    settle::{add, clear, settle},
};

#[test]
fn a_queue_that_is_switched_off_keeps_the_carrier_and_takes_no_packet() {
    world(async || {
        let host = LinuxHost::connect("Overlay", BusAddress::System).unwrap();
        let opened = TunDevice::open(&spec(Layer::Tun), &host).await.unwrap();
        for change in [
            Change::LinkUp,
            Change::Sysctl { name: "ipv6.disable_ipv6".into(), value: "1".into() },
            Change::Address { net: "172.16.8.57/29".parse().unwrap() },
        ] {
            host.apply(&change).await.unwrap();
        }
        let carrier = || ip("link show dev Overlay").contains("LOWER_UP");
        let held = idle_queue(&opened.device).unwrap();
        drop(opened);
        assert!(carrier(), "somebody holds it");
        assert!(!host.device().await.unwrap().unwrap().attached, "and nobody is at work");
        // The next one is not kept out, and gets every packet: the held queue takes none.
        let opened = TunDevice::open(&spec(Layer::Tun), &host).await.unwrap();
        assert!(opened.adopted);
        let sender = UdpSocket::bind("172.16.8.57:0").unwrap();
        for port in 0..64 {
            sender.send_to(b"x", ("172.16.8.60", 1000 + port)).unwrap();
        }
        let (mut batch, mut got) = (PacketBatch::with_capacity(1 << 20, 128), 0);
        while opened.device.read_batch(&mut batch).unwrap() > 0 {
            got += batch.len();
            batch.clear();
        }
        assert_eq!(got, 64);
        drop(opened);
        assert!(carrier());
        drop(held);
        assert!(!carrier(), "nobody is left");
    });
}

/// Runs `test` in a namespace of its own, on a thread of its own.
fn world(test: impl AsyncFnOnce() + Send) {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: needs root for network namespaces");
        return;
    }
    let namespace = netns::create().unwrap();
    netns::run_in(namespace, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(test());
        Ok(())
    })
    .unwrap();
}

/// Plays another program of the host.
fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "ip {arguments}: {}", text(&output.stderr));
    text(&output.stdout)
}

fn spec(layer: Layer) -> DeviceSpec {
    let mac = (layer == Layer::Tap).then_some([2, 0, 0, 0, 8, 57]);
    DeviceSpec { name: "Overlay".into(), layer, mac, mtu: 1420, offload: true, guid: 0, recorded_index: None }
}

/// A bus that nobody serves: no resolved, as on most servers.
fn no_bus() -> BusAddress {
    BusAddress::At("unix:path=/nonexistent/bus".into())
}

fn host() -> LinuxHost {
    LinuxHost::connect("Overlay", no_bus()).unwrap()
}

async fn open(layer: Layer) -> Result<Opened<TunDevice>, DeviceError> {
    TunDevice::open(&spec(layer), &host()).await
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn desired() -> DesiredHost {
    let own = |last| Ipv4Addr::new(172, 16, 8, last);
    DesiredHost {
        slot: net("172.16.8.56/29"),
        gateway: own(56),
        address: own(57),
        client_access: own(58),
        overlay: net("172.16.8.0/24"),
        routes: vec![net("172.16.0.0/24")],
        dns: vec![],
        mtu: 1420,
        windows: overlay_config::Windows::default(),
    }
}

/// What `ip` shows of addresses and routes.
fn picture() -> String {
    ip("-4 addr") + &ip("-4 route show table all")
}

fn wait_for(fd: impl AsFd) {
    let ready = wait_readable(&[fd.as_fd()], &Waker::new().unwrap(), Some(Duration::from_secs(2)));
    assert!(ready.unwrap().is_readable(0), "nothing came");
}

#[test]
fn a_device_is_made_survives_its_process_and_is_adopted() {
    for layer in [Layer::Tun, Layer::Tap] {
        world(async move || {
            let first = open(layer).await.unwrap();
            assert!(!first.adopted);
            let facts = host().device().await.unwrap().unwrap();
            assert!(facts.marked && facts.kind == layer.to_string(), "{facts:?}");
            assert_eq!(facts.ifindex, first.identity.ifindex);
            assert!(matches!(open(layer).await, Err(DeviceError::Busy { .. })));
            drop(first);
            assert_eq!(host().device().await.unwrap().unwrap().ifindex, facts.ifindex);
            let second = open(layer).await.unwrap();
            assert!(second.adopted);
            assert_eq!(second.identity.ifindex, facts.ifindex);
            if layer == Layer::Tap {
                assert_eq!(host().device().await.unwrap().unwrap().mac, [2, 0, 0, 0, 8, 57]);
            }
            assert!(host().delete_device().await.unwrap());
            assert!(!host().delete_device().await.unwrap());
        });
    }
}

#[test]
fn a_device_of_another_kind_mode_or_owner_is_left_alone() {
    world(async || {
        for (kind, add) in
            [("veth", "link add Overlay type veth peer name other"), ("tap", "tuntap add Overlay mode tap")]
        {
            ip(add);
            let error = open(Layer::Tun).await.unwrap_err();
            assert!(matches!(&error, DeviceError::Foreign { kind: k, .. } if k == kind), "{error}");
            ip("link delete Overlay");
        }
        ip("tuntap add Overlay mode tun");
        assert!(matches!(open(Layer::Tun).await, Err(DeviceError::NotOurs { .. })));
        let ifindex = host().device().await.unwrap().unwrap().ifindex;
        let recorded = DeviceSpec { recorded_index: Some(ifindex), ..spec(Layer::Tun) };
        assert!(TunDevice::open(&recorded, &host()).await.unwrap().adopted);
        assert!(host().device().await.unwrap().unwrap().marked);
    });
}

#[test]
fn packets_pass_the_device_both_ways_from_the_overlay_address() {
    world(async || {
        let device = open(Layer::Tun).await.unwrap().device;
        let host = host();
        for change in intended(&desired()) {
            assert_ne!(host.apply(&change).await.unwrap(), Outcome::NoResolved);
        }
        let socket = UdpSocket::bind("0.0.0.0:4000").unwrap();
        for last in [65, 73] {
            socket.send_to(b"to a peer", (Ipv4Addr::new(172, 16, 8, last), 5000)).unwrap();
        }
        socket.send_to(b"to the controller", "172.16.0.1:53").unwrap();
        wait_for(&device);
        let mut batch = PacketBatch::with_capacity(64 << 10, 16);
        assert_eq!(device.read_batch(&mut batch).unwrap(), 3);
        for ((_, packet), to) in batch.iter().zip([[172, 16, 8, 65], [172, 16, 8, 73], [172, 16, 0, 1]]) {
            assert_eq!((&packet[12..16], &packet[16..20]), (&[172, 16, 8, 57][..], &to[..]));
        }
        assert_eq!(device.read_batch(&mut batch).unwrap(), 0);
        // The same packets come back as if a peer had sent them.
        let mut back = PacketBatch::with_capacity(64 << 10, 16);
        for (_, packet) in batch.iter().take(1) {
            let mut reply = packet.to_vec();
            reply[12..16].copy_from_slice(&packet[16..20]);
            reply[16..20].copy_from_slice(&packet[12..16]);
            reply[20..22].copy_from_slice(&packet[22..24]);
            reply[22..24].copy_from_slice(&packet[20..22]);
            assert!(back.push((), &reply));
        }
        assert!(back.push((), b"\x00 no packet"));
        assert_eq!(device.write_batch(&back).unwrap(), 1);
        assert_eq!(device.drops().not_taken, 1);
        let mut buffer = [0; 64];
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let (len, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..len], from), (&b"to a peer"[..], "172.16.8.65:5000".parse().unwrap()));
        // Somebody raises the MTU: what we cannot read whole is dropped and counted, never cut.
        ip("link set Overlay mtu 3000");
        socket.send_to(&[0; 2500], "172.16.8.65:5000").unwrap();
        socket.send_to(b"small", "172.16.8.65:5000").unwrap();
        batch.clear();
        wait_for(&device);
        assert_eq!((device.read_batch(&mut batch).unwrap(), device.drops().too_big), (1, 1));
        ip("link delete Overlay");
        wait_for(&device);
        assert!(device.read_batch(&mut batch).is_err());
        assert!(device.write_batch(&back).is_err());
    });
}

#[test]
fn the_host_is_as_before_after_clear_and_its_own_default_route_always_wins() {
    world(async || {
        ip("link add uplink type veth peer name other");
        ip("link set other up");
        ip("addr add 192.0.2.1/24 dev uplink");
        ip("link set uplink up");
        ip("route add default via 192.0.2.254");
        let (before, dir) = (picture(), tempfile::tempdir().unwrap());
        let boot = boot_id().unwrap();
        for _ in 0..2 {
            let opened = open(Layer::Tun).await.unwrap();
            let mut record = Record::open(dir.path(), &boot, &opened.identity).unwrap();
            let settled = settle(&host(), &mut record, &intended(&desired())).await.unwrap();
            assert_eq!(settled.found, []);
            assert!(ip("route get 198.51.100.1").contains("via 192.0.2.254"));
            let route = ip("route get 172.16.0.1");
            assert!(route.contains("via 172.16.8.56 dev Overlay src 172.16.8.57"), "{route}");
            assert!(ip("route get 172.16.8.65").contains("dev Overlay src 172.16.8.57"));
            let default = ip("route show default dev Overlay");
            assert!(
                default.contains("via 172.16.8.56 proto static src 172.16.8.57 metric 9999"),
                "{default}"
            );
            assert_eq!(ip("-6 addr show dev Overlay"), "");
            assert_eq!(
                host().device_addresses().await.unwrap(),
                [net("172.16.8.57/29"), net("172.16.8.58/29")]
            );
            assert!(host().addresses().await.unwrap().contains(&("uplink".into(), net("192.0.2.1/24"))));
            // Settling again finds everything in place.
            let again = settle(&host(), &mut record, &intended(&desired())).await.unwrap();
            assert_eq!(again, overlay_platform::settle::Settled::default());
            drop(opened);
            let record = Record::load(dir.path()).unwrap();
            let cleared = clear(&host(), record, &boot).await.unwrap();
            assert!(cleared.device_removed && cleared.removed.len() == 5, "{cleared:?}");
            assert_eq!(picture(), before);
        }
    });
}

#[test]
fn foreign_addresses_survive_kill_at_every_step_and_keep_the_device() {
    for kill in [Kill::Before, Kill::After] {
        world(async move || {
            for steps in 0..13 {
                let (dir, boot) = (tempfile::tempdir().unwrap(), boot_id().unwrap());
                let opened = open(Layer::Tun).await.unwrap();
                let identity = opened.identity.clone();
                ip("addr add 172.16.8.60/29 dev Overlay");
                ip("addr add 172.16.8.61/32 dev Overlay");
                let real = host();
                let dying = Interrupted::after(&real, steps, kill);
                let mut record = Record::open(dir.path(), &boot, &identity).unwrap();
                _ = dying.run(settle(&dying, &mut record, &intended(&desired()))).await;
                drop((record, opened));
                // Every second time the next start completes it; then `down` dies on the way, and is done again.
                if steps % 2 == 0 {
                    let opened = open(Layer::Tun).await.unwrap();
                    assert!(opened.adopted);
                    let mut record = Record::open(dir.path(), &boot, &opened.identity).unwrap();
                    settle(&real, &mut record, &intended(&desired())).await.unwrap();
                    assert_eq!(real.device_addresses().await.unwrap().len(), 4);
                    add(&real, &mut record, &Change::Address { net: net("172.16.8.59/29") }).await.unwrap();
                }
                let dying = Interrupted::after(&real, steps / 2, kill);
                _ = dying.run(clear(&dying, Record::load(dir.path()).unwrap(), &boot)).await;
                let cleared = clear(&real, Record::load(dir.path()).unwrap(), &boot).await.unwrap();
                assert!(!cleared.device_removed);
                let mut held = real.device_addresses().await.unwrap();
                held.sort();
                assert_eq!(held, [net("172.16.8.60/29"), net("172.16.8.61/32")], "steps {steps}");
                let routes = ip("route show dev Overlay");
                assert!(!routes.contains("172.16.8.0/24") && !routes.contains("default"), "{routes}");
                ip("link delete Overlay");
            }
        });
    }
}

#[test]
fn an_address_that_came_after_ours_survives_them_even_if_promotion_was_switched_off() {
    world(async || {
        let (opened, dir) = (open(Layer::Tun).await.unwrap(), tempfile::tempdir().unwrap());
        let mut record = Record::open(dir.path(), "boot", &opened.identity).unwrap();
        settle(&host(), &mut record, &intended(&desired())).await.unwrap();
        let setting = "/proc/sys/net/ipv4/conf/Overlay/promote_secondaries";
        assert_eq!(std::fs::read_to_string(setting).unwrap(), "1\n");
        ip("addr add 172.16.8.60/29 dev Overlay");
        std::fs::write(setting, "0").unwrap();
        let cleared = clear(&host(), Some(record), "boot").await.unwrap();
        assert_eq!(cleared.kept, [net("172.16.8.60/29")]);
        assert_eq!(host().device_addresses().await.unwrap(), [net("172.16.8.60/29")]);
        // The next start adopts it; what the cluster takes away and our own addresses go their own ways.
        drop(opened);
        let opened = open(Layer::Tun).await.unwrap();
        assert!(opened.adopted);
        let mut record = Record::open(dir.path(), "boot", &opened.identity).unwrap();
        let settled = settle(&host(), &mut record, &intended(&desired())).await.unwrap();
        assert_eq!(settled.found, []);
        ip("addr delete 172.16.8.60/29 dev Overlay");
        assert_eq!(host().device_addresses().await.unwrap(), [net("172.16.8.57/29"), net("172.16.8.58/29")]);
        assert!(ip("route get 172.16.8.65").contains("src 172.16.8.57"));
        assert!(clear(&host(), Some(record), "boot").await.unwrap().device_removed);
    });
}

#[test]
fn a_route_that_another_interface_has_is_named_and_nothing_is_recorded_of_it() {
    world(async || {
        ip("link add uplink type veth peer name other");
        ip("link set other up");
        ip("link set uplink up");
        ip("route add 172.16.8.0/24 dev uplink");
        let (opened, dir) = (open(Layer::Tun).await.unwrap(), tempfile::tempdir().unwrap());
        let mut record = Record::open(dir.path(), "boot", &opened.identity).unwrap();
        let error = settle(&host(), &mut record, &intended(&desired())).await.unwrap_err().to_string();
        assert!(error.contains("172.16.8.0/24") && error.contains("uplink"), "{error}");
        assert_eq!(record.entries().len(), 2, "the two addresses: {:?}", record.entries());
        clear(&host(), Some(record), "boot").await.unwrap();
        assert!(ip("route").contains("172.16.8.0/24 dev uplink"));
    });
}

#[test]
fn without_resolved_the_dns_servers_are_reported_and_not_recorded() {
    world(async || {
        let (opened, dir) = (open(Layer::Tun).await.unwrap(), tempfile::tempdir().unwrap());
        let mut record = Record::open(dir.path(), "boot", &opened.identity).unwrap();
        let dns = Change::Dns { servers: vec![Ipv4Addr::new(172, 16, 0, 1)] };
        let settled = settle(&host(), &mut record, std::slice::from_ref(&dns)).await.unwrap();
        assert_eq!(settled.no_resolved, Some(dns));
        assert_eq!(record.entries(), []);
    });
}

#[test]
fn what_needs_a_device_says_that_there_is_none() {
    world(async || {
        for change in intended(&desired()) {
            let error = host().apply(&change).await.unwrap_err();
            assert!(matches!(error, HostError::NoDevice { .. }), "{error}");
        }
    });
}

#[test]
fn a_change_that_the_caller_saw_and_that_is_undone_at_once_is_told() {
    world(async || {
        let opened = open(Layer::Tun).await.unwrap();
        let mut watch = DeviceWatch::new("Overlay").unwrap();
        let before = watch.next().await.unwrap();
        ip("addr add 172.16.8.60/29 dev Overlay");
        watch.learnt(DeviceState::Present {
            ifindex: opened.identity.ifindex,
            up: false,
            addresses: host().device_addresses().await.unwrap(),
        });
        ip("addr del 172.16.8.60/29 dev Overlay");
        let told = tokio::time::timeout(Duration::from_secs(2), watch.next()).await;
        assert_eq!(told.expect("told").unwrap(), before);
    });
}

#[test]
fn the_watch_tells_of_foreign_addresses_and_of_all_of_a_burst() {
    world(async || {
        let mut watch = DeviceWatch::new("Overlay").unwrap();
        assert_eq!(watch.next().await.unwrap(), DeviceState::Gone);
        let opened = open(Layer::Tun).await.unwrap();
        let addresses = |state| match state {
            DeviceState::Present { addresses, .. } => addresses,
            DeviceState::Gone => panic!("gone"),
        };
        assert_eq!(addresses(watch.next().await.unwrap()), []);
        // The system tests hold the 100 ms of the contract, as a median; here it is told at all.
        ip("addr add 172.16.8.60/29 dev Overlay");
        assert_eq!(addresses(watch.next().await.unwrap()), [net("172.16.8.60/29")]);
        for last in 61..=62 {
            let change = Change::Address { net: net(&format!("172.16.8.{last}/29")) };
            host().apply(&change).await.unwrap();
        }
        while addresses(watch.next().await.unwrap()).len() < 3 {}
        // Many more than one socket buffer of messages: it still ends with the truth.
        let batch: String = (0..4000)
            .map(|n| format!("addr add 10.9.{}.{}/32 dev Overlay\n", n / 250, n % 250 + 1))
            .collect();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("batch"), batch).unwrap();
        ip(&format!("-batch {}", dir.path().join("batch").display()));
        while addresses(watch.next().await.unwrap()).len() < 4003 {}
        drop(opened);
        ip("link delete Overlay");
        while watch.next().await.unwrap() != DeviceState::Gone {}
    });
}

fn received(transport: &UdpTransport, wanted: usize) -> Vec<(SocketAddr, usize)> {
    let mut batch = DatagramBatch::with_capacity(4 << 20, 256);
    let (fds, waker): (Vec<_>, _) = (transport.fds().collect(), Waker::new().unwrap());
    while batch.len() < wanted && wait_readable(&fds, &waker, Some(Duration::from_secs(3))).unwrap().any() {
        transport.recv_batch(&mut batch).unwrap();
    }
    batch.iter().map(|(from, bytes)| (from, bytes.len())).collect()
}

#[test]
fn datagrams_cross_a_wire_in_batches_over_both_families_and_one_bad_one_ends_nothing() {
    world(async || {
        let (here, there) = (netns::current().unwrap(), netns::create().unwrap());
        let nets = |text: [&str; 2]| text.map(|net| net.parse().unwrap());
        let (left, right) =
            (nets(["192.0.2.1/24", "2001:db8::1/64"]), nets(["192.0.2.2/24", "2001:db8::2/64"]));
        link::veth(
            End { name: "wire", namespace: here.as_fd(), addresses: &left },
            End { name: "wire", namespace: there.as_fd(), addresses: &right },
        )
        .unwrap();
        link::loopback_up(here.as_fd()).unwrap();
        let near = UdpTransport::bind(None, 0).unwrap();
        assert!(near.has_ipv6() && near.local_port() != 0);
        let far = netns::run_in(there.as_fd(), || UdpTransport::bind(None, 4000)).unwrap();
        let v4: SocketAddr = "192.0.2.2:4000".parse().unwrap();
        let v6: SocketAddr = "[2001:db8::2]:4000".parse().unwrap();
        let mut batch = DatagramBatch::with_capacity(4 << 20, 256);
        for n in 0..200_usize {
            assert!(batch.push(if n % 50 < 40 { v4 } else { v6 }, &vec![7; 100 + n]));
        }
        // No route; no such datagram; and then a good one that is larger than the wire.
        assert!(batch.push("203.0.113.1:1".parse().unwrap(), b"no route"));
        assert!(batch.push(v4, &[0; 65_520]));
        assert!(batch.push(v4, &[1; 4000]));
        assert_eq!(near.send_batch(&batch).unwrap(), 201);
        let errors = near.errors();
        assert_eq!((errors.unreachable, errors.too_big), (1, 1), "{errors:?}");
        let got = received(&far, 201);
        let from = |ip: &str| SocketAddr::new(ip.parse().unwrap(), near.local_port());
        let lengths =
            |ip| got.iter().filter(|(f, _)| *f == from(ip)).map(|(_, len)| *len).collect::<Vec<_>>();
        let sent = |family: bool| (0..200).filter(move |n| (n % 50 < 40) == family).map(|n| 100 + n);
        assert_eq!(lengths("192.0.2.1"), sent(true).chain([4000]).collect::<Vec<_>>(), "in order");
        assert_eq!(lengths("2001:db8::1"), sent(false).collect::<Vec<_>>(), "in order");
        // Truncated ones are left out and counted.
        far.set_max_datagram(150);
        assert_eq!(near.send_batch(&batch).unwrap(), 201);
        assert_eq!(received(&far, 51).len(), 51);
        let mut rest = DatagramBatch::with_capacity(4 << 20, 256);
        for _ in 0..100 {
            far.recv_batch(&mut rest).unwrap();
        }
        assert_eq!(far.errors().received_bad, 150);
        // A port that is taken.
        let taken = UdpTransport::bind(None, near.local_port()).unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
        let only = UdpTransport::bind(Some("192.0.2.1".parse().unwrap()), 0).unwrap();
        let mut batch = DatagramBatch::with_capacity(1 << 10, 4);
        assert!(batch.push(v6, b"x"));
        assert_eq!((only.send_batch(&batch).unwrap(), only.errors().no_socket), (0, 1));
        // The wire is down.
        link::set_up(there.as_fd(), "wire", false).unwrap();
        link::set_up(here.as_fd(), "wire", false).unwrap();
        batch.clear();
        assert!(batch.push(v4, b"x"));
        assert_eq!((near.send_batch(&batch).unwrap(), near.errors().unreachable), (0, 3));
    });
}

#[test]
fn a_device_has_as_many_queues_as_are_opened_whatever_the_last_start_had() {
    world(async || {
        for count in [1_usize, 3, 2] {
            let opened = TunDevice::open(&spec(Layer::Tun), &host()).await.unwrap();
            let mut queues = vec![opened.device];
            while queues.len() < count {
                let queue = queues[0].add_queue().unwrap();
                assert_eq!(queue.has_offload(), queues[0].has_offload());
                queues.push(queue);
            }
            if !opened.adopted {
                ip("addr add 172.16.8.57/29 dev Overlay");
                ip("link set Overlay up");
                ip("route add 172.16.8.0/24 dev Overlay");
            }
            // Forty flows of three datagrams: each flow on one queue, in order, and all of them there.
            let socket = std::net::UdpSocket::bind("172.16.8.57:0").unwrap();
            for n in 0..3_u8 {
                for port in 5000..5040 {
                    socket.send_to(&[n; 8], ("172.16.8.65", port)).unwrap();
                }
            }
            let mut flows = std::collections::BTreeMap::<[u8; 2], Vec<(usize, u8)>>::new();
            let mut batch = PacketBatch::with_capacity(4 << 20, 1024);
            for (number, queue) in queues.iter().enumerate() {
                batch.clear();
                queue.read_batch(&mut batch).unwrap();
                for (_, packet) in batch.iter().filter(|(_, packet)| packet.len() == 36 && packet[9] == 17) {
                    flows.entry([packet[22], packet[23]]).or_default().push((number, packet[28]));
                }
            }
            assert_eq!(flows.len(), 40);
            for flow in flows.values() {
                assert_eq!(flow.iter().map(|(_, n)| *n).collect::<Vec<_>>(), [0, 1, 2]);
                assert!(flow.iter().all(|(queue, _)| *queue == flow[0].0), "{flow:?}");
            }
            let used: std::collections::BTreeSet<_> = flows.values().map(|flow| flow[0].0).collect();
            assert_eq!(used.len(), count, "all queues are used");
        }
        // One that somebody made with a single queue is used as it is.
        ip("link del Overlay");
        ip("tuntap add Overlay mode tun");
        ip("link set Overlay alias overlay-gw");
        let opened = TunDevice::open(&spec(Layer::Tun), &host()).await.unwrap();
        assert!(opened.adopted);
        assert_eq!(opened.device.add_queue().err().map(|e| e.kind()), Some(std::io::ErrorKind::Unsupported));
    });
}

#[test]
fn sockets_beside_each_other_share_a_port_that_no_other_program_gets() {
    world(async || {
        link::loopback_up(netns::current().unwrap().as_fd()).unwrap();
        let first = UdpTransport::bind(None, 0).unwrap();
        let queues = [first.add_queue().unwrap(), first.add_queue().unwrap()];
        let to: SocketAddr = ([127, 0, 0, 1], first.local_port()).into();
        assert!(queues.iter().all(|queue| queue.local_port() == to.port()));
        let taken = UdpTransport::bind(None, to.port()).unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
        // Sixty senders with two datagrams each: both of one sender at one queue.
        let senders: Vec<_> = (0..60).map(|_| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for sender in senders.iter().chain(&senders) {
            sender.send_to(b"x", to).unwrap();
        }
        let mut counts = Vec::new();
        for queue in [&first, &queues[0], &queues[1]] {
            let mut batch = DatagramBatch::with_capacity(4 << 20, 4096);
            while queue.recv_batch(&mut batch).unwrap() > 0 {}
            let mut senders: Vec<_> = batch.iter().map(|(from, _)| from).collect();
            counts.push(senders.len());
            senders.sort_unstable();
            assert!(senders.chunks(2).all(|pair| pair[0] == pair[1]), "{senders:?}");
        }
        assert_eq!(counts.iter().sum::<usize>(), 120);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    });
}
