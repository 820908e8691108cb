//! What goes into the packs: configurations, key files, and `.conf` files for plain WireGuard members.

use std::fmt::Write as _;

use ipnet::Ipv4Net;
use zeroize::Zeroizing;

use crate::membership::RECORDS_FILE;
use crate::{
    Config, Control, DEFAULT_HUB_PORT, Device, Hub, HubKind, HubRole, Listen, Node, Overlay, Peer,
    PrivateKey, PublicKey, Role, Slot,
};

use super::{PackFile, Plan, PlanHub, PlanMember, PlanNode};

/// In seconds: what keeps most NATs open between a member and its hub.
const KEEPALIVE: u16 = 25;

/// A plan whose slots are known and whose members have keys: those that packs are made for now.
pub(super) struct Cut<'a> {
    pub plan: &'a Plan,
    /// As it stands in the packs of nodes.
    pub overlay: Overlay,
    /// Every signed record, which every pack carries.
    pub records: String,
    pub nodes: Vec<(&'a PlanNode, Slot, PrivateKey)>,
    /// All of them; the private key of one that gets a pack.
    pub hubs: Vec<(&'a PlanHub, PublicKey, Option<PrivateKey>)>,
    pub members: Vec<(&'a PlanMember, PrivateKey)>,
}

impl Cut<'_> {
    pub fn files(&self) -> Vec<PackFile> {
        let mut files = Vec::new();
        for (node, slot, key) in &self.nodes {
            self.pack(&mut files, &self.node_header(node, *slot), &self.node(node, *slot, key));
        }
        for (hub, _, key) in &self.hubs {
            if let Some(key) = key {
                self.pack(&mut files, &self.hub_header(hub), &self.hub(hub, key));
            }
        }
        for (member, key) in &self.members {
            for (index, (hub, hub_key, _)) in self.hubs.iter().enumerate() {
                // wg-quick names the interface after the file: at most 15 bytes.
                let file =
                    if index == 0 { "overlay.conf".to_owned() } else { format!("overlay{}.conf", index + 1) };
                let contents = self.member_conf(&file, member, key, (hub, *hub_key));
                files.push(PackFile { path: format!("{}/{file}", member.name), contents, secret: true });
            }
        }
        files
    }

    /// A plain member signs nothing and reads no record: the hubs know it by file.
    pub fn plain_members(&self) -> Vec<Peer> {
        let members = self.members.iter().map(|(member, key)| Peer {
            name: member.name.clone(),
            public_key: key.public(),
            slot: None,
            allowed_ips: member.allowed_ips.clone(),
            endpoint: None,
            preshared_key: None,
            persistent_keepalive: None,
        });
        members.collect()
    }

    fn config(&self, role: Role, overlay: Overlay, hubs: Vec<Hub>, peers: Vec<Peer>) -> Config {
        let (device, control) = (Device::default(), Control::default());
        Config { role, overlay, device, control, hubs, peers, warnings: Vec::new() }
    }

    fn node(&self, node: &PlanNode, slot: Slot, key: &PrivateKey) -> Config {
        let port = node.endpoint.as_ref().map_or(DEFAULT_HUB_PORT, crate::Endpoint::port);
        let role = Role::Node(Node {
            name: node.name.clone(),
            slot,
            private_key: Some(key.clone()),
            listen: Listen { address: None, port },
        });
        let hubs = self.hubs.iter().map(|(hub, key, _)| Hub {
            name: hub.name.clone(),
            public_key: *key,
            endpoint: hub.endpoint.clone(),
            kind: HubKind::OverlayGw,
            preshared_key: None,
            persistent_keepalive: Some(KEEPALIVE),
            allowed_ips: Vec::new(),
        });
        self.config(role, self.overlay.clone(), hubs.collect(), Vec::new())
    }

    fn hub(&self, hub: &PlanHub, key: &PrivateKey) -> Config {
        let role = Role::Hub(HubRole {
            name: hub.name.clone(),
            private_key: Some(key.clone()),
            listen: Listen { address: None, port: hub.endpoint.port() },
        });
        // A hub knows nothing of the other hubs: nodes have a session with each, and choose.
        let mut overlay = self.overlay.clone();
        overlay.routes.retain(|route| route.via == hub.name);
        self.config(role, overlay, Vec::new(), self.plain_members())
    }

    fn hub_names(&self) -> String {
        self.hubs.iter().map(|(hub, ..)| hub.name.as_str()).collect::<Vec<_>>().join(", ")
    }

    fn node_header(&self, node: &PlanNode, slot: Slot) -> String {
        let PlanNode { name, .. } = node;
        let mut text = format!("# {name}: a node of the overlay {}, slot {slot}.\n", self.plan.overlay);
        _ = writeln!(
            text,
            "# {} is its gateway, {} its address, {} the one with the default gateway.",
            slot.gateway(),
            slot.address(),
            slot.client_access()
        );
        if self.hubs.len() > 1 {
            _ = writeln!(
                text,
                "# It keeps a session with each of the {} hubs: {}.",
                self.hubs.len(),
                self.hub_names()
            );
        }
        text + &start("up", name)
    }

    fn hub_header(&self, hub: &PlanHub) -> String {
        let mut text = format!(
            "# {}: a hub of the overlay {}, reached at {}.\n",
            hub.name, self.plan.overlay, hub.endpoint
        );
        if self.hubs.len() > 1 {
            _ = writeln!(
                text,
                "# It is one of {} hubs ({}). Each has a pack of its own and the same members, but only its own routes.",
                self.hubs.len(),
                self.hub_names()
            );
        }
        text + &start("hub", &hub.name)
    }

    fn member_conf(
        &self,
        file: &str,
        member: &PlanMember,
        key: &PrivateKey,
        (hub, hub_key): (&PlanHub, PublicKey),
    ) -> Zeroizing<String> {
        let overlay = self.plan.overlay;
        let mut text = Zeroizing::new(String::with_capacity(4096));
        _ = writeln!(
            text,
            "# {}: a plain WireGuard member of the overlay {overlay}, at {}.",
            member.name, hub.name
        );
        _ = writeln!(text, "# Start it with: wg-quick up ./{file} (this file, mode 0600)");
        if self.hubs.len() > 1 {
            _ = writeln!(
                text,
                "# There is one such file for each of the {} hubs ({}): use one at a time.",
                self.hubs.len(),
                self.hub_names()
            );
        }
        let (inside, behind): (Vec<&Ipv4Net>, Vec<_>) =
            member.allowed_ips.iter().partition(|net| overlay.contains(*net));
        for net in &behind {
            _ = writeln!(text, "# {net} is behind it: let it forward (sysctl net.ipv4.ip_forward=1).");
        }
        _ = writeln!(text, "\n[Interface]\nPrivateKey = {}", *key.to_base64());
        for net in inside {
            // The first address that a host may have; a /31 and a /32 have no other kind (RFC 3021).
            let address =
                if net.prefix_len() >= 31 { net.addr() } else { net.hosts().next().unwrap_or(net.addr()) };
            _ = writeln!(text, "Address = {address}/{}", net.prefix_len());
        }
        let routes = self.plan.routes.iter().map(|route| route.cidr);
        let routes =
            routes.filter(|cidr| !member.allowed_ips.iter().any(|net| crate::network::overlap(*net, *cidr)));
        let allowed: Vec<_> = std::iter::once(overlay).chain(routes).map(|net| net.to_string()).collect();
        _ = writeln!(text, "\n[Peer]\n# {}\nPublicKey = {}\nEndpoint = {}", hub.name, hub_key, hub.endpoint);
        _ = writeln!(text, "AllowedIPs = {}\nPersistentKeepalive = {KEEPALIVE}", allowed.join(", "));
        text
    }

    fn pack(&self, files: &mut Vec<PackFile>, header: &str, config: &Config) {
        let folder = config.name();
        let mut add = |path: &str, contents, secret| {
            files.push(PackFile { path: format!("{folder}/{path}"), contents, secret });
        };
        add("config.toml", Zeroizing::new(format!("{header}{}", config.to_toml())), false);
        for key in config.key_files() {
            add(&key.path, key.contents, true);
        }
        add(RECORDS_FILE, Zeroizing::new(self.records.clone()), false);
    }
}

fn start(command: &str, name: &str) -> String {
    format!(
        "# Copy this folder to that machine, keep {name}.key to its owner (mode 0600), and start it:\n\
         #     overlay-gw {command} --config {name}/config.toml\n\
         # {RECORDS_FILE} holds the other members, signed. Later ones come through the overlay, or by `overlay-gw peer add`.\n\n"
    )
}
