//! `demo`: a hub and three nodes on this one machine, each in a network namespace of its own, and the product shown on
//! them. Nothing of the host is touched, and nothing is left behind.

mod interrupt;
mod obstacle;
mod picture;
mod probe;
mod scenes;
mod show;
mod world;

use crate::cli::{DemoArgs, Global};
use crate::exit::{self, Failure};
use interrupt::Interrupt;
use show::{Broken, Look, Measured, Show};
use std::io::Write;
use std::time::Duration;
use world::World;

/// How often `--keep` looks whether everything still runs.
const WATCH_PACE: Duration = Duration::from_millis(500);

/// Shows the product. Call it while the process has one thread: a process with more cannot enter a user namespace.
///
/// # Errors
/// When this machine does not let a demo run: exit code 4, with what to do.
pub fn run(args: &DemoArgs, global: &Global) -> Result<u8, Failure> {
    obstacle::check()?;
    let root = nix::unistd::Uid::effective().is_root();
    overlay_platform::os::netns::unshare_world().map_err(|error| obstacle::no_world(&error))?;
    let interrupt = Interrupt::watch()
        .map_err(|error| Failure::bad_input(format!("cannot watch for Ctrl-C: {error}"), "try again"))?;
    let mut show = Show::new(Look::of_stdout(global.json), std::io::stdout());
    show.say(&picture::opening());
    let mut world = None;
    let outcome = perform(args, root, &interrupt, &mut show, &mut world);
    Ok(end(outcome, &mut show, world))
}

/// Everything up to the point where the world is taken down, which `end` does however this ends.
fn perform(
    args: &DemoArgs,
    root: bool,
    interrupt: &Interrupt,
    show: &mut Show<std::io::Stdout>,
    slot: &mut Option<World>,
) -> Result<(), Broken> {
    show.step("network namespaces and wires", |_| {
        let world = slot.insert(World::lay(interrupt.clone())?);
        Ok(Measured::new(format!("{} namespaces, {} wires", world.members().count(), world.nodes().len())))
    })?;
    let Some(world) = slot else { return Ok(()) };
    show.step("hub and nodes ready", |progress| world.start(progress))?;
    let _service = scenes::play(world, show)?;
    if args.keep {
        let commands = picture::commands(world, root)?;
        show.say(&picture::invitation(&commands));
        show.invite(commands);
        keep(world, interrupt, show)?;
    }
    Ok(())
}

/// Leaves everything up until Ctrl-C, which is the good end here.
fn keep(world: &mut World, interrupt: &Interrupt, show: &mut Show<std::io::Stdout>) -> Result<(), Broken> {
    loop {
        match interrupt.sleep(WATCH_PACE) {
            Err(Broken::Interrupted) => return Ok(()),
            other => other?,
        }
        for name in world.newly_ended() {
            show.say(&format!("{name} has ended; Ctrl-C ends the rest\n"));
        }
    }
}

/// Takes the world down and tells how it went.
fn end(outcome: Result<(), Broken>, show: &mut Show<std::io::Stdout>, world: Option<World>) -> u8 {
    let mut logs = String::new();
    if let (Err(Broken::Failed(_)), Some(world)) = (&outcome, &world) {
        logs = world.last_lines();
    }
    let cleared = match world {
        Some(world) => show.step("everything taken down", |_| world.take_down()),
        None => Ok(()),
    };
    let why = match outcome.and(cleared) {
        Ok(()) => {
            show.close(None);
            return exit::OK;
        }
        Err(Broken::Interrupted) => "interrupted".to_owned(),
        Err(Broken::Failed(why)) => why,
    };
    show.close(Some(&why));
    // The logs are for eyes: on standard error, also beside --json.
    let _ = std::io::stderr().write_all(logs.as_bytes());
    exit::DEGRADED
}
