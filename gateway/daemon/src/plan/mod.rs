//! `plan`: cuts an overlay into slots and writes the packs.

mod later;

use crate::cli::{Global, PlanAction, PlanArgs};
use crate::exit::{self, Failure};
use overlay_config::plan::{PackFile, Plan, PlanHub, PlanMember, PlanNode, SIGNING_KEY_FILE};
use overlay_config::{Endpoint, Route};
use overlay_platform::os;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Writes the packs.
///
/// # Errors
/// Mistakes in the plan, all at once; a file that is already there. Nothing is written then.
pub fn run(args: &PlanArgs, global: &Global) -> Result<u8, Failure> {
    match &args.action {
        Some(PlanAction::AddNode { out, node, replace }) => {
            return later::add_node(out, node, *replace, global);
        }
        Some(PlanAction::Revoke { out, node }) => return later::revoke(out, node, global),
        None => {}
    }
    let Some(out) = &args.out else {
        return Err(Failure::bad_input("--out is missing", "name a folder for the packs with --out DIR"));
    };
    let plan = read(args)?;
    for warning in plan.check()? {
        eprintln!("{warning}");
    }
    let packs = plan.packs(&mut crate::random::fill)?;
    write(out, &packs)?;
    if global.json {
        let files: Vec<_> = packs.iter().map(|file| out.join(&file.path)).collect();
        println!("{}", serde_json::json!({ "files": files }));
    } else {
        for file in &packs {
            println!("{}", out.join(&file.path).display());
        }
        println!(
            "\nCopy each folder to its server, and keep it from others: it holds the private key. Then:"
        );
        for node in &plan.nodes {
            println!("  on {:12} overlay-gw up --config {}/config.toml", node.name, node.name);
        }
        for hub in &plan.hubs {
            println!("  on {:12} overlay-gw hub --config {}/config.toml", hub.name, hub.name);
        }
        println!(
            "\nKeep {} where only you can read it: it signs who is a member. `overlay-gw plan add-node` and\n`overlay-gw plan revoke` need it, and nobody else does.",
            out.join(SIGNING_KEY_FILE).display()
        );
    }
    Ok(exit::OK)
}

fn read(args: &PlanArgs) -> Result<Plan, Failure> {
    let mut mistakes = Vec::new();
    let plan = Plan {
        overlay: parse("--overlay", &args.overlay, "a network like 172.16.8.0/24", &mut mistakes)
            .unwrap_or_default(),
        slot_prefix: args.slot_prefix,
        nodes: each("--node", &args.nodes, "NAME=SLOT, as in cluster-1=56", &mut mistakes, node),
        hubs: each(
            "--hub",
            &args.hubs,
            "NAME=HOST:PORT, as in hub-a=198.51.100.1:51820",
            &mut mistakes,
            |text| {
                let (name, endpoint) = text.split_once('=')?;
                Some(PlanHub { name: name.to_owned(), endpoint: Endpoint::from_str(endpoint).ok()? })
            },
        ),
        routes: each("--route", &args.routes, "CIDR=VIA, as in 172.16.0.0/24=hub-a", &mut mistakes, |text| {
            let (cidr, via) = text.split_once('=')?;
            Some(Route { cidr: cidr.parse().ok()?, via: via.to_owned() })
        }),
        dns: each("--dns", &args.dns, "an address, as in 172.16.0.1", &mut mistakes, |text| {
            text.parse().ok()
        }),
        members: each(
            "--member",
            &args.members,
            "NAME=CIDR[,CIDR], as in dc=172.16.0.0/24",
            &mut mistakes,
            |text| {
                let (name, nets) = text.split_once('=')?;
                let allowed_ips =
                    nets.split(',').map(|net| net.trim().parse().ok()).collect::<Option<_>>()?;
                Some(PlanMember { name: name.to_owned(), allowed_ips })
            },
        ),
    };
    if mistakes.is_empty() {
        Ok(plan)
    } else {
        Err(Failure::bad_input(mistakes.join("\n"), "see overlay-gw plan --help"))
    }
}

fn node(text: &str) -> Option<PlanNode> {
    let (name, rest) = text.split_once('=')?;
    let (slot, endpoint) = match rest.split_once('@') {
        Some((slot, endpoint)) => (slot, Some(Endpoint::from_str(endpoint).ok()?)),
        None => (rest, None),
    };
    Some(PlanNode { name: name.to_owned(), slot: slot.to_owned(), endpoint })
}

fn each<T>(
    flag: &str,
    values: &[String],
    form: &str,
    mistakes: &mut Vec<String>,
    read: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let mut good = Vec::new();
    for value in values {
        match read(value) {
            Some(item) => good.push(item),
            None => mistakes.push(format!("{flag}: error: \"{value}\" is not {form}")),
        }
    }
    good
}

fn parse<T: FromStr>(flag: &str, value: &str, form: &str, mistakes: &mut Vec<String>) -> Option<T> {
    value.parse().map_err(|_| mistakes.push(format!("{flag}: error: \"{value}\" is not {form}"))).ok()
}

/// Writes all files or none: an existing file stops it before anything is written.
///
/// # Errors
/// The first file that is already there or cannot be written.
pub fn write(out: &Path, packs: &[PackFile]) -> Result<(), Failure> {
    let there: Vec<PathBuf> =
        packs.iter().map(|file| out.join(&file.path)).filter(|path| path.exists()).collect();
    if let Some(first) = there.first() {
        let more = match there.len() {
            1 => String::new(),
            n => format!(" (and {} more)", n - 1),
        };
        return Err(Failure::bad_input(
            format!(
                "{}{more} is already there, and a pack is never overwritten: it holds keys in use",
                first.display()
            ),
            "choose an empty folder with --out DIR",
        ));
    }
    for file in packs {
        let path = out.join(&file.path);
        let written = path.parent().map_or(Ok(()), os::create_private_dir);
        let written = written.and_then(|()| {
            let mut to = os::private_file().write(true).create_new(true).open(&path)?;
            to.write_all(file.contents.as_bytes())
        });
        if let Err(error) = written {
            let why = if error.kind() == ErrorKind::AlreadyExists {
                "is already there".to_owned()
            } else {
                error.to_string()
            };
            return Err(Failure::bad_input(
                format!("{}: {why}", path.display()),
                "choose another folder with --out DIR",
            ));
        }
    }
    Ok(())
}
