//! The scenes: what is shown of the product, and when a step holds.

use super::probe::{self, Answers, Service};
use super::show::{Broken, Measured, Progress, Show, milliseconds};
use super::world::{Node, World};
use crate::control::Request;
use crate::status::{State, Status};
use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

/// The port of the service behind the listener: SQL Server's.
pub const SERVICE_PORT: u16 = 1433;

const ECHO_PORT: u16 = 7;
const STREAM_PORT: u16 = 5001;

/// Echo requests to each gateway.
const PINGS: u16 = 10;

/// Datagrams of each flow, their size in bytes, and the time between two.
const FLOW: (usize, usize, Duration) = (400, 1000, Duration::from_millis(1));

/// A flow holds with at most one datagram in this many lost: the machine may be busy with other things.
const TOLERATED: usize = 100;

/// Bytes of the TCP stream.
const STREAM: usize = 16 << 20;

/// What is said at once is said within this time. The machine may be busy: a timeout would take far longer.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Patience with what should happen soon.
const SOON: Duration = Duration::from_secs(10);

/// A destination in a documentation network (RFC 5737), which no route of the overlay covers.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 99);

/// Plays all scenes. The service behind the listener is returned: it goes on until it is dropped.
///
/// # Errors
/// The first step that does not hold.
pub fn play<W: Write>(world: &World, show: &mut Show<W>) -> Result<Service, Broken> {
    let [one, two, three] = world.nodes() else { return Err(Broken::failed("the demo has three nodes")) };
    show.step("every node has a session with the hub", |progress| sessions(world, progress))?;
    let (name, gateway) = (one.name(), one.slot.gateway());
    show.step(&format!("ping {name} > its gateway {gateway}"), |_| ping(world, one, gateway))?;
    for gateway in [two, three].map(|other| other.slot.gateway()) {
        show.step(&format!("ping {name} > hub > gateway {gateway}"), |_| ping(world, one, gateway))?;
    }
    for (from, to) in [(one, two), (two, three), (three, one)] {
        let name = format!("UDP {} > hub > {} {}", from.name(), to.name(), to.slot.address());
        show.step(&name, |progress| udp(world, from, to, progress))?;
    }
    let stream = format!("TCP {} > hub > {} {}", one.name(), three.name(), three.slot.address());
    show.step(&stream, |progress| tcp(world, one, three, progress))?;
    show.step(&format!("connect {name} > {NOWHERE}"), |_| nowhere(one))?;
    listener(one, two, show)
}

fn sessions<W: Write>(world: &World, progress: &Progress<'_, W>) -> Result<Measured, Broken> {
    let start = Instant::now();
    let count = world.nodes().len();
    loop {
        let mut with = 0;
        for node in world.nodes() {
            with += usize::from(status(&node.ask(Request::Status)?)?.state == State::Ok);
        }
        progress.say(&format!("{with} of {count}"));
        let time = start.elapsed();
        if with == count {
            return Ok(Measured::new(format!("{with} of {count}, after {} ms", time.as_millis()))
                .with("sessions", with)
                .with("after_ms", milliseconds(time)));
        }
        if time > SOON {
            return Err(Broken::failed(format!("only {with} of {count} after {} s", SOON.as_secs())));
        }
        world.interrupt().sleep(Duration::from_millis(10))?;
    }
}

fn ping(world: &World, from: &Node, to: Ipv4Addr) -> Result<Measured, Broken> {
    let answers = probe::ping(from.namespace(), to, PINGS, world.interrupt())?;
    match answers.lost() {
        0 => Ok(measured(&answers)),
        _ => Err(Broken::failed(answers.to_string())),
    }
}

fn udp<W: Write>(
    world: &World,
    from: &Node,
    to: &Node,
    progress: &Progress<'_, W>,
) -> Result<Measured, Broken> {
    let at = SocketAddr::from((to.slot.address(), ECHO_PORT));
    let _echo = Service::udp_echo(to.namespace(), at)?;
    let before = relayed(world, from)?;
    let (count, ..) = FLOW;
    let told = |sent: usize| progress.say(&format!("{sent} of {count} sent"));
    let answers = probe::udp_flow((from.namespace(), at), FLOW, world.interrupt(), &told)?;
    let carried = relayed(world, from)?.saturating_sub(before);
    if answers.lost() * TOLERATED > answers.sent {
        return Err(Broken::failed(format!("too many lost: {answers}")));
    }
    if carried < answers.round_trips.len() as u64 {
        return Err(Broken::failed(format!(
            "{answers}, but the hub saw only {carried} packets of {}",
            from.name()
        )));
    }
    Ok(measured(&answers).with("hub_packets", carried))
}

/// How many packets the hub has had from `node`: what shows that traffic went through it.
fn relayed(world: &World, node: &Node) -> Result<u64, Broken> {
    let status = status(&world.hub().ask(Request::Status)?)?;
    let peer = status.peers.iter().find(|peer| peer.name == node.name());
    peer.map(|peer| peer.rx_packets + peer.forwarded_packets)
        .ok_or_else(|| Broken::failed(format!("the hub does not know {}", node.name())))
}

fn tcp<W: Write>(
    world: &World,
    from: &Node,
    to: &Node,
    progress: &Progress<'_, W>,
) -> Result<Measured, Broken> {
    let at = SocketAddr::from((to.slot.address(), STREAM_PORT));
    let told = |sent: usize| progress.say(&format!("{} of {} MiB", sent >> 20, STREAM >> 20));
    let time = probe::tcp_transfer(from.namespace(), (to.namespace(), at), STREAM, world.interrupt(), &told)?;
    let mbit_s = STREAM as f64 * 8.0 / 1e6 / time.as_secs_f64();
    Ok(Measured::new(format!("{} MiB intact, {mbit_s:.0} Mbit/s", STREAM >> 20))
        .with("bytes", STREAM)
        .with("seconds", time.as_secs_f64())
        .with("mbit_s", mbit_s.round()))
}

fn nowhere(from: &Node) -> Result<Measured, Broken> {
    let attempt = probe::connect(from.namespace(), SocketAddr::from((NOWHERE, 443)), SOON)?;
    let told = matches!(&attempt.outcome, Err(error)
        if matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable));
    let mut measured = at_once(told, "unreachable", &attempt)?;
    measured.text.push_str(": no route covers it");
    Ok(measured)
}

/// A listener of `one`, seen from `two`: refused, added, reached, removed, refused. The service behind it runs all along.
fn listener<W: Write>(one: &Node, two: &Node, show: &mut Show<W>) -> Result<Service, Broken> {
    let address = one.slot.listeners().next().ok_or_else(|| Broken::failed("the slot has no listener"))?;
    let at = SocketAddr::from((address, SERVICE_PORT));
    let service = Service::greeter(one.namespace(), SERVICE_PORT, one.name())?;
    let connect = format!("connect {} > hub > {at}", two.name());
    show.step(&connect, |_| {
        let attempt = probe::connect(two.namespace(), at, SOON)?;
        at_once(attempt.is_refused(), "refused", &attempt)
    })?;
    show.step(&format!("overlay-gw listener add {address}"), |_| {
        let request = Request::ListenerAdd { address: address.to_string() };
        let (took, _) = change(one, two, at, request, |attempt| attempt.outcome.is_ok())?;
        Ok(Measured::new(format!("reached from {} within {:.1} ms", two.name(), milliseconds(took)))
            .with("effective_ms", milliseconds(took)))
    })?;
    show.step(&connect, |_| {
        let mut attempt = probe::connect(two.namespace(), at, SOON)?;
        let mut measured = at_once(attempt.outcome.is_ok(), "connected", &attempt)?;
        let greeting = attempt.greeting().unwrap_or_default();
        if greeting != probe::greeting(one.name(), at) {
            return Err(Broken::failed(format!("connected, and heard {greeting:?}")));
        }
        measured.text.push_str(&format!(", \"{}\"", greeting.trim()));
        Ok(measured)
    })?;
    show.step(&format!("overlay-gw listener remove {address}"), |_| {
        let request = Request::ListenerRemove { address: address.to_string() };
        let (took, _) = change(one, two, at, request, probe::Attempt::is_refused)?;
        Ok(Measured::new(format!("refused again within {:.1} ms", milliseconds(took)))
            .with("effective_ms", milliseconds(took)))
    })?;
    Ok(service)
}

/// Asks `one` for a change while `two` connects again and again, and tells how long after the request it sees what is
/// `wanted`.
fn change(
    one: &Node,
    two: &Node,
    at: SocketAddr,
    request: Request,
    wanted: fn(&probe::Attempt) -> bool,
) -> Result<(Duration, probe::Attempt), Broken> {
    thread::scope(|scope| {
        let watch = scope.spawn(|| probe::connect_until(two.namespace(), at, SOON, wanted));
        // The other side is at it when the change comes.
        thread::sleep(Duration::from_millis(30));
        let asked = Instant::now();
        let answer = one.ask(request);
        let seen = watch.join().map_err(|_| Broken::failed("the connecting thread panicked"))??;
        answer?;
        let seen = seen.ok_or_else(|| Broken::failed(format!("no effect within {} s", SOON.as_secs())))?;
        let took = seen.at.checked_duration_since(asked);
        Ok((took.ok_or_else(|| Broken::failed("it was so before it was asked for"))?, seen))
    })
}

fn at_once(held: bool, what: &str, attempt: &probe::Attempt) -> Result<Measured, Broken> {
    let took = milliseconds(attempt.took);
    match (held, attempt.took <= AT_ONCE) {
        (true, true) => Ok(Measured::new(format!("{what} within {took:.1} ms")).with("after_ms", took)),
        (true, false) => Err(Broken::failed(format!("{what} only after {took:.1} ms"))),
        (false, _) => Err(Broken::failed(format!("not {what} but: {}, after {took:.1} ms", attempt.words()))),
    }
}

fn measured(answers: &Answers) -> Measured {
    let mut measured = Measured::new(answers.to_string());
    for (name, value) in answers.values() {
        measured = measured.with(name, value);
    }
    measured
}

fn status(value: &serde_json::Value) -> Result<Status, Broken> {
    serde::Deserialize::deserialize(value).map_err(|error| Broken::failed(format!("status: {error}")))
}
