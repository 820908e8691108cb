//! `up`: a node and its side of the host, the device with its addresses, routes and listeners.

use crate::cli::{Global, UpArgs};
use crate::config_file::{Kind, Origin};
use crate::daemon::{self, Prepared};
use crate::exit::Failure;
use crate::random;
use crate::state::StateFolder;
use crate::status::{Listener, Warning};
use crate::workers::Spread;
use ipnet::Ipv4Net;
use overlay_config::{Config, Mode, Overrides, Slot};
use overlay_engine::gateway::device_mac;
use overlay_engine::{Engine, EngineSettings};
use overlay_platform::change::{Change, DesiredHost};
use overlay_platform::os::{
    DeviceState, DeviceWatch, Host, TunDevice, boot_id, check_kernel, connect_host, intended, listener,
};
use overlay_platform::record::{Origin as AddedBy, Record};
use overlay_platform::settle::{self, Cleared, Settled};
use overlay_platform::{DeviceIdentity, DeviceSpec, HostNet as _, Layer, Outcome};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Runs a node until a signal or `down`.
///
/// # Errors
/// Everything that stops it before `ready`; then nothing is left behind.
pub fn up(args: &UpArgs, global: &Global) -> Result<u8, Failure> {
    crate::service::block_on(async {
        check_kernel().map_err(in_words)?;
        let overrides = Overrides {
            slot: args.slot.clone(),
            overlay: args.overlay.clone(),
            device: args.device.clone(),
            mode: args.mode.clone(),
            listen: args.listen.clone(),
            state_key: None,
        };
        let origin = Origin::new(Kind::Node, global, overrides);
        let prepared = Prepared::new(origin, global, |config: &Config| config.device.name.clone()).await?;
        let settings = EngineSettings::from_config(&prepared.config);
        let engine =
            Arc::new(Engine::new(settings, *prepared.key.as_bytes(), Instant::now(), random::seed()));
        let node = NodeSide::open(&prepared.config, &prepared.state).await?;
        engine.set_live(Some(node.live.clone()));
        daemon::run(prepared, engine, Some(node), args.persist).await
    })
}

/// What was found left behind, in words.
#[derive(Debug, Default)]
pub struct LeftBehind {
    /// What was ours, and was taken back.
    pub removed: Vec<String>,
    /// Addresses on the device that are somebody else's: for their sake it stays.
    pub kept: Vec<String>,
}

/// Clears what a crash or `--persist` left behind, and says what it was. `named`: the operator means this folder; in one
/// that was only come across, a service that runs is no error.
///
/// # Errors
/// When the host refuses.
pub fn clear_left_behind(folder: &Path, named: bool) -> Result<LeftBehind, Failure> {
    let state = StateFolder::new(Some(folder), "");
    state.check()?;
    let record = Record::load(folder).map_err(in_words)?;
    // Killed between making the device and beginning the record, there is only the device, by the name of the folder.
    let device = record.as_ref().map(|record| record.device().name.clone());
    let Some(device) = device.or_else(|| folder.file_name().map(|name| name.to_string_lossy().into_owned()))
    else {
        return Ok(LeftBehind::default());
    };
    if !folder.exists() {
        return Ok(LeftBehind::default());
    }
    crate::service::block_on(async {
        let _lock = match state.lock() {
            Ok(lock) => lock,
            Err(failure) if named => return Err(failure),
            // That one runs: nothing of it was left behind.
            Err(_) => return Ok(LeftBehind::default()),
        };
        let host = connect_host(&device).map_err(in_words)?;
        let cleared = settle::clear(&host, record, &boot_id().map_err(in_words)?).await.map_err(in_words)?;
        state.clear_listeners();
        let kept = cleared.kept.iter().map(ToString::to_string).collect();
        Ok(LeftBehind { removed: removed(&cleared, host.device_name()), kept })
    })
}

/// A node's side of the host.
#[derive(Debug)]
pub struct NodeSide {
    host: Host,
    watch: DeviceWatch,
    record: Record,
    queues: Vec<Arc<TunDevice>>,
    adopted: bool,
    gone: bool,
    /// The link is up: while it is not, the kernel takes no route.
    up: bool,
    /// Something of ours may have gone from the device, and is to be put back.
    unsettled: bool,
    slot: Slot,
    overlay: Ipv4Net,
    /// The overlay's addresses on the device: those of the slot, floating ones, and whatever else somebody has put there.
    live: Vec<Ipv4Addr>,
    warnings: Vec<Warning>,
}

impl NodeSide {
    /// Makes or adopts the device, and brings the host to what `config` wants. What fails is undone.
    async fn open(config: &Config, state: &StateFolder) -> Result<Self, Failure> {
        let name = &config.device.name;
        let host = connect_host(name).map_err(in_words)?;
        let node = Self::attach(host, config, state).await;
        let mut node = match node {
            Ok(node) => node,
            Err((failure, fresh)) => {
                if fresh && let Ok(boot) = boot_id() {
                    let host = connect_host(name).map_err(in_words)?;
                    let _ = settle::clear(&host, Record::load(state.path()).ok().flatten(), &boot).await;
                }
                return Err(failure);
            }
        };
        node.relearn().await.map_err(in_words)?;
        Ok(node)
    }

    /// As [`NodeSide::open`]; an error says whether the device was made just now.
    async fn attach(host: Host, config: &Config, state: &StateFolder) -> Result<Self, (Failure, bool)> {
        let untouched = |failure: Failure| (failure, false);
        let Some(slot) = config.node().map(|node| node.slot) else {
            return Err(untouched(Failure::bad_input("a hub has no device", "use `overlay-gw hub`")));
        };
        let boot = boot_id().map_err(|error| untouched(in_words(error)))?;
        let known = Record::load(state.path()).map_err(|error| untouched(in_words(error)))?;
        let nothing_known = known.is_none();
        if nothing_known {
            // Killed between making the device and writing its number down, `down` still finds what there is to clear.
            let unmade = DeviceIdentity {
                name: config.device.name.clone(),
                ifindex: 0,
                mode: layer(config.device.mode),
            };
            Record::open(state.path(), &boot, &unmade).map_err(|error| untouched(in_words(error)))?;
        }
        let (queues, identity, adopted) = {
            let spec = DeviceSpec {
                name: config.device.name.clone(),
                layer: layer(config.device.mode),
                mac: (config.device.mode == Mode::Tap).then(|| device_mac(config.overlay.cidr, slot.net()).0),
                // Whatever the host sends is read: what is too big for the tunnel is told so.
                mtu: u16::MAX,
                offload: true,
                guid: overlay_platform::guid::of(config.overlay.cidr, slot.net()),
                recorded_index: known.as_ref().and_then(|record| record.index_of(&boot, &config.device.name)),
            };
            let opened = match TunDevice::open(&spec, &host).await {
                Ok(opened) => opened,
                Err(error) => {
                    if nothing_known && let Ok(Some(record)) = Record::load(state.path()) {
                        let _ = record.remove();
                    }
                    return Err(untouched(in_words(error)));
                }
            };
            (
                open_queues(opened.device, Spread::here(config.device.queues).queues),
                opened.identity,
                opened.adopted,
            )
        };
        let failed = |error: String| (Failure::bad_input(error, FIX_HOST), !adopted);
        let watch = DeviceWatch::new(&config.device.name).map_err(|error| failed(error.to_string()))?;
        let record =
            Record::open(state.path(), &boot, &identity).map_err(|error| failed(error.to_string()))?;
        let mut node = Self {
            host,
            watch,
            record,
            queues,
            adopted,
            gone: false,
            up: true,
            unsettled: false,
            slot,
            overlay: config.overlay.cidr,
            live: Vec::new(),
            warnings: Vec::new(),
        };
        let settled = settle::settle(&node.host, &mut node.record, &intended(&desired(config, slot))).await;
        node.note(&settled.map_err(|error| failed(error.to_string()))?);
        for address in state.listeners() {
            let change = node.listener_change(address);
            let added = settle::add(&node.host, &mut node.record, &change).await;
            if let Err(error) = added {
                return Err(failed(format!("the listener {address}, which was added by command: {error}")));
            }
        }
        // From here on: how the link was before it was brought up is no news.
        node.watch = DeviceWatch::new(&config.device.name).map_err(|error| failed(error.to_string()))?;
        Ok(node)
    }

    /// The queues of the device, for the packet path; none while it is closed.
    #[must_use]
    pub fn queues(&self) -> &[Arc<TunDevice>] {
        &self.queues
    }

    /// The device was there before.
    #[must_use]
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Somebody else deleted the device.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// What the operator should know.
    pub fn warnings(&self) -> impl Iterator<Item = Warning> + '_ {
        let name = &self.record.device().name;
        let public = self.host.network_trouble().map(|why| Warning {
            code: "network-not-private".to_owned(),
            text: format!("{why}: the firewall's rules for it do not count, and other nodes cannot reach this one's services"),
            fix: format!(
                "Set-NetConnectionProfile -InterfaceAlias \"{name}\" -NetworkCategory Private, in a PowerShell of an administrator, then `overlay-gw reload`; \
                 if that is refused, look at the policies in secpol.msc, Network List Manager Policies"
            ),
        });
        self.warnings.iter().cloned().chain(public)
    }

    /// The live addresses of the slot beyond the node's own two.
    #[must_use]
    pub fn listeners(&self) -> Vec<Listener> {
        let own = [self.slot.address(), self.slot.client_access()];
        self.live
            .iter()
            .filter(|address| self.slot.contains(**address) && !own.contains(address))
            .map(|&address| {
                let change = self.listener_change(address);
                let ours =
                    self.record.entries().iter().any(|e| e.change == change && e.origin == AddedBy::Command);
                Listener { address, origin: if ours { "command" } else { "host" }.to_owned() }
            })
            .collect()
    }

    /// Comes back when something about the device has changed.
    pub async fn changed(&mut self) {
        if let Err(error) = self.watch.next().await {
            tracing::warn!(%error, "the device cannot be watched; its addresses are read again each second");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        self.up &= !self.watch.take_went_down();
    }

    /// Asks the host which addresses of the overlay are on the device now.
    ///
    /// # Errors
    /// When the host does not say.
    pub async fn relearn(&mut self) -> Result<Vec<Ipv4Addr>, overlay_platform::HostError> {
        let Some(facts) = self.host.device().await? else {
            self.watch.learnt(DeviceState::Gone);
            self.gone = true;
            self.live.clear();
            return Ok(Vec::new());
        };
        self.gone = facts.ifindex != self.record.device().ifindex;
        let held = self.host.device_addresses().await?;
        self.watch.learnt(DeviceState::Present {
            ifindex: facts.ifindex,
            up: facts.up,
            addresses: held.clone(),
        });
        let missing = self.record.entries().iter().any(|entry| {
            entry.origin == AddedBy::Config && entry.change.assigned().is_some_and(|net| !held.contains(&net))
        });
        // Going down takes the routes from a device, and so does the loss of the address that they name as their source.
        self.unsettled = facts.up && (self.unsettled || !self.up || missing);
        self.up = facts.up;
        let mut live: Vec<_> = held.iter().map(|net| net.addr()).collect();
        live.retain(|address| self.overlay.contains(address));
        live.sort_unstable();
        live.dedup();
        for address in live.iter().filter(|address| !self.live.contains(address)) {
            tracing::info!(%address, "live");
        }
        for address in self.live.iter().filter(|address| !live.contains(address)) {
            tracing::info!(%address, "no longer live");
        }
        self.live.clone_from(&live);
        Ok(live)
    }

    /// Whether [`NodeSide::mend`] has something to do.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.unsettled && !self.gone
    }

    /// Puts back what the configuration wants and somebody took away: routes went with the link, or .57 by hand.
    ///
    /// # Errors
    /// What the host refuses; it is tried again when the device changes next.
    pub async fn mend(&mut self, config: &Config) -> Result<(), Failure> {
        self.unsettled = false;
        let mut wanted = intended(&desired(config, self.slot));
        // Whether the link is up is the operator's to say.
        wanted.retain(|change| *change != Change::LinkUp);
        let settled = settle::settle(&self.host, &mut self.record, &wanted).await.map_err(in_words)?;
        for change in settled.added.iter().filter(|change| change.is_recorded()) {
            tracing::warn!(%change, "was gone, and is put back");
        }
        // Listeners that went with the node's own addresses: one that went alone is not in the record any more.
        let listeners = self.record.entries().iter().filter(|entry| entry.origin == AddedBy::Command);
        let listeners: Vec<Change> = listeners.map(|entry| entry.change.clone()).collect();
        for change in listeners {
            if self.host.apply(&change).await.map_err(in_words)? == Outcome::Added {
                tracing::warn!(%change, "was gone, and is put back");
            }
        }
        Ok(())
    }

    /// Strikes listeners that were added by command and are on the device no more from the record: if one comes back,
    /// another program brought it.
    pub fn forget_vanished(&mut self, state: &StateFolder) {
        // Without the node's own address it is the device that goes, or somebody swept it clean: what was on it comes back with it.
        if self.gone || !self.live.contains(&self.slot.address()) {
            return;
        }
        let vanished: Vec<Change> = self
            .record
            .entries()
            .iter()
            .filter(|entry| entry.origin == AddedBy::Command)
            .filter(|entry| entry.change.assigned().is_some_and(|net| !self.live.contains(&net.addr())))
            .map(|entry| entry.change.clone())
            .collect();
        if vanished.is_empty() {
            return;
        }
        if let Err(error) = self.record.forget(&vanished) {
            tracing::warn!(%error, "the record of what is ours");
            return;
        }
        self.remember_listeners(state);
    }

    /// Puts a listener on the device, and remembers it.
    ///
    /// # Errors
    /// An address that is no listener of this slot; what the host refuses.
    pub async fn add_listener(&mut self, address: &str, state: &StateFolder) -> Result<Listener, Failure> {
        let address = self.listener_address(address)?;
        let change = self.listener_change(address);
        let outcome = settle::add(&self.host, &mut self.record, &change).await.map_err(in_words)?;
        if outcome == Outcome::AlreadyThere && !self.record.is_ours(&change) {
            return Ok(Listener { address, origin: "host".to_owned() });
        }
        self.remember_listeners(state);
        Ok(Listener { address, origin: "command".to_owned() })
    }

    /// The live addresses but `address`, if that is a listener of ours.
    #[must_use]
    pub fn live_without(&self, address: &str) -> Vec<Ipv4Addr> {
        let leaving =
            address.parse().ok().filter(|address| self.record.is_ours(&self.listener_change(*address)));
        self.live.iter().copied().filter(|live| Some(*live) != leaving).collect()
    }

    /// Takes a listener off the device that [`NodeSide::add_listener`] put there.
    ///
    /// # Errors
    /// An address that somebody else added, or nobody; what the host refuses.
    pub async fn remove_listener(&mut self, address: &str, state: &StateFolder) -> Result<Listener, Failure> {
        let address = self.listener_address(address)?;
        let change = self.listener_change(address);
        if !settle::remove(&self.host, &mut self.record, &change).await.map_err(in_words)? {
            return Err(if self.live.contains(&address) {
                Failure::bad_input(
                    format!(
                        "{address} was added by another program (the cluster), and is not ours to remove"
                    ),
                    "take it offline where it was brought online",
                )
            } else {
                Failure::bad_input(format!("{address} is not live"), "see `overlay-gw listener list`")
            });
        }
        self.remember_listeners(state);
        Ok(Listener { address, origin: "command".to_owned() })
    }

    /// Applies what changed between the configuration in force and `config` to the host; what, in words.
    ///
    /// # Errors
    /// What the host refuses.
    pub async fn reconfigure(&mut self, config: &Config) -> Result<Vec<String>, Failure> {
        let wanted = intended(&desired(config, self.slot));
        let settled = settle::settle(&self.host, &mut self.record, &wanted).await.map_err(in_words)?;
        self.note(&settled);
        let added = settled
            .added
            .iter()
            .filter(|change| change.is_recorded() || matches!(change, Change::Mtu { .. }))
            .map(|change| match change {
                Change::Mtu { .. } => change.to_string(),
                _ => format!("{change} added"),
            });
        let removed = settled.removed.iter().map(|change| format!("{change} removed"));
        Ok(added.chain(removed).collect())
    }

    /// Lets go of the device: it stays, without carrier.
    pub fn close(&mut self) {
        self.queues.clear();
    }

    /// Makes or adopts the device again.
    ///
    /// # Errors
    /// As for a start.
    pub async fn reopen(&mut self, config: &Config, state: &StateFolder) -> Result<(), Failure> {
        self.queues.clear();
        *self = Self::open(config, state).await?;
        Ok(())
    }

    /// Removes everything that is ours; what was removed and what stays.
    ///
    /// # Errors
    /// What the host refuses; it stays in the record.
    pub async fn clear(self, state: &StateFolder) -> Result<Value, Failure> {
        let Self { host, record, watch, queues, .. } = self;
        drop((watch, queues));
        // One that was made anew, and given up in the middle of that, has written down more.
        let record = Record::load(state.path()).ok().flatten().unwrap_or(record);
        let boot = record.boot_id().to_owned();
        let name = record.device().name.clone();
        let cleared = settle::clear(&host, Some(record), &boot).await.map_err(in_words)?;
        if !cleared.kept.is_empty() {
            let kept: Vec<_> = cleared.kept.iter().map(ToString::to_string).collect();
            eprintln!(
                "{name} stays, without carrier: {} on it {} not ours; the next `up` adopts it",
                kept.join(", "),
                if kept.len() == 1 { "is" } else { "are" }
            );
        }
        let kept: Vec<_> = cleared.kept.iter().map(ToString::to_string).collect();
        Ok(json!({ "removed": removed(&cleared, &name), "kept": kept }))
    }

    fn note(&mut self, settled: &Settled) {
        for change in &settled.found {
            tracing::info!(%change, "was there already and is left alone");
        }
        self.warnings.clear();
        if let Some(Change::Dns { servers }) = &settled.no_resolved {
            let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
            let warning = Warning {
                code: "no_resolved".to_owned(),
                text: format!(
                    "the DNS servers {} are not set: systemd-resolved does not run here",
                    servers.join(", ")
                ),
                fix:
                    "start systemd-resolved, or name these servers in the host's own resolver configuration; \
                      overlay-gw never rewrites /etc/resolv.conf"
                        .to_owned(),
            };
            self.warn(warning);
        }
        if let Some(Change::Dns { servers }) = &settled.other_servers {
            let servers: Vec<_> = servers.iter().map(ToString::to_string).collect();
            let name = self.record.device().name.clone();
            self.warn(Warning {
                code: "other_dns_servers".to_owned(),
                text: format!(
                    "the DNS servers {} are not set: another program or an administrator has set others on {name}",
                    servers.join(", ")
                ),
                fix: format!(
                    "leave `dns` out of the configuration, or take the others away (Set-DnsClientServerAddress -InterfaceAlias \"{name}\" \
                     -ResetServerAddresses) and run `overlay-gw reload`"
                ),
            });
        }
    }

    fn warn(&mut self, warning: Warning) {
        eprintln!("warning: {}\n    {}", warning.text, warning.fix);
        self.warnings.push(warning);
    }

    fn listener_address(&self, text: &str) -> Result<Ipv4Addr, Failure> {
        let (first, last) = (self.slot.listeners().next(), self.slot.listeners().last());
        let range = match (first, last) {
            (Some(first), Some(last)) => format!("the listeners of slot {} are {first} to {last}", self.slot),
            _ => format!("slot {} has no room for listeners", self.slot),
        };
        let address: Ipv4Addr = text
            .parse()
            .map_err(|_| Failure::bad_input(format!("\"{text}\" is not an IPv4 address"), range.clone()))?;
        if self.slot.listeners().any(|listener| listener == address) {
            return Ok(address);
        }
        let why = match address {
            a if a == self.slot.gateway() => "the synthetic gateway, which no host may have",
            a if a == self.slot.address() || a == self.slot.client_access() => {
                "one of the node's own addresses"
            }
            a if a == self.slot.broadcast() => "the slot's broadcast address",
            _ => "not in this node's slot",
        };
        Err(Failure::bad_input(format!("{address} is {why}"), range))
    }

    /// What puts the address on the device: as it is in the record, where an earlier version may have done it another way.
    fn listener_change(&self, address: Ipv4Addr) -> Change {
        let change = listener(self.slot.net(), address);
        let recorded =
            self.record.entries().iter().find(|entry| {
                entry.origin == AddedBy::Command && entry.change.assigned() == change.assigned()
            });
        recorded.map_or(change, |entry| entry.change.clone())
    }

    fn remember_listeners(&self, state: &StateFolder) {
        let ours = self.record.entries().iter().filter(|entry| entry.origin == AddedBy::Command);
        let addresses: Vec<_> =
            ours.filter_map(|entry| entry.change.assigned()).map(|net| net.addr()).collect();
        if let Err(error) = state.set_listeners(&addresses) {
            tracing::warn!(%error, "the listeners cannot be remembered for the next start");
        }
    }
}

/// What to do when the host refuses what no file could have told.
const FIX_HOST: &str = "nothing was left behind; mend this and start again";

fn desired(config: &Config, slot: Slot) -> DesiredHost {
    let routes = config.overlay.routes.iter().map(|route| route.cidr);
    let hubs = config.hubs.iter().flat_map(|hub| hub.allowed_ips.iter().copied());
    let peers = config.peers.iter().flat_map(|peer| peer.allowed_ips.iter().copied());
    DesiredHost {
        slot: slot.net(),
        gateway: slot.gateway(),
        address: slot.address(),
        client_access: slot.client_access(),
        overlay: config.overlay.cidr,
        routes: routes.chain(hubs).chain(peers).collect(),
        dns: config.overlay.dns.clone(),
        mtu: config.device.mtu,
        windows: config.device.windows.clone(),
    }
}

/// The device's queues, as many as it gives.
fn open_queues(device: TunDevice, wanted: usize) -> Vec<Arc<TunDevice>> {
    let mut queues = vec![Arc::new(device)];
    while queues.len() < wanted {
        match queues.first().map(|first| first.add_queue()) {
            Some(Ok(queue)) => queues.push(Arc::new(queue)),
            Some(Err(error)) => {
                tracing::warn!(%error, wanted, opened = queues.len(), "the device gives fewer queues than it should");
                break;
            }
            None => break,
        }
    }
    queues
}

fn layer(mode: Mode) -> Layer {
    match mode {
        Mode::Tun => Layer::Tun,
        Mode::Tap => Layer::Tap,
    }
}

fn removed(cleared: &Cleared, device: &str) -> Vec<String> {
    let changes = cleared.removed.iter().map(ToString::to_string);
    changes.chain(cleared.device_removed.then(|| format!("device {device}"))).collect()
}

/// An error of the platform says on its further lines what to do.
fn in_words(error: impl std::error::Error) -> Failure {
    let text = error.to_string();
    match text.split_once("\n    ") {
        Some((what, fix)) => Failure::bad_input(what, fix),
        None => Failure { code: crate::exit::BAD_INPUT, text, fix: None },
    }
}
