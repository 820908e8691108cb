//! `plan add-node` and `plan revoke`: later changes, in the folder that `plan` wrote.

use crate::cli::Global;
use crate::config_file::{Folder, in_words};
use crate::exit::{self, Failure};
use crate::state::write_whole;
use overlay_config::membership::Record;
use overlay_config::plan::{Kept, Later, PackFile, PlanNode};
use serde_json::json;
use std::fs::File;
use std::path::{Path, PathBuf};

/// Makes one node more.
///
/// # Errors
/// Mistakes, all at once, and files that are already there. Nothing is written then.
pub fn add_node(out: &Path, node: &str, replace: bool, global: &Global) -> Result<u8, Failure> {
    let node: PlanNode = node.parse().map_err(|error| {
        Failure::bad_input(format!("--node: error: {error}"), "see overlay-gw plan add-node --help")
    })?;
    let (kept, _lock) = open(out)?;
    let later = kept.add_node(&node, replace, &mut crate::random::fill)?;
    for warning in &later.warnings {
        eprintln!("{warning}");
    }
    let aside = put_aside(out, &node.name)?;
    let written = super::write(out, &later.pack).and_then(|()| write_records(out, &later));
    if let Err(failure) = written {
        // Whatever is in that folder was made just now.
        let _ = std::fs::remove_dir_all(out.join(&node.name));
        if let Some((from, to)) = &aside {
            let _ = std::fs::rename(to, from);
        }
        return Err(failure);
    }
    let news = out.join(&later.news.path);
    if global.json {
        let files: Vec<_> = later.pack.iter().map(|file| out.join(&file.path)).collect();
        let aside = aside.map(|(_, to)| to);
        println!("{}", json!({ "files": files, "record": news, "ended": ended(&later), "put_aside": aside }));
        return Ok(exit::OK);
    }
    for file in &later.pack {
        println!("{}", out.join(&file.path).display());
    }
    println!("{}", news.display());
    for record in &later.ended {
        println!("revoked: {record}");
    }
    if let Some((_, to)) = aside {
        println!("The old folder is now {}", to.display());
    }
    println!(
        "\nCopy the folder to its server, and hand the record to a hub: the others learn it from there."
    );
    println!("  on a hub      overlay-gw peer add {}", later.news.path);
    println!("  on {:12} overlay-gw up --config {}/config.toml", node.name, node.name);
    Ok(exit::OK)
}

/// Ends a membership.
///
/// # Errors
/// When there is no such member. Nothing is written then.
pub fn revoke(out: &Path, name: &str, global: &Global) -> Result<u8, Failure> {
    let (kept, _lock) = open(out)?;
    let later = kept.revoke(name)?;
    write_records(out, &later)?;
    let news = out.join(&later.news.path);
    if global.json {
        println!("{}", json!({ "record": news, "ended": ended(&later) }));
        return Ok(exit::OK);
    }
    println!("{}", news.display());
    for record in &later.ended {
        println!("revoked: {record}");
    }
    println!("\nHand the record to a hub: the others learn it from there, and end their sessions with it.");
    println!("  on a hub      overlay-gw peer remove {}", later.news.path);
    Ok(exit::OK)
}

/// Reads the folder, and keeps others from changing it: two that count on from the same serial would give it away twice.
fn open(out: &Path) -> Result<(Kept, Option<File>), Failure> {
    let kept = Kept::open(&shown(out), &Folder::new(out.to_owned()))?;
    let lock = File::open(out).map_err(|error| cannot(out, &error))?;
    lock.try_lock().map_err(|_| {
        Failure::bad_input(
            format!("another overlay-gw plan is changing {}", out.display()),
            "wait until it is done",
        )
    })?;
    // What the other one wrote before the lock was ours counts.
    drop(kept);
    Ok((Kept::open(&shown(out), &Folder::new(out.to_owned()))?, Some(lock)))
}

fn shown(out: &Path) -> String {
    out.display().to_string().trim_end_matches('/').to_owned()
}

/// A node that was rebuilt or revoked has a folder already, with a key that may still be wanted: it gets another name. From where
/// to where.
fn put_aside(out: &Path, name: &str) -> Result<Option<(PathBuf, PathBuf)>, Failure> {
    let from = out.join(name);
    if !from.exists() {
        return Ok(None);
    }
    let free = (1..=1000).map(|n| out.join(format!("{name}.replaced-{n}"))).find(|to| !to.exists());
    let to = free
        .ok_or_else(|| Failure::bad_input(format!("{} is there already", from.display()), "move it away"))?;
    std::fs::rename(&from, &to).map_err(|error| cannot(&from, &error))?;
    Ok(Some((from, to)))
}

/// All records first: their serials are given away from then on.
fn write_records(out: &Path, later: &Later) -> Result<(), Failure> {
    for PackFile { path, contents, .. } in [&later.records, &later.news] {
        write_whole(out, path, contents.as_bytes()).map_err(|error| cannot(&out.join(path), &error))?;
    }
    Ok(())
}

fn cannot(path: &Path, error: &std::io::Error) -> Failure {
    Failure::bad_input(
        format!("{}: {}", path.display(), in_words(error)),
        "check the folder's owner and the disk",
    )
}

fn ended(later: &Later) -> Vec<serde_json::Value> {
    let told = |record: &Record| {
        json!({
            "name": record.name,
            "kind": if record.is_hub() { "hub" } else { "node" },
            "slot": record.slot().map(|slot| slot.to_string()),
            "public_key": record.public_key.to_string(),
        })
    };
    later.ended.iter().map(told).collect()
}
