//! The adapter outlives what happens to the engine, and comes back when somebody takes it away.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use overlay_tests::case;
use overlay_tests::harness::Case;
use overlay_tests::wait::{holds_for, until, until_in};
use overlay_tests::world::World;

use crate::wine::WineNode;

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, engine_that_is_killed_leaves_the_adapter_and_the_next_adopts_it),
        case!(functional, panic_in_a_worker_leaves_the_session),
        case!(timed, adapter_that_somebody_removes_comes_back_with_its_addresses),
        case!(timed, holder_that_does_not_answer_is_no_reason_to_make_the_adapter_again),
        case!(functional, stop_and_down_do_not_wait_for_an_adapter_that_is_being_made_again),
        case!(functional, creation_is_tried_again_as_at_boot),
    ]
}

fn engine_that_is_killed_leaves_the_adapter_and_the_next_adopts_it(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let mut up = windows.start("up --slot 56");
    windows.run("listener add 172.16.8.59").exits(0);
    let held = windows.held();
    up.signal(Signal::SIGKILL);
    up.wait(Duration::from_secs(10));
    assert_eq!(windows.held(), held, "addresses, routes and rules stay");
    assert_eq!(windows.count_wintun("close Overlay remove"), 0, "the adapter stays");
    let adapter = fs::read_to_string(windows.doubles.join("adapter-Overlay")).unwrap();
    let mut up = windows.start("up --slot 56");
    windows.node.reaches("172.16.8.56");
    let status = windows.status();
    assert_eq!(status.0["device"]["adopted"], true);
    assert_eq!(status.listener("172.16.8.59"), Some("command"), "{:#}", status.0);
    assert_eq!(fs::read_to_string(windows.doubles.join("adapter-Overlay")).unwrap(), adapter);
    assert_eq!(windows.count_wintun("create"), 1);
    // Killed again, and nothing starts: `down` clears what is left.
    up.signal(Signal::SIGKILL);
    up.wait(Duration::from_secs(10));
    windows.run("down").exits(0);
    assert_eq!(windows.held(), Vec::<serde_json::Value>::new());
    windows.wait_wintun("close Overlay remove", 1);
}

fn panic_in_a_worker_leaves_the_session(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let mut up = windows.start("up --slot 56");
    windows.node.reaches("172.16.8.56");
    fs::write(windows.doubles.join("panic"), "").unwrap();
    // The next packet from the host is read by a thread that panics.
    until("the panic has happened", || {
        let _ = windows.node.pings("172.16.8.56");
        !windows.doubles.join("panic").exists()
    });
    up.wait_stderr(Duration::from_secs(10), |line| line.contains("starting the packet path again"));
    // What panicked, where, and what it said, as a line of the log.
    let told = |line: &String| {
        ["ERROR", "thread packets-", "doubles.rs:", "a test has asked for it"]
            .iter()
            .all(|word| line.contains(word))
    };
    assert!(up.stderr().iter().any(told), "{:?}", up.stderr());
    windows.node.reaches("172.16.8.56");
    assert_eq!(windows.count_wintun("session"), 1, "{:?}", windows.wintun());
    assert_eq!(windows.count_wintun("end"), 0, "{:?}", windows.wintun());
    assert!(up.runs());
}

fn adapter_that_somebody_removes_comes_back_with_its_addresses(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let mut up = windows.start("up --slot 56");
    windows.run("listener add 172.16.8.59").exits(0);
    windows.node.reaches("172.16.8.56");
    windows.take_adapter_away();
    let removed = Instant::now();
    up.wait_stderr(Duration::from_secs(10), |line| line.contains("the device failed"));
    let noticed = removed.elapsed();
    assert!(noticed < Duration::from_secs(2), "noticed after {noticed:?}");
    windows.wait_wintun("create Overlay overlay-gw 6f766777181d800080000000ac100838", 2);
    until_in(Duration::from_secs(15), "the gateway answers again", || windows.node.pings("172.16.8.56"));
    let status = windows.status();
    assert_eq!(status.listener("172.16.8.59"), Some("command"), "{:#}", status.0);
    for address in ["172.16.8.57/29", "172.16.8.58/29", "172.16.8.59/29"] {
        assert!(windows.held().iter().any(|change| change["net"] == address), "{address}");
    }
}

fn holder_that_does_not_answer_is_no_reason_to_make_the_adapter_again(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let mut up = windows.start("up --slot 56");
    windows.node.reaches("172.16.8.56");
    // Stopped, as one that hangs: its pipe is there, and nobody answers.
    windows.signal_holder(Signal::SIGSTOP);
    up.wait_stderr(Duration::from_secs(15), |line| line.contains("does not answer"));
    // Addresses are learnt all the same.
    windows.cluster_addresses(&["172.16.8.60/29"]);
    holds_for(Duration::from_secs(12), "the gateway answers", || windows.node.pings("172.16.8.56"));
    assert_eq!(windows.status().listener("172.16.8.60"), Some("host"));
    windows.signal_holder(Signal::SIGCONT);
    up.wait_stderr(Duration::from_secs(15), |line| line.contains("can be asked again"));
    assert!(up.stderr().iter().all(|line| !line.contains("the device failed")), "{:?}", up.stderr());
    assert_eq!(windows.count_wintun("create"), 1, "{:?}", windows.wintun());
    assert_eq!(windows.count_wintun("session"), 1, "{:?}", windows.wintun());
    windows.cluster_addresses(&[]);
    windows.run("down").exits(0);
    windows.wait_wintun("close Overlay remove", 1);
}

fn stop_and_down_do_not_wait_for_an_adapter_that_is_being_made_again(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    windows.run("service install --slot 56").exits(0);
    windows.run("service start").exits(0);
    // It cannot be made again, as when the system's own services for that hang.
    let lose_adapter = || {
        let before = windows.count_wintun("refused create");
        fs::write(windows.doubles.join("refuse-creation"), "1000").unwrap();
        windows.take_adapter_away();
        windows.wait_wintun("refused create", before + 2);
    };
    lose_adapter();
    let begin = Instant::now();
    windows.run("service stop").exits(0);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    fs::remove_file(windows.doubles.join("refuse-creation")).unwrap();
    windows.run("service start").exits(0);
    windows.node.reaches("172.16.8.56");

    lose_adapter();
    let begin = Instant::now();
    windows.run("down").exits(0);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(windows.held(), Vec::<serde_json::Value>::new());
    windows.run("service status").exits(3);
    // Nor does the holder go on by itself: it would try several times a second.
    let tried = windows.count_wintun("refused create");
    thread::sleep(Duration::from_secs(2));
    assert_eq!(windows.count_wintun("refused create"), tried);
    fs::remove_file(windows.doubles.join("refuse-creation")).unwrap();
    windows.run("service start").exits(0);
    windows.node.reaches("172.16.8.56");
    windows.run("service uninstall --purge").exits(0);
    windows.wait_wintun("close Overlay remove", 1);
}

fn creation_is_tried_again_as_at_boot(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    fs::write(windows.doubles.join("refuse-creation"), "3").unwrap();
    let mut up = windows.start("up --slot 56");
    windows.node.reaches("172.16.8.56");
    assert_eq!(windows.count_wintun("refused create"), 3);
    assert!(up.stderr().iter().any(|line| line.contains("not there yet")), "progress is in the log");
    assert!(up.runs());
}
