//! Signed membership while the overlay runs: who is taken in and put out by records, which records are refused, and what a restart
//! still knows.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use overlay_tests::case;
use overlay_tests::gateway::{Gateway, Status, client};
use overlay_tests::harness::Case;
use overlay_tests::node::Node;
use overlay_tests::overlay::HUB;
use overlay_tests::wait::{holds_for, until, until_in};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, record_of_a_later_node_lets_it_in_and_its_revocation_ends_its_session),
        case!(functional, rebuilt_node_takes_its_slot_over_and_the_old_one_is_told),
        case!(functional, a_claim_that_is_refused_is_told_to_whose_place_it_claims),
        case!(functional, a_node_that_was_revoked_while_it_was_off_is_told_when_it_comes_back),
        case!(functional, records_that_are_not_signed_or_not_newer_are_refused_and_nobody_is_touched),
        case!(functional, restart_without_the_packs_records_still_knows_the_members),
        case!(functional, mistakes_in_later_changes_of_a_plan_change_nothing),
        case!(functional, a_record_told_to_one_hub_is_soon_known_to_all_members),
        case!(functional, what_is_told_while_a_node_is_cut_off_reaches_it_afterwards),
    ]
}

/// The administrator's folder, in which `plan` has been for a hub and cluster-1 in slot 56.
struct Plan {
    out: PathBuf,
    desk: Node,
}

impl Plan {
    fn new(world: &World, desk: &Node) -> Self {
        Self::of(world, desk, "packs")
    }

    fn of(world: &World, desk: &Node, folder: &str) -> Self {
        let out = world.path(folder);
        let line = format!(
            "plan --overlay 172.16.8.0/24 --node cluster-1=56 --hub hub-a=10.99.0.1:51820 --out {}",
            out.display()
        );
        client(desk, &line).exits(0);
        Self { out, desk: desk.clone() }
    }

    /// A later change; the file with its record.
    #[track_caller]
    fn later(&self, change: &str, node: &str) -> String {
        let line = format!("plan {change} --out {} --node {node} --json", self.out.display());
        let made = client(&self.desk, &line).exits(0).json();
        made["record"].as_str().expect("a record").to_owned()
    }

    fn config(&self, name: &str) -> PathBuf {
        self.out.join(name).join("config.toml")
    }
}

fn warned(status: &Status, code: &str) -> bool {
    status.0["warnings"].as_array().into_iter().flatten().any(|warning| warning["code"] == code)
}

fn names(status: &Status) -> Vec<String> {
    let peers = status.0["peers"].as_array().into_iter().flatten();
    peers.map(|peer| peer["name"].as_str().unwrap_or_default().to_owned()).collect()
}

fn record_of_a_later_node_lets_it_in_and_its_revocation_ends_its_session(world: &World) {
    let [at_hub, one, two] = [world.node(HUB, 1), world.node("cluster-1", 56), world.node("cluster-2", 64)];
    let plan = Plan::new(world, &at_hub);
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    let first = Gateway::up(&one, &plan.config("cluster-1"));
    first.wait_session(HUB);
    let record = plan.later("add-node", "cluster-2=64");
    let second = Gateway::up(&two, &plan.config("cluster-2"));
    assert_eq!(names(&hub.status()), ["cluster-1"], "the hub does not know it yet");

    let added = hub.client(&format!("peer add {record} --json")).exits(0).json();
    assert_eq!(added["records"][0]["name"], "cluster-2", "{added:#}");
    assert_eq!(added["records"][0]["outcome"], "new", "{added:#}");
    assert_eq!(added["changed"][0], "cluster-2 added", "{added:#}");
    hub.wait_session("cluster-2");
    second.wait_session(HUB);
    first.client(&format!("peer add {record}")).exits(0);
    one.reaches("172.16.8.65");
    two.reaches("172.16.8.57");
    let again = hub.client(&format!("peer add {record}")).exits(0);
    assert!(again.stdout.contains("was known already"), "{}", again.both());

    let revocation = plan.later("revoke", "cluster-2");
    let refused = hub.client(&format!("peer add {revocation}")).exits(4);
    assert!(refused.stderr.contains("peer remove"), "{}", refused.stderr);
    let refused = hub.client(&format!("peer remove {}", plan.out.join("members.records").display())).exits(4);
    assert!(refused.stderr.contains("peer add"), "{}", refused.stderr);
    assert!(hub.status().session("cluster-2"));
    let start = Instant::now();
    let removed = hub.client(&format!("peer remove {revocation}")).exits(0);
    assert!(!hub.status().session("cluster-2"));
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(removed.stdout.contains("is a member no more"), "{}", removed.both());
    assert_eq!(names(&hub.status()), ["cluster-1"]);
    until("cluster-2 is out", || !two.pings("172.16.8.57"));
    second.client(&format!("peer remove {revocation}")).exits(0);
    assert!(warned(&second.status(), "revoked"), "it is told: {:#}", second.status().0);
    assert!(hub.status().session("cluster-1"));
    let refused =
        hub.client(&format!("peer add {}", plan.out.join("cluster-2/members.records").display())).exits(4);
    assert!(
        refused.stderr.contains("cluster-2"),
        "its old record does not bring it back: {}",
        refused.stderr
    );
    assert_eq!(names(&hub.status()), ["cluster-1"]);
}

fn rebuilt_node_takes_its_slot_over_and_the_old_one_is_told(world: &World) {
    let [at_hub, old, new] = [world.node(HUB, 1), world.node("old", 56), world.node("new", 57)];
    let plan = Plan::new(world, &at_hub);
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    // Where the folder goes that the machine was set up with.
    let pack = world.path("old-pack");
    at_hub.ok(&format!("cp -a {} {}", plan.out.join("cluster-1").display(), pack.display()));
    let incumbent = Gateway::up(&old, &pack.join("config.toml"));
    incumbent.wait_session(HUB);
    let key = |gw: &Gateway| gw.status().0["public_key"].clone();
    let record = plan.later("add-node --replace", "cluster-1=56");
    assert!(plan.out.join("cluster-1.replaced-1/cluster-1.key").exists(), "the old key is still there");
    let rebuilt = Gateway::up(&new, &plan.config("cluster-1"));
    let taken = hub.client(&format!("peer add {record} --json")).exits(0).json();
    assert_eq!(taken["records"][0]["revoked"], true, "{taken:#}");
    rebuilt.wait_session(HUB);
    assert_eq!(hub.status().peer("cluster-1").unwrap()["public_key"], key(&rebuilt));
    incumbent.client(&format!("peer add {record}")).exits(0);
    assert!(warned(&incumbent.status(), "revoked"), "{:#}", incumbent.status().0);
    assert_ne!(key(&incumbent), key(&rebuilt));
}

fn a_claim_that_is_refused_is_told_to_whose_place_it_claims(world: &World) {
    let [at_hub, one, two] = [world.node(HUB, 1), world.node("cluster-1", 56), world.node("cluster-2", 64)];
    let plan = Plan::new(world, &at_hub);
    let record = plan.later("add-node", "cluster-2=64");
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    let first = Gateway::up(&one, &plan.config("cluster-1"));
    let second = Gateway::up(&two, &plan.config("cluster-2"));
    hub.client(&format!("peer add {record}")).exits(0);
    // Until then `status` ends with another code.
    first.wait_session("cluster-2");
    second.wait_session("cluster-1");
    assert!(!warned(&first.status(), "claim-refused"));
    let other = Plan::of(world, &at_hub, "other");
    let claim = other.later("add-node --replace", "cluster-1=56");
    let refused = hub.client(&format!("peer add {claim}")).exits(4);
    assert!(refused.stderr.contains("not signed with the signing key"), "{}", refused.stderr);
    until("the incumbent is told", || warned(&first.status(), "claim-refused"));
    let shown = first.client("status").exits(0);
    assert!(
        shown.stdout.contains("`hub-a` refused a record that claims the place of this host"),
        "{}",
        shown.both()
    );
    assert!(first.status().session(HUB) && !warned(&second.status(), "claim-refused"), "and nobody else");
    one.reaches("172.16.8.65");
    // On the incumbent itself.
    assert!(!warned(&hub.status(), "claim-refused"));
    first.client(&format!("peer add {claim}")).exits(4);
    let shown = first.client("status").exits(0);
    assert!(shown.stdout.contains("this host refused a record"), "{}", shown.both());
}

fn a_node_that_was_revoked_while_it_was_off_is_told_when_it_comes_back(world: &World) {
    let [at_hub, one] = [world.node(HUB, 1), world.node("cluster-1", 56)];
    let plan = Plan::new(world, &at_hub);
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    let first = Gateway::up(&one, &plan.config("cluster-1"));
    first.wait_session(HUB);
    first.stop();
    let revocation = plan.later("revoke", "cluster-1");
    hub.client(&format!("peer remove {revocation}")).exits(0);
    let again = Gateway::up(&one, &plan.config("cluster-1"));
    until("it is told", || warned(&again.status(), "revoked"));
    assert!(!again.status().session(HUB));
    assert_eq!(names(&hub.status()), [""; 0]);
    // The next start knows it by itself, and so does one of a hub.
    again.stop();
    let hub_again = {
        hub.stop();
        Gateway::hub(&at_hub, &plan.config(HUB))
    };
    one.ok("rm /var/lib/overlay-gw/Overlay/members.records");
    let again = Gateway::up(&one, &plan.config("cluster-1"));
    until("it is told by the hub's records", || warned(&again.status(), "revoked"));
    drop(hub_again);
}

fn records_that_are_not_signed_or_not_newer_are_refused_and_nobody_is_touched(world: &World) {
    let [at_hub, one] = [world.node(HUB, 1), world.node("cluster-1", 56)];
    let plan = Plan::new(world, &at_hub);
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    let first = Gateway::up(&one, &plan.config("cluster-1"));
    first.wait_session(HUB);
    let state = "/var/lib/overlay-gw/hub-a/members.records";
    let kept = at_hub.ok(&format!("cat {state}"));
    let untouched = |why: &str| {
        assert_eq!(names(&hub.status()), ["cluster-1"], "{why}");
        assert_eq!(at_hub.ok(&format!("cat {state}")), kept, "{why}");
        assert!(hub.status().session("cluster-1"), "{why}");
    };
    // Somebody else's overlay of the same numbers: well formed, and signed by the wrong key.
    let other = Plan::of(world, &at_hub, "other");
    let claim = other.later("add-node --replace", "cluster-1=56");
    let refused = hub.client(&format!("peer add {claim}")).exits(4);
    assert!(refused.stderr.contains("not signed with the signing key"), "{}", refused.stderr);
    untouched("signed by another");
    let text = fs::read_to_string(plan.out.join("members.records")).unwrap();
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap();
    for (name, broken) in [
        ("half", line[..100].to_owned()),
        ("changed", line.replacen(&line[20..24], "AAAA", 1)),
        ("words", "not a record".to_owned()),
        ("nothing", String::new()),
    ] {
        let path = at_hub.write(name, &format!("{broken}\n"));
        let refused = hub.client(&format!("peer add {}", path.display())).exits(4);
        assert!(refused.stderr.starts_with("error: "), "{}", refused.stderr);
        untouched(name);
    }
    hub.client("peer add /nowhere").exits(4);
    // One that is refused takes the good one beside it along: all or nothing.
    let good = fs::read_to_string(plan.later("add-node", "cluster-2=64")).unwrap();
    let both = at_hub.write("both", &format!("{good}{}", fs::read_to_string(&claim).unwrap()));
    hub.client(&format!("peer add {}", both.display())).exits(4);
    untouched("one of two");
    let alone = world.node("alone", 70);
    let up = Gateway::start(&alone, "up --slot 72");
    let refused = up.client(&format!("peer add {}", both.display())).exits(4);
    assert!(refused.stderr.contains("signing_key"), "{}", refused.stderr);
}

fn restart_without_the_packs_records_still_knows_the_members(world: &World) {
    let [at_hub, one] = [world.node(HUB, 1), world.node("cluster-1", 56)];
    let plan = Plan::new(world, &at_hub);
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    let first = Gateway::up(&one, &plan.config("cluster-1"));
    let record = plan.later("add-node", "cluster-2=64");
    hub.client(&format!("peer add {record}")).exits(0);
    first.wait_session(HUB);
    hub.kill();
    let beside = plan.out.join(HUB).join("members.records");
    let pack = fs::read(&beside).unwrap();
    fs::remove_file(&beside).unwrap();
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    assert_eq!(names(&hub.status()), ["cluster-1", "cluster-2"]);
    hub.wait_session("cluster-1");
    hub.stop();

    // A damaged line costs what stood on it, and is said.
    let state = Path::new("/var/lib/overlay-gw/hub-a/members.records");
    at_hub.ok(&format!("sed -i 2iAAAA {}", state.display()));
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    assert_eq!(names(&hub.status()), ["cluster-1", "cluster-2"]);
    assert!(warned(&hub.status(), "records"), "{:#}", hub.status().0);
    hub.stop();

    // Without either file a hub starts, says that it knows nobody, and learns from the file by a reload.
    at_hub.ok("rm -r /var/lib/overlay-gw/hub-a");
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    assert!(warned(&hub.status(), "no-members"), "{:#}", hub.status().0);
    fs::write(&beside, pack).unwrap();
    let reloaded = hub.client("reload").exits(0);
    assert!(reloaded.stdout.contains("cluster-1 added"), "{}", reloaded.both());
    assert!(!warned(&hub.status(), "no-members"), "{:#}", hub.status().0);
    hub.wait_session("cluster-1");
}

fn mistakes_in_later_changes_of_a_plan_change_nothing(world: &World) {
    let desk = world.node("desk", 1);
    let plan = Plan::new(world, &desk);
    let out = plan.out.display();
    let all = || desk.ok(&format!("find {out} -type f -printf %P:%s:%T@\\n"));
    let before = all();
    for (line, said) in [
        ("add-node --node cluster-1=64", "--replace"),
        ("add-node --node cluster-2=56", "--replace"),
        ("add-node --node cluster-2=64 --replace", "leave --replace out"),
        ("add-node --node cluster-2=60", "not a multiple of 8"),
        ("add-node --node cluster-2", "cluster-1=56"),
        ("revoke --node cluster-9", "did you mean `cluster-1`?"),
    ] {
        let refused = client(&desk, &format!("plan {line} --out {out}")).exits(4);
        assert!(refused.stderr.contains(said), "{line}: {}", refused.stderr);
        assert_eq!(all(), before, "{line}");
    }
    client(&desk, &format!("plan revoke --out {} --node cluster-1", world.path("nowhere").display()))
        .exits(4);
    desk.ok(&format!("chmod 644 {out}/overlay.signing-key"));
    let refused = client(&desk, &format!("plan revoke --out {out} --node cluster-1")).exits(4);
    assert!(refused.stderr.contains("chmod 600"), "{}", refused.stderr);
    assert_eq!(all(), before);
    client(&desk, "plan").exits(4);
    client(&desk, &format!("plan revoke --out {out} --node cluster-1 --hub x=y:1")).exits(4);
}

fn a_record_told_to_one_hub_is_soon_known_to_all_members(world: &World) {
    let [a, b] = [world.node(HUB, 1), world.node("hub-b", 2)];
    let [one, two, three] =
        [world.node("cluster-1", 56), world.node("cluster-2", 64), world.node("cluster-3", 72)];
    let out = world.path("packs");
    let line = format!(
        "plan --overlay 172.16.8.0/24 --node cluster-1=56 --node cluster-2=64 --hub hub-a=10.99.0.1:51820 \
         --hub hub-b=10.99.0.2:51820 --out {}",
        out.display()
    );
    client(&a, &line).exits(0);
    let plan = Plan { out, desk: a.clone() };
    let hubs = [Gateway::hub(&a, &plan.config(HUB)), Gateway::hub(&b, &plan.config("hub-b"))];
    let first = Gateway::up(&one, &plan.config("cluster-1"));
    let second = Gateway::up(&two, &plan.config("cluster-2"));
    first.wait_session("cluster-2");
    second.wait_session("hub-b");
    let record = plan.later("add-node", "cluster-3=72");
    let third = Gateway::up(&three, &plan.config("cluster-3"));
    hubs[0].client(&format!("peer add {record}")).exits(0);
    let start = Instant::now();
    for gateway in [&hubs[1], &first, &second] {
        until("it is known", || names(&gateway.status()).contains(&"cluster-3".to_owned()));
    }
    println!("known to all after {:?}", start.elapsed());
    third.wait_session("hub-b");
    one.reaches("172.16.8.73");
    third.wait_session("cluster-2");
    assert_ne!(first.status().peer("cluster-3").unwrap()["path"], "none");

    // Revoked, at the other hub.
    let revocation = plan.later("revoke", "cluster-3");
    hubs[1].client(&format!("peer remove {revocation}")).exits(0);
    let start = Instant::now();
    for gateway in [&hubs[0], &first, &second] {
        let out = || !names(&gateway.status()).contains(&"cluster-3".to_owned());
        until_in(Duration::from_secs(2), "it is out", out);
    }
    println!("out everywhere after {:?}", start.elapsed());
    assert!(!one.pings("172.16.8.73"));
    // Even the one that is out is told.
    until("it is told", || warned(&third.status(), "revoked"));
}

fn what_is_told_while_a_node_is_cut_off_reaches_it_afterwards(world: &World) {
    let [at_hub, one, two] = [world.node(HUB, 1), world.node("cluster-1", 56), world.node("cluster-2", 64)];
    let plan = Plan::new(world, &at_hub);
    let hub = Gateway::hub(&at_hub, &plan.config(HUB));
    let first = Gateway::up(&one, &plan.config("cluster-1"));
    first.wait_session(HUB);
    let knows = || names(&first.status()).contains(&"cluster-2".to_owned());
    let record = plan.later("add-node", "cluster-2=64");
    let _second = Gateway::up(&two, &plan.config("cluster-2"));
    hub.client(&format!("peer add {record}")).exits(0);
    until("it knows the new one", knows);

    // Its session outlives the cut: nobody says hello anew.
    let revocation = plan.later("revoke", "cluster-2");
    one.ok("ip link set eth0 down");
    hub.client(&format!("peer remove {revocation}")).exits(0);
    holds_for(Duration::from_secs(3), "all that was sent to it is lost", knows);
    one.ok("ip link set eth0 up");
    until_in(Duration::from_secs(10), "it knows that it is out", || !knows());
}
