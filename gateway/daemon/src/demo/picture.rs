//! What the demo says around its steps: the overlay as a picture, and the commands to try in it.

use super::scenes::SERVICE_PORT;
use super::world::{HUB_ENDPOINT, Member, OVERLAY, World};

/// The overlay before anything is there.
pub fn opening() -> String {
    format!(
        "\
overlay-gw demo: a hub and three nodes on this machine, each in a network namespace of its own.

                      hub-a  {HUB_ENDPOINT}
                     /         |         \\            underlay: three wires, none between nodes
          cluster-1        cluster-2        cluster-3  overlay:  {OVERLAY}
  gateway 172.16.8.56      172.16.8.64      172.16.8.72    no host has it: overlay-gw answers
  node    172.16.8.57      172.16.8.65      172.16.8.73
  free    .59 to .62       .67 to .70       .75 to .78     listeners, brought online at any time

"
    )
}

/// How to look around while it stays up.
pub fn invitation(commands: &[String]) -> String {
    let lines: String = commands.iter().map(|command| format!("  {command}\n")).collect();
    format!("\nIt stays up until Ctrl-C. Try, in another terminal:\n\n{lines}\n")
}

/// The commands to try. `root`: whether the demo was started by root.
///
/// # Errors
/// When the program cannot tell where it lies.
pub fn commands(world: &World, root: bool) -> std::io::Result<Vec<String>> {
    let [one, two, ..] = world.nodes() else { return Ok(Vec::new()) };
    let (Some(in_one), Some(in_two)) = (one.process(), two.process()) else { return Ok(Vec::new()) };
    let sudo = if root && std::env::var_os("SUDO_USER").is_some() { "sudo " } else { "" };
    // Without root its user namespace has to be entered first, and one's own user kept in it.
    let user = if root { "" } else { "-U --preserve-credentials " };
    let within = |process: u32, command: &str| format!("{sudo}nsenter -t {process} {user}-n {command}");
    let program = std::env::current_exe()?.display().to_string();
    let ask = |what: &str, member: &Member| {
        format!("{sudo}{program} {what} --control {}", member.control().display())
    };
    let listener = one.slot.listeners().next().unwrap_or(one.slot.address());
    Ok(vec![
        within(in_one, &format!("ping {}", two.slot.gateway())),
        within(in_one, &format!("ping {}", two.slot.address())),
        within(in_one, "ip route"),
        ask("status", one),
        ask("status", world.hub()),
        ask(&format!("listener add {listener}"), one),
        within(in_two, &format!("bash -c 'cat </dev/tcp/{listener}/{SERVICE_PORT}'")),
        ask(&format!("listener remove {listener}"), one),
    ])
}
