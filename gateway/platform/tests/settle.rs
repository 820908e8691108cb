//! Record and host together, on a host in memory: what was ours is undone, nothing else, whenever the program is killed.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "these are tests")]

mod interrupted;

use std::net::Ipv4Addr;

use interrupted::{Interrupted, Kill};
use ipnet::Ipv4Net;
use overlay_platform::{
    DeviceIdentity, HostNet, Layer, Outcome,
    change::{Change, DesiredHost, intended, intended_on_windows},
    memory::MemoryHost,
    record::{FILE, Origin, Record},
    settle::{add, clear, remove, settle},
};

const BOOT: &str = "boot";

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn address(last: u8) -> Change {
    Change::Address { net: net(&format!("172.16.8.{last}/29")) }
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
        dns: vec![Ipv4Addr::new(172, 16, 0, 1)],
        mtu: 1420,
        windows: overlay_config::Windows::default(),
    }
}

struct World {
    host: MemoryHost,
    dir: tempfile::TempDir,
}

impl World {
    fn new(foreign: Option<&str>) -> Self {
        let (host, dir) = (MemoryHost::new(), tempfile::tempdir().unwrap());
        host.create_device(Layer::Tun);
        foreign.into_iter().for_each(|foreign| host.foreign_address(net(foreign)));
        Self { host, dir }
    }

    /// The record as a program that has just started finds it.
    fn record(&self) -> Record {
        let ifindex = self.host.create_device(Layer::Tun);
        let device = DeviceIdentity { name: "Overlay".into(), ifindex, mode: Layer::Tun };
        Record::open(self.dir.path(), BOOT, &device).unwrap()
    }

    async fn clear(&self) -> overlay_platform::settle::Cleared {
        clear(&self.host, Record::load(self.dir.path()).unwrap(), BOOT).await.unwrap()
    }
}

#[tokio::test]
async fn firewall_rules_stay_ours_when_the_device_is_another_one_and_go_when_there_is_none() {
    let world = World::new(None);
    let intended = intended_on_windows(&desired());
    let rules = intended.iter().filter(|change| change.bears_our_name()).count();
    settle(&world.host, &mut world.record(), &intended).await.unwrap();
    assert_eq!(world.host.rules().len(), rules);
    // Somebody removes the device, and it is made anew: the record begins anew, the rules are there.
    world.host.delete_device().await.unwrap();
    let settled = settle(&world.host, &mut world.record(), &intended).await.unwrap();
    assert_eq!(settled.found, []);
    // The next boot has no device; what is cleared then are the rules.
    world.host.delete_device().await.unwrap();
    let record = Record::load(world.dir.path()).unwrap();
    let cleared = clear(&world.host, record, "another boot").await.unwrap();
    assert_eq!((cleared.removed.len(), world.host.rules().len()), (rules, 0));
    assert!(!world.dir.path().join(FILE).exists());
}

#[tokio::test]
async fn what_was_made_is_cleared_and_the_device_with_it() {
    let world = World::new(None);
    let settled = settle(&world.host, &mut world.record(), &intended(&desired())).await.unwrap();
    assert_eq!(settled.found, []);
    assert_eq!(world.host.routes().len(), 3);
    let cleared = world.clear().await;
    assert!(cleared.device_removed && cleared.kept.is_empty());
    assert_eq!(cleared.removed.len(), 6);
    assert!(!world.dir.path().join(FILE).exists());
    assert!(world.clear().await.is_nothing());
}

#[tokio::test]
async fn a_foreign_address_and_one_that_was_there_before_us_stay_and_so_does_the_device() {
    let world = World::new(Some("172.16.8.58/29"));
    let settled = settle(&world.host, &mut world.record(), &intended(&desired())).await.unwrap();
    assert_eq!(settled.found, [address(58)]);
    world.host.foreign_address(net("172.16.8.60/29"));
    let cleared = world.clear().await;
    assert_eq!(cleared.kept, [net("172.16.8.58/29"), net("172.16.8.60/29")]);
    assert!(!cleared.device_removed && !cleared.removed.contains(&address(58)));
    assert_eq!(world.host.routes(), []);
    assert_eq!(world.host.dns(), Vec::<Ipv4Addr>::new());
}

#[tokio::test]
async fn killed_at_any_step_of_up_and_of_down_the_host_is_as_it_was_in_the_end() {
    // The second foreign address is one that we would have assigned ourselves.
    for foreign in [None, Some("172.16.8.60/29"), Some("172.16.8.58/29")] {
        for kill in [Kill::Before, Kill::After] {
            for (steps_up, steps_down) in (0..14).flat_map(|up| [0, 1, 2, 4, 7].map(|down| (up, down))) {
                let case = format!("{foreign:?} {kill:?} up {steps_up} down {steps_down}");
                let world = World::new(foreign);
                let dying = Interrupted::after(&world.host, steps_up, kill);
                let mut record = world.record();
                _ = dying.run(settle(&dying, &mut record, &intended(&desired()))).await;
                drop(record);
                if steps_up % 2 == 0 {
                    // The next start adopts and completes.
                    let mut record = world.record();
                    settle(&world.host, &mut record, &intended(&desired())).await.unwrap();
                    let taken = usize::from(foreign == Some("172.16.8.58/29"));
                    assert_eq!(record.entries().len(), 6 - taken, "{case}");
                    let held = world.host.device_addresses().await.unwrap();
                    assert_eq!(held.len(), 2 - taken + usize::from(foreign.is_some()), "{case}");
                }
                let dying = Interrupted::after(&world.host, steps_down, kill);
                let record = Record::load(world.dir.path()).unwrap();
                _ = dying.run(clear(&dying, record, BOOT)).await;
                let cleared = world.clear().await;
                let kept: Vec<Ipv4Net> = foreign.into_iter().map(net).collect();
                assert_eq!(cleared.kept, kept, "{case}");
                assert_eq!(world.host.device_addresses().await.unwrap(), kept, "{case}");
                assert_eq!(world.host.routes(), [], "{case}");
                assert_eq!(world.host.dns(), Vec::<Ipv4Addr>::new(), "{case}");
                assert_eq!(world.host.device().await.unwrap().is_some(), foreign.is_some(), "{case}");
            }
        }
    }
}

#[tokio::test]
async fn a_reload_takes_back_what_is_no_longer_wanted_and_leaves_listeners_alone() {
    let world = World::new(None);
    let mut record = world.record();
    settle(&world.host, &mut record, &intended(&desired())).await.unwrap();
    assert_eq!(add(&world.host, &mut record, &address(59)).await.unwrap(), Outcome::Added);
    let changed = DesiredHost { routes: vec![net("10.1.0.0/16")], dns: vec![], ..desired() };
    let settled = settle(&world.host, &mut record, &intended(&changed)).await.unwrap();
    let texts: Vec<String> = settled.removed.iter().map(Change::to_string).collect();
    assert_eq!(texts, ["dns 172.16.0.1", "route 172.16.0.0/24 via 172.16.8.56 src 172.16.8.57 onlink"]);
    assert!(world.host.routes().contains(&(net("10.1.0.0/16"), 0)));
    assert!(record.is_ours(&address(59)));
    assert_eq!(world.host.dns(), Vec::<Ipv4Addr>::new());
}

#[tokio::test]
async fn a_listener_that_the_cluster_brought_is_not_recorded_and_not_removed() {
    let world = World::new(Some("172.16.8.60/29"));
    let mut record = world.record();
    assert_eq!(add(&world.host, &mut record, &address(60)).await.unwrap(), Outcome::AlreadyThere);
    assert!(!record.is_ours(&address(60)));
    assert!(!remove(&world.host, &mut record, &address(60)).await.unwrap());
    assert_eq!(add(&world.host, &mut record, &address(59)).await.unwrap(), Outcome::Added);
    assert_eq!(record.entries()[0].origin, Origin::Command);
    assert!(remove(&world.host, &mut record, &address(59)).await.unwrap());
    assert_eq!(world.host.device_addresses().await.unwrap(), [net("172.16.8.60/29")]);
}

#[tokio::test]
async fn a_device_of_ours_without_a_record_is_removed_only_when_it_is_bare() {
    let world = World::new(None);
    assert!(world.clear().await.device_removed);
    let world = World::new(Some("172.16.8.60/29"));
    assert!(!world.clear().await.device_removed);
}

#[tokio::test]
async fn dns_servers_that_somebody_else_has_set_stay_and_are_told_and_ours_are_no_news() {
    let world = World::new(None);
    let mut record = world.record();
    let others = [Ipv4Addr::new(9, 9, 9, 9)];
    world.host.foreign_dns(&others);
    let settled = settle(&world.host, &mut record, &intended(&desired())).await.unwrap();
    let wanted = Change::Dns { servers: desired().dns };
    assert_eq!(settled.other_servers, Some(wanted.clone()));
    assert!(!record.is_ours(&wanted));
    assert_eq!(world.host.dns(), others);
    // Taken away, ours are set; then they are as wanted.
    world.host.foreign_dns(&[]);
    let settled = settle(&world.host, &mut record, &intended(&desired())).await.unwrap();
    assert_eq!((settled.added.contains(&wanted), settled.other_servers), (true, None));
    let settled = settle(&world.host, &mut record, &intended(&desired())).await.unwrap();
    assert_eq!((settled.found, settled.other_servers), (vec![], None));
    // The same ones that somebody else has set are found, and not ours.
    let world = World::new(None);
    world.host.foreign_dns(&desired().dns);
    let mut record = world.record();
    let settled = settle(&world.host, &mut record, &intended(&desired())).await.unwrap();
    assert!(settled.found.contains(&wanted), "{settled:?}");
    assert_eq!(world.host.dns(), desired().dns);
}
