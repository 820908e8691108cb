//! Who has which address: what the nodes tell of their devices, who owns a floating address, and where two have one.
//!
//! Nothing here is asked for a packet but [`Owners`]; the rest is what the owners are made from.

use crate::control::{Claim, Listeners, MAX_CLAIMS};
use crate::peer::PeerIndex;
use crate::settings::EngineSettings;
use ipnet::Ipv4Net;
use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

/// Two nodes may have one address for this long while it moves from one to the other, before that is an alarm.
pub const ALARM_AFTER: Duration = Duration::from_secs(2);

/// The floating addresses of which nobody has one now, and whose epochs are remembered all the same.
const MOST_REMEMBERED: usize = 1024;

/// Who has a floating address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// This node.
    Own,
    /// A peer.
    Peer(PeerIndex),
}

/// Who has which floating address, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owners(Vec<(Ipv4Addr, Holder)>);

impl Owners {
    /// Who has the address.
    #[must_use]
    pub fn of(&self, address: Ipv4Addr) -> Option<Holder> {
        let place = self.0.binary_search_by_key(&address, |(address, _)| *address).ok()?;
        self.0.get(place).map(|(_, holder)| *holder)
    }

    /// All of them, in the order of the addresses.
    pub fn iter(&self) -> impl Iterator<Item = (Ipv4Addr, Holder)> + '_ {
        self.0.iter().copied()
    }
}

/// A node that may have told something, as it stands now.
#[derive(Clone, Copy, Debug)]
pub struct Teller<'a> {
    /// Its public key.
    pub public_key: &'a [u8; 32],
    /// Its name.
    pub name: &'a str,
    /// Its position in the table.
    pub index: PeerIndex,
    /// Its slot.
    pub slot: Ipv4Net,
    /// There is a session, and a path that carries.
    pub reachable: bool,
}

/// An address that more than one node has, or that a node has which it does not belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The address.
    pub address: Ipv4Addr,
    /// This node has it on its device.
    pub here: bool,
    /// The peers that have it on theirs, by name.
    pub peers: Vec<String>,
    /// Whose slot it is in.
    pub belongs: Belongs,
}

/// To whom an address belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// To this node's slot.
    Here,
    /// To the slot of the peer of that name.
    To(String),
    /// To a floating range.
    Floating,
}

/// Whether an epoch comes after another, as serial numbers do (RFC 1982, section 3.2): there is a later one to each, so that nobody can
/// claim an address once and for all.
fn is_later(epoch: u32, other: u32) -> bool {
    epoch.wrapping_sub(other) as i32 > 0
}

/// What became of what a node has told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// It was not known before.
    pub changed: bool,
    /// Claims to addresses that are not for it to have.
    pub refused: u64,
}

/// What another node has told.
#[derive(Debug, Default)]
struct Elsewhere {
    /// The sender's, since when its revisions count.
    epoch: u64,
    revision: u32,
    live: Vec<Ipv4Addr>,
    claims: Vec<Claim>,
}

/// What this node has, and what the others have told.
#[derive(Debug, Default)]
pub struct Shared {
    device: Vec<Ipv4Addr>,
    claims: Vec<Claim>,
    revision: u32,
    others: HashMap<[u8; 32], Elsewhere>,
    /// The highest epoch of each floating address that was ever seen.
    highest: BTreeMap<Ipv4Addr, u32>,
    conflicts: Vec<Standing>,
    buffer: Vec<u8>,
}

/// A conflict, since when it is known, and whether it has lasted.
#[derive(Debug)]
struct Standing {
    conflict: Conflict,
    since: Option<Instant>,
    alarmed: bool,
}

impl Shared {
    /// Takes what is on this node's device; whether that is news. An address that appears is claimed with one more than the
    /// highest epoch that was seen, and one that stays keeps its epoch.
    pub fn set_device(&mut self, settings: &EngineSettings, addresses: &[Ipv4Addr]) -> bool {
        let Some(slot) = settings.slot() else { return false };
        let mut device: Vec<_> =
            addresses.iter().copied().filter(|address| settings.overlay.contains(address)).collect();
        device.sort_unstable();
        device.dedup();
        let eligible = device.iter().copied().filter(|address| settings.may_hold(slot.net(), *address));
        let claims: Vec<_> = eligible
            .take(MAX_CLAIMS)
            .map(|address| {
                let kept = self.claims.iter().find(|claim| claim.address == address);
                let seen = self.highest.get(&address).copied().unwrap_or(0);
                kept.copied().unwrap_or(Claim { address, epoch: seen.wrapping_add(1) })
            })
            .collect();
        claims.iter().for_each(|claim| self.note_epoch(*claim));
        let changed = (&device, &claims) != (&self.device, &self.claims) || self.revision == 0;
        (self.device, self.claims) = (device, claims);
        self.revision += u32::from(changed);
        changed
    }

    /// The addresses on the device.
    #[must_use]
    pub fn device(&self) -> &[Ipv4Addr] {
        &self.device
    }

    /// Counts what this node has told; 0: nothing yet.
    #[must_use]
    pub fn revision(&self) -> u32 {
        self.revision
    }

    /// What this node tells.
    pub fn told(&mut self) -> Listeners<'_> {
        let claims = &self.claims;
        let live = self.device.iter().copied();
        let live = live.filter(|address| claims.iter().all(|claim| claim.address != *address));
        Listeners::new(self.revision, live, claims.iter().copied(), &mut self.buffer)
    }

    /// Takes what the node of `slot` has told. `epoch`: drawn when it started.
    pub fn hear(
        &mut self,
        settings: &EngineSettings,
        (public_key, slot): (&[u8; 32], Ipv4Net),
        epoch: u64,
        told: &Listeners<'_>,
    ) -> News {
        let known = self.others.entry(*public_key).or_default();
        if known.epoch == epoch && told.revision <= known.revision {
            return News::default();
        }
        (known.epoch, known.revision) = (epoch, told.revision);
        known.live.clear();
        known.live.extend(told.live().filter(|address| settings.overlay.contains(address)));
        let all = told.claims().count();
        known.claims.clear();
        known.claims.extend(told.claims().filter(|claim| settings.may_hold(slot, claim.address)));
        let refused = (all - known.claims.len()) as u64;
        told.claims().filter(|c| settings.may_hold(slot, c.address)).for_each(|claim| self.note_epoch(claim));
        News { changed: true, refused }
    }

    /// Forgets who is no peer any more.
    pub fn keep_only(&mut self, is_peer: impl Fn(&[u8; 32]) -> bool) {
        self.others.retain(|key, _| is_peer(key));
    }

    /// What a peer has told of the addresses of its slot, and of floating ones.
    #[must_use]
    pub fn listeners_of(&self, public_key: &[u8; 32], slot: Ipv4Net) -> Vec<Ipv4Addr> {
        let Some(told) = self.others.get(public_key) else { return Vec::new() };
        let live = told.live.iter().copied().filter(|address| slot.contains(address));
        let mut all: Vec<_> = live.chain(told.claims.iter().map(|claim| claim.address)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Who owns which floating address: a node that can be reached before one that cannot, then the later epoch, then the
    /// lower slot.
    pub fn elect<'a>(&self, settings: &EngineSettings, tellers: impl Iterator<Item = Teller<'a>>) -> Owners {
        let mut standing = Vec::new();
        if let Some(slot) = settings.slot() {
            let own = |claim: &Claim| (claim.address, slot.net().network(), true, claim.epoch, Holder::Own);
            standing.extend(self.claims.iter().map(own));
        }
        for teller in tellers {
            let Some(told) = self.others.get(teller.public_key) else { continue };
            // The ranges may have changed since it was told.
            for claim in told.claims.iter().filter(|claim| settings.may_hold(teller.slot, claim.address)) {
                let holder = Holder::Peer(teller.index);
                standing.push((claim.address, teller.slot.network(), teller.reachable, claim.epoch, holder));
            }
        }
        // By address and slot, the same for everybody: of more than two claims each may be later than the next.
        standing.sort_unstable_by_key(|(address, slot, ..)| (*address, *slot));
        let mut owners: Vec<(Ipv4Addr, Holder)> = Vec::new();
        let mut best = (false, 0);
        for (address, _, reachable, epoch, holder) in standing {
            match owners.last_mut().filter(|(of, _)| *of == address) {
                Some(owner) => {
                    let (held, since) = best;
                    if (reachable, held) == (true, false) || reachable == held && is_later(epoch, since) {
                        (*owner, best) = ((address, holder), (reachable, epoch));
                    }
                }
                None => {
                    owners.push((address, holder));
                    best = (reachable, epoch);
                }
            }
        }
        Owners(owners)
    }

    /// Finds the addresses that are where they should not be. What is told of nodes that cannot be reached counts for nothing.
    pub fn find_conflicts<'a>(
        &mut self,
        settings: &EngineSettings,
        tellers: impl Iterator<Item = Teller<'a>> + Clone,
    ) {
        let mut held: BTreeMap<Ipv4Addr, (bool, Vec<Teller<'a>>)> = BTreeMap::new();
        for address in &self.device {
            held.entry(*address).or_default().0 = true;
        }
        for teller in tellers.clone().filter(|teller| teller.reachable) {
            let Some(told) = self.others.get(teller.public_key) else { continue };
            for address in told.live.iter().chain(told.claims.iter().map(|claim| &claim.address)) {
                held.entry(*address).or_default().1.push(teller);
            }
        }
        let own = settings.slot().map(|slot| slot.net());
        let found = held.into_iter().filter_map(|(address, (here, peers))| {
            let floating = settings.floating_range(address).is_some();
            let belongs = if own.is_some_and(|slot| slot.contains(&address)) {
                Belongs::Here
            } else if floating {
                Belongs::Floating
            } else {
                Belongs::To(tellers.clone().find(|teller| teller.slot.contains(&address))?.name.to_owned())
            };
            let in_place =
                |slot: Ipv4Net| slot.contains(&address) || floating && settings.may_hold(slot, address);
            let own_fits = !here || own.is_some_and(in_place);
            let fits = own_fits && peers.iter().all(|peer| in_place(peer.slot));
            let peers: Vec<_> = peers.iter().map(|peer| peer.name.to_owned()).collect();
            (!fits || usize::from(here) + peers.len() > 1).then_some(Conflict {
                address,
                here,
                peers,
                belongs,
            })
        });
        let mut before = std::mem::take(&mut self.conflicts);
        self.conflicts = found
            .map(|conflict| match before.iter().position(|old| old.conflict.address == conflict.address) {
                Some(place) => Standing { conflict, ..before.swap_remove(place) },
                None => Standing { conflict, since: None, alarmed: false },
            })
            .collect();
    }

    /// The next conflict that has lasted and was not told of yet.
    pub fn next_alarm(&mut self, now: Instant) -> Option<Conflict> {
        self.conflicts.iter_mut().find_map(|standing| {
            let since = *standing.since.get_or_insert(now);
            if standing.alarmed || now.saturating_duration_since(since) < ALARM_AFTER {
                return None;
            }
            standing.alarmed = true;
            Some(standing.conflict.clone())
        })
    }

    /// The conflicts that have lasted.
    pub fn lasting(&self) -> impl Iterator<Item = &Conflict> {
        self.conflicts.iter().filter(|standing| standing.alarmed).map(|standing| &standing.conflict)
    }

    /// The epoch with which the owner of an address holds it.
    #[must_use]
    pub fn epoch(&self, address: Ipv4Addr, public_key: Option<&[u8; 32]>) -> Option<u32> {
        let claims = match public_key {
            None => &self.claims,
            Some(key) => &self.others.get(key)?.claims,
        };
        claims.iter().find(|claim| claim.address == address).map(|claim| claim.epoch)
    }

    fn note_epoch(&mut self, claim: Claim) {
        let highest = self.highest.entry(claim.address).or_insert(claim.epoch);
        if is_later(claim.epoch, *highest) {
            *highest = claim.epoch;
        }
        if self.highest.len() > MOST_REMEMBERED {
            let Self { highest, claims, others, .. } = self;
            let told = || others.values().flat_map(|told| &told.claims);
            highest.retain(|address, _| claims.iter().chain(told()).any(|claim| claim.address == *address));
        }
    }
}

#[cfg(test)]
#[path = "claim_tests.rs"]
mod tests;
