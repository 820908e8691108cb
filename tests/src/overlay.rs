//! The usual overlay: a hub and a node per slot, their keys and config files, each of which a test may change before it starts them.

use std::path::PathBuf;

use crate::config_text::ConfigText;
use crate::gateway::Gateway;
use crate::harness::program;
use crate::keys::Keys;
use crate::node::Node;
use crate::wireguard::{Peer, WireGuard};
use crate::world::World;

/// The hub's name in every file.
pub const HUB: &str = "hub-a";
/// The second hub's name in every file.
pub const SECOND_HUB: &str = "hub-b";
/// The port of every WireGuard socket on the underlay.
pub const PORT: u16 = 51820;

/// A hub or a node of the overlay: its machine, its keys, its file, and the program when it runs.
pub struct Member {
    /// Its name in the config files and in `status`.
    pub name: String,
    /// Its machine.
    pub node: Node,
    /// Its keys.
    pub keys: Keys,
    /// Its file, which [`Member::start`] writes.
    pub file: ConfigText,
    /// The last octet of its slot's first address; `None` for the hub.
    pub slot: Option<u8>,
    /// The overlay-gw that it runs: the one under test, unless somebody says otherwise.
    pub program: PathBuf,
    gateway: Option<Gateway>,
}

impl Member {
    /// A member that runs the program under test; it is not started.
    fn new(name: &str, node: Node, keys: Keys, file: ConfigText, slot: Option<u8>) -> Self {
        Self { name: name.to_owned(), node, keys, file, slot, program: program(), gateway: None }
    }

    /// Its address in the overlay.
    ///
    /// # Panics
    /// When it is the hub, which has none.
    #[must_use]
    pub fn address(&self) -> String {
        self.at(1)
    }

    /// The address of its synthetic gateway.
    ///
    /// # Panics
    /// When it is the hub, which has none.
    #[must_use]
    pub fn gateway_address(&self) -> String {
        self.at(0)
    }

    /// Its slot's address number `offset`.
    ///
    /// # Panics
    /// When it is the hub, which has no slot.
    #[must_use]
    pub fn at(&self, offset: u8) -> String {
        format!("172.16.8.{}", self.slot.expect("a node's slot") + offset)
    }

    /// Writes its config file; returns where.
    pub fn write(&self) -> PathBuf {
        self.node.write("private.key", &format!("{}\n", self.keys.private));
        self.node.write("config.toml", &self.file.text())
    }

    /// Writes its config file and starts the program with it; waits for `ready`.
    #[track_caller]
    pub fn start(&mut self) {
        self.start_with("");
    }

    /// As [`Member::start`], with more flags.
    #[track_caller]
    pub fn start_with(&mut self, flags: &str) {
        self.spawn_with(flags);
        self.gw_mut().wait_ready();
    }

    /// As [`Member::start_with`], without waiting for `ready`.
    #[track_caller]
    fn spawn_with(&mut self, flags: &str) {
        let config = self.write();
        let verb = if self.slot.is_some() { "up" } else { "hub" };
        self.gateway = None;
        self.gateway = Some(Gateway::spawn_program(
            self.program.clone(),
            &self.node,
            &format!("{verb} --config {} {flags}", config.display()),
        ));
    }

    /// The running program.
    ///
    /// # Panics
    /// When it was not started.
    #[must_use]
    #[track_caller]
    pub fn gw(&self) -> &Gateway {
        self.gateway.as_ref().expect("a started member")
    }

    /// Whether it was started, and not taken away.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.gateway.is_some()
    }

    /// The running program, to do something to it.
    ///
    /// # Panics
    /// When it was not started.
    #[must_use]
    #[track_caller]
    pub fn gw_mut(&mut self) -> &mut Gateway {
        self.gateway.as_mut().expect("a started member")
    }

    /// The running program, to end it.
    ///
    /// # Panics
    /// When it was not started.
    #[track_caller]
    pub fn take(&mut self) -> Gateway {
        self.gateway.take().expect("a started member")
    }
}

/// A hub and a node per slot.
pub struct Overlay {
    /// The hub.
    pub hub: Member,
    /// A second hub, of [`Overlay::plan_with_two_hubs`].
    pub second: Option<Member>,
    /// The nodes, in the order of their slots in [`Overlay::plan`].
    pub nodes: Vec<Member>,
}

impl Overlay {
    /// Machines, keys and files for a hub (10.99.0.1) and nodes (10.99.0.`slot`; 10.99.0.3 for slot 0) on the near underlay. Nothing is started.
    #[track_caller]
    pub fn plan(world: &World, slots: &[u8]) -> Self {
        Self::plan_with_hub_on(world.node(HUB, 1), world, slots)
    }

    /// As [`Overlay::plan`], with the hub on a machine that the test has made.
    #[track_caller]
    pub fn plan_with_hub_on(machine: Node, world: &World, slots: &[u8]) -> Self {
        let hub_endpoint = format!("{}:{PORT}", machine.ipv4());
        let mut file = ConfigText::new();
        file.section(
            "[hub]",
            &[
                &format!("name = \"{HUB}\""),
                "private_key_file = \"private.key\"",
                &format!("listen_port = {PORT}"),
            ],
        );
        file.section("[overlay]", &["cidr = \"172.16.8.0/24\""]);
        let keys = Keys::new();
        let mut hub = Member::new(HUB, machine, keys, file, None);
        let nodes: Vec<Member> = slots
            .iter()
            .map(|&slot| {
                let name = format!("cluster-{slot}");
                let keys = Keys::new();
                let mut file = ConfigText::new();
                file.section(
                    "[node]",
                    &[
                        &format!("name = \"{name}\""),
                        &format!("slot = {slot}"),
                        "private_key_file = \"private.key\"",
                        &format!("listen_port = {PORT}"),
                    ],
                );
                file.section("[overlay]", &["cidr = \"172.16.8.0/24\""]);
                file.section(
                    "[[hubs]]",
                    &[
                        &format!("name = \"{HUB}\""),
                        &format!("public_key = \"{}\"", hub.keys.public),
                        &format!("endpoint = \"{hub_endpoint}\""),
                    ],
                );
                hub.file.section(
                    "[[peers]]",
                    &[
                        &format!("name = \"{name}\""),
                        &format!("public_key = \"{}\"", keys.public),
                        &format!("slot = {slot}"),
                    ],
                );
                // 10.99.0.0 is nobody's.
                let node = world.node(&name, slot.max(3));
                Member::new(&name, node, keys, file, Some(slot))
            })
            .collect();
        Self { hub, second: None, nodes }
    }

    /// A plain WireGuard member of the hub, with 172.16.8.80/29, on a machine of its own; `keepalive` in seconds, 0 for none.
    #[track_caller]
    pub fn add_plain_member(&mut self, world: &World, keepalive: u16) -> WireGuard {
        let keys = Keys::new();
        self.hub.file.section(
            "[[peers]]",
            &[
                "name = \"plain\"",
                &format!("public_key = \"{}\"", keys.public),
                "allowed_ips = [\"172.16.8.80/29\"]",
            ],
        );
        let plain = WireGuard::start(&world.node("plain", 20), keys, "172.16.8.81/29");
        plain.peer(&Peer {
            public: &self.hub.keys.public,
            allowed_ips: "172.16.8.0/24",
            endpoint: Some(format!("{}:{PORT}", self.hub.node.ipv4())),
            keepalive,
            ..Peer::default()
        });
        plain
    }

    /// Two hubs, and nodes that reach each other only through one of them.
    #[track_caller]
    pub fn plan_with_two_hubs(world: &World, slots: &[u8]) -> Self {
        let mut overlay = Self::plan(world, slots);
        overlay.add_second_hub(world);
        overlay.introduce(true);
        overlay
    }

    /// A second hub on 10.99.0.2 with the same members, behind the first in the nodes' order.
    #[track_caller]
    fn add_second_hub(&mut self, world: &World) {
        let machine = world.node(SECOND_HUB, 2);
        let keys = Keys::new();
        for node in &mut self.nodes {
            node.file.section(
                "[[hubs]]",
                &[
                    &format!("name = \"{SECOND_HUB}\""),
                    &format!("public_key = \"{}\"", keys.public),
                    &format!("endpoint = \"{}:{PORT}\"", machine.ipv4()),
                ],
            );
        }
        let mut file = self.hub.file.clone();
        file.replace("name = \"hub-a\"", &format!("name = \"{SECOND_HUB}\""));
        self.second = Some(Member::new(SECOND_HUB, machine, keys, file, None));
    }

    /// Each node knows each other one, so that they have end-to-end sessions; `apart`: they cannot reach each other but
    /// through a hub.
    #[track_caller]
    pub fn introduce(&mut self, apart: bool) {
        let all: Vec<_> = self
            .nodes
            .iter()
            .map(|n| (n.name.clone(), n.keys.public.clone(), n.slot, n.node.ipv4()))
            .collect();
        for node in &mut self.nodes {
            let mut routes = String::new();
            for (name, public, slot, at) in all.iter().filter(|other| other.0 != node.name) {
                node.file.section(
                    "[[peers]]",
                    &[
                        &format!("name = \"{name}\""),
                        &format!("public_key = \"{public}\""),
                        &format!("slot = {}", slot.unwrap_or_default()),
                    ],
                );
                routes.push_str(&format!("route add unreachable {at}/32\n"));
            }
            if apart {
                let batch = node.node.write("apart", &routes);
                node.node.ok(&format!("ip -batch {}", batch.display()));
            }
        }
    }

    /// Waits until each node has an end-to-end session with each other one.
    #[track_caller]
    pub fn wait_end_to_end(&self) {
        for node in &self.nodes {
            for other in self.nodes.iter().filter(|other| other.name != node.name) {
                node.gw().wait_session(&other.name);
            }
        }
    }

    /// The hub by which the node 56 reaches the node 64.
    ///
    /// # Panics
    /// When it does not go through a hub.
    #[must_use]
    #[track_caller]
    pub fn hub_in_use(&self) -> String {
        let status = self.node(56).gw().status();
        let path = status.peer("cluster-64").unwrap()["path"].as_str().unwrap().to_owned();
        path.strip_prefix("via ").unwrap_or_else(|| panic!("{path}: {:#}", status.0)).to_owned()
    }

    /// The hub of that name.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn hub_mut(&mut self, name: &str) -> &mut Member {
        std::iter::once(&mut self.hub).chain(&mut self.second).find(|hub| hub.name == name).expect("a hub")
    }

    /// Starts the hub, then the nodes, and waits until each has its session with the hub.
    #[track_caller]
    pub fn start(&mut self) {
        self.hub.start();
        if let Some(second) = &mut self.second {
            second.start();
        }
        for node in &mut self.nodes {
            node.start();
        }
        self.wait_sessions();
    }

    /// Starts the hubs and the nodes all at once, and waits for the `ready` of each.
    #[track_caller]
    pub fn start_at_once(&mut self) {
        let mut members: Vec<_> =
            std::iter::once(&mut self.hub).chain(&mut self.second).chain(&mut self.nodes).collect();
        members.iter_mut().for_each(|member| member.spawn_with(""));
        members.iter_mut().for_each(|member| member.gw_mut().wait_ready());
    }

    /// Waits until each node has its session with the hub, and the hub with each node.
    #[track_caller]
    pub fn wait_sessions(&self) {
        for node in &self.nodes {
            node.gw().wait_session(HUB);
            self.hub.gw().wait_session(&node.name);
            if let Some(second) = &self.second {
                node.gw().wait_session(SECOND_HUB);
                second.gw().wait_session(&node.name);
            }
        }
    }

    /// A planned and started overlay.
    #[track_caller]
    pub fn started(world: &World, slots: &[u8]) -> Self {
        let mut overlay = Self::plan(world, slots);
        overlay.start();
        overlay
    }

    /// The node of that slot.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn node(&self, slot: u8) -> &Member {
        self.nodes.iter().find(|node| node.slot == Some(slot)).expect("a planned slot")
    }

    /// The node of that slot, to change it.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn node_mut(&mut self, slot: u8) -> &mut Member {
        self.nodes.iter_mut().find(|node| node.slot == Some(slot)).expect("a planned slot")
    }
}
