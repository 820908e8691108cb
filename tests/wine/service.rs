//! The service, through the service control manager of Wine, and the installer, through its msiexec.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use overlay_tests::case;
use overlay_tests::harness::Case;
use overlay_tests::keys::Keys;
use overlay_tests::overlay::{HUB, Overlay};
use overlay_tests::process::{self, Finished};
use overlay_tests::wait::until;
use overlay_tests::world::World;

use crate::wine::{WineNode, windows_path};

pub fn cases() -> Vec<Case> {
    vec![
        case!(functional, service_is_installed_runs_stops_and_leaves_nothing),
        case!(functional, key_that_others_may_read_or_own_is_refused_with_the_commands_that_mend_it),
        case!(functional, service_is_installed_again_when_its_key_is_sealed_for_another_account),
        case!(functional, panic_of_the_service_is_in_its_log),
        case!(functional, service_is_registered_with_its_settings_and_its_events_have_their_texts),
        case!(functional, uninstall_finds_the_state_folder_that_the_service_was_installed_with),
        case!(
            functional,
            uninstall_says_that_the_adapter_stays_for_a_foreign_address_and_down_takes_it_later
        ),
        case!(functional, purge_takes_the_key_also_when_a_foreign_address_keeps_the_adapter),
        case!(functional, a_folder_of_somebody_else_stops_the_start_and_one_that_is_only_too_open_is_closed),
        case!(functional, installer_installs_upgrades_and_leaves_nothing),
        case!(functional, installer_takes_a_configuration_and_an_upgrade_keeps_or_changes_it),
        case!(functional, installer_that_fails_leaves_no_service),
        case!(functional, installer_has_its_actions_in_an_order_that_can_be_rolled_back),
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

fn key_that_others_may_read_or_own_is_refused_with_the_commands_that_mend_it(world: &World) {
    let overlay = Overlay::plan(world, &[56]);
    let windows = WineNode::new(overlay.node(56).node.clone(), Some(56));
    let (keys, file) = (&overlay.node(56).keys, &overlay.node(56).file);
    let up = windows.config(56, keys, file);
    let install = format!("service install {}", up.strip_prefix("up ").unwrap());
    let key = windows.node.path("private.key");
    let refused = |arguments: &str| {
        let shown = windows.run(arguments).exits(4);
        let named = windows_path(&key);
        for command in ["takeown /f", "/reset", "/inheritance:r /grant:r \"*S-1-5-18:F\" \"*S-1-5-32-544:F\""]
        {
            let line = shown.stderr.lines().find(|line| line.contains(command)).unwrap_or_default();
            assert!(line.contains(&named), "{arguments}: {command}: {}", shown.both());
        }
        assert!(windows.wintun().is_empty() && windows.host().is_empty(), "{arguments}");
    };
    // Others' bits are an entry for Everyone.
    std::fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
    refused(&up);
    refused(&install);
    std::fs::set_permissions(&key, Permissions::from_mode(0o600)).unwrap();
    // Private to its owner, who installs the service; the service is another user, and a double says so.
    std::fs::write(windows.doubles.join("service-account"), "S-1-5-18").unwrap();
    refused(&install);
    windows.run("service status").exits(3);
    std::fs::remove_file(windows.doubles.join("service-account")).unwrap();
    windows.run(&install).exits(0);
    windows.run("service start").exits(0);
    windows.run("service uninstall --purge").exits(0);
}

fn service_is_installed_again_when_its_key_is_sealed_for_another_account(world: &World) {
    let overlay = Overlay::plan(world, &[56]);
    let windows = WineNode::new(overlay.node(56).node.clone(), Some(56));
    let up = windows.config(56, &overlay.node(56).keys, &overlay.node(56).file);
    let install = format!("service install {}", up.strip_prefix("up ").unwrap());
    windows.run(&install).exits(0);
    windows.run("service start").exits(0);
    windows.run("service stop").exits(0);
    // Wine has one user: that of another could be opened no more than this one, of another machine.
    let key = windows.node.path("private.key");
    let sealed = std::fs::read(&key).unwrap();
    assert!(sealed.starts_with(b"overlay-gw DPAPI 1"), "the service has sealed it");
    let mut others = sealed.clone();
    // In what Wine checks.
    let late = others.len() - 40;
    others[late] ^= 1;
    std::fs::write(&key, &others).unwrap();
    let again = windows.run(&install).exits(0);
    assert!(again.stderr.contains("private.key is sealed for another account"), "{}", again.both());
    // It is left as it is, and the service's own.
    assert_eq!(std::fs::read(&key).unwrap(), others);
    windows.run("service start").exits(4);
    std::fs::write(&key, &sealed).unwrap();
    windows.run("service start").exits(0);
    assert_eq!(windows.status().0["public_key"], overlay.node(56).keys.public.as_str());
    // The rest of the file is still looked at.
    let file = windows.node.path("config.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, format!("{text}\n[nod]\n")).unwrap();
    std::fs::write(&key, &others).unwrap();
    assert!(windows.run(&install).exits(4).stderr.contains("nod"));
    windows.run("service uninstall --purge").exits(0);
}

fn panic_of_the_service_is_in_its_log(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    windows.run("service install --slot 56").exits(0);
    windows.run("service start").exits(0);
    std::fs::write(windows.doubles.join("panic"), "").unwrap();
    let file = windows.drive_c("ProgramData/overlay-gw/logs/overlay-gw.log");
    let log = || std::fs::read_to_string(&file).unwrap();
    until("the panic has happened", || {
        let _ = windows.node.pings("172.16.8.56");
        log().contains("starting the packet path again")
    });
    for word in ["thread packets-", "doubles.rs:", "a test has asked for it"] {
        assert!(log().contains(word), "{word}: {}", log());
    }
    windows.node.reaches("172.16.8.56");
    windows.run("service uninstall --purge").exits(0);
}

/// The numbers at the beginning of the lines that begin with `before` and go on with `after`.
fn numbers(text: &str, before: &str, after: &str) -> Vec<u32> {
    let number = |line: &str| line.strip_prefix(before)?.split(after).next()?.trim().parse().ok();
    text.lines().filter_map(number).collect()
}

fn service_is_registered_with_its_settings_and_its_events_have_their_texts(world: &World) {
    let windows = WineNode::new(world.node("w", 11), None);
    let install = windows.run("service install --slot 56").exits(0);
    let registry = |key: &str| {
        let held =
            windows.windows(&["reg", "query", &format!(r"HKLM\SYSTEM\CurrentControlSet\Services\{key}")]);
        let lines = held.exits(0).stdout;
        let words = lines.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
        words.collect::<Vec<_>>()
    };
    let held = registry("overlay-gw");
    for value in [
        r"DependOnService REG_MULTI_SZ Nsi\0Tcpip",
        "ObjectName REG_SZ LocalSystem",
        "PreshutdownTimeout REG_DWORD 0x2710",
        "Start REG_DWORD 0x2",
        "Type REG_DWORD 0x10",
    ] {
        assert!(held.iter().any(|line| line == value), "{value}: {held:#?}");
    }
    // These two Wine refuses, which shows that they are asked for; the restarts after a crash it takes and does not keep.
    let warnings: Vec<_> = install.stderr.lines().filter(|line| line.starts_with("warning")).collect();
    let refused = ["the service's delayed start", "the service's restart after an error"];
    assert_eq!(warnings.len(), refused.len(), "{warnings:?}");
    assert!(warnings.iter().zip(refused).all(|(line, what)| line.contains(what)), "{warnings:?}");

    // Wine's event log stays empty. The source names the program, and the program has a text for each event of the page.
    let source = registry(r"EventLog\Application\overlay-gw");
    let program = windows_path(&windows.node.path("bin/overlay-gw.exe"));
    assert!(
        source.iter().any(|line| line.starts_with("EventMessageFile") && line.ends_with(&program)),
        "{source:?}"
    );
    let file =
        |path: &str| std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let texts = file("gateway/daemon/windows/events.mc");
    let ids = numbers(&texts, "MessageId=", "\n");
    assert!(ids.contains(&1) && ids.contains(&13), "{ids:?}");
    assert_eq!(
        numbers(&file("packaging/windows/README.md"), "| ", " |"),
        ids,
        "the page's table has all of them"
    );
    // Without its zeros a text of 16 bits is one of 8.
    let mut program = std::fs::read(windows.node.path("bin/overlay-gw.exe")).unwrap();
    program.retain(|byte| *byte != 0);
    let program = String::from_utf8_lossy(&program);
    let lines: Vec<&str> = texts.lines().collect();
    for text in lines.windows(2).filter(|pair| pair[0].starts_with("Language=")).map(|pair| pair[1]) {
        assert!(program.contains(text), "{text}");
    }
    windows.run("service uninstall").exits(0);
}

fn uninstall_finds_the_state_folder_that_the_service_was_installed_with(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let state = windows.node.path("state");
    windows.run(&format!("service install --slot 56 --state-dir {}", windows_path(&state))).exits(0);
    windows.run("service start").exits(0);
    assert!(state.join("private.key").exists());
    std::fs::write(state.join("an operator's"), "").unwrap();
    windows.node.reaches("172.16.8.56");
    let registry = ["reg", "query", r"HKLM\SOFTWARE\overlay-gw"];
    windows.windows(&registry).exits(0);
    windows.run("service uninstall --purge").exits(0);
    assert_eq!(windows.held(), Vec::<serde_json::Value>::new());
    windows.wait_wintun("close Overlay remove", 1);
    let left = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["an operator's"]);
    // What is the system's: the registry, and the driver, which goes after its last adapter.
    windows.windows(&registry).exits(1);
    assert_eq!(windows.wintun().last().map(String::as_str), Some("delete driver"));
}

fn uninstall_says_that_the_adapter_stays_for_a_foreign_address_and_down_takes_it_later(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    windows.run("service install --slot 56").exits(0);
    windows.run("service start").exits(0);
    windows.cluster_addresses(&["172.16.8.60/29"]);
    // Nothing of ours stays but what the adapter needs: no failure, and said.
    let done = windows.run("service uninstall").exits(0);
    let said = ["uninstalled", "adapter stays", "172.16.8.60/29", "overlay-gw down"];
    assert!(said.iter().all(|word| done.stdout.contains(word)), "{}", done.both());
    assert_eq!(windows.count_wintun("close Overlay remove"), 0);
    assert_eq!(windows.count_wintun("delete driver"), 0);
    windows.cluster_addresses(&[]);
    windows.run("down").exits(0);
    windows.wait_wintun("close Overlay remove", 1);
}

fn purge_takes_the_key_also_when_a_foreign_address_keeps_the_adapter(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let ours = |name: &str| windows.drive_c("ProgramData/overlay-gw").join(name);
    windows.run("service install --slot 56").exits(0);
    windows.run("service start").exits(0);
    assert!(ours("state/Overlay/private.key").exists());
    std::fs::write(ours("config.toml"), "an operator's").unwrap();
    windows.cluster_addresses(&["172.16.8.60/29"]);
    let done = windows.run("service uninstall --purge").exits(4);
    for word in ["172.16.8.60/29", "holder", "offline in the cluster"] {
        assert!(done.stderr.contains(word), "{word}: {}", done.both());
    }
    for gone in ["state", "config.toml", "logs/overlay-gw.log"] {
        assert!(!ours(gone).exists(), "{gone}: {}", done.both());
    }
    let service = windows.run("service status").exits(3);
    assert!(service.stderr.contains("is not installed"), "{}", service.both());
    // What goes with the adapter stays with it, and nothing else.
    let held = windows.held();
    let with_it =
        |change: &serde_json::Value| change["change"] == "interface" || change["change"] == "private_network";
    assert!(held.iter().all(with_it), "{held:?}");
    assert_eq!(windows.count_wintun("close Overlay remove"), 0);

    // Installed again it adopts the adapter; without the foreign address nothing stays.
    windows.run("service install --slot 56").exits(0);
    windows.run("service start").exits(0);
    assert_eq!(windows.status().0["device"]["adopted"], true);
    windows.cluster_addresses(&[]);
    windows.run("service uninstall --purge").exits(0);
    windows.wait_wintun("close Overlay remove", 1);
    assert!(!ours("").exists());
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
    windows_path(&installer_file(variable))
}

fn installer_file(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    path.unwrap_or_else(|| panic!("{variable} is not set: start these tests with tests/wine/run"))
}

/// Runs the installer's program with these words.
#[track_caller]
fn msiexec(windows: &WineNode, words: &[&str]) {
    try_msiexec(windows, words).exits(0);
}

#[track_caller]
fn try_msiexec(windows: &WineNode, words: &[&str]) -> Finished {
    let log = windows_path(&windows.node.path("msi.log"));
    let mut all = vec!["msiexec"];
    all.extend(words);
    all.extend(["/qn", "/l*v", log.as_str()]);
    windows.windows(&all)
}

/// What Windows does with an old version and a new one, which takes further words. Wine's RemoveExistingProducts does not say
/// UPGRADINGPRODUCTCODE to the old version, as Windows does: so the two halves are done one by one, with the properties that Windows
/// gives them. Between them the program is gone.
#[track_caller]
fn upgrade(windows: &WineNode, old: &str, new: &str, words: &[&str]) {
    let code = "{00000000-0000-0000-0000-000000000001}";
    msiexec(windows, &["/x", old, &format!("UPGRADINGPRODUCTCODE={code}")]);
    assert!(!windows.drive_c(INSTALLED).exists());
    windows.node.run("ping -n -c 1 -W 1 172.16.8.56").exits(1);
    let detected = format!("WIX_UPGRADE_DETECTED={code}");
    let mut all = vec!["/i", new, &detected];
    all.extend(words);
    msiexec(windows, &all);
    until("the service runs again", || installed(windows, "service status").code == Some(0));
}

/// The program that an installer has installed.
const INSTALLED: &str = "Program Files/overlay-gw/overlay-gw.exe";

/// Runs it with these arguments to its end.
#[track_caller]
fn installed(windows: &WineNode, arguments: &str) -> Finished {
    let mut command = windows.wine();
    command.arg(windows.drive_c(INSTALLED)).args(arguments.split_whitespace());
    process::run(command, arguments, Duration::from_secs(60))
}

fn installer_installs_upgrades_and_leaves_nothing(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let (old, new) = (installer("OVERLAY_MSI_OLD"), installer("OVERLAY_MSI_NEW"));
    msiexec(&windows, &["/i", &old, "SLOT=56"]);
    for file in ["overlay-gw.exe", "wintun.dll", "wintun-license.txt", "README.txt", "check.ps1"] {
        assert!(windows.drive_c("Program Files/overlay-gw").join(file).exists(), "{file}");
    }
    assert_eq!(installed(&windows, "service status --json").exits(0).json()["state"], "running");
    windows.node.reaches("172.16.8.56");
    let public = installed(&windows, "status --json").json()["public_key"].clone();

    // The adapter lives through an upgrade, and the service comes back with what it was installed with.
    upgrade(&windows, &old, &new, &[]);
    windows.node.reaches("172.16.8.56");
    let status = installed(&windows, "status --json").json();
    assert_eq!(status["public_key"], public);
    assert_eq!(status["device"]["adopted"], true);
    assert_eq!(windows.count_wintun("create"), 1, "{:?}", windows.wintun());
    assert_eq!(windows.count_wintun("close Overlay remove"), 0, "{:?}", windows.wintun());

    msiexec(&windows, &["/x", &new]);
    assert!(!windows.drive_c(INSTALLED).exists());
    assert!(!windows.drive_c("ProgramData/overlay-gw").exists());
    assert_eq!(windows.held(), Vec::<serde_json::Value>::new());
    windows.wait_wintun("close Overlay remove", 1);
    windows.run("service status").exits(3);

    // Asked to keep the configuration, it keeps the key: the node is the same when it comes back.
    msiexec(&windows, &["/i", &new, "SLOT=56"]);
    let public = installed(&windows, "status --json").json()["public_key"].clone();
    msiexec(&windows, &["/x", &new, "KEEPCONFIG=1"]);
    assert!(windows.drive_c("ProgramData/overlay-gw/state/Overlay/private.key").exists());
    msiexec(&windows, &["/i", &new, "SLOT=56"]);
    assert_eq!(installed(&windows, "status --json").json()["public_key"], public);
}

fn installer_takes_a_configuration_and_an_upgrade_keeps_or_changes_it(world: &World) {
    let mut overlay = Overlay::plan(world, &[56]);
    overlay.hub.start();
    let windows = WineNode::new(overlay.node(56).node.clone(), Some(56));
    let (old, new) = (installer("OVERLAY_MSI_OLD"), installer("OVERLAY_MSI_NEW"));
    // Two packs in folders whose names have a blank in them; the second one's node has another key, which the hub does not know.
    let pack = |name: &str, keys: &Keys| {
        let folder = windows.node.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        let key = windows.node.write(&format!("{name}/private.key"), &format!("{}\n", keys.private));
        assert!(key.starts_with(&folder), "{}", key.display());
        std::fs::write(folder.join("config.toml"), overlay.node(56).file.text()).unwrap();
        folder.join("config.toml")
    };
    let (keys, others) = (&overlay.node(56).keys, Keys::new());
    let (first, second) = (pack("pack one", keys), pack("pack two", &others));
    let config = |path: &std::path::Path| format!("CONFIG={}", windows_path(path));
    // Every command finds the service by the file that it was installed with.
    let runs_with = |path: &std::path::Path, keys: &Keys| {
        let shown = installed(&windows, "service status --json").exits(0).json();
        assert!(shown["command"].as_str().unwrap().contains(&windows_path(path)), "{shown}");
        assert_eq!(windows.status().0["public_key"], keys.public.as_str());
    };

    msiexec(&windows, &["/i", &old, &config(&first)]);
    runs_with(&first, keys);
    windows.wait_session(HUB);
    // Without a word it keeps the file that the service was installed with.
    upgrade(&windows, &old, &new, &[]);
    runs_with(&first, keys);
    windows.wait_session(HUB);
    // A file that is given counts, also where the service is installed with another.
    upgrade(&windows, &new, &old, &[&config(&second)]);
    runs_with(&second, &others);
    assert!(!windows.status().session(HUB));

    // What was the operator's before stays his; what was ours is gone.
    msiexec(&windows, &["/x", &old]);
    assert!(first.exists() && second.exists());
    assert!(!windows.drive_c("ProgramData/overlay-gw").exists());
    assert_eq!(windows.held(), Vec::<serde_json::Value>::new());
    windows.wait_wintun("close Overlay remove", 1);
    windows.run("service status").exits(3);
}

fn installer_that_fails_leaves_no_service(world: &World) {
    let windows = WineNode::new(world.node("w", 11), Some(56));
    let installer = installer("OVERLAY_MSI_NEW");
    let config = windows.node.write("config.toml", "version = 1\n\n[nod]\nname = \"x\"\n");
    let config = format!("CONFIG={}", windows_path(&config));
    let done = try_msiexec(&windows, &["/i", &installer, &config]);
    assert_ne!(done.code, Some(0), "{}", done.both());
    let status = windows.run("service status").exits(3);
    assert!(status.stderr.contains("is not installed"), "{}", status.both());
    assert!(windows.wintun().is_empty() && windows.host().is_empty());
    // What had been done is undone, in a script of its own. Wine runs that from its first line to its last, Windows from the last to the
    // first: here the program is gone before UndoInstall needs it, and is put back in the end. So the files are not looked at, nor is
    // what UndoInstall does.
    let log = std::fs::read_to_string(windows.node.path("msi.log")).unwrap();
    let failed = log.find("INSTALL. Return value 0").expect("the installation has failed");
    assert!(log[failed..].contains("UndoInstall"), "{log}");

    msiexec(&windows, &["/i", &installer, "SLOT=56"]);
    assert_eq!(installed(&windows, "service status --json").exits(0).json()["state"], "running");
    msiexec(&windows, &["/x", &installer]);
}

/// A table of the installer, as lines of columns.
fn table(name: &str) -> Vec<Vec<String>> {
    let mut command = Command::new("msiinfo");
    command.arg("export").arg(installer_file("OVERLAY_MSI_NEW")).arg(name);
    let shown = process::run(command, "msiinfo", Duration::from_secs(60)).exits(0).stdout;
    // Names of the columns, their types, the table's name.
    shown.lines().skip(3).map(|line| line.trim_end().split('\t').map(str::to_owned).collect()).collect()
}

/// Wine does not undo an upgrade, so this is held by what the tables say (Windows Installer's documentation: RemoveExistingProducts, and
/// Custom Action Types).
fn installer_has_its_actions_in_an_order_that_can_be_rolled_back(_: &World) {
    /// msidbCustomActionTypeRollback, msidbCustomActionTypeInScript.
    const ROLLBACK: u32 = 0x100 | 0x400;
    let types = table("CustomAction");
    for action in ["UndoInstall", "UndoStart", "UndoStop"] {
        let line = types.iter().find(|line| line[0] == action).unwrap();
        assert_eq!(line[1].parse::<u32>().unwrap() & ROLLBACK, ROLLBACK, "{line:?}");
    }
    let sequence = table("InstallExecuteSequence");
    let at = |action: &str| {
        let line =
            sequence.iter().find(|line| line[0] == action).unwrap_or_else(|| panic!("{action} is missing"));
        line[2].parse::<u32>().unwrap()
    };
    let orders: [&[&str]; 3] = [
        // The last ones of a rollback are the first ones here.
        &["InstallInitialize", "RemoveExistingProducts", "UndoStop", "Stop", "RemoveFiles", "InstallFiles"],
        &["InstallFiles", "UndoInstall", "InstallBySlot", "InstallByConfig", "Start", "InstallFinalize"],
        &["InstallFiles", "UndoStart", "InstallByConfig", "StartAgain", "InstallFinalize"],
    ];
    for order in orders {
        assert!(order.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{order:?}: {sequence:?}");
    }
    // Between these two nothing may be written into the script.
    let removal = at("InstallInitialize")..at("RemoveExistingProducts");
    let between = sequence.iter().filter(|line| removal.contains(&at(&line[0]))).count();
    assert_eq!(between, 1, "InstallInitialize alone: {sequence:?}");
}
