//! The plan: an overlay cut into slots, and one ready pack for each node, hub and plain WireGuard member. What the administrator
//! keeps of it (the signing key, the records) makes later nodes and revocations.

mod flags;
mod later;
mod pack;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use zeroize::Zeroizing;

use crate::claims::{Claims, Owner, Range, Space, View};
use crate::diagnostic::{Place, Placed, Report};
use crate::membership::{
    MAX_NETWORKS, RECORDS_FILE, Record, RecordKind, RecordLines, SignedRecord, SigningKey,
};
use crate::name::{member_mistake, nearest, shown};
use crate::{
    Diagnostic, Diagnostics, Endpoint, Membership, Overlay, PrivateKey, PublicKey, Route, Slot, network,
    write,
};

use pack::Cut;

pub use flags::FlagError;
pub use later::{Kept, Later};

/// The file of the overlay's signing key in the output folder. It never goes into a pack.
pub const SIGNING_KEY_FILE: &str = "overlay.signing-key";
/// The file of what all nodes have in common, in the output folder.
pub const OVERLAY_FILE: &str = "overlay.toml";

/// Who is in the overlay and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// `--overlay`
    pub overlay: Ipv4Net,
    /// The prefix length of every slot.
    pub slot_prefix: u8,
    /// `--node NAME=SLOT`, with `@ENDPOINT` for a node that others reach directly.
    pub nodes: Vec<PlanNode>,
    /// `--hub NAME=ENDPOINT`
    pub hubs: Vec<PlanHub>,
    /// `--route CIDR=VIA`
    pub routes: Vec<Route>,
    /// `--dns ADDRESS`
    pub dns: Vec<Ipv4Addr>,
    /// `--member NAME=CIDR[,CIDR]`: plain WireGuard members.
    pub members: Vec<PlanMember>,
}

/// A node of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanNode {
    /// Unique in the overlay.
    pub name: String,
    /// `56` or `172.16.8.56`.
    pub slot: String,
    /// Where the others reach it directly, when that is known.
    pub endpoint: Option<Endpoint>,
}

/// A hub of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanHub {
    /// Unique in the overlay.
    pub name: String,
    /// Where every member reaches it.
    pub endpoint: Endpoint,
}

/// A plain WireGuard member of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanMember {
    /// Unique in the overlay.
    pub name: String,
    /// What it owns: a piece of the overlay outside every slot, networks behind it, or both.
    pub allowed_ips: Vec<Ipv4Net>,
}

/// One file of a pack.
#[derive(Clone, Debug)]
pub struct PackFile {
    /// Relative to the output folder, with `/`: `cluster-1/config.toml`.
    pub path: String,
    /// The whole text.
    pub contents: Zeroizing<String>,
    /// It holds a key: nobody but its owner may read it.
    pub secret: bool,
}

impl Plan {
    /// Every mistake in the plan, each at its flag (`--node`, line 0); the warnings when there is no error.
    ///
    /// # Errors
    /// When the plan holds a mistake.
    pub fn check(&self) -> Result<Vec<Diagnostic>, Diagnostics> {
        self.cut().map(|(_, warnings)| warnings)
    }

    /// The packs, with keys made out of `entropy`, which fills the buffer that it is given. A folder for each node and
    /// hub holds `config.toml`, `NAME.key` and the signed records of all; one for each plain WireGuard member holds
    /// `overlay.conf`, and one more for each further hub. Beside the folders stands what the administrator keeps: the
    /// signing key, the records, and what all nodes have in common ([`Kept`] reads it).
    ///
    /// # Errors
    /// As [`Plan::check`].
    pub fn packs(&self, entropy: &mut dyn FnMut(&mut [u8])) -> Result<Vec<PackFile>, Diagnostics> {
        let (slots, _) = self.cut()?;
        let nodes: Vec<_> =
            self.nodes.iter().zip(slots).map(|(node, slot)| (node, slot, private_key(entropy))).collect();
        let hubs: Vec<_> = self
            .hubs
            .iter()
            .map(|hub| (hub, private_key(entropy)))
            .map(|(hub, key)| (hub, key.public(), Some(key)))
            .collect();
        let members = self.members.iter().map(|member| (member, private_key(entropy))).collect();
        let signing_key = SigningKey::from_bytes(*secret(entropy));
        let overlay = Overlay {
            cidr: self.overlay,
            slot_prefix: self.slot_prefix,
            dns: self.dns.clone(),
            routes: self.routes.clone(),
            signing_key: Some(signing_key.public()),
            membership: Membership::Signed,
            ..Overlay::default()
        };
        let of_hubs = hubs.iter().map(|(hub, key, _)| self.hub_record(hub, *key));
        let of_nodes = nodes.iter().map(|(node, slot, key)| node_record(node, *slot, key.public()));
        let records = of_hubs.chain(of_nodes).zip(1..).map(|(record, serial)| Record { serial, ..record });
        let records = sign(&signing_key, records, self.overlay)?;
        let records = RecordLines::write(&records);
        let cut = Cut { plan: self, overlay, records, nodes, hubs, members };
        let mut files = cut.files();
        let mut keep = |path: &str, contents, secret| {
            files.push(PackFile { path: path.to_owned(), contents: Zeroizing::new(contents), secret });
        };
        keep(RECORDS_FILE, cut.records.clone(), false);
        let header = "# What all nodes of the overlay have in common: `overlay-gw plan add-node` copies it into their files.\n\n";
        let plain = cut.plain_members();
        keep(OVERLAY_FILE, format!("{header}{}", write::overlay_to_toml(&cut.overlay, &plain)), false);
        let mut contents = Zeroizing::new(String::with_capacity(64));
        contents.push_str(&signing_key.to_base64());
        contents.push('\n');
        files.push(PackFile { path: SIGNING_KEY_FILE.to_owned(), contents, secret: true });
        Ok(files)
    }

    fn hub_record(&self, hub: &PlanHub, public_key: PublicKey) -> Record {
        let networks = self.routes.iter().filter(|route| route.via == hub.name).map(|route| route.cidr);
        Record {
            public_key,
            name: hub.name.clone(),
            kind: RecordKind::Hub,
            serial: 0,
            revoked: false,
            hubs: Vec::new(),
            networks: networks.collect(),
            endpoints: vec![hub.endpoint.clone()],
        }
    }

    /// The slots of the nodes, in their order, and the warnings.
    fn cut(&self) -> Result<(Vec<Slot>, Vec<Diagnostic>), Diagnostics> {
        let mut report = Report::default();
        let mut claims = Claims::new(View::Plan);
        self.measure(&mut claims, &mut report);
        let slots = self.claim_nodes(&mut claims, &mut report);
        self.claim_hubs(&mut claims, &mut report);
        self.claim_members(&mut claims, &mut report);
        let place = Place::flag("--dns");
        claims.dns.extend(self.dns.iter().map(|address| Placed::new(*address, place.clone())));
        self.claim_routes(&mut claims, &mut report);
        claims.check(&mut report);
        let warnings = report.finish()?;
        Ok((slots, warnings))
    }

    fn measure(&self, claims: &mut Claims, report: &mut Report) {
        let place = Place::flag("--overlay");
        let prefix =
            report.keep(&Place::flag("--slot-prefix"), network::slot_prefix(self.slot_prefix.into()));
        claims.slot_prefix = prefix;
        let wrong = network::check(self.overlay)
            .or_else(|| prefix.and_then(|prefix| network::overlay_size(self.overlay, prefix)));
        match wrong {
            Some(mistake) => report.mistake(&place, mistake),
            None => claims.cidr = Some(Placed::new(self.overlay, place)),
        }
    }

    fn claim_nodes(&self, claims: &mut Claims, report: &mut Report) -> Vec<Slot> {
        let place = Place::flag("--node");
        if self.nodes.is_empty() {
            report.error(
                "no-nodes",
                &place,
                "the plan has no node",
                "add each one, such as `--node cluster-1=56`",
            );
        }
        if self.hubs.is_empty() && self.nodes.iter().filter(|node| node.endpoint.is_none()).count() > 1 {
            let text = "there is no hub, and more than one node without an endpoint: these cannot meet";
            let fix = "add `--hub hub-a=198.51.100.1:51820`, or endpoints: `--node cluster-1=56@198.51.100.7:51820`";
            report.warning("no-hubs", &Place::flag("--hub"), text, fix);
        }
        let mut slots = Vec::new();
        for node in &self.nodes {
            let owner = claim_name(&node.name, "node", &place, claims, report);
            let Some(name) = report.keep(&place, network::SlotName::parse(&node.slot)) else { continue };
            if let Some(endpoint) = &node.endpoint {
                claims.endpoints.push((owner.clone(), Placed::new(endpoint.clone(), place.clone())));
            }
            let (Some(cidr), Some(prefix)) = (&claims.cidr, claims.slot_prefix) else { continue };
            let Some(slot) = report.keep(&place, name.resolve(cidr.value, prefix)) else { continue };
            slots.push(slot);
            let net = Placed::new(slot.net(), place.clone());
            claims.ranges.push(Range { owner, space: Space::Slot, net });
        }
        slots
    }

    fn claim_hubs(&self, claims: &mut Claims, report: &mut Report) {
        let place = Place::flag("--hub");
        for hub in &self.hubs {
            let owner = claim_name(&hub.name, "hub", &place, claims, report);
            claims.endpoints.push((owner, Placed::new(hub.endpoint.clone(), place.clone())));
            let networks = self.routes.iter().filter(|route| route.via == hub.name).count();
            if networks > MAX_NETWORKS {
                let text = format!(
                    "{networks} networks are routed via `{}`, and a hub's record holds {MAX_NETWORKS}",
                    hub.name
                );
                let fix = "route larger networks, or some of them via another hub";
                report.error("route-many", &Place::flag("--route"), text, fix);
            }
        }
    }

    fn claim_members(&self, claims: &mut Claims, report: &mut Report) {
        let place = Place::flag("--member");
        if self.hubs.is_empty() && !self.members.is_empty() {
            let text = "plain WireGuard members need a hub, and the plan has none";
            report.error("no-hubs", &place, text, "add `--hub hub-a=198.51.100.1:51820`");
        }
        for member in &self.members {
            let owner = claim_name(&member.name, "member", &place, claims, report);
            if member.allowed_ips.is_empty() {
                let text = format!("{} has no network", owner.text);
                let fix = format!("write `{}=172.16.8.80/29`, with what it owns", member.name);
                report.error("peer-kind", &place, text, fix);
            }
            for net in &member.allowed_ips {
                if let Some(mistake) = network::check(*net) {
                    report.mistake(&place, mistake);
                    continue;
                }
                let beyond = !network::overlap(self.overlay, *net);
                if beyond && !self.routes.iter().any(|route| route.cidr.contains(net)) {
                    let text =
                        format!("{net} of {} is beyond the overlay, and no route leads there", owner.text);
                    let hub = self.hubs.first().map_or("HUB", |hub| hub.name.as_str());
                    report.error("member-route", &place, text, format!("add `--route {net}={hub}`"));
                }
                let net = Placed::new(*net, place.clone());
                claims.ranges.push(Range { owner: owner.clone(), space: Space::Allowed, net });
            }
        }
    }

    fn claim_routes(&self, claims: &mut Claims, report: &mut Report) {
        let place = Place::flag("--route");
        for route in &self.routes {
            let Route { cidr, via } = route;
            if let Some(mistake) = network::check(*cidr) {
                report.mistake(&place, mistake);
                continue;
            }
            claims.routes.push((Placed::new(route.clone(), place.clone()), place.clone()));
            let hubs = || self.hubs.iter().map(|hub| hub.name.as_str());
            let mut members = self.members.iter().flat_map(|member| &member.allowed_ips);
            if !hubs().any(|hub| hub == via) {
                let known = claims.names.iter().any(|(_, name)| name.value == *via);
                let what = if known { "which is no hub" } else { "and no hub has that name" };
                let fix = match nearest(via, hubs()).filter(|_| !known) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => {
                        "in a plan, networks are behind hubs: route it via the hub that carries it".into()
                    }
                };
                report.error("route-via", &place, format!("{cidr} goes via `{}`, {what}", shown(via)), fix);
            } else if !network::overlap(self.overlay, *cidr) && !members.any(|net| net.contains(cidr)) {
                let text = format!("{cidr} is behind `{via}`, and no member of the plan has it");
                let fix = format!("add the router of that network: `--member NAME={cidr}`");
                report.warning("route-behind", &place, text, fix);
            }
        }
    }
}

fn secret(entropy: &mut dyn FnMut(&mut [u8])) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0; 32]);
    entropy(&mut *bytes);
    bytes
}

fn private_key(entropy: &mut dyn FnMut(&mut [u8])) -> PrivateKey {
    PrivateKey::from_bytes(*secret(entropy))
}

fn node_record(node: &PlanNode, slot: Slot, public_key: PublicKey) -> Record {
    Record {
        public_key,
        name: node.name.clone(),
        kind: RecordKind::Node(slot),
        serial: 0,
        revoked: false,
        hubs: Vec::new(),
        networks: Vec::new(),
        endpoints: node.endpoint.iter().cloned().collect(),
    }
}

/// Signs records that a checked plan led to.
fn sign(
    key: &SigningKey,
    records: impl IntoIterator<Item = Record>,
    overlay: Ipv4Net,
) -> Result<Vec<SignedRecord>, Diagnostics> {
    let failed = |why: crate::membership::SignError| {
        let mut report = Report::default();
        report.error("record", &Place::flag("--out"), why.to_string(), "give it a shorter name or endpoint");
        report.finish().map_or_else(|errors| errors, Diagnostics)
    };
    records.into_iter().map(|record| key.sign(record, overlay).map_err(failed)).collect()
}

/// Claims a member's name and makes the owner of its further claims.
fn claim_name(name: &str, kind: &str, place: &Place, claims: &mut Claims, report: &mut Report) -> Owner {
    if let Some(mistake) = member_mistake(name) {
        report.mistake(place, mistake);
    }
    let owner = Owner { id: claims.names.len(), text: format!("{kind} `{}`", shown(name)), own: false };
    claims.names.push((owner.clone(), Placed::new(name.to_owned(), place.clone())));
    owner
}
