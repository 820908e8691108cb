//! What `status` says: the JSON that programs rely on; as tables in [`table`].

mod table;

pub use table::{render, render_listeners, render_peers};

use overlay_config::{Config, Diagnostic, Mode, Slot};
use overlay_engine::claim::{Belongs, Conflict};
use overlay_engine::control::HubId;
use overlay_engine::peer::path::{Leg, Paths, Way, WayState};
use overlay_engine::peer::{PeerIndex, PeerKind};
use overlay_engine::{Engine, FloatingOwner, PeerStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// The version of the status JSON: fields may be added, not renamed.
const VERSION: u32 = 1;

/// How the service is as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Every hub and every peer that has a path of its own has a session.
    Ok,
    /// Some have none.
    Degraded,
    /// None has.
    Down,
}

/// `status --json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of this format.
    pub version: u32,
    /// `node` or `hub`.
    pub role: String,
    /// Its name.
    pub name: String,
    /// Name of the instance: the device's, for a hub its own.
    pub instance: String,
    /// How it is.
    pub state: State,
    /// The overlay's CIDR.
    pub overlay: String,
    /// This node's slot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slot: Option<String>,
    /// The synthetic gateway.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gateway: Option<Ipv4Addr>,
    /// This node's overlay address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<Ipv4Addr>,
    /// Seconds since it was ready.
    pub uptime_s: f64,
    /// Process id.
    pub pid: u32,
    /// Its public key.
    pub public_key: String,
    /// The UDP port of the underlay.
    pub listen_port: u16,
    /// The adapter.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device: Option<DeviceStatus>,
    /// The live addresses of the slot beyond the node's own two.
    pub listeners: Vec<Listener>,
    /// The floating addresses that somebody has.
    #[serde(default)]
    pub floating: Vec<FloatingLine>,
    /// Hubs and peers.
    pub peers: Vec<PeerLine>,
    /// Packets not carried, by reason.
    pub drops: BTreeMap<String, u64>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
}

/// The adapter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DeviceStatus {
    /// Its name.
    pub name: String,
    /// `tun` or `tap`.
    pub mode: String,
    /// In bytes.
    pub mtu: u16,
    /// It was there before, left behind by an earlier run.
    pub adopted: bool,
    /// The driver's library: its version, and whose signature it bears (Windows).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub driver: Option<String>,
}

/// An address of the slot that is live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The address.
    pub address: Ipv4Addr,
    /// `command`: by `listener add`; `host`: by another program, the cluster.
    pub origin: String,
}

/// A floating address and who has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FloatingLine {
    /// The address.
    pub address: Ipv4Addr,
    /// The name of the node that has it.
    pub owner: String,
    /// That is this node.
    pub here: bool,
    /// Of the owner's claim: counts the moves.
    pub epoch: u32,
}

/// A hub or peer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerLine {
    /// Its name.
    pub name: String,
    /// `hub`, `node` or `wireguard`.
    pub kind: String,
    /// Its public key.
    pub public_key: String,
    /// Its slot.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slot: Option<String>,
    /// A node: the live addresses of its slot beyond its own two, and its floating ones, as it has told.
    #[serde(default)]
    pub listeners: Vec<Ipv4Addr>,
    /// Networks that it owns beyond a slot.
    pub networks: Vec<String>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<String>,
    /// Whether there is a session.
    pub session: bool,
    /// Seconds since the session began.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub handshake_age_s: Option<f64>,
    /// Packets and bytes through the tunnel.
    pub rx_bytes: u64,
    /// See `rx_bytes`.
    pub tx_bytes: u64,
    /// See `rx_bytes`.
    pub rx_packets: u64,
    /// See `rx_bytes`.
    pub tx_packets: u64,
    /// `direct`, `via NAME` (sealed), `routed via NAME`, or `none`.
    pub path: String,
    /// Every way to the peer that is known.
    #[serde(default)]
    pub paths: Vec<PathLine>,
    /// Milliseconds there and back, on the path in use.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_ms: Option<f64>,
    /// The share of probes that is lost on the path in use, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub loss: Option<f64>,
    /// How often the path has changed.
    #[serde(default)]
    pub path_changes: u64,
    /// How many beats of one a second were lost, by the length of each outage of the path in use: whole seconds, rounded.
    #[serde(default)]
    pub missed_heartbeats: u64,
    /// The largest packet in bytes that passes the path in use whole, as far as that was measured; larger ones are fragmented or,
    /// when that is forbidden, refused with this size. On a hub: the same of the way to a member.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mtu: Option<u16>,
    /// It has said hello: an overlay-gw that speaks control messages.
    #[serde(default)]
    pub speaks: bool,
    /// A hub's member: datagrams and bytes that were forwarded for it, sealed.
    #[serde(default)]
    pub forwarded_packets: u64,
    /// See `forwarded_packets`.
    #[serde(default)]
    pub forwarded_bytes: u64,
}

/// A way to a peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathLine {
    /// A hub's name, or `direct`.
    pub via: String,
    /// Of a direct path.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub endpoint: Option<String>,
    /// Milliseconds there and back.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtt_ms: Option<f64>,
    /// The share of probes that is lost, 0 to 1.
    pub loss: f64,
    /// It carries.
    pub up: bool,
    /// Datagrams take it.
    pub used: bool,
    /// Its hub is to be left.
    pub draining: bool,
    /// The largest packet in bytes that was seen to pass, as far as that is known; the device's MTU at most.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub mtu: Option<u16>,
}

/// Something that the operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Stable, for programs.
    pub code: String,
    /// What is so.
    pub text: String,
    /// What to do.
    pub fix: String,
}

impl From<&Diagnostic> for Warning {
    fn from(diagnostic: &Diagnostic) -> Self {
        let Diagnostic { file, line, text, .. } = diagnostic;
        Self {
            code: diagnostic.code.to_owned(),
            text: match line {
                0 => format!("{file}: {text}"),
                _ => format!("{file}:{line}: {text}"),
            },
            fix: diagnostic.fix.clone(),
        }
    }
}

/// What a [`Status`] is made from, beside the engine.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// Name of the instance.
    pub instance: &'a str,
    /// When it was ready.
    pub since: Instant,
    /// The device was there before.
    pub adopted: bool,
    /// What is known of the driver's library.
    pub driver: Option<String>,
    /// The live listeners.
    pub listeners: Vec<Listener>,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
    /// The UDP port of the underlay.
    pub listen_port: u16,
}

impl Status {
    /// The status of `engine` at `now`.
    #[must_use]
    pub fn new(engine: &Engine, facts: Facts<'_>, now: Instant) -> Self {
        let peers = engine.peers();
        let config = facts.config;
        let slot = config.node().map(|node| node.slot);
        let public_key = |key| overlay_config::PublicKey(key).to_string();
        let mut warnings = facts.warnings;
        warnings.extend(redundancy(&peers));
        if slot.is_some() {
            warnings.extend(small_paths(&peers, config.device.mtu));
        }
        warnings.extend(engine.is_draining().then(draining));
        warnings.extend(engine.conflicts().iter().map(|conflict| address_conflict(conflict, config.name())));
        Self {
            version: VERSION,
            role: if slot.is_some() { "node" } else { "hub" }.to_owned(),
            name: config.name().to_owned(),
            instance: facts.instance.to_owned(),
            state: state(&peers),
            overlay: config.overlay.cidr.to_string(),
            slot: slot.map(|slot| slot.to_string()),
            gateway: slot.map(|slot| slot.gateway()),
            address: slot.map(|slot| slot.address()),
            uptime_s: seconds(facts.since, now),
            pid: std::process::id(),
            public_key: public_key(engine.public_key()),
            listen_port: facts.listen_port,
            device: slot.map(|_| DeviceStatus {
                name: config.device.name.clone(),
                mode: if config.device.mode == Mode::Tap { "tap" } else { "tun" }.to_owned(),
                mtu: config.device.mtu,
                adopted: facts.adopted,
                driver: facts.driver,
            }),
            listeners: facts.listeners,
            floating: floating(engine, config.name()),
            peers: peers
                .iter()
                .map(|status| PeerLine {
                    name: status.peer.settings.name.clone(),
                    kind: match status.peer.settings.kind {
                        PeerKind::Hub => "hub",
                        PeerKind::Node => "node",
                        PeerKind::Wireguard => "wireguard",
                    }
                    .to_owned(),
                    public_key: public_key(status.peer.settings.public_key),
                    slot: status.peer.settings.slot.map(|slot| slot.to_string()),
                    listeners: listeners(status),
                    networks: status
                        .peer
                        .settings
                        .networks
                        .iter()
                        .filter(|net| Some(**net) != status.peer.settings.slot)
                        .map(ToString::to_string)
                        .collect(),
                    endpoint: status.link.endpoint.map(|endpoint| endpoint.to_string()),
                    session: status.link.session,
                    handshake_age_s: status.link.established.map(|since| seconds(since, now)),
                    rx_bytes: status.link.rx_bytes,
                    tx_bytes: status.link.tx_bytes,
                    rx_packets: status.link.rx_packets,
                    tx_packets: status.link.tx_packets,
                    path: path(status, &peers),
                    rtt_ms: rtt(status, &peers),
                    loss: loss(status, &peers),
                    path_changes: status.link.paths.as_ref().map_or(0, Paths::changes),
                    missed_heartbeats: status.link.paths.as_ref().map_or(0, Paths::missed_heartbeats),
                    mtu: mtu(status, &peers),
                    paths: paths(status, &peers, now),
                    speaks: status.link.speaks,
                    forwarded_packets: status.link.forwarded.0,
                    forwarded_bytes: status.link.forwarded.1,
                })
                .collect(),
            drops: engine.drops().iter().map(|(reason, n)| (reason.name().to_owned(), n)).collect(),
            warnings,
        }
    }
}

/// Whether a session of its own is expected: not with a node that is met at a hub.
fn expects_session(status: &PeerStatus, has_hubs: bool) -> bool {
    let settings = &status.peer.settings;
    settings.kind != PeerKind::Node || settings.warm || !has_hubs
}

fn state(peers: &[PeerStatus]) -> State {
    let has_hubs = peers.iter().any(|status| status.peer.settings.kind == PeerKind::Hub);
    let expected = peers.iter().filter(|status| expects_session(status, has_hubs));
    let (mut all, mut up) = (0, 0);
    for status in expected {
        all += 1;
        up += usize::from(status.link.session || status.link.routed_via.is_some());
    }
    match up {
        up if up == all => State::Ok,
        0 => State::Down,
        _ => State::Degraded,
    }
}

fn path(status: &PeerStatus, peers: &[PeerStatus]) -> String {
    if let Some(hub) = status.link.routed_via.and_then(|hub| name(peers, hub)) {
        return format!("routed via {hub}");
    }
    if let Some(paths) = &status.link.paths {
        return match paths.current().filter(|_| status.link.session) {
            Some(Way::Direct(_)) => "direct".to_owned(),
            Some(Way::Via(hub)) => format!("via {}", name(peers, hub).unwrap_or("?")),
            None => "none".to_owned(),
        };
    }
    if status.link.session {
        return "direct".to_owned();
    }
    let hub = peers.iter().find(|other| other.peer.settings.kind == PeerKind::Hub && other.link.session);
    match hub {
        Some(hub) if status.peer.settings.kind == PeerKind::Node => {
            format!("routed via {}", hub.peer.settings.name)
        }
        _ => "none".to_owned(),
    }
}

fn name(peers: &[PeerStatus], hub: PeerIndex) -> Option<&str> {
    peers.iter().find(|peer| peer.peer.index == hub).map(|peer| peer.peer.settings.name.as_str())
}

/// Every way to a node, or the leg to a hub.
fn paths(status: &PeerStatus, peers: &[PeerStatus], now: Instant) -> Vec<PathLine> {
    if let Some(leg) = status.link.leg {
        return vec![PathLine {
            via: "direct".to_owned(),
            endpoint: status.link.endpoint.map(|endpoint| endpoint.to_string()),
            rtt_ms: leg.rtt.map(milliseconds),
            loss: share(leg.loss),
            up: leg.up,
            used: true,
            draining: leg.draining,
            mtu: leg.measured.then_some(leg.mtu),
        }];
    }
    let Some(paths) = &status.link.paths else { return Vec::new() };
    let legs: Vec<Leg> = peers.iter().filter_map(leg).collect();
    let line = |state: WayState| {
        let used = status.link.session && paths.current() == Some(state.way);
        let rtt_ms = state.rtt.map(milliseconds);
        let WayState { up, draining, .. } = state;
        match state.way {
            Way::Direct(address) => {
                let candidate = paths.candidates().iter().find(|candidate| candidate.address == address);
                let loss = share(candidate.map_or(0.0, |candidate| candidate.prober.loss()));
                let endpoint = Some(address.to_string());
                let mtu = candidate.and_then(|candidate| candidate.mtu.known());
                PathLine { via: "direct".to_owned(), endpoint, rtt_ms, loss, up, used, draining, mtu }
            }
            Way::Via(hub) => {
                let ours = peers.iter().find(|peer| peer.peer.index == hub).and_then(|peer| peer.link.leg);
                let loss = share(ours.map_or(0.0, |leg| leg.loss));
                let via = name(peers, hub).unwrap_or("?").to_owned();
                let measured = ours.is_some_and(|leg| leg.measured);
                let mtu = measured.then(|| paths.mtu_of(state.way, &legs));
                PathLine { via, endpoint: None, rtt_ms, loss, up, used, draining, mtu }
            }
        }
    };
    paths.ways(now, &legs).map(line).collect()
}

/// A hub's leg, as paths want it.
fn leg(hub: &PeerStatus) -> Option<Leg> {
    let leg = hub.link.leg?;
    Some(Leg {
        hub: hub.peer.index,
        id: HubId::of(&hub.peer.settings.public_key),
        endpoint: hub.link.endpoint?,
        up: leg.up && hub.link.session,
        relays: true,
        plain: false,
        routed_only: false,
        draining: leg.draining,
        rtt: leg.rtt.unwrap_or_default(),
        alive: None,
        mtu: leg.mtu,
        measured: leg.measured,
    })
}

fn in_use<T>(status: &PeerStatus, peers: &[PeerStatus], of: impl Fn(PathLine) -> T) -> Option<T> {
    paths(status, peers, Instant::now()).into_iter().find(|path| path.used).map(of)
}

fn rtt(status: &PeerStatus, peers: &[PeerStatus]) -> Option<f64> {
    in_use(status, peers, |path| path.rtt_ms).flatten()
}

fn loss(status: &PeerStatus, peers: &[PeerStatus]) -> Option<f64> {
    in_use(status, peers, |path| path.loss)
}

/// What the packet path takes to pass; to a node once that was measured.
fn mtu(status: &PeerStatus, peers: &[PeerStatus]) -> Option<u16> {
    let measured = || in_use(status, peers, |path| path.mtu).flatten();
    status.link.mtu.filter(|_| status.link.paths.is_none() || measured().is_some())
}

/// To microseconds.
fn milliseconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// To a tenth of a per cent.
fn share(loss: f32) -> f64 {
    (f64::from(loss) * 1000.0).round() / 1000.0
}

/// What is to be known when the next fault would be one too many.
fn redundancy(peers: &[PeerStatus]) -> Option<Warning> {
    let hubs: Vec<&PeerStatus> =
        peers.iter().filter(|peer| peer.peer.settings.kind == PeerKind::Hub).collect();
    let stands =
        |hub: &PeerStatus| hub.link.session && hub.link.leg.is_none_or(|leg| leg.up && !leg.draining);
    let (up, down): (Vec<&PeerStatus>, Vec<&PeerStatus>) = hubs.iter().partition(|hub| stands(hub));
    if hubs.len() < 2 || up.len() != 1 {
        return None;
    }
    let names: Vec<_> = down.iter().map(|hub| hub.peer.settings.name.as_str()).collect();
    let left = up.first().map_or("?", |hub| hub.peer.settings.name.as_str());
    Some(Warning {
        code: "one-hub-left".to_owned(),
        text: format!(
            "of {} hubs only {left} is left: without it nodes that have no direct path are cut off",
            hubs.len()
        ),
        fix: format!(
            "see why {} cannot be reached, or is to be left: `overlay-gw status` there",
            names.join(", ")
        ),
    })
}

/// Paths in use that take less than the device's packets.
fn small_paths(peers: &[PeerStatus], device: u16) -> Option<Warning> {
    let small = |status: &PeerStatus| {
        let mtu = mtu(status, peers).filter(|mtu| *mtu < device)?;
        Some((mtu, status.peer.settings.name.clone()))
    };
    let small: Vec<_> = peers.iter().filter_map(small).collect();
    let least = small.iter().map(|(mtu, _)| *mtu).min()?;
    let names: Vec<_> = small.iter().map(|(mtu, name)| format!("{name} ({mtu})")).collect();
    Some(Warning {
        code: "small-path-mtu".to_owned(),
        text: format!(
            "packets of {device} bytes, the device's MTU, do not pass whole on the way to {}: connections are told so, and slower",
            names.join(", ")
        ),
        fix: format!(
            "find the link with the small MTU on that way (`tracepath`), or set `[device] mtu = {least}` on every node"
        ),
    })
}

/// An address that two nodes have, or a node that it does not belong to. `own`: the name of this node.
#[must_use]
pub fn address_conflict(conflict: &Conflict, own: &str) -> Warning {
    let Conflict { address, here, peers, belongs } = conflict;
    let mut holders: Vec<&str> = here.then_some(own).into_iter().collect();
    holders.extend(peers.iter().map(String::as_str));
    let belongs = match belongs {
        Belongs::Here => format!("is in the slot of {own}"),
        Belongs::To(name) => format!("is in the slot of {name}"),
        Belongs::Floating => {
            "is a floating address, which one of the nodes named for it may have at a time".to_owned()
        }
    };
    Warning {
        code: "address-conflict".to_owned(),
        text: format!("{address} {belongs}, and is on the device of {}", holders.join(" and of ")),
        fix: format!(
            "take {address} off every device but the right one, where it was brought online: the cluster, keepalived, or `ip addr`"
        ),
    }
}

fn floating(engine: &Engine, own: &str) -> Vec<FloatingLine> {
    let line = |FloatingOwner { address, peer, epoch }| {
        let here = peer.is_none();
        FloatingLine { address, owner: peer.unwrap_or_else(|| own.to_owned()), here, epoch }
    };
    engine.floating().into_iter().map(line).collect()
}

/// What a node has told, without its own two addresses.
fn listeners(status: &PeerStatus) -> Vec<Ipv4Addr> {
    let own = status.peer.settings.slot.and_then(|slot| Slot::new(slot).ok());
    let own = own.map(|slot| [slot.address(), slot.client_access()]).unwrap_or([Ipv4Addr::UNSPECIFIED; 2]);
    status.listeners.iter().copied().filter(|address| !own.contains(address)).collect()
}

fn draining() -> Warning {
    Warning {
        code: "draining".to_owned(),
        text: "this hub is to be left: its nodes were asked to use another one".to_owned(),
        fix: "stop it when nothing goes through it any more, or take it back with `overlay-gw hub drain --stop`".to_owned(),
    }
}

fn seconds(since: Instant, now: Instant) -> f64 {
    (now.saturating_duration_since(since).as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn sample() -> Status {
        let node = serde_json::json!({"name": "cluster-2", "kind": "node", "public_key": "C=", "networks": [],
            "endpoint": "198.51.100.1:51820", "session": true, "handshake_age_s": 41.2, "rx_bytes": 5,
            "tx_bytes": 6, "rx_packets": 1, "tx_packets": 2, "path": "via hub-a", "rtt_ms": 31.0, "loss": 0.004,
            "path_changes": 1, "missed_heartbeats": 1, "speaks": true,
            "paths": [
                {"via": "direct", "endpoint": "198.51.100.7:51820", "loss": 0.0, "up": false, "used": false, "draining": false},
                {"via": "hub-a", "rtt_ms": 31.0, "loss": 0.004, "up": true, "used": true, "draining": false, "mtu": 1420}]});
        let mut status = serde_json::json!({
            "version": 1, "role": "node", "name": "cluster-1", "instance": "Overlay", "state": "degraded",
            "overlay": "172.16.8.0/24", "slot": "172.16.8.56/29", "gateway": "172.16.8.56", "address": "172.16.8.57",
            "uptime_s": 3725.0, "pid": 1, "public_key": "K=", "listen_port": 51820,
            "device": {"name": "Overlay", "mode": "tun", "mtu": 1420, "adopted": true},
            "listeners": [{"address": "172.16.8.59", "origin": "command"}, {"address": "172.16.8.60", "origin": "host"}],
            "peers": [{"name": "hub-a", "kind": "hub", "public_key": "H=", "networks": ["172.16.0.0/24"],
                "endpoint": "198.51.100.1:51820", "session": true, "handshake_age_s": 41.2, "rx_bytes": 1_234_567,
                "tx_bytes": 456, "rx_packets": 1, "tx_packets": 2, "path": "direct"}],
            "drops": {"foreign_source": 2, "no_route": 0},
            "warnings": [{"code": "no_resolved", "text": "DNS is not set", "fix": "start systemd-resolved"}],
        });
        status["peers"].as_array_mut().unwrap().push(node);
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn an_address_on_two_nodes_is_told_with_both_names() {
        let address = Ipv4Addr::new(172, 16, 8, 67);
        let belongs = Belongs::To("cluster-2".into());
        let conflict = Conflict { address, here: true, peers: vec!["cluster-2".into()], belongs };
        let warning = address_conflict(&conflict, "cluster-1");
        assert_eq!(warning.code, "address-conflict");
        assert_eq!(
            warning.text,
            "172.16.8.67 is in the slot of cluster-2, and is on the device of cluster-1 and of cluster-2"
        );
        assert!(warning.fix.contains("172.16.8.67"), "{}", warning.fix);
    }

    #[test]
    fn the_json_keeps_the_names_that_programs_rely_on() {
        let json = serde_json::to_value(sample()).unwrap();
        for name in [
            "version",
            "role",
            "name",
            "instance",
            "state",
            "overlay",
            "slot",
            "gateway",
            "address",
            "uptime_s",
            "device",
            "listeners",
            "peers",
            "drops",
            "warnings",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
        assert_eq!(json["state"], "degraded");
    }
}
