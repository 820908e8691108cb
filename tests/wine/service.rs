//! The service, through the service control manager of Wine.

use overlay_tests::case;
use overlay_tests::harness::Case;
use overlay_tests::world::World;

use crate::wine::WineNode;

pub fn cases() -> Vec<Case> {
    vec![case!(functional, service_is_installed_runs_stops_and_leaves_nothing)]
}

fn service_is_installed_runs_stops_and_leaves_nothing(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    windows.run("service status").exits(3);
    windows.run("service start").exits(3);
    windows.run("service install --slot 56").exits(0);
    assert_eq!(windows.run("service status --json").exits(3).json()["state"], "stopped");
    windows.run("service start").exits(0);
    // RUNNING means that packets flow: not one ping is lost.
    windows.node.run("ping -n -c 3 -i 0.2 -W 1 172.16.8.56").exits(0);
    let shown = windows.run("service status --json").exits(0).json();
    assert_eq!(shown["state"], "running");
    assert!(shown["command"].as_str().unwrap().contains("service run"), "{shown}");
    windows.run("status").exits(0);
    let log = std::fs::read_to_string(windows.drive_c("ProgramData/overlay-gw/logs/overlay-gw.log")).unwrap();
    assert!(log.contains("live"), "{log}");
    // Stopped, the adapter stays, and a start adopts it.
    let begin = std::time::Instant::now();
    windows.run("service stop").exits(0);
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(windows.count_wintun("close Overlay remove"), 0);
    assert!(!windows.held().is_empty());
    windows.run("service start").exits(0);
    assert_eq!(windows.status().0["device"]["adopted"], true);
    windows.run("service uninstall --purge").exits(0);
    windows.run("service status").exits(3);
    assert_eq!(windows.held(), Vec::<serde_json::Value>::new());
    windows.wait_wintun("close Overlay remove", 1);
    assert!(!windows.drive_c("ProgramData/overlay-gw").exists());
}
