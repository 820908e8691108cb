//! The service control manager: install, uninstall, start, stop, status, and the service's own main.

use super::{Notice, SERVICE, events};
use crate::cli::{Cli, Global, UpArgs};
use crate::config_file::{Kind, Origin};
use crate::exit::{self, Failure};
use crate::state::{self, StateFolder};
use clap::Parser as _;
use overlay_config::membership::RECORDS_FILE;
use overlay_config::{HostFacts, Overrides};
use overlay_platform::os::{self, places};
use overlay_platform::record;
use serde_json::json;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use windows_service::service::{
    Service, ServiceAccess, ServiceAction, ServiceActionType, ServiceControl, ServiceControlAccept,
    ServiceDependency, ServiceErrorControl, ServiceExitCode, ServiceFailureActions,
    ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult, ServiceStatusHandle};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};

/// The service's name.
const NAME: &str = "overlay-gw";

/// How long a start may take: the adapter alone is tried for 15 s at boot.
const START: Duration = Duration::from_secs(60);

/// How long a stop may take.
const STOP: Duration = Duration::from_secs(5);

/// After a crash the service is started again this much later.
const RECOVERY: Duration = Duration::from_secs(5);

/// At a shutdown of the machine the service is stopped before the others, which have so long to wait for it.
const PRESHUTDOWN: Duration = Duration::from_secs(10);

/// ERROR_SERVICE_DOES_NOT_EXIST, ERROR_SERVICE_NOT_ACTIVE, ERROR_SERVICE_ALREADY_RUNNING (winerror.h).
const DOES_NOT_EXIST: i32 = 1060;
const NOT_ACTIVE: i32 = 1062;
const ALREADY_RUNNING: i32 = 1056;

/// Between two looks at a service's state.
const PACE: Duration = Duration::from_millis(100);

fn failed(what: &str, error: &windows_service::Error) -> Failure {
    let (why, fix) = match error {
        windows_service::Error::Winapi(source) if source.raw_os_error() == Some(DOES_NOT_EXIST) => {
            return Failure::no_service(
                "the service is not installed",
                "overlay-gw service install --slot 56, or --config FILE",
            );
        }
        windows_service::Error::Winapi(source) => {
            (source.to_string(), "run in a console of an administrator")
        }
        other => (other.to_string(), "look at the service in services.msc"),
    };
    Failure::bad_input(format!("cannot {what} the service: {why}"), fix)
}

fn manager(access: ServiceManagerAccess) -> Result<ServiceManager, Failure> {
    ServiceManager::local_computer(None::<&str>, access)
        .map_err(|error| failed("reach the manager of", &error))
}

fn open(access: ServiceAccess) -> Result<Service, Failure> {
    manager(ServiceManagerAccess::CONNECT)?.open_service(NAME, access).map_err(|error| failed("open", &error))
}

/// `service install`. An installed service is given the new settings.
///
/// # Errors
/// A configuration with mistakes; what the manager refuses.
pub fn install(slot: Option<&str>, global: &Global) -> Result<u8, Failure> {
    // Before anything is changed: would it start?
    let overrides = Overrides { slot: slot.map(str::to_owned), ..Overrides::default() };
    let mut origin = Origin::new(Kind::Node, global, overrides);
    origin.for_another_account = true;
    let config = origin.load(&HostFacts::default())?;
    let state = StateFolder::new(global.state_dir.as_deref(), &config.device.name);
    check_keys(origin.key_files().into_iter().chain([state.key_file()]))?;
    let program = std::env::current_exe().map_err(anyhow::Error::from)?;
    let absolute =
        |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone()).into_os_string();
    let mut arguments: Vec<OsString> = vec!["service".into(), "run".into()];
    let options =
        [("--config", &global.config), ("--state-dir", &global.state_dir), ("--control", &global.control)];
    for (flag, path) in options {
        if let Some(path) = path {
            arguments.extend([flag.into(), absolute(path)]);
        }
    }
    if let Some(slot) = slot {
        arguments.extend(["--slot".into(), slot.into()]);
    }
    let info = ServiceInfo {
        name: NAME.into(),
        display_name: "overlay-gw".into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: program.clone(),
        launch_arguments: arguments,
        // IP has to be there before an adapter can be given an address.
        dependencies: ["Nsi", "Tcpip"].map(|name| ServiceDependency::Service(name.into())).to_vec(),
        account_name: None,
        account_password: None,
    };
    let manager = manager(ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE)?;
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::QUERY_STATUS | ServiceAccess::START;
    let service = match manager.open_service(NAME, access) {
        Ok(service) => {
            service.change_config(&info).map_err(|error| failed("change", &error))?;
            service
        }
        Err(_) => manager.create_service(&info, access).map_err(|error| failed("install", &error))?,
    };
    let text = "Tunnel and gateway of this node in the overlay of its failover cluster.";
    // Without them it runs all the same: each is said when it is refused.
    let settings = [
        ("description", service.set_description(text)),
        ("delayed start", service.set_delayed_auto_start(true)),
        ("restart after a crash", service.update_failure_actions(recovery())),
        ("restart after an error", service.set_failure_actions_on_non_crash_failures(true)),
        ("order at shutdown", service.set_preshutdown_timeout(PRESHUTDOWN)),
    ];
    for (what, done) in settings {
        if let Err(error) = done {
            eprintln!("warning: the service's {what} could not be set: {error}");
        }
    }
    if let Err(error) = events::register(&program) {
        eprintln!("warning: the source of the event log could not be registered: {error}");
    }
    println!("installed; start it with `overlay-gw service start`");
    Ok(exit::OK)
}

/// What the service manager does when the service's process ends without a word: it starts it again, however often.
fn recovery() -> ServiceFailureActions {
    // The last one counts for all that follow.
    let again = ServiceAction { action_type: ServiceActionType::Restart, delay: RECOVERY };
    ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(Duration::from_secs(600)),
        reboot_msg: None,
        command: None,
        actions: Some(vec![again.clone(), again.clone(), again]),
    }
}

/// Refuses a key that the service would refuse at its start: it is private in the eyes of who installs the service and owns it, and the
/// service is another user.
fn check_keys(files: impl Iterator<Item = PathBuf>) -> Result<(), Failure> {
    for file in files {
        let private = match os::is_private_for_service(&file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            private => private,
        };
        let name = file.display();
        match private {
            // The service has sealed it at an earlier start, or it is damaged: only the service can tell.
            Ok(true) if std::fs::read(&file).and_then(os::open_key).is_err() => {
                eprintln!("{name} is sealed for another account, the service's: it is left as it is");
            }
            Ok(true) => {}
            Ok(false) => {
                return Err(Failure::bad_input(
                    format!(
                        "{name}: this key belongs to somebody else than SYSTEM or the Administrators, or others can read it; the service would not take it"
                    ),
                    os::private_fix(&name.to_string()),
                ));
            }
            Err(error) => {
                return Err(Failure::bad_input(
                    format!("cannot see who may read {name}: {error}"),
                    "run in a console of an administrator",
                ));
            }
        }
    }
    Ok(())
}

/// `service uninstall`: the service, and all that it left on the host; `purge`: also configuration, keys and logs.
///
/// # Errors
/// What the manager refuses.
pub fn uninstall(purge: bool, global: &Global) -> Result<u8, Failure> {
    let access = ServiceAccess::QUERY_STATUS
        | ServiceAccess::QUERY_CONFIG
        | ServiceAccess::STOP
        | ServiceAccess::DELETE;
    let mut global = global.clone();
    let installed = match open(access) {
        Ok(service) => {
            let with = service.query_config().ok();
            let with = with.and_then(|config| installed_with(&config.executable_path.to_string_lossy()));
            global.state_dir = global.state_dir.or_else(|| with.and_then(|with| with.state_dir));
            halt(&service)?;
            service.delete().map_err(|error| failed("delete", &error))?;
            true
        }
        Err(failure) if failure.code == exit::NO_SERVICE => false,
        Err(failure) => return Err(failure),
    };
    events::unregister();
    // Adapter, addresses, routes, rules: as a stopped service leaves them.
    let taken = match crate::client::take_down(&global) {
        Err(failure) if failure.code == exit::NO_SERVICE && (installed || purge) => Ok(Vec::new()),
        taken => taken.map(|down| down.kept),
    };
    if taken.as_ref().is_ok_and(Vec::is_empty) {
        forget_system();
    }
    if purge {
        // Also when the host has refused something: the key must not stay for its sake.
        let chosen = global.state_dir.as_deref().map_or(Ok(()), purge_state);
        self::purge(taken.as_deref().unwrap_or_default())?;
        chosen?;
    }
    match taken?.as_slice() {
        [] => println!("uninstalled"),
        kept => println!(
            "uninstalled; the adapter stays, with the process that holds it, for {} on it, which overlay-gw has not added; when that is offline in the \
             cluster, `overlay-gw down{}` takes the adapter away",
            kept.join(", "),
            global
                .state_dir
                .map(|folder| format!(" --state-dir \"{}\"", folder.display()))
                .unwrap_or_default()
        ),
    }
    Ok(exit::OK)
}

/// The flags that the service was installed with, by its command line.
fn installed_with(command: &str) -> Option<Global> {
    Cli::try_parse_from(words(command)).ok().map(|cli| cli.global)
}

/// The words of a command line, as the C runtime of Windows splits it (Microsoft's "Parsing C command-line arguments"): quotes hold
/// blanks together, and backslashes count only in front of a quote.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted, mut backslashes) = (Vec::new(), None::<String>, false, 0);
    for c in command.chars() {
        if c == '\\' {
            backslashes += 1;
            continue;
        }
        let literal = c == '"' && backslashes % 2 == 1;
        if backslashes > 0 {
            let count = if c == '"' { backslashes / 2 } else { backslashes };
            word.get_or_insert_default().push_str(&"\\".repeat(count));
            backslashes = 0;
        }
        match c {
            '"' if !literal => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' | '\t' if !quoted => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if backslashes > 0 {
        word.get_or_insert_default().push_str(&"\\".repeat(backslashes));
    }
    words.extend(word);
    words
}

/// What no adapter needs any more: the boot's id in the registry, unless there is another record, which counts by it; and the driver, unless
/// another program has an adapter of it.
fn forget_system() {
    let folders = std::fs::read_dir(places::state_root()).into_iter().flatten().flatten();
    let needed = folders.map(|folder| folder.path().join(record::FILE)).any(|record| record.exists());
    if !needed && let Err(error) = os::forget_boot() {
        eprintln!("warning: HKLM\\SOFTWARE\\overlay-gw stays in the registry: {error}");
    }
    if let Err(error) = os::delete_driver() {
        eprintln!("the driver Wintun stays: {error}");
    }
}

/// Removes our files from a state folder that the operator has chosen, and the folder if nothing else is in it.
fn purge_state(folder: &Path) -> Result<(), Failure> {
    for name in [state::KEY, state::LISTENERS, state::CLOCK, state::LOCK, RECORDS_FILE, record::FILE] {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::bad_input(
                    format!("cannot remove {}: {error}", path.display()),
                    "close what has it open, and remove it by hand",
                ));
            }
            _ => {}
        }
    }
    let _ = std::fs::remove_dir(folder);
    Ok(())
}

/// Removes configuration, keys and logs. `kept`: the addresses that are not ours, for whose sake the adapter stays, and with it its
/// holder, which runs from a copy of the program in that folder.
fn purge(kept: &[String]) -> Result<(), Failure> {
    let (root, begin) = (places::root(), Instant::now());
    let mut left = remove_what_can_be(&root);
    // A holder that has just ended lets go of its file a moment later.
    while kept.is_empty() && !left.is_empty() && begin.elapsed() < STOP {
        std::thread::sleep(PACE);
        left = remove_what_can_be(&root);
    }
    let Some((path, error)) = left.first() else { return Ok(()) };
    if kept.is_empty() {
        return Err(Failure::bad_input(
            format!("cannot remove {}: {error}", path.display()),
            "close what has a file of it open, and remove it by hand",
        ));
    }
    let stays: Vec<_> = left.iter().map(|(path, _)| path.display().to_string()).collect();
    let (one, addresses) = (kept.len() == 1, kept.join(", "));
    Err(Failure::bad_input(
        format!(
            "the adapter stays, for {addresses} on it {} not ours; so do the process that holds it and {}. All else is removed",
            if one { "is" } else { "are" },
            stays.join(", ")
        ),
        format!(
            "take {} offline in the cluster, end the process overlay-gw.exe that runs from there (the adapter goes with it), and remove {}",
            if one { "it" } else { "them" },
            root.display()
        ),
    ))
}

/// Removes the folder, or as much of what is in it as can be; returns what stays, and why.
fn remove_what_can_be(path: &Path) -> Vec<(PathBuf, std::io::Error)> {
    // A link to a folder is none.
    let is_folder = std::fs::symlink_metadata(path).is_ok_and(|facts| facts.is_dir());
    let mut error = match if is_folder { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) } {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => error,
        _ => return Vec::new(),
    };
    // One by one, with the keys first: a file that is in use must not keep another alive.
    if is_folder && let Ok(entries) = std::fs::read_dir(path) {
        let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort_by_key(|path| *path != places::state_root());
        let left: Vec<_> = entries.iter().flat_map(|path| remove_what_can_be(path)).collect();
        if !left.is_empty() {
            return left;
        }
        match std::fs::remove_dir(path) {
            Err(again) if again.kind() != std::io::ErrorKind::NotFound => error = again,
            _ => return Vec::new(),
        }
    }
    vec![(path.to_owned(), error)]
}

/// `service start`
///
/// # Errors
/// When it does not come to run.
pub fn start() -> Result<u8, Failure> {
    let service = open(ServiceAccess::QUERY_STATUS | ServiceAccess::START)?;
    match service.start::<OsString>(&[]) {
        Err(windows_service::Error::Winapi(error)) if error.raw_os_error() == Some(ALREADY_RUNNING) => {}
        done => done.map_err(|error| failed("start", &error))?,
    }
    let begin = Instant::now();
    loop {
        let status = service.query_status().map_err(|error| failed("ask", &error))?;
        match status.current_state {
            ServiceState::Running => break,
            ServiceState::Stopped => {
                return Err(Failure::bad_input(
                    format!("the service has stopped: {:?}", status.exit_code),
                    where_it_says_why(),
                ));
            }
            _ if begin.elapsed() > START => {
                return Err(Failure::bad_input(
                    format!("the service does not run after {} s", START.as_secs()),
                    where_it_says_why(),
                ));
            }
            _ => std::thread::sleep(PACE),
        }
    }
    println!("running");
    Ok(exit::OK)
}

/// Where a service that does not run has said why.
fn where_it_says_why() -> String {
    let log = places::logs().join("overlay-gw.log");
    format!("the reason is in the event log (Application, source overlay-gw), and in {}", log.display())
}

/// `service stop`
///
/// # Errors
/// When it does not stop.
pub fn stop() -> Result<u8, Failure> {
    halt(&open(ServiceAccess::QUERY_STATUS | ServiceAccess::STOP)?)?;
    println!("stopped; the adapter stays until `overlay-gw down` or `overlay-gw service uninstall`");
    Ok(exit::OK)
}

/// Ends with the process, not with its word that it has stopped: until then its file cannot be removed nor replaced.
fn halt(service: &Service) -> Result<(), Failure> {
    let process = service.query_status().ok().and_then(|status| status.process_id);
    let process = process.and_then(|number| os::Process::open(number).ok());
    match service.stop() {
        Err(windows_service::Error::Winapi(error)) if error.raw_os_error() == Some(NOT_ACTIVE) => {}
        done => _ = done.map_err(|error| failed("stop", &error))?,
    }
    let begin = Instant::now();
    loop {
        let status = service.query_status().map_err(|error| failed("ask", &error))?;
        if status.current_state == ServiceState::Stopped
            && process.as_ref().is_none_or(|process| process.wait(PACE))
        {
            return Ok(());
        }
        if begin.elapsed() > 2 * STOP {
            return Err(Failure::bad_input("the service does not stop", "end its process, then try again"));
        }
        std::thread::sleep(PACE);
    }
}

/// `service status`: exit code 0 when it runs, 3 when it does not.
///
/// # Errors
/// When it is not installed (exit code 3).
pub fn status(global: &Global) -> Result<u8, Failure> {
    let service = open(ServiceAccess::QUERY_STATUS | ServiceAccess::QUERY_CONFIG)?;
    let status = service.query_status().map_err(|error| failed("ask", &error))?;
    let config = service.query_config().map_err(|error| failed("ask", &error))?;
    let state = match status.current_state {
        ServiceState::Running => "running",
        ServiceState::Stopped => "stopped",
        ServiceState::StartPending => "starting",
        ServiceState::StopPending => "stopping",
        _ => "paused",
    };
    let program = config.executable_path.display().to_string();
    if global.json {
        println!("{}", json!({ "state": state, "pid": status.process_id, "command": program }));
    } else {
        println!("{state}\n  {program}");
    }
    Ok(if status.current_state == ServiceState::Running { exit::OK } else { exit::NO_SERVICE })
}

/// The running service, as its manager sees it.
#[derive(Debug)]
pub struct Running {
    handle: ServiceStatusHandle,
    told: Notify,
    stop: AtomicBool,
    reload: AtomicBool,
}

impl Running {
    /// The next thing that the manager wants.
    pub async fn next(&self) -> Notice {
        loop {
            if self.stop.load(Ordering::Acquire) {
                return Notice::Stop;
            }
            if self.reload.swap(false, Ordering::AcqRel) {
                return Notice::Reload;
            }
            self.told.notified().await;
        }
    }

    /// Packets can flow.
    pub fn running(&self) {
        self.report(ServiceState::Running, Duration::ZERO, ServiceExitCode::NO_ERROR);
    }

    /// The end has begun.
    pub fn stopping(&self) {
        self.report(ServiceState::StopPending, STOP, ServiceExitCode::NO_ERROR);
    }

    fn report(&self, state: ServiceState, hint: Duration, exit_code: ServiceExitCode) {
        let accepted = match state {
            ServiceState::Running => {
                ServiceControlAccept::STOP
                    | ServiceControlAccept::PRESHUTDOWN
                    | ServiceControlAccept::PARAM_CHANGE
            }
            _ => ServiceControlAccept::empty(),
        };
        let status = ServiceStatus {
            service_type: ServiceType::OWN_PROCESS,
            current_state: state,
            controls_accepted: accepted,
            exit_code,
            checkpoint: u32::from(!hint.is_zero()),
            wait_hint: hint,
            process_id: None,
        };
        if let Err(error) = self.handle.set_service_status(status) {
            tracing::warn!(%error, "the service manager does not listen");
        }
    }

    fn want(&self, flag: &AtomicBool) {
        flag.store(true, Ordering::Release);
        self.told.notify_one();
    }
}

/// What the command line said, for the service's main, which the system calls on a thread of its own.
static ARGUMENTS: Mutex<Option<(Option<String>, Global)>> = Mutex::new(None);

define_windows_service!(service_entry, service_main);

/// `service run`: becomes the service.
///
/// # Errors
/// When the manager has not started this process.
pub fn run(slot: Option<String>, global: &Global) -> Result<u8, Failure> {
    if let Ok(mut arguments) = ARGUMENTS.lock() {
        *arguments = Some((slot, global.clone()));
    }
    service_dispatcher::start(NAME, service_entry).map_err(|error| {
        Failure::bad_input(
            format!("this command is for the service control manager: {error}"),
            "overlay-gw service start; by hand: overlay-gw up",
        )
    })?;
    Ok(exit::OK)
}

fn service_main(_: Vec<OsString>) {
    let Some((slot, global)) = ARGUMENTS.lock().ok().and_then(|mut arguments| arguments.take()) else {
        return;
    };
    let handler = |control| match control {
        ServiceControl::Stop | ServiceControl::Preshutdown => {
            SERVICE.get().inspect(|service| service.want(&service.stop));
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::ParamChange => {
            SERVICE.get().inspect(|service| service.want(&service.reload));
            ServiceControlHandlerResult::NoError
        }
        ServiceControl::Interrogate => ServiceControlHandlerResult::NoError,
        _ => ServiceControlHandlerResult::NotImplemented,
    };
    let handle = match service_control_handler::register(NAME, handler) {
        Ok(handle) => handle,
        Err(error) => {
            tracing::error!(%error, "the service manager takes no handler");
            return;
        }
    };
    let service = SERVICE.get_or_init(|| Running {
        handle,
        told: Notify::new(),
        stop: AtomicBool::new(false),
        reload: AtomicBool::new(false),
    });
    service.report(ServiceState::StartPending, START, ServiceExitCode::NO_ERROR);
    let args = UpArgs { listen: None, slot, overlay: None, device: None, mode: None, persist: true };
    let started = super::check_logs(&places::logs()).and_then(|()| crate::node::up(&args, &global));
    let code = match started {
        Ok(code) => code,
        Err(failure) => {
            tracing::error!("{failure}");
            events::write_start_failed(&failure.to_string());
            failure.code
        }
    };
    let code = match code {
        exit::OK => ServiceExitCode::NO_ERROR,
        code => ServiceExitCode::ServiceSpecific(u32::from(code)),
    };
    service.report(ServiceState::Stopped, Duration::ZERO, code);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crash_is_followed_by_a_start_five_seconds_later() {
        // Wine takes these and keeps none of them.
        let actions = recovery().actions.unwrap();
        assert_eq!(actions.len(), 3);
        for action in actions {
            assert_eq!(
                (action.action_type, action.delay),
                (ServiceActionType::Restart, Duration::from_secs(5))
            );
        }
    }

    #[test]
    fn a_services_command_line_says_what_it_was_installed_with() {
        let line = r#""C:\Program Files\overlay-gw\overlay-gw.exe" service run --config "C:\my packs\config.toml" --state-dir "D:\a state\\" --slot 56"#;
        let with = installed_with(line).unwrap();
        assert_eq!(with.config, Some(PathBuf::from(r"C:\my packs\config.toml")));
        assert_eq!(with.state_dir, Some(PathBuf::from(r"D:\a state\")));
        assert_eq!(with.control, None);
        assert!(installed_with("C:\\windows\\system32\\svchost.exe -k netsvcs").is_none());
        assert_eq!(words(r#"a "" \\b\"c"#), ["a", "", r#"\\b"c"#]);
    }
}
