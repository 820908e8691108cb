//! The ledger: every packet that a host sent, and what it may, must and must not become.

use crate::net::PartyId;
use crate::packet::{Kind, Seen, port};
use crate::party::Party;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What is promised of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Nothing: the network may lose it.
    None,
    /// It arrives.
    Arrives,
    /// Its sender is told that nobody is there.
    Refused,
    /// It is answered (a ping to a gateway).
    Answered,
}

/// A packet that a host sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub from: PartyId,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    pub kind: Kind,
    pub at: Duration,
    pub promise: Promise,
    /// Of a stream of beats, to this party.
    pub beat: Option<PartyId>,
    pub arrived: Option<Duration>,
    pub refused: bool,
    pub answered: bool,
}

/// What was sent.
#[derive(Debug, Default)]
pub struct Ledger {
    sent: HashMap<u64, Sent>,
    /// By what an ICMP error shows of it: addresses and port.
    by_flow: HashMap<(Ipv4Addr, Ipv4Addr, u16), u64>,
    next: u64,
    /// How many packets arrived.
    pub arrived: u64,
}

/// A packet that arrived, for the first time.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    pub from: PartyId,
    pub beat: Option<PartyId>,
    pub sent_at: Duration,
}

impl Ledger {
    pub fn next_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub fn record(&mut self, id: u64, sent: Sent) {
        self.by_flow.insert((sent.source, sent.destination, port(id)), id);
        self.sent.insert(id, sent);
    }

    /// A packet came out of the tunnel at a host. What is wrong with that, if anything is.
    pub fn received(
        &mut self,
        now: Duration,
        at: PartyId,
        parties: &[Party],
        seen: &Seen,
    ) -> Result<Option<Arrival>, String> {
        match seen {
            Seen::Strange(what) => Err(format!("came out of the tunnel, and nobody sent it: {what}")),
            Seen::Probe { id, source, destination } => {
                let Some(sent) = self.sent.get_mut(id) else {
                    return Err(format!("packet {id} came out of the tunnel, and nobody sent it"));
                };
                if (sent.source, sent.destination) != (*source, *destination) {
                    return Err(format!("packet {id} arrived as {source} > {destination}: {sent:?}"));
                }
                if !parties[sent.from].may_have(*source) {
                    return Err(format!("a packet from a foreign slot was delivered: {sent:?}"));
                }
                if !parties[at].may_have(*destination) {
                    return Err(format!("packet {id} for {destination} was delivered here: {sent:?}"));
                }
                if !parties[at].live.contains(destination) {
                    return Err(format!("packet {id} was delivered to {destination}, which is offline"));
                }
                if let Some(before) = sent.arrived.replace(now) {
                    return Err(format!("packet {id} arrived twice, first at {before:.6?}: {sent:?}"));
                }
                self.arrived += 1;
                Ok(Some(Arrival { from: sent.from, beat: sent.beat, sent_at: sent.at }))
            }
            Seen::Echo { id, source, destination } => {
                let Some(sent) = self.sent.get_mut(id).filter(|sent| sent.kind == Kind::Ping) else {
                    return Err(format!("an answer to ping {id}, which nobody sent"));
                };
                if (sent.source, sent.destination) != (*destination, *source) || sent.from != at {
                    return Err(format!("{source} answered {destination} here: {sent:?}"));
                }
                if std::mem::replace(&mut sent.answered, true) {
                    return Err(format!("ping {id} was answered twice: {sent:?}"));
                }
                Ok(None)
            }
            Seen::Refusal { from, to, about, port } => {
                let id = self.by_flow.get(&(*to, *about, *port));
                let Some(sent) = id.and_then(|id| self.sent.get_mut(id)) else {
                    return Err(format!("{from} refuses {to} > {about} port {port}, which nobody sent"));
                };
                if sent.from != at {
                    return Err(format!("a refusal by {from} came to another host: {sent:?}"));
                }
                sent.refused = true;
                Ok(None)
            }
        }
    }

    /// The first promise that was not kept.
    pub fn broken(&mut self) -> Option<String> {
        let mut broken: Vec<_> = self
            .sent
            .iter_mut()
            .filter_map(|(id, sent)| {
                let kept = match sent.promise {
                    Promise::None => true,
                    Promise::Arrives => sent.arrived.is_some(),
                    Promise::Refused => sent.refused,
                    Promise::Answered => sent.answered,
                };
                let promise = std::mem::replace(&mut sent.promise, Promise::None);
                (!kept).then(|| (*id, format!("packet {id} was promised: {promise:?}, and is not: {sent:?}")))
            })
            .collect();
        broken.sort();
        broken.into_iter().next().map(|(_, text)| text)
    }
}
