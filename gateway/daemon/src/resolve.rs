//! Endpoints: names are resolved in the background, and again when a peer is silent; a peer that roamed away and fell
//! silent is tried where the configuration says it is.
//!
//! Nothing here delays the start: DNS may come up after the tunnel that it needs.

use overlay_config::{Config, Endpoint};
use overlay_engine::Engine;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How often to look whether a peer is silent: it has no session. A session whose peer does not answer is soon none (the
/// engine sees to that); one on which nobody has anything to say is quiet for minutes, and its peer stays where it was heard.
const PACE: Duration = Duration::from_secs(1);

/// Between two questions for the same name; doubles up to the second.
const AGAIN: Duration = Duration::from_secs(1);
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);

/// An answer that takes longer than this is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Peers whose endpoint the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    public_key: [u8; 32],
    name: String,
    endpoint: Endpoint,
}

/// The peers of `config` that have an endpoint.
#[must_use]
pub fn named(config: &Config) -> Vec<Named> {
    let hubs = config.hubs.iter().map(|hub| (hub.public_key, &hub.name, Some(&hub.endpoint)));
    let peers = config.peers.iter().map(|peer| (peer.public_key, &peer.name, peer.endpoint.as_ref()));
    hubs.chain(peers)
        .filter_map(|(key, name, endpoint)| {
            Some(Named { public_key: key.0, name: name.clone(), endpoint: endpoint?.clone() })
        })
        .collect()
}

/// Looks after the endpoints of `peers` for ever. Names are asked for side by side: one that hangs holds up no other.
pub async fn run(engine: Arc<Engine>, peers: Vec<Named>) {
    let mut due: HashMap<[u8; 32], (Instant, Duration)> = HashMap::new();
    let mut lookups: JoinSet<([u8; 32], Option<SocketAddr>)> = JoinSet::new();
    let mut asked: HashSet<[u8; 32]> = HashSet::new();
    let mut pace = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            Some(found) = lookups.join_next() => {
                let Ok((public_key, address)) = found else { continue };
                asked.remove(&public_key);
                if let Some(address) = address {
                    engine.set_endpoint(&public_key, address);
                }
                continue;
            }
            _ = pace.tick() => {}
        }
        let now = Instant::now();
        let status: HashMap<_, _> =
            engine.peers().into_iter().map(|peer| (peer.peer.settings.public_key, peer.link)).collect();
        for peer in &peers {
            let Some(link) = status.get(&peer.public_key) else { continue };
            if link.session {
                due.remove(&peer.public_key);
                continue;
            }
            let (at, pause) = due.get(&peer.public_key).copied().unwrap_or((now, AGAIN));
            if now < at || !asked.insert(peer.public_key) {
                continue;
            }
            due.insert(peer.public_key, (now + pause, (pause * 2).min(AGAIN_AT_MOST)));
            let (peer, tried) = (peer.clone(), link.endpoint);
            lookups.spawn(async move { (peer.public_key, look_up(&peer, tried).await) });
        }
    }
}

/// Where the peer is now: of several addresses the one after `tried`, so that each has its turn.
async fn look_up(peer: &Named, tried: Option<SocketAddr>) -> Option<SocketAddr> {
    let (host, port) = match &peer.endpoint {
        Endpoint::Address(address) => return Some(*address),
        Endpoint::Name { host, port } => (host.as_str(), *port),
    };
    let addresses: Vec<SocketAddr> =
        match tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, port))).await {
            Ok(Ok(addresses)) => addresses.collect(),
            Ok(Err(error)) => {
                tracing::info!(peer = peer.name, host, %error, "endpoint is not resolved yet");
                return None;
            }
            Err(_) => {
                tracing::info!(peer = peer.name, host, "endpoint is not resolved yet: no answer");
                return None;
            }
        };
    next_of(&addresses, tried)
}

fn next_of(addresses: &[SocketAddr], tried: Option<SocketAddr>) -> Option<SocketAddr> {
    let at = addresses.iter().position(|address| Some(*address) == tried);
    let next = at.map_or(0, |at| (at + 1) % addresses.len());
    addresses.get(next).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_addresses_each_has_its_turn() {
        let [a, b]: [SocketAddr; 2] = [([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 1).into()];
        assert_eq!(next_of(&[a, b], None), Some(a));
        assert_eq!(next_of(&[a, b], Some(a)), Some(b));
        assert_eq!(next_of(&[a, b], Some(b)), Some(a));
        assert_eq!(next_of(&[a], Some(b)), Some(a));
        assert_eq!(next_of(&[], Some(b)), None);
    }
}
