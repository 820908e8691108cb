//! corosync with knet on three nodes of the overlay: a hub dies, and the membership does not change.

use std::time::Duration;

use overlay_tests::case;
use overlay_tests::harness::Case;
use overlay_tests::overlay::Overlay;
use overlay_tests::process::Process;
use overlay_tests::wait::{holds_for, until};
use overlay_tests::world::World;

pub fn cases() -> Vec<Case> {
    vec![case!(timed, quorum_is_kept_and_no_membership_changes_when_a_hub_is_killed)]
}

const SLOTS: [u8; 3] = [56, 64, 72];

/// Starts corosync there, with a ring over the overlay; its token is lost after a second.
fn corosync(overlay: &Overlay, slot: u8) -> Process {
    let node = &overlay.node(slot).node;
    let mut text = String::from(
        "totem {\n version: 2\n cluster_name: overlay\n transport: knet\n crypto_cipher: none\n crypto_hash: none\n token: 1000\n \
         interface {\n linknumber: 0\n knet_ping_interval: 200\n knet_ping_timeout: 1500\n }\n}\n\
         quorum {\n provider: corosync_votequorum\n}\nlogging {\n to_stderr: yes\n to_syslog: no\n}\nnodelist {\n",
    );
    for member in SLOTS {
        let address = overlay.node(member).address();
        text.push_str(&format!(
            " node {{\n name: cluster-{member}\n nodeid: {member}\n ring0_addr: {address}\n }}\n"
        ));
    }
    text.push_str("}\n");
    let file = node.write("corosync.conf", &text);
    node.ok("mkdir -p /var/lib/corosync");
    node.spawn("corosync", &format!("corosync -f -c {}", file.display()))
}

fn quorate_with_all(overlay: &Overlay, slot: u8) -> bool {
    let said = overlay.node(slot).node.run("corosync-quorumtool -s").stdout;
    let says = |name: &str, value: &str| {
        said.lines().any(|line| line.starts_with(name) && line.trim_end().ends_with(value))
    };
    says("Quorate:", "Yes") && says("Nodes:", "3")
}

/// How often it has formed a membership.
fn memberships(corosync: &Process) -> usize {
    corosync.stderr().iter().filter(|line| line.contains("A new membership")).count()
}

fn quorum_is_kept_and_no_membership_changes_when_a_hub_is_killed(world: &World) {
    let mut overlay = Overlay::plan_with_two_hubs(world, &SLOTS);
    overlay.start();
    overlay.wait_end_to_end();
    let rings = SLOTS.map(|slot| corosync(&overlay, slot));
    until("all three see a quorum of three", || SLOTS.iter().all(|&slot| quorate_with_all(&overlay, slot)));
    let in_use = overlay.hub_in_use();
    let before: Vec<_> = rings.iter().map(memberships).collect();
    assert!(before.iter().all(|&count| count > 0), "its log says when there is a membership: {before:?}");
    overlay.hub_mut(&in_use).take().kill();
    holds_for(Duration::from_secs(6), "a quorum of three", || {
        SLOTS.iter().all(|&slot| quorate_with_all(&overlay, slot))
    });
    let after: Vec<_> = rings.iter().map(memberships).collect();
    assert_eq!(after, before, "no membership was formed anew");
    assert_ne!(overlay.hub_in_use(), in_use, "the hub that died was the one in use");
}
