//! The holder: a small process of the same program that made the adapter and keeps its creating handle.
//!
//! Wintun removes an adapter when the handle that created it is closed, by whatever ends its process. So that a crash, a
//! restart or an upgrade of the gateway leaves the adapter with its addresses, another process has that handle. It does
//! nothing else: it answers on a pipe who it is, ends when it is told to, and ends when somebody else took the adapter away.

use std::{
    io,
    os::windows::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use windows_sys::Win32::System::Threading::{
    CREATE_BREAKAWAY_FROM_JOB, CREATE_NEW_PROCESS_GROUP, DETACHED_PROCESS,
};

use super::{dll::Dll, files, iphelper, pipe, places};
use crate::{DeviceError, HostError, guid};

/// How long the creation is tried: at boot, the system's own services come up meanwhile (wireguard-windows waits as long).
const CREATION: Duration = Duration::from_secs(15);

/// Between two tries, and between two looks at the adapter.
const PACE: Duration = Duration::from_millis(500);

/// How long a holder has for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long an adapter may take to go once its holder is told to end.
const REMOVAL: Duration = Duration::from_secs(10);

/// The longest line on the pipe, in bytes.
const LONGEST: u64 = 4096;

/// The kind of tunnel, as Windows shows it.
const TUNNEL_TYPE: &str = "overlay-gw";

/// What is asked of a holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// Who are you?
    About,
    /// Remove the adapter and end.
    End,
}

/// What a holder says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its process.
    pub process: u32,
    /// A number of this creation of the adapter, given to no other.
    pub id: u32,
    /// The adapter's GUID, in hexadecimal digits.
    pub guid: String,
    /// Whether the adapter is there; otherwise it is being made.
    pub holding: bool,
    /// Why the adapter is not there yet.
    pub trouble: Option<String>,
}

/// The name of the holder's pipe.
fn place(name: &str) -> PathBuf {
    pipe::place(&format!("holder-{name}"))
}

/// What is heard from a holder that is asked who it is.
#[derive(Debug)]
pub enum Heard {
    /// It has answered.
    Holder(About),
    /// There is a holder, which does not answer: a busy system, or one that hangs. It still has what it had.
    Nothing(io::Error),
    /// There is none: the pipe goes with the process.
    NoHolder,
}

/// Asks the holder of the adapter `name` who it is. It has `patience` for its answer.
pub async fn about(name: &str, patience: Duration) -> Heard {
    match ask(name, Ask::About, patience).await {
        Ok(about) => Heard::Holder(about),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Heard::NoHolder,
        Err(error) => Heard::Nothing(error),
    }
}

async fn ask(name: &str, what: Ask, patience: Duration) -> io::Result<About> {
    let place = place(name);
    let asked = tokio::task::spawn_blocking(move || {
        use std::io::{BufRead, Write};
        let mut client = pipe::connect(place.as_os_str(), patience)?;
        let mut line = serde_json::to_vec(&what)?;
        line.push(b'\n');
        client.write_all(&line)?;
        let mut answer = String::new();
        std::io::BufReader::new(client).read_line(&mut answer)?;
        Ok(serde_json::from_str(&answer)?)
    });
    asked.await.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Makes sure that a holder has the adapter `name` with `guid`; returns what it says, and whether it was there before.
///
/// # Errors
/// When there is no holder to be had, or it cannot make the adapter.
pub async fn ensure(name: &str, guid: u128) -> Result<(About, bool), DeviceError> {
    let failed = |source| DeviceError::Io { name: name.to_owned(), source };
    let wanted = guid::text(guid);
    let mut started: Option<Instant> = None;
    let (begin, mut said) = (Instant::now(), String::new());
    loop {
        match about(name, PATIENCE).await {
            Heard::Holder(about) if about.guid != wanted => {
                // Of another slot: this node was given a new one. Its adapter makes room.
                end(name).await?;
            }
            Heard::Holder(about) if about.holding => return Ok((about, started.is_none())),
            Heard::Holder(about) => {
                if let Some(trouble) = about.trouble.filter(|trouble| *trouble != said) {
                    tracing::info!(adapter = name, trouble, "the adapter is not there yet");
                    said = trouble;
                }
            }
            // Another could not begin beside it.
            Heard::Nothing(error) => said = format!("the process that holds it does not answer: {error}"),
            Heard::NoHolder if started.is_some_and(|at| at.elapsed() < PATIENCE) => {}
            Heard::NoHolder if started.is_none() => {
                start(name, guid).map_err(failed)?;
                started = Some(Instant::now());
            }
            Heard::NoHolder => {
                let text =
                    if said.is_empty() { "the process that holds the adapter has ended" } else { &said };
                return Err(failed(io::Error::other(text.to_owned())));
            }
        }
        if begin.elapsed() > CREATION + PATIENCE {
            let text = format!(
                "the adapter was not there within {} s: {said}\n    see that the services \"Network Setup Service\" and \"Device Install Service\" are not disabled, and that no other program removes Wintun adapters",
                (CREATION + PATIENCE).as_secs()
            );
            return Err(failed(io::Error::new(io::ErrorKind::TimedOut, text)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Starts a holder that outlives this process. It runs from a copy of the program, so that an upgrade can replace the program's
/// file while the adapter lives; from the file itself where no copy can be made.
fn start(name: &str, guid: u128) -> io::Result<()> {
    let program = std::env::current_exe()?;
    let copied = copy_of(&program).and_then(|copy| spawn(&copy, name, guid));
    copied.or_else(|error| {
        tracing::info!(%error, "the adapter's holder runs from the program's own file");
        spawn(&program, name, guid)
    })
}

/// A copy of the program and the library beside it, in a folder for SYSTEM and the Administrators. Copies that no process runs
/// from any more are removed.
fn copy_of(program: &Path) -> io::Result<PathBuf> {
    let folder = places::root().join("holder");
    // It is looked at before anything is removed: were it a link, that would be somewhere else.
    files::create_private_dir(&folder)?;
    for old in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
        // Whoever runs from it keeps it.
        let _ = std::fs::remove_dir_all(old.path());
    }
    let made = (0_u32..).map(|number| folder.join(number.to_string())).find(|place| !place.exists());
    let made = made.ok_or(io::ErrorKind::AlreadyExists)?;
    files::create_private_dir(&made)?;
    for name in ["overlay-gw.exe", "wintun.dll"] {
        let from = if name == "wintun.dll" { program.with_file_name(name) } else { program.to_owned() };
        let mut to = files::private_file().create_new(true).open(&made.join(name))?;
        io::copy(&mut std::fs::File::open(from)?, &mut to)?;
    }
    Ok(made.join("overlay-gw.exe"))
}

fn spawn(program: &Path, name: &str, guid: u128) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(["adapter-holder", "--name", name, "--guid", &guid::text(guid)]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let alone = DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP;
    // Out of a job that would end it with this process, where the job lets it go.
    if command.creation_flags(alone | CREATE_BREAKAWAY_FROM_JOB).spawn().is_ok() {
        return Ok(());
    }
    command.creation_flags(alone).spawn().map(|_| ())
}

/// What there is to do about a holder that does not answer, and why it does not.
pub(super) fn in_words(error: &io::Error) -> io::Error {
    let text = format!(
        "the process that holds it does not answer ({error})\n    end it by hand, and the adapter goes with it: overlay-gw.exe in {}",
        places::root().join("holder").display()
    );
    io::Error::new(error.kind(), text)
}

/// Has the holder remove the adapter `name`, and waits until it is gone. `false`: there was no holder.
///
/// # Errors
/// When the adapter stays.
pub async fn end(name: &str) -> Result<bool, HostError> {
    let refused = |source| HostError::Refused { what: format!("remove adapter {name}"), source };
    match ask(name, Ask::End, PATIENCE).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(refused(in_words(&error))),
    }
    let begin = Instant::now();
    while !matches!(about(name, PATIENCE).await, Heard::NoHolder) {
        if begin.elapsed() > REMOVAL {
            return Err(refused(io::ErrorKind::TimedOut.into()));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(true)
}

/// Where a holder is.
#[derive(Debug, Default)]
struct Progress {
    holding: bool,
    trouble: Option<String>,
}

/// Runs the holder until it is told to end or the adapter is taken away. `id` is a random number.
///
/// # Errors
/// When another holder has this adapter, or the adapter cannot be made.
pub async fn run(name: &str, guid: u128, id: u32) -> Result<(), DeviceError> {
    let failed = |source| DeviceError::Io { name: name.to_owned(), source };
    // The pipe is the lock as well: there is one first instance.
    let begin = Instant::now();
    let mut server = loop {
        match pipe::PipeServer::create(&place(name)) {
            Ok(server) => break server,
            // One that has noticed that its adapter is gone may still be on its way out.
            Err(_) if begin.elapsed() < PATIENCE / 2 => tokio::time::sleep(PACE / 5).await,
            Err(error) => return Err(failed(error)),
        }
    };
    let dll = Dll::load()?;
    let progress = Arc::new(Mutex::new(Progress::default()));
    let shown = |progress: &Mutex<Progress>| {
        let progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        About {
            process: std::process::id(),
            id,
            guid: guid::text(guid),
            holding: progress.holding,
            trouble: progress.trouble.clone(),
        }
    };
    let (told, adapter_name) = (Arc::clone(&progress), name.to_owned());
    let mut creation = tokio::task::spawn_blocking(move || create(&dll, &adapter_name, guid, &told));
    let mut adapter = None;
    let mut look = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            created = &mut creation, if adapter.is_none() => match created {
                Ok(Ok(made)) => adapter = Some(made),
                Ok(Err(error)) => return Err(failed(error)),
                Err(error) => return Err(failed(io::Error::other(error))),
            },
            client = server.accept() => {
                let Ok(client) = client else { continue };
                if adapter.is_some() && !is_there(name, guid) {
                    return Ok(());
                }
                let about = shown(&progress);
                let end = tokio::time::timeout(PATIENCE, converse(client, &about)).await;
                if matches!(end, Ok(Ok(true))) {
                    return Ok(());
                }
            }
            _ = look.tick(), if adapter.is_some() => {
                if !is_there(name, guid) {
                    return Ok(());
                }
            }
        }
    }
}

/// Whether the adapter is still there. If not, another program has removed it: the next start makes a new one, and this holder ends.
fn is_there(name: &str, guid: u128) -> bool {
    let there = iphelper::luid_of(name).and_then(iphelper::guid_of);
    super::doubles::is_still_there(name, there, guid)
}

/// Answers one client; whether it has told to end.
async fn converse(
    client: tokio::net::windows::named_pipe::NamedPipeServer,
    about: &About,
) -> io::Result<bool> {
    let (reader, mut writer) = tokio::io::split(client);
    let mut line = String::new();
    BufReader::new(reader.take(LONGEST)).read_line(&mut line).await?;
    let end = serde_json::from_str::<Ask>(&line)? == Ask::End;
    let mut answer = serde_json::to_vec(about)?;
    answer.push(b'\n');
    writer.write_all(&answer).await?;
    writer.flush().await?;
    Ok(end)
}

fn create(dll: &Dll, name: &str, guid: u128, progress: &Mutex<Progress>) -> io::Result<Arc<wintun::Adapter>> {
    let begin = Instant::now();
    loop {
        let trouble = match wintun::Adapter::create(&dll.wintun, name, TUNNEL_TYPE, Some(guid)) {
            Ok(adapter) => {
                let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
                *progress = Progress { holding: true, trouble: None };
                return Ok(adapter);
            }
            Err(error) => format!("{error} ({})", io::Error::last_os_error()),
        };
        if begin.elapsed() > CREATION {
            return Err(io::Error::new(io::ErrorKind::TimedOut, trouble));
        }
        progress.lock().unwrap_or_else(PoisonError::into_inner).trouble = Some(trouble);
        std::thread::sleep(PACE);
    }
}
