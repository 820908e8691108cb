//! A Windows machine, as far as Wine is one: its own prefix, the program with the doubles beside it, and an adapter that is a TUN
//! device of its namespace.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use overlay_tests::config_text::ConfigText;
use overlay_tests::gateway::Status;
use overlay_tests::keys::Keys;
use overlay_tests::node::Node;
use overlay_tests::process::{self, Finished, Process};
use overlay_tests::wait::{PATIENCE, until, until_in};

use crate::bridge;

/// How the line begins that says the program's exit code. That of Wine's own process is another: it dies of a signal now and then
/// (in about one of a hundred runs) after the program has ended.
const EXITED: &str = "overlay-gw.exe exited with ";
/// Wine itself: its wrapper script looks for a 32-bit one.
const WINE: &str = "/usr/lib/wine/wine64";

/// The adapter.
pub const ADAPTER: &str = "Overlay";

/// A node whose program is overlay-gw.exe.
pub struct WineNode {
    /// Its machine.
    pub node: Node,
    prefix: PathBuf,
    /// Wine's server, and what it starts with the first program: not with the output of a test's program.
    _wine: Vec<Process>,
    /// What the doubles write.
    pub doubles: PathBuf,
    program: PathBuf,
}

/// The file that `tests/wine/run` has made, by the variable in which it says so.
fn made(variable: &str) -> PathBuf {
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path = path.unwrap_or_else(|| panic!("{variable} is not set: start these tests with tests/wine/run"));
    assert!(path.exists(), "{} is missing", path.display());
    path
}

/// A Linux path as Windows programs name it.
pub fn windows_path(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}

/// A service has the system's environment, as it was when Wine's service manager started: the doubles have to be in it.
fn give_services_environment(registry: &Path, doubles: &Path) {
    let section = r"[System\\CurrentControlSet\\Control\\Session Manager\\Environment]";
    let text = fs::read_to_string(registry).unwrap();
    let at = text.find(section).expect("the system's environment");
    let line_end = at + text[at..].find('\n').unwrap() + 1;
    let values = format!(
        "\"OVERLAY_GW_DOUBLES\"=\"{}\"\n\"OVERLAY_WINTUN_PORT\"=\"{}\"\n",
        windows_path(doubles).replace('\\', r"\\"),
        bridge::PORT
    );
    fs::write(registry, format!("{}{values}{}", &text[..line_end], &text[line_end..])).unwrap();
}

impl WineNode {
    /// The machine with a fresh prefix and, when `slot` is given, an adapter.
    pub fn new(node: Node, slot: Option<u8>) -> Self {
        let (prefix, doubles, bin) = (node.path("prefix"), node.path("doubles"), node.path("bin"));
        for folder in [&prefix, &doubles, &bin] {
            fs::create_dir_all(folder).unwrap();
        }
        let base = made("OVERLAY_WINE_PREFIX");
        // What Wine installs is large and never changes: links to it. What a test changes is its own.
        let copied = format!("cp -as {} {}", base.join("drive_c").display(), prefix.display());
        node.ok(&copied);
        for name in ["system.reg", "user.reg", "userdef.reg", ".update-timestamp", "dosdevices"] {
            node.ok(&format!("cp -a {} {}", base.join(name).display(), prefix.display()));
        }
        give_services_environment(&prefix.join("system.reg"), &doubles);
        let program = bin.join("overlay-gw.exe");
        fs::copy(made("OVERLAY_GW_EXE"), &program).unwrap();
        fs::copy(made("OVERLAY_WINTUN_DOUBLE"), bin.join("wintun.dll")).unwrap();
        let ask = format!("@\"%~dp0overlay-gw.exe\" %*\r\n@echo {EXITED}%errorlevel%\r\n");
        fs::write(bin.join("ask.cmd"), ask).unwrap();
        if let Some(slot) = slot {
            bridge::lay(&node, ADAPTER, Ipv4Addr::new(172, 16, 8, slot + 1));
        }
        let mut windows = Self { node, prefix, _wine: Vec::new(), doubles, program };
        let mut server = windows.node.command("/usr/lib/wine/wineserver64");
        server.env("WINEPREFIX", &windows.prefix).args(["-f", "-p"]);
        let server = windows.node.spawn_command("wineserver", server, "wineserver");
        let mut boot = windows.wine();
        boot.arg("wineboot");
        let mut boot = windows.node.spawn_command("wineboot", boot, "wineboot");
        boot.wait(2 * PATIENCE);
        windows._wine = vec![server, boot];
        windows
    }

    /// A Windows program, to be run here.
    pub fn wine(&self) -> Command {
        let mut command = self.node.command(WINE);
        command
            .env("WINEPREFIX", &self.prefix)
            .env("WINEDEBUG", "-all")
            .env("WINEDLLOVERRIDES", "winedbg.exe=d;mscoree=d;mshtml=d")
            .env("OVERLAY_GW_DOUBLES", windows_path(&self.doubles))
            .env("OVERLAY_WINTUN_PORT", bridge::PORT.to_string());
        command
    }

    /// Runs overlay-gw.exe with these arguments (words between blanks) to its end.
    #[track_caller]
    pub fn run(&self, arguments: &str) -> Finished {
        let mut command = self.wine();
        let ask = windows_path(&self.program.with_file_name("ask.cmd"));
        command.args(["cmd", "/c", &ask]).args(arguments.split_whitespace());
        let what = format!("{}: overlay-gw.exe {arguments}", self.node.name());
        let mut done = process::run(command, &what, Duration::from_secs(90));
        let mut lines: Vec<&str> = done.stdout.lines().collect();
        let exited = lines.pop().and_then(|line| line.strip_prefix(EXITED)).map(str::to_owned);
        let said = lines.iter().map(|line| format!("{line}\n")).collect();
        (done.code, done.stdout) = (exited.and_then(|code| code.trim().parse().ok()), said);
        done
    }

    /// Runs another Windows program to its end.
    #[track_caller]
    pub fn windows(&self, words: &[&str]) -> Finished {
        let mut command = self.wine();
        command.args(words);
        process::run(command, &words.join(" "), Duration::from_secs(120))
    }

    /// Starts overlay-gw.exe with these arguments, and waits for `ready`.
    #[track_caller]
    pub fn start(&self, arguments: &str) -> Process {
        let mut process = self.spawn(arguments);
        process.wait_stderr(2 * PATIENCE, |line| line.trim_end() == "ready");
        process
    }

    /// Starts overlay-gw.exe with these arguments.
    #[track_caller]
    pub fn spawn(&self, arguments: &str) -> Process {
        let mut command = self.wine();
        command.arg(&self.program).args(arguments.split_whitespace()).arg("-v");
        self.node.spawn_command("overlay-gw.exe", command, arguments)
    }

    /// Its file as a node of the recipe with that hub; returns the arguments of `up`.
    pub fn config(&self, slot: u8, keys: &Keys, file: &ConfigText) -> String {
        self.node.write("private.key", &format!("{}\n", keys.private));
        let config = self.node.write("config.toml", &file.text());
        assert!(file.text().contains(&format!("slot = {slot}")));
        format!("up --config {}", windows_path(&config))
    }

    /// What `status --json` says now.
    #[track_caller]
    pub fn status(&self) -> Status {
        let mut shown = self.run("status --json");
        if shown.code.is_none() {
            // Wine itself died. Nothing was changed by the question, so it is asked again.
            eprintln!("wine died: status is asked again");
            shown = self.run("status --json");
        }
        assert!(matches!(shown.code, Some(0..=2)), "status: {:?}\n{}", shown.code, shown.both());
        Status(shown.json())
    }

    /// Waits until there is a session with that peer.
    #[track_caller]
    pub fn wait_session(&self, peer: &str) {
        until_in(2 * PATIENCE, &format!("a session with {peer}"), || self.status().session(peer));
    }

    /// The lines of the double of wintun.dll, without the number of the process.
    pub fn wintun(&self) -> Vec<String> {
        let text = fs::read_to_string(self.doubles.join("wintun.txt")).unwrap_or_default();
        text.lines().map(|line| line.split(" process ").next().unwrap_or_default().to_owned()).collect()
    }

    /// Waits until the double of wintun.dll has written so many lines that begin with `what`.
    #[track_caller]
    pub fn wait_wintun(&self, what: &str, count: usize) {
        until(&format!("{count} times {what:?}"), || self.count_wintun(what) >= count);
    }

    /// How many lines of the double of wintun.dll begin with `what`.
    pub fn count_wintun(&self, what: &str) -> usize {
        self.wintun().iter().filter(|line| line.starts_with(what)).count()
    }

    /// What the double of the host has recorded: each change with `applied` or `undone`, without the device.
    pub fn host(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.doubles.join("host.jsonl")).unwrap_or_default();
        let mut lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        for line in &mut lines {
            line.as_object_mut().unwrap().remove("device");
        }
        lines
    }

    /// What is on the host now, by what the double has recorded.
    pub fn held(&self) -> Vec<serde_json::Value> {
        let mut held: Vec<serde_json::Value> = Vec::new();
        for mut line in self.host() {
            let done = line.as_object_mut().unwrap().remove("done").unwrap();
            held.retain(|change| *change != line);
            if done == "applied" {
                held.push(line);
            }
        }
        held
    }

    /// What another program does that removes foreign Wintun adapters: the adapter goes, and all that was on it but the firewall's
    /// rules.
    pub fn take_adapter_away(&self) {
        let record = self.doubles.join("host.jsonl");
        let text = fs::read_to_string(&record).unwrap();
        let kept: String = text
            .lines()
            .filter(|line| line.contains("\"firewall\""))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(&record, kept).unwrap();
        fs::remove_file(self.doubles.join(format!("adapter-{ADAPTER}"))).unwrap();
    }

    /// Sends a signal to the process that holds the adapter: to Linux it is a process like any other.
    pub fn signal_holder(&self, signal: Signal) {
        let holds = |entry: &fs::DirEntry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("--guid")
        };
        let entry = fs::read_dir("/proc").unwrap().flatten().find(holds).expect("the adapter's holder");
        let process = entry.file_name().to_string_lossy().parse().expect("a process' number");
        kill(Pid::from_raw(process), signal).unwrap();
    }

    /// What plays the cluster: these addresses are on the adapter, whoever asks.
    pub fn cluster_addresses(&self, addresses: &[&str]) {
        fs::write(self.doubles.join("cluster.txt"), addresses.join("\n")).unwrap();
    }

    /// A folder or file of the Windows machine.
    pub fn drive_c(&self, path: &str) -> PathBuf {
        self.prefix.join("drive_c").join(path)
    }
}
