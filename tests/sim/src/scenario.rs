//! What a seed means: who is there and how they are attached, and what will happen to them when.

use crate::nat::{Nat, NatKind};
use crate::net::{Attachment, PartyId, Weather};
use crate::op::{self, Op};
use engine::EngineSettings;
use engine::peer::tunnel::Identity;
use fastrand::Rng;
use overlay_config::{
    FileError, FileText, Files, HostFacts, Overrides, PrivateKey, PublicKey, Source, load_hub, load_node,
};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// Every party listens here.
pub const PORT: u16 = 51820;

/// What a party is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Hub,
    /// A node with the slot that begins at this octet.
    Node(u8),
    /// A member that says it has the slot of another: the octet is its own, as hubs know it, then the other's.
    Liar(u8, u8),
}

/// A party as it begins.
#[derive(Clone, Debug)]
pub struct Plan {
    pub name: String,
    pub role: Role,
    pub private: [u8; 32],
    pub settings: EngineSettings,
    pub starts: Duration,
    /// With whom it may speak without a hub: the endpoint stands in its own file or in the other's.
    pub direct: BTreeSet<PartyId>,
    /// Whose key stands in its file.
    pub knows: BTreeSet<PartyId>,
    /// Floating addresses may be its.
    pub able: bool,
    /// They may not, but in its own file they may.
    pub pretends: bool,
}

/// What kind of story a seed tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Story {
    /// Faults upon faults, mended in part; then everything that is joined must work.
    Chaos,
    /// Traffic all the time, one fault, and how long nothing arrived.
    Fault,
    /// Hours compressed: renewals, expiry, nothing to send.
    Idle,
}

/// Everything that follows from a seed before the engines run.
#[derive(Debug)]
pub struct Scenario {
    pub story: Story,
    pub plans: Vec<Plan>,
    pub attachments: Vec<Attachment>,
    pub nats: Vec<Nat>,
    pub ops: Vec<(Duration, Op)>,
}

/// The octet of a node's slot.
fn octet_of(role: Role) -> Option<u8> {
    match role {
        Role::Node(octet) => Some(octet),
        Role::Hub | Role::Liar(..) => None,
    }
}

/// An address of the overlay.
pub fn address(octet: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 16, 8, octet)
}

impl Scenario {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5CE_4A210);
        let story = match rng.u8(0..10) {
            0..6 => Story::Chaos,
            6..9 => Story::Fault,
            _ => Story::Idle,
        };
        let hubs = if story == Story::Fault { rng.usize(2..=3) } else { rng.usize(1..=3) };
        let nodes = rng.usize(2..=5);
        let liar = story == Story::Chaos && rng.u8(0..3) == 0;
        let mut octets: Vec<u8> = (1..31).map(|n| n * 8).collect();
        rng.shuffle(&mut octets);
        let mut roles = vec![Role::Hub; hubs];
        roles.extend(octets.iter().take(nodes).map(|&octet| Role::Node(octet)));
        if liar {
            roles.push(Role::Liar(octets[nodes], octets[rng.usize(..nodes)]));
        }
        let (attachments, nats) = attach(&mut rng, &roles);
        let plans = plan(&mut rng, &roles, &attachments);
        let ops = op::story(&mut rng, story, &plans, &nats);
        Self { story, plans, attachments, nats, ops }
    }
}

fn attach(rng: &mut Rng, roles: &[Role]) -> (Vec<Attachment>, Vec<Nat>) {
    let mut nats: Vec<Nat> = Vec::new();
    let mut attachments = Vec::new();
    for (id, role) in roles.iter().enumerate() {
        let last = id as u8 + 1;
        let nat = match role {
            Role::Hub => None,
            // Now and then two share one.
            _ if !nats.is_empty() && rng.u8(0..8) == 0 => Some(rng.usize(..nats.len())),
            _ if rng.bool() => {
                let kind = NatKind::ALL[rng.usize(..4)];
                let timeout = Duration::from_secs(rng.u64(20..120));
                let public = Ipv4Addr::new(198, 51, 100, 100 + nats.len() as u8);
                nats.push(Nat::new(kind, public, timeout, rng.u16(20_000..60_000)));
                Some(nats.len() - 1)
            }
            _ => None,
        };
        let ip = match (role, nat) {
            (Role::Hub, _) => Ipv4Addr::new(203, 0, 113, last),
            (_, Some(nat)) => Ipv4Addr::new(10, 77, nat as u8, last),
            (_, None) => Ipv4Addr::new(198, 51, 100, last),
        };
        let farthest = if rng.bool() { 2_000 } else { 45_000 };
        let latency = Duration::from_micros(rng.u64(100..farthest));
        attachments.push(Attachment { local: (ip, PORT).into(), nat, latency });
    }
    (attachments, nats)
}

/// Reads the one key file there is, whatever its name.
struct Keys(Vec<(String, PrivateKey)>);

impl Files for Keys {
    fn read(&self, path: &Path) -> Result<FileText, FileError> {
        let key = self.0.iter().find(|(name, _)| Path::new(name) == path).ok_or(FileError::Missing)?;
        let bytes = zeroize::Zeroizing::new(key.1.to_base64().as_bytes().to_vec());
        Ok(FileText { bytes, private: true })
    }
}

fn plan(rng: &mut Rng, roles: &[Role], attachments: &[Attachment]) -> Vec<Plan> {
    let name = |id: PartyId| match roles[id] {
        Role::Hub => format!("hub-{}", (b'a' + id as u8) as char),
        Role::Node(octet) => format!("node-{octet}"),
        Role::Liar(octet, _) => format!("liar-{octet}"),
    };
    let secrets: Vec<PrivateKey> = roles
        .iter()
        .map(|_| {
            let mut bytes = [0; 32];
            bytes.fill_with(|| rng.u8(..));
            PrivateKey::from_bytes(bytes)
        })
        .collect();
    let publics: Vec<[u8; 32]> =
        secrets.iter().map(|secret| Identity::new(*secret.as_bytes()).public()).collect();
    let ids = 0..roles.len();
    let is_node = |id: &PartyId| matches!(roles[*id], Role::Node(_));
    let reachable = |id: PartyId| attachments[id].nat.is_none();

    // Pairs with a direct path: each end that can be reached stands in the other's file.
    let mut pairs = BTreeSet::new();
    for a in ids.clone().filter(is_node) {
        for b in (a + 1..roles.len()).filter(is_node) {
            if (reachable(a) || reachable(b)) && rng.u8(0..4) == 0 {
                pairs.insert((a, b));
            }
        }
    }
    let everybody = rng.bool();
    let keepalive = [None, None, Some(1), Some(10)][rng.usize(..4)];
    // Drawn aside: all else stays as it was before there were floating addresses. Those who are routed have none.
    let mut aside = Rng::with_seed(rng.clone().u64(..) ^ 0xF10A7);
    let able: Vec<bool> = ids.clone().map(|id| everybody && is_node(&id) && aside.u8(0..4) > 0).collect();
    let pretends: Vec<bool> =
        ids.clone().map(|id| everybody && is_node(&id) && !able[id] && aside.bool()).collect();
    let slots: Vec<String> =
        ids.clone().filter(|&id| able[id]).filter_map(|id| Some(octet_of(roles[id])?.to_string())).collect();
    // A key that node and hub share besides, for some: derived from both.
    let shared: Vec<bool> = roles.iter().map(|_| rng.u8(0..4) == 0).collect();
    let preshared = |node: PartyId, hub: PartyId| {
        let mut bytes = publics[node];
        bytes.iter_mut().zip(publics[hub]).for_each(|(a, b)| *a ^= b);
        PrivateKey::from_bytes(bytes)
    };

    ids.clone()
        .map(|id| {
            let mut keys = Keys(vec![("own.key".into(), secrets[id].clone())]);
            let mut text = String::from("version = 1\n");
            match roles[id] {
                Role::Hub => text += "[hub]\n",
                Role::Node(octet) | Role::Liar(_, octet) => {
                    let _ = writeln!(text, "[node]\nslot = {octet}");
                }
            }
            let _ = writeln!(
                text,
                "name = \"{}\"\nprivate_key_file = \"own.key\"\nlisten_port = {PORT}\n\
                 [overlay]\ncidr = \"172.16.8.0/24\"",
                name(id)
            );
            if !slots.is_empty() {
                let own = octet_of(roles[id]).filter(|_| pretends[id]).map(|octet| octet.to_string());
                let slots = slots.iter().cloned().chain(own).collect::<Vec<_>>().join(", ");
                let _ = writeln!(text, "[[overlay.floating]]\ncidr = \"172.16.8.248/29\"\nslots = [{slots}]");
            }
            let mut peer =
                |section: &str, other: PartyId, endpoint: bool, psk: Option<(PartyId, PartyId)>| {
                    let _ = writeln!(
                        text,
                        "[[{section}]]\nname = \"{}\"\npublic_key = \"{}\"",
                        name(other),
                        PublicKey(publics[other])
                    );
                    if let Role::Node(octet) | Role::Liar(octet, _) = roles[other] {
                        let _ = writeln!(text, "slot = {octet}");
                    }
                    if endpoint {
                        let _ = writeln!(text, "endpoint = \"{}\"", attachments[other].local);
                    }
                    if let Some((node, hub)) = psk {
                        let file = format!("{}.psk", name(other));
                        let _ = writeln!(text, "preshared_key_file = \"{file}\"");
                        keys.0.push((file, preshared(node, hub)));
                    }
                    if let Some(pace) = keepalive.filter(|_| section == "hubs") {
                        let _ = writeln!(text, "persistent_keepalive = {pace}");
                    }
                };
            let (mut direct, mut knows) = (BTreeSet::new(), BTreeSet::new());
            for other in ids.clone().filter(|&other| other != id) {
                let pair = (id.min(other), id.max(other));
                match (roles[id], roles[other]) {
                    (Role::Hub, Role::Hub) => {}
                    (Role::Hub, _) => peer("peers", other, false, shared[other].then_some((other, id))),
                    (_, Role::Hub) => peer("hubs", other, true, shared[id].then_some((id, other))),
                    (Role::Node(_), Role::Node(_)) if pairs.contains(&pair) => {
                        peer("peers", other, reachable(other), None);
                        direct.insert(other);
                        knows.insert(other);
                    }
                    (Role::Node(_), Role::Node(_)) if everybody => {
                        peer("peers", other, false, None);
                        knows.insert(other);
                    }
                    _ => {}
                }
            }
            let settings = settings(roles[id], &text, &keys);
            let starts = Duration::from_micros(rng.u64(0..3_000_000));
            Plan {
                name: name(id),
                role: roles[id],
                private: *secrets[id].as_bytes(),
                settings,
                starts,
                direct,
                knows,
                able: able[id],
                pretends: pretends[id],
            }
        })
        .collect()
}

/// As the daemon does: the file is read, and the engine is told what it says.
fn settings(role: Role, text: &str, keys: &Keys) -> EngineSettings {
    let source = Source { name: "config.toml".into(), bytes: text.into() };
    let (flags, host) = (Overrides::default(), HostFacts::default());
    let config = match role {
        Role::Hub => load_hub(&source, &flags, keys, &host),
        _ => load_node(Some(&source), &flags, keys, &host),
    };
    EngineSettings::from_config(&config.unwrap_or_else(|why| panic!("{why:?}\n{text}")))
}

/// An address for a party that moves to another network.
pub fn elsewhere(rng: &mut Rng, id: PartyId, before: SocketAddr) -> SocketAddr {
    match before.ip() {
        std::net::IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            let third = if a == 10 { c } else { rng.u8(101..250) };
            // Within one's own translator the last octet changes, outside the network does: never anybody else's.
            let last = if a == 10 { 100 + 16 * id as u8 + rng.u8(0..16) } else { d };
            (Ipv4Addr::new(a, b, third, last), PORT).into()
        }
        std::net::IpAddr::V6(_) => before,
    }
}

/// Weather for a chapter of a story.
pub fn weather(rng: &mut Rng) -> Weather {
    if rng.u8(0..3) == 0 { Weather::CALM } else { Weather::any(rng) }
}
