//! The service, through the service control manager of Wine, and the installer, through its msiexec.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::time::Duration;

use overlay_tests::case;

use overlay_tests::harness::Case;
use overlay_tests::process;
use overlay_tests::wait::until;
use overlay_tests::world::World;

use crate::wine::{WineNode, windows_path};

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, service_is_installed_runs_stops_and_leaves_nothing),
        case!(functional, a_folder_of_somebody_else_stops_the_start_and_one_that_is_only_too_open_is_closed),
        case!(functional, installer_installs_upgrades_and_leaves_nothing),
    ]
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

fn a_folder_of_somebody_else_stops_the_start_and_one_that_is_only_too_open_is_closed(world: &World) {
    /// Not the one that Wine runs as.
    const STRANGER: u32 = 1000;
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let logs = windows.drive_c("ProgramData/overlay-gw/logs");
    std::fs::create_dir_all(&logs).unwrap();
    chown(&logs, Some(STRANGER), None).unwrap();
    windows.run("service install --slot 56").exits(0);
    // Nothing is written there; where the reason is to be found (Wine has no event log) is said.
    let said = windows.run("service start").exits(4).both();
    assert!(said.contains("event log (Application, source overlay-gw)"), "{said}");
    assert_eq!(std::fs::read_dir(&logs).unwrap().count(), 0);

    // What mkdir makes on Windows: everybody may make files in it. One that somebody has made stops the start as well.
    chown(&logs, Some(0), None).unwrap();
    let open = || std::fs::set_permissions(&logs, Permissions::from_mode(0o777)).unwrap();
    open();
    let planted = logs.join("overlay-gw.log");
    std::fs::write(&planted, "").unwrap();
    chown(&planted, Some(STRANGER), None).unwrap();
    windows.run("service start").exits(4);
    assert_eq!(std::fs::metadata(&planted).unwrap().len(), 0);
    // Closed by then; what is in it is looked at all the same.
    windows.run("service start").exits(4);

    std::fs::remove_file(&planted).unwrap();
    open();
    windows.run("service start").exits(0);
    assert!(std::fs::metadata(&planted).unwrap().len() > 0, "the log is written");
    // Wine makes the Administrators' entry the group's bits.
    let mode = std::fs::metadata(&logs).unwrap().mode();
    assert_eq!(mode & 0o002, 0, "{mode:o}");
    windows.run("service uninstall --purge").exits(0);
}

/// The installer with the doubles in it, of that version. The real one differs in two files, and is tested for what it holds.
fn installer(variable: &str) -> String {
    let path = std::env::var_os(variable).map(std::path::PathBuf::from);
    let path = path.unwrap_or_else(|| panic!("{variable} is not set: start these tests with tests/wine/run"));
    windows_path(&path)
}

fn installer_installs_upgrades_and_leaves_nothing(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let (old, new) = (installer("OVERLAY_MSI_OLD"), installer("OVERLAY_MSI_NEW"));
    let log = windows_path(&windows.node.path("msi.log"));
    let msiexec = |words: &[&str]| {
        let mut all = vec!["msiexec"];
        all.extend(words);
        all.extend(["/qn", "/l*v", log.as_str()]);
        windows.windows(&all).exits(0);
    };
    let program = windows.drive_c("Program Files/overlay-gw/overlay-gw.exe");
    let installed = |arguments: &str| {
        let mut command = windows.wine();
        command.arg(&program).args(arguments.split_whitespace());
        process::run(command, arguments, Duration::from_secs(60))
    };
    msiexec(&["/i", &old, "SLOT=56"]);
    for file in ["overlay-gw.exe", "wintun.dll", "wintun-license.txt", "README.txt", "check.ps1"] {
        assert!(windows.drive_c("Program Files/overlay-gw").join(file).exists(), "{file}");
    }
    assert_eq!(installed("service status --json").exits(0).json()["state"], "running");
    windows.node.reaches("172.16.8.56");
    let public = installed("status --json").json()["public_key"].clone();

    // The adapter lives through an upgrade, and the service comes back with what it was installed with.
    // Wine's RemoveExistingProducts does not say UPGRADINGPRODUCTCODE to the old version, as Windows does: so the two halves of an
    // upgrade are done one by one, with the properties that Windows gives them.
    let code = "{00000000-0000-0000-0000-000000000001}";
    msiexec(&["/x", &old, &format!("UPGRADINGPRODUCTCODE={code}")]);
    assert!(!windows.drive_c("Program Files/overlay-gw/overlay-gw.exe").exists());
    windows.node.run("ping -n -c 1 -W 1 172.16.8.56").exits(1);
    msiexec(&["/i", &new, &format!("WIX_UPGRADE_DETECTED={code}")]);
    until("the service runs again", || installed("service status").code == Some(0));
    windows.node.reaches("172.16.8.56");
    let status = installed("status --json").json();
    assert_eq!(status["public_key"], public);
    assert_eq!(status["device"]["adopted"], true);
    assert_eq!(windows.count_wintun("create"), 1, "{:?}", windows.wintun());
    assert_eq!(windows.count_wintun("close Overlay remove"), 0, "{:?}", windows.wintun());

    msiexec(&["/x", &new]);
    assert!(!windows.drive_c("Program Files/overlay-gw/overlay-gw.exe").exists());
    assert!(!windows.drive_c("ProgramData/overlay-gw").exists());
    assert_eq!(windows.held(), Vec::<serde_json::Value>::new());
    windows.wait_wintun("close Overlay remove", 1);
    windows.run("service status").exits(3);

    // Asked to keep the configuration, it keeps the key: the node is the same when it comes back.
    msiexec(&["/i", &new, "SLOT=56"]);
    let public = installed("status --json").json()["public_key"].clone();
    msiexec(&["/x", &new, "KEEPCONFIG=1"]);
    assert!(windows.drive_c("ProgramData/overlay-gw/state/Overlay/private.key").exists());
    msiexec(&["/i", &new, "SLOT=56"]);
    assert_eq!(installed("status --json").json()["public_key"], public);
}
