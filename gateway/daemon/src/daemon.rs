//! The event loop of a node or hub: control requests, address changes, time and signals, one at a time.

mod end;
mod records;
mod reload;

use crate::cli::Global;
use crate::config_file::Origin;
use crate::control::Request;
use crate::control::server::{Call, ControlSocket};
use crate::control::{client, leaf};
use crate::exit::Failure;
use crate::gossip::{Gossip, Heard};
use crate::members::Members;
use crate::node::NodeSide;
use crate::pulse::{GLANCE, Pulses};
use crate::random;
use crate::resolve;
use crate::service::{HostEvent, Notice, Notices};
use crate::state::StateFolder;
use crate::status::{Facts, Listener, Status, Warning, address_conflict};
use crate::workers::{Queue, Spread, Workers};
use end::{End, Later, unless_ended};
use overlay_config::{Config, HostFacts, PrivateKey};
use overlay_engine::{Engine, Event, Output};
use overlay_platform::HostNet as _;
use overlay_platform::Transport as _;
use overlay_platform::os::{self, TunDevice, UdpTransport, connect_host, keep_underlay_outside};
use serde_json::{Value, json};
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Control requests that wait while one is served.
const CALLS: usize = 16;

/// How often the wall clock is written down.
const CLOCK_PACE: Duration = Duration::from_secs(60);

/// Events that are handled before other things have their turn.
const EVENTS_AT_ONCE: usize = 1024;

/// A device that is gone is opened again this often, until it works.
const REVIVAL_PACE: Duration = Duration::from_secs(1);

/// What was taken from the device is put back at most this often: somebody may take it away again each time.
const MENDING_PACE: Duration = Duration::from_secs(1);

/// Signed records that came through the overlay are written down at most this often.
const KEEPING_PACE: Duration = Duration::from_secs(1);

/// The host's own addresses in the underlay are looked up this often.
const LEARNING_PACE: Duration = Duration::from_secs(10);

/// What has been read and checked, with nothing changed on the host but locks and sockets taken.
#[derive(Debug)]
pub struct Prepared {
    /// The configuration in force: the file, and the members that signed records name.
    pub config: Config,
    /// The file.
    pub file: Config,
    /// The signed records.
    pub members: Members,
    /// Where it came from.
    pub origin: Origin,
    /// Name of the instance.
    pub instance: String,
    /// Its state folder.
    pub state: StateFolder,
    /// Its private key.
    pub key: PrivateKey,
    /// The underlay's sockets.
    pub transport: UdpTransport,
    /// What the operator should know.
    pub warnings: Vec<Warning>,
    control: ControlSocket,
    lock: File,
}

impl Prepared {
    /// Reads the configuration and takes what only one process may have: the state folder, the control socket, the port.
    ///
    /// # Errors
    /// Everything that stops a start: exit code 4.
    pub async fn new(
        mut origin: Origin,
        global: &Global,
        instance: impl Fn(&Config) -> String,
    ) -> Result<Self, Failure> {
        let host = host_facts().await?;
        let mut config = origin.load(&host)?;
        let instance = instance(&config);
        let state = StateFolder::new(global.state_dir.as_deref(), &instance);
        state.check()?;
        if config.private_key().is_none()
            && let Some(key) = state.key()?
        {
            origin.set_state_key(key);
            config = origin.load(&host)?;
        }
        for warning in &config.warnings {
            eprintln!("{warning}");
        }
        let mut warnings: Vec<Warning> = config.warnings.iter().map(Warning::from).collect();
        let path = global.control.clone().unwrap_or_else(|| leaf::place(&instance));
        refuse_second(&path)?;
        let listen = config.listen();
        let transport = UdpTransport::bind(listen.address, listen.port).map_err(|error| {
            let at = listen.address.map_or_else(
                || format!("UDP port {}", listen.port),
                |a| format!("{a}, UDP port {}", listen.port),
            );
            Failure::bad_input(
                format!("cannot listen on {at}: {error}"),
                format!("{}, or choose another with --listen PORT or listen_port", os::advice::PORT_HOLDER),
            )
        })?;
        state.create()?;
        let lock = state.lock()?;
        origin.seal_keys();
        let control = ControlSocket::bind(&path, config.control.group.as_deref())?;
        let key = match config.private_key() {
            Some(key) => key.clone(),
            None => {
                let key = state.make_key(random::key())?;
                origin.set_state_key(key.clone());
                key
            }
        };
        if let Some(behind) = state.clock_behind(SystemTime::now()) {
            let warning = Warning {
                code: "clock_behind".to_owned(),
                text: format!(
                    "the clock is {} s behind the last time that this service ran; peers that remember refuse its handshakes until it has caught up",
                    behind.as_secs()
                ),
                fix: os::advice::SET_CLOCK.to_owned(),
            };
            tracing::warn!("{}", warning.text);
            warnings.push(warning);
        }
        let mut members = Members::open(&config, &origin, &state);
        let file = config;
        let config = members.apply(&file);
        Ok(Self { config, file, members, origin, instance, state, key, transport, warnings, control, lock })
    }
}

/// A running node or hub.
#[derive(Debug)]
pub struct Daemon {
    /// In force: the file, and the members that signed records name.
    config: Config,
    file: Config,
    members: Members,
    gossip: Gossip,
    /// Signed records are not in force, because the host refused what follows from them.
    records_wait: bool,
    origin: Origin,
    instance: String,
    state: StateFolder,
    engine: Arc<Engine>,
    /// Serves the timers as well.
    transport: Arc<UdpTransport>,
    /// The other queues' sockets, on the same port.
    beside: Vec<Arc<UdpTransport>>,
    spread: Spread,
    since: Instant,
    warnings: Vec<Warning>,
    node: Option<NodeSide>,
    workers: Option<Workers>,
    /// What the packet threads show of themselves.
    pulses: Pulses,
    /// No packet thread hangs.
    healthy: Arc<AtomicBool>,
    resolver: JoinHandle<()>,
    failures: mpsc::UnboundedSender<&'static str>,
}

/// Runs until a signal or `down`. `node`: the device's side, already in place.
///
/// # Errors
/// When the packet path cannot start; when what was added cannot be removed.
pub async fn run(
    prepared: Prepared,
    engine: Arc<Engine>,
    node: Option<NodeSide>,
    persist: bool,
) -> Result<u8, Failure> {
    let Prepared {
        config, file, members, origin, instance, state, transport, warnings, control, lock, ..
    } = prepared;
    let (calls, mut called) = mpsc::channel::<Call>(CALLS);
    let (failures, mut failed) = mpsc::unbounded_channel();
    let mut notices = Notices::new().map_err(anyhow::Error::from)?;
    transport.set_max_datagram(largest_datagram(&config));
    engine.set_listen_port(transport.local_port());
    let spread = Spread::here(config.device.queues);
    let queues = node.as_ref().map_or(spread.queues, |node| node.queues().len());
    let beside = (1..queues).map(|_| transport.add_queue().map(Arc::new)).collect::<Result<_, _>>();
    let beside = beside.map_err(anyhow::Error::from)?;
    let transport = Arc::new(transport);
    if node.is_some() {
        // Ends with this thread's tasks.
        drop(tokio::task::spawn_local(keep_underlay_outside(
            Arc::clone(&transport),
            config.device.name.clone(),
        )));
    }
    let mut daemon = Daemon {
        resolver: tokio::task::spawn_local(resolve::run(Arc::clone(&engine), resolve::named(&config))),
        config,
        file,
        members,
        gossip: Gossip::default(),
        records_wait: false,
        origin,
        instance,
        state,
        engine,
        transport,
        beside,
        spread,
        since: Instant::now(),
        warnings,
        node,
        workers: None,
        pulses: Pulses::default(),
        healthy: Arc::new(AtomicBool::new(true)),
        failures,
    };
    daemon.start_workers()?;
    daemon.answer_revoked();
    let server = tokio::task::spawn_local(async move { control.serve(calls).await });
    // Exactly this, alone on a line: programs wait for it.
    eprintln!("ready");
    crate::service::notify_ready(&daemon.healthy);
    if let Some(device) = daemon.node.as_ref().and_then(|node| node.queues().first()) {
        crate::service::keep_carrier(device);
    }
    let mut out = Output::for_batch(64 * 1024, 64);
    let mut clock = tokio::time::interval(CLOCK_PACE);
    let mut revival = tokio::time::interval(REVIVAL_PACE);
    revival.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut mending = tokio::time::interval(MENDING_PACE);
    mending.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut keeping = tokio::time::interval(KEEPING_PACE);
    keeping.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut learning = tokio::time::interval(LEARNING_PACE);
    learning.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut watching = tokio::time::interval(GLANCE);
    watching.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut later = Later::default();
    let mut due = daemon.engine.poll_timeout(Instant::now());
    let end = loop {
        // Kept from round to round: what happens often (requests, address changes) must not put off what is due.
        due = due.min(daemon.engine.poll_timeout(Instant::now()));
        while let Some((request, answer)) = later.calls.pop_front() {
            let outcome = daemon.handle(request).await;
            let _ = answer.send(outcome);
        }
        if std::mem::take(&mut later.reload) {
            daemon.reload_by_notice().await;
        }
        tokio::select! {
            call = called.recv() => {
                let Some((request, answer)) = call else { break End::Signal };
                if request == Request::Down {
                    break End::Down(answer);
                }
                let outcome = daemon.handle(request).await;
                let _ = answer.send(outcome);
            }
            () = daemon.host_changed() => daemon.relearn().await,
            Some(what) = failed.recv() => daemon.lost(what),
            _ = revival.tick(), if daemon.workers.is_none() => {
                if let Some(end) = unless_ended(daemon.revive(), &mut notices, &mut called, &mut later).await {
                    break end;
                }
            }
            _ = mending.tick(), if daemon.node.as_ref().is_some_and(NodeSide::is_unsettled) => {
                if let Some(end) = unless_ended(daemon.mend(), &mut notices, &mut called, &mut later).await {
                    break end;
                }
            }
            _ = learning.tick() => daemon.learn_addresses().await,
            _ = watching.tick() => {
                daemon.watch();
                daemon.compare_records();
                if daemon.records_wait {
                    daemon.records_in_force().await;
                }
            }
            _ = keeping.tick(), if daemon.members.is_unkept() => daemon.members.keep(),
            () = tokio::time::sleep_until(due.into()) => {
                daemon.tick(&mut out);
                daemon.handle_events(&mut out).await;
                due = daemon.engine.poll_timeout(Instant::now());
            }
            _ = clock.tick() => {
                if let Err(error) = daemon.state.note_clock(SystemTime::now()) {
                    tracing::warn!(%error, "state folder");
                }
            }
            notice = notices.next() => match notice {
                Notice::Stop => break End::Signal,
                Notice::Reload => daemon.reload_by_notice().await,
            },
        }
    };
    if let End::Down(answer) = end {
        let outcome = daemon.stop(true, persist).await;
        let code = outcome.as_ref().map_or_else(|failure| failure.code, |_| crate::exit::OK);
        let _ = answer.send(outcome);
        // The answer is on its way through the server's task: let it leave before the socket goes.
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.abort();
        drop(lock);
        return Ok(code);
    }
    crate::service::notify_stopping();
    let outcome = daemon.stop(false, persist).await;
    server.abort();
    let _ = server.await;
    drop(lock);
    outcome.map(|_| crate::exit::OK)
}

impl Daemon {
    fn start_workers(&mut self) -> Result<(), Failure> {
        let devices = self.node.as_ref().map(NodeSide::queues).unwrap_or_default();
        let queues: Vec<_> = std::iter::once(&self.transport)
            .chain(&self.beside)
            .enumerate()
            .map(|(n, transport)| Queue::<TunDevice, UdpTransport> {
                engine: Arc::clone(&self.engine),
                // A device that was made anew may have fewer queues than the one before.
                device: devices.get(n).or(devices.first()).cloned(),
                reads_device: n < devices.len(),
                transport: Arc::clone(transport),
            })
            .collect();
        let failures = self.failures.clone();
        let workers = Workers::start(&queues, self.spread, &self.pulses, &move |what, error| {
            tracing::error!(%error, "the {what} failed");
            let _ = failures.send(what);
        });
        self.workers = Some(workers.map_err(anyhow::Error::from)?);
        Ok(())
    }

    fn tick(&self, out: &mut Output) {
        let messages = self.engine.timeout_messages();
        if out.net.room() < messages * 160 {
            *out = Output::for_batch(messages * 160, messages);
        }
        out.clear();
        self.engine.handle_timeout(Instant::now(), out);
        let whole = || if out.whole.is_empty() { Ok(0) } else { self.transport.send_whole(&out.whole) };
        if let Err(error) = self.transport.send_batch(&out.net).and_then(|_| whole()) {
            tracing::debug!(%error, "underlay");
        }
    }

    async fn handle(&mut self, request: Request) -> Result<Value, Failure> {
        match request {
            Request::Status => Ok(json!(self.status())),
            Request::PeerList => Ok(json!(self.status().peers)),
            Request::ListenerList => Ok(json!(self.listeners())),
            Request::ListenerAdd { address } => {
                let node = self.node.as_mut().ok_or_else(no_listeners)?;
                let listener = node.add_listener(&address, &self.state).await?;
                self.relearn().await;
                Ok(json!(listener))
            }
            Request::ListenerRemove { address } => {
                let node = self.node.as_mut().ok_or_else(no_listeners)?;
                // Refused from now on: between the host's and the engine's knowing, a connection would get no answer at all.
                self.engine.set_live(Some(node.live_without(&address)));
                let removed = node.remove_listener(&address, &self.state).await;
                self.relearn().await;
                Ok(json!(removed?))
            }
            Request::PeerAdd { records } => self.records_handed_over(&records, false).await,
            Request::PeerRemove { records } => self.records_handed_over(&records, true).await,
            Request::Drain { drain } => {
                if self.config.node().is_some() {
                    return Err(Failure::bad_input(
                        "a node has nobody to be left by",
                        "ask a hub's service, with --control PATH",
                    ));
                }
                self.engine.set_draining(drain);
                let told = self.engine.peers().iter().filter(|peer| peer.link.speaks).count();
                Ok(json!({ "draining": drain, "told": told }))
            }
            Request::Reload => self.reload().await,
            // Served by the event loop, which it ends.
            Request::Down => Ok(Value::Null),
        }
    }

    fn status(&self) -> Status {
        let facts = Facts {
            config: &self.config,
            instance: &self.instance,
            since: self.since,
            adopted: self.node.as_ref().is_some_and(NodeSide::adopted),
            driver: self
                .node
                .as_ref()
                .and_then(|node| node.queues().first())
                .and_then(|device| device.driver()),
            listeners: self.listeners(),
            warnings: self
                .warnings
                .iter()
                .cloned()
                .chain(self.members.warnings(Instant::now()))
                .chain(self.node.iter().flat_map(NodeSide::warnings))
                .chain((!self.healthy.load(Relaxed)).then(thread_hangs))
                .collect(),
            listen_port: self.transport.local_port(),
        };
        let mut status = Status::new(&self.engine, facts, Instant::now());
        status.drops.extend(self.drops_outside().map(|(reason, n)| (reason.to_owned(), n)));
        status
    }

    /// What did not pass the device and the underlay's sockets, by the names of `status --json`.
    fn drops_outside(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let underlay = self.transport.errors();
        let device = self.node.as_ref().and_then(|node| node.queues().first()).map(|device| device.drops());
        let device = device
            .into_iter()
            .flat_map(|drops| [("device_too_big", drops.too_big), ("device_not_taken", drops.not_taken)]);
        device.chain([
            ("underlay_unreachable", underlay.unreachable),
            ("underlay_refused", underlay.refused),
            ("underlay_too_big", underlay.too_big),
            ("underlay_no_buffer", underlay.no_buffer),
            ("underlay_forbidden", underlay.forbidden),
            ("underlay_no_socket", underlay.no_socket),
            ("underlay_received_bad", underlay.received_bad),
            ("underlay_other", underlay.other),
        ])
    }

    fn listeners(&self) -> Vec<Listener> {
        self.node.as_ref().map(NodeSide::listeners).unwrap_or_default()
    }

    async fn host_changed(&mut self) {
        match &mut self.node {
            Some(node) => node.changed().await,
            None => std::future::pending().await,
        }
    }

    /// Reads the device's addresses again and tells the engine.
    async fn relearn(&mut self) {
        let Some(node) = &mut self.node else { return };
        match node.relearn().await {
            Ok(live) => {
                self.engine.set_live(Some(live));
                node.forget_vanished(&self.state);
            }
            Err(error) => {
                tracing::warn!(%error, "the device's addresses cannot be read");
                self.engine.set_live(None);
            }
        }
        if node.is_gone() {
            self.lost("device");
        }
    }

    /// Looks whether the packet threads go round. While one does not, the service manager hears nothing more, and starts the service anew:
    /// a thread cannot be ended from outside, and what it has locked stays so.
    fn watch(&self) {
        match self.pulses.hung(Instant::now()) {
            Some((name, silent)) if self.healthy.swap(false, Relaxed) => {
                tracing::error!(
                    "the thread {name} has not gone round for {} s: packets may not flow; restart the service if its manager does not, \
                     and report this with the log",
                    silent.as_secs()
                );
                crate::service::hung();
            }
            Some(_) => {}
            None if !self.healthy.swap(true, Relaxed) => {
                tracing::warn!("all threads of the packet path go round again")
            }
            None => {}
        }
    }

    /// A part of the packet path has failed: it is started again by `revive`.
    fn lost(&mut self, what: &str) {
        if self.workers.take().is_some() {
            tracing::warn!("the {what} failed; starting the packet path again");
        }
        // A thread's own failure leaves the device alone: it keeps its carrier.
        if let Some(node) = self.node.as_mut().filter(|_| what == "device") {
            node.close();
            crate::service::tell(HostEvent::AdapterLost, &self.instance);
        }
    }

    async fn revive(&mut self) {
        if let Some(node) = self.node.as_mut().filter(|node| node.queues().is_empty())
            && let Err(failure) = node.reopen(&self.config, &self.state).await
        {
            tracing::warn!("{failure}");
            return;
        }
        if self.workers.is_none() {
            crate::service::tell(HostEvent::PathRestored, &self.instance);
        }
        self.relearn().await;
        if let Err(failure) = self.start_workers() {
            tracing::warn!("{failure}");
        }
    }

    /// Puts back what somebody took from the device.
    async fn mend(&mut self) {
        if let Some(node) = &mut self.node
            && let Err(failure) = node.mend(&self.config).await
        {
            tracing::warn!("{failure}");
        }
        self.relearn().await;
    }

    /// What the engine has to tell.
    async fn handle_events(&mut self, out: &mut Output) {
        let (mut records, mut refused, mut greeted) = (Vec::<(_, Vec<u8>)>::new(), Vec::new(), false);
        for event in std::iter::from_fn(|| self.engine.poll_event()).take(EVENTS_AT_ONCE) {
            match event {
                Event::PathChanged { peer, via, emergency } => {
                    let via = via.as_deref().unwrap_or("direct");
                    tracing::info!(peer, via, emergency, "path");
                }
                Event::HubChanged { hub, up } => {
                    tracing::info!(hub, up, "hub");
                    if let Some(hub) = self.config.hubs.iter().find(|known| up && known.name == hub) {
                        self.gossip.greeted(Instant::now(), hub.public_key.0);
                        greeted = true;
                    }
                }
                Event::FloatingMoved { address, to } => {
                    let to = to.as_deref().unwrap_or("nobody");
                    tracing::info!(%address, to, "floating address");
                }
                Event::AddressConflict(conflict) => {
                    let warning = address_conflict(&conflict, self.config.name());
                    tracing::warn!("{}; {}", warning.text, warning.fix);
                }
                Event::EndpointConfirmed { endpoint, .. } => tracing::debug!(%endpoint, "confirmed"),
                Event::Greeted { public_key } if self.keeps_records(&public_key) => {
                    self.gossip.greeted(Instant::now(), public_key);
                    greeted = true;
                }
                Event::Membership { public_key, bytes } if self.keeps_records(&public_key) => {
                    if let Some(book) = self.members.book() {
                        match self.gossip.heard(Instant::now(), book, public_key, &bytes) {
                            Some(Heard::Record(record)) => records.push((Some(public_key), record.to_vec())),
                            Some(Heard::Refused(claim)) => refused.push((public_key, claim.to_vec())),
                            None => {}
                        }
                    }
                }
                Event::Notice { record } if self.is_own_revocation(&record) => records.push((None, record)),
                Event::Greeted { .. } | Event::Membership { .. } | Event::Notice { .. } => {}
            }
        }
        for (from, claim) in refused {
            self.hear_refused(&from, &claim);
        }
        if greeted {
            self.compare_records();
        }
        if !records.is_empty() {
            self.records_arrived(&records).await;
        }
        self.send_gossip(out);
    }

    /// Tells the engine where in the underlay this host can be reached.
    async fn learn_addresses(&self) {
        if self.config.node().is_none() {
            return;
        }
        let Ok(facts) = host_facts().await else { return };
        let overlay = self.config.overlay.cidr;
        let usable = facts.addresses.iter().filter(|(device, net)| {
            let ip = net.addr();
            *device != self.config.device.name
                && !overlay.contains(&ip)
                && !ip.is_loopback()
                && !ip.is_link_local()
        });
        let port = self.transport.local_port();
        self.engine.set_local_addresses(usable.map(|(_, net)| (net.addr(), port).into()).collect());
    }

    async fn reload_by_notice(&mut self) {
        match self.reload().await {
            Ok(value) => tracing::info!(%value, "reloaded"),
            Err(failure) => tracing::warn!("not reloaded, and nothing was changed: {failure}"),
        }
    }

    /// `down`: everything goes; otherwise `persist` leaves it in place.
    async fn stop(&mut self, down: bool, persist: bool) -> Result<Value, Failure> {
        self.resolver.abort();
        self.workers = None;
        if self.members.is_unkept() {
            self.members.keep();
        }
        let _ = self.state.note_clock(SystemTime::now());
        let Some(mut node) = self.node.take() else { return Ok(json!({ "removed": [], "kept": [] })) };
        node.close();
        if down {
            self.state.clear_listeners();
        } else if persist {
            tracing::info!("{} stays in place for the next `up`", self.instance);
            return Ok(Value::Null);
        }
        node.clear(&self.state).await
    }
}

fn thread_hangs() -> Warning {
    Warning {
        code: "packet-thread-hangs".to_owned(),
        text: "a thread of the packet path does not go round: packets may not flow".to_owned(),
        fix: "restart the service, and report this with its log".to_owned(),
    }
}

/// The largest datagram that peers with the same configuration send: a packet as large as the MTU, sealed; at least a jumbo frame.
fn largest_datagram(config: &Config) -> usize {
    /// Bytes of an Ethernet jumbo frame's packet, rounded up.
    const JUMBO: usize = 9216;
    (usize::from(config.device.mtu) + overlay_engine::peer::tunnel::OVERHEAD).max(JUMBO)
}

/// Every address of the host, for the checks of a configuration.
///
/// # Errors
/// When the host cannot be asked.
async fn host_facts() -> Result<HostFacts, Failure> {
    let host = connect_host("lo").map_err(anyhow::Error::from)?;
    let addresses = host.addresses().await.map_err(anyhow::Error::from)?;
    Ok(HostFacts { addresses })
}

/// Says who runs already.
fn refuse_second(path: &std::path::Path) -> Result<(), Failure> {
    match client::ask(path, Request::Status) {
        Ok(status) => {
            let of = |name: &str| {
                status.get(name).map(|value| value.to_string().replace('"', "")).unwrap_or_default()
            };
            Err(Failure::bad_input(
                format!(
                    "overlay-gw already runs here: {} {}, process {}, at {}",
                    of("role"),
                    of("name"),
                    of("pid"),
                    path.display()
                ),
                "stop it with `overlay-gw down`, or run this one beside it with another --device",
            ))
        }
        Err(_) => Ok(()),
    }
}

fn no_listeners() -> Failure {
    Failure::bad_input(
        "a hub has no device, and so no listeners",
        "ask a node's service, with --control PATH",
    )
}
